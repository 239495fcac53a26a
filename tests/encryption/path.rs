//! A path with a gate on it: two ends of rustls, a TCP that repeats what is missing, and faults on both sides of the
//! gate. Deterministic: everything is drawn from a seed.

use crate::{
    dice::Dice,
    ends::{Credentials, Versions, ends},
};
use anyhow::{Context as _, Result, bail};
use dataplane_common::encryption::{
    Bytes, Class, Conversation, Rule, Segment, Why, accept, mode, tcp, tcp_flag,
};
use octroi::config::Profile;
use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
};

/// A rule that enforces a profile.
pub fn rule(profile: Profile) -> Rule {
    let mut rule = Rule {
        mode: mode::ENFORCE,
        evidence_min: 2,
        unverified_bytes: 256_000,
        accepts: accept::MIDSTREAM,
        ..Rule::default()
    };
    profile.fill(&mut rule);
    rule
}

/// A conversation and its rule.
pub struct Gate {
    pub talk: Conversation,
    pub rule: Rule,
    pub now_ms: u32,
}

impl Gate {
    pub fn new(rule: Rule) -> Self {
        let mut talk = Conversation::default();
        talk.become_new(&Default::default(), 0, rule.unverified_bytes);
        Self {
            talk,
            rule,
            now_ms: 0,
        }
    }

    pub fn judge(&mut self, segment: Segment, bytes: &[u8]) -> Result<Class, Why> {
        let segment = Segment {
            now_ms: self.now_ms,
            ..segment
        };
        tcp::judge(
            &mut self.talk,
            &self.rule,
            &segment,
            [50_000, 443],
            &Bytes(bytes),
        )
    }

    /// Both SYNs; `from` and `to` are where the bytes of the two directions begin.
    pub fn open(&mut self, from: u32, to: u32) {
        let syn = Segment {
            seq: from.wrapping_sub(1),
            flags: tcp_flag::SYN,
            ..Segment::default()
        };
        let _ = self.judge(syn, &[]);
        let answer = Segment {
            seq: to.wrapping_sub(1),
            ack: from,
            flags: tcp_flag::SYN | tcp_flag::ACK,
            direction: 1,
            ..Segment::default()
        };
        let _ = self.judge(answer, &[]);
    }

    pub fn side(&mut self, direction: u32, seq: u32, bytes: &[u8]) -> Result<Class, Why> {
        let segment = Segment {
            seq,
            len: bytes.len() as u32,
            direction,
            flags: tcp_flag::ACK,
            ..Segment::default()
        };
        self.judge(segment, bytes)
    }

    pub fn sends(&mut self, seq: u32, bytes: &[u8]) -> Result<Class, Why> {
        self.side(0, seq, bytes)
    }

    pub fn receives(&mut self, seq: u32, bytes: &[u8]) -> Result<Class, Why> {
        self.side(1, seq, bytes)
    }
}

/// A record of TLS 1.2 and 1.3.
pub fn record(kind: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 3, (len >> 8) as u8, len as u8];
    bytes.extend((0..len).map(|at| (at * 7 + 13) as u8 | 0x80));
    bytes
}

/// A client's hello of which nobody reads more than the head.
pub fn client_hello(len: usize) -> Vec<u8> {
    let mut bytes = vec![22, 3, 1, 0, (len + 4) as u8, 1, 0, 0, len as u8];
    bytes.extend(vec![3; len]);
    bytes
}

/// A server's hello that chooses these.
pub fn server_hello(version: u16, suite: u16, group: Option<u16>) -> Vec<u8> {
    let mut body = if version == 0x0304 {
        vec![3, 3]
    } else {
        version.to_be_bytes().to_vec()
    };
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend(suite.to_be_bytes());
    body.push(0);
    let mut extensions = Vec::new();
    // One that nobody reads, first.
    extensions.extend([0xFF, 0x01, 0, 1, 0]);
    if let Some(group) = group {
        extensions.extend([0, 51, 0, 36]);
        extensions.extend(group.to_be_bytes());
        extensions.extend([0, 32]);
        extensions.extend([5; 32]);
    }
    if version == 0x0304 {
        extensions.extend([0, 43, 0, 2, 3, 4]);
    }
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![2, 0, 0, body.len() as u8];
    message.extend(body);
    let mut bytes = vec![22, 3, 3, 0, message.len() as u8];
    bytes.extend(message);
    bytes
}

/// A conversation that has agreed on TLS 1.3, and where the tenant's next byte is.
pub struct Talk {
    pub gate: Gate,
    pub next: u32,
}

pub fn agreed(rule: Rule) -> Talk {
    let mut gate = Gate::new(rule);
    gate.open(1_000, 9_000);
    let hello = client_hello(60);
    assert_eq!(gate.sends(1_000, &hello), Ok(Class::Opening));
    let server = server_hello(0x0304, 0x1302, Some(0x11EC));
    assert!(gate.receives(9_000, &server).is_ok());
    Talk {
        gate,
        next: 1_000 + hello.len() as u32,
    }
}

/// In percent: lost before the gate and behind it, sent again for no reason, and late by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    pub lost_before: u64,
    pub lost_behind: u64,
    pub again: u64,
    pub late: u64,
}

impl Faults {
    pub fn none() -> Self {
        Self {
            lost_before: 0,
            lost_behind: 0,
            again: 0,
            late: 0,
        }
    }
}

/// What came of an exchange.
#[derive(Debug, Default)]
pub struct Done {
    pub bytes: u64,
    pub records: u64,
    pub unverified: u64,
    pub refused: u64,
}

