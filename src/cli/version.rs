//! `zmesh version`: what this binary is made of.
//!
//! A binary that was built without the vendored library may lack CURVE, so it is asked at run
//! time instead of assumed.

use serde::Serialize;

use super::Context;
use super::failure::Failure;

#[derive(Debug, Serialize)]
pub(super) struct Version {
    pub(super) zmesh: &'static str,
    pub(super) libzmq: String,
    /// libsodium has no version that safe code could ask for: linked or not is what is known.
    libsodium: &'static str,
    pub(super) curve: bool,
}

/// Prints the versions.
pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let version = version();
    if context.out.is_json() {
        return context.out.json(&version);
    }
    context.out.text(&format!(
        "zmesh     {}\nlibzmq    {}\nlibsodium {}\ncurve     {}",
        version.zmesh,
        version.libzmq,
        version.libsodium,
        if version.curve { "yes" } else { "no" },
    ))
}

/// What is linked.
pub(super) fn version() -> Version {
    let (major, minor, patch) = zmq::version();
    let curve = zmq::has("curve").unwrap_or(false);
    Version {
        zmesh: env!("CARGO_PKG_VERSION"),
        libzmq: format!("{major}.{minor}.{patch}"),
        libsodium: if curve { "linked" } else { "not linked" },
        curve,
    }
}
