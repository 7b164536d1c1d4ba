//! `--help` and `-v`.

/// What `-v` prints. Scripts look for the codecs; the version is that of the makedumpfile whose options these are.
pub(super) const VERSION: &str = concat!(
    "makedumpfile: version 1.7.9 (vmcore-collect ",
    env!("CARGO_PKG_VERSION"),
    ")\nlzo\tenabled\nsnappy\tenabled\nzstd\tenabled\n\n"
);

/// What `--help` prints.
pub(super) const HELP: &str = "\
LZO support:
  enabled
snappy support:
  enabled
zstd support:
  enabled

Usage: makedumpfile [OPTION]... VMCORE DUMPFILE
       makedumpfile -F [OPTION]... VMCORE > FLATTENED
       makedumpfile -R DUMPFILE < FLATTENED
       makedumpfile --split [OPTION]... VMCORE DUMPFILE DUMPFILE...
       makedumpfile --reassemble DUMPFILE... DUMPFILE
       makedumpfile --dump-dmesg [--partial-dmesg] VMCORE LOGFILE
       makedumpfile --mem-usage /proc/kcore
       makedumpfile -g VMCOREINFO
This is vmcore-collect, called by the name of makedumpfile.

What is written:
  -d LEVEL[,LEVEL]...      leave out pages (sum of): 1 zero, 2 cache without private data, 4 all cache, 8 user,
                           16 free; with several levels, the next one when the dump has no room [default: 0]
  -e                       leave out the struct pages of pages that are left out, on every architecture
  -c, -l, -p, -z           compress with zlib, lzo, snappy, zstd
  -E                       write an ELF core
  -F                       write to standard output, flattened; messages go to standard error
  --config FILE            erase what the rules of FILE name
Where:
  -f                       overwrite DUMPFILE
  -L SIZE                  let no file exceed SIZE bytes (K, M, G, T)
  --splitblock-size KB     let the parts of --split start at multiples of it, in memory
  --num-threads N          work in N threads
  --dry-run                do everything but write
What is known of the kernel (VMCORE's own VMCOREINFO comes first):
  -i VMCOREINFO            a text that -g wrote
  -x VMLINUX               compared with VMCORE, not needed for anything
  -g VMCOREINFO            write the running kernel's
What is said:
  --message-level N        sum of: 1 progress, 2 what happens, 4 errors, 8 debugging, 16 account of pages [default: 7]
  --show-stats             the account of pages, as --message-level 16
  -D                       debugging, as --message-level 8
  --vtop ADDRESS           how a virtual address translates
  --check-params           only check the command line
  -h, --help               this text
  -v                       version

-b, --cyclic-buffer, --work-dir and --non-mmap are accepted: nothing depends on them here.
-X, --xen-syms, --xen-vmcoreinfo, --xen_phys_start, --diskset, --eppic and --extension are refused.

Exit status: 0 done, 1 failed, 2 -i or -x is of another kernel than VMCORE.
";
