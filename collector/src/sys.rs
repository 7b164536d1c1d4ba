//! The only unsafe code of the project: system calls for which `nix` has no safe call.

#![expect(unsafe_code, reason = "system calls without a safe wrapper; see each SAFETY")]

use nix::unistd::{ForkResult, Pid};
use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A read-only private mapping of a stretch of a file.
pub struct Mapping {
    base: NonNull<c_void>,
    mapped: usize,
    skip: usize,
    len: usize,
    /// Of a file that may shrink: its slot in [`GUARDS`].
    guard: Option<&'static Guard>,
}

/// A mapping of which bytes may turn out not to be there, when somebody truncates the file or its disk fails. Touching
/// them raises SIGBUS, and the handler puts zeros there and takes a note.
struct Guard {
    /// First address; 0 when the slot is free, 1 while it is being filled.
    start: AtomicUsize,
    /// One past the last address.
    end: AtomicUsize,
    /// Zeros were put there.
    torn: AtomicBool,
}

/// A few for each thread. Without a free slot nothing is mapped.
static GUARDS: [Guard; 128] =
    [const { Guard { start: AtomicUsize::new(0), end: AtomicUsize::new(0), torn: AtomicBool::new(false) } };
        128];

/// Bytes of a huge page on most machines.
const HUGE_PAGE: u64 = 2 << 20;

/// Page size of the machine, for the handler.
static GUARD_PAGE: AtomicUsize = AtomicUsize::new(0);

