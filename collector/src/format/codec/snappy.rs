//! Snappy's raw format.

pub use snap::raw::Encoder;
use snap::raw::{Decoder, decompress_len};

/// Decompresses `stored` into `page`.
pub fn decode(stored: &[u8], page: &mut [u8]) -> Result<usize, String> {
    match decompress_len(stored) {
        Ok(len) if len > page.len() => Err("more than a page comes out".to_owned()),
        Ok(_) => Decoder::new().decompress(stored, page).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}
