//! Where to begin in a topic, as people write it.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zmesh::log::{Start, Topic};

use super::super::failure::Failure;
use super::{Effect, Trouble};

/// Where to begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::cli) enum Where {
    /// With the next record that is appended.
    End,
    /// With the oldest record that is there.
    First,
    /// With this record.
    Offset(u64),
    /// With the first record that has this time or a later one, in milliseconds since 1970.
    Time(u64),
}

impl Where {
    /// The offset that is meant.
    pub(super) async fn resolve(self, topic: &Topic, within: Duration) -> Result<Start, Failure> {
        match self {
            Self::End => Ok(Start::End),
            Self::First => Ok(Start::First),
            Self::Offset(offset) => Ok(Start::Offset(offset)),
            Self::Time(time) => match topic.offset_at(time).await {
                Ok(offset) => Ok(Start::Offset(offset)),
                Err(error) => Err(Trouble::from(error).failure(Effect::None, within)),
            },
        }
    }
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let since_1970 = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            Self::Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        };
        match text {
            "end" => return Ok(Self::End),
            "first" => return Ok(Self::First),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        if let Ok(ago) = humantime::parse_duration(text) {
            #[expect(clippy::disallowed_methods, reason = "people mean their own clock")]
            let now = SystemTime::now();
            return Ok(since_1970(now.checked_sub(ago).unwrap_or(UNIX_EPOCH)));
        }
        humantime::parse_rfc3339_weak(text).map(since_1970).map_err(|_| {
            "expected an offset, `first`, `end`, a time such as `2026-01-31T12:00:00Z`, or how long \
             ago such as `10m`"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number is an offset; whatever has a unit is a time.
    #[test]
    fn beginnings_are_read_as_people_mean_them() {
        assert_eq!("first".parse(), Ok(Where::First));
        assert_eq!("end".parse(), Ok(Where::End));
        assert_eq!("17".parse(), Ok(Where::Offset(17)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Where::Time(1_000)));
        assert_eq!("1970-01-01 00:00:02".parse(), Ok(Where::Time(2_000)));
        assert!(matches!("10m".parse(), Ok(Where::Time(1..))));
        for bad in ["", "-1", "last", "1.5", "2026-13-01T00:00:00Z"] {
            assert!(bad.parse::<Where>().is_err(), "{bad}");
        }
    }
}
