//! The loaded programs with one port, one policy and one bucket of conversations; frames go through
//! `BPF_PROG_TEST_RUN`.

use super::place;
use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use dataplane::{
    attach::{self, Hook, Mechanism},
    cut::Sealed,
    maps::{Maps, Raw},
    object::{self, Plan},
};
use dataplane_common::{
    abi::{
        Binding, BindingKey, Epoch, FROM_TENANT, InterfaceSlot, Ipv4Net, Ipv6Net, PortPolicy,
        RULES_MAX,
    },
    encryption::{Bucket, CLASSES, Conversation, Policy, Rule, protocol},
    reason::DropReason,
};
use std::{net::Ipv6Addr, time::Duration};

/// Bank 0 and policy set 0.
const EPOCH: Epoch = Epoch::new(2, 4);
const SLOT: u32 = 1;
/// `TC_ACT_SHOT`, and what lets programs behind ours have their say.
const DROP: u32 = 2;
const PASS: u32 = u32::MAX;

/// The tenant's end and the other one.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0xFE]];
pub const IPV4: [[u8; 4]; 2] = [[10, 0, 0, 1], [198, 51, 100, 9]];

/// Their addresses in IPv6.
pub fn ipv6(end: usize) -> [u8; 16] {
    let addresses = ["fd77::1", "2001:db8::9"];
    let address: Ipv6Addr = addresses[end].parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
    address.octets()
}

pub struct Kernel {
    object: Ebpf,
    maps: Maps,
    plan: Plan,
    mechanism: Mechanism,
    ifindex: u32,
    port: PortPolicy,
}

/// What the kernel remembers of a conversation. All zero: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Remembers {
    pub talk: Conversation,
    /// The packet in fragments with the highest number.
    pub packet: Conversation,
}

/// Packets by class, and those that were dropped by the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub classes: [[u64; CLASSES as usize]; 2],
    pub dropped: [u64; 2],
}

impl Kernel {
    /// Loads what `mechanism` attaches, within a namespace of the test's own.
    pub fn load(mechanism: Mechanism) -> Result<Self> {
        let ifindex = place::veth("port")?;
        let plan = Plan::new(1, 16).with_conversations(1);
        let mut object = object::load(&plan, None)?;
        attach::load_programs(&mut object, mechanism, None)?;
        let mut maps = Maps::take(&mut object)?;
        let key = BindingKey { ifindex, vlan: 0 };
        let binding = Binding {
            slot: SLOT,
            reserved: 0,
        };
        maps.bindings.insert(Raw(key), Raw(binding), 0)?;
        let entry = InterfaceSlot::new(ifindex, SLOT);
        maps.interfaces
            .set(InterfaceSlot::place(ifindex), entry.0, 0)?;
        let words = |address: [u8; 16]| -> [u32; 4] {
            std::array::from_fn(|at| {
                let bytes = address[at * 4..].first_chunk().copied();
                u32::from_ne_bytes(bytes.unwrap_or_default())
            })
        };
        let mut mac = [0; 8];
        mac[2..].copy_from_slice(&MACS[0]);
        let policy = PortPolicy {
            flags: PortPolicy::ACTIVE,
            tenant: 1,
            encryption: 1,
            macs: [u64::from_be_bytes(mac), 0],
            ipv4: [
                Ipv4Net {
                    network: u32::from_ne_bytes(IPV4[0]),
                    mask: u32::MAX,
                },
                Ipv4Net::NONE,
            ],
            ipv6: Ipv6Net {
                network: words(ipv6(0)),
                mask: [u32::MAX; 4],
            },
            ..PortPolicy::default()
        };
        let set = EPOCH.policy_set();
        maps.ports.set(plan.sizes.port(set, SLOT), policy)?;
        let of_the_tenant = Policy {
            tenant: 1,
            rules: [[1; 64]; 2],
            ..Policy::default()
        };
        maps.policies.set(plan.sizes.port(set, 1), of_the_tenant)?;
        maps.epoch.set(0, EPOCH.0, 0)?;
        Ok(Self {
            object,
            maps,
            plan,
            mechanism,
            ifindex,
            port: policy,
        })
    }

    /// Begins anew: under `rule`, with no conversation known. With a `budget`, of which nothing is counted, each packet is held
    /// until it has its verdict; without one, what is within a record is not.
    pub fn begin(&mut self, rule: &Rule, budget: bool) -> Result<()> {
        self.port.quota = u32::from(budget);
        let port = self.plan.sizes.port(EPOCH.policy_set(), SLOT);
        self.maps.ports.set(port, self.port)?;
        let at = EPOCH.policy_set() * RULES_MAX + 1;
        self.maps.rules.set(at, Raw(*rule), 0)?;
        self.maps.conversations.set(0, Raw(Bucket::default()), 0)?;
        Ok(())
    }

    /// Runs a direction's program on a frame; true when it lets it pass.
    pub fn run(&mut self, direction: u32, frame: &[u8]) -> Result<bool> {
        /// Offset of `ifindex` in `struct __sk_buff` (include/uapi/linux/bpf.h).
        const IFINDEX: usize = 40;
        let mut context = [0; 192];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&self.ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let hook = if direction == FROM_TENANT {
            Hook::FromTenant
        } else {
            Hook::ToTenant
        };
        let name = hook.in_object(self.mechanism);
        let program: &mut SchedClassifier =
            self.object.program_mut(name).context(name)?.try_into()?;
        match program.test_run(options)?.return_value {
            PASS => Ok(true),
            DROP => Ok(false),
            other => Err(anyhow!("verdict {other:#x}")),
        }
    }

    /// The conversation, and the packet in fragments that came last.
    pub fn remembers(&self) -> Result<Remembers> {
        let ways = self.maps.conversations.get(&0, 0)?.0.ways;
        let is_packet = |one: &&Conversation| one.protocol == protocol::FRAGMENT;
        let talk = ways.iter().find(|one| !is_packet(one));
        let id = |one: &&Conversation| (one.key.remote_port, one.key.local_port);
        let packet = ways.iter().filter(is_packet).max_by_key(id);
        Ok(Remembers {
            talk: talk.copied().unwrap_or_default(),
            packet: packet.copied().unwrap_or_default(),
        })
    }

    /// What is booked of the port by now.
    pub fn sums(&self) -> Result<Sums> {
        let sealed = Sealed {
            window: 0,
            bank: EPOCH.bank(),
            barrier: Duration::ZERO,
        };
        let banks = sealed.read(&self.maps, &self.plan.sizes, &[SLOT])?;
        let [from, to] = banks.first().context("one slot, one entry")?;
        let mut sums = Sums::default();
        for (direction, bank) in [from, to].into_iter().enumerate() {
            for (sum, counts) in sums.classes[direction].iter_mut().zip(&bank.evidence) {
                *sum = counts.packets;
            }
            let dropped = bank.drops.get(DropReason::EncryptionPolicy as usize);
            sums.dropped[direction] = dropped.map_or(0, |counts| counts.packets);
            let others = bank.drops.iter().enumerate();
            let others =
                others.filter(|(reason, _)| *reason != DropReason::EncryptionPolicy as usize);
            let others: u64 = others.map(|(_, counts)| counts.packets).sum();
            anyhow::ensure!(
                others == 0,
                "{others} packets are dropped for another reason"
            );
        }
        Ok(sums)
    }
}
