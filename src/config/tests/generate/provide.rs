//! Tunnels to other hosts.

use crate::config::{Peer, Provide, tests::Random};
use dataplane::provide::Key as PublicKey;
use std::time::Duration;

/// One of them, with one to three peers; `number` names it apart from the others.
pub(super) fn provide(random: &mut Random, number: usize) -> Provide {
    let peer = |random: &mut Random, at: usize| Peer {
        name: format!("peer-{at}").parse().expect("a name"),
        endpoint: format!("192.0.2.{}:{}", at + 1, 1 + random.below(65_534))
            .parse()
            .expect("an endpoint"),
        addresses: vec![format!("10.{number}.{at}.0/24").parse().expect("a prefix")],
        keys: [0, 1].map(|side| {
            let known = random.one_in(2);
            known.then_some(PublicKey([(number * 64 + at * 2 + side) as u8; 32]))
        }),
    };
    Provide {
        name: format!("tunnel-{number}").parse().expect("a name"),
        device: format!("wg-of-{number}").parse().expect("a name"),
        listen_port: 51_820 + 2 * number as u16,
        address: format!("10.{number}.255.1").parse().expect("an address"),
        rotate: random
            .one_in(2)
            .then(|| Duration::from_secs(60 + random.below(1_000_000) as u64)),
        peers: (0..1 + random.below(3))
            .map(|at| peer(random, at))
            .collect(),
    }
}
