//! `crashkernel=` as the kernel reads it: kernel/crash_core.c (parse_crashkernel) and
//! Documentation/admin-guide/kernel-parameters.txt.
//!
//! ```text
//! crashkernel=SIZE[@OFFSET]                          that much
//! crashkernel=START-[END]:SIZE[,…][@OFFSET]          by the size of the machine's memory
//! crashkernel=SIZE,high   crashkernel=SIZE,low       above 4 GiB, and what devices need below
//! crashkernel=SIZE,cma                               besides, lent to user memory meanwhile
//! ```
//!
//! Of each of the four forms the last on the command line counts; `,high` only where no plain one is granted, `,low` only with
//! `,high`.

use std::fmt;
use std::ops::Range;

/// What a command line asks for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Request {
    /// Without an ending.
    pub plain: Option<Plain>,
    /// Bytes above 4 GiB.
    pub high: Option<u64>,
    /// Bytes below 4 GiB, besides those above.
    pub low: Option<u64>,
    /// Bytes of contiguous memory that others may use until the crash.
    pub cma: Option<u64>,
}

/// A size, or one for each size of machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    /// In order; the first that holds the machine's memory counts. A size alone is one for all.
    pub rules: Vec<Rule>,
    /// Physical address, where one is asked for.
    pub offset: Option<u64>,
}

/// `START-END:SIZE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Bytes of memory of the machine, half-open; `u64::MAX` is no end.
    pub memory: Range<u64>,
    /// Bytes to reserve.
    pub size: u64,
}

/// Why a value is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("crashkernel={value}: {why}, at {rest:?}")]
pub struct BadCrashkernel {
    /// All of the value.
    pub value: String,
    /// From where on it is wrong.
    pub rest: String,
    /// What is wrong.
    pub why: &'static str,
}

/// The options of a kernel command line that begin with `crashkernel=`, as they stand there. What is in double quotes is one
/// argument; what comes behind `--` is for init.
pub fn options(cmdline: &str) -> Vec<String> {
    let all = crate::cmdline::split(cmdline);
    let ours = all.iter().take_while(|word| *word != "--");
    ours.filter_map(|word| word.trim_matches('"').strip_prefix("crashkernel=")).map(str::to_owned).collect()
}

/// What a kernel command line asks for.
pub fn request(cmdline: &str) -> Result<Request, BadCrashkernel> {
    let mut request = Request::default();
    for value in options(cmdline) {
        let mut reader = Reader { value: &value, rest: &value };
        match value.rsplit_once(',').map(|(_, ending)| ending) {
            Some("high") => request.high = Some(reader.with_ending()?),
            Some("low") => request.low = Some(reader.with_ending()?),
            Some("cma") => request.cma = Some(reader.with_ending()?),
            _ => request.plain = Some(reader.plain()?),
        }
    }
    Ok(request)
}

impl Plain {
    /// Bytes for a machine of `memory` bytes; `None` where no rule is for it.
    pub fn size_for(&self, memory: u64) -> Option<u64> {
        /// Since firmware keeps some, memory is rounded up before a rule is chosen.
        const STEP: u64 = 128 << 20;
        let memory = memory.checked_next_multiple_of(STEP).unwrap_or(memory);
        let rule = self.rules.iter().find(|rule| rule.memory.contains(&memory))?;
        Some(rule.size).filter(|size| *size > 0)
    }
}

impl Request {
    /// Bytes that a machine of `memory` bytes sets aside, without what is lent out; 0 where nothing is asked for.
    pub fn size_for(&self, memory: u64) -> u64 {
        match (self.plain.as_ref().and_then(|plain| plain.size_for(memory)), self.high) {
            (Some(size), _) => size,
            (None, Some(high)) => high.saturating_add(self.low.unwrap_or(0)),
            (None, None) => 0,
        }
    }
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

struct Reader<'a> {
    value: &'a str,
    rest: &'a str,
}

