//! The groups of a topic as bytes, for the snapshot of the topic.
//!
//! ```text
//! groups     version u8 | group list, by name
//! group      name text | id u64 | options | next u64 | deliveries u64 | wheel | wheel | counts
//!            | member list | in flight list | available list | delayed list | dead list
//! wheel      round u64 | turning u8              of deliveries, then of members
//! member     id u64 | name text | round u64
//! in flight  tried | member u64 | round u64
//! available  tried                               dead as well
//! delayed    tried | round u64
//! tried      offset u64 | tries u32 | delivery u64
//! list       count u32 | items, by what they begin with
//! ```
//!
//! Pure; what is read is checked, since a state that cannot be would not be found out later. Equal
//! groups give equal bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::{Input, Unreadable, put_list, put_options, put_text};
use super::group::{Delayed, InFlight, Member, State, Tried};
use super::options::{GROUPS_MAX, MEMBERS_MAX, check_name};
use super::response::Counts;
use super::wheel::Wheel;
use super::{GroupMap, Groups};
use crate::replica::InvalidSnapshot;

/// The version of the format.
const VERSION: u8 = 1;

pub(super) fn encode(groups: &GroupMap) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    let groups: Vec<_> = groups.iter().collect();
    put_list(&mut out, &groups, |out, (name, group)| put_group(out, name, group));
    out.freeze()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Groups, InvalidSnapshot> {
    let mut input = Input(bytes);
    if input.u8().ok() != Some(VERSION) {
        return Err(InvalidSnapshot::new("unknown version of the groups"));
    }
    let groups = input.list(read_group).and_then(|groups| input.finish().map(|()| groups));
    let groups = groups.map_err(|Unreadable| InvalidSnapshot::new("groups are cut short"))?;
    let in_order = groups.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !in_order || groups.len() > GROUPS_MAX {
        return Err(InvalidSnapshot::new("groups are not in order, or too many"));
    }
    if !groups.iter().all(|(name, group)| check_name(name).is_ok() && is_possible(group)) {
        return Err(InvalidSnapshot::new("impossible group"));
    }
    let groups = groups.into_iter().map(|(name, group)| (name, Arc::new(group)));
    Ok(Groups { groups: groups.collect() })
}

fn put_group(out: &mut BytesMut, name: &str, group: &State) {
    put_text(out, name);
    out.put_u64_le(group.id);
    put_options(out, &group.options);
    out.put_u64_le(group.next);
    out.put_u64_le(group.deliveries);
    for wheel in [group.delivery_wheel, group.member_wheel] {
        out.put_u64_le(wheel.round);
        out.put_u8(u8::from(wheel.is_turning));
    }
    group.counts.numbers().into_iter().for_each(|number| out.put_u64_le(number));
    put_map(out, &group.members, |out, id, member| {
        out.put_u64_le(id);
        put_text(out, &member.name);
        out.put_u64_le(member.round);
    });
    put_map(out, &group.in_flight, |out, offset, record| {
        put_tried(out, offset, record.tried);
        out.put_u64_le(record.member);
        out.put_u64_le(record.round);
    });
    put_map(out, &group.available, |out, offset, tried| put_tried(out, offset, *tried));
    put_map(out, &group.delayed, |out, offset, record| {
        put_tried(out, offset, record.tried);
        out.put_u64_le(record.round);
    });
    put_map(out, &group.dead, |out, offset, tried| put_tried(out, offset, *tried));
}

fn put_map<T>(out: &mut BytesMut, map: &BTreeMap<u64, T>, item: impl Fn(&mut BytesMut, u64, &T)) {
    let items: Vec<_> = map.iter().collect();
    put_list(out, &items, |out, (key, value)| item(out, **key, value));
}

fn put_tried(out: &mut BytesMut, offset: u64, tried: Tried) {
    out.put_u64_le(offset);
    out.put_u32_le(tried.tries);
    out.put_u64_le(tried.delivery);
}