/// One direction of a TCP.
#[derive(Default)]
struct Pipe {
    start: u32,
    /// All that was ever written into it.
    written: Vec<u8>,
    /// Sent for the first time up to here.
    sent: usize,
    /// The receiver has all up to here, and these pieces behind it.
    got: usize,
    pieces: BTreeMap<usize, Vec<u8>>,
    /// A segment that is late.
    late: Option<(usize, Vec<u8>)>,
    idle: u32,
}

impl Pipe {
    fn receive(&mut self, at: usize, bytes: Vec<u8>) {
        self.pieces.insert(at, bytes);
        loop {
            let ready = self.pieces.range(..=self.got).next_back();
            let Some((at, end)) = ready.map(|(at, bytes)| (*at, *at + bytes.len())) else {
                return;
            };
            self.pieces.remove(&at);
            self.got = self.got.max(end);
        }
    }
}

/// Lets both ends exchange some hundred kilobytes through the gate.
pub fn exchange(
    credentials: &Credentials,
    mut gate: Gate,
    versions: Versions,
    faults: Faults,
    seed: u64,
) -> Result<Done> {
    let mut dice = Dice::new(0, seed);
    let fragment = dice.pick(&[64, 64, 512, 4_096, 16_384 + 5]);
    let largest = dice.pick(&[1, 7, 100, 1_448, 9_000, 65_000]);
    let total = if largest == 1 {
        3_000
    } else {
        20_000 + dice.below(200_000)
    };
    let (mut client, mut server) = ends(credentials, versions, fragment)?;
    client.set_buffer_limit(None);
    server.set_buffer_limit(None);
    let mut pipes = [Pipe::default(), Pipe::default()];
    pipes[0].start = dice.roll() as u32;
    pipes[1].start = dice.roll() as u32;
    gate.open(pipes[0].start, pipes[1].start);
    let mut done = Done::default();
    let mut fed = [0_usize; 2];
    let (mut said, mut echoed, mut heard) = (0, 0, 0);
    for _ in 0..4_000_000_u32 {
        gate.now_ms = gate.now_ms.wrapping_add(1);
        if heard >= total {
            return Ok(done);
        }
        if said < total && !client.is_handshaking() {
            let piece = dice.within(1, 20_000).min(total - said);
            client.writer().write_all(&vec![0x41; piece])?;
            said += piece;
        }
        client.write_tls(&mut pipes[0].written)?;
        server.write_tls(&mut pipes[1].written)?;
        for (direction, pipe) in pipes.iter_mut().enumerate() {
            transmit(
                pipe,
                direction as u32,
                &mut gate,
                faults,
                largest,
                &mut dice,
                &mut done,
            );
        }
        let (new, old) = (pipes[0].got, fed[0]);
        let mut arrived = &pipes[0].written[old..new];
        while !arrived.is_empty() {
            server.read_tls(&mut arrived)?;
            server.process_new_packets().context("the server")?;
            let mut read = vec![0; 65_536];
            while let Ok(count @ 1..) = server.reader().read(&mut read) {
                server.writer().write_all(&read[..count])?;
                echoed += count;
            }
        }
        fed[0] = new;
        let (new, old) = (pipes[1].got, fed[1]);
        let mut arrived = &pipes[1].written[old..new];
        while !arrived.is_empty() {
            client.read_tls(&mut arrived)?;
            client.process_new_packets().context("the client")?;
            let mut read = vec![0; 65_536];
            while let Ok(count @ 1..) = client.reader().read(&mut read) {
                heard += count;
            }
        }
        fed[1] = new;
    }
    bail!(
        "seed {seed} {versions:?} {faults:?}: broken after {said} said, {echoed} echoed, {heard} heard; \
         in segments of {largest}, records of {fragment}: {done:?} {:?}",
        gate.talk
    )
}

fn percent(dice: &mut Dice, of: u64) -> bool {
    (dice.below(100) as u64) < of
}

fn transmit(
    pipe: &mut Pipe,
    direction: u32,
    gate: &mut Gate,
    faults: Faults,
    largest: usize,
    dice: &mut Dice,
    done: &mut Done,
) {
    let before = pipe.got;
    for _ in 0..8 {
        let window = pipe.got + 128_000;
        let from = if pipe.idle > 20 || percent(dice, faults.again) {
            pipe.idle = 0;
            pipe.got
        } else {
            pipe.sent
        };
        let most = dice
            .within(1, largest)
            .min(pipe.written.len().saturating_sub(from));
        if most == 0 || from > window {
            break;
        }
        let bytes = pipe.written[from..from + most].to_vec();
        pipe.sent = pipe.sent.max(from + most);
        if percent(dice, faults.lost_before) {
            continue;
        }
        let mut ready = vec![(from, bytes)];
        if percent(dice, faults.late)
            && let Some(one) = ready.pop()
        {
            ready.extend(pipe.late.replace(one));
        } else {
            ready.extend(pipe.late.take());
        }
        for (at, bytes) in ready {
            let seq = pipe.start.wrapping_add(at as u32);
            done.bytes += bytes.len() as u64;
            match gate.side(direction, seq, &bytes) {
                Ok(class) => {
                    match class {
                        Class::Records => done.records += bytes.len() as u64,
                        Class::Unverified => done.unverified += bytes.len() as u64,
                        _ => {}
                    }
                    if !percent(dice, faults.lost_behind) {
                        pipe.receive(at, bytes);
                    }
                }
                Err(_) => done.refused += 1,
            }
        }
    }
    pipe.idle = if pipe.got == before { pipe.idle + 1 } else { 0 };
}
