//! The snapshots on disk: which are kept, from where on the log is needed, which one is offered.
//!
//! A machine that keeps everything itself needs two: the newest, and one before it in case the
//! newest is damaged. A machine that refers to the log needs entries that are older than both of
//! them, and a replica that begins with a snapshot must get all of these as well. So one is kept
//! from before the oldest entry that the machine refers to, its floor, and that one is offered:
//!
//! ```text
//!        S0        floor        S1          S2          S3       now
//! -------|-----------|----------|-----------|-----------|---------> log
//!        forgotten up to here   kept, so that one of them is the next S0
//! ```
//!
//! By the time a replica that began with S0 has applied everything that was there when it began, its
//! log has all that the machine refers to: what it does not refer to any more was let go by commands,
//! and a floor never falls.
//!
//! Those in between only decide how soon space comes back, so they are thinned out.
//!
//! Pure. Invariant: in the order of their indexes, without two of one index.

use crate::consensus::Snapshot;
use crate::wal::Point;

/// Snapshots that are kept. Further ones are left out where they lie closest.
const KEPT_MAX: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    point: Point,
    /// What its file is, once somebody has looked whether it is whole.
    file: Option<Snapshot>,
}

/// What followers can be offered.
#[derive(Debug, PartialEq)]
pub(super) enum Offered<'a> {
    /// Nothing: whatever there is lacks entries that the machine refers to.
    Nothing,
    /// A snapshot, if it is found to be whole.
    Unseen(Point),
    /// A snapshot.
    Whole(&'a Snapshot),
}

impl Shelf {
    pub(super) fn new(older: Vec<Point>, newest: Option<Snapshot>) -> Self {
        let mut kept: Vec<_> = older.into_iter().map(|point| Kept { point, file: None }).collect();
        kept.extend(newest.map(|file| Kept { point: file.point, file: Some(file) }));
        assert!(kept.is_sorted_by(|a, b| a.point.index < b.point.index), "snapshots in order");
        Self { kept }
    }

    /// Adds the newest one, in place of one at the same point.
    pub(super) fn put(&mut self, snapshot: Snapshot) {
        let point = snapshot.point;
        self.kept.retain(|kept| kept.point.index < point.index);
        self.kept.push(Kept { point, file: Some(snapshot) });
    }

    /// Forgets all but this one: the log begins after it.
    pub(super) fn begin_with(&mut self, snapshot: Snapshot) {
        self.kept.clear();
        self.put(snapshot);
    }

    /// Lets go what is needed no more. Returns after which snapshot the log may begin, if there is
    /// one.
    pub(super) fn tidy(&mut self, floor: Option<u64>) -> Option<Point> {
        let base = self.base(floor);
        self.kept.drain(..base.unwrap_or(0));
        while self.kept.len() > KEPT_MAX {
            // The first and the last two have their uses, whatever lies around them.
            let between = 1..self.kept.len() - 2;
            let gap = |at: &usize| self.kept[at + 1].point.index - self.kept[at - 1].point.index;
            let Some(closest) = between.min_by_key(gap) else { break };
            self.kept.remove(closest);
        }
        base.map(|_| self.kept[0].point)
    }

    /// Whether [`Self::tidy`] would let the log go on later than before.
    pub(super) fn is_untidy(&self, floor: Option<u64>) -> bool {
        self.base(floor).is_some_and(|base| base > 0)
    }

