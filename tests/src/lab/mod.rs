//! The lab: stock Debian kernels in QEMU, crashed on purpose.
//!
//! No KVM is needed: everything runs under TCG. A [`guest::Guest`] is a kernel package's vmlinuz and an initramfs that is
//! made here (busybox, the modules, our static programs, a shell script as `/init`); its disks are raw files that the
//! host makes with mke2fs and reads back with debugfs, without ever mounting them. Everything that is downloaded lies in
//! the [`cache::Cache`], keyed by version, outside the checkout.

pub mod apt;
pub mod cache;
pub mod command;
pub mod console;
pub mod crasher;
pub mod debian;
pub mod disk;
pub mod foreign;
pub mod guest;
pub mod kernel;
pub mod machine;
pub mod measured;
pub mod nfs;
pub mod oracle;
pub mod package;
pub mod programs;
pub mod qemu_dump;
pub mod space;
pub mod sshd;
pub mod varlink;
pub mod vmcore;
