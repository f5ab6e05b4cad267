//! What is said of those who were refused: enough to find them, and not so much that strangers fill
//! the log.
//!
//! Shell: writes to the log, and looks at the clock to do so seldom.

use std::time::{Duration, Instant};

use crate::keys::{AllowList, PublicKey};

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Complaint {
    warned: Option<Instant>,
    unreported: u64,
}

impl Complaint {
    /// Somebody with this key came from `address` and is not allowed.
    #[expect(clippy::disallowed_methods, reason = "a shell; no decision depends on it")]
    pub(super) fn of_key(&mut self, address: &str, key: PublicKey, allowed: &AllowList) {
        self.unreported += 1;
        let now = Instant::now();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= INTERVAL) {
            let known = allowed.get(&key).map(|allowed| tracing::field::display(&allowed.node));
            let refused = self.unreported;
            tracing::warn!(address, %key, known, refused, "refused a key that is not allowed");
            self.warned = Some(now);
            self.unreported = 0;
        }
    }
}
