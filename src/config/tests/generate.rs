//! Makes configurations that are legal, of all kinds there are, and never one that is not.

mod provide;
mod sinks;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use dataplane_common::units::{BitsPerSecond, Bytes, PacketsPerSecond, TenantId};
use metering::flow::Detail;

use super::Random;
use crate::config::model::BUILT_IN_ZONES;
use crate::config::{
    Accepts, Api, Billing, ChargeChange, ChargeClass, Cidr, ClearOverlays, Config, Direction,
    Encryption, Evidence, Exemption, Fragments, Holder, Host, InterfaceName, Limits, Mac, Meter,
    Metrics, Midstream, Mode, Name, Overlays, OwnProfile, Port, Profile, Provide, Quota,
    QuotaDirection, QuotaPeriod, QuotaThen, Retention, Shape, Share, Sink, TcpPort, Tenant, Tls,
    TlsMin, Uplink, ZONE_ID_FIRST, Zone,
};

/// One configuration.
pub(super) fn config(random: &mut Random) -> Config {
    let mut interfaces = HashSet::new();
    let trusted_interfaces = (0..random.below(3))
        .map(|_| interface(random, &mut interfaces))
        .collect();
    let host = Host {
        name: name(random, &mut HashSet::new()),
        pin_dir: PathBuf::from(*random.pick(&["/sys/fs/bpf/octroi", "/p", "/a b/\"c\"\\ü"])),
        run_dir: PathBuf::from(*random.pick(&["/run/octroi", "/", "/var/'x'"])),
        trusted_interfaces,
        shape: *random.pick(&Shape::ALL),
        packet_price_bytes: *random.pick(&[0, 1, 1_500, u16::MAX]),
        ports_max: random.magnitude(8, 65_535) as u16,
        zones_max: 8 + random.below(57) as u8,
        flows_max: random.magnitude(16, 4_194_304) as u32,
        conversations_max: random.magnitude(4, 4_194_304) as u32,
    };
    let meter = random.one_in(2).then(|| Meter {
        ledger: PathBuf::from(*random.pick(&["/var/lib/octroi/ledger.db", "/l", "/a 'b/\"ü\""])),
        window_ns: *random.pick(&[
            50_000_000,
            62_500_000,
            78_125_000,
            60_000_000_000,
            300_000_000_000,
        ]),
        tenant_flows_max: random.below(4_194_305) as u32,
        flow_idle_ns: *random.pick(&[1_000_000_000, 1_500_000_000, 86_400_000_000_000]),
        flow_active_ns: *random.pick(&[1_000_000_001, 2_000_000_000, 86_400_000_000_000]),
    });
    let mut days = || 1 + random.below(Retention::DAYS_MAX as usize) as u32;
    let retention = Retention {
        flows_days: days(),
        records_days: days(),
        rollups_days: days(),
    };
    let uplinks: Vec<Uplink> = (0..random.below(3))
        .map(|_| Uplink {
            interface: interface(random, &mut interfaces),
            capacity: (!random.one_in(3)).then(|| rate(random)),
            overhead_bytes: random.below(257) as u16,
            xdp: random.one_in(2),
            clear_overlays: *random.pick(&[
                ClearOverlays::Allow,
                ClearOverlays::Count,
                ClearOverlays::Drop,
            ]),
        })
        .collect();
    let count = if meter.is_some() { random.below(3) } else { 0 };
    let sinks = (0..count)
        .map(|number| Sink {
            name: format!("sink-{number}").parse().expect("a name"),
            target: sinks::target(random, number),
        })
        .collect();
    let tenants = tenants(random, &uplinks, meter.is_some());
    let api = random.one_in(2).then(|| api(random));
    let metrics = random.one_in(2).then(|| Metrics {
        listen: "[::1]:9464".parse().expect("an address"),
        users: ["prometheus", "ä\"'"][..random.below(3)]
            .iter()
            .map(ToString::to_string)
            .collect(),
    });
    let zones = zones(random, host.zones_max);
    let encryption_profiles: Vec<OwnProfile> = (0..random.below(3))
        .map(|number| own_profile(random, number))
        .collect();
    let encryption = match tenants.is_empty() {
        true => Vec::new(),
        false => (0..random.below(4))
            .map(|_| encryption(random, &tenants, &zones, &encryption_profiles))
            .collect(),
    };
    let host = Host {
        // Three tenants with the largest part each have room.
        conversations_max: match encryption.is_empty() {
            true => host.conversations_max,
            false => 4_194_304,
        },
        ..host
    };
    Config {
        api,
        metrics,
        zones,
        provide: tunnels(random, &uplinks),
        encryption,
        encryption_profiles,
        ports: ports(random, &tenants, &mut interfaces),
        host,
        meter,
        retention,
        billing: Billing {
            timezone: random
                .pick(&["UTC", "Europe/Paris", "America/St_Johns", "Asia/Kathmandu"])
                .parse()
                .expect("a time zone"),
        },
        sinks,
        uplinks,
        tenants,
    }
}

