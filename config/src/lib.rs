//! Settings and arming.
pub mod diagnostic;
pub mod settings;
