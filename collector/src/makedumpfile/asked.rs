//! A command line of makedumpfile's that stands in a configuration: what dump it asks for.

use super::options::{self, Refusal, To, Work};
use crate::plan::{Compression, Format};
use std::ffi::OsString;
use std::path::PathBuf;

/// What dump the options ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Container.
    pub format: Format,
    /// Codec of the pages.
    pub compression: Compression,
    /// Levels, each for when the dump of the one before has no room; never empty.
    pub levels: Vec<u8>,
    /// Bytes that a file may have.
    pub limit: Option<u64>,
    /// Threads.
    pub threads: usize,
    /// To standard output, flattened.
    pub flattened: bool,
    /// Without the struct pages of what is left out.
    pub exclude_vmemmap: bool,
    /// A file of rules of what to erase.
    pub erase: Option<PathBuf>,
    /// What debugging information or VMCOREINFO was named, which this program needs none of.
    pub needless: Option<PathBuf>,
}

/// Reads options without VMCORE and DUMPFILE, the program's name left out. The error says what is wrong, in a sentence.
pub fn asked(words: &[String]) -> Result<Asked, String> {
    let parse = |operands: &[&str]| {
        let operands = operands.iter().map(|word| (*word).to_owned());
        options::parse(words.iter().cloned().chain(operands).map(OsString::from))
    };
    let mut parsed = parse(&["vmcore", "dump"]);
    if parsed.options.messages.stdout_is_taken {
        // Flattened: no DUMPFILE.
        parsed = parse(&["vmcore"]);
    }
    let options = parsed.options;
    if let Some(remark) = parsed.remark {
        return Err(remark);
    }
    let flattened = match parsed.work {
        Ok(Work::Dump { to: To::Split(_), .. }) => return Err("--split writes several files".to_owned()),
        Ok(Work::Dump { to, .. }) => to == To::Stdout,
        Ok(_) => return Err("these options write no dump".to_owned()),
        Err(Refusal::Getopt(why) | Refusal::Value(why) | Refusal::Usage(why) | Refusal::Missing(why)) => {
            return Err(why);
        }
    };
    Ok(Asked {
        format: options.format,
        compression: options.compression,
        levels: options.levels,
        limit: options.limit,
        threads: options.threads,
        flattened,
        exclude_vmemmap: options.exclude_vmemmap,
        erase: options.config,
        needless: options.info.or(options.vmlinux),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Asked, String> {
        asked(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_configurations_have() {
        let plain = Asked {
            format: Format::Kdump,
            compression: Compression::Lzo,
            levels: vec![31],
            limit: None,
            threads: 1,
            flattened: false,
            exclude_vmemmap: false,
            erase: None,
            needless: None,
        };
        assert_eq!(read("-l --message-level 7 -d 31"), Ok(plain.clone()));
        let zlib = Compression::Zlib(1);
        assert_eq!(read("-F -c -d 31"), Ok(Asked { compression: zlib, flattened: true, ..plain.clone() }));
        let elf = Asked { format: Format::Elf, compression: Compression::None, levels: vec![1, 17], ..plain };
        assert_eq!(read("-E -d 1,17"), Ok(elf));
        let erased = read("--config /etc/rules -x vmlinux -e").unwrap();
        assert_eq!(erased.erase, Some("/etc/rules".into()));
        assert_eq!((erased.needless, erased.exclude_vmemmap), (Some("vmlinux".into()), true));
    }

    #[test]
    fn what_is_no_dump() {
        for (line, why) in [
            ("-d 32", "Dump_level(32)"),
            ("-d x", "no number"),
            ("-E -c", "-E cannot"),
            ("--dump-dmesg", "no dump"),
            ("--split -d 31", "--split"),
            ("--eppic x.c", "eppic"),
            ("--nonsense", "nonsense"),
            ("-F --dump-dmesg", "no dump"),
            ("-v", "no dump"),
            ("one-more-file", "VMCORE and DUMPFILE"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