fn api(random: &mut Random) -> Api {
    let tls = random.one_in(2).then(|| Tls {
        listen: "[2001:db8::7]:8443".parse().expect("an address"),
        certificate: "/etc/octroi/api.pem".into(),
        key: "/k \"ey\"".into(),
        client_ca: "/ca".into(),
    });
    let mut read = holders(random);
    if tls.is_some() && random.one_in(2) {
        read.push("cert:a-1.billing.example".parse().expect("a holder"));
    }
    Api {
        socket: PathBuf::from(*random.pick(&["/run/octroi/api.sock", "/a", "/run/a \"b'"])),
        page: random.one_in(2).then(|| {
            let page = *random.pick(&["127.0.0.1:8787", "127.9.9.9:65535", "[::1]:1024"]);
            page.parse().expect("an address")
        }),
        tls,
        read,
        policy: holders(random),
    }
}

/// None where an uplink would let out what they protect.
fn tunnels(random: &mut Random, uplinks: &[Uplink]) -> Vec<Provide> {
    let lets_out = |uplink: &Uplink| uplink.clear_overlays != ClearOverlays::Drop;
    if uplinks.iter().any(lets_out) {
        return Vec::new();
    }
    (0..random.below(3))
        .map(|number| provide::provide(random, number))
        .collect()
}

fn holders(random: &mut Random) -> Vec<Holder> {
    let words = ["octroi-read", "user:monitor", "user:äb\"c", "a'b\\", "@x"];
    (0..random.below(4))
        .map(|_| random.pick(&words).parse().expect("a holder"))
        .collect()
}

fn zones(random: &mut Random, zones_max: u8) -> Vec<Zone> {
    let mut names = BUILT_IN_ZONES.map(str::to_string).into();
    let mut cidrs = HashSet::new();
    let mut ids: Vec<u8> = (ZONE_ID_FIRST..zones_max).collect();
    (0..random.below(5).min(ids.len()))
        .map(|_| {
            let id = ids.swap_remove(random.below(ids.len()));
            let name = name(random, &mut names);
            let mut own = Vec::new();
            while own.is_empty() || random.one_in(2) {
                let cidr = any_cidr(random);
                if cidrs.insert(cidr) {
                    own.push(cidr);
                }
            }
            Zone {
                name,
                id,
                cidrs: own,
            }
        })
        .collect()
}

fn tenants(random: &mut Random, uplinks: &[Uplink], metered: bool) -> Vec<Tenant> {
    let mut names = HashSet::new();
    let mut ids = HashSet::new();
    let mut tenants = Vec::new();
    for _ in 0..random.below(4) {
        let id = random.magnitude(1, u64::from(u32::MAX)) as u32;
        let interfaces: Vec<_> = (uplinks.iter())
            .filter(|uplink| uplink.capacity.is_none_or(|capacity| capacity.0 >= 8_000))
            .map(|uplink| &uplink.interface)
            .collect();
        let some = !interfaces.is_empty() && random.one_in(2);
        let uplink = some.then(|| (*random.pick(&interfaces)).clone());
        if ids.insert(id) {
            tenants.push(Tenant {
                name: name(random, &mut names),
                id: TenantId(id),
                flow_detail: *random.pick(&Detail::ALL),
                charge_class: *random.pick(&ChargeClass::ALL),
                charge_changes: charge_changes(random),
                uplink: uplink.clone(),
                shares: [
                    share(random, uplink.is_some()),
                    share(random, uplink.is_some()),
                ],
                quota: (metered && random.one_in(2)).then(|| quota(random)),
            });
        }
    }
    tenants
}

fn quota(random: &mut Random) -> Quota {
    let periods = [
        QuotaPeriod::Day,
        QuotaPeriod::Month,
        QuotaPeriod::Every(300_000_000_000),
        QuotaPeriod::Every(21_600_000_000_000),
    ];
    let directions = [
        QuotaDirection::FromTenant,
        QuotaDirection::ToTenant,
        QuotaDirection::Both,
    ];
    let slower = QuotaThen::Slower(BitsPerSecond(random.magnitude(1_000, 400_000_000_000)));
    Quota {
        bytes: Bytes(random.magnitude(1, 1 << 62)),
        period: *random.pick(&periods),
        direction: *random.pick(&directions),
        zones: Vec::new(),
        then: *random.pick(&[QuotaThen::Drop, slower]),
    }
}

