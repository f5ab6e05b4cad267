//! Which peer a message goes to.
