//! Tests.
pub mod kdump_reader;
