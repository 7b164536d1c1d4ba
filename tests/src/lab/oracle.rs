//! Other people's tools, which say whether our dumps are right: makedumpfile, crash, drgn, libkdumpfile.

use super::cache::Cache;
use super::command::{run, talk, tool};
use super::vmcore::{Page, PageLayout, classify};
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Nothing here may take longer.
const LIMIT: Duration = Duration::from_secs(300);

/// Version of drgn, from PyPI.
const DRGN: &str = "0.3.0";

/// Writes a dump with makedumpfile, zstd-compressed.
pub fn makedumpfile(raw: &Path, level: u8, to: &Path) -> Result<()> {
    let mut command = tool("makedumpfile")?;
    command.args(["--message-level", "0", "-z", "-d", &level.to_string()]).arg(raw).arg(to);
    succeed(&mut command, "")
}

/// The kernel log as makedumpfile reads it.
pub fn makedumpfile_dmesg(raw: &Path, to: &Path) -> Result<Vec<u8>> {
    succeed(tool("makedumpfile")?.args(["--message-level", "0", "--dump-dmesg"]).arg(raw).arg(to), "")?;
    Ok(std::fs::read(to)?)
}

/// What crash answers to `commands`, one a line, on a dump or all the parts of one.
pub fn crash(dump: &[&Path], vmlinux: &Path, commands: &str) -> Result<String> {
    let mut crash = tool("crash")?;
    // -s: no banner; no ~/.crashrc; without a terminal it pages nothing.
    crash.args(["-s", "--no_scroll", "--no_crashrc"]).arg(vmlinux).args(dump).env("HOME", "/nonexistent");
    let (status, said) = talk(&mut crash, &format!("{commands}\nexit\n"), LIMIT)?;
    ensure!(status.success(), "crash ended with {status}:\n{said}");
    Ok(said)
}

/// The end of scripts that compare pages: `pages` has records of a pfn (8 bytes, little-endian) and 4096 bytes, `dumps` are
/// names and functions from a physical address to a page.
const COMPARE: &str = r"
count = 0
with open(sys.argv[1], 'rb') as pages:
    while record := pages.read(8 + 4096):
        pfn = int.from_bytes(record[:8], 'little')
        for name, read in dumps:
            if read(pfn * 4096) != record[8:]:
                sys.exit(f'{name}: page {pfn:#x} differs')
        count += 1
assert count > 0
";

/// Reads every page of `pages` (pfn and 4096 bytes each) from every dump by libkdumpfile's own Python module, Debian's.
pub fn kdumpfile_memory(pages: &Path, dumps: &[&Path]) -> Result<()> {
    let script = format!(
        r"
import sys, kdumpfile
def reader(name):
    dump = kdumpfile.kdumpfile(name)
    return lambda address: dump.read(kdumpfile.KDUMP_MACHPHYSADDR, address, 4096)
dumps = [(name, reader(name)) for name in sys.argv[2:]]
{COMPARE}"
    );
    succeed(Command::new("/usr/bin/python3").args(["-c", &script]).arg(pages).args(dumps), "")
}

/// A thread and its stack, as drgn has them.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[expect(missing_docs, reason = "named as in the kernel")]
pub struct Thread {
    pub at: u64,
    pub pid: i64,
    pub tgid: i64,
    pub ppid: i64,
    pub comm: String,
    /// One letter, as `ps` has them.
    pub state: String,
    pub rss_pages: u64,
    pub frames: Vec<ThreadFrame>,
}

/// A frame, as drgn has it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
pub struct ThreadFrame {
    /// Where it is, or returns to.
    pub at: u64,
    /// What the function may be called; nothing of assembly and of what has no debug symbols.
    pub names: Vec<String>,
}

/// drgn in a virtual environment of its own.
#[derive(Clone, Debug)]
pub struct Drgn {
    python: PathBuf,
}

