//! Writes frames from the inside out, so that every length is right when nobody lies about it.
//!
//! Checksums are left 0: the gate, like a switch, does not look at them.

/// Some layers of a frame.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offsets of the bytes that decide how the rest is read: where damage tells most.
    pub marks: Vec<usize>,
}

impl Part {
    /// Content without structure.
    pub fn data(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            marks: Vec::new(),
        }
    }

    /// `len` zero bytes.
    pub fn zeros(len: usize) -> Self {
        Self::data(vec![0; len])
    }

    fn header(bytes: &[u8], marks: &[usize]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            marks: marks.to_vec(),
        }
    }

    /// This in front of `inner`.
    pub fn then(mut self, inner: Self) -> Self {
        let shift = self.bytes.len();
        self.marks
            .extend(inner.marks.iter().map(|mark| mark + shift));
        self.bytes.extend_from_slice(&inner.bytes);
        self
    }

    /// The bytes' number as a header's field has it: cut to 16 bits.
    fn len16(&self) -> u16 {
        self.bytes.len() as u16
    }
}

/// An Ethernet frame; `tags` are TPID and TCI, outermost first.
pub fn ethernet(
    dst: [u8; 6],
    src: [u8; 6],
    tags: &[(u16, u16)],
    ethertype: u16,
    inner: Part,
) -> Part {
    let mut frame = Part::header(&[dst, src].concat(), &[0, 6]);
    for (tpid, tci) in tags {
        let bytes = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
        frame = frame.then(Part::header(&bytes, &[0, 1, 2, 3]));
    }
    frame
        .then(Part::header(&ethertype.to_be_bytes(), &[0, 1]))
        .then(inner)
}

/// ARP and RARP for Ethernet and IPv4: operation, then MAC and address of sender and target.
pub fn arp(operation: u16, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Part {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend_from_slice(&operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        bytes.extend_from_slice(&mac);
        bytes.extend_from_slice(&address);
    }
    Part::header(&bytes, &[0, 1, 2, 3, 4, 5, 7, 8, 14, 18, 24])
}

/// Bit "more fragments" of IPv4's fragment field.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// What an IPv4 header says.
#[derive(Clone, Debug, Default)]
pub struct Ipv4 {
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub protocol: u8,
    /// Flags, and the offset in units of 8 bytes.
    pub fragment: u16,
    /// At most 40 bytes, a multiple of 4.
    pub options: Vec<u8>,
}

/// An IPv4 packet.
pub fn ipv4(header: &Ipv4, inner: Part) -> Part {
    let header_len = 20 + header.options.len();
    let total = (header_len + inner.bytes.len()) as u16;
    let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
    bytes.extend_from_slice(&total.to_be_bytes());
    bytes.extend_from_slice(&[0x12, 0x34]);
    bytes.extend_from_slice(&header.fragment.to_be_bytes());
    bytes.extend_from_slice(&[64, header.protocol, 0, 0]);
    bytes.extend_from_slice(&header.src);
    bytes.extend_from_slice(&header.dst);
    bytes.extend_from_slice(&header.options);
    Part::header(&bytes, &[0, 0, 2, 3, 6, 7, 9, 12, 16]).then(inner)
}

/// What an IPv6 header says.
#[derive(Clone, Debug, Default)]
pub struct Ipv6 {
    pub src: [u8; 16],
    pub dst: [u8; 16],
    /// The first header after this one.
    pub next: u8,
}

/// An IPv6 packet.
pub fn ipv6(header: &Ipv6, inner: Part) -> Part {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend_from_slice(&inner.len16().to_be_bytes());
    bytes.extend_from_slice(&[header.next, 64]);
    bytes.extend_from_slice(&header.src);
    bytes.extend_from_slice(&header.dst);
    Part::header(&bytes, &[0, 4, 5, 6, 8, 24]).then(inner)
}

/// An IPv6 extension header in the common form (RFC 6564): `units` of 8 bytes beside the first.
pub fn extension(next: u8, units: u8, inner: Part) -> Part {
    // One PadN option over all of it.
    let len = 8 + 8 * usize::from(units);
    let mut bytes = vec![0; len];
    bytes[..2].copy_from_slice(&[next, units]);
    if let Ok(pad) = u8::try_from(len - 4) {
        bytes[2..4].copy_from_slice(&[1, pad]);
    }
    Part::header(&bytes, &[0, 1]).then(inner)
}

/// An authentication header (RFC 4302): 8 bytes and `units` of 4.
pub fn authentication(next: u8, units: u8, inner: Part) -> Part {
    let mut bytes = vec![0; 8 + 4 * usize::from(units)];
    bytes[..2].copy_from_slice(&[next, units]);
    Part::header(&bytes, &[0, 1]).then(inner)
}

/// An IPv6 fragment header; `offset` in units of 8 bytes.
pub fn fragment6(next: u8, offset: u16, more: bool, inner: Part) -> Part {
    let field = (offset << 3 | u16::from(more)).to_be_bytes();
    Part::header(&[next, 0, field[0], field[1], 0, 0, 0, 9], &[0, 2, 3]).then(inner)
}

/// A TCP segment with `options` (a multiple of 4 bytes, at most 40).
pub fn tcp(src: u16, dst: u16, flags: u8, options: &[u8], inner: Part) -> Part {
    let mut bytes = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]);
    bytes.extend_from_slice(&[
        (((20 + options.len()) / 4) << 4) as u8,
        flags,
        0xFF,
        0xFF,
        0,
        0,
        0,
        0,
    ]);
    bytes.extend_from_slice(options);
    Part::header(&bytes, &[0, 1, 2, 3, 12, 13]).then(inner)
}

/// A UDP datagram.
pub fn udp(src: u16, dst: u16, inner: Part) -> Part {
    let len = inner.len16().wrapping_add(8);
    let bytes = [src, dst, len, 0].map(u16::to_be_bytes).concat();
    Part::header(&bytes, &[0, 1, 2, 3, 4, 5]).then(inner)
}

/// An ICMP or ICMPv6 message: type, code, the four bytes after the checksum, and the rest.
pub fn icmp(kind: u8, code: u8, word: [u8; 4], inner: Part) -> Part {
    let bytes = [[kind, code, 0, 0], word].concat();
    Part::header(&bytes, &[0, 1]).then(inner)
}

/// A neighbour discovery option that carries a MAC.
pub fn nd_option(kind: u8, mac: [u8; 6]) -> Part {
    Part::header(&[&[kind, 1], mac.as_slice()].concat(), &[0, 1, 2])
}

/// An SCTP packet.
pub fn sctp(src: u16, dst: u16, inner: Part) -> Part {
    let mut bytes = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    bytes.extend_from_slice(&[0; 8]);
    Part::header(&bytes, &[0, 1, 2, 3]).then(inner)
}

/// A VXLAN header over an Ethernet frame (RFC 7348).
pub fn vxlan(vni: u32, inner: Part) -> Part {
    let [_, a, b, c] = vni.to_be_bytes();
    Part::header(&[0x08, 0, 0, 0, a, b, c, 0], &[]).then(inner)
}

/// A GRE header without options (RFC 2784) over `ethertype`.
pub fn gre(ethertype: u16, inner: Part) -> Part {
    let [a, b] = ethertype.to_be_bytes();
    Part::header(&[0, 0, a, b], &[]).then(inner)
}
