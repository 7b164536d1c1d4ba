//! Volumes of dm-crypt, whose keys the kernel itself hands to the crash kernel.
//!
//! Before the crash kernel is loaded, descriptions of keys are written below [`KEYS`]; loading copies those keys out of the
//! keyring into the reservation, and the crash kernel puts them into one of its own. No program sees a key.
//!
//! Since Linux commits 479e58549b0f ("crash_dump: store dm crypt keys in kdump reserved memory") and 62f17d9df692 ("crash_dump:
//! retrieve dm crypt keys in kdump kernel") (in v6.16), where CONFIG_CRASH_DM_CRYPT is set.

use super::{PLAIN, StorageError, Tables, refused};
use collector::storage::crypt::KEYS;
use collector::storage::mapper::Line;
use initramfs::root::Root;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

/// What to do where the kernel cannot.
const NO_KERNEL: &str = "its key is lost with this kernel, which cannot hand it on (CONFIG_CRASH_DM_CRYPT, since Linux 6.16), and \
                         nobody is there to type a passphrase; choose a target that is not encrypted, such as a small partition \
                         for dumps";
/// What to do where the key is only in use.
const NO_KEY: &str = "give its line in /etc/crypttab the option link-volume-key=@u::%logon:kdump-cryptsetup:vk-UUID, with the \
                      volume's UUID, and restart; or choose a target that is not encrypted";

/// The longest description that the kernel takes, with its NUL.
const LONGEST: usize = 128;

/// What our entries below [`KEYS`] begin with.
const OURS: &str = "vmcored-";

/// A line of a table, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Crypt {
    /// `aes-xts-plain64`.
    pub cipher: String,
    /// Of the key in the keyring: `kdump-cryptsetup:vk-…`.
    pub description: String,
    /// Bytes of the key.
    pub bytes: usize,
    /// Added to the sector for the initialisation vector.
    pub iv_offset: u64,
    /// Number of the device below, `8:1`, and the first sector there.
    pub below: (String, u64),
    /// `allow_discards`, …
    pub options: Vec<String>,
}

impl Crypt {
    /// The key as a table of the crash kernel names it: restored keys are of the type `user`.
    pub fn key(&self) -> String {
        format!(":{}:user:{}", self.bytes, self.description)
    }
}

/// Reads a line of the device `name` with this UUID of device-mapper's. Nothing of it gets into a message: it may have the key in it.
pub(super) fn read(
    name: &str,
    uuid: &str,
    line: &Line,
    root: &Root,
    tables: &mut dyn Tables,
) -> Result<Crypt, StorageError> {
    let refuse = |what: &str, advice| refused(name, format!("encrypted by dm-crypt{what}"), advice);
    let odd = || refuse(", with a table that is not understood", PLAIN);
    if !root.exists(KEYS)? {
        return Err(refuse("", NO_KERNEL));
    }
    let words: Vec<&str> = line.parameters.split_whitespace().collect();
    let [cipher, key, iv_offset, device, start, options @ ..] = words.as_slice() else { return Err(odd()) };
    let options = match options {
        [] => &[],
        [count, options @ ..] if count.parse() == Ok(options.len()) => options,
        _ => return Err(odd()),
    };
    if options.iter().any(|option| option.starts_with("integrity:")) {
        return Err(refuse(" over dm-integrity", PLAIN));
    }
    let (bytes, own) = key_of(key).ok_or_else(odd)?;
    let linked = luks_uuid(uuid).map(|uuid| format!("kdump-cryptsetup:vk-{uuid}"));
    let mut description = None;
    for known in own.into_iter().chain(linked).filter(|known| known.len() < LONGEST) {
        let there = tables.has_key(&known);
        if there.map_err(|source| StorageError::Table { device: name.to_owned(), source })? {
            description = Some(known);
            break;
        }
    }
    Ok(Crypt {
        cipher: (*cipher).to_owned(),
        description: description.ok_or_else(|| refuse(", and its volume key is in no keyring", NO_KEY))?,
        bytes,
        iv_offset: iv_offset.parse().map_err(|_| odd())?,
        below: ((*device).to_owned(), start.parse().map_err(|_| odd())?),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    })
}

