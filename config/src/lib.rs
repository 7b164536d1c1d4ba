//! From what the operator wrote to a crash kernel that is loaded.
//!
//! It runs nothing after a crash: it plans, builds, loads and judges, once each time it is called; [`daemon`] does so whenever
//! something changes.
//!
//! ```text
//! /etc/vmcored.toml,
//! or /etc/kdump.conf --settings--> Settings --resolve--> Plan + modules --(initramfs)--> image --+
//!                                    ^                                                          +--arm--> kexec_file_load
//!         diagnostic: what is wrong  |           /proc/cmdline --cmdline (table)--> arguments --+             |
//!                     in the file, and where                                                    v
//!                                                       status: is what is loaded what would be loaded now?
//! ```
//!
//! Words: *settings* are what the user wrote, typed; the *plan* is everything resolved before the crash; the *image* is
//! the crash initramfs, named by its hash; *readiness* is what `status` says, with reasons.
//!
//! What is written: [`load`] finds and joins the files, [`kdump_conf`] and [`import`] read other tools'. What is resolved: [`target`], what
//! it lies on ([`storage`]) or is reached by ([`network`]), what else runs ([`aside`]). [`crashkernel`] is about the reservation.
//!
//! [`dump`] looks at what a crash has left, on any machine; [`harvest`] finds it at the next boot and accounts for it.
//!
//! [`readiness`] looks at everything that a dump needs, [`estimate`] at how large it will be, [`triggers`] at what makes the kernel panic.
//!
//! [`cli`] is the operator's command line; [`commands`] carry it out.
//!
//! Everything else is read below an injected [`initramfs::root::Root`], so that a test is a tree of files; only [`arm::arm`]
//! and [`arm::disarm`] touch the running kernel.

pub mod arm;
pub mod aside;
pub mod cli;
pub mod cmdline;
pub mod commands;
pub mod crashkernel;
pub mod daemon;
pub mod diagnostic;
pub mod dump;
pub mod estimate;
pub mod harvest;
pub mod import;
pub mod kdump_conf;
pub mod kernel_image;
pub mod kexec;
pub mod layout;
pub mod load;
pub mod mounts;
pub mod network;
pub mod readiness;
pub mod resolve;
pub mod settings;
pub mod shell;
pub mod show;
pub mod status;
pub mod storage;
pub mod target;
pub mod triggers;