impl Drgn {
    /// Installs it into the cache where it is not there yet.
    pub fn get(cache: &Cache) -> Result<Self> {
        let dir = cache.entry(&format!("drgn/{DRGN}"), |dir| {
            // Debian's own: another one in PATH may be too old, too new, or without pip.
            run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(dir))?;
            let package = format!("drgn=={DRGN}");
            run(Command::new(dir.join("bin/python")).args(["-m", "pip", "install", "--quiet", &package]))
        })?;
        // Only the scripts of the environment hold its old path; its python finds itself.
        Ok(Self { python: dir.join("bin/python") })
    }

    fn script(&self, script: &str, arguments: &[&std::ffi::OsStr]) -> Result<String> {
        let mut python = Command::new(&self.python);
        python.args(["-c", script]).args(arguments).env("DEBUGINFOD_URLS", "");
        let (status, said) = talk(&mut python, "", LIMIT)?;
        ensure!(status.success(), "drgn's script ended with {status}:\n{said}");
        Ok(said)
    }

    /// Reads every page of `pages` (pfn and 4096 bytes each) from every dump.
    pub fn memory(&self, pages: &Path, dumps: &[&Path]) -> Result<()> {
        let script = format!(
            r"
import sys, drgn
def reader(name):
    prog = drgn.Program()
    prog.set_core_dump(name)
    return lambda address: prog.read(address, 4096, True)
dumps = [(name, reader(name)) for name in sys.argv[2:]]
{COMPARE}"
        );
        let arguments: Vec<_> = [pages].iter().chain(dumps).map(|path| path.as_os_str()).collect();
        self.script(&script, &arguments).map(drop)
    }

    /// The stack of the thread that crashed, one frame a line, after a line with its pid and name.
    pub fn crashed_stack(&self, dump: &Path, vmlinux: &Path) -> Result<String> {
        self.script(
            r"
import sys, drgn
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
thread = prog.crashed_thread()
print(thread.tid, thread.object.comm.string_().decode())
print(thread.stack_trace())
",
            &[dump.as_ref(), vmlinux.as_ref()],
        )
    }

    /// All tasks, those of idle CPUs among them, and their stacks without inlined frames. `debug`: vmlinux, and modules.
    pub fn threads(&self, dump: &Path, debug: &[&Path]) -> Result<Vec<Thread>> {
        let arguments: Vec<&std::ffi::OsStr> =
            std::iter::once(dump).chain(debug.iter().copied()).map(Path::as_os_str).collect();
        let said = self.script(
            r"
import sys, json, drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import idle_task, task_state_to_char
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.mm import task_rss
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
try: prog.load_debug_info(sys.argv[2:])
except drgn.MissingDebugInfoError: pass
def frame(frame):
    names = []
    try: assembly = frame.source()[0].endswith('.S')
    except LookupError: assembly = True
    if not assembly:
        try: names.append(frame.symbol().name)
        except LookupError: pass
        names.append(frame.name)
    return {'at': frame.pc, 'names': names}
def frames(task):
    found = []
    for one in prog.stack_trace(task):
        if one.is_inline: continue
        found.append(frame(one))
        # Of the init code of a module that is being loaded it knows nothing, and guesses what called it.
        if one.pc >> 63 and one.name.startswith('0x'): break
    return found
def thread(task):
    comm = task.comm.string_().decode(errors='replace')
    rss = task_rss(prog, task)
    return {
        'at': task.value_(), 'pid': task.pid.value_(), 'tgid': task.tgid.value_(),
        'ppid': task.real_parent.tgid.value_(), 'comm': comm, 'state': task_state_to_char(task),
        'rss_pages': rss.file + rss.anon + rss.shmem,
        'frames': frames(task),
    }
tasks = [idle_task(prog, cpu) for cpu in for_each_possible_cpu(prog)]
print(json.dumps([thread(task) for task in tasks + list(for_each_task(prog))]))
",
            &arguments,
        )?;
        serde_json::from_str(&said).with_context(|| format!("drgn's script said {said:?}"))
    }

    /// Where data lies that `vm/redact.rs` has rules for: physical address, bytes, what each becomes.
    pub fn redactable(&self, raw: &Path, vmlinux: &Path) -> Result<Vec<(u64, u64, u8)>> {
        let said = self.script(
            r"
import sys, drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.cpumask import for_each_possible_cpu
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
init_mm = prog['init_mm'].address_of_()
def tell(at, size, fill):
    while size:
        here = min(size, 4096 - at % 4096)
        print(follow_phys(init_mm, at).value_(), here, fill)
        at, size = at + here, size - here
def value(obj, fill=88):
    tell(obj.address_, drgn.sizeof(obj), fill)
init = prog['init_task']
value(init.comm)
for cpu in for_each_possible_cpu(prog):
    value(per_cpu(prog['runqueues'], cpu).idle.comm)
leaders = list(list_for_each_entry('struct task_struct', init.tasks.address_of_(), 'tasks'))
for leader in leaders:
    for task in list_for_each_entry('struct task_struct', leader.signal.thread_head.address_of_(), 'thread_node'):
        value(task.comm)
value(prog['init_uts_ns'].name.nodename)
line = prog['saved_command_line']
tell(line.value_(), len(line.string_()), 88)
tell(prog['linux_banner'].address_, 64, 88)
for sb in list_for_each_entry('struct super_block', prog['super_blocks'].address_of_(), 's_list'):
    tell(sb.s_id.address_, 8, 88)
for task in [init] + leaders:
    value(task.real_parent, 0)
# ext4's debug information is not there: its symbols by hand, and behind `struct attribute` (16 bytes) a short.
for module in list_for_each_entry('struct module', prog['modules'].address_of_(), 'list'):
    if module.name.string_() == b'ext4':
        table = module.kallsyms
        for i in range(table.num_symtab):
            symbol = table.symtab[i]
            if prog.read_c_string(table.strtab.value_() + symbol.st_name.value_()) == b'ext4_attr_first_error_time':
                tell(symbol.st_value.value_() + 16, 2, 88)
",
            &[raw.as_ref(), vmlinux.as_ref()],
        )?;
        let number = |word: Option<&str>| -> Result<u64> {
            word.and_then(|w| w.parse().ok()).with_context(|| format!("drgn's script said {said:?}"))
        };
        said.lines()
            .map(|line| {
                let mut words = line.split(' ');
                let (at, size, fill) = (number(words.next())?, number(words.next())?, number(words.next())?);
                Ok((at, size, u8::try_from(fill)?))
            })
            .collect()
    }

    /// Reads the struct page of every page of a raw vmcore up to pfn `end`, and says what the page is used for. `scratch`
    /// is a directory.
    pub fn classes(
        &self,
        raw: &Path,
        end: u64,
        vmlinux: &Path,
        scratch: &Path,
    ) -> Result<HashMap<u64, Page>> {
        let pages = scratch.join("struct-pages");
        let said = self.script(
            r"
import sys, json, drgn
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
page = prog.type('struct page')
def attempt(f):
    try: return f()
    except (LookupError, drgn.FaultError): return -1
members = 'flags mapping _mapcount compound_head private compound_order compound_dtor'.split()
values = '''PG_lru PG_private PG_swapcache PG_swapbacked PG_slab PG_hwpoison PG_head HUGETLB_PAGE_DTOR
PGTY_buddy PGTY_offline PGTY_hugetlb PGTY_slab'''.split()
offset = {m: attempt(lambda: drgn.offsetof(page, m)) for m in members}
value = {v: attempt(lambda: prog.constant(v).value_()) for v in values}
base, size, step = prog['vmemmap_base'].value_(), page.size, 512
with open(sys.argv[3], 'wb') as out:
    # The kernel maps struct pages for whole stretches of 512 pages.
    for first in range(0, int(sys.argv[4]), step):
        data = attempt(lambda: prog.read(base + first * size, step * size))
        if data != -1:
            for i in range(step):
                out.write((first + i).to_bytes(8, 'little') + data[i * size:(i + 1) * size])
print(json.dumps({'size': size, 'offset': offset, 'value': value}))
",
            &[raw.as_ref(), vmlinux.as_ref(), pages.as_ref(), end.to_string().as_ref()],
        )?;
        let layout: PageLayout = serde_json::from_str(said.lines().last().unwrap_or_default())
            .with_context(|| format!("drgn's script said {said:?}"))?;
        let mem_map = std::fs::read(&pages)?;
        std::fs::remove_file(&pages)?;
        classify(&layout, &mem_map)
    }
}

fn succeed(command: &mut Command, input: &str) -> Result<()> {
    let (status, said) = talk(command, input, LIMIT)?;
    ensure!(status.success(), "{} ended with {status}:\n{said}", super::command::shown(command));
    Ok(())
}
