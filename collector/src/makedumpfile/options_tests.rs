use super::*;
use proptest::prelude::*;
use std::path::Path;

fn parsed(line: &str) -> Parsed {
    parse(line.split(' ').filter(|w| !w.is_empty()).map(OsString::from))
}

fn options(line: &str) -> Options {
    let parsed = parsed(line);
    assert!(parsed.work.is_ok(), "{line}: {:?}", parsed.work);
    parsed.options
}

fn refused(line: &str) -> String {
    match parsed(line).work {
        Err(Refusal::Getopt(why) | Refusal::Value(why) | Refusal::Usage(why) | Refusal::Missing(why)) => why,
        Ok(work) => panic!("{line}: {work:?}"),
    }
}

#[test]
fn what_distributions_pass_is_read() {
    // kdump-utils, its ssh targets, SUSE's kdump, Debian's kdump-tools.
    let fedora =
        options("-l --message-level 7 -d 31 --num-threads=4 /proc/vmcore /kdumproot/vmcore-incomplete");
    assert_eq!((fedora.levels.as_slice(), fedora.threads, fedora.messages.level), (&[31][..], 4, 7));
    let ssh = parsed("-l --message-level 7 -d 31 -F /proc/vmcore");
    assert_eq!(ssh.work, Ok(Work::Dump { vmcore: "/proc/vmcore".into(), to: To::Stdout }));
    assert!(ssh.options.messages.stdout_is_taken);
    let suse = parsed("-F --message-level 8 --dump-dmesg /proc/vmcore");
    assert!(matches!(suse.work, Ok(Work::Dmesg { to: To::Stdout, partial: false, .. })), "{suse:?}");
    let debian = options("-c -d 31 /proc/vmcore /var/crash/202611221801/dump-incomplete");
    assert_eq!((debian.format, debian.levels.as_slice()), (Format::Kdump, &[31][..]));
    assert_eq!(parsed("--check-params -l --message-level 7 -d 31 /proc/vmcore vmcore").work, Ok(Work::Check));
}

#[test]
fn modes_are_told_apart() {
    let work = |line: &str| parsed(line).work.unwrap();
    let path = |p: &str| PathBuf::from(p);
    assert_eq!(work("-h"), Work::Help);
    assert_eq!(work("--check-params -v"), Work::Version);
    assert_eq!(work("-R out"), Work::Rearrange { out: path("out") });
    assert_eq!(
        work("--split in a b c"),
        Work::Dump { vmcore: path("in"), to: To::Split(vec![path("a"), path("b"), path("c")]) }
    );
    assert_eq!(
        work("--reassemble a b c"),
        Work::Reassemble { parts: vec![path("a"), path("b")], out: path("c") }
    );
    assert_eq!(work("-g info -x vmlinux"), Work::Generate { out: path("info") });
    assert_eq!(work("--mem-usage /proc/kcore"), Work::MemUsage { kcore: path("/proc/kcore") });
    assert_eq!(
        work("--dump-dmesg --partial-dmesg in log"),
        Work::Dmesg { vmcore: path("in"), to: To::File(path("log")), partial: true }
    );
}

