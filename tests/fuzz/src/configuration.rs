//! What administrators write.

use crate::Bases;
use config::crashkernel::syntax;
use config::settings::sources::Sources;
use config::{import, kdump_conf, settings};
use std::path::Path;

/// The input is a kdump.conf, or a file of shell variables of another tool. What is made of it and not complained of is a settings
/// file, and every complaint can be shown.
pub fn kdump_conf(_: &Bases, data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let sources = Sources::of(Path::new("kdump.conf"), &text);
    let translation = kdump_conf::translate(&text, 0, &sources);
    for finding in &translation.findings {
        drop(finding.to_string());
    }
    let read = settings::read(translation.written.tree(), &sources);
    let written = translation.written.text(&sources);
    match (read, settings::parse(&written, Path::new("written"))) {
        (Ok(read), Ok(again)) => assert_eq!(read, again, "{written}"),
        (Err(e), Err(_)) => drop(e.to_string()),
        (read, again) => panic!("{read:?} is not {again:?}:\n{written}"),
    }
    for name in ["/etc/sysconfig/kdump", "/etc/default/kdump-tools"] {
        let imported = import::translate(&[(name.into(), text.clone())]);
        for finding in &imported.findings {
            drop(finding.to_string());
        }
    }
}

/// The input is a kernel command line.
pub fn crashkernel(_: &Bases, data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    drop(syntax::options(&text));
    match syntax::request(&text) {
        Ok(request) => {
            for memory in [0, 1 << 20, 1 << 30, 1 << 40, u64::MAX] {
                request.size_for(memory);
            }
        }
        Err(e) => drop(e.to_string()),
    }
}
