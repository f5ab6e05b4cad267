//! What became of a command, asked by a client that lost the answer.
//!
//! An inquiry is a query, so it sees everything that was committed when it was asked. What it does
//! not find there may yet be under way: proposed by this leader, or about to be, and not decided.
//!
//! Pure.

use bytes::Bytes;

use super::Core;
use crate::consensus::Log;
use crate::replica::machine::{CommandId, Machine};
use crate::timer::Time;

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Accepts an inquiry into what became of a command, or answers why not. Everything else is as
    /// for [`Self::read`]; the answer is that of [`Machine::inquire`].
    pub fn inquire(&mut self, id: CommandId, deadline: Time, ticket: T) {
        self.read_as(Some(id), Bytes::new(), deadline, ticket);
    }

    /// Whether this replica has the command and it is not decided. Looks at everything that waits:
    /// inquiries are rare.
    pub(super) fn is_under_way(&self, id: CommandId) -> bool {
        let mut waiting = self.queued.iter().chain(self.proposed.values());
        waiting.any(|operation| operation.id == Some(id))
    }
}
