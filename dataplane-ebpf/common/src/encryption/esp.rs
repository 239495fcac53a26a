//! ESP (RFC 4303): its shape, and whether it encrypts at all.
//!
//! ESP with the NULL cipher (RFC 2410) and with GMAC alone (RFC 4543) looks like any other but for its end: behind the
//! inner packet stand padding of 1, 2, 3, its length, and the number of what is inside, before the integrity check
//! value. Where those agree with what stands at the beginning, as RFC 5879 proposes, it is clear. Of ciphertext, one
//! packet in some ten million agrees by chance: that one is dropped, and nothing follows from it.

use super::{Class, Payload, Segment, Stream, Why, fragment::piece, veto};
use crate::parse::proto;

/// Integrity check value and initialisation vector, bytes: HMAC-SHA-1-96 and XCBC-96, HMAC-SHA-256-128, -384-192,
/// -512-256, and GMAC.
const LAYOUTS: [(u32, u32); 5] = [(12, 0), (16, 0), (24, 0), (32, 0), (16, 8)];
/// SPI and sequence number.
const HEADER: u32 = 8;
/// Numbers up to this are reserved (RFC 4303 §2.1).
const SPI_RESERVED: u64 = 255;
/// Alignment takes 3 at most, blocks of ciphers 15.
const PADDING_MAX: u32 = 15;

/// Judges a packet of ESP.
#[inline(always)]
pub fn judge(stream: &mut Stream, segment: &Segment, payload: &impl Payload) -> Result<Class, Why> {
    let spi = payload.be(0, 4).ok_or(Why::Malformed)?;
    if spi <= SPI_RESERVED || segment.len < HEADER {
        return Err(Why::Malformed);
    }
    // A first fragment has no trailer: what follows it is looked at as ciphertext.
    if segment.piece == piece::WHOLE && veto::is_due(stream) {
        stream.then = payload.is_null(segment.len) as u16;
        if stream.then != 0 {
            return Err(Why::Clear);
        }
    }
    if segment.piece != piece::WHOLE && payload.holds_text(segment.len) {
        return Err(Why::Clear);
    }
    Ok(Class::Shape)
}

/// Is what `len` bytes of ESP hold there to be read?
#[inline(always)]
pub fn is_null(payload: &impl Payload, len: u32) -> bool {
    let mut number = 0;
    while number < LAYOUTS.len() {
        let (icv, vector) = LAYOUTS[number];
        if agrees(payload, len, icv, HEADER + vector) {
            return true;
        }
        number += 1;
    }
    false
}

/// Does an inner packet from `start` on agree with the trailer before `icv` bytes?
#[inline(always)]
fn agrees(payload: &impl Payload, len: u32, icv: u32, start: u32) -> bool {
    if len < start + 8 + 2 + icv {
        return false;
    }
    let (Some(trailer), Some(eight)) = (payload.be(len - icv - 2, 2), payload.be(start, 8)) else {
        return false;
    };
    let (padding, next) = ((trailer >> 8) as u32, trailer as u8);
    let outside = icv + 2 + padding + start;
    if padding > PADDING_MAX || outside + 8 > len {
        return false;
    }
    let inner = len - outside;
    let version = eight >> 60;
    match next {
        proto::IPIP => version == 4 && (eight >> 32 & 0xFFFF) as u32 == inner,
        proto::IPV6 => version == 6 && (eight >> 16 & 0xFFFF) as u32 + 40 == inner,
        proto::UDP => (eight >> 16 & 0xFFFF) as u32 == inner,
        // TCP has no length: its header's, and what follows.
        proto::TCP => match payload.be(start + 12, 1) {
            Some(byte) => {
                let header = (byte >> 4) as u32 * 4;
                (20..=inner).contains(&header) && payload.looks_clear(start)
            }
            None => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::Bytes;

    /// ESP with the NULL cipher around `inner`.
    fn null(next: u8, inner: &[u8], (icv, vector): (u32, u32)) -> Vec<u8> {
        let mut bytes = vec![0, 0, 1, 0, 0, 0, 0, 1];
        bytes.extend(vec![9; vector as usize]);
        bytes.extend_from_slice(inner);
        let padding = (2 + 4 * 16 - (inner.len() % 4)) % 4;
        bytes.extend((1..=padding).map(|byte| byte as u8));
        bytes.extend([padding as u8, next]);
        bytes.extend((0..icv).map(|byte| byte as u8 ^ 0xA5));
        bytes
    }

    fn noise(state: &mut u64, len: usize) -> Vec<u8> {
        let bytes = core::iter::repeat_with(|| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 32) as u8
        });
        bytes.take(len).collect()
    }

    #[test]
    fn finds_the_null_cipher_by_its_trailer() {
        let mut state = 0x0C7;
        for layout in LAYOUTS {
            for len in 40..200 {
                let mut ipv4 = noise(&mut state, len);
                ipv4[0] = 0x45;
                ipv4[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                let mut ipv6 = noise(&mut state, len);
                ipv6[0] = 0x60;
                ipv6[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
                let mut udp = noise(&mut state, len);
                udp[4..6].copy_from_slice(&(len as u16).to_be_bytes());
                for (next, inner) in [(4, &ipv4), (41, &ipv6), (17, &udp)] {
                    let bytes = null(next, inner, layout);
                    let found = is_null(&Bytes(&bytes), bytes.len() as u32);
                    assert!(found, "{next} of {len} in {layout:?}");
                }
            }
            let text = b"GET / HTTP/1.1\r\nHost: a.example\r\nAccept: text/html\r\n\r\n".repeat(2);
            let tcp = [
                &[
                    0x9C, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 4, 0, 0, 0, 0, 0,
                ][..],
                &text,
            ]
            .concat();
            let bytes = null(6, &tcp, layout);
            assert!(
                is_null(&Bytes(&bytes), bytes.len() as u32),
                "TCP in {layout:?}"
            );
        }
    }

    #[test]
    fn takes_noise_for_noise() {
        let mut state = 0x0C7;
        for len in 16..4_000 {
            for _ in 0..20 {
                let bytes = noise(&mut state, len);
                assert!(!is_null(&Bytes(&bytes), len as u32), "{bytes:02x?}");
            }
        }
        assert!(!is_null(&Bytes(&[]), 0));
    }
}
