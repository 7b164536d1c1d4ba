//! One record of the journal, by its native protocol: a datagram of fields.
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use super::record::{Record, Status};
use initramfs::root::Root;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

/// Of every record about a crash; `journalctl MESSAGE_ID=…` finds them, systemd/vmcored.catalog explains them.
pub const MESSAGE_ID: &str = "a1d7c36b2f6f4d0d9f1c53b0a5e84c17";

const SOCKET: &str = "/run/systemd/journal/socket";

/// The fields, in the order that people read them.
pub fn fields(record: &Record) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("MESSAGE_ID", MESSAGE_ID.to_owned()),
        // Errors, and what is worse where nothing was saved, as sd-daemon(3) numbers them.
        ("PRIORITY", if record.status == Status::Complete { "3" } else { "2" }.to_owned()),
        ("SYSLOG_IDENTIFIER", "vmcored".to_owned()),
        ("MESSAGE", record.sentence()),
        ("DUMP_SEQUENCE", record.sequence.to_string()),
        ("DUMP_STATUS", record.status.to_string()),
        ("DUMP_INTEGRITY", record.integrity.to_string()),
        ("DUMP_TYPE", record.kind.to_string()),
        ("DUMP_DEVICE", record.device.clone()),
        ("DUMP_SIZE", record.bytes.to_string()),
        ("ERROR_CODE", record.error_code.clone()),
        ("CRASH_BOOT_ID", record.boot.clone().unwrap_or_default()),
    ];
    let more = [
        ("CRASH_TIME", record.time.map(collector::utc::readable)),
        ("FILE_NAME", record.file.as_ref().map(|file| file.display().to_string())),
        ("PROCESSOR_ID", record.cpu.map(|cpu| cpu.to_string())),
        ("CRASH_KERNEL", record.kernel.clone()),
        ("CRASH_REASON", record.reason.clone()),
        ("CRASH_TEST", record.test.clone()),
        ("CRASH_KIND", record.verdict.as_ref().map(|verdict| verdict.kind.clone())),
        ("CRASH_VERDICT", record.verdict.as_ref().map(|verdict| verdict.line.clone())),
        ("CRASH_FUNCTION", record.verdict.as_ref().and_then(|verdict| verdict.function.clone())),
        ("CRASH_MODULE", record.verdict.as_ref().and_then(|verdict| verdict.module.clone())),
        ("CRASH_SIGNATURE", record.verdict.as_ref().and_then(|verdict| verdict.signature.clone())),
    ];
    fields.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
    fields.retain(|(_, value)| !value.is_empty());
    fields
}

/// The datagram. A value with a line end goes with its length in front: what a dead kernel said must not become fields.
fn datagram(fields: &[(&str, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.extend(name.as_bytes());
        if value.contains('\n') {
            out.push(b'\n');
            out.extend((value.len() as u64).to_le_bytes());
        } else {
            out.push(b'=');
        }
        out.extend(value.as_bytes());
        out.push(b'\n');
    }
    out
}

/// Writes the record. An error where there is no journal.
pub fn write(record: &Record, root: &Root) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.send_to(&datagram(&fields(record)), root.path(SOCKET)).map(drop)
}

/// Whether the journal of the live system has the record of this sequence number: asked when we were killed between writing it
/// and noting that.
pub fn has(sequence: u64) -> bool {
    let found = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=cat", "--lines=1"])
        .arg(format!("MESSAGE_ID={MESSAGE_ID}"))
        .arg(format!("DUMP_SEQUENCE={sequence}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    found.is_ok_and(|found| found.status.success() && !found.stdout.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cannot_be_forged() {
        let bytes = datagram(&[("MESSAGE", "a\nPRIORITY=0".to_owned()), ("DUMP_SIZE", "7".to_owned())]);
        let mut want = b"MESSAGE\n".to_vec();
        want.extend([12, 0, 0, 0, 0, 0, 0, 0]);
        want.extend(b"a\nPRIORITY=0\nDUMP_SIZE=7\n");
        assert_eq!(bytes, want);
    }

    #[test]
    fn the_catalog_explains_our_message() {
        let catalog = include_str!("../../../systemd/vmcored.catalog");
        assert!(catalog.lines().any(|line| line == format!("-- {MESSAGE_ID}")), "{catalog}");
        // Every field that the text shows is one that we send.
        let names: Vec<_> = fields(&super::super::record::tests::sample()).into_iter().map(|f| f.0).collect();
        let shown = catalog.split('@').skip(1).step_by(2);
        let unknown: Vec<_> = shown.filter(|name| !names.contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?} of {names:?}");
    }
}
