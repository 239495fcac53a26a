//! [`isolation`], [`turns`], and a rig for measuring the gate's programs: loaded, with ten thousand ports, and no interface.
//!
//! `BPF_PROG_TEST_RUN` runs a program on a packet as often as one likes and says how long it took;
//! the programs `bench_*` draw another port for each run.

mod encrypted;
pub mod isolation;
pub mod turns;

pub use encrypted::{Case, Said, cases, datagram, segment};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, lpm_trie::Key},
    programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use dataplane::{
    cut::{self, Barrier},
    flows::{Flows, Timeouts},
    maps::{Maps, Raw},
    object::{self, Plan},
};
use dataplane_common::{
    abi::{
        Binding, BindingKey, DIRECTIONS, Epoch, InterfaceSlot, Ipv4Net, Ipv6Net, LimitPolicy,
        MacKey, PortPolicy, Sizes, ZoneKey,
    },
    flood::{BYTES, SURPLUS_CLOCKS, WHOSE},
    limit::{Rate, Times},
    units::BitsPerSecond,
};
use std::time::{Duration, Instant};

/// Ports of the rig.
pub const PORTS: u32 = 10_000;
/// Entries of the table of draws; `PICKS_MAX` of the programs.
pub const PICKS: u32 = 65_536;
/// Interface of the first port; the rest follow. Far from any that exists.
const FIRST_INTERFACE: u32 = 1_000_000;

/// How the ports of a rig are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceiling {
    /// Not at all.
    None,
    /// Far above what is sent.
    Below,
    /// Far below: every packet is over it.
    At,
}

/// Which port each packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// One.
    Hot,
    /// Zipf with exponent 1.1 over all.
    Zipf,
    /// All alike.
    Uniform,
    /// [`EACH`] of them in turn: so many packets in a row are of as many ports.
    Each,
}

/// Ports of [`Ports::Each`]; divides [`PICKS`].
pub const EACH: u32 = 8_192;

/// A loaded object whose maps hold [`PORTS`] ports.
pub struct Rig {
    object: Ebpf,
    maps: Maps,
    plan: Plan,
    /// The flow table, where ports keep flows.
    flows: Option<Flows>,
    /// Number of every port's encryption policy; 0: none.
    encryption: u32,
}

/// A small generator, so that the draws of two runs are the same (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// The draws of a distribution: port numbers, 0 to [`PORTS`] − 1.
fn draws(ports: Ports) -> Vec<u32> {
    let mut random = Random(0x0C7_2026);
    match ports {
        Ports::Hot => vec![0; PICKS as usize],
        Ports::Each => (0..PICKS).map(|at| at % EACH).collect(),
        Ports::Uniform => (0..PICKS)
            .map(|_| (random.next() >> 33) as u32 % PORTS)
            .collect(),
        Ports::Zipf => {
            let weights: Vec<f64> = (1..=PORTS).map(|rank| f64::from(rank).powf(-1.1)).collect();
            let mut sum = 0.0;
            let cumulative: Vec<f64> = weights
                .iter()
                .map(|w| {
                    sum += w;
                    sum
                })
                .collect();
            // Ranks are spread over the slots, as in life: a popular port is not a low slot.
            (0..PICKS)
                .map(|_| {
                    let at = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
                    let rank = cumulative.partition_point(|edge| *edge < at) as u32;
                    rank.wrapping_mul(7_919) % PORTS
                })
                .collect()
        }
    }
}

impl Rig {
    /// Loads the object and writes the ports.
    ///
    /// # Errors
    /// When this is not root, or the kernel refuses.
    pub fn new() -> Result<Self> {
        Self::with_flows(0)
    }

    /// The same, whose ports keep flows in a table of so many places; 0: they keep none.
    ///
    /// # Errors
    /// As [`Rig::new`].
    pub fn with_flows(places: u32) -> Result<Self> {
        Self::of(object::OBJECT, places)
    }

