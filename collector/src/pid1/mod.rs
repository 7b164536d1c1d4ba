//! PID 1 of the crash kernel: a supervisor that touches nothing that can hang.
//!
//! Each risky step runs in a child under a deadline (`child`): loading modules, finding and mounting the
//! target, the engine (`capture`), naming and unmounting (`finish`). PID 1 hears what they tell (`report`),
//! keeps it (`story`), and whatever becomes of them performs the last action (`last`). It reads and writes
//! nothing but /proc, /sys, /dev and the image. The user's own programs (`hooks`, `shell`) run below children, too, and the
//! hardware watchdog is fed (`watchdog`) by the loop that watches them.

mod capture;
mod child;
mod clock;
mod finish;
mod hooks;
mod kmsg;
mod ladder;
mod last;
mod meter;
mod modules;
mod mounts;
mod network;
mod report;
mod shell;
mod story;
#[cfg(test)]
mod testing;
mod triage;
mod watchdog;

#[cfg(feature = "faults")]
pub(crate) use mounts::argument;

use crate::fault;
use crate::manifest::{Outcome, Stage};
use crate::plan::aside::Hook;
use crate::plan::{Action, PLAN_PATH, PLAN_VERSION, Plan};
use crate::problem::Code;
use child::Bounds;
use hooks::{Moment, Place};
use ladder::Climbed;
use std::time::Duration;
use story::Story;

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
    watchdog::expect(plan.watchdog.as_ref());
    load_modules(&plan, &mut story);
    if let Some(identity) = watchdog::is_missing() {
        story.problem(Code::WATCHDOG_FAILED, format!("there is no watchdog {identity:?}: nothing is fed"));
    }
    network::tell_cluster(&plan);
    let mut climbed = ladder::climb(&plan, story);
    let action = what_now(&plan, &mut climbed);
    let Climbed { outcome, directory, story, held, .. } = climbed;
    ladder::release(&plan, &held);
    fault::supervisor();

    let why = if outcome == Outcome::Complete { None } else { story.failure().map(str::to_owned) };
    let parts = [Some(outcome.to_string()), directory, why];
    (action, parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// What comes after the dump and before the last action: the user's programs, and the shell. Whoever wants no dump has what they
/// want.
fn what_now(plan: &Plan, climbed: &mut Climbed) -> Action {
    let Climbed { outcome, access, directory, refused, story, .. } = climbed;
    if *refused {
        return plan.final_action;
    }
    let (outcome, place) = (*outcome, Place { access: access.as_ref(), directory: directory.as_deref() });
    let mut run = |hooks: &[Hook], moment: Moment| {
        // Only pre hooks decide, and the manifest is written: what went wrong is in the log.
        drop(hooks::run(hooks, moment, place, story, &mut Vec::new()));
    };
    run(&plan.hooks.post, Moment::Post(outcome));
    if outcome == Outcome::Complete {
        return plan.final_action;
    }
    run(&plan.hooks.emergency, Moment::Emergency(outcome));
    if let Some(shell) = &plan.shell {
        watchdog::leave();
        shell::run(shell, story.failure().unwrap_or("the dump failed"), last::word(plan.on_failure));
    }
    plan.on_failure
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
            (with("version", 1.into()), "has version 1; this collector knows version 2"),
            (with("version", 3.into()).replace("host", "hostess"), "has version 3"),
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
