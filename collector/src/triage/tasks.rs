//! Tasks: every thread of every process, and what each CPU runs when it has nothing to do.

use super::{Dead, Known, Unknown};
use serde::Serialize;
use std::collections::HashSet;

/// Tasks that are looked at. `kernel.pid_max` allows no more.
const MAX_TASKS: usize = 4 << 20;

/// A thread.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Task {
    /// Its `struct task_struct`.
    #[serde(serialize_with = "crate::triage::hex")]
    pub at: u64,
    /// Its number; 0 for what a CPU runs when it has nothing to do.
    pub pid: i64,
    /// The number of its process.
    pub tgid: i64,
    /// The number of its parent's process.
    pub ppid: i64,
    /// Its name, at most 15 bytes.
    pub comm: String,
    /// What it does.
    pub state: State,
    /// The CPU that it runs on, or ran on last.
    pub cpu: u32,
    /// It was running on that CPU.
    pub running: bool,
    /// It belongs to the kernel: it has no memory of its own.
    pub kernel: bool,
    /// Bytes of its process's memory that are in RAM.
    pub rss: u64,
    /// Bytes of address space of its process.
    pub size: u64,
}

impl Task {
    /// Whether it stands for its process.
    pub fn is_leader(&self) -> bool {
        self.pid == self.tgid
    }
}

/// What a task does: `__state` or, once it has ended, `exit_state`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State(u64);

impl State {
    const INTERRUPTIBLE: u64 = 1;
    const UNINTERRUPTIBLE: u64 = 2;
    const NOLOAD: u64 = 0x400;
    const RTLOCK_WAIT: u64 = 0x1000;

    /// Out of the kernel's numbers.
    pub fn new(state: u64, exit: u64) -> Self {
        Self(if exit != 0 { exit } else { state })
    }

    /// Two letters, as `crash` has them.
    pub fn letters(self) -> &'static str {
        let has = |bit: u64| self.0 & bit != 0;
        match self.0 {
            0 => "RU",
            _ if has(0x20) => "ZO",
            _ if has(0x10 | 0x80) => "DE",
            _ if has(Self::UNINTERRUPTIBLE) && has(Self::NOLOAD) => "ID",
            _ if has(Self::UNINTERRUPTIBLE) => "UN",
            _ if has(Self::INTERRUPTIBLE) => "IN",
            _ if has(4) => "ST",
            _ if has(8) => "TR",
            _ if has(0x40) => "PA",
            _ if has(0x200) => "WA",
            _ if has(0x800) => "NE",
            // A lock that sleeps only on PREEMPT_RT, where nobody can wake it but its owner.
            _ if has(Self::RTLOCK_WAIT) => "UN",
            _ => "??",
        }
    }

    /// Whether it waits for something and cannot be woken by a signal: state `D`.
    pub fn is_blocked(self) -> bool {
        self.letters() == "UN"
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.letters())
    }
}

