//! What a key had before: its versions that are remembered, without the one it has now.
//!
//! Most keys have none or one. More are a list, which is shared with images that are being written
//! and copied by the first change after one is taken.
//!
//! Pure. Invariants: versions are in the order of their revisions, each later than the one before;
//! a list has two at least, so equal pasts are stored the same way.

use std::collections::VecDeque;
use std::sync::Arc;

use super::version::Version;

/// Versions of one key, the oldest first, clearings among them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Past {
    #[default]
    None,
    One(Version),
    More(Arc<VecDeque<Version>>),
}

impl Past {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn push(&mut self, version: Version) {
        debug_assert!(self.iter().next_back().is_none_or(|last| last.revision < version.revision));
        *self = match std::mem::take(self) {
            Self::None => Self::One(version),
            Self::One(first) => Self::More(Arc::new([first, version].into())),
            Self::More(mut versions) => {
                Arc::make_mut(&mut versions).push_back(version);
                Self::More(versions)
            }
        };
    }

    /// Forgets what nobody can ask for once nothing is known of how it was before a change: what that
    /// change replaced, and that it cleared the key. Says what is forgotten.
    pub(super) fn forget(&mut self, change: &Version, forgotten: impl FnMut(&Version)) {
        let is_over = |version: &Version| {
            version.revision < change.revision
                || (version.revision == change.revision && version.is_clear())
        };
        let count = self.iter().take_while(|version| is_over(version)).count();
        self.iter().take(count).for_each(forgotten);
        *self = match std::mem::take(self) {
            Self::More(mut versions) if versions.len() > count + 1 => {
                Arc::make_mut(&mut versions).drain(..count);
                Self::More(versions)
            }
            Self::More(versions) => versions.get(count).cloned().map_or(Self::None, Self::One),
            Self::One(_) if count > 0 => Self::None,
            few @ (Self::None | Self::One(_)) => few,
        };
    }

    /// The newest version up to a revision, if it is not that the key was cleared.
    pub(super) fn at(&self, revision: u64) -> Option<&Version> {
        let version = match self {
            Self::None => None,
            Self::One(version) => Some(version).filter(|version| version.revision <= revision),
            Self::More(versions) => {
                let count = versions.partition_point(|version| version.revision <= revision);
                versions.get(count.checked_sub(1)?)
            }
        };
        version.filter(|version| !version.is_clear())
    }

    /// The versions after a revision.
    pub(super) fn after(&self, revision: u64) -> impl Iterator<Item = &Version> {
        let before = match self {
            Self::None => 0,
            Self::One(version) => usize::from(version.revision <= revision),
            Self::More(versions) => versions.partition_point(|it| it.revision <= revision),
        };
        self.iter().skip(before)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Version> {
        let slices = match self {
            Self::None => [&[][..], &[]],
            Self::One(version) => [std::slice::from_ref(version), &[]],
            Self::More(versions) => <[_; 2]>::from(versions.as_slices()),
        };
        let [first, second] = slices;
        first.iter().chain(second)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::super::version::Numbers;
    use super::*;

    fn set(revision: u64) -> Version {
        let numbers = Numbers { revision, created: 1, version: revision, lease: 0 };
        Version::new(Key::new(b"key"), b"value", numbers)
    }

    fn past(revisions: impl IntoIterator<Item = u64>) -> Past {
        let mut past = Past::default();
        revisions.into_iter().for_each(|revision| past.push(set(revision)));
        past
    }

    /// Equal states have equal hashes, however they came about.
    #[test]
    fn what_is_left_is_stored_as_if_there_had_been_no_more() {
        for (count, change) in (0..5_u64).flat_map(|count| (0..7).map(move |it| (count, it))) {
            let mut left = past(1..=count);
            let mut forgotten = Vec::new();
            left.forget(&set(change), |version| forgotten.push(version.revision));
            assert_eq!(left, past(change.max(1)..=count), "{count} versions, change {change}");
            assert_eq!(forgotten, Vec::from_iter(1..=count.min(change.saturating_sub(1))));
        }
    }

    #[test]
    fn clearing_goes_with_its_own_change() {
        let mut left = past([1]);
        let clearing = Version::cleared(Key::new(b"key"), 2);
        left.push(clearing.clone());
        assert_eq!((left.at(1), left.at(2)), (Some(&set(1)), None));
        assert_eq!(Vec::from_iter(left.after(1)), [&clearing]);
        left.forget(&clearing, |_| {});
        assert!(left.is_empty());
    }

    /// An image that is being written sees what was there when it was taken.
    #[test]
    fn shared_list_is_copied_by_the_next_change() {
        let mut now = past(1..=3);
        let image = now.clone();
        now.push(set(4));
        now.forget(&set(2), |_| {});
        assert_eq!((image, now), (past(1..=3), past(2..=4)));
    }
}
