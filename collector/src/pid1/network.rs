//! The network stage: what leads to a target on the network, in a child under a deadline; and the cluster that has to know.

use super::child::{self, Bounds, Ending};
use super::report::Report;
use super::story::Story;
use super::{MARGIN, secs};
use crate::engine::chain;
use crate::manifest::Stage;
use crate::net::{self, fence};
use crate::plan::Plan;
use crate::plan::network::Network;
use crate::problem::Code;
use crate::sys;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

/// Makes all that leads to `target` and waits until its next hop answers. False: the story says why not. Another target may
/// have made some of it before. `patience` is what each step may take at most, seconds, where the target has a limit of its own.
pub fn bring_up(plan: &Plan, target: IpAddr, patience: Option<u64>, story: &mut Story) -> bool {
    let network = &limited(plan.network.clone().unwrap_or_default(), patience);
    story.begin(Stage::Network);
    let total = secs(network.limits.total).saturating_add(MARGIN);
    let bounds = Bounds { total, stall: Duration::MAX, badness: 0 };
    let ended = child::run(bounds, &mut |r| story.hear(r), |out| {
        let mut tell = |said: String| {
            log::info!("network: {said}");
            out.tell(&Report::Doing(said));
        };
        tell(format!("making the way to {target}"));
        let reached = net::reach(network, target, &mut tell).map_err(|e| chain(&e))?;
        log_reached(&reached);
        Ok(())
    });
    if ended.ending == Ending::Done {
        story.end(None);
        return true;
    }
    story.target_failed(Code::NETWORK_FAILED, "the network", &ended);
    false
}

/// The network with no step allowed more than `patience`.
fn limited(mut network: Network, patience: Option<u64>) -> Network {
    if let Some(patience) = patience {
        let limits = &mut network.limits;
        for limit in [&mut limits.appear, &mut limits.carrier, &mut limits.reach, &mut limits.lease] {
            *limit = patience.min(*limit);
        }
    }
    network
}

fn log_reached(reached: &net::Reached) {
    let who = reached.next_hop_mac.map(|mac| format!(" ({mac})")).unwrap_or_default();
    log::info!(
        "network: {} is reached by {} on {}{who}; carrier after {} ms, all in {} ms",
        reached.address,
        reached.next_hop,
        reached.link,
        reached.carrier.as_millis(),
        reached.took.as_millis(),
    );
}

/// Starts telling the cluster that this machine dumps, until the machine restarts. It goes on by itself, and whatever becomes of
/// it is nobody's concern: a dump is worth having even of a machine that is fenced.
pub fn tell_cluster(plan: &Plan) {
    let (Some(told), Some(network)) = (&plan.fence, &plan.network) else { return };
    let started = sys::spawn(|| {
        // PID 1's own, which it has from its parent, would have others killed before it.
        if let Err(e) = fs::write("/proc/self/oom_score_adj", "500") {
            log::debug!("/proc/self/oom_score_adj: {e}");
        }
        let mut tell = |said: String| log::info!("{said}");
        for node in &told.nodes {
            match net::reach(network, *node, &mut |said| log::info!("network: {said}")) {
                Ok(reached) => {
                    log_reached(&reached);
                    // At once: fencing is a matter of seconds.
                    match fence::send(*node, told.port, network) {
                        Ok(()) => log::info!("fence_kdump: telling {node}"),
                        Err(e) => log::warn!("fence_kdump: cannot tell {node}: {e}"),
                    }
                }
                Err(e) => log::warn!("fence_kdump: {node}: {}", chain(&e)),
            }
        }
        fence::keep_sending(told, network, &mut tell);
        0
    });
    if let Err(e) = started {
        log::warn!("fence_kdump: no process: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pid1::testing;

    #[test]
    fn a_target_s_own_limit_shortens_every_step() {
        let usual = Network::default();
        assert_eq!(limited(usual.clone(), None), usual);
        let short = limited(usual.clone(), Some(3)).limits;
        assert_eq!((short.appear, short.carrier, short.reach, short.lease), (3, 3, 3, 3));
        assert_eq!(short.total, usual.limits.total);
        assert_eq!(limited(usual.clone(), Some(1000)), usual);
    }

    #[test]
    fn without_a_way_the_story_says_so() {
        let mut story = Story::default();
        let plan = testing::plan(&["vmcore"]);
        assert!(!bring_up(&plan, IpAddr::from([10, 0, 0, 9]), Some(5), &mut story));
        let manifest = story.manifest(&plan, None, None);
        let problem = manifest.problems.iter().find(|p| p.code == Code::NETWORK_FAILED).unwrap();
        assert!(problem.message.contains("no way to 10.0.0.9"), "{problem:?}");
        assert_eq!(manifest.stages.last().map(|s| s.stage), Some(Stage::Network));
        tell_cluster(&plan);
    }
}
