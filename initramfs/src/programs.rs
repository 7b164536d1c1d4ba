//! Programs of the running system, packed with all that they need to run in an image: libraries, their libraries, the
//! loader, a script's interpreter, and the symbolic links on the way.
//!
//! Libraries are looked for as the loader does it (ld.so(8)): RPATH, RUNPATH, /etc/ld.so.conf, the loader's own
//! directories. Variants for certain CPUs (glibc-hwcaps) are passed over. The image has no /etc/ld.so.cache, so a library
//! that only ld.so.conf leads to gets a link in the directory of libc. What a program opens by itself at run time
//! (dlopen, data, configuration) nobody can tell from its file: it is for the caller to add.

use crate::compress::MAX_FILE;
use crate::root::{Root, read_limited};
use crate::{Error, elf, image::Kind};
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A file or link to be packed.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// A file or a symbolic link.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// A file's bytes or a link's target.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for PackedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:04o} {} bytes", self.kind, self.mode, self.data.len())
    }
}

/// Where a script's `env` looks for programs.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// More files than any closure has.
const MOST: usize = 10_000;

/// Programs, files and links to be packed, by their absolute path.
#[derive(Clone, Default, Debug)]
pub struct Packed {
    files: BTreeMap<String, PackedFile>,
    /// Where libc was found: a directory that the loader knows by itself.
    libc: Option<String>,
}

/// A file whose needs are to be seen to.
struct Item {
    /// Its real path.
    path: String,
    bytes: Vec<u8>,
    /// Who needs it, the first that was asked for in front.
    chain: Vec<String>,
    /// RPATH of those in the chain: each a list and the directory of whoever has it.
    rpath: Vec<(String, String)>,
}

impl Packed {
    /// What there is, by absolute path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &PackedFile)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Bytes in all.
    pub fn size(&self) -> usize {
        self.files.values().map(|f| f.data.len()).sum()
    }

    /// Takes in what another has. An error when both have something else at one path.
    pub fn merge(&mut self, other: Self) -> Result<(), Error> {
        for (path, file) in other.files {
            self.insert(&path, file)?;
        }
        self.libc = self.libc.take().or(other.libc);
        Ok(())
    }

    /// Adds a file that is made for the image: configuration, keys.
    pub fn add_file(&mut self, path: &str, mode: u32, data: Vec<u8>) -> Result<(), Error> {
        self.insert(path, PackedFile { kind: Kind::File, mode, data })
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: &str, target: &str) -> Result<(), Error> {
        self.insert(path, PackedFile { kind: Kind::Symlink, mode: 0o777, data: target.as_bytes().to_vec() })
    }

