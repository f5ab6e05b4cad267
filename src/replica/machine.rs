//! What a replicated state machine is.
//!
//! Pure, and deterministic above all: every replica applies the same commands in the same order and
//! must come to the same state, byte for byte.

use bytes::Bytes;

/// A state that changes by committed commands only.
///
/// Nothing in it may depend on time, on chance, on the order of a hash map or on which replica it
/// runs on. A command that makes no sense is answered with an error response; it must not panic,
/// since it would do so again at every start.
pub trait Machine {
    /// Applies a command, once per index and in their order, and returns the response, of which
    /// the replica that proposed it tells its caller.
    fn apply(&mut self, index: u64, command: &Bytes) -> Bytes;

    /// Answers a question about the present state.
    fn query(&self, query: &Bytes) -> Bytes;

    /// The whole state. Equal states give equal bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by one that [`Self::snapshot`] gave.
    ///
    /// # Errors
    ///
    /// [`InvalidSnapshot`]: the bytes are damaged. The state is as it was.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), InvalidSnapshot>;
}

/// The bytes are not a snapshot of this kind of machine.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("snapshot is damaged: {reason}")]
pub struct InvalidSnapshot {
    /// What is wrong.
    pub reason: &'static str,
}
