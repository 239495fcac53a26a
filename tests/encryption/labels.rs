//! Labelled flows, and what the classifier makes of their packets.

use super::files::Frame;
use anyhow::{Context as _, Result};
use dataplane_common::{
    encryption::{Bytes, Class, Conversation, Rule, Segment, Why, accept, datagram, mode, tcp},
    flow::FlowKey,
    parse::{Fragment, Meta, Network, Packet, Slice, parse, proto},
};
use octroi::config::Profile;
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    net::IpAddr,
    path::Path,
};

/// A line of `labels.tsv`.
pub struct Label {
    l4: String,
    a: (IpAddr, u16),
    b: (IpAddr, u16),
    protocol: String,
    pub encrypted: bool,
    /// It was told by what is in the packets, and not by a port.
    pub by_content: bool,
}

impl Display for Label {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (a, b) = (&self.a, &self.b);
        write!(out, "{} {}:{} {}:{}", self.l4, a.0, a.1, b.0, b.1)
    }
}

impl Label {
    pub fn what(&self) -> String {
        let word = if self.encrypted { "encrypted" } else { "clear" };
        format!("{} {word}", self.protocol)
    }

    /// Is it this protocol, or something inside it? nDPI writes `91.26/TLS.ntop`.
    pub fn protocol_is(&self, name: &str) -> bool {
        let words = self.protocol.rsplit('/').next().unwrap_or_default();
        words.split('.').any(|word| word == name)
    }
}

/// The labels by capture; none when there is no such file.
pub fn labels(path: &Path) -> Result<BTreeMap<String, Vec<Label>>> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(BTreeMap::new());
    };
    let mut all: BTreeMap<String, Vec<Label>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let field = |at: usize| {
            fields
                .get(at)
                .copied()
                .context("a short line of labels.tsv")
        };
        let (Ok(a), Ok(b)) = (field(2)?.parse(), field(4)?.parse()) else {
            continue;
        };
        let label = Label {
            l4: field(1)?.to_owned(),
            a: (a, field(3)?.parse().unwrap_or(0)),
            b: (b, field(5)?.parse().unwrap_or(0)),
            protocol: field(6)?.to_owned(),
            encrypted: field(7)? == "encrypted",
            by_content: field(8)?.starts_with("DPI"),
        };
        all.entry(field(0)?.to_owned()).or_default().push(label);
    }
    Ok(all)
}

/// What the classifier says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was E2 or more, and nothing of it was refused.
    Accepted(Class),
    /// For which reason.
    Refused(Refused),
    /// Neither.
    Open,
}

impl Verdict {
    pub fn words(&self) -> String {
        match self {
            Self::Accepted(class) => format!("accepted as {}", class.name()),
            Self::Refused(why) => format!("refused: {}", why.0.name()),
            Self::Open => "undecided".into(),
        }
    }
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub Why, pub Option<&'static str>);

impl Refused {
    /// The flow is encrypted, and the rule wants it otherwise.
    pub fn is_of_the_rule(self) -> bool {
        matches!(self.0, Why::Version | Why::Suite | Why::Group) || self.1.is_some()
    }

