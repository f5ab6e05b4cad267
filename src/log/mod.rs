//! The replicated log as its users see it: topics of records, and those who read them.

pub mod groups;
