//! The crash kernel's file: which kernel it is, and how much memory it takes.

use initramfs::root::Root;
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// No kernel file is larger; what is, is not one.
const MAX_KERNEL: u64 = 512 << 20;

/// The crash kernel's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelImage {
    /// The file as the system sees it.
    pub path: PathBuf,
    /// The file as we open it.
    pub real: PathBuf,
    /// `uname -r` of it.
    pub release: String,
    /// Bytes of memory it takes to unpack itself and start, if it says so.
    pub init_size: Option<u64>,
    /// Whether somebody has signed it, as UEFI and lockdown want it; nothing is known of a file that is no PE program.
    pub signed: Option<bool>,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Which file it was: device, inode, size, and time of its last change in nanoseconds since 1970.
    identity: [i128; 4],
}

/// Why there is no crash kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelImageError {
    /// None of the usual places has it.
    #[error("no kernel file for {release}: looked at {looked}; name it with `image` in [kernel]")]
    NotFound {
        /// The running kernel's release.
        release: String,
        /// Where it could have been.
        looked: String,
    },
    /// It could not be read.
    #[error("cannot read the kernel file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is no kernel, but something much larger.
    #[error("{path} has {size} bytes: no kernel file is so large", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// It is another kernel than the one whose modules would be packed.
    #[error("{path} is kernel {found}, not {wanted}: install the kernel {wanted} again, or reboot into {found}", path = path.display())]
    OtherRelease {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// The running kernel.
        wanted: String,
    },
    /// The way to it could not be followed.
    #[error(transparent)]
    Root(#[from] initramfs::Error),
}

impl KernelImage {
    /// The kernel file `chosen` by the settings, or that of the running kernel `running`.
    pub fn find(root: &Root, chosen: Option<&PathBuf>, running: &str) -> Result<Self, KernelImageError> {
        let usual = [
            format!("/boot/vmlinuz-{running}"),
            format!("/lib/modules/{running}/vmlinuz"),
            format!("/usr/lib/modules/{running}/vmlinuz"),
        ];
        let candidates: Vec<PathBuf> = match chosen {
            Some(path) => vec![path.clone()],
            None => usual.iter().map(PathBuf::from).collect(),
        };
        for path in &candidates {
            let Some(real) = root.real(path)? else { continue };
            let read = |source| KernelImageError::Read { path: path.clone(), source };
            let meta = std::fs::metadata(&real).map_err(read)?;
            let size = meta.len();
            if size > MAX_KERNEL {
                return Err(KernelImageError::TooLarge { path: path.clone(), size });
            }
            let bytes = std::fs::read(&real).map_err(read)?;
            let header = bzimage(&bytes);
            let found = header.as_ref().and_then(|h| h.release.clone());
            let release = match (found, chosen) {
                // A kernel that the user chose may be any; its modules are the ones to pack.
                (Some(found), Some(_)) => found,
                (Some(found), None) if found != running => {
                    return Err(KernelImageError::OtherRelease {
                        path: path.clone(),
                        found,
                        wanted: running.to_owned(),
                    });
                }
                _ => running.to_owned(),
            };
            return Ok(Self {
                path: path.clone(),
                real,
                release,
                init_size: header.and_then(|h| h.init_size),
                signed: signed(&bytes),
                sha256: sha256(&bytes),
                identity: identity(&meta),
            });
        }
        let looked: Vec<String> = candidates.iter().map(|c| c.display().to_string()).collect();
        Err(KernelImageError::NotFound { release: running.to_owned(), looked: looked.join(", ") })
    }
}

impl KernelImage {
    /// Whether `file` is still the file that was looked at. Packages replace files, which changes the inode.
    pub fn is(&self, file: &File) -> io::Result<bool> {
        Ok(identity(&file.metadata()?) == self.identity)
    }
}

fn identity(meta: &Metadata) -> [i128; 4] {
    let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    [meta.dev().into(), meta.ino().into(), meta.len().into(), changed]
}

/// Lower-case hexadecimal SHA-256.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether the "attribute certificate table" of a PE program (PE Format, "Optional Header Data Directories", number 4) has anything in
/// it. Kernels that UEFI can start are PE programs, whatever else they are.
fn signed(bytes: &[u8]) -> Option<bool> {
    let u16_at = |at: usize| bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes);
    let u32_at = |at: usize| bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes);
    if bytes.get(..2)? != b"MZ" {
        return None;
    }
    let header = usize::try_from(u32_at(0x3c)?).ok()?;
    if bytes.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    // Behind the COFF header's 20 bytes; PE32 and PE32+ have their directories at different places.
    let optional = header.checked_add(24)?;
    let directories = match u16_at(optional)? {
        0x10b => optional.checked_add(96)?,
        0x20b => optional.checked_add(112)?,
        _ => return None,
    };
    let count = u32_at(directories.checked_sub(4)?)?;
    // Where it is in the file, and its size.
    Some(count > 4 && u32_at(directories.checked_add(4 * 8 + 4)?)? > 0)
}

