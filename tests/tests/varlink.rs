//! The daemon's socket, asked by somebody else's client.

use config::daemon::State;
use config::daemon::varlink::{INTERFACE, Server};
use initramfs::root::Root;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vmcored_tests::lab::cache::Cache;
use vmcored_tests::lab::varlink::Varlink;

/// Reads the interfaces as the service describes them, calls each method, subscribes, and is told of what it sets off itself.
const SCRIPT: &str = r#"
import sys, varlink
client = varlink.Client.new_with_address(sys.argv[1])
with client.open('org.varlink.service') as service:
    info = service.GetInfo()
    print('product', info['product'], info['interfaces'])
    print(service.GetInterfaceDescription('io.vmcored')['description'])
    try:
        service.GetInterfaceDescription('io.nobody')
        print('somebody')
    except varlink.VarlinkError as e:
        print('error', e.error())
with client.open('io.vmcored') as vmcored, client.open('io.vmcored') as other:
    status = vmcored.GetStatus()['status']
    print('status', status['armed'], status['plans'], status.get('image'))
    ready = vmcored.GetReadiness()
    print('readiness', ready['readiness'], sorted(set(check['state'] for check in ready['checks'])))
    try:
        vmcored.Subscribe()
        print('no error')
    except varlink.VarlinkError as e:
        print('error', e.error())
    news = other.Subscribe(_more=True)
    print('first', next(news)['status']['plans'])
    vmcored.Replan()
    print('next', next(news)['status']['plans'], next(news)['status']['plans'])
"#;

#[test]
fn another_client_understands_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("io.vmcored");
    let varlink = Cache::open().and_then(|cache| Varlink::get(&cache)).unwrap();
    let state = Mutex::new(State { plans: 3, ..State::default() });
    let mut server = Server::open(&socket, Root::new(dir.path())).unwrap();
    let over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            // As the daemon's loop does, with a plan that takes no time.
            while !over.load(Ordering::Relaxed) {
                let asked = server.serve(&state);
                for _ in asked.iter().flat_map(|_| 0..2) {
                    let now = {
                        let mut state = state.lock().unwrap();
                        state.plans += 1;
                        state.clone()
                    };
                    server.changed(&now);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let said = varlink.run(SCRIPT, &socket);
        over.store(true, Ordering::Relaxed);
        said.unwrap()
    });
    for line in [
        "product vmcored ['org.varlink.service', 'io.vmcored']",
        "error org.varlink.service.InterfaceNotFound",
        "status False 3 None",
        "error org.varlink.service.ExpectedMore",
        "first 3",
        "next 4 5",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    assert!(said.contains(INTERFACE.trim()), "{said}");
    assert!(said.contains("readiness not-ready ['failed', "), "{said}");
}
