//! Device-mapper's ioctls, as dmsetup would do them: `struct dm_ioctl` and what follows it
//! (include/uapi/linux/dm-ioctl.h).

use crate::sys;
use std::fs::File;
use std::io;
use std::path::Path;

/// Where device-mapper takes commands.
pub const CONTROL: &str = "/dev/mapper/control";

/// Bytes of `struct dm_ioctl`.
const HEADER: usize = 312;
/// Bytes of `struct dm_target_spec`.
const SPEC: usize = 40;
/// The longest name with its NUL, and the longest UUID.
const NAME: usize = 128;
const UUID: usize = 129;
/// The longest answer that is asked for.
const MOST: usize = 16 << 20;

const OFFSET_NAME: usize = 48;
const OFFSET_UUID: usize = OFFSET_NAME + NAME;

const FLAG_STATUS_TABLE: u32 = 1 << 4;
const FLAG_BUFFER_FULL: u32 = 1 << 8;

#[derive(Clone, Copy)]
enum Command {
    Create,
    Remove,
    Suspend,
    Status,
    Load,
    TableStatus,
}

impl Command {
    fn number(self) -> u8 {
        match self {
            Self::Create => 3,
            Self::Remove => 4,
            Self::Suspend => 6,
            Self::Status => 7,
            Self::Load => 9,
            Self::TableStatus => 12,
        }
    }
}

/// A line of a table: `dmsetup table` prints it so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// First sector.
    pub start: u64,
    /// Sectors.
    pub sectors: u64,
    /// `linear`.
    pub kind: String,
    /// `8:1 2048`.
    pub parameters: String,
}

/// Which device is meant.
#[derive(Clone, Copy, Debug)]
enum Who<'a> {
    Name(&'a str),
    Named { name: &'a str, uuid: &'a str },
    Number(u32, u32),
}

/// The kernel's device-mapper.
#[derive(Debug)]
pub struct Mapper {
    control: File,
}

impl Mapper {
    /// Opens it; an error of kind `NotFound` when the kernel has none.
    pub fn open() -> io::Result<Self> {
        Self::open_at(Path::new(CONTROL))
    }

    /// As [`Mapper::open`], elsewhere.
    pub fn open_at(control: &Path) -> io::Result<Self> {
        Ok(Self { control: File::options().read(true).write(true).open(control)? })
    }

    /// The table of a device that is active.
    pub fn table(&self, major: u32, minor: u32) -> io::Result<Vec<Line>> {
        let mut room = 16 << 10;
        loop {
            let answer =
                self.call(Command::TableStatus, FLAG_STATUS_TABLE, Who::Number(major, minor), 0, &[], room)?;
            if u32_at(&answer, 28)? & FLAG_BUFFER_FULL == 0 {
                return lines(&answer);
            }
            room *= 4;
            if room > MOST {
                return Err(io::Error::other("a table of more than 16 MiB"));
            }
        }
    }

