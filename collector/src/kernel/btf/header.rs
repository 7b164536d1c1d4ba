//! Where the parts of a BTF blob lie (`struct btf_header`, Documentation/bpf/btf.rst).

use super::BtfError;
use crate::addr::VirtAddr;
use crate::kernel::blob::Blob;
use crate::kernel::printk::Memory;
use crate::vmcore::VmcoreInfo;

/// `hdr->magic`.
const MAGIC: u16 = 0xeb9f;

/// Bytes of the header that all versions have.
const HEADER: u64 = 24;

/// No kernel has more.
const MAX_BTF: u64 = 256 << 20;

/// Types and strings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub types: VirtAddr,
    pub types_len: u64,
    pub strings: VirtAddr,
    pub strings_len: u64,
}

/// Reads and checks the header of the blob of `len` bytes at `start`.
pub(super) fn read(memory: &dyn Memory, start: VirtAddr, len: u64) -> Result<Parts, BtfError> {
    let senseless = |why: String| BtfError::Senseless(why);
    if !(HEADER..=MAX_BTF).contains(&len) {
        return Err(senseless(format!("it has {len:#x} bytes")));
    }
    let mut raw = [0; 24];
    memory.read(start, &mut raw)?;
    let field = |at: usize| u64::from(memory.endian().u32(&raw, at).unwrap_or(0));
    let magic = memory.endian().u16(&raw, 0).unwrap_or(0);
    let version = raw.get(2).copied().unwrap_or(0);
    if (magic, version) != (MAGIC, 1) {
        return Err(senseless(format!("at {start} are magic number {magic:#x} and version {version}")));
    }
    let (header, types, types_len, strings, strings_len) =
        (field(4), field(8), field(12), field(16), field(20));
    // Sums of 32-bit numbers.
    if header < HEADER || header + types + types_len > len || header + strings + strings_len > len {
        return Err(senseless(format!(
            "of its {len:#x} bytes the header takes {header:#x}, types {types_len:#x} from {types:#x}, \
             strings {strings_len:#x} from {strings:#x}"
        )));
    }
    let place =
        |skip: u64| start.checked_add(header + skip).ok_or_else(|| senseless(format!("it is at {start}")));
    Ok(Parts { types: place(types)?, types_len, strings: place(strings)?, strings_len })
}

/// Bytes of kernel image that are searched from `_stext` on.
const IMAGE: u64 = 256 << 20;

/// Bytes in a row that may be unmapped within it: what the kernel frees between its sections.
const GAP: u64 = 32 << 20;

/// Looks for the header in the kernel's image. Blobs start on multiples of 4 or more.
pub(super) fn scan(memory: &dyn Memory, info: &VmcoreInfo) -> Result<Option<(VirtAddr, u64)>, BtfError> {
    let Some(text) = info.symbol("_stext") else { return Ok(None) };
    let start = text.get() & !0xffff;
    let mut mapped_until = start;
    let mut at = start;
    let mut page = [0; 4096];
    while at < start.saturating_add(IMAGE) && at < mapped_until.saturating_add(GAP) {
        if memory.read(VirtAddr::new(at), &mut page).is_ok() {
            mapped_until = at;
            for skip in (0..page.len()).step_by(4) {
                let like = memory.endian().u16(&page, skip) == Some(MAGIC)
                    && page.get(skip + 2..skip + 4) == Some(&[1, 0]);
                let here = VirtAddr::new(at.saturating_add(skip as u64));
                if like && let Some(len) = whole(memory, here) {
                    return Ok(Some((here, len)));
                }
            }
        }
        at = at.saturating_add(page.len() as u64);
    }
    Ok(None)
}

/// The length of the blob at `start`, if its header says what the kernel's own would.
fn whole(memory: &dyn Memory, start: VirtAddr) -> Option<u64> {
    let header = Blob::new(memory, start, HEADER);
    let field = |at: u64| header.u32(at).ok().map(u64::from);
    let (hdr_len, types, types_len, strings, strings_len) =
        (field(4)?, field(8)?, field(12)?, field(16)?, field(20)?);
    // A kernel's types take a megabyte and more; small ones are of something else.
    let sane =
        hdr_len == HEADER && types == 0 && strings == types_len && types_len > 64 << 10 && strings_len > 0;
    let len = hdr_len + strings + strings_len;
    (sane && len <= MAX_BTF).then_some(len)
}
