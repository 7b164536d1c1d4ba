//! The ladder: the targets in their order, until one has everything.
//!
//! The log is small and often all that anybody wants, so before anything that may take long each local disk gets it, also
//! those whose turn would come later. What a rung got stays there, labelled for what it is, when the next one begins.

use super::capture::{self, Job};
use super::child::{self, Bounds, Ended, Ending};
use super::hooks::{self, Moment, Place};
use super::report::Report;
use super::story::Story;
use super::{MARGIN, finish, image, mounts, network, secs, triage};
use crate::engine::chain;
use crate::fault;
use crate::manifest::{Outcome, Stage, TargetRecord};
use crate::plan::ssh::SshTarget;
use crate::plan::storage::Stack;
use crate::plan::{DeviceId, Plan, Rung, Target};
use crate::problem::{Code, Problem};
use crate::storage;
use crate::target::raw::Partition;
use crate::target::remote::Remote;
use crate::target::ssh::Patience;
use crate::target::store::Access;
use crate::target::{local, share};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Where targets are mounted, below which each has its number in the ladder.
const TARGETS: &str = "/target";

/// How long a local disk is waited for only to give it the log.
const PATIENCE: u64 = 10;

/// What the ladder came to.
#[derive(Debug)]
pub struct Climbed {
    /// The most that one target has.
    pub outcome: Outcome,
    /// That target, where it was reached.
    pub access: Option<Access>,
    /// The directory there.
    pub directory: Option<String>,
    /// A pre hook wants no dump.
    pub refused: bool,
    /// How it came to that.
    pub story: Story,
    /// Targets that are still held: mounted, connected.
    pub held: Vec<Access>,
}

/// What is known of a target that was reached.
#[derive(Clone, Debug)]
struct Reached {
    access: Access,
    /// The dump's directory, when it was made for the log.
    directory: Option<String>,
}

/// Tries the targets in their order until one has a complete dump.
pub fn climb(plan: &Plan, mut story: Story) -> Climbed {
    let mut reached: Vec<Option<Reached>> = vec![None; plan.targets.len()];
    for (index, rung) in plan.targets.iter().enumerate().skip(1) {
        if rung.to.is_local() {
            let known = spread_log(plan, index, rung, story.fork());
            if let Some(place) = reached.get_mut(index) {
                *place = known;
            }
        }
    }
    let mut best: Option<(Outcome, Option<Access>, Option<String>, Story)> = None;
    let (mut hooks_are_due, mut refused) = (!plan.hooks.pre.is_empty(), false);
    let mut held: Vec<Access> = Vec::new();
    let mut failed: Option<String> = None;
    for (index, rung) in plan.targets.iter().enumerate() {
        if let Some(failed) = failed.take() {
            log::warn!("target: {failed}; next is {}", rung.to);
        }
        let mut before = story.fork();
        story.climbs(&rung.to);
        let known = reached.get_mut(index).and_then(Option::take);
        let known = match known {
            Some(known) => {
                story.known(known.directory.as_deref());
                Some(known)
            }
            None => reach(plan, index, rung, device_limit(plan, rung), &mut story)
                .map(|access| Reached { access, directory: None }),
        };
        let mut gone = false;
        if let Some(Reached { access, directory }) = &known {
            let mut directory = directory.clone();
            if std::mem::take(&mut hooks_are_due) {
                directory = directory.or_else(|| save_log(plan, rung, access, &mut story));
                refused = !run_pre_hooks(plan, access, directory.as_deref(), &mut story, &mut before);
            }
            if !refused && plan.triage {
                directory = directory.or_else(|| {
                    run_engine(&log_only(plan), rung, access, None, &mut story);
                    story.directory.clone()
                });
                run_triage(plan, access, directory.as_deref(), &mut story);
            }
            if !refused {
                run_engine(plan, rung, access, directory.as_deref(), &mut story);
            }
            let finished = run_finish(plan, access, &mut story);
            gone = !finished && matches!(rung.to, Target::Share(_));
            if gone {
                abandon(&rung.to, access);
            } else {
                held.push(access.clone());
            }
        }
        let outcome = story.outcome_on_disk(plan);
        let directory = if outcome == Outcome::Nothing { None } else { story.directory.clone() };
        let record = TargetRecord { directory: directory.clone(), ..story.record(outcome) };
        let access = known.filter(|_| !gone).map(|known| known.access);
        let result = (outcome, access, directory, std::mem::replace(&mut story, before));
        failed.clone_from(&record.failure);
        story.remember(record);
        if best.as_ref().is_none_or(|(o, ..)| outcome > *o) {
            best = Some(result);
        }
        if outcome == Outcome::Complete || refused {
            break;
        }
    }
    held.extend(reached.into_iter().flatten().map(|known| known.access));
    let (outcome, access, directory, story) = best.unwrap_or_else(|| {
        story.problem(Code::DEVICE_MISSING, "the plan has no target".to_owned());
        (Outcome::Nothing, None, None, story)
    });
    Climbed { outcome, access, directory, refused, story, held }
}