/// The length of a key in bytes, and its description if it is in the keyring: `:64:logon:cryptsetup:…`, or the key itself in
/// hexadecimal.
fn key_of(word: &str) -> Option<(usize, Option<String>)> {
    let Some(named) = word.strip_prefix(':') else {
        let plain = word.len().is_multiple_of(2) && word.bytes().all(|b| b.is_ascii_hexdigit());
        return plain.then_some((word.len() / 2, None));
    };
    let mut parts = named.splitn(3, ':');
    let (bytes, kind, description) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    Some((bytes, (kind == "logon").then(|| description.to_owned())))
}

/// The UUID of a LUKS volume, of `CRYPT-LUKS2-0123…-name`.
fn luks_uuid(uuid: &str) -> Option<String> {
    let rest = uuid.strip_prefix("CRYPT-LUKS2-").or_else(|| uuid.strip_prefix("CRYPT-LUKS1-"))?;
    let hex = rest.get(..32).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    Some([part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-"))
}

/// Modules that do the cipher now. The kernel of a crash has nobody to ask for them.
pub(super) fn modules(cipher: &str, root: &Root) -> Result<BTreeSet<String>, StorageError> {
    let wanted = algorithms(cipher);
    let text = root.read("/proc/crypto")?.unwrap_or_default();
    let mut found = BTreeSet::from(["dm_crypt".to_owned()]);
    for entry in text.split("\n\n") {
        let field = |name: &str| {
            let line = entry.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
            line.map(str::trim)
        };
        if let (Some(name), Some(module)) = (field("name"), field("module"))
            && wanted.iter().any(|wanted| wanted == name)
            && module != "kernel"
        {
            found.insert(module.to_owned());
        }
    }
    Ok(found)
}

/// What the kernel's crypto API calls the parts of `aes-xts-plain64` or `capi:xts(aes)-plain64`.
fn algorithms(cipher: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(api) = cipher.strip_prefix("capi:") {
        let whole = api.rsplit_once('-').map_or(api, |(whole, _)| whole);
        found.push(whole.to_owned());
        found.extend(whole.split(['(', ')', ',']).filter(|part| !part.is_empty()).map(str::to_owned));
        return found;
    }
    let mut parts = cipher.split('-');
    let (base, mode) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let base = base.split_once(':').map_or(base, |(base, _)| base);
    found.extend([format!("{mode}({base})"), format!("ecb({base})"), base.to_owned(), mode.to_owned()]);
    if let Some(hash) = parts.next().and_then(|iv| iv.strip_prefix("essiv:")) {
        found.extend([format!("essiv({mode}({base}),{hash})"), hash.to_owned()]);
    }
    found
}

/// Tells the kernel which keys the crash kernel is to have: these, and none of those that we have named before. To be done before
/// it is loaded.
pub fn hand_over(descriptions: &[String], root: &Root) -> io::Result<()> {
    let keys = root.path(KEYS);
    if descriptions.is_empty() && !keys.exists() {
        return Ok(());
    }
    let entry = |description: &String| {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        format!("{OURS}{}", description.chars().map(plain).collect::<String>())
    };
    let wanted: BTreeSet<String> = descriptions.iter().map(entry).collect();
    for old in fs::read_dir(&keys)? {
        let old = old?;
        let name = old.file_name().to_string_lossy().into_owned();
        if name.starts_with(OURS) && !wanted.contains(&name) {
            fs::remove_dir(old.path())?;
        }
    }
    for description in descriptions {
        let here: PathBuf = keys.join(entry(description));
        if !here.exists() {
            fs::create_dir(&here)?;
        }
        fs::write(here.join("description"), description)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ring(&'static [&'static str]);

    impl Tables for Ring {
        fn table(&mut self, _: u32, _: u32) -> io::Result<Vec<Line>> {
            Ok(Vec::new())
        }
        fn has_key(&mut self, description: &str) -> io::Result<bool> {
            Ok(self.0.contains(&description))
        }
    }

    const LUKS: &str = "CRYPT-LUKS2-5eed00007e574d15800000000000d100-crash";
    const LINKED: &str = "kdump-cryptsetup:vk-5eed0000-7e57-4d15-8000-00000000d100";

    fn line(parameters: &str) -> Line {
        Line { start: 0, sectors: 64, kind: "crypt".to_owned(), parameters: parameters.to_owned() }
    }

    #[test]
    fn tables_are_read_and_keys_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let secret = "00112233".repeat(16);
        let hex = format!("aes-xts-plain64 {secret} 0 8:1 32768");
        let named =
            "aes-xts-plain64 :64:logon:cryptsetup:5eed-d0 16 8:1 32768 2 allow_discards sector_size:4096";
        let why = |ring, parameters: &str| {
            let error =
                read("dm-0", LUKS, &line(parameters), &root, &mut Ring(ring)).unwrap_err().to_string();
            assert!(!error.contains("00112233"), "a key in a message: {error}");
            error
        };
        assert!(why(&[LINKED], &hex).contains("since Linux 6.16"));
        fs::create_dir_all(dir.path().join(KEYS.trim_start_matches('/'))).unwrap();
        assert!(why(&[], &hex).contains("in no keyring: give its line in /etc/crypttab"));
        for parameters in
            ["aes-xts-plain64", "c k 0 8:1 0", "c 001 0 8:1 0", &format!("{hex} 2 one"), "c 00 x 8:1 0"]
        {
            assert!(why(&[LINKED], parameters).contains("not understood"), "{parameters}");
        }
        assert!(why(&[LINKED], &format!("{hex} 1 integrity:28:aead")).contains("dm-integrity"));
        let crypt =
            |ring, parameters: &str| read("dm-0", LUKS, &line(parameters), &root, &mut Ring(ring)).unwrap();
        let found = crypt(&[LINKED], &hex);
        assert_eq!((found.key(), found.below), (format!(":64:user:{LINKED}"), ("8:1".to_owned(), 32768)));
        let found = crypt(&[LINKED, "cryptsetup:5eed-d0"], named);
        assert_eq!((found.key().as_str(), found.iv_offset), (":64:user:cryptsetup:5eed-d0", 16));
        assert_eq!(found.options, ["allow_discards", "sector_size:4096"]);
    }

    #[test]
    fn modules_of_a_cipher() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("proc")).unwrap();
        let text = "name         : xts(aes)\ndriver       : xts-aes-aesni\nmodule       : aesni_intel\n\n\
            name         : xts(aes)\ndriver       : xts(ecb(aes-generic))\nmodule       : xts\n\n\
            name         : aes\ndriver       : aes-generic\nmodule       : kernel\n\n\
            name         : sha256\ndriver       : sha256-ni\nmodule       : sha256_ssse3\n";
        fs::write(dir.path().join("proc/crypto"), text).unwrap();
        let root = Root::new(dir.path());
        for (cipher, expected) in [
            ("aes-xts-plain64", "aesni_intel dm_crypt xts"),
            ("capi:xts(aes)-plain64", "aesni_intel dm_crypt xts"),
            ("aes-cbc-essiv:sha256", "dm_crypt sha256_ssse3"),
        ] {
            let found: Vec<String> = modules(cipher, &root).unwrap().into_iter().collect();
            assert_eq!(found.join(" "), expected, "{cipher}");
        }
    }

    #[test]
    fn the_kernel_is_told_of_our_keys_and_of_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        hand_over(&[], &root).unwrap();
        assert!(hand_over(&[LINKED.to_owned()], &root).is_err(), "a kernel without");
        let keys = dir.path().join(KEYS.trim_start_matches('/'));
        for name in ["vmcored-old", "kdump"] {
            fs::create_dir_all(keys.join(name)).unwrap();
        }
        hand_over(&[LINKED.to_owned()], &root).unwrap();
        let mut names: Vec<String> =
            fs::read_dir(&keys).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let ours = "vmcored-kdump-cryptsetup_vk-5eed0000-7e57-4d15-8000-00000000d100";
        assert_eq!(names, ["kdump", ours]);
        assert_eq!(fs::read_to_string(keys.join(ours).join("description")).unwrap(), LINKED);
    }
}
