//! What is installed, and where: a staged tree, and the packages that are made of it.

pub mod deb;
pub mod rpm;

use super::command::{output, run, workspace};
use super::programs::Programs;
use anyhow::{Context, Result};
use clap::CommandFactory;
use config::cli::Cli;
use config::cmdline::table::{ADDITIONS, REMOVALS};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Files of the checkout, where they go, and their modes.
const FILES: &[(&str, &str, u32)] = &[
    ("systemd/vmcored.service", "usr/lib/systemd/system/vmcored.service", 0o644),
    ("systemd/vmcored-arm.service", "usr/lib/systemd/system/vmcored-arm.service", 0o644),
    ("systemd/vmcored-harvest.service", "usr/lib/systemd/system/vmcored-harvest.service", 0o644),
    ("systemd/vmcored-recover.service", "usr/lib/systemd/system/vmcored-recover.service", 0o644),
    ("systemd/vmcored-verify.service", "usr/lib/systemd/system/vmcored-verify.service", 0o644),
    ("systemd/90-vmcored.preset", "usr/lib/systemd/system-preset/90-vmcored.preset", 0o644),
    ("systemd/vmcored.tmpfiles.conf", "usr/lib/tmpfiles.d/vmcored.conf", 0o644),
    ("systemd/vmcored.catalog", "usr/lib/systemd/catalog/vmcored.catalog", 0o644),
    ("systemd/60-vmcored.rules", "usr/lib/udev/rules.d/60-vmcored.rules", 0o644),
    ("systemd/kernel-hook", "etc/kernel/postinst.d/zz-vmcored", 0o755),
    ("systemd/kernel-hook", "etc/kernel/postrm.d/zz-vmcored", 0o755),
    ("systemd/kernel-hook", "usr/lib/kernel/install.d/95-vmcored.install", 0o755),
    ("config/vmcored.toml.example", "usr/share/doc/vmcored/vmcored.toml.example", 0o644),
    ("README.md", "usr/share/doc/vmcored/README.md", 0o644),
    ("CHANGELOG.md", "usr/share/doc/vmcored/CHANGELOG.md", 0o644),
    ("collector/FORMAT.md", "usr/share/doc/vmcored/FORMAT.md", 0o644),
];

