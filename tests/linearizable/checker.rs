//! Is there an order in which one register could have done what its clients saw?
//!
//! The search of Wing and Gong (1993) with Lowe's memory of the places it has been to (2017): take
//! any operation that could be the next, go on, and go back where nothing fits. Linearizability is
//! local, so each key is searched by itself.

use std::collections::HashSet;

use serde::Serialize;

/// Steps before giving up.
const STEPS_MAX: u64 = 20_000_000;
/// Words of 8 bytes that the places may take in memory before giving up: 512 MiB.
const WORDS_MAX: usize = 64 << 20;

/// What was done to one register. Values are unique, so that a read tells which write it saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// It saw this, or nothing.
    Read(Option<u64>),
    /// A SET, or a CLEAR.
    Write(Option<u64>),
}

/// One operation of a history. Times are nanoseconds on one clock.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) key: usize,
    pub(crate) action: Action,
    pub(crate) start: u64,
    /// When it was answered; none if nobody knows whether, or when, it was done.
    pub(crate) end: Option<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Linearizable,
    NotLinearizable,
    /// Too many orders are possible. A test must not take this for a yes.
    Unknown,
}

/// Searches for an order of the operations of one key.
pub(crate) fn check(operations: &[Operation]) -> Verdict {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.start);
    Search::new(&operations).run(WORDS_MAX)
}

struct Search<'a> {
    operations: &'a [Operation],
    /// What is in the order so far, a bit each, and the register after it.
    done: Vec<u64>,
    value: Option<u64>,
    /// Answered operations that are not in it.
    left: usize,
    /// The order, each with the value before it.
    order: Vec<(usize, Option<u64>)>,
    seen: HashSet<Place>,
    words: usize,
}

