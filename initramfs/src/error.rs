//! What can go wrong between the live system and a finished image. Each message says what happened, the value seen
//! and what to do; each carries the path it is about.

use std::path::PathBuf;

/// Why there is no module plan or no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What was being read.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A path leads nowhere: a loop of symbolic links, or one that is not there.
    #[error("cannot follow {}: too many symbolic links", path.display())]
    LinkLoop {
        /// Where it began.
        path: PathBuf,
    },
    /// A file is larger than anything of its kind ought to be.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is accepted, in bytes.
        limit: u64,
    },
    /// A name that cannot be one: empty, or with a separator in it.
    #[error("{value:?} is no {what}")]
    BadName {
        /// What it should have named: `block device`, `file system`, `kernel release`.
        what: &'static str,
        /// What was given.
        value: String,
    },
    /// The block device is not there.
    #[error("no block device {name}: {} does not exist", path.display())]
    NoDevice {
        /// Its kernel name.
        name: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// The NIC is not there, or is none: a made link has no device.
    #[error("no NIC {name}: {}/device does not exist", path.display())]
    NoNic {
        /// Its name.
        name: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// The block device lies on something that the crash image cannot assemble.
    #[error("{device} is on {on} ({layer}): not supported yet; choose a target on a plain disk or partition")]
    Unsupported {
        /// The device that was asked for.
        device: String,
        /// `LVM`, `dm-crypt`, `md RAID`, …
        on: String,
        /// The layer's own name: `dm-0`.
        layer: String,
    },
    /// A module is needed, and the kernel has it neither as a file nor built in.
    #[error(
        "module {module} ({why}) is neither below {} nor built into kernel {release}; \
         install the kernel's modules package or run depmod {release}",
        directory.display()
    )]
    MissingModule {
        /// Its name, or the alias that should have led to one.
        module: String,
        /// What needs it.
        why: String,
        /// The crash kernel's release.
        release: String,
        /// The kernel's module directory.
        directory: PathBuf,
    },
    /// A module is named by `omit`, and something that is packed cannot do without it.
    #[error("module {module} is omitted by the settings, but {needed_by} cannot be loaded without it")]
    Omitted {
        /// The omitted module.
        module: String,
        /// Who needs it.
        needed_by: String,
    },
    /// A module file is not what its name says.
    #[error("{}: not a module of kernel {release}: {reason}", path.display())]
    BadModule {
        /// The file.
        path: PathBuf,
        /// The crash kernel's release.
        release: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A compressed file or image does not unpack.
    #[error("cannot decompress {what}")]
    Decompress {
        /// A path, or `the image`.
        what: String,
        /// The decoder's reason.
        #[source]
        source: std::io::Error,
    },
    /// The image could not be compressed.
    #[error("cannot compress the image with {with}")]
    Compress {
        /// The codec.
        with: &'static str,
        /// The encoder's reason.
        #[source]
        source: std::io::Error,
    },
    /// The collector cannot be `/init`.
    #[error("{} cannot run as /init: {reason}", path.display())]
    BadCollector {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The plan and the modules to pack disagree.
    #[error("the plan loads {path}, which is not among the modules to pack")]
    PlanMismatch {
        /// The module file the plan wants in the image.
        path: String,
    },
    /// A program or file to pack is not there.
    #[error("{path} is not there{}", needed_by(chain))]
    NoFile {
        /// The file.
        path: String,
        /// Who needs it, the first that was asked for in front.
        chain: Vec<String>,
    },
    /// A library is in none of the places where it is looked for.
    #[error("library {library} is not there{}; looked for in {}", needed_by(chain), searched.join(", "))]
    NoLibrary {
        /// Its name.
        library: String,
        /// Who needs it, the first that was asked for in front.
        chain: Vec<String>,
        /// The directories.
        searched: Vec<String>,
    },
    /// A file to pack cannot run in the image.
    #[error("{path} cannot be packed: {reason}{}", needed_by(chain))]
    BadProgram {
        /// The file.
        path: String,
        /// Who needs it, the first that was asked for in front.
        chain: Vec<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// The plan cannot be written down.
    #[error("cannot encode the plan")]
    Encode(#[source] serde_json::Error),
    /// An archive cannot hold an entry.
    #[error("cannot archive {path:?}: {reason}")]
    Archive {
        /// The entry.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The bytes are no image.
    #[error("not an initramfs image: {reason}, at byte {offset} of the {layer} stream")]
    BadImage {
        /// What was found.
        reason: &'static str,
        /// Where, in bytes.
        offset: usize,
        /// `packed` or `unpacked`.
        layer: &'static str,
    },
}

/// `, needed by /usr/bin/ssh, /usr/lib/libx.so.1`, or nothing.
fn needed_by(chain: &[String]) -> String {
    if chain.is_empty() { String::new() } else { format!(", needed by {}", chain.join(" -> ")) }
}