impl Guard {
    /// A free slot for these addresses, once the handler is in place.
    fn take(start: usize, len: usize) -> io::Result<&'static Self> {
        static HANDLER: OnceLock<Result<(), nix::Error>> = OnceLock::new();
        (*HANDLER.get_or_init(|| {
            GUARD_PAGE.store(usize::try_from(host_page_size()).unwrap_or(4096), Ordering::SeqCst);
            let action = nix::sys::signal::SigAction::new(
                nix::sys::signal::SigHandler::SigAction(on_bus_error),
                nix::sys::signal::SaFlags::empty(),
                nix::sys::signal::SigSet::empty(),
            );
            // SAFETY: the handler makes one system call and touches atomics, which signals may.
            unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGBUS, &action) }.map(drop)
        }))?;
        for guard in &GUARDS {
            if guard.start.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                guard.torn.store(false, Ordering::SeqCst);
                guard.end.store(start.saturating_add(len), Ordering::SeqCst);
                guard.start.store(start, Ordering::SeqCst);
                return Ok(guard);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

/// Puts zeros where bytes of a guarded mapping are not there; everything else is as fatal as ever.
extern "C" fn on_bus_error(signal: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS fills si_addr.
    let at = unsafe { info.si_addr() }.addr();
    let page = GUARD_PAGE.load(Ordering::SeqCst).max(4096);
    for guard in &GUARDS {
        let (start, end) = (guard.start.load(Ordering::SeqCst), guard.end.load(Ordering::SeqCst));
        if start > 1 && (start..end).contains(&at) {
            let to = std::ptr::without_provenance_mut::<c_void>(at / page * page);
            // SAFETY: the page is one of a mapping of ours, and stays readable: only its contents become zeros, as the
            // file's have become unreadable.
            let put = unsafe {
                libc::mmap(
                    to,
                    page,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if put != libc::MAP_FAILED {
                guard.torn.store(true, Ordering::SeqCst);
                return;
            }
        }
    }
    // SAFETY: restores what happens without this handler; the instruction is tried again, and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Mapping {
    /// Maps `len` bytes from `at`, which need not be aligned, of /proc/vmcore, whose contents cannot change and cannot
    /// shrink.
    pub fn of_vmcore(file: &File, at: u64, len: usize) -> io::Result<Self> {
        Self::of(file, at, len, host_page_size())
    }

    /// Maps `len` bytes from `at`, which need not be aligned, of a file on a disk. Bytes that go away meanwhile read as
    /// zeros, see [`Mapping::is_torn`].
    ///
    /// What is mapped are whole huge pages of the file: where the page cache has them, one fault brings in 2 MiB instead of
    /// 64 KiB, and reading goes at the speed of memory.
    pub fn of_file(file: &File, at: u64, len: usize) -> io::Result<Self> {
        let mut mapping = Self::of(file, at, len, HUGE_PAGE)?;
        mapping.guard = Some(Guard::take(mapping.base.as_ptr().addr(), mapping.mapped)?);
        Ok(mapping)
    }

    /// Bytes of it could not be read, and are zeros.
    pub fn is_torn(&self) -> bool {
        self.guard.is_some_and(|guard| guard.torn.load(Ordering::SeqCst))
    }

    /// Maps whole multiples of `align`, which is one of the page size.
    fn of(file: &File, at: u64, len: usize, align: u64) -> io::Result<Self> {
        let start = at / align * align;
        let skip = usize::try_from(at - start).map_err(io::Error::other)?;
        let align = usize::try_from(align).map_err(io::Error::other)?;
        let mapped = skip
            .checked_add(len)
            .and_then(|end| end.checked_next_multiple_of(align))
            .and_then(NonZeroUsize::new)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let offset = i64::try_from(start).map_err(io::Error::other)?;
        // SAFETY: a fresh private read-only mapping at an address of the kernel's choice aliases nothing of ours.
        let base = unsafe {
            nix::sys::mman::mmap(
                None,
                mapped,
                nix::sys::mman::ProtFlags::PROT_READ,
                nix::sys::mman::MapFlags::MAP_PRIVATE,
                file,
                offset,
            )
        }?;
        Ok(Self { base, mapped: mapped.get(), skip, len, guard: None })
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: skip + len <= mapped, so the result is inside the mapping.
        let start = unsafe { self.base.cast::<u8>().add(self.skip) };
        // SAFETY: the range was mapped readable by `of`, lives until `drop`, and the mapping is private: a file that somebody
        // changes meanwhile is as torn as one that is read in pieces, and every byte of it is checked before use.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(guard) = self.guard {
            guard.start.store(0, Ordering::SeqCst);
        }
        // SAFETY: base and mapped are what mmap returned, and no borrow outlives self.
        if let Err(e) = unsafe { nix::sys::mman::munmap(self.base, self.mapped) } {
            log::debug!("munmap: {e}");
        }
    }
}

/// Page size of the machine this runs on (not of the crashed kernel).
pub fn host_page_size() -> u64 {
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Flag of [`kexec_file_load`]: remove the loaded image.
pub const KEXEC_FILE_UNLOAD: u64 = 1;
/// Flag of [`kexec_file_load`]: load into the crash reservation.
pub const KEXEC_FILE_ON_CRASH: u64 = 2;
/// Flag of [`kexec_file_load`]: there is no initramfs.
pub const KEXEC_FILE_NO_INITRAMFS: u64 = 4;

/// `kexec_file_load(2)`. With `KEXEC_FILE_UNLOAD` the files are not looked at.
pub fn kexec_file_load(
    kernel: Option<&File>,
    initrd: Option<&File>,
    cmdline: &CStr,
    flags: u64,
) -> io::Result<()> {
    let fd = |f: Option<&File>| f.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: cmdline is NUL-terminated and its length counts the NUL, as the call wants; the fds are open or -1.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            fd(kernel),
            fd(initrd),
            cmdline.to_bytes_with_nul().len(),
            cmdline.as_ptr(),
            flags,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `work` in a child process and returns its pid. The child ends with the returned status and runs no destructors
/// of the parent. Only for single-threaded callers.
pub fn spawn(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the caller is single-threaded (PID 1), so no lock can be held by a thread that the child does not have.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = work();
            // SAFETY: _exit ends the process at once.
            unsafe { libc::_exit(status) }
        }
    }
}

/// How a child process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Its exit status, or `Err` with the signal that killed it.
    pub status: Result<i32, i32>,
    /// Its peak resident memory, KiB.
    pub peak_kib: u64,
}

/// `wait4(2)` without waiting: `None` while the child runs.
pub fn wait_nohang(child: Pid) -> io::Result<Option<Exit>> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live locals of the types that the call fills.
    match unsafe { libc::wait4(child.as_raw(), &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) } {
        0 => return Ok(None),
        -1 => return Err(io::Error::last_os_error()),
        _ => {}
    }
    // SAFETY: rusage is integers only, for which the zeroes it was made of are valid too.
    let usage = unsafe { usage.assume_init() };
    let status =
        if libc::WIFSIGNALED(status) { Err(libc::WTERMSIG(status)) } else { Ok(libc::WEXITSTATUS(status)) };
    Ok(Some(Exit { status, peak_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0) }))
}

