//! Dumps a vmcore over ssh as the crash kernel does, for `cargo xtask bench --ssh`:
//!
//! ```console
//! $ cargo run --release -p collector --example dump_ssh -- TARGET.json VMCORE LEVEL CODEC THREADS
//! ```
//!
//! TARGET.json is a plan's `SshTarget`, with files of the machine it runs on. Prints the path of what was written.

use collector::engine::{Engine, chain};
use collector::plan::ssh::SshTarget;
use collector::plan::{Compression, DumpSpec, Format};
use collector::progress::Silent;
use collector::source::FileSource;
use collector::target::TargetError;
use collector::target::ssh::{Connection, FLAT, Patience};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [target, vmcore, level, codec, threads] = words.as_slice() else {
        return Err("dump_ssh TARGET.json VMCORE LEVEL CODEC THREADS".into());
    };
    let target: SshTarget = serde_json::from_str(&std::fs::read_to_string(target)?)?;
    let codec: Compression = codec.parse()?;
    let patience = Patience { reach: Duration::from_secs(30), stall: Duration::from_secs(60) };
    let told = |e: TargetError| chain(&e);
    let connection = Connection::open(&target, patience)?;
    let way = connection.greet()?;
    let directory = connection.create_directory(way, "bench").map_err(told)?;
    let source = FileSource::open(Path::new(vmcore))?;
    let mut engine = Engine::open(&source)?;
    engine.threads = threads.parse()?;
    let sink = directory.create_file("vmcore-incomplete").map_err(told)?;
    let spec = DumpSpec::new("vmcore", level.parse()?, Format::Kdump, codec);
    // It ends with an fsync on the server.
    engine.dump(&spec, &*sink, &Silent)?;
    drop(sink);
    let name = if directory.seekable() { "vmcore".to_owned() } else { format!("vmcore{FLAT}") };
    directory.rename("vmcore-incomplete", &name).map_err(told)?;
    directory.sync().map_err(told)?;
    println!("{}/{name}", directory.path());
    connection.end();
    Ok(())
}
