//! From what the operator wrote to a crash kernel that is loaded.
pub mod arm;
pub mod cmdline;
pub mod diagnostic;
pub mod kernel_image;
pub mod kexec;
pub mod mounts;
pub mod resolve;
pub mod settings;
pub mod status;