struct BzImage {
    release: Option<String>,
    init_size: Option<u64>,
}

/// The x86 setup header (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"): `HdrS` at 0x202, boot
/// protocol version at 0x206, pointer to the version string less 0x200 at 0x20e, `init_size` (protocol 2.10) at 0x260.
fn bzimage(bytes: &[u8]) -> Option<BzImage> {
    let u16_at = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
    let u32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    if bytes.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let protocol = u16_at(0x206)?;
    let text = u16_at(0x20e).filter(|p| *p != 0).and_then(|p| {
        let text = bytes.get(usize::from(p) + 0x200..)?;
        let text = text.get(..text.iter().take(256).position(|b| *b == 0)?)?;
        std::str::from_utf8(text).ok()?.split(' ').next().map(str::to_owned)
    });
    // It becomes part of paths below /lib/modules.
    let release = text.filter(|r| !r.is_empty() && !r.contains('/') && !r.starts_with('.'));
    let init_size = if protocol >= 0x20a { u32_at(0x260).map(u64::from) } else { None };
    Some(BzImage { release, init_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(version: &str) -> Vec<u8> {
        let mut k = vec![0; 0x400];
        k[0x202..0x206].copy_from_slice(b"HdrS");
        k[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        k[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        k[0x260..0x264].copy_from_slice(&0x123_4000_u32.to_le_bytes());
        k[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        k
    }

    #[test]
    fn headers() {
        let h = bzimage(&kernel("6.1.0-42-amd64 (x@y) #1 SMP\0")).unwrap();
        assert_eq!((h.release.as_deref(), h.init_size), (Some("6.1.0-42-amd64"), Some(0x123_4000)));
        assert_eq!(bzimage(&kernel("../../etc x\0")).unwrap().release, None);
        assert!(bzimage(b"MZ").is_none());
        for cut in 0x206..0x400 {
            let _ = bzimage(&kernel("6.1 x\0")[..cut]);
        }
    }

    #[test]
    fn signatures() {
        let program = |magic: u16, directories: usize, count: u32, size: u32| {
            let mut k = kernel("6.1 x\0");
            k[..2].copy_from_slice(b"MZ");
            k[0x3c..0x40].copy_from_slice(&0x40_u32.to_le_bytes());
            k[0x40..0x44].copy_from_slice(b"PE\0\0");
            k[0x58..0x5a].copy_from_slice(&magic.to_le_bytes());
            k[0x58 + directories - 4..][..4].copy_from_slice(&count.to_le_bytes());
            k[0x58 + directories + 36..][..4].copy_from_slice(&size.to_le_bytes());
            k
        };
        for (bytes, want) in [
            (program(0x20b, 112, 6, 2000), Some(true)),
            (program(0x20b, 112, 6, 0), Some(false)),
            (program(0x20b, 112, 4, 2000), Some(false)),
            (program(0x10b, 96, 6, 2000), Some(true)),
            (program(0x107, 96, 6, 2000), None),
            (kernel("6.1 x\0"), None),
            (b"MZ".to_vec(), None),
        ] {
            assert_eq!(signed(&bytes), want);
        }
        let whole = program(0x20b, 112, 6, 2000);
        for cut in 0..whole.len() {
            let _ = signed(&whole[..cut]);
        }
    }

    #[test]
    fn a_file_of_another_release_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("boot")).unwrap();
        let root = Root::new(dir.path());
        let find = |chosen: Option<&str>| KernelImage::find(&root, chosen.map(PathBuf::from).as_ref(), "6.1");
        assert!(matches!(find(None), Err(KernelImageError::NotFound { .. })));
        std::fs::write(dir.path().join("boot/vmlinuz-6.1"), kernel("6.2 x\0")).unwrap();
        let Err(e) = find(None) else { panic!() };
        assert_eq!(
            e.to_string(),
            "/boot/vmlinuz-6.1 is kernel 6.2, not 6.1: install the kernel 6.1 again, or reboot into 6.2"
        );
        assert_eq!(find(Some("/boot/vmlinuz-6.1")).unwrap().release, "6.2");
        std::fs::write(dir.path().join("boot/vmlinuz-6.1"), kernel("6.1 x\0")).unwrap();
        let found = find(None).unwrap();
        assert_eq!(found.init_size, Some(0x123_4000));
        let path = dir.path().join("boot/vmlinuz-6.1");
        assert!(found.is(&File::open(&path).unwrap()).unwrap());
        std::fs::copy(&path, dir.path().join("new")).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(
            !found.is(&File::open(&path).unwrap()).unwrap(),
            "the same bytes in another file are another file"
        );
    }
}