/// Starts write-back of `[at, at+len)` without waiting for it.
pub fn start_write_back(file: &File, at: u64, len: u64) -> io::Result<()> {
    file_range(file, at, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// Starts write-back of `[at, at+len)` and waits until it is done, so that dirty pages do not pile up.
pub fn sync_file_range(file: &File, at: u64, len: u64) -> io::Result<()> {
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    file_range(file, at, len, libc::SYNC_FILE_RANGE_WRITE | wait)
}

fn file_range(file: &File, at: u64, len: u64, flags: u32) -> io::Result<()> {
    let at = i64::try_from(at).map_err(io::Error::other)?;
    let len = i64::try_from(len).map_err(io::Error::other)?;
    // SAFETY: the fd is open; the call touches no memory of ours.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks a netlink socket for error messages in words, without a copy of the request behind them.
///
/// Since Linux commit 2d4bc93368f5 ("netlink: extended ACK reporting") (in v4.12); an older kernel refuses, which costs
/// nothing but the words.
pub fn explain_errors(socket: &impl AsRawFd) {
    for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
        let on: libc::c_int = 1;
        let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
        // SAFETY: the option's value is a live int, of the size that is passed.
        let done = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), size)
        };
        if done != 0 {
            log::debug!("netlink option {option}: {}", io::Error::last_os_error());
        }
    }
}

/// The permanent address of a network interface, by `ETHTOOL_GPERMADDR`, for kernels that do not tell it by netlink.
/// `None` where it has none, or one that is not of six bytes.
pub fn permanent_address(socket: &impl AsRawFd, interface: &str) -> Option<[u8; 6]> {
    const GPERMADDR: u32 = 0x20;
    /// `struct ethtool_perm_addr`, with room for MAX_ADDR_LEN bytes.
    #[repr(C)]
    struct PermanentAddress {
        command: u32,
        size: u32,
        data: [u8; 32],
    }
    let mut asked = PermanentAddress { command: GPERMADDR, size: 32, data: [0; 32] };
    // SAFETY: an ifreq of zeroes is valid: integers, byte arrays and a pointer, in a union.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    // The last byte stays zero, so that the name ends.
    let last = request.ifr_name.len().checked_sub(1)?;
    if interface.len() > last {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut asked).cast();
    // SAFETY: both structs live through the call; the kernel writes at most `size` bytes into `data`.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    let address = <[u8; 6]>::try_from(asked.data.get(..6)?).ok()?;
    (done == 0 && asked.size == 6 && address != [0; 6]).then_some(address)
}

/// Sets how many seconds a watchdog waits for food; what the driver makes of it.
pub fn set_watchdog_timeout(watchdog: &File, seconds: i32) -> io::Result<i32> {
    let mut value = seconds;
    watchdog_call(watchdog, libc::_IOWR::<libc::c_int>(WATCHDOG, 6), &mut value)?;
    Ok(value)
}

/// Keeps a watchdog from interrupting the machine some time before it resets it.
pub fn clear_watchdog_pretimeout(watchdog: &File) -> io::Result<()> {
    watchdog_call(watchdog, libc::_IOWR::<libc::c_int>(WATCHDOG, 8), &mut 0)
}

/// Stops a watchdog, whoever else has it open.
pub fn stop_watchdog(watchdog: &File) -> io::Result<()> {
    /// WDIOS_DISABLECARD of <linux/watchdog.h>.
    const DISABLE: i32 = 1;
    watchdog_call(watchdog, libc::_IOR::<libc::c_int>(WATCHDOG, 4), &mut { DISABLE })
}

/// WATCHDOG_IOCTL_BASE of <linux/watchdog.h>.
const WATCHDOG: u32 = b'W' as u32;

