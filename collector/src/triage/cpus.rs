//! CPUs: their areas, what they ran, their registers.

use super::{Dead, Known, Registers, Unknown};
use crate::vmcore::EM_AARCH64;

/// No kernel has more (CONFIG_NR_CPUS).
const MAX_CPUS: u64 = 8192;

/// What is known of CPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cpus {
    /// What each CPU's copy of a per-CPU variable is away from its symbol.
    offsets: Vec<u64>,
    /// Those that are possible, ascending.
    possible: Vec<u32>,
    present: Vec<u32>,
    online: Vec<u32>,
}

impl Dead<'_> {
    /// The CPUs that can be, ascending.
    pub fn possible_cpus(&self) -> Known<&[u32]> {
        Ok(&self.all_cpus()?.possible)
    }

    /// The CPUs that were online when the kernel died, ascending. What a panic stops says that it is not online any more, but
    /// stays active: only a CPU that is taken away properly is neither.
    pub fn online_cpus(&self) -> Known<&[u32]> {
        Ok(&self.all_cpus()?.online)
    }

    /// Where a CPU's copy of the per-CPU variable whose symbol is at `at` lies.
    pub fn percpu(&self, cpu: u32, at: u64) -> Known<u64> {
        let offset =
            usize::try_from(cpu).ok().and_then(|cpu| self.all_cpus().ok()?.offsets.get(cpu).copied());
        let offset = offset.ok_or_else(|| Unknown::Missing(format!("there is no CPU {cpu}")))?;
        Ok(at.wrapping_add(offset))
    }

    /// As [`Dead::percpu`], by the symbol's name.
    pub fn percpu_symbol(&self, cpu: u32, name: &str) -> Known<u64> {
        self.percpu(cpu, self.symbol(name)?)
    }

    /// The `struct task_struct` of what a CPU ran.
    ///
    /// `current_task`, then `pcpu_hot.current_task` since Linux commit e57ef2ed97c1 ("x86: Put hot per CPU variables into a
    /// struct") (in v6.2), then `current_task` again since Linux commit 9d7de2aa8b41 ("x86/percpu/64: Use relative percpu
    /// offsets") and its neighbours (in v6.15). Where there is neither, the run queue knows it.
    pub fn current(&self, cpu: u32) -> Known<u64> {
        if self.machine() != EM_AARCH64 {
            if let Ok(at) = self.symbol("current_task") {
                return self.u64(self.percpu(cpu, at)?);
            }
            if let Ok(at) = self.symbol("pcpu_hot") {
                return self.get(self.percpu(cpu, at)?, "pcpu_hot", "current_task");
            }
        }
        let queue = self.percpu_symbol(cpu, "runqueues")?;
        self.get(queue, "rq", "curr")
    }

    /// The registers of a CPU when it stopped.
    ///
    /// The kernel keeps each CPU's note in its per-CPU area (`crash_notes`): there it is known which CPU it is of. Notes of
    /// the file are in the order of CPUs, without those that saved none; a file of QEMU's has no others, and one of each CPU
    /// that is plugged in.
    pub fn registers(&self, cpu: u32) -> Option<Registers> {
        self.own_registers(cpu).or_else(|| {
            let cpus = self.possible_cpus().ok()?;
            let kept = |cpu: &&u32| self.own_registers(**cpu).is_some();
            // Where some CPUs have theirs in memory, the others have none.
            if cpus.iter().any(|cpu| kept(&cpu)) {
                return None;
            }
            let known = self.all_cpus().ok()?;
            let of = |cpus: &&Vec<u32>| cpus.len() == self.about.prstatus.len();
            let cpus = [&known.online, &known.present].into_iter().find(of).unwrap_or(&known.online);
            let index = cpus.iter().position(|c| *c == cpu)?;
            let desc = self.about.prstatus.get(index)?;
            Registers::of_prstatus(self.machine(), desc, self.endian())
        })
    }

    fn own_registers(&self, cpu: u32) -> Option<Registers> {
        /// Header of a note, and its name, `CORE`, padded.
        const BEFORE: u64 = 12 + 8;
        let notes = self.u64(self.symbol("crash_notes").ok()?).ok()?;
        let at = self.percpu(cpu, notes).ok()?;
        let header = self.bytes(at, 20).ok()?;
        let field = |skip| self.endian().u32(&header, skip);
        let (name, len, kind) = (field(0)?, field(4)?, field(8)?);
        if (name, kind) != (5, 1) || !(112..=4096).contains(&len) {
            return None;
        }
        let desc = self.bytes(at.wrapping_add(BEFORE), usize::try_from(len).ok()?).ok()?;
        Registers::of_prstatus(self.machine(), &desc, self.endian())
    }

    /// The CPU that the kernel died on. `None` where nobody says, as on a kernel that still runs.
    pub fn panic_cpu(&self) -> Option<u32> {
        // Both start as -1. x86 alone has the second one, which a machine check that panics elsewhere also sets.
        ["panic_cpu", "crashing_cpu"].iter().find_map(|name| {
            let cpu = self.i32(self.symbol(name).ok()?).ok()?;
            let cpu = u32::try_from(cpu).ok()?;
            self.possible_cpus().ok()?.contains(&cpu).then_some(cpu)
        })
    }

    fn all_cpus(&self) -> Known<&Cpus> {
        self.cpus.get_or_init(|| self.read_cpus()).as_ref().map_err(Clone::clone)
    }

    fn read_cpus(&self) -> Known<Cpus> {
        // A constant in a kernel that was built for exactly so many (CONFIG_FORCE_NR_CPUS): then a mask has no more bits.
        let count = match self.symbol("nr_cpu_ids") {
            Ok(at) => u64::from(self.u32(at)?),
            Err(why) => self.size_of("cpumask").map_err(|_| why)?.saturating_mul(8),
        };
        if count == 0 || count > MAX_CPUS {
            return Err(Unknown::Senseless(format!("nr_cpu_ids is {count}, which cannot be")));
        }
        let mask = |name: &str| -> Known<Vec<u32>> {
            let at = self.symbol(name)?;
            let mut cpus = Vec::new();
            for word in 0..count.div_ceil(64) {
                let bits = self.u64(at.wrapping_add(word * 8))?;
                cpus.extend((0..64).filter(|bit| bits & (1 << bit) != 0).map(|bit| word * 64 + bit));
            }
            Ok(cpus
                .into_iter()
                .filter(|cpu| *cpu < count)
                .filter_map(|cpu| u32::try_from(cpu).ok())
                .collect())
        };
        let possible =
            mask("__cpu_possible_mask").unwrap_or_else(|_| (0..u32::try_from(count).unwrap_or(0)).collect());
        let present = mask("__cpu_present_mask").unwrap_or_else(|_| possible.clone());
        let mut online = mask("__cpu_online_mask").unwrap_or_else(|_| possible.clone());
        online.extend(mask("__cpu_active_mask").unwrap_or_default());
        online.sort_unstable();
        online.dedup();
        // A kernel for one CPU has no such table, and its per-CPU variables lie at their symbols.
        let offsets = match self.symbol("__per_cpu_offset") {
            Ok(table) => (0..count).map(|cpu| self.u64(table.wrapping_add(cpu * 8))).collect::<Known<_>>()?,
            Err(_) => vec![0; usize::try_from(count).unwrap_or(1)],
        };
        Ok(Cpus { offsets, possible, present, online })
    }
}
