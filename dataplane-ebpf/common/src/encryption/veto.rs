//! The plaintext veto: what cannot be ciphertext, because its nibbles are not evenly spread.
//!
//! Of 64 bytes, χ² over the 16 values of their 128 nibbles. Ciphertext is over [`SQUARES_MAX`] once in 13,000 windows
//! (15 degrees of freedom, χ² above 45); text, JSON, base64 and machine code nearly always are, and compressed data is
//! not: this refutes and never proves. [`IN_A_ROW`] windows must look clear one after the other, so that ciphertext is
//! refused once in 10^12 looks. The first [`LOOKS_FIRST`] records or datagrams of a direction are looked at, then one
//! in [`LOOK_EACH`], and each that follows one that looked clear.
//!
//! What it is not: a proof, or a bar to who wants through. Records below 72 bytes, and those whose beginning is in
//! another segment than their header, are not looked at; and clear text can be compressed.

use super::{Conversation, Payload, Segment, Stream, Why, tls, tls::Step};

/// Bytes of a window.
pub const WINDOW: u32 = 64;
/// Sum of the squares of 16 counts of 128 nibbles at χ² = 45: 8 × (45 + 128).
pub const SQUARES_MAX: u32 = 1_384;
/// Windows that must look clear one after the other.
pub const IN_A_ROW: u16 = 3;
/// Records or datagrams of a direction that are all looked at.
pub const LOOKS_FIRST: u32 = 8;
/// Of those that follow, one in so many: a power of two.
pub const LOOK_EACH: u32 = 64;
/// Explicit nonce of TLS 1.2 (RFC 5288): a counter, and no ciphertext.
const NONCE: u32 = 8;

/// Do the 64 bytes at `at` look clear? What is not there looks like nothing.
///
/// Without a branch but for the end of the payload: the kernel's verifier would take each both ways.
#[inline(always)]
pub fn looks_clear(payload: &impl Payload, at: u32) -> bool {
    const ONES: u64 = 0x1111_1111_1111_1111;
    const LOW: u64 = 0x0F0F_0F0F_0F0F_0F0F;
    let mut words = [0_u64; 8];
    let mut number = 0;
    while number < 8 {
        let Some(word) = payload.be(at + number as u32 * 8, 8) else {
            return false;
        };
        words[number] = word;
        number += 1;
    }
    let mut squares = 0_u32;
    let mut value = 0_u64;
    while value < 16 {
        // In each nibble, how many of the eight words do not have `value` there.
        let mut others = 0_u64;
        let mut number = 0;
        while number < 8 {
            let differs = words[number] ^ (value * ONES);
            let differs = differs | differs >> 1;
            others += (differs | differs >> 2) & ONES;
            number += 1;
        }
        let bytes = (others & LOW) + (others >> 4 & LOW);
        let count = 128 - (bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32;
        squares += count * count;
        value += 1;
    }
    squares > SQUARES_MAX
}

/// Are the first bytes at `at`, 16 at least and [`WINDOW`] at most, all of 7 bits? Ciphertext is so once in 65,536 where there
/// are 16 of them, and hardly ever where there are more: for what is too short for a window, and rare enough to lose.
#[inline(always)]
pub fn is_text(payload: &impl Payload, at: u32, len: u32) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut words = 0;
    while words < WINDOW / 8 {
        if (words + 1) * 8 > len {
            break;
        }
        match payload.be(at + words * 8, 8) {
            Some(word) if word & HIGH == 0 => {}
            _ => return false,
        }
        words += 1;
    }
    words >= 2
}

/// Places of [`holds_text`], and how many bytes at the end.
const PLACES: u32 = 32;
const LAST: u32 = 32;

/// Is there text somewhere in `len` bytes? Looked at are up to `PLACES` places, a window apart or further, and the end: where
/// the bytes fit a link, text of two windows is always found, and of `LAST` bytes at the end. At ciphertext it is the first word of each, nearly always.
#[inline(always)]
pub fn holds_text(payload: &impl Payload, len: u32) -> bool {
    let apart = len / PLACES;
    let apart = if apart > WINDOW { apart } else { WINDOW };
    let mut number = 0;
    while number < PLACES {
        let at = number * apart;
        if at + 16 > len {
            break;
        }
        if is_text(payload, at, len - at) {
            return true;
        }
        number += 1;
    }
    len >= LAST && is_text(payload, len - LAST, LAST)
}

/// Is the next record or datagram of a direction, whose keys are in use, one to look at? Counts it.
#[inline(always)]
pub fn is_due(stream: &mut Stream) -> bool {
    let seen = stream.skip;
    stream.skip = seen.wrapping_add(1);
    seen < LOOKS_FIRST || seen & (LOOK_EACH - 1) == 0 || stream.then != 0
}

/// Looks at the `len` bytes of ciphertext at `at`, if it is their turn: true when they are refused.
#[inline(always)]
pub fn refuses(stream: &mut Stream, payload: &impl Payload, at: u32, len: u32) -> bool {
    len >= WINDOW && is_due(stream) && looks(stream, payload, at, len)
}

