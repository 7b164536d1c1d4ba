//! What the report on a crash says in short: from the manifest, or from `triage.json` where the crash kernel did not come to writing
//! one. Both were made of a dead kernel's memory: what is taken of them is short, and printable.

use collector::manifest::TriageRecord;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The report for machines, beside the dump.
pub const TRIAGE: &str = "triage.json";

/// A report that is longer was written by nobody we know: the log in it has at most some MiB.
const LONGEST: u64 = 64 << 20;

/// Characters of a line that are kept.
const LINE: usize = 300;
/// Of a name of the kernel's: KSYM_NAME_LEN is 512, and nobody reads that.
const NAME: usize = 128;

/// It. The keys of `verdict` in `vmcorectl list --json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// What sort of crash: `software-bug`, `out-of-memory`, …
    pub kind: String,
    /// What happened, in one line.
    pub line: String,
    /// The function that went wrong, or that waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Its module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The same for crashes of the same cause: 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl Verdict {
    /// Of a manifest.
    pub fn of_record(record: &TriageRecord) -> Self {
        Self {
            kind: record.kind.clone(),
            line: record.verdict.clone(),
            function: record.function.clone(),
            module: record.module.clone(),
            signature: Some(record.signature.clone()),
        }
        .cleaned()
    }

    /// Of a report; none where it is not one.
    pub fn read(path: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct Written {
            verdict: Verdict,
        }
        let file = File::open(path).ok()?;
        // What is not asked for is passed over, not kept.
        let written: Written = serde_json::from_reader(BufReader::new(file.take(LONGEST))).ok()?;
        Some(written.verdict.cleaned())
    }

    fn cleaned(self) -> Self {
        let name = |name: Option<String>| {
            name.map(|name| printable(&name, NAME).replace(' ', "_")).filter(|name| !name.is_empty())
        };
        let hexadecimal =
            |text: &String| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        Self {
            kind: name(Some(self.kind)).unwrap_or_else(|| "unknown".to_owned()),
            line: printable(&self.line, LINE),
            function: name(self.function),
            module: name(self.module),
            signature: self.signature.filter(hexadecimal),
        }
    }
}

/// At most so many characters of a text, none of which does anything to a terminal or a journal.
pub fn printable(text: &str, most: usize) -> String {
    // U+2028 and those that turn the direction of writing are no control characters for Unicode.
    let strange = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().filter(|c| !strange(*c)).take(most).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TRIAGE);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Verdict::read(&path)
        };
        let whole = r#"{"schema":1,"verdict":{"kind":"software-bug","line":"BUG in f [m]","evidence":["x"],"function":"f",
            "module":"m","signature":"0123456789abcdef"},"kernel":{},"log":{"lines":["a"]}}"#;
        let want = Verdict {
            kind: "software-bug".into(),
            line: "BUG in f [m]".into(),
            function: Some("f".into()),
            module: Some("m".into()),
            signature: Some("0123456789abcdef".into()),
        };
        assert_eq!(read(whole), Some(want));
        // Cut off anywhere it is no report.
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None, "{end}");
        }
        let deep = format!("{{\"verdict\":{}", "[".repeat(100_000));
        for wrong in ["", "{}", "[]", "{\"verdict\":7}", "{\"verdict\":{\"kind\":\"x\"}}", deep.as_str()] {
            assert_eq!(read(wrong), None, "{wrong:.40}");
        }
        assert_eq!(Verdict::read(&dir.path().join("none")), None);
    }

    #[test]
    fn what_it_says_is_harmless() {
        let said = Verdict {
            kind: "a b\n".into(),
            line: format!("\u{1b}[2Jx\r\ny\u{202e}{}", "z".repeat(1000)),
            function: Some("\u{7}".into()),
            module: Some("m".repeat(1000)),
            signature: Some("../../../../etc/p".into()),
        };
        let got = said.cleaned();
        assert_eq!(got.kind, "a_b");
        assert!(got.line.starts_with("[2Jxyzz") && got.line.len() == LINE, "{}", got.line);
        assert_eq!((got.function, got.module.map(|m| m.len()), got.signature), (None, Some(NAME), None));
    }
}
