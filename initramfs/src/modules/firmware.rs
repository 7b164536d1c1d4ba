//! Firmware files of modules, as the kernel's loader looks for them.

use std::path::{Component, Path};

use super::FirmwareFile;
use super::pattern::matches;
use crate::Error;
use crate::compress::{Compression, by_name};
use crate::root::Root;

/// The files behind one firmware name of `module`: none if it is not installed, several if it has wildcards, which
/// drivers have used since there are too many files to name.
pub(super) fn find(root: &Root, release: &str, module: &str, name: &str) -> Result<Vec<FirmwareFile>, Error> {
    let path = Path::new(name);
    if name.is_empty() || !path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Ok(Vec::new());
    }
    // The kernel's order (drivers/base/firmware_loader/main.c, fw_path), the directory of the command line first.
    let directories = [
        root.read_line("/sys/module/firmware_class/parameters/path")?.unwrap_or_default(),
        format!("/lib/firmware/updates/{release}"),
        "/lib/firmware/updates".to_owned(),
        format!("/lib/firmware/{release}"),
        "/lib/firmware".to_owned(),
    ];
    let parent = path.parent().unwrap_or(Path::new(""));
    let last = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let wild = last.contains(['*', '?', '[']);
    let mut found: Vec<FirmwareFile> = Vec::new();
    // An uncompressed file in any directory comes before all compressed ones. zstd since Linux commit 23cfbc6ec44e
    // ("firmware: Add the support for ZSTD-compressed firmware files") (in v5.19).
    for suffix in ["", ".zst", ".xz"] {
        for directory in directories.iter().filter(|d| d.starts_with('/')) {
            let directory = Path::new(directory).join(parent);
            let names = if wild { root.list(&directory)? } else { vec![format!("{last}{suffix}")] };
            for plain in names.iter().filter_map(|n| n.strip_suffix(suffix)) {
                let image_path = Path::new("/lib/firmware").join(parent).join(plain);
                let image_path = image_path.to_string_lossy().into_owned();
                let known = found.iter().any(|f| f.path == image_path);
                let compressed = suffix.is_empty() && by_name(plain).1 != Compression::None;
                if known || wild && (compressed || !matches(last, plain)) {
                    continue;
                }
                let source = root.real(directory.join(format!("{plain}{suffix}")))?;
                if let Some(source) = source.filter(|p| p.is_file()) {
                    found.push(FirmwareFile { path: image_path, source, module: module.to_owned() });
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_kernels_order_of_search() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "lib/firmware/a/one.bin",
            "lib/firmware/a/one.bin.zst",
            "lib/firmware/updates/6.1/a/two.bin.xz",
            "lib/firmware/updates/6.1/a/three.bin.xz",
            "lib/firmware/a/two.bin",
            "lib/firmware/w/x1.bin.xz",
            "lib/firmware/w/x2.bin",
            "lib/firmware/w/y.bin",
            "lib/firmware/directory/z/q",
            "secret",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let root = Root::new(dir.path());
        let find = |name: &str| {
            let found = super::find(&root, "6.1", "m", name).unwrap();
            let short =
                |f: FirmwareFile| (f.path, f.source.strip_prefix(dir.path()).unwrap().display().to_string());
            found.into_iter().map(short).collect::<Vec<_>>()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(find("a/one.bin"), [pair("/lib/firmware/a/one.bin", "lib/firmware/a/one.bin")]);
        assert_eq!(find("a/two.bin"), [pair("/lib/firmware/a/two.bin", "lib/firmware/a/two.bin")]);
        assert_eq!(
            find("a/three.bin"),
            [pair("/lib/firmware/a/three.bin", "lib/firmware/updates/6.1/a/three.bin.xz")]
        );
        assert_eq!(
            find("w/x*.bin"),
            [
                pair("/lib/firmware/w/x2.bin", "lib/firmware/w/x2.bin"),
                pair("/lib/firmware/w/x1.bin", "lib/firmware/w/x1.bin.xz")
            ]
        );
        for nothing in ["", "none", "../../secret", "/secret", "directory/z", "a/../a/one.bin"] {
            assert_eq!(find(nothing), [], "{nothing}");
        }
    }
}
