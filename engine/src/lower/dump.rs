//! A lowered build as text, for tests and for whoever wants to look at one.