/// At most four tenants: all together they have less guaranteed than any uplink carries.
fn share(random: &mut Random, some: bool) -> Share {
    if !some {
        return Share::default();
    }
    let ceiling = random
        .one_in(2)
        .then(|| BitsPerSecond(random.magnitude(1_000, 400_000_000_000)));
    Share {
        guarantee: random.one_in(2).then_some(BitsPerSecond(1_000)),
        weight: random.one_in(2).then(|| random.magnitude(1, 10_000) as u32),
        ceiling,
        burst: ceiling.filter(|_| random.one_in(2)).map(|_| Bytes(1_514)),
    }
}

fn charge_changes(random: &mut Random) -> Vec<ChargeChange> {
    let mut from = jiff::civil::date(2026, 1, 1);
    let mut changes = Vec::new();
    for _ in 0..random.below(3) {
        from = from.saturating_add(jiff::Span::new().days(1 + random.below(400) as i64));
        changes.push(ChargeChange {
            from,
            class: *random.pick(&ChargeClass::ALL),
        });
    }
    changes
}

fn ports(random: &mut Random, tenants: &[Tenant], interfaces: &mut HashSet<String>) -> Vec<Port> {
    let mut names = HashSet::new();
    let mut ports: Vec<Port> = Vec::new();
    let count = if tenants.is_empty() {
        0
    } else {
        random.below(8)
    };
    for index in 0..count {
        let tenant = random.pick(tenants).name.clone();
        // Every port has its own half of the VLANs, on the interface of the port before or a new one.
        let vlan = random
            .one_in(2)
            .then(|| (random.below(500) + 1 + index * 500) as u64);
        let shared = ports
            .last()
            .filter(|last| last.vlan.is_some() && vlan.is_some());
        let interface = match shared {
            Some(last) if random.one_in(2) => last.interface.clone(),
            _ => interface(random, interfaces),
        };
        ports.push(Port {
            name: name(random, &mut names),
            tenant,
            interface,
            vlan: vlan.map(|id| id.try_into().expect("1..=4000 is a VLAN")),
            macs: (0..=random.below(4))
                .map(|number| mac(random, index, number))
                .collect(),
            addresses: (0..=random.below(6))
                .map(|number| own(random, index, number))
                .collect(),
            from_tenant: limits(random),
            to_tenant: limits(random),
        });
    }
    ports
}

/// A unicast address that no other port and no other number has.
fn mac(random: &mut Random, port: usize, number: usize) -> Mac {
    let [a, b, c, ..] = random.next().to_le_bytes();
    let text = format!(
        "{:02x}:{b:02x}:{c:02x}:00:{port:02x}:{:02x}",
        a & 0xfe,
        number + 1
    );
    text.parse().expect("a unicast address")
}

/// A prefix that no other port and no other number has.
fn own(random: &mut Random, port: usize, number: usize) -> Cidr {
    let bits = random.next();
    let cidr = if random.one_in(2) {
        let [host, ..] = bits.to_le_bytes();
        let prefix_len = 24 + random.below(9) as u8;
        let addr = Ipv4Addr::new(10, port as u8, number as u8, host).to_bits();
        let addr = addr
            & u32::MAX
                .checked_shl(32 - u32::from(prefix_len))
                .unwrap_or(0);
        Cidr::new(IpAddr::V4(addr.into()), prefix_len)
    } else {
        let prefix_len = 64 + random.below(65) as u8;
        let network = (0x2001_0db8_u128 << 96) | ((port as u128) << 80) | ((number as u128) << 64);
        let addr = network | u128::from(bits);
        let addr = addr
            & u128::MAX
                .checked_shl(128 - u32::from(prefix_len))
                .unwrap_or(0);
        Cidr::new(IpAddr::V6(addr.into()), prefix_len)
    };
    cidr.expect("host bits are cleared")
}

/// Any prefix, but no IPv4 address inside IPv6, which is not written so.
pub(super) fn any_cidr(random: &mut Random) -> Cidr {
    loop {
        let bits = (u128::from(random.next()) << 64) | u128::from(random.next());
        let cidr = if random.one_in(2) {
            let prefix_len = random.below(33) as u8;
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix_len))
                .unwrap_or(0);
            Cidr::new(IpAddr::V4((bits as u32 & mask).into()), prefix_len)
        } else {
            let prefix_len = random.below(129) as u8;
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix_len))
                .unwrap_or(0);
            let addr = Ipv6Addr::from_bits(bits & mask);
            let mapped = addr.to_ipv4_mapped().is_some();
            Cidr::new(IpAddr::V6(addr), prefix_len).filter(|_| !mapped)
        };
        if let Some(cidr) = cidr {
            return cidr;
        }
    }
}