impl Dead<'_> {
    /// All tasks: what each CPU runs when idle, then processes in the order they were made, each followed by its threads. A
    /// list that is broken ends early, and that is noted.
    pub fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut seen = HashSet::new();
        let running: HashSet<u64> = self
            .possible_cpus()
            .unwrap_or_default()
            .iter()
            .filter_map(|cpu| self.current(*cpu).ok())
            .collect();
        let mut take = |at: u64| -> Known<()> {
            if !seen.insert(at) {
                return Ok(());
            }
            if tasks.len() >= MAX_TASKS {
                return Err(Unknown::senseless(format!("there are more than {MAX_TASKS}")));
            }
            let mut task = self.task(at)?;
            task.running = running.contains(&at);
            tasks.push(task);
            Ok(())
        };
        for cpu in self.possible_cpus().unwrap_or_default() {
            let idle = self.percpu_symbol(*cpu, "runqueues").and_then(|queue| self.get(queue, "rq", "idle"));
            // A CPU that never ran has none, or one that nothing else shows.
            if let Ok(idle) = idle
                && idle != 0
            {
                let _ = take(idle);
            }
        }
        let walk = self.symbol("init_task").and_then(|init| {
            take(init)?;
            let head = self.place(init, "task_struct", "tasks")?;
            let threads = self.member("signal_struct", "thread_head")?.offset;
            self.list(head, "task_struct", "tasks", |leader| {
                take(leader)?;
                let signal = self.get(leader, "task_struct", "signal")?;
                let walk = self.list(signal.wrapping_add(threads), "task_struct", "thread_node", &mut take);
                match walk {
                    Err(Unknown::Deadline) => Err(Unknown::Deadline),
                    other => {
                        self.known("the threads of a process", other);
                        Ok(())
                    }
                }
            })
        });
        self.known("the list of tasks, which is not complete", walk);
        tasks
    }

    /// The task at `at`; whether it is running is not looked for.
    pub fn task(&self, at: u64) -> Known<Task> {
        let of = |path| self.get(at, "task_struct", path);
        // Since Linux commit 2f064a59a11f ("sched: Change task_struct::state") (in v5.14); `state` before.
        let state = of("__state").or_else(|_| of("state"))?;
        let parent = of("real_parent")?;
        let mm = of("mm")?;
        let (mut rss, mut size) = (0, 0);
        if mm != 0 {
            rss = self.rss(mm).unwrap_or(0).saturating_add_signed(self.rss_of_threads(at).unwrap_or(0));
            size = self.get(mm, "mm_struct", "total_vm").unwrap_or(0).saturating_mul(self.page_size());
        }
        Ok(Task {
            at,
            pid: self.signed(at, "task_struct", "pid")?,
            tgid: self.signed(at, "task_struct", "tgid")?,
            ppid: self.signed(parent, "task_struct", "tgid").unwrap_or(0),
            comm: self.text(at, "task_struct", "comm")?,
            state: State::new(state, of("exit_state").unwrap_or(0)),
            cpu: u32::try_from(self.task_cpu(at).unwrap_or(0)).unwrap_or(0),
            running: false,
            kernel: mm == 0,
            rss,
            size,
        })
    }

    /// The CPU of a task. In its thread_info since Linux commit bcf9033e5449 ("sched: move CPU field back into thread_info
    /// if THREAD_INFO_IN_TASK=y") (in v5.16).
    fn task_cpu(&self, at: u64) -> Known<u64> {
        self.get(at, "task_struct", "thread_info.cpu").or_else(|_| self.get(at, "task_struct", "cpu"))
    }

    /// Bytes in RAM of a `struct mm_struct`: of files, anonymous, shared.
    ///
    /// One counter a kind, which since Linux commit f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter") (in v6.2)
    /// has a part on each CPU.
    pub fn rss(&self, mm: u64) -> Known<u64> {
        let mut pages = 0_i64;
        let kinds = ["MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES"];
        let old = self.member("mm_struct", "rss_stat.count");
        for (kind, usual) in kinds.iter().zip([0_u64, 1, 3]) {
            let index = self.enumerator(kind).ok().and_then(|i| u64::try_from(i).ok()).unwrap_or(usual);
            let one = if let Ok(old) = old {
                self.i64(mm.wrapping_add(old.offset).wrapping_add(index.wrapping_mul(8)))?
            } else {
                let stat = self.member("mm_struct", "rss_stat")?;
                let each = self.size_of("percpu_counter")?;
                self.percpu_counter(mm.wrapping_add(stat.offset).wrapping_add(index.wrapping_mul(each)))?
            };
            pages = pages.saturating_add(one);
        }
        Ok(u64::try_from(pages.max(0)).unwrap_or(0).saturating_mul(self.page_size()))
    }

    /// Bytes in RAM that the threads of a task's process have not yet added to those of its memory (SPLIT_RSS_COUNTING):
    /// until the commit above.
    fn rss_of_threads(&self, task: u64) -> Known<i64> {
        let Ok(counts) = self.member("task_struct", "rss_stat.count") else { return Ok(0) };
        let head = self
            .get(task, "task_struct", "signal")?
            .wrapping_add(self.member("signal_struct", "thread_head")?.offset);
        let mut pages = 0_i64;
        self.list(head, "task_struct", "thread_node", |thread| {
            // Files, anonymous, shared; the third is swap. Each an `int`.
            for index in [0, 1, 3] {
                let at = thread.wrapping_add(counts.offset).wrapping_add(index * 4);
                pages = pages.saturating_add(i64::from(self.i32(at)?));
            }
            Ok(())
        })?;
        Ok(pages.saturating_mul(i64::try_from(self.page_size()).unwrap_or(0)))
    }

    /// The value of a `struct percpu_counter`, with what each CPU has not yet added to it.
    pub fn percpu_counter(&self, at: u64) -> Known<i64> {
        let mut sum = self.signed(at, "percpu_counter", "count")?;
        // A kernel for one CPU has no parts.
        if let Ok(parts) = self.get(at, "percpu_counter", "counters")
            && parts != 0
        {
            for cpu in self.possible_cpus()? {
                sum = sum.saturating_add(i64::from(self.i32(self.percpu(*cpu, parts)?)?));
            }
        }
        Ok(sum)
    }

    /// Where the kernel stack of a task is: its lowest address and its bytes.
    pub fn stack_of(&self, task: u64) -> Known<(u64, u64)> {
        let base = self.get(task, "task_struct", "stack")?;
        let len = self.size_of("thread_union").ok().filter(|len| (4096..=1 << 20).contains(len));
        Ok((base, len.unwrap_or(16 << 10)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_letters() {
        for (state, exit, letters) in [
            (0, 0, "RU"),
            (1, 0, "IN"),
            (2, 0, "UN"),
            (0x102, 0, "UN"),
            (0x402, 0, "ID"),
            (0x2001, 0, "IN"),
            (0x2002, 0, "UN"),
            (4, 0, "ST"),
            (8, 0, "TR"),
            (0x80, 0x10, "DE"),
            (0x80, 0x20, "ZO"),
            (0x40, 0, "PA"),
            (0x200, 0, "WA"),
            (0x800, 0, "NE"),
            (1 << 40, 0, "??"),
        ] {
            assert_eq!(State::new(state, exit).letters(), letters, "{state:#x} {exit:#x}");
        }
        assert!(State::new(2, 0).is_blocked() && !State::new(0x402, 0).is_blocked());
    }
}
