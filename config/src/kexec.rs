//! The running kernel's side of kexec: what it reserved, whether it lets us load, loading, unloading, and what its
//! errors mean.

use collector::sys::{KEXEC_FILE_ON_CRASH, KEXEC_FILE_UNLOAD, kexec_file_load};
use initramfs::root::Root;
use nix::errno::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

/// What the running kernel says about kexec.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KexecState {
    /// Bytes reserved in all; `None` if the kernel has no kexec.
    pub reserved: Option<u64>,
    /// The reservation's ranges of physical addresses; empty where /proc/iomem hides them from who is not root.
    pub ranges: Vec<Range<u64>>,
    /// A crash kernel is loaded.
    pub loaded: bool,
    /// `kernel.kexec_load_disabled` is 1.
    pub disabled: bool,
    /// `kernel.kexec_load_limit_panic`: how many loads are left; negative for any number.
    pub limit: Option<i64>,
    /// The lockdown mode in force: `none`, `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// The `crashkernel=` of the running kernel's command line.
    pub asked: Option<String>,
    /// /sys is mounted.
    pub has_sysfs: bool,
}

/// Why a crash kernel cannot be loaded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KexecError {
    /// Not root.
    #[error("not root (uid {0}): loading a crash kernel needs CAP_SYS_BOOT; use sudo")]
    NotRoot(u32),
    /// No sysfs.
    #[error("/sys/kernel does not exist: mount sysfs on /sys")]
    NoSysfs,
    /// No kexec in this kernel.
    #[error(
        "this kernel has no kexec (no /sys/kernel/kexec_crash_loaded): boot a kernel built with CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP"
    )]
    NoKexec,
    /// Nobody asked for a reservation.
    #[error(
        "no memory is reserved for a crash kernel (/sys/kernel/kexec_crash_size is 0, no crashkernel= on the command line): add crashkernel=192M to the boot loader's kernel arguments and reboot"
    )]
    NoReservation,
    /// Asked for, not granted.
    #[error(
        "no memory is reserved for a crash kernel although the command line has {0}: the kernel could not find room or the machine has too little memory for that rule; see `dmesg | grep -i crashkernel`, choose another size and reboot"
    )]
    NotGranted(String),
    /// Switched off until the next boot.
    #[error(
        "kernel.kexec_load_disabled is 1: it cannot be set back before a reboot; remove it from sysctl.d (hardening profiles set it), or arm before it is set"
    )]
    Disabled,
    /// The counter of loads is used up.
    #[error(
        "kernel.kexec_load_limit_panic is 0: no more crash kernels may be loaded before a reboot; raise it in sysctl.d and reboot"
    )]
    LimitReached,
    /// The system call failed.
    #[error("kexec_file_load failed: {errno} ({why}): {advice}", errno = .errno.desc())]
    Refused {
        /// What the kernel said.
        errno: Errno,
        /// What it means.
        why: String,
        /// What to do.
        advice: String,
    },
}

/// For so long another program may be loading a crash kernel.
const LOADING: Duration = Duration::from_secs(20);

