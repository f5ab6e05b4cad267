//! Keys as the maps of the store have them: a short one lies in the node, so that to compare it is
//! to look at bytes that are there already; a long one is shared, so that a node that is copied for
//! an image copies no key.
//!
//! Pure. Invariant: keys are ordered as their bytes, and equal keys are stored the same way.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Bytes of the longest key that is kept in place: with its length and the tag as much as a shared
/// one takes.
const SHORT_BYTES_MAX: usize = 22;

/// The bytes of a key.
#[derive(Clone)]
pub(super) enum Key {
    Long(Arc<[u8]>),
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
}

const _: () = assert!(size_of::<Key>() == 24);

impl Key {
    pub(super) fn new(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= SHORT_BYTES_MAX => {
                let mut bytes = [0; SHORT_BYTES_MAX];
                bytes[..key.len()].copy_from_slice(key);
                Self::Short { len, bytes }
            }
            _ => Self::Long(key.into()),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Long(bytes) => bytes,
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.bytes().escape_ascii())
    }
}

impl Eq for Key {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The maps are searched with bytes and sorted by keys: the two orders must be one.
        #[test]
        fn keys_are_ordered_as_their_bytes(
            left in prop::collection::vec(0_u8..3, 0..30),
            right in prop::collection::vec(0_u8..3, 0..30),
        ) {
            let keys = (Key::new(&left), Key::new(&right));
            prop_assert_eq!(keys.0.cmp(&keys.1), left.cmp(&right));
            prop_assert_eq!(keys.0 == keys.1, left == right);
            prop_assert_eq!(keys.0.bytes(), &left[..]);
        }
    }
}
