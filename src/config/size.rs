//! A number of bytes as people write it: `512`, `64KiB`, `8MiB`, `1GB`.
//!
//! Exact both ways: what is printed reads back as the same number, which is why no rounding crate
//! is used. `KiB`, `MiB`, `GiB` are powers of 1,024; `kB`, `MB`, `GB` powers of 1,000.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
///
/// # Examples
///
/// ```
/// use zmesh::config::Size;
/// assert_eq!("64MiB".parse(), Ok(Size(64 * 1024 * 1024)));
/// assert_eq!(Size(1_536).to_string(), "1536");
/// ```
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// What a text must look like, as the end of a sentence that begins with "expected".
pub(super) const EXPECTED: &str = "a size such as `64MiB` (units B, kB, MB, GB, KiB, MiB, GiB)";

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let text = text.trim();
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .unwrap_or((text, 1));
        let number = number.trim_end();
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let bytes = digits.then(|| number.parse::<u64>().ok()?.checked_mul(factor)).flatten();
        bytes.map(Self).ok_or(InvalidSize)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = &UNITS[..3];
        match binary.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A text that is no size.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct InvalidSize;

#[cfg(test)]
mod tests {
    use super::*;

    /// Powers of 1,000 and of 1,024 must not be mixed up, and nothing may wrap around.
    #[test]
    fn sizes_are_exact_or_refused() {
        for (text, bytes) in [
            ("0", 0),
            ("7B", 7),
            ("1kB", 1_000),
            ("1 KiB", 1_024),
            ("64MiB", 64 << 20),
            ("2GB", 2_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "MiB", "-1", "+1", "1.5MiB", "1 mib", "64M", "99999999999GiB", "1TiB"] {
            assert_eq!(bad.parse::<Size>(), Err(InvalidSize), "{bad}");
        }
    }

    /// `config print` writes sizes that `--config` reads.
    #[test]
    fn printed_sizes_read_back() {
        for bytes in [0, 1, 1_023, 1_024, 1_025, 3 << 20, (1 << 30) + 1, u64::MAX] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }
}
