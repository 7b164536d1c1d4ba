//! Network namespaces of this machine, joined by cables: for what needs no kernel to crash.

use anyhow::{Context, Result, bail};
use collector::net::link::{self, LinkState};
use collector::net::neighbour;
use collector::net::netlink::{CREATE, EXCLUSIVE, Request, Socket};
use collector::plan::network::{Address, Mac};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::AsRawFd;

/// A network namespace.
#[derive(Debug)]
pub struct Space {
    file: File,
}

impl Space {
    /// A new one, its loopback interface up. `None`, aloud, without the right to make one.
    pub fn new() -> Result<Option<Self>> {
        let made = std::thread::scope(|scope| {
            let work = || -> Result<Option<File>> {
                if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
                    if std::env::var_os("CI").is_some() {
                        bail!("no network namespace: {e}");
                    }
                    eprintln!("SKIPPED: no network namespace can be made here: {e}");
                    return Ok(None);
                }
                Ok(Some(File::open("/proc/thread-self/ns/net")?))
            };
            scope.spawn(work).join().unwrap_or_else(|_| bail!("the thread died"))
        })?;
        let Some(file) = made else { return Ok(None) };
        let space = Self { file };
        space.up("lo")?;
        Ok(Some(space))
    }

    /// Runs something there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = &self.file;
        let inside = move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("the namespace cannot be entered");
            work()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Sends a request there.
    pub fn request(&self, what: &str, request: Request) -> Result<()> {
        self.run(move || Socket::open()?.request(request)).with_context(|| what.to_owned())
    }

    /// A link there.
    pub fn link(&self, name: &str) -> Result<LinkState> {
        let links = self.run(|| link::links(&mut Socket::open()?))?;
        links.into_iter().find(|l| l.name == name).with_context(|| format!("no link {name}"))
    }

    /// Sets a link up.
    pub fn up(&self, name: &str) -> Result<()> {
        self.request(&format!("{name} up"), link::set_up(self.link(name)?.index, true))
    }

    /// Makes a link a port of another.
    pub fn enslave(&self, name: &str, master: &str) -> Result<()> {
        let request = link::set_master(self.link(name)?.index, self.link(master)?.index);
        self.request(&format!("{name} into {master}"), request)
    }

    /// Gives a link an address: `10.0.0.1/24`.
    pub fn address(&self, link: &str, address: &str) -> Result<()> {
        let (ip, prefix) = address.split_once('/').context("no prefix")?;
        let address = Address { link: link.to_owned(), address: ip.parse()?, prefix: prefix.parse()? };
        self.request(&format!("{link} {ip}"), neighbour::new_address(self.link(link)?.index, &address))
    }

    /// A cable to another namespace: name and address here, name and address there. Both ends are down.
    pub fn cable(&self, here: (&str, Mac), to: &Self, there: (&str, Mac)) -> Result<()> {
        let namespace = u32::try_from(to.file.as_raw_fd())?;
        let peer = Request::new(0, 0, &[0; 16]).text(3, there.0).bytes(1, &there.1.0).u32(28, namespace);
        let request = Request::new(16, CREATE | EXCLUSIVE, &[0; 16])
            .text(3, here.0)
            .bytes(1, &here.1.0)
            .nest(18, |r| r.text(1, "veth").nest(2, |r| r.bytes(1, peer.body())));
        self.request(&format!("a cable {} - {}", here.0, there.0), request)
    }

    /// Makes a link of a kind that takes no more than a name.
    pub fn make(&self, name: &str, kind: &str) -> Result<()> {
        let request =
            Request::new(16, CREATE | EXCLUSIVE, &[0; 16]).text(3, name).nest(18, |r| r.text(1, kind));
        self.request(&format!("{kind} {name}"), request)
    }
}