    /// The same, of the programs in `elf`: another build's, whose maps are laid out as this one's.
    ///
    /// # Errors
    /// As [`Rig::new`], and when a map's values have another size.
    pub fn of(elf: &[u8], places: u32) -> Result<Self> {
        let plan = Plan::new(PORTS, 16)
            .with_bench_picks(PICKS)
            .with_flows(places.max(1))
            .with_conversations(1);
        let mut object = object::load_elf(&plan, None, elf)?;
        for name in [
            "empty",
            "bench_from_tenant",
            "bench_to_tenant",
            "bench_again",
            "bench_again_from_tenant",
            "bench_again_to_tenant",
        ] {
            program::<SchedClassifier>(&mut object, name)?.load()?;
        }
        for name in ["empty_xdp", "uplink"] {
            program::<Xdp>(&mut object, name)?.load()?;
        }
        let mut maps = Maps::take(&mut object)?;
        maps.epoch.set(0, Epoch::new(1, 0).0, 0)?;
        for number in 0..PORTS {
            let key = BindingKey {
                ifindex: FIRST_INTERFACE + number,
                vlan: 0,
            };
            maps.bindings.insert(
                Raw(key),
                Raw(Binding {
                    slot: number + 1,
                    reserved: 0,
                }),
                0,
            )?;
        }
        for number in 0..PORTS {
            let ifindex = FIRST_INTERFACE + number;
            let entry = InterfaceSlot::new(ifindex, number + 1);
            maps.interfaces
                .set(InterfaceSlot::place(ifindex), entry.0, 0)?;
        }
        for number in 0..64_u8 {
            let address = [u32::from_ne_bytes([198, 51, number, 0]), 0, 0, 0];
            let key = ZoneKey {
                policy_set: 1,
                family: 4,
                reserved: [0; 2],
                address,
            };
            maps.zones
                .insert(&Key::new(ZoneKey::PREFIX_BITS + 24, Raw(key)), 4, 0)?;
        }
        let flows = match places {
            0 => None,
            _ => Some(Flows::open(&mut maps, &plan, Timeouts::default())?),
        };
        let mut rig = Self {
            object,
            maps,
            plan,
            flows,
            encryption: 0,
        };
        rig.set(Ceiling::None)?;
        Ok(rig)
    }

    /// Ends all flows: what comes now begins anew.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn end_flows(&mut self) -> Result<()> {
        // No program runs now, so that one reading ends them and the next gives their places back.
        for bank in [0, 1] {
            if let Some(flows) = &mut self.flows
                && let (_, Some(error)) = flows.drain(&mut self.maps, bank, |_| true)
            {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Gives every port this ceiling.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn set(&mut self, ceiling: Ceiling) -> Result<()> {
        let plan = self.plan;
        let times = times();
        let begin =
            |bits, burst| LimitPolicy::begin(Rate::bytes(BitsPerSecond(bits)), burst, 0, &times);
        let limit = match ceiling {
            Ceiling::None => LimitPolicy::default(),
            Ceiling::Below => begin(400_000_000_000, 20_000_000_000),
            Ceiling::At => begin(1_000, 2_000),
        };
        let mut entry = PortPolicy {
            flags: PortPolicy::ACTIVE,
            tenant: 1,
            macs: [MAC, 0],
            ipv4: [
                Ipv4Net {
                    network: u32::from_ne_bytes([10, 0, 0, 1]),
                    mask: u32::MAX,
                },
                Ipv4Net::NONE,
            ],
            ipv6: Ipv6Net::NONE,
            encryption: self.encryption,
            ..PortPolicy::default()
        };
        if self.flows.is_some() {
            entry.flags |= PortPolicy::FLOWS;
            entry.flow_quota = u32::MAX;
        }
        for direction in 0..DIRECTIONS {
            entry.set_limits(direction, [limit, LimitPolicy::default()]);
        }
        for slot in 1..=PORTS {
            self.maps.ports.set(plan.sizes.port(1, slot), entry)?;
            for direction in 0..2 {
                self.maps
                    .clocks
                    .set(plan.sizes.clock(slot, direction, 0), 0, 0)?;
            }
        }
        Ok(())
    }

    /// Draws the ports of the runs to come.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn draw(&mut self, ports: Ports) -> Result<()> {
        let map = self
            .object
            .map_mut("BENCH_PICKS")
            .context("no BENCH_PICKS")?;
        let mut picks: Array<_, u32> = map.try_into()?;
        for (index, port) in (0..).zip(draws(ports)) {
            picks.set(index, FIRST_INTERFACE + port, 0)?;
        }
        Ok(())
    }

    /// Closes the open window and reads its bank, for the first `ports` ports; how long the reading took.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn drain(&mut self, ports: u32) -> Result<Duration> {
        let slots: Vec<u32> = (1..=ports).collect();
        let sealed = cut::cut(&mut self.maps, Barrier::Wait)?;
        let begun = Instant::now();
        let banks = sealed.read(&self.maps, &Plan::new(PORTS, 16).sizes, &slots)?;
        let took = begun.elapsed();
        ensure!(
            banks.len() == slots.len(),
            "{} ports were read",
            banks.len()
        );
        Ok(took)
    }

