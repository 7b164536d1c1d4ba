//! A whole Debian 12 with systemd on a disk: made once by mmdebstrap, kept in the cache, laid out anew for each guest.

use super::cache::Cache;
use super::command::{output, run, tool};
use super::kernel::Kernel;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it has besides Debian's minimum. To change it, change [`NAME`] too.
const PACKAGES: &str = "systemd,systemd-sysv,udev,kmod,procps,e2fsprogs";

/// Its name in the cache.
const NAME: &str = "debian/bookworm-systemd-1";

/// The system as a tar archive.
pub fn system(cache: &Cache) -> Result<PathBuf> {
    let dir = cache.entry(NAME, |dir| {
        println!("making a Debian 12 with systemd (about 70 MB to download, once)");
        let mut make = tool("mmdebstrap")?;
        make.args(["--quiet", "--variant=minbase", "--format=tar"]).arg(format!("--include={PACKAGES}"));
        // Nobody reads them in a guest.
        make.args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]);
        run(make.arg("bookworm").arg(dir.join("system.tar")))
    })?;
    Ok(dir.join("system.tar"))
}

/// An ext4 image of the system with a kernel's files, `modules` of it, and `files` (source, absolute path, mode) in it.
pub fn disk(
    cache: &Cache,
    kernel: &Kernel,
    modules: &[&str],
    files: &[(PathBuf, &str, u32)],
    to: &Path,
    mib: u64,
) -> Result<()> {
    let archive = system(cache)?;
    let staging = tempfile::tempdir_in(to.parent().context("a disk without a directory")?)?;
    // What is added, as a second tree that is laid over the first.
    let extra = staging.path().join("extra");
    let put = |from: &Path, to: &str, mode: u32| -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let to = extra.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a file without a directory")?)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
    };
    put(&kernel.vmlinuz(), &format!("boot/vmlinuz-{}", kernel.release), 0o644)?;
    let config = format!("boot/config-{}", kernel.release);
    put(&kernel.root.join(&config), &config, 0o644)?;
    let tree = format!("usr/lib/modules/{}", kernel.release);
    for module in kernel.modules(modules)? {
        let inside = module.strip_prefix(&kernel.root).context("a module outside its kernel")?;
        put(&module, &format!("usr/{}", inside.display()), 0o644)?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        put(
            &kernel.root.join("lib/modules").join(&kernel.release).join(list),
            &format!("{tree}/{list}"),
            0o644,
        )?;
    }
    // depmod looks below /lib.
    std::os::unix::fs::symlink("usr/lib", extra.join("lib"))?;
    run(tool("depmod")?.arg("-b").arg(&extra).arg(&kernel.release).stderr(std::process::Stdio::null()))?;
    fs::remove_file(extra.join("lib"))?;
    for (from, to, mode) in files {
        put(from, to, *mode)?;
    }
    let script = "
mkdir root
tar -x -f \"$1\" -C root --exclude='./dev/*'
cp -r --no-preserve=ownership extra/. root/
chown -R 0:0 root/boot root/usr/lib/modules root/lab
echo 5eed00007e574d1580000000000000d1 > root/etc/machine-id
echo lab-debian > root/etc/hostname
truncate -s \"$3\"M \"$2\"
mke2fs -q -F -t ext4 -d root \"$2\"
";
    let mut shell = if output(Command::new("id").arg("-u"))?.trim() == "0" {
        Command::new("sh")
    } else {
        // The archive's owners are kept without being root.
        let mut fake = tool("fakeroot")?;
        fake.arg("sh");
        fake
    };
    shell.args(["-ec", script, "sh"]).arg(archive).arg(to).arg(mib.to_string());
    run(shell.current_dir(staging.path()))
}
