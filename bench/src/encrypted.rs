//! A rig whose ports have an encryption policy, and one conversation that it knows.

mod cases;

pub use cases::{Case, cases};

use crate::{PORTS, Rig};
use anyhow::{Context as _, Result, ensure};
use dataplane::maps::Raw;
use dataplane_common::{
    abi::{Epoch, RULES_MAX},
    encryption::{Bucket, Conversation, Policy, Rule},
};

/// A packet of the conversation: whether it comes from the tenant, and its frame.
#[derive(Clone, Debug)]
pub struct Said {
    /// From the tenant, or to it.
    pub from_tenant: bool,
    /// The whole frame.
    pub frame: Vec<u8>,
}

/// The frame of [`crate::frame`] with so much behind its IPv4 header.
fn around(from_tenant: bool, protocol: u8, transport: &[u8]) -> Said {
    let mut frame = crate::frame(from_tenant);
    frame.truncate(34);
    let len = (20 + transport.len()) as u16;
    frame[16..18].copy_from_slice(&len.to_be_bytes());
    frame[23] = protocol;
    frame.extend_from_slice(transport);
    Said { from_tenant, frame }
}

fn ports(from_tenant: bool) -> Vec<u8> {
    let ports = [12_345_u16, 443];
    let ports = if from_tenant {
        ports
    } else {
        [ports[1], ports[0]]
    };
    ports.map(u16::to_be_bytes).concat()
}

/// A segment of TCP between the tenant's port 12345 and 443.
pub fn segment(from_tenant: bool, (seq, ack): (u32, u32), flags: u8, payload: &[u8]) -> Said {
    let mut transport = ports(from_tenant);
    transport.extend(seq.to_be_bytes());
    transport.extend(ack.to_be_bytes());
    transport.extend([0x50, flags, 0x04, 0, 0, 0, 0, 0]);
    transport.extend_from_slice(payload);
    around(from_tenant, 6, &transport)
}

/// A datagram between the same ports.
pub fn datagram(from_tenant: bool, payload: &[u8]) -> Said {
    let mut transport = ports(from_tenant);
    transport.extend((payload.len() as u16 + 8).to_be_bytes());
    transport.extend([0, 0]);
    transport.extend_from_slice(payload);
    around(from_tenant, 17, &transport)
}

impl Rig {
    /// Gives every port a policy with this rule for everything, or none.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn police(&mut self, rule: Option<&Rule>) -> Result<()> {
        let set = Epoch::new(1, 0).policy_set();
        self.encryption = u32::from(rule.is_some());
        if let Some(rule) = rule {
            let policy = Policy {
                tenant: 1,
                rules: [[1; 64]; 2],
                ..Policy::default()
            };
            let at = self.plan.sizes.port(set, 1);
            self.maps.policies.set(at, policy)?;
            self.maps.rules.set(set * RULES_MAX + 1, Raw(*rule), 0)?;
        }
        self.maps.conversations.set(0, Raw(Bucket::default()), 0)?;
        ensure!(PORTS > 0, "a rig without a port");
        self.set(crate::Ceiling::None)
    }

    /// Lets the conversation say this, and keeps it as it is then: `bench_again_*` begin there.
    ///
    /// # Errors
    /// When a map refuses, or a packet made no conversation.
    pub fn keep(&mut self, said: &[Said], change: impl FnOnce(&mut Conversation)) -> Result<()> {
        for one in said {
            let program = if one.from_tenant {
                "bench_from_tenant"
            } else {
                "bench_to_tenant"
            };
            self.run(program, &one.frame, 1)?;
        }
        let mut bucket = self.maps.conversations.get(&0, 0)?.0;
        ensure!(
            bucket.ways[0].key.ethertype != 0,
            "there is no conversation"
        );
        change(&mut bucket.ways[0]);
        bucket.ways[3] = bucket.ways[0];
        bucket.ways[3].key.remote_port = !bucket.ways[0].key.remote_port;
        self.maps.conversations.set(0, Raw(bucket), 0)?;
        Ok(())
    }

    /// The conversation as it stands.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn conversation(&self) -> Result<Conversation> {
        let bucket = self.maps.conversations.get(&0, 0)?;
        bucket
            .0
            .ways
            .first()
            .copied()
            .context("a bucket without ways")
    }
}
