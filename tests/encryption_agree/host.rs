//! The host's build of the policy on the same packets.

use super::{
    frames::{Piece, Shape},
    kernel::{Remembers, Sums},
};
use dataplane_common::encryption::{
    Bytes, Class, Conversation, Rule, Segment, Why, accept, datagram,
    fragment::{self, First, piece},
    mode, tcp,
};

/// What the host says of a packet, and its sums.
pub struct Host {
    pub talk: Conversation,
    /// The packet in fragments that came last.
    pub packet: Conversation,
    rule: Rule,
    pub sums: Sums,
}

impl Host {
    pub fn new(rule: Rule, sums: Sums) -> Self {
        Self {
            talk: Conversation::default(),
            packet: Conversation::default(),
            rule,
            sums,
        }
    }

    /// True when it passes. `known`: what the kernel remembers behind it, of which only keys and times are taken.
    pub fn judge(
        &mut self,
        shape: &Shape,
        segment: &Segment,
        piece: &Piece,
        known: &Remembers,
    ) -> bool {
        let judged = match piece.place {
            None => self.whole(shape, segment, &piece.bytes, known),
            Some(_) if !self.rule.accepts(accept::FRAGMENTS_TRACKED) => Err(Why::Fragment),
            // An overlay in fragments, and fragments in one.
            Some(_) if shape.tunnel.is_some() => Err(Why::Fragment),
            Some(_) => self.fragment(shape, segment, piece, known),
        };
        let side = (segment.direction & 1) as usize;
        let class = match judged {
            Ok(class) => class,
            Err(_) if self.rule.mode == mode::OBSERVE => Class::WouldDrop,
            Err(_) => {
                self.sums.dropped[side] += 1;
                return false;
            }
        };
        self.sums.classes[side][class as usize] += 1;
        true
    }

    /// A segment or datagram, or what of it a fragment has.
    fn whole(
        &mut self,
        shape: &Shape,
        segment: &Segment,
        payload: &[u8],
        known: &Remembers,
    ) -> Result<Class, Why> {
        let now_ms = known.talk.last_ms;
        if self.talk.key.ethertype == 0 {
            self.talk
                .become_new(&known.talk.key, now_ms, self.rule.unverified_bytes);
        }
        let segment = Segment {
            now_ms,
            len: payload.len() as u32,
            ..*segment
        };
        let (talk, rule, payload) = (&mut self.talk, &self.rule, &Bytes(payload));
        if shape.tcp {
            tcp::judge(talk, rule, &segment, shape.ports, payload)
        } else {
            datagram::judge(talk, rule, &segment, payload)
        }
    }

    fn fragment(
        &mut self,
        shape: &Shape,
        segment: &Segment,
        cut: &Piece,
        known: &Remembers,
    ) -> Result<Class, Why> {
        let place = cut.place.unwrap_or_default();
        let now_ms = known.packet.last_ms;
        let len = cut.len;
        place.check(len)?;
        if place.offset != 0 {
            if self.packet.start[0] == 0 || place.id != self.id() {
                return Err(Why::Fragment);
            }
            fragment::follow(&mut self.packet, &place, len, now_ms)?;
            let mut segment = *segment;
            fragment::becomes(&self.packet, &place, &mut segment);
            return self.whole(shape, &segment, &cut.bytes, known);
        }
        let there = cut.bytes.len() as u32;
        let mut first = *segment;
        first.piece = piece::FIRST;
        if !shape.tcp {
            first.more = cut.payload - there;
        }
        let judged = self.whole(shape, &first, &cut.bytes, known);
        let again = place.id == self.id() && self.packet.start[0] != 0;
        let may = fragment::begins(&self.packet, again, now_ms);
        if judged.is_ok() && may.is_ok() {
            let tracked = First {
                len,
                origin: len - there,
                seq: segment.seq,
                end: if shape.tcp { 65_535 } else { len + first.more },
                ports: u32::from(shape.ports[0]) | u32::from(shape.ports[1]) << 16,
                protocol: if shape.tcp { 6 } else { 17 },
            };
            let class = judged.map_or(0, |class| class as u8);
            let key = &known.packet.key;
            fragment::remember(&mut self.packet, key, &tracked, class, now_ms);
        } else if again {
            fragment::end(&mut self.packet);
        }
        may.and(judged)
    }

    /// The number of the packet that is remembered.
    fn id(&self) -> u32 {
        u32::from(self.packet.key.local_port) | u32::from(self.packet.key.remote_port) << 16
    }
}
