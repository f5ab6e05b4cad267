//! The `zmesh` binary.
fn main() {}
