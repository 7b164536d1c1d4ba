//! Tasks that waited and could not be woken, by what they waited for: and who held the locks.

use super::stack::{Call, Of, calls, telling};
use crate::triage::stack::Stack;
use crate::triage::{Dead, Known, Task};
use serde::Serialize;
use std::collections::HashMap;

/// Tasks that wait for the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Group {
    /// What they wait in: the first functions that are not about waiting itself.
    pub waits_in: Vec<String>,
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub tasks: Vec<Blocked>,
    /// The stack of the first.
    pub stack: Option<Stack>,
}

/// A task that waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Blocked {
    /// Its number.
    pub pid: i64,
    /// Its name.
    pub name: String,
    /// The lock that it waits for, and who held it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
}

/// A lock that somebody waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Lock {
    /// `mutex` or `rwsem`.
    pub kind: &'static str,
    /// Where it is: a symbol, where it has one.
    pub place: String,
    /// The number of the task that held it.
    pub owner: i64,
    /// Its name.
    pub owner_name: String,
}

/// All that is known of waiting tasks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Waiting {
    /// The largest group first.
    pub groups: Vec<Group>,
    /// Tasks that wait for each other in a circle: each for the next, the last for the first.
    pub circles: Vec<Vec<String>>,
    /// Blocked tasks whose stacks were not looked at: there were too many.
    pub not_looked_at: u64,
}

/// Tasks whose stacks are looked at, and that are named in a group.
const MAX_STACKS: usize = 256;
const NAMED: usize = 12;
/// Functions by which waits are told apart.
const FUNCTIONS: usize = 3;
/// Words of a stack that are looked through for what its task waits with, and waiters of one lock.
const MAX_WORDS: u64 = 1024;
const MAX_WAITERS: usize = 4096;

impl Waiting {
    /// Looks at each task that is blocked.
    pub fn of(dead: &Dead<'_>, tasks: &[Task]) -> Self {
        let blocked: Vec<&Task> = tasks.iter().filter(|t| t.state.is_blocked() && !t.running).collect();
        let by_place: HashMap<u64, &Task> = tasks.iter().map(|task| (task.at, task)).collect();
        let mut found =
            Self { not_looked_at: blocked.len().saturating_sub(MAX_STACKS) as u64, ..Self::default() };
        let mut waits: Vec<(i64, i64)> = Vec::new();
        for task in blocked.into_iter().take(MAX_STACKS) {
            let Some(stack) = dead.known(&format!("the stack of {}", task.comm), dead.stack(task.at)) else {
                continue;
            };
            let calls = calls(&stack);
            let waits_in: Vec<String> = telling(&calls, Of::Waiting)
                .iter()
                .take(FUNCTIONS)
                .map(|call| call.function.to_owned())
                .collect();
            let lock = lock(dead, task, &stack, &calls, &by_place);
            if let Some(lock) = &lock {
                waits.push((task.pid, lock.owner));
            }
            let one = Blocked { pid: task.pid, name: task.comm.clone(), lock };
            match found.groups.iter_mut().find(|group| group.waits_in == waits_in) {
                Some(group) => {
                    group.count = group.count.saturating_add(1);
                    if group.tasks.len() < NAMED {
                        group.tasks.push(one);
                    }
                }
                None => found.groups.push(Group { waits_in, count: 1, tasks: vec![one], stack: Some(stack) }),
            }
        }
        found.groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        let name = |pid: i64| {
            let task = tasks.iter().find(|task| task.pid == pid);
            format!("{} ({pid})", task.map_or("?", |task| task.comm.as_str()))
        };
        found.circles =
            circles(&waits).into_iter().map(|circle| circle.into_iter().map(name).collect()).collect();
        found
    }
}

