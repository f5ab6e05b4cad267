//! Waiting for what a test wants to see, with a deadline instead of a fixed time.

#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::disallowed_methods, reason = "measures how long something was waited for")]

use std::time::{Duration, Instant};

use zmesh::replica::{ClientError, Progress, Replica, Status};

/// What never takes so long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `look` finds something.
pub(crate) async fn until<R>(what: &str, mut look: impl AsyncFnMut() -> Option<R>) -> R {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How a replica is, if it takes part.
pub(crate) async fn status(replica: &Replica) -> Option<Status> {
    match replica.status().await {
        Progress::Running(status) => Some(*status),
        Progress::Doubtful | Progress::Forming { .. } | Progress::Stopped(_) => None,
    }
}

/// Repeats a change of the members until it is done: what is refused for the moment had no effect,
/// and what was lost can be asked for again.
pub(crate) async fn change(what: &str, mut ask: impl AsyncFnMut() -> Result<(), ClientError>) {
    until(what, async || match ask().await {
        Ok(()) => Some(()),
        Err(error) => {
            assert!(error.is_retryable(), "{what}: {error}");
            None
        }
    })
    .await;
}
