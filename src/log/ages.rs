//! The ages that the topics of a group keep their records for.
//!
//! Every append asks for the shortest of them, so that is known without a look at the topics.
//!
//! Pure. Invariant: `counts` has the ages in `of`, each as often as it is there.

use std::collections::BTreeMap;

use bytes::Bytes;

/// See the module. Ages are in seconds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Ages {
    /// By the name of the topic.
    of: BTreeMap<Bytes, u32>,
    /// How many topics have each of them.
    counts: BTreeMap<u32, usize>,
}

impl Ages {
    /// Takes note of the age of a topic, in place of the one it had.
    pub(super) fn set(&mut self, name: &Bytes, age: Option<u32>) {
        if let Some(before) = self.of.remove(name)
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&before);
            }
        }
        if let Some(age) = age {
            // A copy: the name may be a slice of a frame, which would live as long.
            self.of.insert(Bytes::copy_from_slice(name), age);
            *self.counts.entry(age).or_default() += 1;
        }
    }

    /// The shortest; none if there is none.
    pub(super) fn shortest(&self) -> Option<u32> {
        self.counts.first_key_value().map(|(age, _)| *age)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever topics come, change and go, the shortest is that of those that are there, and
        /// what was told of the others takes no memory.
        #[test]
        fn shortest_is_known_after_every_change(
            steps in prop::collection::vec((0_u8..6, prop::option::of(1_u32..5)), 1..60),
        ) {
            let (mut ages, mut model) = (Ages::default(), BTreeMap::new());
            for (topic, age) in steps {
                ages.set(&Bytes::from(vec![topic]), age);
                match age {
                    Some(age) => drop(model.insert(topic, age)),
                    None => drop(model.remove(&topic)),
                }
                prop_assert_eq!(ages.shortest(), model.values().min().copied());
                prop_assert_eq!(ages.counts.values().sum::<usize>(), model.len());
                prop_assert!(ages.counts.values().all(|count| *count > 0));
            }
        }
    }
}
