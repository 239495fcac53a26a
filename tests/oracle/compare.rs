//! octroi's parser against the reader, and the reader against etherparse's own walk.

use super::{
    reader::{self, Answer, Fragment, Seen, Why},
    shapes::Sample,
};
use dataplane_common::{
    parse::{self, HEADER_WINDOW, Meta, Network, Packet, Slice, parse},
    reason::DropReason,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice, ether_type, ip_number};
use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

/// What octroi's parser says.
pub type Parsed = Result<Packet, DropReason>;

/// What the kernel knows about `sample` beside its bytes.
pub fn meta(sample: &Sample) -> Meta {
    Meta {
        len: sample.bytes.len() as u32,
        tag_in_skb: sample.tag.is_some(),
        tag_vid: sample.tag.unwrap_or(0) & 0x0FFF,
        gso: sample.gso_size != 0,
    }
}

/// Parses `sample` with octroi's parser, as the kernel does: it sees the first bytes only.
pub fn ours(sample: &Sample) -> Parsed {
    let seen = sample.bytes.len().min(HEADER_WINDOW as usize);
    parse(&Slice(&sample.bytes[..seen]), &meta(sample))
}

/// Compares octroi's parser with the reader on `sample`, and gives back octroi's result.
///
/// # Errors
/// Where they disagree, in words, with the frame.
pub fn agree(sample: &Sample) -> Result<Parsed, String> {
    let ours = ours(sample);
    match disagreement(sample, &ours) {
        None => Ok(ours),
        Some(text) => Err(format!("{text}\n  {}", describe(sample))),
    }
}

fn disagreement(sample: &Sample, ours: &Parsed) -> Option<String> {
    if parse(&Slice(&sample.bytes), &meta(sample)) != *ours {
        return Some("the parser sees more than the header window".into());
    }
    let answer = reader::read(&sample.bytes, sample.tag, sample.gso_size != 0);
    let theirs = SlicedPacket::from_ethernet(&sample.bytes);
    match (ours, &answer) {
        (Ok(packet), Answer::Accept(seen)) => {
            let ours = as_seen(packet);
            if ours != *seen {
                return Some(format!(
                    "fields differ\n  octroi {ours:?}\n  reader {seen:?}"
                ));
            }
            if packet.finds_neighbours() != finds_neighbours(seen) {
                return Some("they disagree on what neighbours are found by".into());
            }
            second_opinion(sample, seen, theirs.as_ref().ok())
        }
        (Err(reason), Answer::Reject(faults)) => {
            if !faults.iter().any(|fault| reason_of(fault.why) == *reason) {
                return Some(format!(
                    "reasons differ: octroi {reason:?}, reader {faults:?}"
                ));
            }
            let unaware = theirs.is_ok() && !faults.iter().all(|fault| fault.house);
            (unaware && sample.gso_size == 0)
                .then(|| format!("the reader finds {faults:?}, etherparse as a whole does not"))
        }
        (ours, answer) => Some(format!("octroi says {ours:?}\n  reader {answer:?}")),
    }
}

/// etherparse's own walk over a frame that the reader accepts must find the same.
fn second_opinion(sample: &Sample, seen: &Seen, whole: Option<&SlicedPacket>) -> Option<String> {
    // What etherparse reads on, and octroi does not: MACsec, 0x9100, AH on IPv4, what follows
    // a later fragment, IGMP, the length of ICMP's timestamps. A GSO packet's lengths are none.
    let v6 = seen.ethertype == 0x86DD;
    let reads_on = matches!(seen.ethertype, 0x88E5 | 0x9100)
        || (!v6 && seen.protocol == ip_number::AUTH.0)
        || seen.protocol == ip_number::IGMP.0
        || (v6 && seen.fragment == Fragment::Later)
        || (seen.protocol == ip_number::ICMP.0 && matches!(seen.ports, (13 | 14, 0)));
    if sample.gso_size != 0 || reads_on {
        return None;
    }
    let Some(whole) = whole else {
        return Some("etherparse as a whole refuses the frame".into());
    };
    let addresses: Option<(IpAddr, IpAddr)> = match &whole.net {
        Some(NetSlice::Ipv4(v4)) => Some((
            v4.header().source_addr().into(),
            v4.header().destination_addr().into(),
        )),
        Some(NetSlice::Ipv6(v6)) => Some((
            v6.header().source_addr().into(),
            v6.header().destination_addr().into(),
        )),
        _ => None,
    };
    if addresses.is_some() && addresses != seen.addresses {
        return Some(format!(
            "etherparse as a whole finds addresses {addresses:?}"
        ));
    }
    let ports = match &whole.transport {
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Icmpv4(icmp)) => Some((icmp.type_u8().into(), icmp.code_u8().into())),
        Some(TransportSlice::Icmpv6(icmp)) => Some((icmp.type_u8().into(), icmp.code_u8().into())),
        Some(TransportSlice::Igmp(_)) | None => None,
    };
    let expected = match (seen.protocol, seen.fragment) {
        // A payload length of 0 leaves nothing for a transport, but etherparse looks further.
        _ if v6 && seen.l3_len == 40 => return None,
        (1 | 6 | 17 | 58, Fragment::No) if seen.addresses.is_some() => Some(seen.ports),
        _ => None,
    };
    // What etherparse does not find is no contradiction: mobility headers end its walk.
    (ports.is_some() && ports != expected)
        .then(|| format!("etherparse as a whole finds ports {ports:?}, the reader {expected:?}"))
}

