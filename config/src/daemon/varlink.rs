//! The daemon's socket: Varlink, JSON objects that end with a NUL (<https://varlink.org/Wire-Protocol>). `varlinkctl` speaks it.

use super::State;
use super::looking::{Looking, Seen};
use initramfs::root::Root;
use nix::poll::PollFlags;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Where the socket is.
pub const SOCKET: &str = "/run/vmcored/io.vmcored";

/// A call is longer than this only by mistake.
const LONGEST: usize = 64 << 10;
/// What waits for a client that does not read is dropped with it.
const BACKLOG: usize = 1 << 20;
/// Clients at a time.
const CLIENTS: usize = 64;

/// What `varlinkctl introspect` shows.
pub const INTERFACE: &str = "\
# Keeps this machine ready to record its own death.
interface io.vmcored

type Status (
  armed: bool,
  image: ?string,
  current: bool,
  failure: ?string,
  planned: ?int,
  plan_ms: ?int,
  armed_after_ms: ?int,
  plans: int,
  loads: int,
  events: int,
  because: string,
  version: string,
  pid: int
)

type Check (name: string, state: string, value: string, remedy: string)

# What is loaded, and what became of the last plan.
method GetStatus() -> (status: Status)

# What `vmcorectl check --no-write` says.
method GetReadiness() -> (readiness: string, time: int, checks: []Check)

# GetStatus now, and again whenever it changes. Has to be called with `more`.
method Subscribe() -> (status: Status)

# Plan again now.
method Replan() -> ()

error NotReadable (reason: string)
";

const SERVICE: &str = "\
# The Varlink Service Interface
interface org.varlink.service
method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)
method GetInterfaceDescription(interface: string) -> (description: string)
error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
";

#[derive(Deserialize)]
struct Call {
    method: String,
    #[serde(default)]
    parameters: Value,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    oneway: bool,
}

/// A client.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    heard: Vec<u8>,
    to_say: Vec<u8>,
    subscribed: bool,
    /// For the look at readiness: what it has asked after that has to wait, too.
    waits: bool,
    gone: bool,
}

/// The socket and those who are connected.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    root: Root,
    last: Option<State>,
    looking: Option<Looking>,
}

impl Server {
    /// Listens at `path`, in the place of whoever was there before; for root alone, as the directory is.
    pub fn open(path: &Path, root: Root) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new(), root, last: None, looking: None })
    }

    /// To be waited for.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|client| {
            let writing = if client.to_say.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            (client.stream.as_fd(), PollFlags::POLLIN | writing)
        });
        let looking = self.looking.iter().map(|looking| (looking.descriptor(), PollFlags::POLLIN));
        std::iter::once((self.listener.as_fd(), PollFlags::POLLIN)).chain(looking).chain(clients)
    }

    /// Answers who has asked. Never waits. Why to plan again, if somebody wants it.
    pub fn serve(&mut self, state: &Mutex<State>) -> Option<String> {
        let mut wanted = None;
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS && stream.set_nonblocking(true).is_ok() {
                let (heard, to_say) = (Vec::new(), Vec::new());
                let (subscribed, waits, gone) = (false, false, false);
                self.clients.push(Client { stream, heard, to_say, subscribed, waits, gone });
            }
        }
        self.seen();
        for client in &mut self.clients {
            client.hear();
            while !client.waits
                && let Some(end) = client.heard.iter().position(|byte| *byte == 0)
            {
                let text: Vec<u8> = client.heard.drain(..=end).collect();
                let text = text.get(..end).unwrap_or_default();
                let Ok(call) = serde_json::from_slice::<Call>(text) else {
                    client.gone = true;
                    break;
                };
                if call.method == "io.vmcored.GetReadiness" {
                    client.waits = !call.oneway;
                    continue;
                }
                let now = super::lock(state).clone();
                let answer = answer(&call, &now, &mut client.subscribed, &mut wanted);
                if !call.oneway {
                    client.say(&answer);
                }
            }
            client.tell();
        }
        self.clients.retain(|client| !client.gone);
        if self.looking.is_none() && self.clients.iter().any(|client| client.waits) {
            match Looking::begin(&self.root) {
                Ok(looking) => self.looking = Some(looking),
                Err(e) => self.waiting(&not_readable(&e.to_string())),
            }
        }
        wanted
    }

    /// What has become of the look at readiness goes to all who wait for it.
    fn seen(&mut self) {
        let Some(looking) = &self.looking else { return };
        match looking.seen() {
            Seen::Nothing => {}
            Seen::Slow(answer) => self.waiting(&answer),
            Seen::Answer(answer) => {
                self.looking = None;
                self.waiting(&answer);
            }
        }
    }

    fn waiting(&mut self, answer: &Value) {
        for client in self.clients.iter_mut().filter(|client| client.waits) {
            client.waits = false;
            client.say(answer);
            client.tell();
        }
    }

    /// Tells who has subscribed, where it is news.
    pub fn changed(&mut self, state: &State) {
        if self.last.as_ref() == Some(state) {
            return;
        }
        self.last = Some(state.clone());
        for client in self.clients.iter_mut().filter(|client| client.subscribed) {
            client.say(&json!({"parameters": {"status": state}, "continues": true}));
            client.tell();
        }
    }
}

