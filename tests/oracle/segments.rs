//! Super-packets and the frames that they become: both are really built, header by header, so that
//! the byte contract can be held against a plain sum of lengths.

use super::{
    dice::Dice,
    headers::{self, Ipv4, Ipv6, MORE_FRAGMENTS, Part},
    people,
    shapes::Sample,
};
use dataplane_common::wire::{GSO_BY_FRAGS, Gso, gso_type};

/// How the payload is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Tcp,
    /// UDP GSO: each segment is a datagram.
    Udp,
    /// Old guests' UFO: one datagram in IP fragments.
    Ufo,
    /// Cut along its fragment list.
    Sctp,
}

/// What is around the payload's own IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    None,
    Vxlan,
    Gre,
}

/// How a super-packet is made.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub carrier: Carrier,
    pub tunnel: Tunnel,
    /// Outer and inner family: 4 or 6.
    pub families: [u8; 2],
    /// TPID and TCI in the data.
    pub tags: Vec<(u16, u16)>,
    /// TCI beside the data.
    pub tag: Option<u16>,
    /// Bytes of IPv4 options, or of an IPv6 destination options header.
    pub options: usize,
    /// Bytes of TCP options.
    pub tcp_options: usize,
    /// Payload bytes of a segment.
    pub size: usize,
    pub payload: usize,
    /// BIG TCP over IPv6 as kernels before 6.19 make it: with a hop-by-hop header.
    pub jumbo: bool,
}

/// Whose a frame is: the skb's, or the wire's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Super,
    Segment,
}

impl Recipe {
    /// Anything; `big`: too long for the IP header's length.
    pub fn any(dice: &mut Dice, big: bool) -> Self {
        let carrier = match big {
            true => Carrier::Tcp,
            false => dice.pick(&[Carrier::Tcp, Carrier::Udp, Carrier::Ufo, Carrier::Sctp]),
        };
        let tunnel = match carrier {
            Carrier::Tcp | Carrier::Udp if !big => {
                dice.pick(&[Tunnel::None, Tunnel::Vxlan, Tunnel::Gre])
            }
            _ => Tunnel::None,
        };
        let options = dice.pick(&[0, 0, 8, 16]);
        let families = [dice.pick(&[4, 6]), dice.pick(&[4, 6])];
        Self {
            carrier,
            tunnel,
            families,
            tags: (0..dice.below(3))
                .map(|_| (dice.pick(&[0x8100, 0x88A8]), dice.word()))
                .collect(),
            tag: None,
            options,
            tcp_options: 4 * dice.below(11),
            // UFO's fragments are multiples of 8 bytes.
            size: 8 * dice.within(1, 180),
            payload: if big {
                dice.within(66_000, 200_000)
            } else {
                dice.within(1, 60_000)
            },
            jumbo: big && families[0] == 6 && dice.one_in(2),
        }
        .fitting(dice)
    }

    /// Two tags at most, one of them perhaps beside the data.
    fn fitting(mut self, dice: &mut Dice) -> Self {
        if dice.one_in(3) {
            self.tag = Some(dice.word());
            self.tags.truncate(1);
        }
        self
    }

    /// The super-packet as the gate sees it.
    pub fn sample(&self) -> Sample {
        let frame = self.around(
            self.transport(Part::zeros(self.payload), Form::Super),
            None,
            Form::Super,
        );
        let mut bytes = frame.bytes;
        if self.payload > 65_000 {
            // The length does not fit: the kernel writes 0.
            let at = 14 + 4 * self.tags.len() + if self.families[0] == 4 { 2 } else { 4 };
            bytes[at..at + 2].fill(0);
        }
        Sample {
            bytes,
            tag: self.tag,
            gso_size: self.gso().size as u16,
            ..Sample::default()
        }
    }

    /// What the kernel knows of the cut.
    pub fn gso(&self) -> Gso {
        let inner = self.families[usize::from(self.tunnel != Tunnel::None)];
        let kind = match (self.carrier, inner) {
            (Carrier::Tcp, 4) => gso_type::TCPV4,
            (Carrier::Tcp, _) => gso_type::TCPV6,
            (Carrier::Udp, _) => gso_type::UDP_L4,
            (Carrier::Ufo, _) => gso_type::UDP,
            (Carrier::Sctp, _) => gso_type::SCTP,
        };
        let tunnel = match self.tunnel {
            Tunnel::None => 0,
            Tunnel::Vxlan => gso_type::UDP_TUNNEL,
            Tunnel::Gre => gso_type::GRE,
        };
        let headers = self.around(
            self.transport(Part::default(), Form::Super),
            None,
            Form::Super,
        );
        let by_frags = self.carrier == Carrier::Sctp;
        Gso {
            size: if by_frags {
                GSO_BY_FRAGS
            } else {
                self.size as u32
            },
            // A guest need not say; only a cut by fragments goes by this number.
            segments: if by_frags {
                self.payload.div_ceil(self.size) as u32
            } else {
                0
            },
            kind: kind | tunnel,
            inner_header_end: if tunnel == 0 {
                0
            } else {
                headers.bytes.len() as u32
            },
        }
    }