#[test]
fn values_are_read_as_makedumpfile_reads_them() {
    let levels = |line: &str| options(&format!("{line} a b")).levels;
    assert_eq!(levels("-d 1,31"), [1, 31]);
    assert_eq!(levels("-d 31,"), [31]);
    assert_eq!(levels("-d ,"), [0]);
    assert_eq!(levels("-d x"), [0]);
    assert_eq!(levels("-ld31"), [31]);
    let limit = |line: &str| options(&format!("{line} a b")).limit;
    assert_eq!(limit("-L 5m"), Some(5 << 20));
    assert_eq!(limit("-L1G"), Some(1 << 30));
    assert_eq!(limit("-L 4096"), Some(4096));
    let threads = |n: &str| options(&format!("--num-threads {n} a b")).threads;
    assert_eq!(["0", "-3", "x", "8", "99999999999999999999"].map(threads), [1, 1, 1, 8, MAX_THREADS]);
    assert_eq!(options("--vtop 0xffffffff81000000 a b").vtop, Some(0xffff_ffff_8100_0000));
    assert_eq!(options("--vtop ffff a b").vtop, Some(0xffff));
    let level = |line: &str| options(&format!("{line} a b")).messages.level;
    assert_eq!(level(""), 7);
    assert_eq!(level("-D --message-level 4 --show-stats"), 28);
    assert_eq!(level("--message-level x"), 0);
    // The last one counts.
    let codec = |line: &str| options(&format!("{line} a b")).compression;
    assert_eq!(codec("-c -z"), Compression::Zstd(1));
    assert_eq!(codec("-z -p -c -l"), Compression::Lzo);
    assert_eq!(codec(""), Compression::None);
    assert_eq!(options("--split --splitblock-size 1024 a b c").split_block, 1024);
    let quiet =
        options("-b 4 --cyclic-buffer 1024 --splitblock-size 4 --work-dir /tmp --non-mmap -x vmlinux a b");
    assert_eq!(quiet.vmlinux.as_deref(), Some(Path::new("vmlinux")));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    for (line, want) in [
        ("", "VMCORE and DUMPFILE"),
        ("a", "VMCORE and DUMPFILE"),
        ("a b c", "VMCORE and DUMPFILE"),
        ("-F a b", "no DUMPFILE"),
        ("-q a b", "invalid option -- 'q'"),
        ("-d 32 a b", "Dump_level(32) is invalid."),
        ("-d -1 a b", "Dump_level(-1) is invalid."),
        ("--message-level 32 a b", "Message_level(32) is invalid."),
        ("-L 0 a b", "Limit size(0) is invalid."),
        ("-L 10Q a b", "Limit size(10Q) is invalid."),
        ("-L 99999999999G a b", "is invalid."),
        ("-E -c a b", "-E cannot"),
        ("--split a b", "two DUMPFILEs"),
        ("--split -E a b c", "--split cannot"),
        ("--split -F a", "--split cannot"),
        ("--dry-run --dump-dmesg a b", "--dry-run cannot be used with --dump-dmesg."),
        ("--dry-run --reassemble a b", "--dry-run cannot be used with --reassemble."),
        ("--dry-run -g a -x b", "--dry-run cannot be used with -g."),
        ("--partial-dmesg a b", "--dump-dmesg"),
        ("-i a -x b c d", "exclude each other"),
        ("-R", "one DUMPFILE"),
        ("-R a b", "one DUMPFILE"),
        ("-R -d 31 a", "-R changes nothing"),
        ("--reassemble a", "the parts"),
        ("--reassemble -R a", "only one of"),
        ("--mem-usage", "/proc/kcore"),
        ("--vtop zz a b", "no virtual address"),
        ("-X a b", "-X: memory of a Xen"),
        ("--xen-syms x a b", "Xen"),
        ("--diskset=a b", "--diskset: dumps written by firmware"),
        ("--eppic m a b", "--eppic: eppic macros"),
        ("--extension m a b", "--extension: extensions"),
        ("--check-params -d 3x a b", "is no number and is taken as 3"),
        ("--check-params --num-threads= a b", "--num-threads"),
    ] {
        let why = refused(line);
        assert!(why.contains(want), "{line}: {why}");
    }
}

proptest! {
    #[test]
    fn any_command_line_is_read(
        words in prop::collection::vec("--?[a-z-]{0,12}(=[0-9x,]{0,3})?|-[a-zA-Z0-9]{1,4}|[0-9]{1,2}|\\PC{0,4}", 0..8)
    ) {
        let parsed = parse(words.iter().map(OsString::from));
        prop_assert!(!parsed.options.levels.is_empty());
        prop_assert!(parsed.options.levels.iter().all(|level| *level <= 31));
        prop_assert!(parsed.options.threads >= 1);
    }
}