    /// Has uplinks find the first port by the MAC of [`frame`], or again nobody.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn find_by_mac(&mut self, found: bool) -> Result<()> {
        let key = Raw(MacKey {
            mac: MAC,
            slot: WHOSE,
            policy_set: 1,
        });
        if found {
            self.maps.macs.insert(key, 1, 0)?;
        } else {
            let _ = self.maps.macs.remove(&key);
        }
        Ok(())
    }

    /// Makes what is for the first port one flood: its queue is full, its flows are fat, and the surplus is used up. After
    /// [`Rig::set`] with [`Ceiling::At`].
    ///
    /// # Errors
    /// When a map refuses.
    pub fn flood(&mut self) -> Result<()> {
        let sizes = self.plan.sizes;
        let index = sizes.port(1, 1);
        let limit = self.maps.ports.get(index)?.limits[1][0];
        let times = times();
        let full = limit.line(times.now_ns).wrapping_add(1 << 40);
        self.maps.clocks.set(sizes.clock(1, 1, 0), full, 0)?;
        let fat = (times.now_ns << 4) + (1 << 60);
        self.maps
            .clocks
            .set(sizes.clock(1, 1, Sizes::THIN), fat, 0)?;
        let map = self.object.map_mut("SURPLUS").context("no SURPLUS")?;
        let mut surplus: Array<_, u64> = map.try_into()?;
        surplus.set(SURPLUS_CLOCKS + BYTES, full, 0)?;
        Ok(())
    }

    /// Runs an XDP program `repeat` times on `frame`, likewise.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run_xdp(&mut self, name: &str, frame: &[u8], repeat: u32) -> Result<(u32, Duration)> {
        let program: &mut Xdp = program(&mut self.object, name)?;
        let result = program.test_run(repeated(frame, repeat))?;
        Ok((result.return_value, result.duration * repeat))
    }

    /// Runs a program `repeat` times on `frame`; the time of all runs together, as the kernel says.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(&mut self, name: &str, frame: &[u8], repeat: u32) -> Result<Duration> {
        let program: &mut SchedClassifier = program(&mut self.object, name)?;
        let result = program.test_run(repeated(frame, repeat))?;
        Ok(result.duration * repeat)
    }
}

/// Times of a revision that is in force at once.
pub fn times() -> Times {
    let now_ns = dataplane::host::clock_ns(libc::CLOCK_MONOTONIC);
    let coarse_slack_ns = dataplane::host::coarse_slack_ns();
    Times {
        now_ns,
        switch_ns: now_ns,
        coarse_slack_ns,
    }
}

fn repeated(frame: &[u8], repeat: u32) -> TestRunOptions<'_> {
    TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::new()
    }
}

fn program<'a, P: 'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    Ok(object
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

/// MAC of every port of the rig.
pub const MAC: u64 = 0x0200_0000_0001;

/// A TCP segment of 1,000 bytes from the tenant, or to it.
pub fn frame(from_tenant: bool) -> Vec<u8> {
    let mut frame = vec![0_u8; 1_000];
    let (tenant, peer) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0xFE]);
    let (own, remote) = ([10, 0, 0, 1], [198, 51, 7, 9]);
    let (dst_mac, src_mac) = if from_tenant {
        (peer, tenant)
    } else {
        (tenant, peer)
    };
    let (src, dst) = if from_tenant {
        (own, remote)
    } else {
        (remote, own)
    };
    frame[..6].copy_from_slice(&dst_mac);
    frame[6..12].copy_from_slice(&src_mac);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[
        0x45, 0, 0x03, 0xDA, 0, 0, 0, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    frame[26..30].copy_from_slice(&src);
    frame[30..34].copy_from_slice(&dst);
    frame[34..38].copy_from_slice(&[0x30, 0x39, 0x01, 0xBB]);
    frame[46] = 0x50;
    frame
}
