//! The limit of open descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this many a node warns: a link takes about four descriptors.
const DESCRIPTORS_WANTED: u64 = 1_024;

/// Raises the limit of open descriptors as far as the system allows, and returns it.
///
/// Call it once when the process starts. libzmq does not recover well from a lack of descriptors:
/// it tries to accept again and again.
pub fn check_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let descriptors = match raised {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open descriptors stays");
            current
        }
    };
    let descriptors = descriptors.unwrap_or(u64::MAX);
    if descriptors < DESCRIPTORS_WANTED {
        tracing::warn!(descriptors, wanted = DESCRIPTORS_WANTED, "few open descriptors allowed");
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The soft limit is often 1,024 where the hard one is much higher.
    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let descriptors = check_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(limit.current.unwrap_or(u64::MAX), descriptors);
    }
}