/// Reads what cannot be read while something is being loaded or unloaded. Since Linux commit 7bb5da0d490b ("kexec: turn all
/// kexec_mutex acquisitions into trylocks") (in v6.1) whoever asks meanwhile is told EBUSY instead of being made to wait.
fn patiently<T>(mut read: impl FnMut() -> Result<T, initramfs::Error>) -> Result<T, initramfs::Error> {
    let start = Instant::now();
    loop {
        match read() {
            Err(initramfs::Error::Read { source, .. })
                if source.raw_os_error() == Some(Errno::EBUSY as i32) && start.elapsed() < LOADING =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

impl KexecState {
    /// Reads /sys and /proc; waits while something is being loaded.
    pub fn read(root: &Root) -> Result<Self, initramfs::Error> {
        let number =
            |path: &str| Ok::<_, initramfs::Error>(root.read_line(path)?.and_then(|t| t.parse::<i64>().ok()));
        let has_kexec = root.exists("/sys/kernel/kexec_crash_loaded")?;
        let size = patiently(|| number("/sys/kernel/kexec_crash_size"))?;
        let size = size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        let cmdline = root.read("/proc/cmdline")?.unwrap_or_default();
        let asked = cmdline.split_whitespace().rfind(|a| a.starts_with("crashkernel=")).map(str::to_owned);
        Ok(Self {
            reserved: has_kexec.then_some(size),
            ranges: crash_ranges(&root.read("/proc/iomem")?.unwrap_or_default()),
            loaded: number("/sys/kernel/kexec_crash_loaded")? == Some(1),
            disabled: number("/proc/sys/kernel/kexec_load_disabled")? == Some(1),
            limit: number("/proc/sys/kernel/kexec_load_limit_panic")?,
            // Where securityfs is not mounted the command line still tells, though not what Secure Boot did.
            lockdown: match root.read_line("/sys/kernel/security/lockdown")? {
                Some(modes) => bracketed(&modes),
                None => cmdline
                    .split_whitespace()
                    .rev()
                    .find_map(|a| a.strip_prefix("lockdown="))
                    .map(str::to_owned),
            },
            asked,
            has_sysfs: root.exists("/sys/kernel")?,
        })
    }

    /// Whether there is a kernel with kexec and memory reserved.
    pub fn check_reservation(&self) -> Result<u64, KexecError> {
        match self.reserved {
            None if !self.has_sysfs => Err(KexecError::NoSysfs),
            None => Err(KexecError::NoKexec),
            Some(0) => Err(match &self.asked {
                Some(asked) => KexecError::NotGranted(asked.clone()),
                None => KexecError::NoReservation,
            }),
            Some(size) => Ok(size),
        }
    }

    /// Whether user `uid` may load now. Lockdown is no obstacle by itself: a signed kernel passes.
    pub fn check_load(&self, uid: u32) -> Result<u64, KexecError> {
        if uid != 0 {
            return Err(KexecError::NotRoot(uid));
        }
        let size = self.check_reservation()?;
        if self.disabled {
            return Err(KexecError::Disabled);
        }
        if self.limit == Some(0) {
            return Err(KexecError::LimitReached);
        }
        Ok(size)
    }

    /// What an error of kexec_file_load(2) means here.
    pub fn explain(&self, errno: Errno) -> KexecError {
        let lockdown = self.lockdown.as_deref().unwrap_or("none");
        let mib = self.reserved.unwrap_or(0) >> 20;
        let (why, advice) = match errno {
            Errno::ENOMEM | Errno::EADDRNOTAVAIL => (
                format!("the reservation of {mib} MiB is too small for kernel and image"),
                "raise crashkernel= in the boot loader's kernel arguments and reboot",
            ),
            Errno::EKEYREJECTED | Errno::ENOKEY | Errno::EBADMSG | Errno::ENOPKG | Errno::ENODATA => (
                format!("the kernel file's signature was not accepted; lockdown is {lockdown}"),
                "with Secure Boot use the distribution's signed kernel, or enrol the key that signed it (mokutil --import)",
            ),
            Errno::EPERM if lockdown != "none" => (
                format!("lockdown is {lockdown}"),
                "use a kernel file that is signed, or a kernel built with CONFIG_KEXEC_SIG; else turn Secure Boot off",
            ),
            Errno::EPERM => (
                "no CAP_SYS_BOOT, or the kernel is locked down".to_owned(),
                "be root outside a container; mount securityfs and see /sys/kernel/security/lockdown, under which only signed kernels are loaded",
            ),
            Errno::EBUSY => (
                "another program is loading a kernel, or a kexec is under way".to_owned(),
                "try again; disable kdump-tools or kdump.service if they are installed",
            ),
            Errno::ENOEXEC => (
                "the file is no kernel that this one can load".to_owned(),
                "set `image` in [kernel] to a bootable kernel of this architecture (bzImage on x86)",
            ),
            Errno::EINVAL => (
                "the kernel file is damaged, or the command line is too long".to_owned(),
                "see dmesg, and `vmcorectl arm --explain` for the command line",
            ),
            Errno::ENOSYS => {
                ("this kernel lacks the system call".to_owned(), "boot a kernel built with CONFIG_KEXEC_FILE")
            }
            _ => ("not an error we know of this call".to_owned(), "see dmesg"),
        };
        KexecError::Refused { errno, why, advice: advice.to_owned() }
    }
}

/// Loads a crash kernel.
pub fn load(kernel: &File, image: &File, cmdline: &CString, state: &KexecState) -> Result<(), KexecError> {
    kexec_file_load(Some(kernel), Some(image), cmdline, KEXEC_FILE_ON_CRASH)
        .map_err(|e| state.explain(errno(&e)))
}

/// Unloads the crash kernel. The file system call is used for this too: under lockdown the other one is refused.
pub fn unload(state: &KexecState) -> Result<(), KexecError> {
    let flags = KEXEC_FILE_UNLOAD | KEXEC_FILE_ON_CRASH;
    kexec_file_load(None, None, c"", flags).map_err(|e| state.explain(errno(&e)))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// The ranges of `Crash kernel` in /proc/iomem. Who is not root sees zeros, which are left out.
fn crash_ranges(iomem: &str) -> Vec<Range<u64>> {
    let range = |line: &str| {
        let (range, name) = line.split_once(" : ")?;
        let (start, last) = range.trim().split_once('-')?;
        let (start, last) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(last, 16).ok()?);
        (name.trim() == "Crash kernel" && last > start).then_some(start..last.checked_add(1)?)
    };
    iomem.lines().filter_map(range).collect()
}

/// The word in brackets: `none [integrity] confidentiality`.
fn bracketed(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> KexecState {
        KexecState { reserved: Some(128 << 20), has_sysfs: true, ..KexecState::default() }
    }

    #[test]
    fn a_load_under_way_is_waited_for() {
        let fails_with = |errno: Errno| initramfs::Error::Read {
            path: "/sys/kernel/kexec_crash_size".into(),
            source: io::Error::from(errno),
        };
        let mut times = 0;
        let read = patiently(|| {
            times += 1;
            if times < 3 { Err(fails_with(Errno::EBUSY)) } else { Ok(times) }
        });
        assert_eq!(read.unwrap(), 3);
        let mut times = 0;
        patiently(|| {
            times += 1;
            Err::<(), _>(fails_with(Errno::EIO))
        })
        .unwrap_err();
        assert_eq!(times, 1, "only that is waited for");
    }

    #[test]
    fn obstacles() {
        let asked = Some("crashkernel=384M-:128M".to_owned());
        let cases = [
            (good(), 1000, "not root (uid 1000)"),
            (KexecState { has_sysfs: false, reserved: None, ..good() }, 0, "mount sysfs"),
            (KexecState { reserved: None, ..good() }, 0, "no kexec"),
            (KexecState { reserved: Some(0), ..good() }, 0, "add crashkernel="),
            (KexecState { reserved: Some(0), asked, ..good() }, 0, "has crashkernel=384M-:128M"),
            (KexecState { disabled: true, ..good() }, 0, "kexec_load_disabled is 1"),
            (KexecState { limit: Some(0), ..good() }, 0, "kexec_load_limit_panic is 0"),
        ];
        for (state, uid, want) in cases {
            let got = state.check_load(uid).unwrap_err().to_string();
            assert!(got.contains(want), "{got}");
        }
        assert_eq!(good().check_load(0), Ok(128 << 20));
        assert_eq!(KexecState { limit: Some(-1), ..good() }.check_load(0), Ok(128 << 20));
    }

    #[test]
    fn refusals_are_explained() {
        let locked = KexecState { lockdown: Some("integrity".into()), ..good() };
        let cases = [
            (good(), Errno::ENOMEM, "128 MiB is too small"),
            (good(), Errno::EADDRNOTAVAIL, "128 MiB is too small"),
            (locked.clone(), Errno::EKEYREJECTED, "signature was not accepted; lockdown is integrity"),
            (good(), Errno::EBADMSG, "signature"),
            (good(), Errno::ENOPKG, "signature"),
            (locked, Errno::EPERM, "lockdown is integrity"),
            (good(), Errno::EPERM, "CAP_SYS_BOOT"),
            (good(), Errno::EBUSY, "another program"),
            (good(), Errno::ENOEXEC, "no kernel"),
            (good(), Errno::EINVAL, "command line is too long"),
            (good(), Errno::ENOSYS, "CONFIG_KEXEC_FILE"),
            (good(), Errno::EIO, "dmesg"),
        ];
        for (state, errno, want) in cases {
            let got = state.explain(errno).to_string();
            assert!(got.contains(want), "{errno}: {got}");
        }
    }

    #[test]
    fn iomem_and_lockdown_are_read() {
        let iomem = "00001000-0009ffff : System RAM\n00100000-3fffffff : System RAM\n  2f000000-36ffffff : Crash kernel\n\
                     100000000-23fffffff : System RAM\n  23a000000-23effffff : Crash kernel\n  00000000-00000000 : Crash kernel\n";
        assert_eq!(crash_ranges(iomem), [0x2f00_0000..0x3700_0000, 0x2_3a00_0000..0x2_3f00_0000]);
        assert_eq!(bracketed("none [integrity] confidentiality").as_deref(), Some("integrity"));
        assert_eq!(bracketed("none"), None);
    }

    #[test]
    fn lockdown_is_known_without_securityfs() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        std::fs::write(dir.path().join("proc/cmdline"), "lockdown=integrity quiet\n").unwrap();
        let state = KexecState::read(&Root::new(dir.path())).unwrap();
        assert_eq!(state.lockdown.as_deref(), Some("integrity"));
        let said = state.explain(Errno::EPERM).to_string();
        assert!(said.contains("lockdown is integrity"), "{said}");
    }

    #[test]
    fn state_is_read_below_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let root = Root::new(dir.path());
        assert_eq!(KexecState::read(&root).unwrap().check_reservation(), Err(KexecError::NoSysfs));
        put("sys/kernel/kexec_crash_loaded", "1\n");
        put("sys/kernel/kexec_crash_size", "134217728\n");
        put("proc/cmdline", "quiet crashkernel=128M\n");
        put("proc/sys/kernel/kexec_load_disabled", "1\n");
        put("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
        let state = KexecState::read(&root).unwrap();
        assert!(state.loaded && state.disabled);
        assert_eq!(state.reserved, Some(128 << 20));
        assert_eq!(state.asked.as_deref(), Some("crashkernel=128M"));
        assert_eq!(state.lockdown.as_deref(), Some("none"));
    }
}
