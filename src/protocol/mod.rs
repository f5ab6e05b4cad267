//! What nodes say to each other: frames, envelopes, payloads, requests in flight, handlers by subject.
//!
//! Pure throughout. `docs/WIRE.md` describes the bytes for other languages.

pub mod envelope;
pub mod frame;
pub mod handlers;
pub mod payload;
pub mod requests;
pub mod system;
