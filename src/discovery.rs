//! Which addresses to dial.
