//! What is known of the kernel from elsewhere: VMCOREINFO as a text (`-i`, `-g`) and the kernel's file (`-x`).

use super::Failure;
use super::options::{Options, To};
use super::output;
use crate::addr::FileOffset;
use crate::engine::Engine;
use crate::source::FileSource;
use crate::vmcore::{ReadAt, VmcoreInfo};
use std::io::{self, Read, Write};
use std::path::Path;

/// More of a text than this is not read: VMCOREINFO has some 4 KiB.
const MAX_TEXT: u64 = 1 << 20;

/// `-i`: the text, and nothing without it.
pub(super) fn text(options: &Options) -> Result<Vec<u8>, Failure> {
    let Some(path) = &options.info else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_TEXT).read_to_end(&mut text))
        .map_err(|e| Failure::new(format!("Can't open the vmcoreinfo file({}). {e}", path.display())))?;
    if VmcoreInfo::parse(&text).get("OSRELEASE").is_none() {
        let why = "It has no OSRELEASE: it is not what -g writes.";
        return Err(Failure::new(format!("Invalid format in {}. {why}", path.display())));
    }
    Ok(text)
}

/// Refuses a text or a kernel's file that is not of the vmcore's kernel.
pub(super) fn check(options: &Options, engine: &mut Engine<'_>, text: &[u8]) -> Result<(), Failure> {
    let (path, theirs) = if let Some(path) = &options.info {
        (path, VmcoreInfo::parse(text).get("OSRELEASE").map(str::to_owned))
    } else if let Some(path) = &options.vmlinux {
        (path, release_of(path)?)
    } else {
        return Ok(());
    };
    let release = engine.kernel().release;
    match theirs {
        Some(theirs) if theirs != release && !release.is_empty() => Err(Failure {
            code: Failure::OTHER_KERNEL,
            text: format!("{} is of kernel {theirs}, but VMCORE of {release}.", path.display()),
        }),
        // What does not say whose it is may be right.
        _ => Ok(()),
    }
}

/// The release that the banner in a kernel's file has.
fn release_of(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |e: io::Error| Failure::new(format!("Can't open the kernel file({}). {e}", path.display()));
    let source = FileSource::open(path).map_err(failed)?;
    let mut at = 0_u64;
    while at < source.size() {
        let left = usize::try_from(source.size() - at).unwrap_or(usize::MAX);
        let window = source.window(FileOffset::new(at), source.window_len().min(left)).map_err(failed)?;
        if let Some(release) = banner(&window) {
            return Ok(Some(release));
        }
        // The next window begins before this one's end: the banner may lie across it.
        let step = (window.len() as u64).saturating_sub(BANNER_ROOM);
        at = at.saturating_add(step.max(1)).max(if window.len() == left { source.size() } else { 0 });
    }
    Ok(None)
}

/// Bytes in which a banner and the release in it fit.
const BANNER_ROOM: u64 = 256;

/// The release in `Linux version 6.1.0-56-amd64 (…`.
fn banner(bytes: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|b| *b == b'L') {
        rest = rest.get(at..).unwrap_or_default();
        if let Some(release) = rest.strip_prefix(BANNER)
            && release.first().is_some_and(u8::is_ascii_digit)
            && let Some(end) = release.iter().take(65).position(|b| !b.is_ascii_graphic())
        {
            return release.get(..end).map(|release| String::from_utf8_lossy(release).into_owned());
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    None
}

/// `-g`: the running kernel's VMCOREINFO, as a text for `-i`.
pub(super) fn generate(options: &Options, out: &Path) -> Result<(), Failure> {
    const KCORE: &str = "/proc/kcore";
    let to = To::File(out.to_owned());
    output::check(options, &to)?;
    let input = super::dump::open_source(Path::new(KCORE))?;
    let mut engine = super::dump::open_engine(options, Path::new(KCORE), &input, b"")?;
    check(options, &mut engine, b"")?;
    let vmcore = engine.vmcore();
    let text = vmcore.notes().get(vmcore.vmcoreinfo_range()).unwrap_or_default();
    let end = text.iter().rposition(|b| *b != 0).map_or(0, |last| last.saturating_add(1));
    let text = text.get(..end).filter(|text| !text.is_empty()).ok_or_else(|| {
        Failure::new(format!("{KCORE} has no VMCOREINFO: the running kernel is older than 4.19."))
    })?;
    let file = output::File::create(out, options)?;
    let written = (&file).write_all(text).and_then(|()| file.sync());
    if let Err(e) = written {
        return Err(file.failed(Failure::new(format!("Can't write {}. {e}", out.display()))));
    }
    options.messages.common(&format!("\nThe vmcoreinfo is saved to {}.", out.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banner_tells_the_release() {
        let found = |text: &str| banner(text.as_bytes());
        assert_eq!(found("\0Linux version 6.1.0-56-amd64 (deb"), Some("6.1.0-56-amd64".to_owned()));
        assert_eq!(found("Linux version %s\0LLinux version 5.4 x"), Some("5.4".to_owned()));
        assert_eq!(found("Linux version 6.1"), None, "cut off");
        assert_eq!(found(&format!("Linux version 6{} ", "x".repeat(70))), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn a_banner_is_found_wherever_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinux");
        for at in [0, (2 << 20) - 20, (2 << 20) - 250, (4 << 20) - 300, 5 << 20] {
            let mut bytes = vec![0; at];
            bytes.extend(b"Linux version 6.12.9 (gcc)");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(release_of(&path), Ok(Some("6.12.9".to_owned())), "{at}");
        }
        std::fs::write(&path, vec![b'L'; 3 << 20]).unwrap();
        assert_eq!(release_of(&path), Ok(None));
        assert!(release_of(&dir.path().join("none")).is_err());
    }
}