/// Circles of tasks that wait for each other: (who waits, for whom). Each task waits for one lock at most.
fn circles(waits: &[(i64, i64)]) -> Vec<Vec<i64>> {
    let next: HashMap<i64, i64> = waits.iter().copied().collect();
    let mut done: Vec<i64> = Vec::new();
    let mut found = Vec::new();
    for (start, _) in waits {
        let mut path: Vec<i64> = Vec::new();
        let mut now = *start;
        while !done.contains(&now) {
            if let Some(at) = path.iter().position(|pid| *pid == now) {
                found.push(path.get(at..).unwrap_or_default().to_vec());
                break;
            }
            path.push(now);
            match next.get(&now) {
                Some(owner) => now = *owner,
                None => break,
            }
        }
        done.append(&mut path);
    }
    found
}

/// A kind of lock: functions that wait for it, the waiter and the lock as the kernel's types have them, and the low bits of the owner that are flags.
struct Sort {
    kind: &'static str,
    functions: &'static [&'static str],
    waiter: &'static str,
    lock: &'static str,
    flags: u64,
}

const SORTS: [Sort; 2] = [
    Sort {
        kind: "mutex",
        functions: &["__mutex_lock", "__mutex_lock_common", "mutex_lock"],
        waiter: "mutex_waiter",
        lock: "mutex",
        flags: 7,
    },
    Sort {
        kind: "rwsem",
        functions: &["rwsem_down_read_slowpath", "rwsem_down_write_slowpath"],
        waiter: "rwsem_waiter",
        lock: "rw_semaphore",
        flags: 7,
    },
];

/// The lock that a task waits for. The kernel does not say which; but what the task waits with lies on its stack: an element of
/// the lock's list of waiters, with the task's own address. It is believed when the lock's owner is a task.
fn lock(
    dead: &Dead<'_>,
    task: &Task,
    stack: &Stack,
    calls: &[Call<'_>],
    tasks: &HashMap<u64, &Task>,
) -> Option<Lock> {
    let sort = SORTS.iter().find(|sort| calls.iter().any(|call| sort.functions.contains(&call.function)))?;
    let (base, len) = dead.stack_of(task.at).ok()?;
    let top = base.checked_add(len)?;
    let from = stack.frames.first().map(|frame| frame.sp).filter(|sp| (base..top).contains(sp))?;
    let own = dead.member(sort.waiter, "task").ok()?.offset;
    let node = dead.member(sort.waiter, "list").ok()?.offset;
    for word in 0..MAX_WORDS {
        let at = from.checked_add(word * 8).filter(|at| *at < top)?;
        if dead.u64(at).ok()? != task.at {
            continue;
        }
        let waiter = at.checked_sub(own)?;
        if let Ok(Some(lock)) = owned(dead, sort, waiter.wrapping_add(node), tasks) {
            return Some(lock);
        }
    }
    None
}

/// The lock whose list of waiters `node` is on.
fn owned(dead: &Dead<'_>, sort: &Sort, node: u64, tasks: &HashMap<u64, &Task>) -> Known<Option<Lock>> {
    let list = dead.member(sort.lock, "wait_list")?.offset;
    let owner = dead.member(sort.lock, "owner")?.offset;
    let mut at = dead.u64(node)?;
    for _ in 0..MAX_WAITERS {
        if at == node || at == 0 {
            break;
        }
        let lock = at.wrapping_sub(list);
        let holder = dead.u64(lock.wrapping_add(owner))? & !sort.flags;
        if let Some(holder) = tasks.get(&holder) {
            let place = dead.spot(lock).map_or_else(|| format!("{lock:#x}"), |spot| spot.to_string());
            return Ok(Some(Lock {
                kind: sort.kind,
                place,
                owner: holder.pid,
                owner_name: holder.comm.clone(),
            }));
        }
        at = dead.u64(at)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_once() {
        for (waits, wanted) in [
            (vec![], vec![]),
            (vec![(1, 2)], vec![]),
            (vec![(1, 2), (2, 1)], vec![vec![1, 2]]),
            (vec![(5, 1), (1, 2), (2, 3), (3, 1), (6, 5)], vec![vec![1, 2, 3]]),
            (vec![(1, 1)], vec![vec![1]]),
            (vec![(1, 2), (2, 1), (3, 4), (4, 3), (7, 8)], vec![vec![1, 2], vec![3, 4]]),
        ] {
            assert_eq!(circles(&waits), wanted, "{waits:?}");
        }
    }
}
