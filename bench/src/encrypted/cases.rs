//! Packets of conversations that the encryption policy knows, and how they come to where they are measured.

use super::{Said, datagram, segment};
use crate::Rig;
use anyhow::{Result, ensure};
use dataplane_common::encryption::{Conversation, Rule, accept, mode, protocol, tcp_flag, tls};

/// A packet that is judged again and again.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// The packet.
    pub packet: Said,
    /// What the conversation said before.
    before: Vec<Said>,
    /// The packet moves the stream on: the conversation is put back each time, and what that costs is taken off.
    pub again: bool,
    /// The next record or datagram is one that the veto looks at.
    looks: bool,
    protocol: u8,
}

fn rule() -> Rule {
    let mut rule = Rule {
        mode: mode::ENFORCE,
        evidence_min: 2,
        tls_min: tls::TLS_1_2,
        accepts: accept::TLS | accept::WIREGUARD | accept::QUIC_V1,
        unverified_bytes: 256_000,
        ..Rule::default()
    };
    rule.suites[..4].copy_from_slice(&[0x1301, 0x1302, 0x1303, 0xC02F]);
    rule.groups[..3].copy_from_slice(&[0x0017, 0x001D, 0x11EC]);
    rule
}

/// Bytes that are spread evenly.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x0C7_u64;
    let bytes = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    });
    bytes.take(len).collect()
}

fn record(len: usize) -> Vec<u8> {
    let mut bytes = vec![23, 3, 3];
    bytes.extend((len as u16).to_be_bytes());
    bytes.extend(noise(len));
    bytes
}

/// A hello of 300 bytes of which nobody reads more than the head.
fn client_hello() -> Vec<u8> {
    let mut bytes = vec![22, 3, 1, 1, 48, 1, 0, 1, 44];
    bytes.extend(noise(300));
    bytes
}

/// A hello that chooses TLS 1.3, AES-256-GCM and X25519MLKEM768.
fn server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(noise(32));
    body.push(32);
    body.extend(noise(32));
    body.extend([0x13, 0x02, 0]);
    let mut extensions = vec![0, 43, 0, 2, 3, 4, 0, 51, 4, 0x64, 0x11, 0xEC, 4, 0x60];
    extensions.extend(noise(0x460));
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let len = body.len() as u16;
    let mut bytes = vec![22, 3, 3];
    bytes.extend((len + 4).to_be_bytes());
    bytes.extend([2, 0]);
    bytes.extend(len.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// All of them.
pub fn cases() -> Vec<Case> {
    const ACK: u8 = tcp_flag::ACK;
    let (from, to) = (1_000_u32, 9_000_u32);
    let syns = vec![
        segment(true, (from - 1, 0), tcp_flag::SYN, &[]),
        segment(false, (to - 1, from), tcp_flag::SYN | ACK, &[]),
    ];
    let hello = segment(true, (from, to), ACK, &client_hello());
    let asked = [syns.clone(), vec![hello.clone()]].concat();
    let next = from + client_hello().len() as u32;
    let answer = segment(false, (to, next), ACK, &server_hello());
    let agreed = [asked.clone(), vec![answer.clone()]].concat();
    let large = record(16_000);
    let open = segment(true, (next, to), ACK, &large[..1_000]);
    let within = segment(true, (next + 1_000, to), ACK, &large[1_000..1_946]);
    let opened = [agreed.clone(), vec![open.clone()]].concat();
    let tls = protocol::TLS;
    let case = |name, packet, before, again, looks, protocol| Case {
        name,
        packet,
        before,
        again,
        looks,
        protocol,
    };
    let wireguard = vec![
        datagram(true, &[&[1, 0, 0, 0, 1, 1, 1, 1][..], &noise(140)].concat()),
        datagram(
            false,
            &[&[2, 0, 0, 0, 2, 2, 2, 2, 1, 1, 1, 1][..], &noise(80)].concat(),
        ),
    ];
    let sealed = [
        &[4, 0, 0, 0, 2, 2, 2, 2, 9, 0, 0, 0, 0, 0, 0, 0][..],
        &noise(900),
    ]
    .concat();
    let initial = |first: u8| {
        [
            &[first, 0, 0, 0, 1, 8][..],
            &[7; 8],
            &[8],
            &[6; 8],
            &noise(1_200),
        ]
        .concat()
    };
    let quic = vec![
        datagram(true, &initial(0xC0)),
        datagram(false, &initial(0xC0)),
    ];
    let short = [&[0x41][..], &noise(900)].concat();
    vec![
        case(
            "tls/within_a_record",
            within,
            opened.clone(),
            false,
            false,
            tls,
        ),
        case(
            "tls/at_a_boundary",
            open.clone(),
            agreed.clone(),
            true,
            false,
            tls,
        ),
        case(
            "tls/at_a_boundary_with_a_look",
            open,
            agreed,
            true,
            true,
            tls,
        ),
        case("tls/hello_of_the_client", hello, syns, true, false, tls),
        case("tls/hello_of_the_server", answer, asked, true, false, tls),
        case(
            "wireguard/known",
            datagram(true, &sealed),
            wireguard,
            false,
            false,
            protocol::WIREGUARD,
        ),
        case(
            "quic/known",
            datagram(true, &short),
            quic,
            false,
            false,
            protocol::QUIC,
        ),
    ]
}

impl Case {
    /// The program that judges it.
    pub fn program(&self) -> &'static str {
        match (self.packet.from_tenant, self.again) {
            (true, false) => "bench_from_tenant",
            (true, true) => "bench_again_from_tenant",
            (false, false) => "bench_to_tenant",
            (false, true) => "bench_again_to_tenant",
        }
    }

    /// Ready: the conversation is where its packet comes.
    ///
    /// # Errors
    /// When a map refuses, or the packet was not judged as it should be.
    pub fn set(&self, rig: &mut Rig) -> Result<()> {
        rig.police(Some(&rule()))?;
        let seen = if self.looks { 0 } else { 9 };
        rig.keep(&self.before, |talk: &mut Conversation| {
            for stream in &mut talk.streams {
                if self.looks || talk.flags & Conversation::AGREED != 0 {
                    stream.skip = seen;
                }
            }
        })?;
        // It is judged, and passes, ten times over.
        rig.run(self.program(), &self.packet.frame, 10)?;
        let talk = rig.conversation()?;
        ensure!(
            talk.protocol == self.protocol && talk.why == 0,
            "{}: {talk:?}",
            self.name
        );
        Ok(())
    }
}
