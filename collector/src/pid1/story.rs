//! What is known of a capture: the reports of all children put together. It becomes the manifest and the
//! outcome.

use super::child::{Ended, Ending};
use super::meter::Meter;
use super::report::{Report, shortened};
use super::{clock, mounts};
use crate::manifest::{
    CrashedKernel, DumpReport, MANIFEST_VERSION, Manifest, Outcome, Stage, StageRecord, TargetRecord,
    TriageRecord,
};
use crate::plan::{Plan, Target};
use crate::problem::{Code, Problem};
use std::time::Instant;

/// What a file is called until it is whole and durable: its name and this.
pub const INCOMPLETE: &str = "-incomplete";

/// How many problems are kept.
const PROBLEMS: usize = 64;

/// The dump that is being written.
#[derive(Debug)]
struct Dumping {
    index: usize,
    file: String,
    level: u8,
}

/// What is known of a capture.
#[derive(Debug, Default)]
pub struct Story {
    stages: Vec<StageRecord>,
    open: Option<(Stage, u64)>,
    doing: Option<String>,
    /// The device whose file system is mounted.
    pub mounted: Option<String>,
    /// The dump's directory on the target.
    pub directory: Option<String>,
    kernel: CrashedKernel,
    log_saved: bool,
    triage: Option<TriageRecord>,
    dumping: Option<Dumping>,
    dumping_bytes: u64,
    dumps: Vec<DumpReport>,
    problems: Vec<Problem>,
    /// The last word of a child that gave up.
    failed: Option<String>,
    /// The first failure: why the outcome is not complete.
    failure: Option<String>,
    /// The first failure on this target.
    failure_here: Option<String>,
    /// This target.
    target: Option<String>,
    /// The targets before.
    targets: Vec<TargetRecord>,
    named: bool,
    available_min_kib: Option<u64>,
    engine_peak_kib: Option<u64>,
    meter: Meter,
}

impl Story {
    /// What is known before a target is tried: the start of the story of the next one, should this one fail.
    pub fn fork(&self) -> Self {
        Self {
            stages: self.stages.clone(),
            problems: self.problems.clone(),
            failure: self.failure.clone(),
            targets: self.targets.clone(),
            ..Self::default()
        }
    }

    /// The next target is tried.
    pub fn climbs(&mut self, target: &Target) {
        self.target = Some(target.to_string());
        self.failure_here = None;
    }

    /// What this target has already: its directory, with the log.
    pub fn known(&mut self, directory: Option<&str>) {
        self.directory = directory.map(str::to_owned);
        self.log_saved = directory.is_some();
    }

    /// Whether the log is on this target.
    pub fn has_log(&self) -> bool {
        self.log_saved
    }

    /// Keeps what became of a target.
    pub fn remember(&mut self, record: TargetRecord) {
        if self.failure.is_none() {
            self.failure.clone_from(&record.failure);
        }
        if self.targets.len() < PROBLEMS {
            self.targets.push(record);
        }
    }

    /// Takes note of why something failed, if it is the first thing that does.
    fn fails(&mut self, why: &str) {
        self.failure.get_or_insert_with(|| why.to_owned());
        self.failure_here.get_or_insert_with(|| why.to_owned());
    }

    /// Takes in one report and logs what people want to see of it.
    pub fn hear(&mut self, report: Report) {
        match report {
            Report::Begin(stage) => self.begin(stage),
            Report::End(failure) => self.end(failure),
            Report::Doing(what) => self.doing = Some(what),
            Report::Device(_) | Report::Connected(_) | Report::HookEnded(_) => {}
            Report::Mounted(device) => {
                log::info!("target: {device} is mounted");
                self.mounted = Some(device);
            }
            Report::Directory(path) => {
                log::info!("target: directory {path}");
                self.directory = Some(path);
            }
            Report::Kernel(kernel) => self.kernel = *kernel,
            Report::LogSaved => self.log_saved = true,
            Report::Triage(record) => self.triage = Some(*record),
            Report::Dumping { index, file, level } => {
                (self.dumping, self.dumping_bytes) = (Some(Dumping { index, file, level }), 0);
            }
            Report::Progress(step) => {
                self.dumping_bytes = self.dumping_bytes.max(step.bytes);
                self.available_min_kib = match (self.available_min_kib, step.available_kib) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                if let Some(line) = self.meter.line(&step, Instant::now()) {
                    log::info!("{line}");
                }
            }
            Report::Dump(report) => {
                self.dumping = None;
                self.dumps.push(*report);
            }
            Report::Problem(problem) => self.keep(problem),
            Report::Named => self.named = true,
            Report::Failed(why) => self.failed = Some(why),
        }
    }