    /// Adds the program, script or file at `path` of the running system, under the same path and with all that it needs.
    /// What is there already is not added again.
    pub fn add(&mut self, root: &Root, path: &str) -> Result<(), Error> {
        let mut queue = VecDeque::new();
        self.pack(root, path, Vec::new(), Vec::new(), &mut queue)?;
        while let Some(item) = queue.pop_front() {
            if self.files.len() > MOST {
                let reason = format!("it needs more than {MOST} files");
                return Err(Error::BadProgram { path: path.to_owned(), chain: Vec::new(), reason });
            }
            if elf::is_elf(&item.bytes) {
                self.see_to_elf(root, &item, &mut queue)?;
            } else if let Some(line) = item.bytes.strip_prefix(b"#!") {
                self.see_to_script(root, line, &item, &mut queue)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, file: PackedFile) -> Result<(), Error> {
        match self.files.get(path) {
            Some(old) if *old != file => {
                Err(Error::Archive { path: path.to_owned(), reason: "there already, with other contents" })
            }
            _ => {
                self.files.insert(path.to_owned(), file);
                Ok(())
            }
        }
    }

    /// Packs a file and every symbolic link that its path leads through. It is queued when it is new.
    fn pack(
        &mut self,
        root: &Root,
        path: &str,
        chain: Vec<String>,
        rpath: Vec<(String, String)>,
        queue: &mut VecDeque<Item>,
    ) -> Result<(), Error> {
        let real = self.follow(root, Path::new(path), &chain)?;
        let name = utf8(&real, &chain)?;
        if self.files.contains_key(&name) {
            return Ok(());
        }
        let on_disk = root.path(&real);
        let meta =
            std::fs::metadata(&on_disk).map_err(|source| Error::Read { path: on_disk.clone(), source })?;
        if !meta.is_file() {
            let reason = "it is not a file".to_owned();
            return Err(Error::BadProgram { path: name, chain, reason });
        }
        let bytes = read_limited(&on_disk, MAX_FILE)?;
        // Nobody but root is in the image, and set-user-ID means nothing there.
        let mode = meta.mode() & 0o755;
        self.insert(&name, PackedFile { kind: Kind::File, mode, data: bytes.clone() })?;
        queue.push_back(Item { path: name, bytes, chain, rpath });
        Ok(())
    }

    /// Walks a path, packs its symbolic links, and returns where it ends.
    fn follow(&mut self, root: &Root, path: &Path, chain: &[String]) -> Result<PathBuf, Error> {
        let missing = || Error::NoFile { path: path.display().to_string(), chain: chain.to_vec() };
        if !path.is_absolute() {
            let reason = "its path is not absolute".to_owned();
            return Err(Error::BadProgram {
                path: path.display().to_string(),
                chain: chain.to_vec(),
                reason,
            });
        }
        // Tells of loops and of what is not there.
        root.canonical(path)?.ok_or_else(missing)?;
        let mut rest: Vec<PathBuf> = parts(path);
        let mut done = PathBuf::from("/");
        while let Some(part) = rest.pop() {
            if part.as_os_str() == ".." {
                done.pop();
                continue;
            }
            let here = done.join(part);
            let on_disk = root.path(&here);
            match std::fs::read_link(&on_disk) {
                Ok(target) => {
                    let text = target.to_str().ok_or_else(missing)?.as_bytes().to_vec();
                    self.insert(
                        &utf8(&here, chain)?,
                        PackedFile { kind: Kind::Symlink, mode: 0o777, data: text },
                    )?;
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    rest.extend(parts(&target));
                }
                // It is no link.
                Err(_) => done = here,
            }
        }
        Ok(done)
    }

    fn see_to_script(
        &mut self,
        root: &Root,
        line: &[u8],
        item: &Item,
        queue: &mut VecDeque<Item>,
    ) -> Result<(), Error> {
        // As much of the first line as the kernel reads (BINPRM_BUF_SIZE).
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line.get(..254).unwrap_or(line)).into_owned();
        let mut words = line.split_whitespace();
        let chain = [&item.chain[..], std::slice::from_ref(&item.path)].concat();
        let Some(interpreter) = words.next() else {
            let reason = "a script that names no interpreter".to_owned();
            return Err(Error::BadProgram { path: item.path.clone(), chain: item.chain.clone(), reason });
        };
        self.pack(root, interpreter, chain.clone(), Vec::new(), queue)?;
        if interpreter.rsplit('/').next() != Some("env") {
            return Ok(());
        }
        let Some(program) = words.find(|w| !w.starts_with('-') && !w.contains('=')) else { return Ok(()) };
        if program.starts_with('/') {
            return self.pack(root, program, chain, Vec::new(), queue);
        }
        for directory in PATH {
            let path = format!("{directory}/{program}");
            if root.exists(&path)? {
                return self.pack(root, &path, chain, Vec::new(), queue);
            }
        }
        Err(Error::NoFile { path: program.to_owned(), chain })
    }

    fn see_to_elf(&mut self, root: &Root, item: &Item, queue: &mut VecDeque<Item>) -> Result<(), Error> {
        let needs = elf::dynamic(&item.bytes).map_err(|reason| Error::BadProgram {
            path: item.path.clone(),
            chain: item.chain.clone(),
            reason: reason.to_owned(),
        })?;
        let chain = [&item.chain[..], std::slice::from_ref(&item.path)].concat();
        if let Some(interpreter) = &needs.interpreter {
            self.pack(root, interpreter, chain.clone(), Vec::new(), queue)?;
        }
        if needs.needed.is_empty() {
            return Ok(());
        }
        let origin =
            item.path.rsplit_once('/').map_or("/", |(dir, _)| if dir.is_empty() { "/" } else { dir });
        let mut rpath = item.rpath.clone();
        // RUNPATH takes the place of all RPATHs, and does not reach the libraries' libraries.
        let mut first: Vec<String> = Vec::new();
        match (&needs.runpath, &needs.rpath) {
            (Some(runpath), _) => first.extend(expand(runpath, origin)),
            (None, own) => {
                rpath.extend(own.iter().map(|own| (own.clone(), origin.to_owned())));
                first.extend(rpath.iter().rev().flat_map(|(list, origin)| expand(list, origin)));
            }
        }
        let configured = configured(root)?;
        for library in &needs.needed {
            if library.contains('/') {
                self.pack(root, library, chain.clone(), rpath.clone(), queue)?;
                continue;
            }
            let own = built_in();
            let places = first.iter().chain(&configured).chain(&own);
            let mut searched = Vec::new();
            let mut found = None;
            for directory in places {
                if searched.contains(directory) {
                    continue;
                }
                searched.push(directory.clone());
                if let Some(real) = suits(root, directory, library, needs.machine)? {
                    found = Some((directory.clone(), real));
                    break;
                }
            }
            let Some((directory, real)) = found else {
                return Err(Error::NoLibrary { library: library.clone(), chain, searched });
            };
            let path = format!("{}/{library}", real.trim_end_matches('/'));
            if library.starts_with("libc.so") {
                self.libc = Some(real.clone());
            }
            self.pack(root, &path, chain.clone(), rpath.clone(), queue)?;
            if !first.contains(&directory) && !own.contains(&directory) && !own.contains(&real) {
                let at = self.libc.clone().unwrap_or_else(|| "/usr/lib".to_owned());
                let link = PackedFile { kind: Kind::Symlink, mode: 0o777, data: path.into_bytes() };
                self.insert(&format!("{at}/{library}"), link)?;
            }
        }
        Ok(())
    }
}

/// The directory itself, links followed, if it has a library of that name for that machine.
fn suits(root: &Root, directory: &str, library: &str, machine: u16) -> Result<Option<String>, Error> {
    let Some(real) = root.canonical(directory)? else { return Ok(None) };
    let Some(file) = root.canonical(real.join(library))? else { return Ok(None) };
    let on_disk = root.path(&file);
    if !on_disk.is_file() {
        return Ok(None);
    }
    // Another machine's, or not even ELF (a linker script): the loader passes over it too.
    let bytes = read_limited(&on_disk, MAX_FILE)?;
    if elf::dynamic(&bytes).is_ok_and(|d| d.machine == machine) {
        Ok(real.to_str().map(str::to_owned))
    } else {
        Ok(None)
    }
}

/// A list of directories as RPATH and RUNPATH have it. Those with tokens that we do not know, and relative ones, are left
/// out.
fn expand(list: &str, origin: &str) -> Vec<String> {
    let known = |d: &str| d.replace("${ORIGIN}", origin).replace("$ORIGIN", origin);
    list.split(':').map(known).filter(|d| d.starts_with('/') && !d.contains('$')).collect()
}

/// The directories that loaders know by themselves: distributions choose among these.
fn built_in() -> Vec<String> {
    let arch = std::env::consts::ARCH;
    let multiarch = format!("{}-linux-gnu", if arch == "powerpc64" { "powerpc64le" } else { arch });
    let own = [format!("lib/{multiarch}"), "lib64".to_owned(), "lib".to_owned()];
    ["/usr/", "/"].iter().flat_map(|top| own.iter().map(move |dir| format!("{top}{dir}"))).collect()
}

/// The directories of /etc/ld.so.conf, and of the files that it includes.
fn configured(root: &Root) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut files = vec!["/etc/ld.so.conf".to_owned()];
    let mut read = 0;
    while let Some(file) = files.pop() {
        read += 1;
        if read > 100 {
            break;
        }
        for line in root.read(&file)?.unwrap_or_default().lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let Some(pattern) = line.strip_prefix("include").filter(|p| p.starts_with(char::is_whitespace))
            else {
                found.extend(Some(line.trim_end_matches('/').to_owned()).filter(|l| l.starts_with('/')));
                continue;
            };
            let pattern = pattern.trim();
            let pattern =
                if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/{pattern}") };
            let Some((directory, name)) = pattern.rsplit_once('/') else { continue };
            let Some((before, after)) = name.split_once('*') else {
                files.push(pattern);
                continue;
            };
            let mut names = root.list(directory)?;
            names.retain(|n| {
                n.len() >= before.len() + after.len() && n.starts_with(before) && n.ends_with(after)
            });
            files.extend(names.into_iter().rev().map(|n| format!("{directory}/{n}")));
        }
    }
    Ok(found)
}

