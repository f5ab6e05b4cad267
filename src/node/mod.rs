//! A node: one server, many clients, and the routing between them.

pub mod route;