/// Where a search has been: how many words of `done` are full, those behind up to the last that is
/// not empty, and the value.
type Place = (usize, Vec<u64>, Option<u64>);

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let left = operations.iter().filter(|operation| operation.end.is_some()).count();
        let done = vec![0; operations.len().div_ceil(64)];
        let (order, seen) = (Vec::new(), HashSet::new());
        Self { operations, done, value: None, left, order, seen, words: 0 }
    }

    fn run(mut self, words_max: usize) -> Verdict {
        let mut from = 0;
        for _ in 0..STEPS_MAX {
            if self.left == 0 {
                return Verdict::Linearizable;
            }
            if self.words > words_max {
                return Verdict::Unknown;
            }
            from = match self.advance(from) {
                true => 0,
                false => match self.back() {
                    Some(undone) => undone + 1,
                    None => return Verdict::NotLinearizable,
                },
            };
        }
        Verdict::Unknown
    }

    /// Takes the next operation, from this one on, that fits and leads somewhere new.
    fn advance(&mut self, from: usize) -> bool {
        // Nothing may come before what was over when it began.
        let bound = self.undone(0).filter_map(|at| self.operations[at].end).min();
        let bound = bound.unwrap_or(u64::MAX);
        let candidates: Vec<usize> =
            self.undone(from).take_while(|at| self.operations[*at].start <= bound).collect();
        candidates.into_iter().any(|at| self.take(at))
    }

    fn undone(&self, from: usize) -> impl Iterator<Item = usize> {
        (from..self.operations.len()).filter(|at| self.done[at / 64] >> (at % 64) & 1 == 0)
    }

    fn take(&mut self, at: usize) -> bool {
        let value = match self.operations[at].action {
            Action::Read(seen) if seen != self.value => return false,
            Action::Read(seen) => seen,
            Action::Write(value) => value,
        };
        self.done[at / 64] ^= 1 << (at % 64);
        if !self.is_new(value) {
            self.done[at / 64] ^= 1 << (at % 64);
            return false;
        }
        self.order.push((at, self.value));
        self.value = value;
        self.left -= usize::from(self.operations[at].end.is_some());
        true
    }

    /// Whether the search has not been here yet. It has from now on.
    fn is_new(&mut self, value: Option<u64>) -> bool {
        let full = self.done.iter().take_while(|word| **word == u64::MAX).count();
        let last = self.done.iter().rposition(|word| *word != 0).map_or(full, |last| last + 1);
        let words = self.done[full..last.max(full)].to_vec();
        // The rest is what the entry takes besides.
        self.words += words.len() + 8;
        self.seen.insert((full, words, value))
    }

    /// Takes the last one out of the order again.
    fn back(&mut self) -> Option<usize> {
        let (at, value) = self.order.pop()?;
        self.done[at / 64] ^= 1 << (at % 64);
        self.value = value;
        self.left += usize::from(self.operations[at].end.is_some());
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(start: u64, end: impl Into<Option<u64>>, action: Action) -> Operation {
        Operation { client: 0, key: 0, action, start, end: end.into() }
    }

    fn verdict(operations: &[(u64, Option<u64>, Action)]) -> Verdict {
        let operations =
            operations.iter().map(|(start, end, action)| operation(*start, *end, *action));
        check(&operations.collect::<Vec<_>>())
    }

    use Action::{Read, Write};
    use Verdict::{Linearizable, NotLinearizable};

    /// What clients may see, and what they may not; each with the reason as its name.
    #[test]
    fn known_histories_are_judged_right() {
        let write = |value, start, end| (start, Some(end), Write(Some(value)));
        let read = |value, start, end| (start, Some(end), Read(value));
        let lost = |value, start| (start, None, Write(Some(value)));
        for (name, expected, history) in [
            ("nothing", Linearizable, vec![]),
            ("empty at first", Linearizable, vec![read(None, 0, 1)]),
            ("one after the other", Linearizable, vec![write(1, 0, 1), read(Some(1), 2, 3)]),
            ("stale", NotLinearizable, vec![write(1, 0, 1), write(2, 2, 3), read(Some(1), 4, 5)]),
            ("lost", NotLinearizable, vec![write(1, 0, 1), read(None, 2, 3)]),
            ("from nowhere", NotLinearizable, vec![read(Some(9), 0, 1)]),
            ("before it was written", NotLinearizable, vec![read(Some(1), 0, 1), write(1, 2, 3)]),
            ("overlapping, seen", Linearizable, vec![write(1, 0, 5), read(Some(1), 1, 2)]),
            ("overlapping, not seen", Linearizable, vec![write(1, 0, 5), read(None, 1, 2)]),
            (
                "seen, then not",
                NotLinearizable,
                vec![write(1, 0, 9), read(Some(1), 1, 2), read(None, 3, 4)],
            ),
            ("an unknown write never seen", Linearizable, vec![lost(1, 0), read(None, 5, 6)]),
            ("an unknown write seen late", Linearizable, vec![lost(1, 0), read(Some(1), 50, 60)]),
            (
                "an unknown write done twice",
                NotLinearizable,
                vec![lost(1, 0), read(Some(1), 1, 2), write(2, 3, 4), read(Some(1), 5, 6)],
            ),
            (
                "two readers that disagree on an order",
                NotLinearizable,
                vec![write(1, 0, 9), write(2, 0, 9), read(Some(1), 10, 11), read(Some(2), 12, 13)],
            ),
            (
                "a clear that did nothing",
                NotLinearizable,
                vec![write(1, 0, 1), (2, Some(3), Write(None)), read(Some(1), 4, 5)],
            ),
        ] {
            assert_eq!(verdict(&history), expected, "{name}");
        }
    }

    /// Thirty writes at the same time have more orders than anybody has memory for; the answer must
    /// be that nobody knows, and it must come.
    #[test]
    fn a_search_that_grows_too_large_gives_up() {
        let write = |value| operation(0, 1_000, Write(Some(value)));
        let mut history: Vec<_> = (0..30).map(write).collect();
        history.push(operation(2_000, 2_001, Read(Some(99))));
        assert_eq!(Search::new(&history).run(1 << 20), Verdict::Unknown);
    }

    /// What a register really did is always found, however clients overlap; one read of what was
    /// overwritten long before never is.
    #[test]
    fn histories_of_a_register_are_linearizable_until_one_read_is_falsified() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut value, mut history) = (None, Vec::new());
            // Short: that there is no order is only known when all have been tried.
            for point in 0..60_u64 {
                let action = match rng.u8(0..10) {
                    0..5 => Read(value),
                    5..9 => Write(Some(point)),
                    _ => Write(None),
                };
                if let Write(written) = action {
                    value = written;
                }
                // A few others at the same time.
                let at = 100 + point * 10;
                let (start, end) = (at - rng.u64(0..20), at + rng.u64(1..20));
                let is_unknown = matches!(action, Write(_)) && rng.u8(0..30) == 0;
                history.push(operation(start, (!is_unknown).then_some(end), action));
            }
            assert_eq!(check(&history), Linearizable, "seed {seed}");
            let old = history.iter().find_map(|operation| match operation.action {
                Write(Some(value)) if operation.end.is_some() => Some(value),
                Read(_) | Write(_) => None,
            });
            history.push(operation(10_000, 10_001, Write(Some(77_777))));
            history.push(operation(10_002, 10_003, Read(old)));
            assert_eq!(check(&history), NotLinearizable, "seed {seed}");
        }
    }
}
