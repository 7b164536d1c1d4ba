//! The engine as one object: open a vmcore, save its log, write its dumps. Runs after a crash and on a laptop alike.

use crate::format::DumpSink;
use crate::manifest::{CrashedKernel, DumpReport};
use crate::plan::DumpSpec;
use crate::problem::Problems;
use crate::progress::Progress;
use crate::vmcore::{ReadAt, Vmcore, VmcoreError};
use std::io;

/// Why the engine stopped.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The vmcore could not be opened.
    #[error("cannot open the vmcore")]
    Open(#[from] VmcoreError),
    /// The kernel log could not be found.
    #[error("cannot read the kernel log: {0}")]
    Log(String),
    /// The sink failed. `report` tells what is in it.
    #[error("cannot write the dump")]
    Sink {
        /// What the sink said.
        #[source]
        source: io::Error,
        /// What had been written, `complete` false.
        report: Box<DumpReport>,
    },
}

/// An opened vmcore and what was wrong with it so far.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Engine<'a> {
    vmcore: Vmcore<'a>,
    /// Soft errors so far.
    pub problems: Problems,
}

impl<'a> Engine<'a> {
    /// Reads the vmcore's headers, notes and VMCOREINFO.
    pub fn open(source: &'a dyn ReadAt) -> Result<Self, EngineError> {
        let mut problems = Problems::new();
        let vmcore = Vmcore::open(source, &mut problems)?;
        Ok(Self { vmcore, problems })
    }
    /// Seconds since 1970 of the crash (VMCOREINFO's CRASHTIME).
    pub fn crash_time(&self) -> Option<u64> {
        self.vmcore.info().get("CRASHTIME")?.parse().ok()
    }
    /// Who the crashed kernel was. `panic_message` is filled by [`Engine::dmesg`].
    pub fn kernel(&mut self) -> CrashedKernel {
        unimplemented!()
    }
    /// Writes the kernel log as text and returns the line that says why the kernel died, if one does.
    pub fn dmesg(&mut self, _out: &mut dyn io::Write) -> Result<Option<String>, EngineError> {
        unimplemented!()
    }
    /// Writes one dump. The report's `file` is `spec.file`.
    pub fn dump(
        &mut self,
        _spec: &DumpSpec,
        _sink: &mut dyn DumpSink,
        _progress: &dyn Progress,
    ) -> Result<DumpReport, EngineError> {
        unimplemented!()
    }
}
