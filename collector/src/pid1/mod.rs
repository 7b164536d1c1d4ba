//! PID 1 of the crash kernel: a supervisor that touches nothing that can hang.
//!
//! Each risky step runs in a child under a deadline (`child`): loading modules, finding and mounting the
//! target, the engine (`capture`), naming and unmounting (`finish`). PID 1 hears what they tell (`report`),
//! keeps it (`story`), and whatever becomes of them performs the last action (`last`). It reads and writes
//! nothing but /proc, /sys, /dev and the image.

mod capture;
mod child;
mod clock;
mod finish;
mod kmsg;
mod last;
mod meter;
mod modules;
mod mounts;
mod network;
mod report;
mod story;
#[cfg(test)]
mod testing;

#[cfg(feature = "faults")]
pub(crate) use mounts::argument;

use crate::engine::chain;
use crate::fault;
use crate::manifest::{Outcome, Stage};
use crate::plan::{Action, LocalTarget, PLAN_PATH, PLAN_VERSION, Plan, Target};
use crate::problem::Code;
use crate::target::local;
use child::{Bounds, Ended};
use std::path::{Path, PathBuf};
use std::time::Duration;
use story::Story;

/// Where targets are mounted, below which each has its number in the ladder.
const TARGETS: &str = "/target";

/// More than any stage needs to notice its own limit.
const MARGIN: Duration = Duration::from_secs(5);

/// Saves what can be saved, and reboots.
pub fn main() -> ! {
    kmsg::install();
    last::install_panic_hook();
    let (action, epitaph) = supervise();
    log::info!("outcome: {epitaph}; {}", last::announcement(action));
    last::act(action)
}

/// From the first mount to the last file. Returns what is to happen now, and the last line of the log.
fn supervise() -> (Action, String) {
    let mut story = Story::default();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let failures = mounts::mount_all();
    kmsg::unmute();
    if mounts::argument("vmcored.debug").is_some() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    story.begin(Stage::Mount);
    mounts::set_knobs();
    for failure in &failures {
        story.problem(Code::MOUNT_FAILED, failure.clone());
    }
    story.end(failures.into_iter().next());

    let plan = match std::fs::read(PLAN_PATH) {
        Ok(text) => parse_plan(&text),
        Err(e) => Err(format!("cannot read {PLAN_PATH}: {e}")),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(why) => return (Action::Reboot, format!("{}; {why}", Outcome::Nothing)),
    };
    last::on_panic(plan.on_failure);
    if let Err(e) = capture::is_there() {
        let why = format!("this is no crash kernel: {}: {e}", capture::VMCORE);
        return (plan.on_failure, format!("{}; {why}", Outcome::Nothing));
    }
    log::info!(
        "memory: {} KiB in all, {} KiB available",
        mounts::meminfo_kib("MemTotal").unwrap_or(0),
        mounts::meminfo_kib("MemAvailable").unwrap_or(0),
    );
    load_modules(&plan, &mut story);
    network::tell_cluster(&plan);
    let (outcome, directory, story) = climb(&plan, story);
    fault::supervisor();

    let action = if outcome == Outcome::Complete { plan.final_action } else { plan.on_failure };
    let why = if outcome == Outcome::Complete { None } else { story.failure().map(str::to_owned) };
    let parts = [Some(outcome.to_string()), directory, why];
    (action, parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// Reads the plan. What it says comes from the image and is trusted, but for what a path must not do.
fn parse_plan(text: &[u8]) -> Result<Plan, String> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    // The version first: a plan of another one may have fields that this collector does not know.
    let bad = |e: serde_json::Error| format!("{PLAN_PATH} is damaged: {e}");
    let version = serde_json::from_slice::<Versioned>(text).map_err(bad)?.version;
    if version != PLAN_VERSION {
        return Err(format!(
            "{PLAN_PATH} has version {version}; this collector knows version {PLAN_VERSION}"
        ));
    }
    let plan: Plan = serde_json::from_slice(text).map_err(bad)?;
    for dump in &plan.dumps {
        let file = &dump.file;
        if file.is_empty()
            || file.starts_with('.')
            || file.contains(['/', '\0'])
            || file.ends_with(story::INCOMPLETE)
        {
            return Err(format!("{PLAN_PATH}: {file:?} cannot be the name of a dump"));
        }
    }
    Ok(plan)
}

fn load_modules(plan: &Plan, story: &mut Story) {
    story.begin(Stage::Modules);
    let bounds = Bounds { total: secs(plan.limits.modules), stall: Duration::MAX, badness: 0 };
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| modules::load_all(&plan.modules, out));
    story.child_ended("loading modules", &ended);
}

