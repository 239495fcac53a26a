//! The oracle: reads a frame with etherparse's slices and says what octroi must make of it.
//!
//! No code of octroi's is used here. Where octroi is stricter than etherparse on purpose, the rule
//! stands here once more, in the reader's own words, and the fault is marked as the `house`'s:
//!
//! - what octroi decides on lies in the first 192 bytes;
//! - two VLAN tags at most (0x8100, 0x88A8), wherever the kernel keeps them;
//! - ARP and RARP are for Ethernet and IPv4;
//! - six IPv6 extension headers at most; mobility, HIP and shim6 count as such;
//! - an IPv6 payload length of 0 means no payload, except in a GSO packet that is too long for it;
//! - a fragment neither splits its transport header nor lands on TCP's flags (RFC 1858);
//! - UDP's length is at least 8, SCTP's header is there.
//!
//! A frame can be wrong in several ways in one place; the reader names them all, and octroi may
//! name any of them. It stops at the first layer with a fault.

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice,
    Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice,
    TcpHeaderSlice, UdpHeaderSlice, err, ip_number,
};
use std::net::IpAddr;

const WINDOW: usize = 192;
const TAGS_MAX: u8 = 2;
const EXTENSIONS_MAX: usize = 6;

/// What a frame is, field by field. Offsets from the Ethernet header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    pub tags: u8,
    /// Of the outermost tag.
    pub vid: u16,
    pub ethertype: u16,
    pub l3_offset: usize,
    /// Sender and target for ARP.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// As the IP header says, 0 when it does not fit there.
    pub l3_len: usize,
    pub protocol: u8,
    pub fragment: Fragment,
    pub l4_offset: usize,
    pub header_end: usize,
    /// Source and destination, or ICMP's type and code.
    pub ports: (u16, u16),
    pub tcp_flags: u8,
    /// Hop-by-hop header of BIG TCP.
    pub jumbo_len: usize,
}

/// Whether it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    No,
    First,
    Later,
}

/// Why a frame must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    Truncated,
    TooDeep,
    Tags,
    ArpForm,
    IpHeader,
    IpLength,
    Extension,
    Transport,
    Tiny,
}

/// A fault, and whether the rule is octroi's own: etherparse alone would let the frame pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub why: Why,
    pub house: bool,
}

/// What must come of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Accept(Seen),
    Reject(Vec<Fault>),
}

/// Reads `frame`; `tci`: of a tag that the kernel keeps beside the data; `gso`: it is a GSO packet.
pub fn read(frame: &[u8], tci: Option<u16>, gso: bool) -> Answer {
    let mut reader = Reader {
        frame,
        gso,
        house: false,
        faults: Vec::new(),
        seen: NOTHING,
    };
    match reader.ethernet(tci) {
        Some(()) => Answer::Accept(reader.seen),
        None => Answer::Reject(reader.faults),
    }
}

const NOTHING: Seen = Seen {
    dst_mac: [0; 6],
    src_mac: [0; 6],
    tags: 0,
    vid: 0,
    ethertype: 0,
    l3_offset: 0,
    addresses: None,
    l3_len: 0,
    protocol: 0,
    fragment: Fragment::No,
    l4_offset: 0,
    header_end: 0,
    ports: (0, 0),
    tcp_flags: 0,
    jumbo_len: 0,
};

struct Reader<'a> {
    frame: &'a [u8],
    gso: bool,
    /// From here on, etherparse's own walk would have ended or gone another way.
    house: bool,
    faults: Vec<Fault>,
    seen: Seen,
}

