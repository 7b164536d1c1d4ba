//! Records as text.

use super::panic_line::PanicLine;
use super::{Log, Record, Style};
use std::io::{self, Write};

/// Set in a caller id that is a CPU and not a task: `printk_caller_id()` in kernel/printk/printk.c.
const CALLER_IS_CPU: u32 = 0x8000_0000;

/// Writes records and remembers what the panic line needs.
pub(super) struct Writer<'a> {
    out: io::BufWriter<&'a mut dyn Write>,
    style: Style,
    records: u64,
    /// The first record's number, and that of the one after the last.
    numbers: Option<(u64, u64)>,
    panic: PanicLine,
    /// The current record's text, escaped.
    line: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write, style: Style) -> Self {
        let out = io::BufWriter::with_capacity(64 << 10, out);
        Self { out, style, records: 0, numbers: None, panic: PanicLine::default(), line: Vec::new() }
    }

    /// Writes one record. Its further lines are indented to where the first one's text starts.
    pub(super) fn record(&mut self, record: &Record<'_>) -> io::Result<()> {
        let seconds = record.time / 1_000_000_000;
        let micros = record.time / 1000 % 1_000_000;
        let mut prefix = format!("[{seconds:5}.{micros:06}]");
        if let Some(caller) = record.caller.filter(|_| self.style.callers) {
            let (kind, id) =
                if caller & CALLER_IS_CPU == 0 { ('T', caller) } else { ('C', caller & !CALLER_IS_CPU) };
            let caller = format!("{kind}{id}");
            prefix.push_str(&format!("[{caller:>6}]"));
        }
        prefix.push(' ');
        let mut text = record.text;
        while let [rest @ .., b'\n' | 0] = text {
            text = rest;
        }
        for (index, line) in text.split(|b| *b == b'\n').enumerate() {
            self.line.clear();
            escape(line, &mut self.line);
            self.panic.see(record.time, &self.line);
            if index == 0 {
                self.out.write_all(prefix.as_bytes())?;
            } else {
                write!(self.out, "{:width$}", "", width = prefix.len())?;
            }
            self.out.write_all(&self.line)?;
            self.out.write_all(b"\n")?;
        }
        self.records += 1;
        Ok(())
    }

    /// Takes the number of the next record, where it has one.
    pub(super) fn number(&mut self, seq: u64) {
        let first = self.numbers.map_or(seq, |(first, _)| first);
        self.numbers = Some((first, seq.saturating_add(1)));
    }

    pub(super) fn finish(mut self) -> io::Result<Log> {
        self.out.flush()?;
        let (records, panic_message) = (self.records, self.panic.decide());
        Ok(Log { records, first: self.numbers.map(|n| n.0), next: self.numbers.map(|n| n.1), panic_message })
    }
}

/// Bytes that a terminal would not show, or would obey, as `\xNN`; tabs stay.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        if matches!(byte, b' '..=b'~' | b'\t') {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}
