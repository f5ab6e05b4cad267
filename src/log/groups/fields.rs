//! The fields that commands, responses and snapshots of groups are made of.
//!
//! Numbers are little endian, a text has its length in a byte before it. Pure; reading never panics,
//! and takes no more memory than there are bytes.

use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};

use super::options::GroupOptions;
use crate::log::name::NAME_BYTES_MAX;

/// The bytes are cut short, too many, or not what they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unreadable;

/// What is left to read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn u8(&mut self) -> Result<u8, Unreadable> {
        self.0.try_get_u8().map_err(|_| Unreadable)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Unreadable> {
        self.0.try_get_u32_le().map_err(|_| Unreadable)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Unreadable> {
        self.0.try_get_u64_le().map_err(|_| Unreadable)
    }

    pub(super) fn millis(&mut self) -> Result<Duration, Unreadable> {
        self.u64().map(Duration::from_millis)
    }

    pub(super) fn text(&mut self) -> Result<String, Unreadable> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        let text = std::str::from_utf8(text).map_err(|_| Unreadable)?.to_owned();
        self.0 = rest;
        Ok(text)
    }

    pub(super) fn options(&mut self) -> Result<GroupOptions, Unreadable> {
        let (ack_timeout, session_timeout) = (self.millis()?, self.millis()?);
        let (tries_max, pending_max) = (self.u32()?, self.u32()?);
        let (member_pending_max, dead_max) = (self.u32()?, self.u32()?);
        Ok(GroupOptions {
            ack_timeout,
            session_timeout,
            tries_max,
            pending_max,
            member_pending_max,
            dead_max,
        })
    }

    /// A count and as many items. Nothing is reserved on the word of the count.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, Unreadable> {
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable) }
    }
}

pub(super) fn put_millis(out: &mut BytesMut, time: Duration) {
    out.put_u64_le(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}

/// Names are checked where they come in; one that is too long anyway becomes none, which is refused.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);
    let length = u8::try_from(text.len()).unwrap_or(0);
    out.put_u8(length);
    out.put_slice(&text.as_bytes()[..usize::from(length)]);
}

pub(super) fn put_options(out: &mut BytesMut, options: &GroupOptions) {
    put_millis(out, options.ack_timeout);
    put_millis(out, options.session_timeout);
    for number in
        [options.tries_max, options.pending_max, options.member_pending_max, options.dead_max]
    {
        out.put_u32_le(number);
    }
}

pub(super) fn put_list<T>(out: &mut BytesMut, items: &[T], item: impl Fn(&mut BytesMut, &T)) {
    // Lists are bounded far below by `BATCH_MAX` and the limits of a group.
    out.put_u32_le(u32::try_from(items.len()).unwrap_or(u32::MAX));
    items.iter().for_each(|each| item(out, each));
}
