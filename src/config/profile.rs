//! Profiles: what a rule accepts as encryption. Suites and groups by their numbers in IANA's registries.
//!
//! Allow-lists, never deny-lists: what has no name here is refused, and so are NULL, anonymous and integrity-only
//! suites (C0B4, C0B5).

use super::values::{ValueError, shown};
use dataplane_common::encryption::{Rule, accept, tls};
use std::str::FromStr;

/// A built-in profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// ANSSI, "Recommandations de sécurité relatives à TLS" (SDE-NT-35), with hybrid post-quantum groups allowed.
    #[default]
    Anssi2026,
    /// The same, with a hybrid post-quantum group required: TLS 1.3 alone.
    AnssiPq,
    /// NIST SP 800-52 rev. 2, §3.3.1 and Appendix D; no ChaCha20.
    Nist80052r2,
    /// RFC 9151: the Commercial National Security Algorithm suite 1.0 for TLS.
    Cnsa,
}

/// AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305, AES-128-CCM of TLS 1.3 (RFC 8446 §B.4), and TLS 1.2's ECDHE suites with
/// GCM (RFC 5289), ChaCha20 (RFC 7905) and CCM (RFC 7251).
const ANSSI: [u16; 12] = [
    0x1301, 0x1302, 0x1303, 0x1304, 0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA8, 0xCCA9, 0xC0AC, 0xC0AD,
];
/// Those of SP 800-52r2: no ChaCha20; CCM_8, and DHE with GCM and CCM.
const NIST: [u16; 18] = [
    0x1301, 0x1302, 0x1304, 0x1305, 0xC02B, 0xC02C, 0xC02F, 0xC030, 0xC0AC, 0xC0AD, 0xC0AE, 0xC0AF,
    0x009E, 0x009F, 0xC09E, 0xC09F, 0xC0A2, 0xC0A3,
];
const CNSA: [u16; 4] = [0x1302, 0xC02C, 0xC030, 0x009F];

/// P-256, P-384, P-521, X25519, X448, Brainpool 256, 384 and 512 of TLS 1.3 (RFC 8734), and the hybrids
/// X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024.
const ANSSI_GROUPS: [u16; 11] = [
    0x0017, 0x0018, 0x0019, 0x001D, 0x001E, 0x001F, 0x0020, 0x0021, 0x11EC, 0x11EB, 0x11ED,
];
const PQ_GROUPS: [u16; 3] = [0x11EC, 0x11EB, 0x11ED];
/// P-256, P-384, P-521, and the finite fields of RFC 7919.
const NIST_GROUPS: [u16; 8] = [
    0x0017, 0x0018, 0x0019, 0x0100, 0x0101, 0x0102, 0x0103, 0x0104,
];
const CNSA_GROUPS: [u16; 3] = [0x0018, 0x0101, 0x0102];

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 4] = [
        Self::Anssi2026,
        Self::AnssiPq,
        Self::Nist80052r2,
        Self::Cnsa,
    ];

    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anssi2026 => "anssi-2026",
            Self::AnssiPq => "anssi-pq",
            Self::Nist80052r2 => "nist-800-52r2",
            Self::Cnsa => "cnsa",
        }
    }

    /// What it says, in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Anssi2026 => {
                "TLS 1.2 and 1.3 with ANSSI's suites and groups, SSH, WireGuard, QUIC, DTLS 1.2, and inside \
                 overlays"
            }
            Self::AnssiPq => {
                "TLS 1.3 with ANSSI's suites and a hybrid post-quantum group, and nothing else"
            }
            Self::Nist80052r2 => "TLS 1.2 and 1.3 with the suites and groups of NIST SP 800-52r2",
            Self::Cnsa => "TLS 1.2 and 1.3 with the suites and groups of RFC 9151",
        }
    }

    /// Writes into a rule what is accepted.
    pub fn fill(self, rule: &mut Rule) {
        let everything = accept::TLS
            | accept::SSH
            | accept::WIREGUARD
            | accept::QUIC_V1
            | accept::QUIC_V2
            | accept::DTLS
            | accept::ESP
            | accept::IKE;
        let (accepts, least, suites, groups): (u32, u16, &[u16], &[u16]) = match self {
            Self::Anssi2026 => (everything, tls::TLS_1_2, &ANSSI, &ANSSI_GROUPS),
            Self::AnssiPq => (
                accept::TLS | accept::GROUP_REQUIRED,
                tls::TLS_1_3,
                &ANSSI,
                &PQ_GROUPS,
            ),
            // WireGuard has no approved algorithm, and what SSH and QUIC chose cannot be read.
            Self::Nist80052r2 => (accept::TLS, tls::TLS_1_2, &NIST, &NIST_GROUPS),
            Self::Cnsa => (accept::TLS, tls::TLS_1_2, &CNSA, &CNSA_GROUPS),
        };
        // An overlay is what it carries, whatever the profile asks of that.
        rule.accepts |= accepts | accept::OVERLAYS;
        rule.tls_min = least;
        for (place, suite) in rule.suites.iter_mut().zip(suites) {
            *place = *suite;
        }
        for (place, group) in rule.groups.iter_mut().zip(groups) {
            *place = *group;
        }
    }
}

impl FromStr for Profile {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut profiles = Self::ALL.into_iter();
        let profile = profiles.find(|profile| profile.as_str() == text);
        profile.ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str);
            ValueError(format!(
                "there is no profile {}; write one of {}",
                shown(text),
                names.join(" ")
            ))
        })
    }
}
