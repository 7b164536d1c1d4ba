//! Tells a cluster that this machine is dumping, so that it is not fenced for being silent: what `fence_kdump_send` of
//! fence-agents does, and its `fence_kdump` waits for.
//!
//! A message is eight bytes over UDP: two 32-bit numbers in the sender's byte order, 0x1B302A40 and the version 1.

use crate::plan::network::{Fence, Network};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

const MAGIC: u32 = 0x1B30_2A40;
const VERSION: u32 = 1;

/// Sends until `fence.count` rounds are done, or for ever. What cannot be sent now can perhaps be next time: no failure
/// ends it. `network` tells the link of a link-local address.
pub fn keep_sending(fence: &Fence, network: &Network, tell: &mut dyn FnMut(String)) {
    let mut round = 0_u32;
    let mut last: Vec<Option<String>> = vec![None; fence.nodes.len()];
    loop {
        for (node, last) in fence.nodes.iter().zip(&mut last) {
            let failed = send(*node, fence.port, network).err().map(|e| e.to_string());
            // Once each, not every ten seconds.
            if failed != *last {
                match &failed {
                    Some(why) => tell(format!("fence_kdump: cannot tell {node}: {why}")),
                    None => tell(format!("fence_kdump: telling {node} again")),
                }
                *last = failed;
            }
        }
        round = round.saturating_add(1);
        if fence.count > 0 && round >= fence.count {
            return;
        }
        std::thread::sleep(Duration::from_secs(u64::from(fence.interval.max(1))));
    }
}

/// Sends one message.
pub fn send(node: IpAddr, port: u16, network: &Network) -> std::io::Result<()> {
    let (from, to): (SocketAddr, SocketAddr) = match node {
        IpAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), (node, port).into()),
        IpAddr::V6(address) => {
            let link = network.reach.iter().find(|r| r.address == node).map(|r| r.link.as_str());
            let scope = match link.filter(|_| address.is_unicast_link_local()) {
                Some(link) => nix::net::if_::if_nametoindex(link)?,
                None => 0,
            };
            ((Ipv6Addr::UNSPECIFIED, 0).into(), SocketAddrV6::new(address, port, 0, scope).into())
        }
    };
    let [a, b] = [MAGIC, VERSION].map(u32::to_ne_bytes);
    UdpSocket::bind(from)?.send_to(&[a, b].concat(), to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_often_as_asked() {
        let (four, six) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0"));
        let port = four.local_addr().unwrap().port();
        let fence = Fence { nodes: vec!["127.0.0.1".parse().unwrap()], port, interval: 1, count: 2 };
        keep_sending(&fence, &Network::default(), &mut |said| panic!("{said}"));
        let mut bytes = [0; 16];
        for _ in 0..2 {
            assert_eq!(four.recv(&mut bytes).unwrap(), 8);
            assert_eq!(bytes[..8], [0x1B30_2A40_u32.to_ne_bytes(), 1_u32.to_ne_bytes()].concat());
        }
        let Ok(six) = six else {
            eprintln!("no IPv6 on this machine: not tested");
            return;
        };
        send("::1".parse().unwrap(), six.local_addr().unwrap().port(), &Network::default()).unwrap();
        assert_eq!(six.recv(&mut bytes).unwrap(), 8);
    }

    #[test]
    fn what_cannot_be_sent_is_said_once() {
        let fence = Fence { nodes: vec!["255.255.255.255".parse().unwrap()], port: 9, interval: 1, count: 2 };
        let mut said = Vec::new();
        keep_sending(&fence, &Network::default(), &mut |s| said.push(s));
        assert_eq!(said.len(), 1, "{said:?}");
    }
}