    pub fn reason(self) -> String {
        match self.1 {
            Some(what) => what.to_owned(),
            None => format!("{} at a packet of it", self.0.name()),
        }
    }
}

/// A flow, judged.
pub struct Judged {
    pub verdict: Verdict,
    /// Both ends spoke, from their first packet on, and the capture has all of each packet.
    pub complete: bool,
    /// Bytes of payload.
    pub payload: u64,
    /// What it speaks, once it opened: `dataplane_common::encryption::protocol`.
    pub speaks: Option<u8>,
}

struct Flow {
    talk: Conversation,
    spoke: [bool; 2],
    cut: bool,
    payload: u64,
    best: Option<Class>,
    refused: Option<(Why, Option<&'static str>)>,
}

/// What a payload is that no profile accepts, and that its flow's label does not tell.
fn stands_for(payload: &[u8]) -> Option<&'static str> {
    let at = |from: usize, to: usize| payload.get(from..to).unwrap_or_default();
    if at(4, 8) == [0x21, 0x12, 0xA4, 0x42] {
        return Some("STUN comes first, which is clear (RFC 8489)");
    }
    if at(9, 10) == b"Q" && at(10, 13).iter().all(u8::is_ascii_digit) {
        return Some("Google's QUIC, from before RFC 9000");
    }
    match payload.first() {
        Some(22) if at(1, 3) == [1, 0] => Some("Cisco's DTLS from before RFC 4347"),
        Some(1) if at(1, 4) == [0; 3] && payload.len() > 148 => {
            Some("an initiation of WireGuard with bytes that do not belong to it")
        }
        Some(4) if at(1, 4) == [0; 3] => Some("WireGuard whose handshake is not in the capture"),
        _ => None,
    }
}

/// The rule that captures are judged by: E2 at least.
pub fn rule() -> Rule {
    let mut rule = Rule {
        mode: mode::ENFORCE,
        evidence_min: 2,
        unverified_bytes: 1 << 20,
        ..Rule::default()
    };
    Profile::Anssi2026.fill(&mut rule);
    rule.accepts &= !accept::MIDSTREAM;
    rule
}

/// The same, with what is told by its shape alone.
pub fn rule_of_shapes() -> Rule {
    let mut rule = rule();
    rule.evidence_min = 1;
    rule.accepts |= accept::OPENVPN;
    rule
}

/// Judges the packets of a capture by `rule`, and returns what came of each label's flow.
pub fn judge(rule: &Rule, frames: Vec<Frame>, labels: &[Label]) -> Vec<Judged> {
    let mut flows: Vec<Flow> = labels
        .iter()
        .map(|_| {
            let mut talk = Conversation::default();
            talk.become_new(&Default::default(), 0, rule.unverified_bytes);
            Flow {
                talk,
                spoke: [false; 2],
                cut: false,
                payload: 0,
                best: None,
                refused: None,
            }
        })
        .collect();
    for (now_ms, frame) in (0..).zip(&frames) {
        let meta = Meta {
            len: frame.bytes.len() as u32,
            ..Meta::default()
        };
        if let Ok(packet) = parse(&Slice(&frame.bytes), &meta)
            && packet.fragment == Fragment::No
            && let Some((at, direction)) = find(labels, &packet)
        {
            step(&mut flows[at], rule, &packet, frame, direction, now_ms);
        }
    }
    let judged = flows.into_iter().map(|flow| Judged {
        verdict: match (flow.refused, flow.best) {
            (Some((why, what)), _) => Verdict::Refused(Refused(why, what)),
            (None, Some(class)) => Verdict::Accepted(class),
            (None, None) => Verdict::Open,
        },
        complete: flow.spoke == [true; 2]
            && !flow.cut
            && (flow.talk.key.protocol == proto::UDP || flow.talk.has(Conversation::OPEN)),
        payload: flow.payload,
        speaks: flow
            .talk
            .has(Conversation::OPEN)
            .then_some(flow.talk.protocol),
    });
    judged.collect()
}

fn find(labels: &[Label], packet: &Packet) -> Option<(usize, u32)> {
    let l4 = match packet.protocol {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        _ => return None,
    };
    let source = (address(packet, &packet.src)?, packet.src_port);
    let target = (address(packet, &packet.dst)?, packet.dst_port);
    let mut known = labels
        .iter()
        .enumerate()
        .filter(|(_, label)| label.l4 == l4);
    known.find_map(|(at, label)| {
        if (label.a, label.b) == (source, target) {
            Some((at, 0))
        } else if (label.b, label.a) == (source, target) {
            Some((at, 1))
        } else {
            None
        }
    })
}

fn address(packet: &Packet, words: &[u32; 4]) -> Option<IpAddr> {
    let bytes = FlowKey::address_bytes(*words);
    let [a, b, c, d, ..] = bytes;
    match packet.network {
        Network::Ipv4 => Some(IpAddr::from([a, b, c, d])),
        Network::Ipv6 => Some(IpAddr::from(bytes)),
        _ => None,
    }
}

fn step(flow: &mut Flow, rule: &Rule, packet: &Packet, frame: &Frame, direction: u32, now_ms: u32) {
    flow.talk.key.protocol = packet.protocol;
    (flow.talk.key.local_port, flow.talk.key.remote_port) = (packet.src_port, packet.dst_port);
    let begin = usize::from(packet.header_end);
    let end = usize::from(packet.l3_offset) + packet.l3_len as usize;
    let Some(payload) = frame.bytes.get(begin..end) else {
        flow.cut = true;
        return;
    };
    flow.cut |= !frame.whole;
    flow.payload += payload.len() as u64;
    let at = usize::from(packet.l4_offset) + 4;
    let number = |at: usize| {
        let bytes = frame.bytes.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    let segment = Segment {
        seq: number(at),
        ack: number(at + 4),
        len: payload.len() as u32,
        direction,
        now_ms,
        flags: packet.tcp_flags,
        ..Segment::default()
    };
    flow.spoke[direction as usize & 1] |= !payload.is_empty();
    let verdict = if packet.protocol == proto::TCP {
        let ports = [packet.src_port, packet.dst_port];
        tcp::judge(&mut flow.talk, rule, &segment, ports, &Bytes(payload))
    } else {
        datagram::judge(&mut flow.talk, rule, &segment, &Bytes(payload))
    };
    match verdict {
        Ok(class @ (Class::Shape | Class::Handshake | Class::Records)) => flow.best = Some(class),
        // What is out of order, or sent again, comes again: a capture has no sender to do that.
        Ok(_) | Err(Why::Order | Why::Unverified) => {}
        Err(why) => flow.refused = flow.refused.or(Some((why, stands_for(payload)))),
    }
}
