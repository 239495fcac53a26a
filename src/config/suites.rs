//! Names of suites and groups of TLS, and their numbers in IANA's registries.
//!
//! Only what encrypts and proves an end: NULL, anonymous and integrity-only suites (RFC 9150) have no entry, and a message
//! of their own. TLS 1.2's suites with CBC and with a static RSA key are here because a profile of one's own may have to
//! name them; no built-in one does.

use super::{
    reader::nearest,
    values::{ValueError, shown},
};
use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
};

/// Suites by number: RFC 8446 §B.4, 5289, 7905, 7251, 6655, 5288, 8422.
const SUITES: [(u16, &str); 33] = [
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0x1304, "TLS_AES_128_CCM_SHA256"),
    (0x1305, "TLS_AES_128_CCM_8_SHA256"),
    (0xC02B, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xC02C, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xC02F, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xC030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xCCA8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xCCA9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xCCAA, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xC0AC, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
    (0xC0AD, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM"),
    (0xC0AE, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
    (0xC0AF, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8"),
    (0x009E, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009F, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xC09E, "TLS_DHE_RSA_WITH_AES_128_CCM"),
    (0xC09F, "TLS_DHE_RSA_WITH_AES_256_CCM"),
    (0xC0A2, "TLS_DHE_RSA_WITH_AES_128_CCM_8"),
    (0xC0A3, "TLS_DHE_RSA_WITH_AES_256_CCM_8"),
    (0x009C, "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009D, "TLS_RSA_WITH_AES_256_GCM_SHA384"),
    (0xC023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xC024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xC027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0xC028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"),
    (0xC009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xC00A, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xC013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xC014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x003C, "TLS_RSA_WITH_AES_128_CBC_SHA256"),
];

/// Groups by number: RFC 8422, 8734, 7919, and draft-ietf-tls-ecdhe-mlkem.
const GROUPS: [(u16, &str); 16] = [
    (0x0017, "secp256r1"),
    (0x0018, "secp384r1"),
    (0x0019, "secp521r1"),
    (0x001D, "x25519"),
    (0x001E, "x448"),
    (0x001F, "brainpoolP256r1tls13"),
    (0x0020, "brainpoolP384r1tls13"),
    (0x0021, "brainpoolP512r1tls13"),
    (0x0100, "ffdhe2048"),
    (0x0101, "ffdhe3072"),
    (0x0102, "ffdhe4096"),
    (0x0103, "ffdhe6144"),
    (0x0104, "ffdhe8192"),
    (0x11EB, "SecP256r1MLKEM768"),
    (0x11EC, "X25519MLKEM768"),
    (0x11ED, "SecP384r1MLKEM1024"),
];

/// Does a suite of this name leave text readable, or prove no end? RFC 5246 §A.5, RFC 9150.
fn encrypts_nothing(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let integrity_only = ["TLS_SHA256_SHA256", "TLS_SHA384_SHA384"];
    name.contains("_NULL") || name.contains("_ANON_") || integrity_only.contains(&name.as_str())
}

fn number(kind: &str, list: &[(u16, &str)], text: &str) -> Result<u16, ValueError> {
    if let Some((number, _)) = list.iter().find(|(_, name)| *name == text) {
        return Ok(*number);
    }
    if encrypts_nothing(text) {
        return Err(ValueError(format!(
            "{} encrypts nothing, or proves no end: no profile may have it; leave it out",
            shown(text)
        )));
    }
    let hint = match nearest(text, list.iter().map(|(_, name)| *name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "write a name of IANA's registry that is known here, such as {}",
            list.first().map_or("", |(_, name)| name)
        ),
    };
    Err(ValueError(format!(
        "there is no {kind} {}; {hint}",
        shown(text)
    )))
}

macro_rules! numbered {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $list:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $type(pub u16);

        impl FromStr for $type {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                number($kind, &$list, text).map(Self)
            }
        }

        impl Display for $type {
            fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
                match $list.iter().find(|(number, _)| *number == self.0) {
                    Some((_, name)) => out.write_str(name),
                    None => write!(out, "{:#06x}", self.0),
                }
            }
        }
    };
}

numbered! {
    /// A suite that a server may choose, by its number.
    Suite, "suite", SUITES
}
numbered! {
    /// A group that a server may choose, by its number.
    Group, "group", GROUPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_numbers_are_one_to_one() {
        for list in [&SUITES[..], &GROUPS] {
            let numbers: HashSet<u16> = list.iter().map(|(number, _)| *number).collect();
            let names: HashSet<&str> = list.iter().map(|(_, name)| *name).collect();
            assert_eq!((numbers.len(), names.len()), (list.len(), list.len()));
        }
        for (number, name) in SUITES {
            assert_eq!(name.parse(), Ok(Suite(number)));
            assert_eq!(Suite(number).to_string(), name);
            assert!(!encrypts_nothing(name), "{name}");
        }
    }
}
