//! The answer for monitors: a file for the textfile collector of Prometheus' node_exporter.

use super::{Checked, State};
use std::fmt::Write;

/// The text. Names stay, others may come.
pub fn text(checked: &Checked) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, help: &str, rows: &[(String, String)]| {
        let _ = writeln!(out, "# HELP vmcored_{name} {help}\n# TYPE vmcored_{name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(out, "vmcored_{name}{labels} {value}");
        }
    };
    let one = |value: String| vec![(String::new(), value)];
    let readiness = checked.readiness as u8;
    metric("readiness", "0 ready, 1 degraded, 2 not ready.", &one(readiness.to_string()));
    metric("checked_timestamp_seconds", "When it was looked at.", &one(checked.time.to_string()));
    let rows: Vec<_> = checked
        .checks
        .iter()
        .enumerate()
        .filter(|(_, check)| check.state != State::Skipped)
        .map(|(index, check)| {
            let value = match check.state {
                State::Ok | State::Note | State::Skipped => 0,
                State::Degraded => 1,
                State::Failed => 2,
            };
            // A ladder has checks of the same name.
            let number = checked.checks.iter().take(index).filter(|other| other.name == check.name).count();
            (format!("{{name=\"{}\",target=\"{number}\"}}", check.name), value.to_string())
        })
        .collect();
    metric("check", "0 as it should be, 1 degraded, 2 failed.", &rows);
    if let Some(bytes) = checked.reserved {
        metric("reserved_bytes", "Memory reserved for the crash kernel.", &one(bytes.to_string()));
    }
    if let Some(estimate) = &checked.estimate {
        metric("predicted_dump_bytes", "Size of a dump of now.", &one(estimate.bytes.to_string()));
        if let Some(seconds) = estimate.seconds {
            metric("predicted_dump_seconds", "Time of a dump of now.", &one(seconds.to_string()));
        }
    }
    let speeds: Vec<_> = checked
        .speeds
        .iter()
        .enumerate()
        .filter_map(|(index, speed)| {
            Some((format!("{{target=\"{index}\"}}"), format!("{:.0}", (*speed)? * 1e6)))
        })
        .collect();
    if !speeds.is_empty() {
        metric("target_write_bytes_per_second", "Speed of a target.", &speeds);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::Check;
    use crate::status::Readiness;

    #[test]
    fn metrics() {
        let check = |name, state| Check { name, state, value: "a \"b\"".into(), remedy: String::new() };
        let checked = Checked {
            schema: 1,
            readiness: Readiness::Degraded,
            time: 7,
            checks: vec![
                check("target", State::Ok),
                check("target", State::Degraded),
                check("clock", State::Skipped),
            ],
            estimate: None,
            speeds: vec![Some(120.0), None],
            reserved: Some(128),
        };
        let text = text(&checked);
        for line in [
            "vmcored_readiness 1",
            "vmcored_check{name=\"target\",target=\"0\"} 0",
            "vmcored_check{name=\"target\",target=\"1\"} 1",
            "vmcored_reserved_bytes 128",
            "vmcored_target_write_bytes_per_second{target=\"0\"} 120000000",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("clock"));
    }
}
