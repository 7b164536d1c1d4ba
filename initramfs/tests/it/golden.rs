//! Trees in, module plans out: each directory of `cases` has `root`, a description of a machine (see
//! `support::make_tree`) whose first line is the request, and `expected`. `BLESS=1 cargo test` rewrites the latter.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use initramfs::root::Root;
use initramfs::{Error, ModulePlan, ModuleRequest, plan_modules};

#[test]
fn plans_are_as_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut names: Vec<_> = fs::read_dir(&cases).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert!(names.len() >= 10, "only {} cases", names.len());
    let mut wrong = Vec::new();
    for name in names {
        let case = cases.join(&name);
        let text = fs::read_to_string(case.join("root")).unwrap();
        let found = run(&text);
        if std::env::var_os("BLESS").is_some() {
            fs::write(case.join("expected"), &found).unwrap();
        }
        let expected = fs::read_to_string(case.join("expected")).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}:\n--- expected\n{expected}--- found\n{found}", name.to_string_lossy()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn run(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    crate::support::make_tree(directory.path(), text);
    let request =
        text.lines().next().unwrap().strip_prefix("# request:").expect("the first line is the request");
    let field = |key: &str| {
        let found = request.split_whitespace().find_map(|f| f.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_default()
    };
    let list = |key: &str| -> Vec<String> {
        field(key).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
    };
    let root = Root::new(directory.path());
    let result = plan_modules(&ModuleRequest {
        root: &root,
        first: &[],
        release: field("release"),
        block_devices: &[field("device").to_string()],
        layers: &[],
        filesystems: &[field("filesystem").to_string()],
        network: initramfs::NetworkRequest::default(),
        extra: &list("extra"),
        omit: &list("omit"),
    });
    // The tree lies elsewhere each time.
    show(result).replace(directory.path().to_str().unwrap(), "")
}

fn show(result: Result<ModulePlan, Error>) -> String {
    let plan = match result {
        Ok(plan) => plan,
        Err(error) => return format!("error: {error}\n"),
    };
    let mut out = String::new();
    for device in &plan.stack {
        let part = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
        writeln!(out, "device {} {} {}", device.path.display(), part(&device.driver), part(&device.module))
            .unwrap();
    }
    for module in &plan.modules {
        let required = if module.plan.required { "required" } else { "optional" };
        writeln!(out, "{} {} {required}: {}", module.plan.path, module.plan.name, module.why).unwrap();
        writeln!(out, "    from {}", module.source.display()).unwrap();
        if !module.plan.options.is_empty() {
            writeln!(out, "    options {}", module.plan.options).unwrap();
        }
    }
    for file in &plan.firmware {
        writeln!(out, "{} from {} for {}", file.path, file.source.display(), file.module).unwrap();
    }
    for note in &plan.notes {
        writeln!(out, "note: {note}").unwrap();
    }
    out
}
