//! zstd frames, by the reference library.

use std::io;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

/// Levels up to this one look for matches with one small table.
const FAST: i32 = 1;

/// log2 of that table's entries for small pages. The library takes twice the page: what a page of 4 KiB gains of it is a
/// byte of 946, and clearing it takes a twentieth of the time.
const TABLE: u32 = 12;

/// Pages that are small.
const SMALL: usize = 4096;

/// A context and its level.
pub struct Encoder {
    context: Compressor<'static>,
    level: i32,
    /// Whether the table has its size for small pages.
    small: bool,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Encoder {
    /// A context; an error when it cannot have its memory.
    pub fn new(level: i32) -> io::Result<Self> {
        let mut context = Compressor::new(level)?;
        // Every reader knows how long a page is. Without its length a frame is a byte shorter, and sooner made.
        context.set_parameter(CParameter::ContentSizeFlag(false))?;
        Ok(Self { context, level, small: false })
    }

    /// Compresses `page` to the start of `out`; `None` when it does not fit.
    pub fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        let small = page.len() <= SMALL && self.level <= FAST;
        if small != self.small {
            // 0 is the library's choice.
            self.context.set_parameter(CParameter::HashLog(if small { TABLE } else { 0 })).ok()?;
            self.small = small;
        }
        // Through the context, as `compress_to_buffer` would allocate its errors.
        self.context.context_mut().compress2(out, page).ok()
    }
}

/// Decompresses `stored` into `page`, with a context that is made when there is none.
pub fn decode(
    context: &mut Option<Decompressor<'static>>,
    stored: &[u8],
    page: &mut [u8],
) -> Result<usize, String> {
    let context = match context {
        Some(context) => context,
        none => none.insert(Decompressor::new().map_err(|e| e.to_string())?),
    };
    context.decompress_to_buffer(stored, page).map_err(|e| e.to_string())
}
