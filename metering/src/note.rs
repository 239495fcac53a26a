//! Signed notes (C2SP signed-note, Ed25519), and the checkpoints of a tree among them (C2SP
//! tlog-checkpoint).
//!
//! Invariants (`docs/METERING.md`, M-14; oracles in tests: `signed_note`, `tlog_tiles`)
//! - A note that is read encodes back to the same bytes; one byte more or less is another note or none.
//! - What a key signs is always such a note, whose first line is the ledger's origin: a signature for
//!   one purpose is none for another.
//!
//! What it is not: it keeps no key (`ledger` does), and does not say which key is in force (`verify`).

use crate::{record::Record, tree::Hash};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// C2SP's number for Ed25519.
const ED25519: u8 = 1;
/// No note has more bytes: as much as anybody may have added to a checkpoint.
pub const NOTE_BYTES_MAX: usize = 65_536;

/// Why something is no note, no key, or not what it should say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is not a note: text, an empty line, and lines of signatures.
    #[error("this is no signed note")]
    Malformed,
    /// It is a note, but not a tree's checkpoint.
    #[error("this note is no checkpoint of a tree")]
    NotACheckpoint,
    /// No key that is known has signed it.
    #[error("no known key has signed this note")]
    Unsigned,
    /// A signature by a known key is not one of this text.
    #[error("the signature of {name} is wrong")]
    Wrong {
        /// The key's name.
        name: String,
    },
    /// A line is no verifier key.
    #[error("{line}: this is no verifier key")]
    Key {
        /// The line.
        line: String,
    },
}

/// A text as a part of an address: what is not unreserved in RFC 3986 as `%` and two digits.
pub(crate) fn percent(text: &str) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'-' => {
                name.push(char::from(byte));
            }
            _ => {
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    name
}

/// The name of a ledger's tree, and of the keys that sign it: `octroi/<host>/<ledger_id>`.
#[must_use]
pub fn origin(host: &str, ledger_id: &[u8; 16]) -> String {
    let mut name = format!("octroi/{}", percent(host));
    name.push('/');
    for byte in ledger_id {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The origin of the ledger that a record is in, if its host is what it was in BEGIN.
#[must_use]
pub fn origin_of(record: &Record) -> String {
    origin(&record.host, &record.ledger_id)
}

/// Bytes in hexadecimal digits, lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes in base64, RFC 4648 §4.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of base64 with all of its padding and no bit too many.
#[must_use]
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A key that signs.
pub struct Signer(SigningKey);

impl Signer {
    /// The key with this seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its seed: whoever has it can sign.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The signature of a note's text, alone.
    #[must_use]
    pub fn signature(&self, text: &str) -> [u8; 64] {
        self.0.sign(text.as_bytes()).to_bytes()
    }

    /// The note of this text, which ends with a newline, signed under the name of its first line.
    #[must_use]
    pub fn note(&self, text: &str) -> String {
        let name = text.lines().next().unwrap_or_default();
        let mut signed = key_hash(name, &self.public()).to_vec();
        signed.extend(self.signature(text));
        format!("{text}\n\u{2014} {name} {}\n", base64(&signed))
    }
}

fn key_hash(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([b'\n', ED25519]);
    hash.update(public);
    let whole = hash.finalize();
    std::array::from_fn(|index| whole[index])
}

/// A key that somebody trusts, with the name that it signs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    hash: [u8; 4],
    key: VerifyingKey,
}

impl Verifier {
    /// The key with this public half; `None`: it is none.
    #[must_use]
    pub fn new(name: &str, public: &[u8; 32]) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            hash: key_hash(name, public),
            key: VerifyingKey::from_bytes(public).ok()?,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Is this its signature of the text?
    #[must_use]
    pub fn has_signed(&self, text: &str, signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.key.verify_strict(text.as_bytes(), &signature).is_ok()
    }

    /// C2SP's form of a public key: `name+hash+base64`.
    #[must_use]
    pub fn vkey(&self) -> String {
        let mut name = format!("{}+", self.name);
        for byte in self.hash {
            let _ = write!(name, "{byte:02x}");
        }
        let key = [&[ED25519], &self.public()[..]].concat();
        name + "+" + &base64(&key)
    }

    /// Reads that form.
    ///
    /// # Errors
    /// [`NoteError::Key`].
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        let read = || {
            // base64 has a plus, too: the first two are those that part.
            let (name, rest) = line.split_once('+')?;
            let (_, key) = rest.split_once('+')?;
            let key = from_base64(key)?;
            let public = key.strip_prefix(&[ED25519])?.try_into().ok()?;
            let verifier = Self::new(name, &public)?;
            (verifier.vkey() == line && is_name(name)).then_some(verifier)
        };
        read().ok_or_else(|| NoteError::Key {
            line: line.to_owned(),
        })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|char| char.is_whitespace() || char == '+')
}

