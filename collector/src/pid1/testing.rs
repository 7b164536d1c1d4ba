//! Plans and reports for tests.

use crate::filter::Account;
use crate::manifest::DumpReport;
use crate::plan::{Action, Compression, DumpSpec, Format, Limits, PLAN_VERSION, Plan};

/// A plan with these dumps and no target.
pub fn plan(files: &[&str]) -> Plan {
    let spec = |file: &&str| DumpSpec::new(*file, 31, Format::Kdump, Compression::DEFAULT);
    Plan {
        version: PLAN_VERSION,
        host: "host".to_owned(),
        kernel_release: "6.1.0".to_owned(),
        modules: Vec::new(),
        targets: Vec::new(),
        network: None,
        fence: None,
        dumps: files.iter().map(spec).collect(),
        triage: false,
        limits: Limits::default(),
        final_action: Action::Reboot,
        on_failure: Action::Reboot,
        hooks: crate::plan::aside::Hooks::default(),
        shell: None,
        watchdog: None,
    }
}

/// The report of a dump in `file`.
pub fn report(file: &str, bytes: u64) -> DumpReport {
    DumpReport {
        file: file.to_owned(),
        format: Format::Kdump,
        level: 31,
        level_applied: 31,
        compression: Compression::DEFAULT,
        bytes,
        pages: Account::default(),
        page_size: 4096,
        scan_ms: 0,
        write_ms: 0,
        complete: true,
    }
}