/// Saves the log before anything of the user's runs. The directory that it is in.
fn save_log(plan: &Plan, rung: &Rung, access: &Access, story: &mut Story) -> Option<String> {
    run_engine(&log_only(plan), rung, access, None, story);
    story.has_log().then(|| story.directory.clone()).flatten()
}

/// The user's programs before the dump, once. False: one of them wants no dump. What went wrong with them concerns the story of
/// the next target, too.
fn run_pre_hooks(
    plan: &Plan,
    access: &Access,
    directory: Option<&str>,
    story: &mut Story,
    next: &mut Story,
) -> bool {
    let mut problems = Vec::new();
    let place = Place { access: Some(access), directory };
    let said = hooks::run(&plan.hooks.pre, Moment::Pre, place, story, &mut problems);
    for problem in problems {
        next.hear(Report::Problem(problem));
    }
    said.is_ok()
}

fn log_only(plan: &Plan) -> Plan {
    Plan { dumps: Vec::new(), ..plan.clone() }
}

/// Lets go of all targets. What fails is a problem of a dump that is already labelled, so it is only logged.
pub fn release(plan: &Plan, held: &[Access]) {
    for access in held {
        if let Access::Remote(remote) = access {
            remote.end();
            continue;
        }
        let bounds = Bounds { total: secs(plan.limits.finish), stall: Duration::MAX, badness: 0 };
        let mut why = None;
        let mut hear = |report: Report| {
            if let Report::Failed(text) = report {
                why = Some(text);
            }
        };
        let ended = child::run(bounds, &mut hear, |_| access.release().map_err(|e| chain(&e)));
        match (ended.ending, why) {
            (Ending::Done, _) => {}
            (_, Some(why)) => log::warn!("{why}"),
            (ending, None) => log::warn!("letting go of the target {ending}"),
        }
    }
}

/// How long a share that does not answer is let go of.
const ABANDON: Duration = Duration::from_secs(10);

/// Lets go of a share that does not answer any more: what was to be written there, and will never be, would take the memory that
/// the next target needs.
fn abandon(target: &Target, access: &Access) {
    log::warn!("target: {target} is given up");
    let bounds = Bounds { total: ABANDON, stall: Duration::MAX, badness: 0 };
    let mut hear = |report: Report| {
        if let Report::Failed(why) = report {
            log::warn!("{why}");
        }
    };
    let ended = child::run(bounds, &mut hear, |_| access.abandon().map_err(|e| chain(&e)));
    if !matches!(ended.ending, Ending::Done | Ending::Failed) {
        log::warn!("giving up the target {}", ended.ending);
    }
}

/// Gives a local disk the log, whoever gets the dump.
fn spread_log(plan: &Plan, index: usize, rung: &Rung, mut story: Story) -> Option<Reached> {
    story.climbs(&rung.to);
    let patience = device_limit(plan, rung).min(PATIENCE);
    let access = reach(plan, index, rung, patience, &mut story)?;
    let log_only = log_only(plan);
    run_engine(&log_only, rung, &access, None, &mut story);
    if plan.triage {
        let directory = story.directory.clone();
        run_triage(plan, &access, directory.as_deref(), &mut story);
    }
    run_finish(&log_only, &access, &mut story);
    let directory = story.has_log().then(|| story.directory.clone()).flatten();
    Some(Reached { access, directory })
}

