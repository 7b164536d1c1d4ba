//! `vmcorectl target prepare`: makes a partition one that dumps may be written to.

use super::device;
use crate::mounts;
use crate::resolve::ResolveError;
use collector::engine::chain;
use collector::plan::DeviceId;
use collector::target::raw::{self, Label, Partition, RawError, State};
use collector::target::signature;
use initramfs::root::Root;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a partition is not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It is not there.
    #[error(transparent)]
    Device(#[from] ResolveError),
    /// Somebody uses it: not even by force.
    #[error("{node} is {how}: it is not touched")]
    InUse {
        /// The device.
        node: String,
        /// What it is used as.
        how: String,
    },
    /// There is something on it.
    #[error("{node} holds {what}: if that can go, say --force")]
    Holds {
        /// The device.
        node: String,
        /// What was recognised.
        what: String,
    },
    /// A dump that nobody has fetched.
    #[error(
        "{node} holds the dump {dump}, which was not recovered: run `vmcorectl target recover {node}`, \
         or say --force if it can go"
    )]
    Unrecovered {
        /// The device.
        node: String,
        /// The first of them.
        dump: String,
    },
    /// The disk fails.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// A file of the system cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// Which.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A partition that dumps may be written to now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The device.
    pub node: PathBuf,
    /// What it is called now.
    pub uuid: String,
    /// Bytes for dumps.
    pub room: u64,
}

/// Prepares a partition. What is in use is refused always; what holds something, unless `force`.
pub fn prepare(id: &DeviceId, force: bool, root: &Root) -> Result<Ready, PrepareError> {
    let (name, node) = device(id, root)?;
    let shown = node.display().to_string();
    if let Some(how) = used_as(&name, &node, root)? {
        return Err(PrepareError::InUse { node: shown, how });
    }
    let real = root.path(&node);
    if !force {
        let found = signature::foreign(&real);
        let found = found.map_err(|source| PrepareError::Read { what: shown.clone(), source })?;
        if let Some(what) = found {
            return Err(PrepareError::Holds { node: shown, what });
        }
        match Partition::open(&real, true) {
            Ok(partition) => {
                let waiting = partition.directory().dumps.into_iter().find(|d| d.state != State::Recovered);
                if let Some(dump) = waiting {
                    return Err(PrepareError::Unrecovered { node: shown, dump: dump.name });
                }
            }
            Err(RawError::NotPrepared(_) | RawError::Smaller(..)) => {}
            Err(e @ (RawError::Damaged(..) | RawError::Version(..) | RawError::Holds(..))) => {
                return Err(PrepareError::Holds {
                    node: shown,
                    what: format!("dumps perhaps ({})", chain(&e)),
                });
            }
            Err(e @ (RawError::Busy(_) | RawError::Io { .. })) => return Err(e.into()),
        }
    }
    let uuid =
        random_uuid().map_err(|source| PrepareError::Read { what: "/dev/urandom".to_owned(), source })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let label: Label = raw::prepare(&real, uuid, now)?;
    Ok(Ready { node, uuid: label.uuid_text(), room: label.chunks().saturating_mul(raw::layout::PAYLOAD) })
}

/// What the device is used as now.
fn used_as(name: &str, node: &Path, root: &Root) -> Result<Option<String>, PrepareError> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let block = Path::new("/sys/class/block").join(name);
    let read = |what: &str| {
        let text = root.read(what).map_err(ResolveError::from)?;
        Ok::<_, PrepareError>(text.unwrap_or_default())
    };
    let number = root.read_line(block.join("dev")).map_err(ResolveError::from)?;
    for mount in mounts::parse(&read(MOUNTINFO)?) {
        if number.as_deref() == Some(&format!("{}:{}", mount.device.0, mount.device.1))
            || Path::new(&mount.source) == node
        {
            return Ok(Some(format!("mounted at {}", mount.point)));
        }
    }
    for line in read("/proc/swaps")?.lines().skip(1) {
        let Some(used) = line.split_whitespace().next() else { continue };
        let real = root.canonical(used).map_err(ResolveError::from)?;
        if Path::new(used) == node || real.as_deref() == Some(node) {
            return Ok(Some("in use as swap".to_owned()));
        }
    }
    let holders = std::fs::read_dir(root.path(block.join("holders")));
    if let Some(holder) = holders.ok().and_then(|mut list| list.next()).and_then(Result::ok) {
        return Ok(Some(format!("a part of {}", holder.file_name().to_string_lossy())));
    }
    Ok(None)
}

/// A random UUID, version 4.
fn random_uuid() -> io::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut uuid)?;
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    Ok(uuid)
}
