//! Frames around a payload: with options, extension headers and padding, so that where the payload begins differs.

use super::{
    dice::Dice,
    kernel::{IPV4, MACS, ipv6},
};
use dataplane_common::encryption::Segment;

/// What stays the same in a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub v6: bool,
    pub tcp: bool,
    /// Of the tenant and of the other end.
    pub ports: [u16; 2],
}

/// A frame that carries `payload` as `segment` says.
pub fn frame(dice: &mut Dice, shape: &Shape, segment: &Segment, payload: &[u8]) -> Vec<u8> {
    let from = (segment.direction & 1) as usize;
    let to = from ^ 1;
    let mut transport = Vec::with_capacity(payload.len() + 60);
    transport.extend(shape.ports[from].to_be_bytes());
    transport.extend(shape.ports[to].to_be_bytes());
    if shape.tcp {
        let options = dice.pick(&[0, 0, 12, 4, 40]);
        transport.extend(segment.seq.to_be_bytes());
        transport.extend(segment.ack.to_be_bytes());
        transport.extend([
            ((20 + options) as u8 / 4) << 4,
            segment.flags,
            4,
            0,
            0,
            0,
            0,
            0,
        ]);
        // NOP: what options say does not matter here.
        transport.extend(vec![1; options]);
    } else {
        transport.extend((payload.len() as u16 + 8).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend_from_slice(payload);
    let mut frame = [MACS[to], MACS[from]].concat();
    let protocol = if shape.tcp { 6 } else { 17 };
    if shape.v6 {
        frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
        let mut next = vec![protocol];
        // Hop-by-hop options, then destination options.
        let extensions: &[u8] = dice.pick(&[&[][..], &[], &[60], &[0, 60]]);
        let mut headers = Vec::new();
        for (number, kind) in extensions.iter().enumerate().rev() {
            let mut header = vec![next[0], 0, 1, 4, 0, 0, 0, 0];
            if dice.one_in(2) {
                header = [&[next[0], 1, 1, 12][..], &[0; 12]].concat();
            }
            headers = [header, headers].concat();
            next = vec![*kind];
            debug_assert!(number < 2);
        }
        frame.extend(((headers.len() + transport.len()) as u16).to_be_bytes());
        frame.extend([next[0], 64]);
        frame.extend(ipv6(from));
        frame.extend(ipv6(to));
        frame.extend(headers);
    } else {
        let options = dice.pick(&[0, 0, 0, 4, 40]);
        frame.extend([0x08, 0x00, 0x40 | ((20 + options) as u8 / 4), 0]);
        frame.extend(((20 + options + transport.len()) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(IPV4[from]);
        frame.extend(IPV4[to]);
        frame.extend(vec![1; options]);
    }
    frame.extend(transport);
    if dice.one_in(8) {
        // Behind the packet, as the shortest frames have it: nobody may read it.
        let behind = dice.within(1, 30);
        frame.extend(b"GET / HTTP/1.1\r\nHost: a.example\r\n".iter().take(behind));
    }
    frame
}