    /// Major and minor number of the device with this name, if there is one.
    pub fn find(&self, name: &str) -> io::Result<Option<(u32, u32)>> {
        match self.call(Command::Status, 0, Who::Name(name), 0, &[], 0) {
            Ok(answer) => device_of(&answer).map(Some),
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a device with this table and starts it. Nothing of it is left when it cannot be done.
    pub fn make(&self, name: &str, uuid: &str, table: &[Line]) -> io::Result<(u32, u32)> {
        let answer = self.call(Command::Create, 0, Who::Named { name, uuid }, 0, &[], 0)?;
        let device = device_of(&answer)?;
        let (targets, data) = specs(table)?;
        let started = self
            .call(Command::Load, 0, Who::Name(name), targets, &data, 0)
            // Without the flag that suspends, it resumes: the table is now the live one.
            .and_then(|_| self.call(Command::Suspend, 0, Who::Name(name), 0, &[], 0));
        match started {
            Ok(_) => Ok(device),
            Err(e) => {
                if let Err(e) = self.remove(name) {
                    log::debug!("removing {name}: {e}");
                }
                Err(e)
            }
        }
    }

    /// Takes a device away, once nobody uses it; what was under way is finished before.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.call(Command::Remove, 0, Who::Name(name), 0, &[], 0).map(drop)
    }

    /// One command. The answer is the header and `room` bytes or as many as `data` has.
    fn call(
        &self,
        command: Command,
        flags: u32,
        who: Who<'_>,
        targets: u32,
        data: &[u8],
        room: usize,
    ) -> io::Result<Vec<u8>> {
        let mut request = header(flags, who, targets, data.len().max(room))?;
        request.extend_from_slice(data);
        request.resize(HEADER + data.len().max(room), 0);
        sys::device_mapper(&self.control, command.number(), &mut request)?;
        Ok(request)
    }
}

/// `struct dm_ioctl`. Version 4.0.0 is the first of this interface, which every kernel speaks.
fn header(flags: u32, who: Who<'_>, targets: u32, data: usize) -> io::Result<Vec<u8>> {
    let size = HEADER.checked_add(data).and_then(|size| u32::try_from(size).ok());
    let size = size.ok_or(io::ErrorKind::InvalidInput)?;
    let (name, uuid, device) = match who {
        Who::Name(name) => (name, "", 0),
        Who::Named { name, uuid } => (name, uuid, 0),
        Who::Number(major, minor) => ("", "", encode(major, minor)),
    };
    // Names are part of a path, and end with a NUL.
    let fits = |text: &str, room: usize| text.len() < room && !text.contains(['\0', '/']);
    if !fits(name, NAME) || !fits(uuid, UUID) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a device")));
    }
    let mut bytes = Vec::with_capacity(HEADER);
    for word in [4, 0, 0, size, u32::try_from(HEADER).unwrap_or(0), targets, 0, flags, 0, 0] {
        bytes.extend_from_slice(&u32::to_ne_bytes(word));
    }
    bytes.extend_from_slice(&device.to_ne_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(OFFSET_UUID, 0);
    bytes.extend_from_slice(uuid.as_bytes());
    bytes.resize(HEADER, 0);
    Ok(bytes)
}

/// A table for loading: `next` counts from the spec itself.
fn specs(table: &[Line]) -> io::Result<(u32, Vec<u8>)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "a table that cannot be written");
    let mut data = Vec::new();
    for line in table {
        if line.kind.len() >= 16 || line.kind.contains('\0') || line.parameters.contains('\0') {
            return Err(bad());
        }
        let end = (SPEC + line.parameters.len() + 1).next_multiple_of(8);
        let start = data.len();
        data.extend_from_slice(&line.start.to_ne_bytes());
        data.extend_from_slice(&line.sectors.to_ne_bytes());
        data.extend_from_slice(&0_u32.to_ne_bytes());
        data.extend_from_slice(&u32::try_from(end).map_err(|_| bad())?.to_ne_bytes());
        data.extend_from_slice(line.kind.as_bytes());
        data.resize(start + SPEC, 0);
        data.extend_from_slice(line.parameters.as_bytes());
        data.resize(start + end, 0);
    }
    Ok((u32::try_from(table.len()).map_err(|_| bad())?, data))
}

/// The table of an answer: `next` counts from the first spec.
fn lines(answer: &[u8]) -> io::Result<Vec<Line>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "a table that cannot be read");
    let start = usize::try_from(u32_at(answer, 16)?).map_err(|_| bad())?;
    let count = u32_at(answer, 20)?;
    let data = answer.get(start..).ok_or_else(bad)?;
    let mut table = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let spec = data.get(at..).ok_or_else(bad)?;
        let next = usize::try_from(u32_at(spec, 20)?).map_err(|_| bad())?;
        if next < at.saturating_add(SPEC) {
            return Err(bad());
        }
        table.push(Line {
            start: u64_at(spec, 0)?,
            sectors: u64_at(spec, 8)?,
            kind: text(spec.get(24..SPEC).ok_or_else(bad)?),
            parameters: text(spec.get(SPEC..).ok_or_else(bad)?),
        });
        at = next;
    }
    Ok(table)
}