impl Client {
    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.gone = true;
                    return;
                }
                Ok(length) => self.heard.extend(bytes.get(..length).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
            if self.heard.len() > LONGEST {
                self.gone = true;
                return;
            }
        }
    }

    fn say(&mut self, answer: &Value) {
        self.to_say.extend(answer.to_string().as_bytes());
        self.to_say.push(0);
        self.gone |= self.to_say.len() > BACKLOG;
    }

    fn tell(&mut self) {
        while !self.to_say.is_empty() {
            match self.stream.write(&self.to_say) {
                Ok(0) => break,
                Ok(length) => drop(self.to_say.drain(..length)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

fn answer(call: &Call, state: &State, subscribed: &mut bool, wanted: &mut Option<String>) -> Value {
    let error = |name: &str, parameters: Value| json!({"error": name, "parameters": parameters});
    match call.method.as_str() {
        "org.varlink.service.GetInfo" => json!({"parameters": {
            "vendor": "vmcored",
            "product": "vmcored",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": ["org.varlink.service", "io.vmcored"],
        }}),
        "org.varlink.service.GetInterfaceDescription" => {
            match call.parameters.get("interface").and_then(Value::as_str) {
                Some("io.vmcored") => json!({"parameters": {"description": INTERFACE}}),
                Some("org.varlink.service") => json!({"parameters": {"description": SERVICE}}),
                Some(other) => error("org.varlink.service.InterfaceNotFound", json!({"interface": other})),
                None => error("org.varlink.service.InvalidParameter", json!({"parameter": "interface"})),
            }
        }
        "io.vmcored.GetStatus" => json!({"parameters": {"status": state}}),
        "io.vmcored.Subscribe" if call.more => {
            *subscribed = true;
            json!({"parameters": {"status": state}, "continues": true})
        }
        "io.vmcored.Subscribe" => error("org.varlink.service.ExpectedMore", json!({})),
        "io.vmcored.Replan" => {
            *wanted = Some("somebody asked".to_owned());
            json!({"parameters": {}})
        }
        other => match other.rsplit_once('.') {
            Some(("io.vmcored" | "org.varlink.service", _)) => {
                error("org.varlink.service.MethodNotFound", json!({"method": other}))
            }
            Some((interface, _)) => {
                error("org.varlink.service.InterfaceNotFound", json!({"interface": interface}))
            }
            None => error("org.varlink.service.InvalidParameter", json!({"parameter": "method"})),
        },
    }
}

/// The answer to who wants to know what cannot be found out.
pub(super) fn not_readable(why: &str) -> Value {
    json!({"error": "io.vmcored.NotReadable", "parameters": {"reason": why}})
}

/// What the daemon says, where one runs and answers within two seconds.
pub fn status(root: &Root) -> Option<State> {
    let mut stream = UnixStream::connect(root.path(SOCKET)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"{\"method\":\"io.vmcored.GetStatus\"}\0").ok()?;
    let mut text = Vec::new();
    let mut bytes = [0; 4096];
    while !text.contains(&0) && text.len() < LONGEST {
        match stream.read(&mut bytes).ok()? {
            0 => return None,
            length => text.extend(bytes.get(..length)?),
        }
    }
    let end = text.iter().position(|byte| *byte == 0)?;
    let mut answer: Value = serde_json::from_slice(text.get(..end)?).ok()?;
    serde_json::from_value(answer.pointer_mut("/parameters/status")?.take()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (tempfile::TempDir, Server, Mutex<State>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let server = Server::open(&root.path(SOCKET), root).unwrap();
        (dir, server, Mutex::new(State { plans: 3, ..State::default() }))
    }

    fn connect(dir: &tempfile::TempDir) -> UnixStream {
        let stream = UnixStream::connect(dir.path().join("run/vmcored/io.vmcored")).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream
    }

    fn heard(stream: &mut UnixStream) -> Vec<Value> {
        let mut bytes = vec![0; 64 << 10];
        let length = stream.read(&mut bytes).unwrap_or(0);
        let whole = bytes[..length].split(|byte| *byte == 0).filter(|text| !text.is_empty());
        whole.map(|text| serde_json::from_slice(text).unwrap()).collect()
    }

    #[test]
    fn calls_are_answered() {
        let (dir, mut server, state) = setup();
        let mut client = connect(&dir);
        for (call, pointer, want) in [
            (r#"{"method":"io.vmcored.GetStatus","parameters":{}}"#, "/parameters/status/plans", json!(3)),
            (r#"{"method":"org.varlink.service.GetInfo"}"#, "/parameters/interfaces/1", json!("io.vmcored")),
            (
                r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.vmcored"}}"#,
                "/parameters/description",
                json!(INTERFACE),
            ),
            (r#"{"method":"io.vmcored.Nothing"}"#, "/error", json!("org.varlink.service.MethodNotFound")),
            (r#"{"method":"a.b.C"}"#, "/error", json!("org.varlink.service.InterfaceNotFound")),
            (r#"{"method":"io.vmcored.Subscribe"}"#, "/error", json!("org.varlink.service.ExpectedMore")),
        ] {
            client.write_all(call.as_bytes()).unwrap();
            client.write_all(&[0]).unwrap();
            assert_eq!(server.serve(&state), None);
            let answers = heard(&mut client);
            assert_eq!(answers[0].pointer(pointer), Some(&want), "{call}: {answers:?}");
        }
        // In two pieces, and two at once.
        client.write_all(b"{\"method\":\"io.vmcored.").unwrap();
        server.serve(&state);
        client.write_all(b"Replan\"}\0{\"method\":\"io.vmcored.GetStatus\"}\0").unwrap();
        assert_eq!(server.serve(&state).as_deref(), Some("somebody asked"));
        assert_eq!(heard(&mut client).len(), 2);
    }

    #[test]
    fn a_look_holds_nobody_else_up() {
        let (dir, mut server, state) = setup();
        // Whoever opens this waits until somebody writes to it.
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        let settings = dir.path().join("etc/vmcored.toml");
        nix::unistd::mkfifo(&settings, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (mut asks, mut other) = (connect(&dir), connect(&dir));
        asks.write_all(b"{\"method\":\"io.vmcored.GetReadiness\"}\0{\"method\":\"io.vmcored.GetStatus\"}\0")
            .unwrap();
        server.serve(&state);
        other.write_all(b"{\"method\":\"io.vmcored.GetStatus\"}\0").unwrap();
        server.serve(&state);
        assert_eq!(heard(&mut other).len(), 1);
        assert_eq!(heard(&mut asks), Vec::<Value>::new());
        // Empty settings: now there is an answer, and what was asked after it.
        drop(std::fs::OpenOptions::new().write(true).open(&settings).unwrap());
        let mut answers = Vec::new();
        for _ in 0..600 {
            server.serve(&state);
            answers.extend(heard(&mut asks));
            if answers.len() == 2 {
                break;
            }
        }
        assert_eq!(answers[0].pointer("/parameters/readiness"), Some(&json!("not-ready")), "{answers:?}");
        assert_eq!(answers[1].pointer("/parameters/status/plans"), Some(&json!(3)));
    }

    #[test]
    fn who_subscribed_hears_of_changes() {
        let (dir, mut server, state) = setup();
        let mut client = connect(&dir);
        client.write_all(b"{\"method\":\"io.vmcored.Subscribe\",\"more\":true}\0").unwrap();
        server.serve(&state);
        assert_eq!(heard(&mut client)[0]["continues"], json!(true));
        let now = State { plans: 4, ..State::default() };
        server.changed(&now);
        server.changed(&now);
        let news = heard(&mut client);
        assert_eq!((news.len(), &news[0]["parameters"]["status"]["plans"]), (1, &json!(4)));
    }

    #[test]
    fn nonsense_is_hung_up_on() {
        let (dir, mut server, state) = setup();
        for bytes in [b"{\0".to_vec(), vec![b'x'; LONGEST + 1]] {
            let mut client = connect(&dir);
            client.set_nonblocking(true).unwrap();
            let mut left = &bytes[..];
            while let Ok(length @ 1..) = client.write(left) {
                left = &left[length..];
            }
            client.set_nonblocking(false).unwrap();
            for _ in 0..100 {
                server.serve(&state);
            }
            assert!(server.clients.is_empty(), "{} bytes", bytes.len());
            assert_eq!(client.read(&mut [0; 10]).unwrap_or(0), 0);
        }
    }

    #[test]
    fn the_interface_names_what_is_said() {
        let said = serde_json::to_value(State::default()).unwrap();
        for key in said.as_object().unwrap().keys() {
            assert!(INTERFACE.contains(&format!("  {key}: ")), "{key}");
        }
    }
}