/// Tries the targets in their order until one has a complete dump. Returns the best result there was.
fn climb(plan: &Plan, mut story: Story) -> (Outcome, Option<String>, Story) {
    let mut best: Option<(Outcome, Option<String>, Story)> = None;
    for (rung, Target::Local(target)) in plan.targets.iter().enumerate() {
        let root = Path::new(TARGETS).join(rung.to_string());
        let before = story.fork();
        if mount_target(plan, target, &root, &mut story) {
            run_engine(plan, target, &root, &mut story);
            run_finish(plan, &root, &mut story);
        }
        let outcome = story.outcome_on_disk(plan);
        let directory = if outcome == Outcome::Nothing { None } else { story.directory.clone() };
        let result = (outcome, directory, std::mem::replace(&mut story, before));
        if best.as_ref().is_none_or(|(o, ..)| outcome > *o) {
            best = Some(result);
        }
        if outcome == Outcome::Complete {
            break;
        }
    }
    best.unwrap_or_else(|| {
        story.problem(Code::DEVICE_MISSING, "the plan has no target".to_owned());
        (Outcome::Nothing, None, story)
    })
}

/// Waits for the device and mounts it.
fn mount_target(plan: &Plan, target: &LocalTarget, root: &Path, story: &mut Story) -> bool {
    story.begin(Stage::Devices);
    let device = secs(plan.limits.device);
    let bounds = Bounds { total: device.saturating_add(MARGIN), stall: Duration::MAX, badness: 0 };
    let mut node = None;
    let mut hear = |report: report::Report| match report {
        report::Report::Device(path) => node = Some(PathBuf::from(path)),
        other => story.hear(other),
    };
    let ended = child::run(bounds, &mut hear, |out| {
        out.tell(&report::Report::Doing(format!("waiting for {}", target.device)));
        fault::devices();
        let node = local::wait_for(&target.device, device).map_err(|e| chain(&e))?;
        out.tell(&report::Report::Device(node.display().to_string()));
        Ok(())
    });
    let Some(node) = node else {
        story.target_failed(Code::DEVICE_MISSING, "finding the target", &ended);
        return false;
    };
    let bounds = Bounds { total: secs(plan.limits.mount), stall: Duration::MAX, badness: 0 };
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| {
        out.tell(&report::Report::Doing(format!("mounting {}", node.display())));
        local::mount_at(target, &node, root).map_err(|e| chain(&e))?;
        out.tell(&report::Report::Mounted(node.display().to_string()));
        Ok(())
    });
    if ended.ending == child::Ending::Done {
        story.end(None);
    } else {
        story.target_failed(Code::MOUNT_FAILED, "mounting the target", &ended);
    }
    story.mounted.is_some()
}

fn run_engine(plan: &Plan, target: &LocalTarget, root: &Path, story: &mut Story) {
    let limits = plan.limits;
    let bounds = Bounds { total: secs(limits.engine), stall: secs(limits.stall), badness: 1000 };
    let so_far = story.manifest(plan, image(), mounts::meminfo_kib("MemTotal"));
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| {
        capture::capture(plan, root, &target.directory, &so_far, out)
    });
    story.engine_ended(&ended, plan);
}

fn run_finish(plan: &Plan, root: &Path, story: &mut Story) {
    story.begin(Stage::Finish);
    let bounds = Bounds { total: secs(plan.limits.finish), stall: Duration::MAX, badness: 0 };
    let manifest = story.manifest(plan, image(), mounts::meminfo_kib("MemTotal"));
    let directory = story.directory.clone();
    let ended: Ended = child::run(bounds, &mut |r| story.hear(r), |out| {
        finish::finish(manifest, root, directory.as_deref(), out)
    });
    story.child_ended("finishing", &ended);
}

/// Which image this is, as it was armed.
fn image() -> Option<String> {
    mounts::argument("vmcored.image")
}

fn secs(limit: u64) -> Duration {
    Duration::from_secs(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_that_are_refused() {
        let good = serde_json::to_value(testing::plan(&["vmcore"])).unwrap();
        let with = |key: &str, value: serde_json::Value| {
            let mut plan = good.clone();
            plan[key] = value;
            plan.to_string()
        };
        let dump = |file: &str| {
            let mut plan = good.clone();
            plan["dumps"][0]["file"] = file.into();
            plan.to_string()
        };
        assert_eq!(parse_plan(good.to_string().as_bytes()), Ok(testing::plan(&["vmcore"])));
        for (text, why) in [
            (String::new(), "damaged: EOF"),
            ("{}".to_owned(), "damaged: missing field `version`"),
            (with("version", 2.into()), "has version 2; this collector knows version 1"),
            (with("version", 2.into()).replace("host", "hostess"), "has version 2"),
            (with("surprise", 1.into()), "unknown field `surprise`"),
            (with("on_failure", "panic".into()), "unknown variant `panic`"),
            (dump("../vmcore"), "cannot be the name"),
            (dump(""), "cannot be the name"),
            (dump(".."), "cannot be the name"),
            (dump("vmcore-incomplete"), "cannot be the name"),
        ] {
            let error = parse_plan(text.as_bytes()).unwrap_err();
            assert!(error.contains(why) && error.starts_with(PLAN_PATH), "{text}: {error}");
        }
    }
}