/// Up to the NUL.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let field = bytes.get(at..at.saturating_add(4)).and_then(|b| b.try_into().ok());
    field.map(u32::from_ne_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    let field = bytes.get(at..at.saturating_add(8)).and_then(|b| b.try_into().ok());
    field.map(u64::from_ne_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// `new_encode_dev` of include/linux/kdev_t.h.
fn encode(major: u32, minor: u32) -> u64 {
    u64::from(minor & 0xff) | (u64::from(major) << 8) | (u64::from(minor & !0xff) << 12)
}

fn device_of(answer: &[u8]) -> io::Result<(u32, u32)> {
    let device = u64_at(answer, 40)?;
    let part = |bits: u64| u32::try_from(bits).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    Ok((part((device >> 8) & 0xfff)?, part((device & 0xff) | ((device >> 12) & 0xf_ff00))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(start: u64, kind: &str, parameters: &str) -> Line {
        Line { start, sectors: 8, kind: kind.to_owned(), parameters: parameters.to_owned() }
    }

    /// As the kernel lays an answer out.
    fn answer(table: &[Line]) -> Vec<u8> {
        let (count, data) = specs(table).unwrap();
        let mut bytes = header(0, Who::Number(254, 3), count, data.len()).unwrap();
        let mut data = data;
        let mut at = 0;
        for line in table {
            at += (SPEC + line.parameters.len() + 1).next_multiple_of(8);
            let spec = at - (SPEC + line.parameters.len() + 1).next_multiple_of(8);
            data[spec + 20..spec + 24].copy_from_slice(&u32::try_from(at).unwrap().to_ne_bytes());
        }
        bytes.extend(data);
        bytes
    }

    #[test]
    fn tables_are_written_and_read() {
        let table = vec![
            line(0, "linear", "8:1 2048"),
            line(8, "striped", "2 128 8:1 2048 8:17 2048"),
            line(16, "error", ""),
        ];
        let (count, data) = specs(&table).unwrap();
        assert_eq!((count, data.len() % 8), (3, 0));
        let bytes = answer(&table);
        assert_eq!(lines(&bytes).unwrap(), table);
        assert_eq!(device_of(&bytes).unwrap(), (254, 3));
        // Cut or torn anywhere, it is an error or a table, never a panic or a loop.
        for len in 0..bytes.len() {
            let _ = lines(&bytes[..len]);
        }
        let mut torn = bytes.clone();
        torn[HEADER + 20..HEADER + 24].copy_from_slice(&0_u32.to_ne_bytes());
        assert!(lines(&torn).is_err());
        torn[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(lines(&torn).is_err());
    }

    #[test]
    fn names_fit_or_are_refused() {
        for (name, uuid, good) in [
            ("vg-lv", "LVM-abc", true),
            (&"n".repeat(127), &"u".repeat(128), true),
            (&"n".repeat(128), "", false),
            ("n", &"u".repeat(129), false),
            ("../etc", "", false),
            ("a\0b", "", false),
        ] {
            let made = header(0, Who::Named { name, uuid }, 0, 0);
            assert_eq!(made.is_ok(), good, "{name}");
            if let Ok(bytes) = made {
                assert_eq!((bytes.len(), text(&bytes[OFFSET_NAME..])), (HEADER, name.to_owned()));
            }
        }
        assert!(specs(&[line(0, "a-kind-of-sixteen", "")]).is_err());
        for (major, minor) in [(8, 1), (254, 255), (253, 256), (259, 70_000)] {
            let mut bytes = vec![0; HEADER];
            bytes[40..48].copy_from_slice(&encode(major, minor).to_ne_bytes());
            assert_eq!(device_of(&bytes).unwrap(), (major, minor));
        }
    }
}