impl Reader<'_> {
    fn wrong<T>(&self, why: &'static str) -> Result<T, BadCrashkernel> {
        Err(BadCrashkernel { value: self.value.to_owned(), rest: self.rest.to_owned(), why })
    }

    fn eat(&mut self, what: char) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A number, as memparse() of the kernel takes it: decimal, 0x hexadecimal, 0 octal, and a letter for its unit.
    fn bytes(&mut self) -> Result<u64, BadCrashkernel> {
        let (radix, digits) = match self.rest.get(..2) {
            Some("0x" | "0X") => (16, self.rest.get(2..).unwrap_or_default()),
            _ if self.rest.starts_with('0') => (8, self.rest),
            _ => (10, self.rest),
        };
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        let (number, mut rest) = digits.split_at(end);
        if number.is_empty() {
            return self.wrong("a number is missing");
        }
        let Ok(number) = u64::from_str_radix(number, radix) else {
            return self.wrong("the number is too large");
        };
        let shift = match rest.chars().next().map(|c| c.to_ascii_uppercase()) {
            Some('K') => 10,
            Some('M') => 20,
            Some('G') => 30,
            Some('T') => 40,
            Some('P') => 50,
            Some('E') => 60,
            _ => 0,
        };
        if shift > 0 {
            rest = rest.get(1..).unwrap_or_default();
        }
        let Some(bytes) = number.checked_mul(1 << shift) else {
            return self.wrong("the number is too large");
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn offset(&mut self) -> Result<Option<u64>, BadCrashkernel> {
        let offset = if self.eat('@') { Some(self.bytes()?) } else { None };
        if self.rest.is_empty() { Ok(offset) } else { self.wrong("this is not understood") }
    }

    fn with_ending(&mut self) -> Result<u64, BadCrashkernel> {
        let size = self.bytes()?;
        if matches!(self.rest, ",high" | ",low" | ",cma") {
            Ok(size)
        } else {
            self.wrong("this is not understood")
        }
    }

    fn plain(&mut self) -> Result<Plain, BadCrashkernel> {
        if !self.value.contains(':') {
            let size = self.bytes()?;
            let rules = vec![Rule { memory: 0..u64::MAX, size }];
            return Ok(Plain { rules, offset: self.offset()? });
        }
        let mut rules = Vec::new();
        loop {
            let start = self.bytes()?;
            if !self.eat('-') {
                return self.wrong("a - is missing");
            }
            let end = if self.rest.starts_with(':') { u64::MAX } else { self.bytes()? };
            if end <= start {
                return self.wrong("the range ends before it begins");
            }
            if !self.eat(':') {
                return self.wrong("a : is missing");
            }
            let size = self.bytes()?;
            rules.push(Rule { memory: start..end, size });
            if !self.eat(',') {
                return Ok(Plain { rules, offset: self.offset()? });
            }
        }
    }
}

/// Bytes as the kernel's options have them: in the largest unit that divides them.
pub fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.memory.end == u64::MAX { String::new() } else { show_bytes(self.memory.end) };
        write!(f, "{}-{end}:{}", show_bytes(self.memory.start), show_bytes(self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;
    const G: u64 = 1 << 30;

    #[test]
    fn sizes_by_memory() {
        for (cmdline, memory, want) in [
            ("quiet", G, 0),
            ("crashkernel=128M", G, 128 * M),
            ("crashkernel=128M@16M ro", G, 128 * M),
            ("crashkernel=0x8000000", G, 128 * M),
            ("crashkernel=0200M", G, 128 * M),
            ("crashkernel=64M crashkernel=96m", G, 96 * M),
            ("crashkernel=384M-:128M", 256 * M, 0),
            ("crashkernel=384M-:128M", 383 * M, 128 * M),
            ("crashkernel=2G-64G:256M,64G-:512M", 4 * G, 256 * M),
            ("crashkernel=2G-64G:256M,64G-:512M", 64 * G, 512 * M),
            ("crashkernel=2G-64G:256M,64G-:512M", 64 * G - M, 512 * M),
            ("crashkernel=2G-64G:256M,64G-:512M@1G", G, 0),
            ("crashkernel=1G,high", 8 * G, G),
            ("crashkernel=1G,high crashkernel=256M,low", 8 * G, G + 256 * M),
            ("crashkernel=1G,high crashkernel=128M", 8 * G, 128 * M),
            ("crashkernel=16G-:128M crashkernel=1G,high", 8 * G, G),
            ("crashkernel=256M,low", 8 * G, 0),
            ("crashkernel=128M crashkernel=512M,cma", 8 * G, 128 * M),
            ("\"crashkernel=128M\"", G, 128 * M),
            ("a=\"crashkernel=1M\" -- crashkernel=64M", G, 0),
            ("xcrashkernel=64M", G, 0),
        ] {
            assert_eq!(request(cmdline).unwrap().size_for(memory), want, "{cmdline} of {memory}");
        }
        assert_eq!(request("crashkernel=1M,cma").unwrap().cma, Some(M));
        assert_eq!(request("crashkernel=1M@2M").unwrap().plain.unwrap().offset, Some(2 * M));
    }

    #[test]
    fn what_the_kernel_refuses() {
        for (value, rest, why) in [
            ("", "", "number is missing"),
            ("auto", "auto", "number is missing"),
            ("128X", "X", "not understood"),
            ("128M,medium", ",medium", "not understood"),
            ("128M@", "", "number is missing"),
            ("1G:128M", ":128M", "- is missing"),
            ("2G-1G:128M", ":128M", "ends before"),
            ("1G-2G", "", "not understood"),
            ("1G-2G:128M,", "", "number is missing"),
            ("1G-2G:128M;", ";", "not understood"),
            ("99999999999999999999", "99999999999999999999", "too large"),
            ("99999999999T", "99999999999T", "too large"),
            ("1é", "é", "not understood"),
        ] {
            // Without a colon a dash is no range.
            let want = if value == "1G-2G" { "-2G" } else { rest };
            let error = request(&format!("crashkernel={value}")).unwrap_err();
            assert!(error.why.contains(why) && error.rest == want, "{value}: {error}");
        }
    }

    #[test]
    fn bytes_are_shown_as_they_are_written() {
        for (bytes, text) in
            [(0, "0"), (1, "1"), (128 * M, "128M"), (3 * G, "3G"), (G + M, "1025M"), (1 << 40, "1T")]
        {
            assert_eq!(show_bytes(bytes), text);
        }
        assert_eq!(Rule { memory: 2 * G..u64::MAX, size: M }.to_string(), "2G-:1M");
    }
}
