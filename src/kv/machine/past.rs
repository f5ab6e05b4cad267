//! What a key had before: its versions that are remembered, without the one it has now.
//!
//! Most keys have few of them or none, so they are a list; it is shared with images that are being
//! written, and copied by the first change after one is taken.
//!
//! Pure. Invariant: versions are in the order of their revisions, each later than the one before.

use std::collections::VecDeque;
use std::sync::Arc;

use super::version::Version;

/// Versions of one key, the oldest first, clearings among them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Past(Option<Arc<VecDeque<Arc<Version>>>>);

impl Past {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn push(&mut self, version: Arc<Version>) {
        debug_assert!(self.iter().next_back().is_none_or(|last| last.revision < version.revision));
        Arc::make_mut(self.0.get_or_insert_default()).push_back(version);
    }

    /// Forgets what nobody can ask for once nothing is known of how it was before a change: what that
    /// change replaced, and that it cleared the key. Gives out what is forgotten.
    pub(super) fn forget(&mut self, change: &Version, mut forgotten: impl FnMut(&Version)) {
        let Some(shared) = &mut self.0 else { return };
        let is_over = |version: &Version| {
            version.revision < change.revision
                || (version.revision == change.revision && version.is_clear())
        };
        let count = shared.iter().take_while(|version| is_over(version)).count();
        if count == shared.len() {
            shared.iter().for_each(|version| forgotten(version));
            self.0 = None;
        } else if count > 0 {
            Arc::make_mut(shared).drain(..count).for_each(|version| forgotten(&version));
        }
    }

    /// The newest version up to a revision, if it is not that the key was cleared.
    pub(super) fn at(&self, revision: u64) -> Option<&Arc<Version>> {
        let versions = self.0.as_ref()?;
        let count = versions.partition_point(|version| version.revision <= revision);
        versions.get(count.checked_sub(1)?).filter(|version| !version.is_clear())
    }

    /// The versions after a revision.
    pub(super) fn after(&self, revision: u64) -> impl Iterator<Item = &Arc<Version>> {
        let versions = self.0.as_deref();
        let start = versions
            .map_or(0, |versions| versions.partition_point(|it| it.revision <= revision));
        versions.into_iter().flat_map(move |versions| versions.range(start..))
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Version>> {
        self.0.iter().flat_map(|versions| versions.iter())
    }
}
