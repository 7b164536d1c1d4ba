//! LZ4 frames around a whole stream: for ELF dumps that go through a pipe, and for slow CPUs. `lz4 -d` restores them.
//! crash's format of pages has no LZ4.

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::io::{self, Write};

/// Compresses what is written to it. [`Lz4::finish`] ends the frame; dropped before, the frame has no end, and `lz4 -d`
/// says so.
pub struct Lz4<W: Write>(FrameEncoder<W>);

impl<W: Write> std::fmt::Debug for Lz4<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lz4").finish_non_exhaustive()
    }
}

impl<W: Write> Lz4<W> {
    /// A frame that is written to `to`: blocks of 256 KiB, each by itself, and a checksum of the content at the end.
    /// Needs about 0.6 MiB.
    pub fn new(to: W) -> Self {
        let info = FrameInfo::new()
            .block_size(BlockSize::Max256KB)
            .block_mode(BlockMode::Independent)
            .content_checksum(true);
        Self(FrameEncoder::with_frame_info(info, to))
    }

    /// Writes the end of the frame, and gives back where it went to.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish().map_err(io::Error::from)
    }
}

impl<W: Write> Write for Lz4<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    /// Ends the current block: for the end of a batch, not for each page.
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