/// Components, the first one last.
fn parts(path: &Path) -> Vec<PathBuf> {
    let wanted = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    let mut parts: Vec<PathBuf> = wanted.map(|c| PathBuf::from(c.as_os_str())).collect();
    parts.reverse();
    parts
}

fn utf8(path: &Path, chain: &[String]) -> Result<String, Error> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::BadProgram {
        path: path.display().to_string(),
        chain: chain.to_vec(),
        reason: "its name is no UTF-8".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A library or program for machine 62 with these needs.
    fn object(interpreter: Option<&str>, needed: &[&str], path: Option<(u64, &str)>) -> Vec<u8> {
        let mut strings = vec![0];
        let mut add = |text: &str| {
            let at = strings.len() as u64;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut entries: Vec<(u64, u64)> = needed.iter().map(|n| (1, add(n))).collect();
        entries.extend(path.map(|(tag, list)| (tag, add(list))));
        let interpreter = interpreter.map(&mut add);
        // Headers, then the dynamic section at 0x200, then strings at 0x600, loaded at 0x10000.
        entries.push((5, 0x10600));
        entries.push((0, 0));
        let mut bytes = vec![0; 0x600];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16] = 3;
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 3;
        let mut header = |n: usize, kind: u32, at: u64, size: u64| {
            let start = 64 + 56 * n;
            bytes[start..start + 4].copy_from_slice(&kind.to_le_bytes());
            bytes[start + 8..start + 16].copy_from_slice(&at.to_le_bytes());
            bytes[start + 16..start + 24].copy_from_slice(&(0x10000 + at).to_le_bytes());
            bytes[start + 32..start + 40].copy_from_slice(&size.to_le_bytes());
        };
        header(0, 1, 0, 0x600 + strings.len() as u64);
        header(1, 2, 0x200, 16 * entries.len() as u64);
        if let Some(at) = interpreter {
            header(2, 3, 0x600 + at, 1);
        }
        for (n, (tag, value)) in entries.iter().enumerate() {
            bytes[0x200 + 16 * n..][..8].copy_from_slice(&tag.to_le_bytes());
            bytes[0x208 + 16 * n..][..8].copy_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&strings);
        bytes
    }

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// A merged /usr with a loader and a libc.
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.file("/usr/lib64/ld-linux.so.2", &object(None, &[], None));
            tree.file("/usr/lib/libc.so.6", &object(None, &["ld-linux.so.2"], None));
            for (link, target) in [("lib", "usr/lib"), ("lib64", "usr/lib64"), ("bin", "usr/bin")] {
                symlink(target, tree.0.path().join(link)).unwrap();
            }
            tree
        }

        fn file(&self, path: &str, bytes: &[u8]) {
            let path = self.0.path().join(&path[1..]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        }

        fn pack(&self, path: &str) -> Result<Vec<String>, String> {
            let mut packed = Packed::default();
            packed.add(&Root::new(self.0.path()), path).map_err(|e| e.to_string())?;
            let shown = |(path, file): (&str, &PackedFile)| match file.kind {
                Kind::Symlink => format!("{path} -> {}", String::from_utf8_lossy(&file.data)),
                _ => format!("{path} {:o}", file.mode),
            };
            Ok(packed.files().map(shown).collect())
        }
    }

    const LOADER: Option<&str> = Some("/lib64/ld-linux.so.2");

    #[test]
    fn libraries_come_with_their_libraries_and_links() {
        let tree = Tree::new();
        tree.file("/usr/bin/p", &object(LOADER, &["liba.so.1", "libc.so.6"], None));
        tree.file("/usr/lib/liba.so.1.2", &object(None, &["libb.so.1", "libc.so.6"], None));
        symlink("liba.so.1.2", tree.0.path().join("usr/lib/liba.so.1")).unwrap();
        // A cycle, and a directory that only the configuration leads to.
        tree.file("/opt/b/libb.so.1", &object(None, &["liba.so.1"], None));
        tree.file("/etc/ld.so.conf", b"include ld.so.conf.d/*.conf\n");
        tree.file("/etc/ld.so.conf.d/b.conf", b"# b\n/opt/b/ # here\n");
        assert_eq!(
            tree.pack("/bin/p").unwrap(),
            [
                "/bin -> usr/bin",
                "/lib64 -> usr/lib64",
                "/opt/b/libb.so.1 755",
                "/usr/bin/p 755",
                "/usr/lib/liba.so.1 -> liba.so.1.2",
                "/usr/lib/liba.so.1.2 755",
                "/usr/lib/libb.so.1 -> /opt/b/libb.so.1",
                "/usr/lib/libc.so.6 755",
                "/usr/lib64/ld-linux.so.2 755",
            ]
        );
    }

    #[test]
    fn paths_in_the_program_count_as_the_loader_counts_them() {
        const RPATH: u64 = 15;
        const RUNPATH: u64 = 29;
        let tree = Tree::new();
        tree.file("/opt/x/lib/liba.so", &object(None, &["libb.so"], None));
        tree.file("/opt/x/lib/libb.so", &object(None, &[], None));
        tree.file("/opt/x/bin/rpath", &object(None, &["liba.so"], Some((RPATH, "$ORIGIN/../lib:relative"))));
        tree.file("/opt/x/bin/runpath", &object(None, &["liba.so"], Some((RUNPATH, "/no:${ORIGIN}/../lib"))));
        let found = tree.pack("/opt/x/bin/rpath").unwrap();
        assert_eq!(found, ["/opt/x/bin/rpath 755", "/opt/x/lib/liba.so 755", "/opt/x/lib/libb.so 755"]);
        let error = tree.pack("/opt/x/bin/runpath").unwrap_err();
        assert!(
            error.starts_with(
                "library libb.so is not there, needed by /opt/x/bin/runpath -> /opt/x/lib/liba.so; looked for in /usr/lib/"
            ),
            "{error}"
        );
    }

    #[test]
    fn scripts_come_with_their_interpreters() {
        let tree = Tree::new();
        tree.file("/usr/bin/sh", &object(LOADER, &["libc.so.6"], None));
        tree.file("/usr/bin/env", &object(None, &[], None));
        tree.file("/usr/bin/python3", &object(None, &[], None));
        tree.file("/hook", b"#! /bin/sh -e\necho\n");
        tree.file("/other", b"#!/usr/bin/env -S A=1 python3 -I\n");
        tree.file("/none", b"#!/usr/bin/env perl\n");
        tree.file("/empty", b"#!\n");
        let found = tree.pack("/hook").unwrap().join(" ");
        assert!(
            found.contains("/bin -> usr/bin /hook 755") && found.contains("/usr/lib/libc.so.6"),
            "{found}"
        );
        let found = tree.pack("/other").unwrap().join(" ");
        assert_eq!(found, "/other 755 /usr/bin/env 755 /usr/bin/python3 755");
        assert_eq!(tree.pack("/none").unwrap_err(), "perl is not there, needed by /none");
        assert_eq!(
            tree.pack("/empty").unwrap_err(),
            "/empty cannot be packed: a script that names no interpreter"
        );
    }

    #[test]
    fn what_cannot_be_packed() {
        let tree = Tree::new();
        let mut other = object(None, &[], None);
        other[18] = 183;
        tree.file("/usr/lib/libarm.so", &other);
        tree.file("/usr/bin/p", &object(None, &["libarm.so"], None));
        tree.file(
            "/usr/bin/32",
            b"\x7fELF\x01\x01\x01                                                           ",
        );
        symlink("loop", tree.0.path().join("loop")).unwrap();
        for (path, why) in [
            ("/usr/bin/none", "/usr/bin/none is not there"),
            ("/usr/bin", "it is not a file"),
            ("bin/p", "its path is not absolute"),
            ("/usr/bin/p", "library libarm.so is not there, needed by /usr/bin/p"),
            ("/usr/bin/32", "not a 64-bit ELF file"),
            ("/loop", "too many symbolic links"),
        ] {
            let error = tree.pack(path).unwrap_err();
            assert!(error.contains(why), "{path}: {error}");
        }
    }

    #[test]
    fn data_is_packed_as_it_is() {
        let tree = Tree::new();
        tree.file("/etc/data", b"x");
        assert_eq!(tree.pack("/etc/data").unwrap(), ["/etc/data 755"]);
        let mut packed = Packed::default();
        packed.add_file("/key", 0o600, vec![1]).unwrap();
        packed.add_file("/key", 0o600, vec![1]).unwrap();
        assert!(packed.add_file("/key", 0o600, vec![2]).is_err());
        assert_eq!(packed.size(), 1);
    }

    /// The shell of this machine runs in a root that has nothing but what was packed.
    #[test]
    fn a_packed_shell_runs() {
        let mut packed = Packed::default();
        packed.add(&Root::new("/"), "/bin/sh").unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (path, file) in packed.files() {
            let to = dir.path().join(&path[1..]);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            if file.kind == Kind::Symlink {
                symlink(String::from_utf8(file.data.clone()).unwrap(), &to).unwrap();
            } else {
                fs::write(&to, &file.data).unwrap();
                fs::set_permissions(&to, fs::Permissions::from_mode(file.mode)).unwrap();
            }
        }
        let chroot = std::process::Command::new("chroot")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(dir.path())
            .args(["/bin/sh", "-c", "echo here: /*"])
            .output();
        match chroot {
            Ok(done) if done.status.success() => {
                assert!(String::from_utf8_lossy(&done.stdout).starts_with("here: /bin"));
            }
            Ok(done) if nothing_but_root(&done.stderr) => eprintln!("skipped: only root may chroot"),
            other => panic!("{other:?}"),
        }
    }

    fn nothing_but_root(said: &[u8]) -> bool {
        String::from_utf8_lossy(said).contains("Operation not permitted")
    }
}