    /// The frames on the wire, without the tag that the kernel keeps beside them.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        if self.carrier == Carrier::Ufo {
            return self.fragments();
        }
        let pieces = (0..self.payload.div_ceil(self.size)).map(|piece| {
            let len = self.size.min(self.payload - piece * self.size);
            let transport = self.transport(Part::zeros(len), Form::Segment);
            self.around(transport, None, Form::Segment).bytes
        });
        pieces.collect()
    }

    /// UFO: the UDP header is in the first fragment only.
    fn fragments(&self) -> Vec<Vec<u8>> {
        let datagram = self
            .transport(Part::zeros(self.payload), Form::Segment)
            .bytes;
        let count = datagram.len().div_ceil(self.size);
        let pieces = datagram
            .chunks(self.size)
            .enumerate()
            .map(|(number, piece)| {
                let fragment = (count > 1).then_some((number * self.size / 8, number + 1 < count));
                self.around(Part::data(piece.to_vec()), fragment, Form::Segment)
                    .bytes
            });
        pieces.collect()
    }

    fn transport(&self, payload: Part, form: Form) -> Part {
        match self.carrier {
            Carrier::Tcp => headers::tcp(40_000, 443, 0x18, &vec![1; self.tcp_options], payload),
            Carrier::Udp | Carrier::Ufo => {
                let mut datagram = headers::udp(40_000, 443, payload);
                if self.carrier == Carrier::Udp && form == Form::Super {
                    // What stands here differs between kernels: nobody may rely on it.
                    datagram.bytes[4..6].copy_from_slice(&(self.size as u16 + 8).to_be_bytes());
                }
                datagram
            }
            Carrier::Sctp => headers::sctp(40_000, 443, payload),
        }
    }

    /// Everything around a transport packet, or around a piece of one.
    fn around(&self, inner: Part, fragment: Option<(usize, bool)>, form: Form) -> Part {
        let protocol = match self.carrier {
            Carrier::Tcp => 6,
            Carrier::Udp | Carrier::Ufo => 17,
            Carrier::Sctp => 132,
        };
        let [outer, inside] = self.families;
        let packet = match self.tunnel {
            Tunnel::None => return self.ethernet(self.ip(outer, protocol, inner, fragment, form)),
            Tunnel::Vxlan => {
                let packet = self.ip(inside, protocol, inner, fragment, form);
                let frame =
                    headers::ethernet(people::GATEWAY, people::OWN, &[], ethertype(inside), packet);
                headers::udp(50_000, 4_789, headers::vxlan(42, frame))
            }
            Tunnel::Gre => headers::gre(
                ethertype(inside),
                self.ip(inside, protocol, inner, fragment, form),
            ),
        };
        let protocol = if self.tunnel == Tunnel::Gre { 47 } else { 17 };
        self.ethernet(self.ip(outer, protocol, packet, None, form))
    }

    fn ethernet(&self, packet: Part) -> Part {
        let ethertype = ethertype(self.families[0]);
        headers::ethernet(people::GATEWAY, people::OWN, &self.tags, ethertype, packet)
    }

    fn ip(
        &self,
        family: u8,
        protocol: u8,
        inner: Part,
        fragment: Option<(usize, bool)>,
        form: Form,
    ) -> Part {
        if family == 4 {
            let more = |more| if more { MORE_FRAGMENTS } else { 0 };
            let header = Ipv4 {
                src: people::OWN4,
                dst: people::REMOTE4,
                protocol,
                fragment: fragment.map_or(0, |(offset, last)| offset as u16 | more(last)),
                options: vec![1; self.options],
            };
            return headers::ipv4(&header, inner);
        }
        let (mut next, mut inner) = (protocol, inner);
        if let Some((offset, more)) = fragment {
            (next, inner) = (44, headers::fragment6(next, offset as u16, more, inner));
        }
        if self.options != 0 {
            (next, inner) = (
                60,
                headers::extension(next, (self.options / 8 - 1) as u8, inner),
            );
        }
        if self.jumbo && form == Form::Super {
            (next, inner) = (0, headers::extension(next, 0, inner));
        }
        headers::ipv6(
            &Ipv6 {
                src: people::OWN6,
                dst: people::REMOTE6,
                next,
            },
            inner,
        )
    }
}

const fn ethertype(family: u8) -> u16 {
    if family == 4 { 0x0800 } else { 0x86DD }
}