/// Reaches a target. `None`: the story says why not.
fn reach(plan: &Plan, index: usize, rung: &Rung, device: u64, story: &mut Story) -> Option<Access> {
    let root = Path::new(TARGETS).join(index.to_string());
    story.begin(Stage::Devices);
    let mount = rung.limits.reach.unwrap_or(plan.limits.mount);
    let (point, from, directory) = (root.clone(), rung.to.to_string(), directory_of(&rung.to));
    let mut stack = None;
    match &rung.to {
        Target::Local(target) => {
            let node = find(&target.device, target.stack.as_ref(), device, story)?;
            let shown = node.display().to_string();
            stack.clone_from(&target.stack);
            let mounted = run_mount(mount, shown, story, move || local::mount_at(target, &node, &point));
            if mounted.is_none() {
                // What was put together is taken apart.
                release(plan, &[Access::Mounted { root, directory, stack }]);
                return None;
            }
        }
        Target::Ssh(target) => return connect(plan, rung, target, story),
        Target::Raw(target) => {
            let node = find(&target.device, None, device, story)?;
            return look_at(mount, node, story);
        }
        Target::Share(target) => {
            if let Some(server) = target.server {
                story.end(None);
                if !network::bring_up(plan, server, rung.limits.reach, story) {
                    return None;
                }
                story.begin(Stage::Devices);
            }
            run_mount(mount, from, story, move || share::mount_at(target, &point))?;
        }
    }
    Some(Access::Mounted { root, directory, stack })
}

/// Looks whether the partition is one that may be written, which nobody knows but its own first bytes.
fn look_at(limit: u64, node: PathBuf, story: &mut Story) -> Option<Access> {
    let bounds = Bounds { total: secs(limit), stall: Duration::MAX, badness: 0 };
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| {
        out.tell(&Report::Doing(format!("looking at {}", node.display())));
        let partition = Partition::open(&node, true).map_err(|e| {
            out.problem(&Problem { code: e.code(), message: chain(&e), times: 1 });
            chain(&e)
        })?;
        log::info!(
            "target: {} is prepared for raw dumps, {} MiB are free",
            node.display(),
            partition.free() >> 20
        );
        Ok(())
    });
    story.child_ended("looking at the target", &ended);
    (ended.ending == Ending::Done).then_some(Access::Raw(node))
}

/// Connects to a server and waits until it has let us in.
fn connect(plan: &Plan, rung: &Rung, target: &SshTarget, story: &mut Story) -> Option<Access> {
    story.end(None);
    if !network::bring_up(plan, target.address, rung.limits.reach, story) {
        return None;
    }
    story.begin(Stage::Devices);
    let reach = secs(rung.limits.reach.unwrap_or(plan.limits.mount));
    let patience = Patience { reach, stall: secs(rung.limits.stall.unwrap_or(plan.limits.stall)) };
    let remote = match Remote::open(target, patience) {
        Ok(remote) => remote,
        Err(e) => {
            story.problem(e.code(), chain(&e));
            story.end(Some(chain(&e)));
            return None;
        }
    };
    let bounds = Bounds { total: reach.saturating_add(MARGIN), stall: Duration::MAX, badness: 0 };
    let mut hear = |report: Report| match report {
        Report::Connected(way) => remote.answered(way),
        other => story.hear(other),
    };
    let ended = child::run(bounds, &mut hear, |out| {
        out.tell(&Report::Doing(format!("connecting to {target}")));
        let way = remote.greet().map_err(|e| {
            out.problem(&Problem { code: e.code(), message: chain(&e), times: 1 });
            chain(&e)
        })?;
        out.tell(&Report::Connected(way));
        Ok(())
    });
    story.child_ended("connecting", &ended);
    if ended.ending == Ending::Done {
        log::info!("target: {target} has let us in");
        return Some(Access::Remote(Rc::new(remote)));
    }
    remote.end();
    None
}

/// What a child leaves of a connection when it does not end in peace is of no use to the next.
fn renew_after(access: &Access, ended: &Ended) {
    if let Access::Remote(remote) = access
        && ended.ending != Ending::Done
    {
        remote.renew();
    }
}