/// ARP, RARP, and neighbour discovery (RFC 4861: ICMPv6 types 133 to 137).
fn finds_neighbours(seen: &Seen) -> bool {
    match seen.ethertype {
        0x0806 | 0x8035 => true,
        0x86DD => seen.protocol == ip_number::IPV6_ICMP.0 && (133..138).contains(&seen.ports.0),
        _ => false,
    }
}

/// octroi's result in the reader's form.
fn as_seen(packet: &Packet) -> Seen {
    let mac = |number: u64| {
        let bytes = number.to_be_bytes();
        [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
    };
    let v4 = |words: [u32; 4]| IpAddr::from(words[0].to_ne_bytes());
    let v6 = |words: [u32; 4]| {
        let mut bytes = [0; 16];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::from(bytes)
    };
    Seen {
        dst_mac: mac(packet.dst_mac),
        src_mac: mac(packet.src_mac),
        tags: packet.tags,
        vid: packet.vid,
        ethertype: packet.ethertype,
        l3_offset: packet.l3_offset.into(),
        addresses: match packet.network {
            Network::Other => None,
            Network::Ipv6 => Some((v6(packet.src), v6(packet.dst))),
            Network::Arp | Network::Rarp | Network::Ipv4 => Some((v4(packet.src), v4(packet.dst))),
        },
        l3_len: packet.l3_len as usize,
        protocol: packet.protocol,
        fragment: match packet.fragment {
            parse::Fragment::No => Fragment::No,
            parse::Fragment::First => Fragment::First,
            parse::Fragment::Later => Fragment::Later,
        },
        l4_offset: packet.l4_offset.into(),
        header_end: packet.header_end.into(),
        ports: (packet.src_port, packet.dst_port),
        tcp_flags: packet.tcp_flags,
        jumbo_len: packet.jumbo_len.into(),
    }
}

const fn reason_of(why: Why) -> DropReason {
    match why {
        Why::Truncated => DropReason::Truncated,
        Why::TooDeep => DropReason::HeadersTooDeep,
        Why::Tags => DropReason::VlanDepth,
        Why::ArpForm => DropReason::SpoofedArp,
        Why::IpHeader => DropReason::IpHeader,
        Why::IpLength => DropReason::IpLength,
        Why::Extension => DropReason::Ipv6Extension,
        Why::Transport => DropReason::TransportHeader,
        Why::Tiny => DropReason::TinyFragment,
    }
}

/// A frame in a form that can be pasted into a regression test.
pub fn describe(sample: &Sample) -> String {
    let shown = sample.bytes.len().min(400);
    let mut text = format!(
        "{} bytes, tag {:?}, gso_size {}: ",
        sample.bytes.len(),
        sample.tag,
        sample.gso_size
    );
    for byte in &sample.bytes[..shown] {
        let _ = write!(text, "{byte:02x}");
    }
    if shown < sample.bytes.len() {
        text.push('…');
    }
    text
}

/// What a run met, so that a generator that makes one thing only is found out.
#[derive(Clone, Debug, Default)]
pub struct Met(pub BTreeMap<String, u64>);

impl Met {
    /// Notes a result.
    pub fn note(&mut self, result: &Parsed) {
        let mut add = |what: String| *self.0.entry(what).or_default() += 1;
        match result {
            Err(reason) => add(reason.name().to_owned()),
            Ok(packet) => {
                add("accepted".to_owned());
                add(format!("{:?}", packet.network));
                add(format!("tags {}", packet.tags));
                if !matches!(packet.fragment, parse::Fragment::No) {
                    add(format!(
                        "{:?} {:?} fragment",
                        packet.network, packet.fragment
                    ));
                }
                if packet.jumbo_len != 0 {
                    add("jumbo".to_owned());
                }
                if packet.ethertype == ether_type::IPV4.0 || packet.ethertype == ether_type::IPV6.0
                {
                    add(format!("protocol {}", packet.protocol));
                }
            }
        }
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        for (what, number) in &other.0 {
            *self.0.entry(what.clone()).or_default() += number;
        }
    }

    /// How often `what` was met.
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}