fn read_group(input: &mut Input<'_>) -> Result<(String, State), Unreadable> {
    let name = input.text()?;
    let (id, options, next) = (input.u64()?, input.options()?, input.u64()?);
    let mut group = State::new(id, options, next);
    group.deliveries = input.u64()?;
    group.delivery_wheel = read_wheel(input)?;
    group.member_wheel = read_wheel(input)?;
    group.counts = Counts::read(input)?;
    group.members = read_map(input, |input| {
        let (id, name) = (input.u64()?, input.text()?);
        Ok((id, Member { name, round: input.u64()?, in_flight: 0 }))
    })?;
    group.in_flight = read_map(input, |input| {
        let (offset, tried) = read_tried(input)?;
        let (member, round) = (input.u64()?, input.u64()?);
        Ok((offset, InFlight { member, tried, round }))
    })?;
    for record in group.in_flight.values() {
        group.members.get_mut(&record.member).ok_or(Unreadable)?.in_flight += 1;
    }
    group.available = read_map(input, read_tried)?;
    group.delayed = read_map(input, |input| {
        let (offset, tried) = read_tried(input)?;
        Ok((offset, Delayed { tried, round: input.u64()? }))
    })?;
    group.dead = read_map(input, read_tried)?;
    Ok((name, group))
}

fn read_wheel(input: &mut Input<'_>) -> Result<Wheel, Unreadable> {
    let round = input.u64()?;
    match input.u8()? {
        turning @ (0 | 1) => Ok(Wheel { round, is_turning: turning == 1 }),
        _ => Err(Unreadable),
    }
}

fn read_tried(input: &mut Input<'_>) -> Result<(u64, Tried), Unreadable> {
    let offset = input.u64()?;
    Ok((offset, Tried { tries: input.u32()?, delivery: input.u64()? }))
}

/// Items with keys that ascend, as they were written.
fn read_map<T>(
    input: &mut Input<'_>,
    mut item: impl FnMut(&mut Input<'_>) -> Result<(u64, T), Unreadable>,
) -> Result<BTreeMap<u64, T>, Unreadable> {
    let items = input.list(|input| item(input))?;
    let in_order = items.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if in_order { Ok(items.into_iter().collect()) } else { Err(Unreadable) }
}

/// Whether commands could have made this group.
fn is_possible(group: &State) -> bool {
    let State { options, in_flight, available, delayed, dead, members, .. } = group;
    let offsets =
        [in_flight.keys().collect(), available.keys().collect(), delayed.keys().collect()];
    let mut offsets: Vec<&u64> = offsets.into_iter().flat_map(|keys: Vec<_>| keys).collect();
    offsets.extend(dead.keys());
    let count = offsets.len();
    offsets.sort_unstable();
    offsets.dedup();
    let are_known = offsets.len() == count && offsets.last().is_none_or(|last| **last < group.next);

    let with_members = in_flight.values().map(|record| &record.tried);
    let waiting = available.values().chain(delayed.values().map(|record| &record.tried));
    let tried = with_members.clone().chain(waiting.clone()).chain(dead.values());
    let are_numbered = tried.into_iter().all(|tried| {
        tried.tries <= options.tries_max && (1..=group.deliveries).contains(&tried.delivery)
    });
    let are_tried = with_members.clone().all(|tried| tried.tries > 0);
    let may_be_tried = waiting.into_iter().all(|tried| tried.tries < options.tries_max);
    let wheels = [group.delivery_wheel.round, group.member_wheel.round];
    let counters = [group.id, group.next, group.deliveries].into_iter().chain(wheels);
    let mut counters = counters.chain(group.counts.numbers());
    let have_room = counters.all(|counter| counter < u64::MAX / 2);
    let pending_max = u64::from(options.pending_max);

    let names: BTreeSet<_> = members.values().map(|member| &member.name).collect();
    let are_members = members.len() <= MEMBERS_MAX
        && names.len() == members.len()
        && names.iter().all(|name| check_name(name).is_ok())
        && members.values().all(|member| member.in_flight <= options.member_pending_max);
    let turns = !in_flight.is_empty() || !delayed.is_empty();
    options.check().is_ok()
        && are_known
        && are_numbered
        && are_tried
        && may_be_tried
        && have_room
        && are_members
        && group.pending() <= pending_max
        && group.delivery_wheel.is_turning == turns
        && group.member_wheel.is_turning != members.is_empty()
}
