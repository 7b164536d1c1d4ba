//! From a plan to a reproducible crash image: the small initramfs that a crash kernel boots, with the collector as
//! its only program.
//!
//! ```text
//! /sys/class/block/vda1 ─ modules::stack ─► devices and their drivers ─┐
//! modules.dep, .alias, .softdep, .builtin ─ modules::index ────────────┤
//! modprobe.d, /proc/cmdline ─ modules::settings ───────────────────────┴► modules::resolve ─► ModulePlan
//!                                                                                               │
//! /usr/bin/ssh, its libraries, keys ─ programs ─► Packed ───────────┐                           │
//!                                                                   ▼                           ▼
//! Plan + ModulePlan + Packed + collector ─ image::build_with ─► elf::strip ─► cpio ─► compress ─► Image { bytes, id }
//! ```
//!
//! It decides which modules and firmware the target needs, and packs. It does not decide what the target is, which
//! options mount it, or what the plan says otherwise; it loads nothing and runs no program, neither depmod nor
//! modprobe nor a shell. Nothing gets into an image that the plan does not ask for.
//!
//! Words: *root*, the directory that stands for `/`; *stack*, the devices from the machine's root to the target;
//! *index*, what depmod wrote; *settings*, what modprobe.d and the command line say; *required*, said of a module
//! without which the target is out of reach; *packed* and *unpacked*, an image as it is loaded and as it lies in the
//! crash kernel's memory; *id*, the hash that names an image. The same inputs give the same bytes.

mod compress;
mod cpio;
mod elf;
mod error;
pub mod image;
pub mod modules;
pub mod programs;
pub mod root;

pub use error::Error;
pub use modules::{
    Device, FirmwareFile, ModulePlan, ModuleRequest, NetworkRequest, PackedModule, plan_modules,
};
pub use programs::Packed;
