//! Codecs: packing as the kernel can unpack it, and unpacking of what lies compressed on disk. Unpacking is bounded.

use std::io::{Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;

use crate::Error;
use crate::root::{Root, read_limited};

/// No module, firmware file or image is larger, packed or unpacked; one that claims to be is refused.
pub(crate) const MAX_FILE: u64 = 512 << 20;

/// 128 KiB, zstd's largest block. The kernel allocates the window beside the packed and the unpacked files, when memory
/// is scarcest. For ext4 on virtio and Debian's 6.1, 1 MiB would save 3 % (34 of 1016 kB) of the packed size and cost
/// 896 KiB of window.
const ZSTD_WINDOW_LOG: u32 = 17;
/// Level 19 packs the collector and the modules of an ext4 target into 1.41 MB instead of 1.55, but in 1.08 s of CPU time
/// instead of 0.08 (20 s in an emulated guest), at every `arm` and every `status`.
const ZSTD_LEVEL: i32 = 9;
/// Likewise the dictionary of xz.
const XZ_DICTIONARY: u32 = 1 << 20;
/// Memory that an xz stream may ask of us: what `xz -9` needs, and some.
const XZ_MEMORY: u64 = 128 << 20;

/// How the image is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip: what every kernel with an initramfs reads.
    Gzip,
    /// xz, with the CRC32 check, the only one kernels know besides none.
    Xz,
    /// One zstd frame with a small window. Since Linux commit a30d8a39f057 ("usr: Add support for zstd compressed
    /// initramfs") (in v5.9).
    Zstd,
}

impl Compression {
    /// The best that kernel `release` can unpack by its configuration, which is looked for in /boot/config-RELEASE,
    /// /lib/modules/RELEASE/config and, if that kernel runs, /proc/config.gz. Where there is none: gzip.
    pub fn for_kernel(root: &Root, release: &str) -> Result<Self, Error> {
        let Some(config) = kernel_config(root, release)? else { return Ok(Self::Gzip) };
        let reads = |option: &str| config.lines().any(|l| l.strip_suffix("=y") == Some(option));
        // zstd before xz: some per cent larger, but unpacked in a fraction of the time, and that is time between the
        // crash and the dump.
        Ok([("CONFIG_RD_ZSTD", Self::Zstd), ("CONFIG_RD_XZ", Self::Xz), ("CONFIG_RD_GZIP", Self::Gzip)]
            .into_iter()
            .find_map(|(option, codec)| reads(option).then_some(codec))
            .unwrap_or(Self::None))
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

fn kernel_config(root: &Root, release: &str) -> Result<Option<String>, Error> {
    for path in [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")] {
        if let Some(text) = root.read(path)? {
            return Ok(Some(text));
        }
    }
    let running = root.read_line("/proc/sys/kernel/osrelease")?;
    if running.as_deref() != Some(release) {
        return Ok(None);
    }
    let Some(path) = root.real("/proc/config.gz")? else { return Ok(None) };
    let bytes = read_file(&path)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Packs an archive.
pub(crate) fn pack(archive: Vec<u8>, with: Compression) -> Result<Vec<u8>, Error> {
    let packed = match with {
        Compression::None => Ok(archive),
        Compression::Gzip => pack_gzip(&archive),
        Compression::Xz => pack_xz(&archive),
        Compression::Zstd => pack_zstd(&archive),
    };
    packed.map_err(|source| Error::Compress { with: with.name(), source })
}

fn pack_gzip(archive: &[u8]) -> std::io::Result<Vec<u8>> {
    // Its header has neither time nor name, so that the bytes depend on the archive alone.
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(archive)?;
    encoder.finish()
}

fn pack_xz(archive: &[u8]) -> std::io::Result<Vec<u8>> {
    // Bit 31 is LZMA_PRESET_EXTREME.
    let mut options = LzmaOptions::new_preset(6 | 1 << 31)?;
    options.dict_size(XZ_DICTIONARY);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
    let mut encoder = XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(archive)?;
    encoder.finish()
}

fn pack_zstd(archive: &[u8]) -> std::io::Result<Vec<u8>> {
    use zstd::zstd_safe::CParameter;
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    compressor.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    // The kernel does not check it, and nothing could be done if it did not match.
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    compressor.compress(archive)
}

/// Unpacks an image by its magic numbers. `None`: it is not compressed in a way we know.
pub(crate) fn unpack(packed: &[u8]) -> Option<Result<Vec<u8>, Error>> {
    let codec = match packed {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        [0x1f, 0x8b, ..] => Compression::Gzip,
        _ => return None,
    };
    Some(decode(packed, codec, "the image"))
}

/// Whether a file's name says that it is compressed, and its name without that.
pub(crate) fn by_name(name: &str) -> (&str, Compression) {
    for (suffix, codec) in [(".xz", Compression::Xz), (".zst", Compression::Zstd), (".gz", Compression::Gzip)]
    {
        if let Some(plain) = name.strip_suffix(suffix) {
            return (plain, codec);
        }
    }
    (name, Compression::None)
}

/// The contents of a file, decompressed if its name says so.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read_limited(path, MAX_FILE)?;
    let (_, codec) = path.file_name().and_then(|n| n.to_str()).map_or(("", Compression::None), by_name);
    decode(&bytes, codec, &path.display().to_string())
}

fn decode(packed: &[u8], codec: Compression, what: &str) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let limit = MAX_FILE + 1;
    let result = match codec {
        Compression::None => return Ok(packed.to_vec()),
        Compression::Gzip => MultiGzDecoder::new(packed).take(limit).read_to_end(&mut out),
        Compression::Xz => Stream::new_stream_decoder(XZ_MEMORY, 0)
            .map_err(std::io::Error::from)
            .and_then(|s| XzDecoder::new_stream(packed, s).take(limit).read_to_end(&mut out)),
        Compression::Zstd => {
            zstd::Decoder::with_buffer(packed).and_then(|d| d.take(limit).read_to_end(&mut out))
        }
    };
    result.map_err(|source| Error::Decompress { what: what.to_owned(), source })?;
    if u64::try_from(out.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(Error::TooLarge { path: what.into(), limit: MAX_FILE });
    }
    Ok(out)
}