/// A name that is not in `taken`.
fn name(random: &mut Random, taken: &mut HashSet<String>) -> Name {
    const FIRST: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    loop {
        let length = random.magnitude(0, 63);
        let rest = (0..length).map(|_| *random.pick(b"aZ09._-"));
        let rest: Vec<u8> = rest.collect();
        let text: String = std::iter::once(*random.pick(FIRST))
            .chain(rest)
            .map(char::from)
            .collect();
        if taken.insert(text.clone()) {
            return text.parse().expect("a legal name");
        }
    }
}

/// An interface that is not in `taken`.
fn interface(random: &mut Random, taken: &mut HashSet<String>) -> InterfaceName {
    let letters: Vec<char> = "abz019.-_@\"'\\#{[€é".chars().collect();
    loop {
        let mut text = String::new();
        let length = 1 + random.below(15);
        while text.len() < length {
            text.push(*random.pick(&letters));
        }
        if let Ok(interface) = text.parse()
            && taken.insert(text)
        {
            return interface;
        }
    }
}

fn rate(random: &mut Random) -> BitsPerSecond {
    BitsPerSecond(random.magnitude(1_000, 400_000_000_000))
}

fn limits(random: &mut Random) -> Limits {
    let ceiling = (!random.one_in(3)).then(|| rate(random));
    let burst = ceiling.filter(|_| random.one_in(2)).map(|ceiling| {
        let most = (ceiling.0 * 10 / 8).max(1_514);
        Bytes(random.magnitude(1_514, most))
    });
    let packet_rate = random.one_in(2).then(|| random.magnitude(1, 1_000_000_000));
    Limits {
        ceiling,
        burst,
        packet_rate: packet_rate.map(PacketsPerSecond),
    }
}

fn profile_of(random: &mut Random, profiles: &[OwnProfile]) -> Accepts {
    if !profiles.is_empty() && random.one_in(2) {
        return Accepts::Own(random.pick(profiles).name.clone());
    }
    Accepts::BuiltIn(*random.pick(&Profile::ALL))
}

fn own_profile(random: &mut Random, number: usize) -> OwnProfile {
    let name = format!("own-{number}").parse().expect("a name");
    let mut own = OwnProfile::of(name, *random.pick(&Profile::ALL));
    own.tls_min = *random.pick(&[TlsMin::V1_2, TlsMin::V1_3]);
    own.suites.truncate(1 + random.below(4));
    own.groups.truncate(1 + random.below(4));
    own.group_required = random.one_in(2);
    own.early_data = random.one_in(2);
    own.overlays = *random.pick(&[Overlays::Inspect, Overlays::Refuse]);
    own.unverified_bytes = random.magnitude(65_536, 1 << 30) as u32;
    own.unclassified_bytes = random.below(65_537) as u32;
    own.unclassified_packets = random.below(256) as u32;
    own
}

fn encryption(
    random: &mut Random,
    tenants: &[Tenant],
    zones: &[Zone],
    profiles: &[OwnProfile],
) -> Encryption {
    let mut named = HashSet::new();
    let exempt = (0..7).filter(|_| random.one_in(2)).collect::<Vec<u32>>();
    Encryption {
        tenant: random.pick(tenants).name.clone(),
        direction: *random.pick(&[Direction::Both, Direction::FromTenant, Direction::ToTenant]),
        zones: match zones.is_empty() {
            true => Vec::new(),
            false => (0..random.below(3))
                .map(|_| random.pick(zones).name.clone())
                .filter(|name| named.insert(name.clone()))
                .collect(),
        },
        mode: *random.pick(&[Mode::Off, Mode::Observe, Mode::Enforce]),
        profile: profile_of(random, profiles),
        min_evidence: *random.pick(&[Evidence::E1, Evidence::E2, Evidence::E3]),
        midstream: *random.pick(&[Midstream::Drop, Midstream::Relock]),
        fragments: *random.pick(&[Fragments::Drop, Fragments::Track, Fragments::Allow]),
        unverified_bytes: random.magnitude(65_536, 1 << 30) as u32,
        unclassified_bytes: random.below(65_537) as u32,
        unclassified_packets: random.below(256) as u32,
        starttls_ports: (0..random.below(9))
            .map(|_| TcpPort(1 + random.below(65_535) as u16))
            .collect(),
        starttls_bytes: random.below(65_537) as u32,
        exempt: exempt
            .into_iter()
            .map(|which| Exemption {
                which,
                rate: random.one_in(2).then(|| random.magnitude(1, 1_000_000)),
            })
            .collect(),
        conversations: random.magnitude(4, 1 << 20) as u32,
    }
}
