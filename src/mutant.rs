//! Mistakes that tests plant to see that they are caught. Outside tests there are none.

/// A mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mutant {
    /// Takes a reply for that of whoever was asked, whichever life of it sends it.
    ReplyOfAnyLife,
    /// Takes all damage of a log for a torn tail.
    CutAnyDamage,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this mistake is planted on this thread.
#[cfg(test)]
pub(crate) fn has(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Whether this mistake is planted: never.
#[cfg(not(test))]
pub(crate) const fn has(_: Mutant) -> bool {
    false
}

/// Whether `promise`, which holds otherwise, is broken with this mistake.
#[cfg(test)]
pub(crate) fn breaks(mutant: Mutant, promise: impl Fn()) -> bool {
    promise();
    PLANTED.set(Some(mutant));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&promise));
    PLANTED.set(None);
    outcome.is_err()
}