    /// A stage begins.
    pub fn begin(&mut self, stage: Stage) {
        self.end(None);
        let now = clock::since_boot_ms();
        log::info!("stage {stage}: started at {} s", seconds(now));
        self.open = Some((stage, now));
        self.doing = None;
    }

    /// The stage that had begun, if one had, is over.
    pub fn end(&mut self, failure: Option<String>) {
        let Some((stage, started_ms)) = self.open.take() else { return };
        let took_ms = clock::since_boot_ms().saturating_sub(started_ms);
        match &failure {
            None => log::info!("stage {stage}: done in {} s", seconds(took_ms)),
            Some(why) => {
                log::error!("stage {stage}: failed after {} s: {why}", seconds(took_ms));
                self.fails(why);
            }
        }
        self.stages.push(StageRecord { stage, started_ms, took_ms, failure });
    }

    /// A child has ended: whatever it left open is closed, with its end as the reason.
    pub fn child_ended(&mut self, who: &str, ended: &Ended) {
        let (code, why) = match &ended.ending {
            Ending::Done => return self.end(None),
            Ending::Failed => {
                let why = self.failed.take().unwrap_or_else(|| format!("{who} failed"));
                self.fails(&why);
                return self.end(Some(why));
            }
            // A panic of a released build is an abort.
            ending @ (Ending::Status(_) | Ending::Signal(libc::SIGABRT) | Ending::NotStarted(_)) => {
                (Code::ENGINE_FAILED, format!("{who} {ending}"))
            }
            ending @ Ending::Signal(libc::SIGKILL) if mounts::oom_kills() > 0 => {
                (Code::ENGINE_KILLED, format!("{who} {ending}: the crash kernel ran out of memory"))
            }
            ending @ Ending::Signal(_) => (Code::ENGINE_KILLED, format!("{who} {ending}")),
            ending @ Ending::Deadline { .. } => (Code::DEADLINE, format!("{who} {ending}")),
        };
        let why = match self.doing.take() {
            Some(doing) => format!("{why} while {doing}"),
            None => why,
        };
        self.problem(code, why.clone());
        if self.open.is_some() {
            self.end(Some(why));
        } else {
            self.fails(&why);
        }
    }

    /// The target is out of reach.
    pub fn target_failed(&mut self, code: Code, who: &str, ended: &Ended) {
        if ended.ending == Ending::Failed {
            let why = self.failed.take().unwrap_or_else(|| format!("{who} failed"));
            self.problem(code, why.clone());
            self.end(Some(why));
        } else {
            self.child_ended(who, ended);
        }
    }

    /// The report child has ended. Whatever its end, it is none of the capture's failures.
    pub fn triage_ended(&mut self, ended: &Ended) {
        let why = match &ended.ending {
            Ending::Done => return self.end(None),
            Ending::Failed => self.failed.take().unwrap_or_else(|| "it failed".to_owned()),
            ending => format!("it {ending}"),
        };
        self.problem(
            Code::TRIAGE_FAILED,
            format!("there is no report on the crash, or not all of it: {why}"),
        );
        if let Some((stage, started_ms)) = self.open.take() {
            let took_ms = clock::since_boot_ms().saturating_sub(started_ms);
            self.stages.push(StageRecord { stage, started_ms, took_ms, failure: Some(shortened(&why)) });
        }
    }

    /// The engine's end, as [`Story::child_ended`]; a dump that it was writing is labelled for what it is.
    pub fn engine_ended(&mut self, ended: &Ended, plan: &Plan) {
        self.engine_peak_kib = ended.peak_kib;
        self.child_ended("the engine", ended);
        let dumping = self.dumping.take();
        if let Some((dumping, spec)) = dumping.and_then(|d| plan.dumps.get(d.index).map(|spec| (d, spec))) {
            self.dumps.push(DumpReport {
                file: format!("{}{INCOMPLETE}", dumping.file),
                format: spec.format,
                level: dumping.level,
                level_applied: dumping.level,
                compression: spec.compression,
                bytes: self.dumping_bytes,
                pages: crate::filter::Account::default(),
                page_size: 0,
                scan_ms: 0,
                write_ms: 0,
                complete: false,
            });
        }
    }

    /// Records a soft error, and logs it.
    pub fn problem(&mut self, code: Code, message: String) {
        log::warn!("{code}: {message}");
        self.keep(Problem { code, message: shortened(&message), times: 1 });
    }