impl Reader<'_> {
    fn fault(&mut self, wrong: bool, why: Why) {
        let house = self.house;
        if wrong {
            self.faults.push(Fault { why, house });
        }
    }

    fn house_fault(&mut self, wrong: bool, why: Why) {
        if wrong {
            self.faults.push(Fault { why, house: true });
        }
    }

    /// Something that octroi decides on ends at `end`.
    fn decides_on(&mut self, end: usize) {
        self.house_fault(end > WINDOW, Why::TooDeep);
    }

    /// Ends the reading when there was a fault.
    fn so_far(&self) -> Option<()> {
        self.faults.is_empty().then_some(())
    }

    fn ethernet(&mut self, tci: Option<u16>) -> Option<()> {
        let header = Ethernet2HeaderSlice::from_slice(self.frame);
        self.fault(header.is_err(), Why::Truncated);
        let header = header.ok()?;
        self.seen.dst_mac = header.destination();
        self.seen.src_mac = header.source();
        if let Some(tci) = tci {
            self.seen.tags = 1;
            self.seen.vid = tci % 4_096;
        }
        let (mut ethertype, mut at) = (header.ether_type().0, 14);
        while ethertype == 0x8100 || ethertype == 0x88A8 {
            let tag = SingleVlanHeaderSlice::from_slice(&self.frame[at..]);
            self.house_fault(self.seen.tags == TAGS_MAX, Why::Tags);
            self.fault(tag.is_err(), Why::Truncated);
            self.so_far()?;
            let tag = tag.ok()?;
            if self.seen.tags == 0 {
                self.seen.vid = tag.vlan_identifier().value();
            }
            self.seen.tags += 1;
            ethertype = tag.ether_type().0;
            at += 4;
        }
        self.seen.ethertype = ethertype;
        self.seen.l3_offset = at;
        match ethertype {
            0x0800 => self.ipv4(at),
            0x86DD => self.ipv6(at),
            0x0806 => self.arp(at),
            0x8035 => {
                self.house = true; // etherparse does not know RARP
                self.arp(at)
            }
            _ => Some(()),
        }
    }

    fn arp(&mut self, at: usize) -> Option<()> {
        let body = &self.frame[at..];
        let packet = ArpPacketSlice::from_slice(body);
        self.fault(packet.is_err(), Why::Truncated);
        // The form can be seen before the rest is there.
        let form = body.get(..6).map(|form| form != [0, 1, 8, 0, 6, 4]);
        self.house_fault(form == Some(true), Why::ArpForm);
        self.so_far()?;
        let packet = packet.ok()?;
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
        let sender = address(packet.sender_protocol_addr())?;
        self.seen.addresses = Some((sender, address(packet.target_protocol_addr())?));
        self.seen.header_end = at + packet.slice().len();
        Some(())
    }

    fn ipv4(&mut self, at: usize) -> Option<()> {
        use err::ipv4::HeaderSliceError as E;
        let body = &self.frame[at..];
        let header = Ipv4HeaderSlice::from_slice(body);
        self.fault(matches!(header, Err(E::Len(_))), Why::Truncated);
        self.fault(matches!(header, Err(E::Content(_))), Why::IpHeader);
        // The first byte tells before the rest is there.
        let first = body.first().copied().unwrap_or(0x45);
        self.fault(first >> 4 != 4 || first & 0xF < 5, Why::IpHeader);
        // So does the header's own length: no total length can be right.
        self.fault(
            body.len() >= 20 && body.len() < usize::from(first & 0xF) * 4,
            Why::IpLength,
        );
        self.so_far()?;
        let header = header.ok()?;
        let total = usize::from(header.total_len());
        let header_len = header.slice().len();
        let offset = header.fragments_offset().value();
        let big = total == 0 && self.gso && body.len() > 65_535;
        self.fault(
            !big && (total < header_len || total > body.len()),
            Why::IpLength,
        );
        self.house_fault(
            offset == 1 && header.protocol() == ip_number::TCP,
            Why::Tiny,
        );
        self.so_far()?;
        self.seen.addresses = Some((header.source().into(), header.destination().into()));
        self.seen.l3_len = total;
        self.seen.protocol = header.protocol().0;
        let end = at + if big { body.len() } else { total };
        if offset != 0 {
            self.seen.fragment = Fragment::Later;
            self.seen.header_end = at + header_len;
            return Some(());
        }
        if header.more_fragments() {
            self.seen.fragment = Fragment::First;
        }
        self.transport(at + header_len, end)
    }

    fn ipv6(&mut self, at: usize) -> Option<()> {
        use err::ipv6::HeaderSliceError as E;
        let body = &self.frame[at..];
        let header = Ipv6HeaderSlice::from_slice(body);
        self.fault(matches!(header, Err(E::Len(_))), Why::Truncated);
        self.fault(matches!(header, Err(E::Content(_))), Why::IpHeader);
        let version = body.first().map_or(6, |first| first >> 4);
        self.fault(version != 6, Why::IpHeader);
        self.so_far()?;
        let header = header.ok()?;
        let total = 40 + usize::from(header.payload_length());
        let big = total == 40 && self.gso && body.len() > 65_535;
        self.fault(!big && total > body.len(), Why::IpLength);
        self.so_far()?;
        // etherparse takes 0 for "all the rest", jumbogram or not.
        self.house |= total == 40;
        self.seen.addresses = Some((header.source().into(), header.destination().into()));
        self.seen.l3_len = if big { 0 } else { total };
        let end = at + if big { body.len() } else { total };
        let (next, start) = self.extensions(header.next_header(), at + 40, end, big)?;
        self.seen.protocol = next.0;
        if self.seen.fragment == Fragment::Later {
            self.seen.header_end = start;
            return Some(());
        }
        self.transport(start, end)
    }

    /// Walks extension headers; gives back what follows the last one, and where.
    fn extensions(
        &mut self,
        mut next: IpNumber,
        mut at: usize,
        end: usize,
        big: bool,
    ) -> Option<(IpNumber, usize)> {
        for walked in 0.. {
            let known = Ipv6RawExtHeaderSlice::header_type_supported(next);
            if !known && next != ip_number::AUTH && next != ip_number::IPV6_FRAG {
                break;
            }
            // etherparse's walk takes these three for the transport.
            self.house |= matches!(
                next,
                ip_number::MOBILITY | ip_number::HIP | ip_number::SHIM6
            );
            self.house_fault(walked == EXTENSIONS_MAX, Why::Extension);
            self.fault(
                walked > 0 && next == ip_number::IPV6_HOP_BY_HOP,
                Why::Extension,
            );
            self.decides_on(at + if next == ip_number::IPV6_FRAG { 4 } else { 2 });
            self.fault(self.frame.len() < at + 2, Why::Truncated);
            let (following, size) = match next {
                ip_number::IPV6_FRAG => self.fragment(at, end)?,
                ip_number::AUTH => self.authentication(at, end)?,
                _ => self.plain_extension(at, end)?,
            };
            if big && next == ip_number::IPV6_HOP_BY_HOP && size == 8 {
                self.seen.jumbo_len = 8;
            }
            (next, at) = (following, at + size);
            if self.seen.fragment == Fragment::Later {
                break;
            }
        }
        Some((next, at))
    }

    fn plain_extension(&mut self, at: usize, end: usize) -> Option<(IpNumber, usize)> {
        let header = Ipv6RawExtHeaderSlice::from_slice(&self.frame[at..end]);
        self.fault(header.is_err(), Why::IpLength);
        self.so_far()?;
        let header = header.ok()?;
        Some((header.next_header(), header.slice().len()))
    }

    fn authentication(&mut self, at: usize, end: usize) -> Option<(IpNumber, usize)> {
        let header = IpAuthHeaderSlice::from_slice(&self.frame[at..end]);
        self.fault(
            matches!(header, Err(err::ip_auth::HeaderSliceError::Len(_))),
            Why::IpLength,
        );
        // RFC 4302: the fixed fields are 12 bytes. The length tells before they are all there.
        self.fault(self.frame.get(at + 1) == Some(&0), Why::Extension);
        self.so_far()?;
        let header = header.ok()?;
        Some((header.next_header(), header.slice().len()))
    }

    fn fragment(&mut self, at: usize, end: usize) -> Option<(IpNumber, usize)> {
        let header = Ipv6FragmentHeaderSlice::from_slice(&self.frame[at..end]);
        self.fault(header.is_err(), Why::IpLength);
        self.so_far()?;
        let header = header.ok()?;
        let (offset, following) = (header.fragment_offset().value(), header.next_header());
        self.house_fault(offset == 1 && following == ip_number::TCP, Why::Tiny);
        self.so_far()?;
        if offset != 0 {
            self.seen.fragment = Fragment::Later;
        } else if header.more_fragments() {
            self.seen.fragment = Fragment::First;
        }
        Some((following, header.slice().len()))
    }

    fn transport(&mut self, at: usize, end: usize) -> Option<()> {
        let body = &self.frame[at..end];
        let whole = self.seen.fragment == Fragment::No;
        // etherparse does not look into fragments.
        self.house |= !whole;
        let short = if whole { Why::Transport } else { Why::Tiny };
        self.seen.l4_offset = at;
        self.seen.header_end = at;
        match IpNumber(self.seen.protocol) {
            ip_number::TCP => self.tcp(at, body, short),
            ip_number::UDP => self.udp(at, body, whole, short),
            ip_number::ICMP | ip_number::IPV6_ICMP => {
                self.fault(body.len() < 8, short);
                self.decides_on(at + 2);
                self.so_far()?;
                self.seen.ports = (body[0].into(), body[1].into());
                self.seen.header_end = at + 8;
                Some(())
            }
            ip_number::SCTP => {
                self.house_fault(body.len() < 12, short);
                self.decides_on(at + 4);
                self.so_far()?;
                let word = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
                self.seen.ports = (word(0), word(2));
                self.seen.header_end = at + 12;
                Some(())
            }
            _ => Some(()),
        }
    }

    fn tcp(&mut self, at: usize, body: &[u8], short: Why) -> Option<()> {
        use err::tcp::HeaderSliceError as E;
        let header = TcpHeaderSlice::from_slice(body);
        self.fault(matches!(header, Err(E::Len(_))), short);
        self.fault(matches!(header, Err(E::Content(_))), Why::Transport);
        self.decides_on(at + 14);
        self.so_far()?;
        let header = header.ok()?;
        self.seen.ports = (header.source_port(), header.destination_port());
        self.seen.tcp_flags = header.slice()[13];
        self.seen.header_end = at + header.slice().len();
        Some(())
    }

    fn udp(&mut self, at: usize, body: &[u8], whole: bool, short: Why) -> Option<()> {
        let header = UdpHeaderSlice::from_slice(body);
        self.fault(header.is_err(), short);
        self.decides_on(at + if self.gso { 4 } else { 6 });
        self.so_far()?;
        let header = header.ok()?;
        if !self.gso {
            let len = usize::from(header.length());
            // 0 is etherparse's "all the rest"; the first of several fragments announces them all.
            self.house_fault(len == 0, Why::Transport);
            self.fault(len != 0 && len < 8, Why::Transport);
            self.fault(whole && len > body.len(), Why::Transport);
            self.so_far()?;
        }
        self.seen.ports = (header.source_port(), header.destination_port());
        self.seen.header_end = at + 8;
        Some(())
    }
}
