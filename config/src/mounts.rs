//! What is mounted where: `/proc/self/mountinfo`, and which mount a path lies on.

/// One line of `/proc/self/mountinfo` (proc(5)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Number of this mount.
    pub id: u64,
    /// Number of the mount that it hangs on.
    pub parent: u64,
    /// Major and minor number of the device; an anonymous device (major 0) for what has no block device.
    pub device: (u32, u32),
    /// The directory of its file system that shows here: `/`, or another for a bind mount.
    pub root: String,
    /// Where it is mounted.
    pub point: String,
    /// File system type.
    pub filesystem: String,
    /// What was mounted: `/dev/vda1`, `tmpfs`, `server:/export`.
    pub source: String,
    /// Options of its file system: `rw,subvolid=256,subvol=/@`.
    pub options: String,
}

/// The mounts of a mountinfo text. Lines that are not understood are left out: the kernel may add fields, and a line
/// of an exotic mount must not hide all others.
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Mount> {
    let mut words = line.split(' ');
    let id = words.next()?.parse().ok()?;
    let parent = words.next()?.parse().ok()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let root = unescape(words.next()?);
    let point = unescape(words.next()?);
    // Mount options, then any number of optional fields, then a lone dash.
    let mut rest = words.skip_while(|w| *w != "-").skip(1);
    Some(Mount {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        point,
        filesystem: unescape(rest.next()?),
        source: unescape(rest.next()?),
        options: unescape(rest.next().unwrap_or_default()),
    })
}

/// Space, tab, newline and backslash come as `\040` and the like.
fn unescape(word: &str) -> String {
    let bytes = word.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = word.get(at + 1..at + 4).filter(|_| byte == b'\\');
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(value) => {
                out.push(value);
                at += 4;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The mount that the absolute, link-free `path` lies on.
///
/// Walks the tree of mounts as the kernel walks a path, because the longest mount point is not always the answer:
/// a mount at `/a/b` is hidden by a later one at `/a`.
pub fn holding<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let mut here =
        mounts.iter().find(|m| m.point == "/" && !mounts.iter().any(|p| p.id == m.parent && p.id != m.id))?;
    let ends =
        std::iter::once(1).chain(path.match_indices('/').skip(1).map(|(at, _)| at)).chain([path.len()]);
    for end in ends {
        let prefix = path.get(..end)?;
        // Mounts stack: each one is entered in turn. No mount hangs on itself twice, so this ends.
        let mut entered = Vec::new();
        while let Some(next) = mounts
            .iter()
            .find(|m| m.parent == here.id && m.id != here.id && m.point == prefix && !entered.contains(&m.id))
        {
            entered.push(next.id);
            here = next;
        }
    }
    Some(here)
}

/// Where `path`, on the mount `on`, lies below the root of its file system.
pub fn below_root(on: &Mount, path: &str) -> Option<String> {
    let rest = if on.point == "/" { path } else { path.strip_prefix(on.point.as_str())? };
    let joined = format!("{}/{}", on.root.trim_end_matches('/'), rest.trim_matches('/'));
    let trimmed = joined.trim_end_matches('/');
    Some(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

/// The subvolume of a btrfs that a mount shows: its number, and its path below the top of the file system.
pub fn subvolume(mount: &Mount) -> Option<(u64, &str)> {
    let option = |name: &str| mount.options.split(',').find_map(|o| o.strip_prefix(name));
    Some((option("subvolid=")?.parse().ok()?, option("subvol=")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
21 28 0:19 / /sys rw,nosuid - sysfs sysfs rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 28 254:2 / /var rw shared:2 master:3 - xfs /dev/vda2 rw
41 40 254:17 /dumps /var/crash rw - ext4 /dev/vdb1 rw
42 28 0:30 / /tmp rw - tmpfs tmpfs rw
43 28 254:3 / /my\\040disk rw - ext4 /dev/vda3 rw
50 28 254:4 / /a/b rw - ext4 /dev/hidden rw
51 28 254:5 / /a rw - ext4 /dev/over rw
60 28 254:6 / /s rw - ext4 /dev/under rw
61 60 254:7 / /s rw - ext4 /dev/top rw
garbage
";

    #[test]
    fn the_mount_of_a_path() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 10);
        let cases = [
            ("/", "/dev/vda1", "/"),
            ("/home/x", "/dev/vda1", "/home/x"),
            ("/var", "/dev/vda2", "/"),
            ("/var/crashes", "/dev/vda2", "/crashes"),
            ("/var/crash", "/dev/vdb1", "/dumps"),
            ("/var/crash/deep/er", "/dev/vdb1", "/dumps/deep/er"),
            ("/tmp/x", "tmpfs", "/x"),
            ("/my disk/d", "/dev/vda3", "/d"),
            ("/a/b/c", "/dev/over", "/b/c"),
            ("/s/d", "/dev/top", "/d"),
        ];
        for (path, source, below) in cases {
            let on = holding(&mounts, path).unwrap();
            assert_eq!(
                (on.source.as_str(), below_root(on, path).unwrap().as_str()),
                (source, below),
                "{path}"
            );
        }
    }

    #[test]
    fn an_initramfs_root_is_a_mount_too() {
        let mounts = parse("1 1 0:2 / / rw - rootfs none rw\n20 1 254:1 / /mnt rw - ext4 /dev/vda1 rw\n");
        assert_eq!(holding(&mounts, "/mnt/x").unwrap().source, "/dev/vda1");
        assert_eq!(holding(&mounts, "/var").unwrap().filesystem, "rootfs");
        // After switch_root the first root stays below the real one.
        let mounts = parse("1 1 0:2 / / rw - rootfs none rw\n20 1 254:1 / / rw - ext4 /dev/vda1 rw\n");
        assert_eq!(holding(&mounts, "/var").unwrap().source, "/dev/vda1");
        assert_eq!(holding(&[], "/var"), None);
    }
}
