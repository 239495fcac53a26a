//! The parser agrees with etherparse on frames of every shape, whole and damaged.

mod oracle;

use dataplane_common::reason::DropReason;
use oracle::{
    compare::{self, Met, Parsed},
    dice::{self, Dice},
    headers::{self, Ipv6, Part},
    mutate, people,
    shapes::{Sample, Scope},
};

/// Compares case number `case`.
fn check(seed: u64, case: u64) -> Parsed {
    let sample = mutate::sample(&mut Dice::new(seed, case), Scope::ANY);
    compare::agree(&sample)
        .unwrap_or_else(|text| panic!("OCTROI_TEST_SEED={seed}, case {case}: {text}"))
}

#[test]
fn agrees_with_etherparse_on_generated_and_mutated_frames() {
    let (seed, cases) = (dice::seed(), dice::cases(100_000, 1_000_000, 10_000_000));
    let runs = dice::in_parallel(cases, |run| {
        let mut met = Met::default();
        for case in run {
            met.note(&check(seed, case));
        }
        met
    });
    let mut met = Met::default();
    runs.iter().for_each(|run| met.add(run));
    println!("seed {seed}, met: {:?}", met.0);

    // A generator that went astray would agree with everything.
    let accepted = met.count("accepted");
    assert!(
        accepted > cases / 3 && accepted < cases * 9 / 10,
        "{accepted} of {cases} accepted"
    );
    for what in EXPECTED {
        assert!(
            met.count(what) > cases / 10_000,
            "{what}: {}",
            met.count(what)
        );
    }
    println!("CASES: parser vs etherparse: {cases}");
}

/// Each of these is met more than once in 10,000 frames.
const EXPECTED: [&str; 30] = [
    "truncated",
    "headers_too_deep",
    "vlan_depth",
    "ip_header",
    "ip_length",
    "ipv6_extension",
    "transport_header",
    "tiny_fragment",
    "spoofed_arp",
    "Other",
    "Arp",
    "Rarp",
    "Ipv4",
    "Ipv6",
    "tags 0",
    "tags 1",
    "tags 2",
    "Ipv4 First fragment",
    "Ipv4 Later fragment",
    "Ipv6 First fragment",
    "Ipv6 Later fragment",
    "jumbo",
    "protocol 1",
    "protocol 6",
    "protocol 17",
    "protocol 58",
    "protocol 132",
    "protocol 47",
    "protocol 50",
    "protocol 51",
];

/// An IPv6 packet without payload after `headers`, in a frame of the tenant's.
fn frame6(next: u8, headers: Part, gso_size: u16) -> Sample {
    let header = Ipv6 {
        src: people::OWN6,
        dst: people::REMOTE6,
        next,
    };
    let packet = headers::ipv6(&header, headers);
    let frame = headers::ethernet(people::GATEWAY, people::OWN, &[], 0x86DD, packet);
    Sample {
        bytes: frame.bytes,
        gso_size,
        ..Sample::default()
    }
}

#[test]
fn an_authentication_header_without_room_for_its_fields_is_refused() {
    let tcp = || headers::tcp(1, 2, 0, &[], Part::default());
    let with = |units| frame6(51, headers::authentication(6, units, tcp()), 0);
    assert_eq!(compare::agree(&with(0)), Ok(Err(DropReason::Ipv6Extension)));
    assert!(matches!(compare::agree(&with(1)), Ok(Ok(packet)) if packet.header_end == 86));
}

#[test]
fn an_empty_ipv6_packet_is_not_big_tcp_even_when_it_claims_to_be_gso() {
    let parsed = compare::agree(&frame6(59, Part::default(), 1_400));
    assert!(matches!(parsed, Ok(Ok(packet)) if packet.l3_len == 40 && packet.jumbo_len == 0));
}

#[test]
fn nothing_is_decided_on_past_the_header_window() {
    // 54 bytes of Ethernet and IPv6, then one header that fills the window but for TCP's own bytes.
    let tcp = |units| {
        let tcp = headers::tcp(1, 2, 0, &[1; 40], Part::default());
        compare::agree(&frame6(60, headers::extension(6, units, tcp), 0))
    };
    // At 174, TCP's flags are the window's last but four; at 182, they are outside.
    assert!(matches!(tcp(14), Ok(Ok(packet)) if packet.l4_offset == 174));
    assert_eq!(tcp(15), Ok(Err(DropReason::HeadersTooDeep)));
}