/// The same, whosever turn it is.
#[inline(always)]
pub fn looks(stream: &mut Stream, payload: &impl Payload, at: u32, len: u32) -> bool {
    let mut window = 0;
    while window < IN_A_ROW as u32 {
        if (window + 1) * WINDOW > len {
            return false;
        }
        if !payload.looks_clear(at + window * WINDOW) {
            stream.then = 0;
            return false;
        }
        // A datagram that is refused changes nothing of what follows.
        if stream.then + 1 >= IN_A_ROW {
            return true;
        }
        stream.then += 1;
        window += 1;
    }
    false
}

/// Looks at the record of TLS whose header was just read.
#[inline(always)]
pub fn record(talk: &mut Conversation, segment: &Segment, payload: &impl Payload) -> Step {
    let agreed = talk.has(Conversation::AGREED);
    let is_1_3 = talk.version == tls::TLS_1_3;
    let stream = &mut talk.streams[(segment.direction & 1) as usize];
    if !agreed || !tls::is_past_hello(stream) || !(is_1_3 || stream.has(Stream::KEYED)) {
        return Step::More;
    }
    let at = stream.from.wrapping_sub(segment.seq);
    let len = stream.record_end.wrapping_sub(stream.from);
    let there = segment.len.saturating_sub(at);
    let len = if len < there { len } else { there };
    if refuses(stream, payload, at + NONCE, len.saturating_sub(NONCE)) {
        return Step::Refuse(Why::Clear);
    }
    Step::More
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::Bytes;

    /// Σ(c²) of 16 counts of 128 nibbles, one by one.
    fn squares(bytes: &[u8]) -> u32 {
        let mut counts = [0_u32; 16];
        for byte in bytes {
            counts[usize::from(byte >> 4)] += 1;
            counts[usize::from(byte & 15)] += 1;
        }
        counts.iter().map(|count| count * count).sum()
    }

    fn noise(state: &mut u64) -> [u8; 64] {
        core::array::from_fn(|_| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 32) as u8
        })
    }

    #[test]
    fn counts_as_counting_one_by_one_does() {
        let mut state = 0x0C7;
        let mut clear = 0;
        for round in 0..20_000 {
            let mut bytes = noise(&mut state);
            // From noise to one value alone.
            for byte in bytes.iter_mut().take(round % 65) {
                *byte = 0x41;
            }
            let wanted = squares(&bytes) > SQUARES_MAX;
            assert_eq!(looks_clear(&Bytes(&bytes), 0), wanted, "{bytes:02x?}");
            clear += u32::from(wanted);
        }
        // From the nineteenth byte on, mostly.
        assert!((10_000..19_000).contains(&clear), "{clear}");
    }

    #[test]
    fn tells_short_text_by_its_bits() {
        let text = b"GET /index.html HTTP/1.1\r\nHost: remote.example\r\n\r\n";
        for len in 0..text.len() as u32 {
            assert_eq!(is_text(&Bytes(text), 0, len), len >= 16, "{len}");
        }
        let mut one = *text;
        one[40] = 0xE9;
        assert!(!is_text(&Bytes(&one), 0, 52) && is_text(&Bytes(&one), 0, 40));
        let mut state = 0x0C7;
        let taken = (0..100_000).filter(|_| is_text(&Bytes(&noise(&mut state)), 0, 64));
        assert_eq!(taken.count(), 0);
        // Wherever 127 bytes of it are in a fragment of a link.
        let sealed: Vec<u8> = (0..24).flat_map(|_| noise(&mut state)).collect();
        assert!(!holds_text(&Bytes(&sealed), 1_480));
        for at in 0..1_480 - 127 {
            let mut bytes = sealed.clone();
            bytes[at..at + 127].fill(b'a');
            assert!(holds_text(&Bytes(&bytes), 1_480), "{at}");
        }
        let mut bytes = sealed.clone();
        bytes[1_480 - 32..1_480].fill(b'a');
        assert!(holds_text(&Bytes(&bytes), 1_480));
    }

    #[test]
    fn tells_text_from_noise() {
        let clear: [&[u8]; 5] = [
            b"GET /index.html HTTP/1.1\r\nHost: remote.example\r\nAccept: text/html",
            b"{\"tenant\":\"a\",\"bytes\":123456,\"zone\":\"internet-fr\",\"window\":1764252000}",
            b"TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24sIGJ1dA",
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0\x50\x10\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\
              \x98\x39\0\0\0\0\0\0\0\0\0\0\x40\0\x38\0\x0d\0\x40\0\x1f\0\x1e\0",
            &[0; 64],
        ];
        for bytes in clear {
            assert!(looks_clear(&Bytes(bytes), 0), "{bytes:02x?}");
        }
        let mut state = 0x0C7;
        let taken = (0..100_000).filter(|_| looks_clear(&Bytes(&noise(&mut state)), 0));
        let taken = taken.count();
        assert!(taken < 30, "{taken} of 100,000 windows of noise");
        assert!(
            !looks_clear(&Bytes(&[0; 63]), 0),
            "a window that is not there"
        );
    }
}
