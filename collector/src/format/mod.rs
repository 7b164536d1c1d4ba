//! Out: the containers a dump is written in.

use crate::addr::FileOffset;
use std::io;

/// Where a dump's bytes go. Positions may come in any order; gaps read as zero.
pub trait DumpSink {
    /// Writes all of `bytes` at `at`.
    fn write_at(&mut self, at: FileOffset, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    fn finish(&mut self) -> io::Result<()>;
}