fn watchdog_call(watchdog: &File, request: libc::Ioctl, value: &mut libc::c_int) -> io::Result<()> {
    // SAFETY: each of these requests reads, and perhaps writes, one int, which lives through the call.
    let result = unsafe { libc::ioctl(watchdog.as_raw_fd(), request, std::ptr::from_mut(value)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a terminal the controlling one of this process, which leads a session, whoever else had it.
pub fn take_terminal(terminal: &File) -> io::Result<()> {
    // SAFETY: the request takes a number, and touches no memory of ours.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 1) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct dm_ioctl`, bytes.
const DM_IOCTL: usize = 312;

/// A command of device-mapper's. `request` begins with a `struct dm_ioctl`, and is where the answer comes.
pub fn device_mapper(control: &File, command: u8, request: &mut [u8]) -> io::Result<()> {
    let told = request.get(12..16).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let len = u32::try_from(request.len()).ok();
    if request.len() < DM_IOCTL || told.is_none() || told != len {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let code = libc::_IOWR::<[u8; DM_IOCTL]>(0xfd, u32::from(command));
    // SAFETY: the kernel reads and writes as many bytes as data_size says, which is the length of the slice.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), code, request.as_mut_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `SET_ARRAY_INFO`: says of an md array which metadata its members have. `info` is `mdu_array_info_t`.
pub fn md_set_array_info(array: &File, info: &[i32; 18]) -> io::Result<()> {
    let code = libc::_IOW::<[i32; 18]>(9, 0x23);
    // SAFETY: the kernel reads as many bytes as the array has.
    let done = unsafe { libc::ioctl(array.as_raw_fd(), code, info.as_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `ADD_NEW_DISK`: gives an md array a member. `disk` is `mdu_disk_info_t`.
pub fn md_add_new_disk(array: &File, disk: &[i32; 5]) -> io::Result<()> {
    let code = libc::_IOW::<[i32; 5]>(9, 0x21);
    // SAFETY: the kernel reads as many bytes as the array has.
    let done = unsafe { libc::ioctl(array.as_raw_fd(), code, disk.as_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `RUN_ARRAY`: starts an md array.
pub fn md_run(array: &File) -> io::Result<()> {
    let code = libc::_IOW::<[i32; 3]>(9, 0x30);
    // SAFETY: the kernel does not look at the argument.
    let done = unsafe { libc::ioctl(array.as_raw_fd(), code, std::ptr::null::<c_void>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `STOP_ARRAY`: stops an md array that nobody else has open.
pub fn md_stop(array: &File) -> io::Result<()> {
    let code = libc::_IO(9, 0x32);
    // SAFETY: the kernel does not look at the argument.
    let done = unsafe { libc::ioctl(array.as_raw_fd(), code, std::ptr::null::<c_void>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether this process finds a key of type `logon` in its keyrings, root's among them. As the kernel does when it copies keys for
/// a crash kernel: by request_key(2).
pub fn has_logon_key(description: &CStr) -> io::Result<bool> {
    /// include/uapi/linux/keyctl.h: KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_PROCESS_KEYRING.
    const LINK: libc::c_long = 8;
    const USER: libc::c_long = -4;
    const PROCESS: libc::c_long = -2;
    // A service has a session of its own, from which root's keyring is not seen.
    // SAFETY: numbers only.
    let linked = unsafe { libc::syscall(libc::SYS_keyctl, LINK, USER, PROCESS) };
    if linked < 0 {
        return Err(io::Error::last_os_error());
    }
    let nobody = std::ptr::null::<c_void>();
    // SAFETY: both strings end with a NUL; nobody is called for a key that is not there.
    let found =
        unsafe { libc::syscall(libc::SYS_request_key, c"logon".as_ptr(), description.as_ptr(), nobody, 0) };
    if found >= 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENOKEY) => Ok(false),
        e => Err(e),
    }
}

/// `BTRFS_IOC_SCAN_DEV`: tells btrfs of a device. `control` is /dev/btrfs-control.
pub fn btrfs_scan(control: &File, device: &CStr) -> io::Result<()> {
    /// `struct btrfs_ioctl_vol_args`.
    #[repr(C)]
    struct VolArgs {
        fd: i64,
        name: [u8; 4088],
    }
    let mut args = VolArgs { fd: 0, name: [0; 4088] };
    let name = device.to_bytes_with_nul();
    args.name.get_mut(..name.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name);
    let code = libc::_IOW::<VolArgs>(0x94, 4);
    // SAFETY: the kernel reads the struct, whose name ends with a NUL.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), code, &raw const args) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