    /// What a follower needs that lacks entries: the newest from which on the log has everything
    /// that the machine refers to.
    pub(super) fn offered(&self, floor: Option<u64>) -> Offered<'_> {
        match self.below(floor).map(|at| &self.kept[at]) {
            Some(Kept { file: Some(snapshot), .. }) => Offered::Whole(snapshot),
            Some(Kept { point, file: None }) => Offered::Unseen(*point),
            None => Offered::Nothing,
        }
    }

    /// What the file at this point is, if that is known.
    pub(super) fn file(&self, point: Point) -> Option<&Snapshot> {
        self.kept.iter().find(|kept| kept.point == point)?.file.as_ref()
    }

    /// Somebody found the file damaged: it has to be looked at again.
    pub(super) fn suspect(&mut self, point: Point) {
        self.set_file(point, None);
    }

    /// The file was looked at, and is whole.
    pub(super) fn found(&mut self, snapshot: Snapshot) {
        self.set_file(snapshot.point, Some(snapshot));
    }

    /// The file was looked at, and is damaged.
    pub(super) fn lost(&mut self, point: Point) {
        self.kept.retain(|kept| kept.point != point);
    }

    /// All of them.
    pub(super) fn points(&self) -> impl Iterator<Item = Point> + '_ {
        self.kept.iter().map(|kept| kept.point)
    }

    fn set_file(&mut self, point: Point, file: Option<Snapshot>) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.point == point) {
            kept.file = file;
        }
    }

    /// The one after which the log may begin: not after the one before the newest, so that a
    /// damaged newest one loses nothing, and not after the floor.
    fn base(&self, floor: Option<u64>) -> Option<usize> {
        let before_newest = self.kept.len().checked_sub(2)?;
        Some(self.below(floor)?.min(before_newest))
    }

    fn below(&self, floor: Option<u64>) -> Option<usize> {
        self.kept.iter().rposition(|kept| floor.is_none_or(|floor| kept.point.index < floor))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::consensus::membership::Membership;

    fn point(index: u64) -> Point {
        Point { index, term: 1 }
    }

    fn snapshot(index: u64) -> Snapshot {
        Snapshot { point: point(index), membership: Membership::none(), bytes: 1, checksum: 2 }
    }

    fn indexes(shelf: &Shelf) -> Vec<u64> {
        shelf.points().map(|point| point.index).collect()
    }

    fn shelf(indexes: impl IntoIterator<Item = u64>) -> Shelf {
        let mut shelf = Shelf::default();
        indexes.into_iter().for_each(|index| shelf.put(snapshot(index)));
        shelf
    }

    /// A map needs its newest snapshot, and one more in case that is damaged.
    #[test]
    fn without_a_floor_two_are_kept_and_the_newest_is_offered() {
        let mut shelf = shelf([10]);
        assert_eq!(shelf.tidy(None), None, "the log is all there is beside the only one");
        shelf.put(snapshot(20));
        shelf.put(snapshot(30));
        assert_eq!(shelf.tidy(None), Some(point(20)));
        assert_eq!(indexes(&shelf), [20, 30]);
        assert_eq!(shelf.offered(None), Offered::Whole(&snapshot(30)));
        shelf.put(snapshot(30));
        assert_eq!(indexes(&shelf), [20, 30], "one at the same point takes its place");
    }

    /// What lies behind the floor must stay in the log, also for a replica that begins anew.
    #[test]
    fn with_a_floor_the_log_begins_before_it_and_so_does_whoever_is_new() {
        let mut shelf = shelf([10, 20, 30, 40]);
        assert_eq!(shelf.tidy(Some(10)), None, "entry 10 is needed, so none may be forgotten");
        assert_eq!(shelf.offered(Some(10)), Offered::Nothing);
        assert_eq!(indexes(&shelf), [10, 20, 30, 40]);
        assert!(shelf.is_untidy(Some(21)) && !shelf.is_untidy(Some(20)));
        assert_eq!(shelf.tidy(Some(21)), Some(point(20)));
        assert_eq!(indexes(&shelf), [20, 30, 40]);
        assert_eq!(shelf.offered(Some(21)), Offered::Whole(&snapshot(20)));
        assert_eq!(shelf.tidy(Some(99)), Some(point(30)), "a damaged newest one loses nothing");
        assert_eq!(shelf.offered(Some(99)), Offered::Whole(&snapshot(40)));
    }

    /// After a start only the newest has been looked at; what is offered must be whole.
    #[test]
    fn unseen_and_suspected_files_are_looked_at_before_they_are_offered() {
        let mut shelf = Shelf::new(vec![point(10), point(20)], Some(snapshot(30)));
        assert_eq!(shelf.offered(Some(25)), Offered::Unseen(point(20)));
        assert_eq!(shelf.file(point(20)), None);
        shelf.found(snapshot(20));
        assert_eq!(shelf.offered(Some(25)), Offered::Whole(&snapshot(20)));
        shelf.suspect(point(20));
        assert_eq!(shelf.offered(Some(25)), Offered::Unseen(point(20)));
        shelf.lost(point(20));
        assert_eq!(shelf.offered(Some(25)), Offered::Unseen(point(10)), "an older one will do");
        shelf.found(snapshot(20));
        assert_eq!(indexes(&shelf), [10, 30], "what was let go does not come back");
    }

    proptest! {
        /// However the floor rises: the number is bounded, the log reaches back to the floor and to
        /// the snapshot before the newest, and what is offered leaves no gap before the floor.
        #[test]
        fn floor_and_fallback_are_always_covered(
            steps in prop::collection::vec((1u64..100, prop::option::of(0u64..100)), 1..200),
        ) {
            let (mut shelf, mut now, mut floor, mut begins) = (Shelf::default(), 1, 2, 1);
            for (entries, rise) in steps {
                now += entries;
                let before = shelf.points().last();
                shelf.put(snapshot(now));
                floor = rise.map_or(floor, |rise| (floor + rise).min(now + 1));
                if let Some(base) = shelf.tidy(Some(floor)) {
                    begins = base.index;
                }
                prop_assert!(shelf.kept.len() <= KEPT_MAX);
                prop_assert!(begins < floor, "the log has lost entries that are needed");
                prop_assert!(before.is_none_or(|before| begins <= before.index));
                prop_assert!(!shelf.is_untidy(Some(floor)));
                match shelf.offered(Some(floor)) {
                    Offered::Whole(offered) => {
                        prop_assert!((begins..floor).contains(&offered.point.index));
                    }
                    other @ (Offered::Nothing | Offered::Unseen(_)) => {
                        prop_assert_eq!(other, Offered::Nothing);
                        prop_assert_eq!(begins, 1, "the log must then be whole");
                    }
                }
            }
        }

        /// The longer a floor stands still, the wider the snapshots lie apart, evenly.
        #[test]
        fn standing_floor_spreads_snapshots_evenly(count in 40u64..400) {
            let mut shelf = Shelf::default();
            for number in 1..=count {
                shelf.put(snapshot(number * 10));
                shelf.tidy(Some(2));
            }
            let indexes = indexes(&shelf);
            prop_assert_eq!(indexes.len(), KEPT_MAX);
            let widest = indexes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            prop_assert!(widest <= count * 10 / 4, "{:?}", indexes);
        }
    }
}