fn device_limit(plan: &Plan, rung: &Rung) -> u64 {
    rung.limits.reach.unwrap_or(plan.limits.device)
}

fn directory_of(target: &Target) -> String {
    match target {
        Target::Local(target) => target.directory.clone(),
        Target::Share(target) => target.directory.clone(),
        Target::Ssh(target) => target.directory.clone(),
        Target::Raw(_) => "/".to_owned(),
    }
}

/// Waits for the device.
fn find(device: &DeviceId, stack: Option<&Stack>, limit: u64, story: &mut Story) -> Option<PathBuf> {
    let limit = secs(limit);
    let bounds = Bounds { total: limit.saturating_add(MARGIN), stall: Duration::MAX, badness: 0 };
    let mut node = None;
    let mut hear = |report: Report| match report {
        Report::Device(path) => node = Some(PathBuf::from(path)),
        other => story.hear(other),
    };
    let ended = child::run(bounds, &mut hear, |out| {
        out.tell(&Report::Doing(format!("waiting for {device}")));
        fault::devices();
        let mut say = |code, message| out.problem(&Problem { code, message, times: 1 });
        let node = match stack {
            Some(stack) => storage::assemble(stack, device, limit, &mut say),
            None => local::wait_for(device, limit),
        };
        let node = node.map_err(|e| chain(&e))?;
        out.tell(&Report::Device(node.display().to_string()));
        Ok(())
    });
    if node.is_none() {
        story.target_failed(Code::DEVICE_MISSING, "finding the target", &ended);
    }
    node
}

/// Mounts, under a deadline.
fn run_mount(
    limit: u64,
    what: String,
    story: &mut Story,
    work: impl FnOnce() -> Result<(), crate::target::TargetError>,
) -> Option<()> {
    let bounds = Bounds { total: secs(limit), stall: Duration::MAX, badness: 0 };
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| {
        out.tell(&Report::Doing(format!("mounting {what}")));
        work().map_err(|e| chain(&e))?;
        out.tell(&Report::Mounted(what));
        Ok(())
    });
    if ended.ending == Ending::Done {
        story.end(None);
    } else {
        story.target_failed(Code::MOUNT_FAILED, "mounting the target", &ended);
    }
    story.mounted.as_ref().map(drop)
}

fn run_engine(plan: &Plan, rung: &Rung, access: &Access, directory: Option<&str>, story: &mut Story) {
    let limits = plan.limits;
    let bounds = Bounds {
        total: secs(rung.limits.total.unwrap_or(limits.engine)),
        stall: secs(rung.limits.stall.unwrap_or(limits.stall)),
        badness: 1000,
    };
    let logged = directory.is_some() && story.has_log();
    let so_far = story.manifest(plan, image(), mounts::meminfo_kib("MemTotal"));
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| {
        capture::capture(&Job { plan, rung, access, directory, logged, so_far: &so_far, out })
    });
    renew_after(access, &ended);
    story.engine_ended(&ended, plan);
}

/// Has the report on the crash written, where there is a place for it.
fn run_triage(plan: &Plan, access: &Access, directory: Option<&str>, story: &mut Story) {
    let Some(directory) = directory else { return };
    story.begin(Stage::Triage);
    let bounds = Bounds { total: triage::LIMIT, stall: Duration::MAX, badness: 1000 };
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| triage::write(plan, access, directory, out));
    renew_after(access, &ended);
    story.triage_ended(&ended);
}

/// False when it did not come to its end.
fn run_finish(plan: &Plan, access: &Access, story: &mut Story) -> bool {
    story.begin(Stage::Finish);
    let bounds = Bounds { total: secs(plan.limits.finish), stall: Duration::MAX, badness: 0 };
    let manifest = story.manifest(plan, image(), mounts::meminfo_kib("MemTotal"));
    let directory = story.directory.clone();
    let ended: Ended = child::run(bounds, &mut |r| story.hear(r), |out| match directory.as_deref() {
        Some(directory) => finish::finish(manifest, access, directory, out),
        None => Ok(()),
    });
    renew_after(access, &ended);
    story.child_ended("finishing", &ended);
    ended.ending == Ending::Done
}