    /// Keeps a problem that is in the log already. The same may come again, with another count.
    fn keep(&mut self, problem: Problem) {
        let same = |p: &&mut Problem| p.code == problem.code && p.message == problem.message;
        if let Some(known) = self.problems.iter_mut().find(same) {
            known.times = known.times.max(problem.times);
        } else if self.problems.len() < PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// How much is saved, provided that every file gets its name.
    pub fn outcome(&self, plan: &Plan) -> Outcome {
        let whole = self.dumps.iter().filter(|d| is_whole(d)).count();
        if whole == plan.dumps.len() && whole > 0 {
            Outcome::Complete
        } else if self.dumps.iter().any(|d| d.bytes > 0) {
            Outcome::Partial
        } else if self.log_saved {
            Outcome::DmesgOnly
        } else {
            Outcome::Nothing
        }
    }

    /// How much is saved, as the target has it.
    pub fn outcome_on_disk(&self, plan: &Plan) -> Outcome {
        match self.outcome(plan) {
            Outcome::Complete if !self.named => Outcome::Partial,
            outcome => outcome,
        }
    }

    /// What becomes of this target, for the manifest and the next.
    pub fn record(&self, outcome: Outcome) -> TargetRecord {
        TargetRecord {
            target: self.target.clone().unwrap_or_default(),
            outcome,
            directory: self.directory.clone(),
            failure: self.failure_here.clone(),
        }
    }

    /// The first thing that went wrong.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The manifest as of now. The stage that is open is in it too.
    pub fn manifest(&self, plan: &Plan, image: Option<String>, mem_total_kib: Option<u64>) -> Manifest {
        let mut stages = self.stages.clone();
        if let Some((stage, started_ms)) = self.open {
            let took_ms = clock::since_boot_ms().saturating_sub(started_ms);
            stages.push(StageRecord { stage, started_ms, took_ms, failure: None });
        }
        let mut targets = self.targets.clone();
        if self.target.is_some() {
            targets.push(self.record(self.outcome(plan)));
        }
        Manifest {
            version: MANIFEST_VERSION,
            writer: concat!("vmcore-collect ", env!("CARGO_PKG_VERSION")).to_owned(),
            outcome: self.outcome(plan),
            host: plan.host.clone(),
            image,
            kernel: self.kernel.clone(),
            dumps: self.dumps.clone(),
            targets,
            stages,
            triage: self.triage.clone(),
            problems: self.problems.clone(),
            engine_peak_kib: self.engine_peak_kib,
            mem_total_kib,
            mem_available_min_kib: self.available_min_kib,
        }
    }
}

/// Whether a dump's file is all that there is to be in it, and so gets its final name. Pages that nobody could
/// have read do not count against it: they are problems of the dead machine.
pub fn is_whole(report: &DumpReport) -> bool {
    !report.file.ends_with(INCOMPLETE)
}

/// Milliseconds as seconds with one decimal, two when they are few.
fn seconds(ms: u64) -> String {
    if ms < 1000 { format!("0.{:02}", ms / 10) } else { format!("{}.{}", ms / 1000, ms % 1000 / 100) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pid1::report::Step;
    use crate::pid1::testing::{plan, report};
    use std::time::Duration;

    fn ended(ending: Ending) -> Ended {
        Ended { ending, peak_kib: Some(1234) }
    }

    fn progress(bytes: u64) -> Report {
        let step =
            Step { what: "writing vmcore".to_owned(), done: 1, total: 2, bytes, available_kib: Some(bytes) };
        Report::Progress(step)
    }

    fn dumping(index: usize) -> Report {
        Report::Dumping { index, file: "vmcore".to_owned(), level: 31 }
    }

    fn told(reports: &[Report]) -> Story {
        let mut story = Story::default();
        for report in reports {
            story.hear(report.clone());
        }
        story
    }

    #[test]
    fn outcomes() {
        let plan = plan(&["vmcore", "vmcore.raw"]);
        let whole = |file| Report::Dump(Box::new(report(file, 100)));
        let part = |bytes| Report::Dump(Box::new(report("vmcore-incomplete", bytes)));
        let killed = || ended(Ending::Signal(9));
        let done = || ended(Ending::Done);
        let failed = || ended(Ending::Failed);
        for (name, reports, end, outcome) in [
            ("died at once", vec![], killed(), Outcome::Nothing),
            ("only the log", vec![Report::LogSaved], killed(), Outcome::DmesgOnly),
            ("died before a byte", vec![Report::LogSaved, dumping(0)], killed(), Outcome::DmesgOnly),
            ("died in the dump", vec![Report::LogSaved, dumping(0), progress(9)], killed(), Outcome::Partial),
            ("full", vec![Report::LogSaved, dumping(0), part(50)], failed(), Outcome::Partial),
            ("full at once", vec![Report::LogSaved, dumping(0), part(0)], failed(), Outcome::DmesgOnly),
            ("no log, half a dump", vec![dumping(0), progress(9)], killed(), Outcome::Partial),
            ("one of two", vec![whole("vmcore"), dumping(1), progress(9)], killed(), Outcome::Partial),
            ("one of two, and no more", vec![whole("vmcore")], done(), Outcome::Partial),
            ("both", vec![Report::LogSaved, whole("vmcore"), whole("vmcore.raw")], done(), Outcome::Complete),
            ("both, without the log", vec![whole("vmcore"), whole("vmcore.raw")], done(), Outcome::Complete),
            ("both, and died then", vec![whole("vmcore"), whole("vmcore.raw")], killed(), Outcome::Complete),
        ] {
            let mut story = told(&reports);
            story.engine_ended(&end, &plan);
            assert_eq!(story.outcome(&plan), outcome, "{name}");
            let unnamed = outcome.min(Outcome::Partial);
            assert_eq!(story.outcome_on_disk(&plan), unnamed, "{name}, not named");
            story.hear(Report::Named);
            assert_eq!(story.outcome_on_disk(&plan), outcome, "{name}, named");
        }
    }

    #[test]
    fn a_killed_engine_leaves_its_stage_its_dump_and_its_reason() {
        let plan = plan(&["vmcore"]);
        let mut story = told(&[
            Report::Begin(Stage::Dmesg),
            Report::End(None),
            Report::Begin(Stage::Dump),
            dumping(0),
            progress(4096),
            progress(2048),
        ]);
        story.engine_ended(&ended(Ending::Signal(9)), &plan);
        let manifest = story.manifest(&plan, Some("abc".to_owned()), Some(80_000));
        // Where these tests run, memory may have run out before.
        let why = manifest.stages[1].failure.as_deref().unwrap();
        assert!(why.starts_with("the engine was killed by SIGKILL"), "{why}");
        assert_eq!(manifest.stages.len(), 2);
        assert_eq!(manifest.stages[0].failure, None);
        assert_eq!(manifest.problems[0].code, Code::ENGINE_KILLED);
        assert_eq!((manifest.dumps[0].file.as_str(), manifest.dumps[0].bytes), ("vmcore-incomplete", 4096));
        assert!(!manifest.dumps[0].complete);
        assert_eq!(manifest.engine_peak_kib, Some(1234));
        assert_eq!(manifest.mem_available_min_kib, Some(2048));
        assert_eq!((manifest.outcome, story.failure()), (Outcome::Partial, Some(why)));
    }

    #[test]
    fn a_killed_engine_s_dump_has_the_name_and_the_level_that_it_had_there() {
        let begun = Report::Dumping { index: 0, file: "vmcore.flat".to_owned(), level: 17 };
        let mut story = told(&[Report::LogSaved, begun, progress(4096)]);
        let plan = plan(&["vmcore"]);
        story.engine_ended(&ended(Ending::Signal(9)), &plan);
        let dump = story.manifest(&plan, None, None).dumps.remove(0);
        assert_eq!((dump.file.as_str(), dump.level), ("vmcore.flat-incomplete", 17));
    }

    #[test]
    fn what_was_being_done_when_time_was_up() {
        let mut story =
            told(&[Report::Begin(Stage::Modules), Report::Doing("loading module foo".to_owned())]);
        let over = Ending::Deadline { after: Duration::from_secs(60), stalled: false, abandoned: true };
        story.child_ended("loading modules", &ended(over));
        let failure = story.failure().unwrap();
        assert!(failure.ends_with("was abandoned while loading module foo"), "{failure}");
    }

    #[test]
    fn a_panic_is_no_kill() {
        for (ending, code) in [
            (Ending::Signal(6), Code::ENGINE_FAILED),
            (Ending::Status(101), Code::ENGINE_FAILED),
            (Ending::Signal(9), Code::ENGINE_KILLED),
            (Ending::Signal(11), Code::ENGINE_KILLED),
        ] {
            let mut story = Story::default();
            story.child_ended("the engine", &ended(ending.clone()));
            assert_eq!(story.manifest(&plan(&[]), None, None).problems[0].code, code, "{ending:?}");
        }
    }

    #[test]
    fn the_first_failure_is_the_reason() {
        let mut story = told(&[Report::Begin(Stage::Devices), Report::Failed("no disk".to_owned())]);
        story.target_failed(Code::DEVICE_MISSING, "finding the target", &ended(Ending::Failed));
        story.problem(Code::DEADLINE, "later".to_owned());
        story.begin(Stage::Finish);
        story.child_ended("finishing", &ended(Ending::Signal(9)));
        assert_eq!(story.failure(), Some("no disk"));
        assert_eq!(story.manifest(&plan(&[]), None, None).problems[0].code, Code::DEVICE_MISSING);
    }

    #[test]
    fn problems_are_bounded_and_counted_once() {
        let mut story = Story::default();
        for n in 0..1000 {
            for times in [1, 5, 3] {
                story.hear(Report::Problem(Problem { code: Code(101), message: n.to_string(), times }));
            }
        }
        let problems = story.manifest(&plan(&[]), None, None).problems;
        assert_eq!(problems.len(), PROBLEMS);
        assert!(problems.iter().all(|p| p.times == 5));
    }
}
