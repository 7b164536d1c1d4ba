//! From a live system to a crash image.
mod error;
pub mod image;
pub mod modules;
pub mod root;

pub use error::Error;
pub use modules::{FirmwareFile, ModulePlan, ModuleRequest, PackedModule, plan_modules};
