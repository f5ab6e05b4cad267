//! A length of time as people write it: `250ms`, `2s`, `1m 30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time. Zero parses; whether it makes sense is for the option to say.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use zmesh::config::Period;
/// assert_eq!("250ms".parse(), Ok(Period(Duration::from_millis(250))));
/// assert_eq!(Period(Duration::from_secs(90)).to_string(), "1m 30s");
/// ```
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Period(pub Duration);

/// What a text must look like, as the end of a sentence that begins with "expected".
pub(super) const EXPECTED: &str = "a duration such as `250ms`, `2s` or `1m 30s`";

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        humantime::parse_duration(text).map(Self).map_err(|_| InvalidPeriod)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A text that is no length of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct InvalidPeriod;

#[cfg(test)]
mod tests {
    use super::*;

    /// A number without a unit could mean seconds or milliseconds, so it is refused.
    #[test]
    fn periods_need_a_unit_and_a_sign_is_refused() {
        assert_eq!("0s".parse(), Ok(Period(Duration::ZERO)));
        assert_eq!("1m 30s".parse(), Ok(Period(Duration::from_secs(90))));
        for bad in ["", "5", "-1s", "1 parsec", "ms", "99999999999999999999s"] {
            assert_eq!(bad.parse::<Period>(), Err(InvalidPeriod), "{bad}");
        }
    }
}