/// Puts everything below `destination`, as `/`.
pub fn stage(programs: &Programs, destination: &Path) -> Result<()> {
    for (from, to, mode) in FILES {
        copy(&workspace().join(from), &destination.join(to), *mode)?;
    }
    for (from, to) in [
        (&programs.collector, "usr/lib/vmcored/vmcore-collect"),
        (&programs.control, "usr/bin/vmcorectl"),
        (&programs.daemon, "usr/sbin/vmcored"),
    ] {
        copy(from, &destination.join(to), 0o755)?;
    }
    let man = destination.join("usr/share/man/man8");
    fs::create_dir_all(&man)?;
    pages(&man)?;
    for (shell, to) in [
        (clap_complete::Shell::Bash, "usr/share/bash-completion/completions/vmcorectl"),
        (clap_complete::Shell::Zsh, "usr/share/zsh/vendor-completions/_vmcorectl"),
        (clap_complete::Shell::Fish, "usr/share/fish/vendor_completions.d/vmcorectl.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "vmcorectl", &mut text);
        write(&destination.join(to), &text, 0o644)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    write(to, &fs::read(from).with_context(|| format!("cannot read {}", from.display()))?, mode)
}

fn write(to: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file without a directory")?)?;
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

/// Pages of the manual: one a command, and vmcored(8).
fn pages(directory: &Path) -> Result<()> {
    fn one(command: clap::Command, name: &str, directory: &Path) -> Result<()> {
        // clap wants names that are always there; there are some twenty.
        let fixed: &'static str = name.to_owned().leak();
        let named = command.clone().name(fixed).display_name(fixed);
        let mut text = Vec::new();
        clap_mangen::Man::new(named.disable_help_subcommand(true)).section("8").render(&mut text)?;
        // What clap has no name for.
        let text = String::from_utf8(text)?
            .replace("SH EXTRA\nExit codes: ", "SH EXIT STATUS\n")
            .replace("SH EXTRA", "SH NOTES");
        write(&directory.join(format!("{name}.8")), text.as_bytes(), 0o644)?;
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            one(inner.clone(), &format!("{name}-{}", inner.get_name()), directory)?;
        }
        Ok(())
    }
    let mut command = Cli::command();
    command.build();
    one(command, "vmcorectl", directory)?;
    write(&directory.join("vmcored.8"), daemon_page().as_bytes(), 0o644)
}

/// vmcored(8), with the table of kernel arguments as the code has it.
fn daemon_page() -> String {
    let plain = |text: &str| text.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ");
    let mut page = String::from(
        ".TH VMCORED 8\n.SH NAME\nvmcored \\- keeps the crash kernel ready that records a kernel crash\n.SH SYNOPSIS\n\
         .B vmcored\n.SH DESCRIPTION\nStarted by systemd (vmcored.service). It loads the last good image at once, plans as soon as the \
         targets can be looked at, and again whenever settings, keys, kernels, modules, disks, mounts or the network change; it loads only what \
         has another hash, and leaves what is loaded when a plan fails. CPUs and memory that come and go are followed where the kernel \
         does not do so itself.\n.PP\n.BR vmcorectl (8)\nasks it; so does varlinkctl:\n.PP\n.nf\n\
         varlinkctl call /run/vmcored/io.vmcored io.vmcored.GetStatus {}\n.fi\n.SH FILES\n",
    );
    for (file, what) in [
        (
            "/etc/vmcored.toml, /etc/vmcored.toml.d/*.toml",
            "settings; /usr/share/doc/vmcored/vmcored.toml.example has them all",
        ),
        ("/etc/kdump.conf", "is used as it is where there are none"),
        ("/var/lib/vmcored", "the image, what was armed, what has crashed, the last proof"),
        ("/run/vmcored/io.vmcored", "the socket, Varlink"),
        ("/var/crash", "dumps, unless the settings say otherwise"),
    ] {
        page.push_str(&format!(".TP\n.I {}\n{}\n", plain(file), plain(what)));
    }
    page.push_str(".SH THE CRASH KERNEL'S COMMAND LINE\nThat of the running kernel, without:\n");
    for row in REMOVALS {
        page.push_str(&format!(".TP\n.B {}\n{}\n", plain(&row.names.join(", ")), plain(row.why)));
    }
    page.push_str(".PP\nand with:\n");
    for row in ADDITIONS {
        let when = match row.when.words() {
            "" => String::new(),
            when => format!(" (only if: {when})"),
        };
        page.push_str(&format!(".TP\n.B {}\n{}{}\n", plain(row.argument), plain(row.why), plain(&when)));
    }
    page.push_str(".SH SEE ALSO\n.BR vmcorectl (8), kexec_file_load (2)\n");
    page
}

/// What packages have that an installation has not: compressed pages of the manual, and nothing in them that tells when.
fn packaged(programs: &Programs, root: &Path) -> Result<()> {
    stage(programs, root)?;
    for page in fs::read_dir(root.join("usr/share/man/man8"))? {
        run(Command::new("gzip").args(["-9n"]).arg(page?.path()))?;
    }
    Ok(())
}

/// Absolute paths of the files below `root`, sorted.
pub fn files(root: &Path) -> Result<Vec<String>> {
    fn walk(directory: &Path, root: &Path, found: &mut Vec<String>) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, root, found)?;
            } else {
                found.push(format!("/{}", path.strip_prefix(root)?.display()));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(root, root, &mut found)?;
    found.sort();
    Ok(found)
}

/// When the sources were made, seconds since 1970: what a package says of its age, so that it can be made again byte for byte.
fn source_date() -> u64 {
    let told = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let committed = || {
        let mut log = Command::new("git");
        output(log.args(["log", "-1", "--format=%ct"]).current_dir(workspace())).ok()?.trim().parse().ok()
    };
    told.or_else(committed).unwrap_or(0)
}

/// `date` in a format of date(1), in UTC and in English.
fn date(seconds: u64, format: &str) -> Result<String> {
    let mut date = Command::new("date");
    Ok(output(date.env("LC_ALL", "C").args(["-u", "-d", &format!("@{seconds}"), format]))?.trim().to_owned())
}

/// Who packages it: as Debian's tools have it, DEBFULLNAME and DEBEMAIL.
fn maintainer() -> String {
    let of = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.to_owned());
    format!("{} <{}>", of("DEBFULLNAME", "The vmcored maintainers"), of("DEBEMAIL", "vmcored@localhost"))
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        pages(dir.path()).unwrap();
        for (page, says) in [
            ("vmcorectl.8", "harvest"),
            ("vmcorectl-check.8", "prometheus"),
            ("vmcorectl-check.8", ".SH EXIT STATUS\n0 ready"),
            ("vmcorectl-crashkernel-set.8", "SIZE"),
            ("vmcored.8", "nr_cpus=1"),
        ] {
            let text = fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(says), "{page}: {text}");
        }
    }
}