/// Keys that somebody trusts: lines of [`Verifier::vkey`]; empty lines, and lines that begin with `#`, say
/// nothing.
///
/// # Errors
/// [`NoteError::Key`] of the first line that is no key.
pub fn keyring(text: &str) -> Result<Vec<Verifier>, NoteError> {
    let lines = text.lines().map(str::trim);
    let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    keys.map(Verifier::parse).collect()
}

/// A note, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// What is signed, with its last newline.
    pub text: &'a str,
    signatures: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    /// [`NoteError::Malformed`].
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        Self::read(note).ok_or(NoteError::Malformed)
    }

    fn read(note: &'a str) -> Option<Self> {
        if note.len() > NOTE_BYTES_MAX || !note.ends_with('\n') {
            return None;
        }
        let control = |char: char| char < ' ' && char != '\n';
        let at = note.rfind("\n\n")?;
        let (text, signed) = (&note[..=at], &note[at + 2..]);
        if note.chars().any(control) || signed.is_empty() {
            return None;
        }
        let signatures = signed.lines().map(|line| {
            let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
            let signature = from_base64(signature)?;
            (is_name(name) && signature.len() > 4).then_some((name, signature))
        });
        Some(Self {
            text,
            signatures: signatures.collect::<Option<_>>()?,
        })
    }

    /// How many have signed it, known or not.
    #[must_use]
    pub fn signatures(&self) -> usize {
        self.signatures.len()
    }

    /// Which of these keys have signed it, by their place.
    ///
    /// # Errors
    /// [`NoteError::Wrong`], [`NoteError::Unsigned`].
    pub fn signers(&self, keys: &[Verifier]) -> Result<Vec<usize>, NoteError> {
        let mut signers = Vec::new();
        for (name, signed) in &self.signatures {
            let (hash, signature) = signed.split_at(4);
            let known = |key: &&Verifier| key.name == *name && key.hash == hash;
            let Some(at) = keys.iter().position(|key| known(&key)) else {
                continue;
            };
            let signature = <&[u8; 64]>::try_from(signature).ok();
            if !signature.is_some_and(|signature| keys[at].has_signed(self.text, signature)) {
                return Err(NoteError::Wrong {
                    name: (*name).to_owned(),
                });
            }
            signers.push(at);
        }
        if signers.is_empty() {
            return Err(NoteError::Unsigned);
        }
        Ok(signers)
    }
}

/// What a checkpoint says: a tree's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose tree.
    pub origin: String,
    /// Its leaves.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

impl Head {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, base64(&self.root))
    }

    /// Reads such a text; what others may add to it in further lines is not.
    ///
    /// # Errors
    /// [`NoteError::NotACheckpoint`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let read = || {
            let mut lines = text.lines();
            let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
            let head = Self {
                origin: origin.to_owned(),
                size: size.parse().ok()?,
                root: from_base64(root)?.try_into().ok()?,
            };
            (head.text() == text).then_some(head)
        };
        read().ok_or(NoteError::NotACheckpoint)
    }
}

#[cfg(test)]
mod tests;
