//! What is told by its shape alone, and what only has the port: IKE, ESP inside UDP, OpenVPN.

use crate::{dice::Dice, path::rule, sniffer::CANARY};
use dataplane_common::encryption::{
    Bytes, Class, Conversation, Rule, Segment, Why, accept, datagram,
};
use octroi::config::Profile;

struct Ends {
    talk: Conversation,
    rule: Rule,
    now_ms: u32,
}

impl Ends {
    fn on(port: u16) -> Self {
        let mut rule = rule(Profile::Anssi2026);
        rule.evidence_min = 1;
        rule.accepts |= accept::OPENVPN;
        let mut talk = Conversation::default();
        talk.become_new(&Default::default(), 0, rule.unverified_bytes);
        (talk.key.local_port, talk.key.remote_port, talk.key.protocol) = (port, port, 17);
        Self {
            talk,
            rule,
            now_ms: 0,
        }
    }

    fn say(&mut self, direction: u32, bytes: &[u8]) -> Result<Class, Why> {
        let segment = Segment {
            len: bytes.len() as u32,
            direction,
            now_ms: self.now_ms,
            ..Segment::default()
        };
        datagram::judge(&mut self.talk, &self.rule, &segment, &Bytes(bytes))
    }
}

/// A message of IKE behind `marker` zeros.
fn ike(marker: usize, next: u8, version: u8, exchange: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; marker];
    bytes.extend([7; 16]);
    bytes.extend([next, version, exchange, 8, 0, 0, 0, 1]);
    bytes.extend((28 + content.len() as u32).to_be_bytes());
    bytes.extend(content);
    bytes
}

#[test]
fn ike_is_its_shape_and_clear_text_on_its_ports_is_not() {
    let noise = Dice::new(0, 3).bytes(300);
    let canary = CANARY.repeat(4).into_bytes();
    for (port, marker) in [(500, 0), (4_500, 4)] {
        let mut ends = Ends::on(port);
        assert_eq!(
            ends.say(0, &ike(marker, 33, 0x20, 34, &noise)),
            Ok(Class::Opening)
        );
        assert_eq!(
            ends.say(1, &ike(marker, 46, 0x20, 35, &noise)),
            Ok(Class::Shape)
        );
        assert_eq!(
            ends.say(0, &ike(marker, 53, 0x20, 37, &noise)),
            Ok(Class::Shape)
        );
        for (what, bytes, why) in [
            ("IKEv1", ike(marker, 1, 0x10, 2, &noise), Why::Version),
            (
                "an exchange in clear",
                ike(marker, 41, 0x20, 37, &noise),
                Why::Sequence,
            ),
            (
                "an exchange of nobody",
                ike(marker, 46, 0x20, 99, &noise),
                Why::Sequence,
            ),
            (
                "another length",
                [ike(marker, 46, 0x20, 35, &noise), vec![0]].concat(),
                Why::Clear,
            ),
        ] {
            assert_eq!(ends.say(0, &bytes), Err(why), "{what} on {port}");
        }
        // On 4500 what is no IKE is ESP, in which text is found by its trailer alone; on 500 it is clear.
        if port == 500 {
            assert_eq!(ends.say(0, &canary), Err(Why::Clear));
        }
        // At once 32 KiB, and 16 KiB a second.
        let long = ike(marker, 46, 0x20, 35, &Dice::new(0, 4).bytes(1_000));
        let passed = |ends: &mut Ends| (0..100).take_while(|_| ends.say(0, &long).is_ok()).count();
        let first = passed(&mut ends);
        assert!((28..=32).contains(&first), "{first}");
        ends.now_ms += 1_000;
        let then = passed(&mut ends);
        assert!((15..=17).contains(&then), "{then}");
    }
    // Where a handshake is asked for, a shape is not enough.
    let mut ends = Ends::on(500);
    ends.rule.evidence_min = 2;
    assert_eq!(
        ends.say(0, &ike(0, 46, 0x20, 35, &noise)),
        Err(Why::Evidence)
    );
    let mut ends = Ends::on(500);
    ends.rule.accepts &= !accept::IKE;
    assert_eq!(ends.say(0, &ike(0, 46, 0x20, 35, &noise)), Err(Why::Clear));
}

#[test]
fn openvpn_needs_both_resets_and_ciphertext() {
    let noise = Dice::new(0, 3).bytes(300);
    let packet = |opcode: u8, content: &[u8]| [&[opcode << 3][..], content].concat();
    let mut ends = Ends::on(1_194);
    assert_eq!(ends.say(0, &packet(7, &noise[..13])), Ok(Class::Opening));
    for (what, opcode) in [("data", 9), ("control", 4)] {
        let before = ends.say(0, &packet(opcode, &noise));
        assert_eq!(
            before,
            Err(Why::Sequence),
            "{what} before the server's reset"
        );
    }
    assert_eq!(ends.say(1, &packet(8, &noise[..25])), Ok(Class::Opening));
    assert_eq!(ends.say(0, &packet(4, &noise)), Ok(Class::Opening));
    assert_eq!(ends.say(1, &packet(9, &noise)), Ok(Class::Shape));
    let text = packet(9, &[&noise[..23], CANARY.repeat(6).as_bytes()].concat());
    assert_eq!(ends.say(0, &text), Err(Why::Clear));
    assert_eq!(ends.say(0, &packet(2, &noise)), Err(Why::Sequence));
    // Nobody begins with a server's reset, and no built-in profile takes any of it.
    assert_eq!(
        Ends::on(1_194).say(1, &packet(8, &noise[..25])),
        Err(Why::Clear)
    );
    let mut ends = Ends::on(1_194);
    ends.rule.accepts &= !accept::OPENVPN;
    assert_eq!(ends.say(0, &packet(7, &noise[..13])), Err(Why::Clear));
}
