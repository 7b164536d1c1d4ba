//! From a `[[target]]` to what the plan says of it.

pub mod raw;
pub mod share;
pub mod ssh;
