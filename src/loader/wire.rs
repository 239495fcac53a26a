//! What the meter may ask of the loader, and how both are written: a length of four bytes, little endian, and a
//! message as postcard has it. One question, one answer, one after the other.

use dataplane::{
    attach::Mechanism,
    flows::Timeouts,
    gate::{Event, LiveFlows, Owned, Reading},
    provide::Providing,
    quota::{Grant, Spent},
};
use dataplane_common::abi::Anchor;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Error, ErrorKind, Read, Write};

/// A question is not longer, bytes: a configuration, as on the control socket.
pub(super) const REQUEST_MAX: usize = 64 << 20;
/// Nor is an answer. Four million flows in one window are less.
pub(super) const ANSWER_MAX: usize = 2 << 30;

/// Everything that the meter may ask for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Flows are read and ended from now on, and slots wait for [`Request::Settle`].
    Meter(Timeouts),
    /// What the last ledger left in the kernel.
    Anchor,
    /// Writes it.
    SetAnchor(Anchor),
    /// Puts a configuration in force: its TOML, with the hooks' ports, and what is left of tenants' budgets.
    Apply(String, Vec<Grant>),
    /// Interfaces and programs follow it.
    Reconcile,
    /// Window and revision.
    Epoch,
    /// Every port with its registers.
    Ports,
    /// Every uplink, likewise.
    Uplinks,
    /// Every tunnel that this host provides.
    Provided,
    /// Interfaces that bear no witness.
    NotAudited,
    /// Closes the open window and reads it.
    Seal,
    /// What everybody stands at, without a cut.
    Look,
    /// The flows that are in the table now: of a tenant, of a port, or of all.
    Flows(Option<u32>, Option<String>),
    /// The last window of this incarnation is committed.
    Settle(u64),
    /// Tells the kernel what is left of tenants' budgets.
    Grant(Vec<Grant>),
    /// What was had of them, ever.
    Quotas,
    /// Takes all programs off.
    RetireAll,
    /// Takes everything out of the kernel.
    Detach,
    /// The service manager is told that all is in force.
    Ready,
    /// And that it ends.
    Stopping,
}

/// What comes back, or why nothing does.
pub(super) type Reply = Result<Answer, String>;

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Anchor(Anchor),
    Applied(u32, Vec<Event>),
    Events(Vec<Event>),
    /// As [`dataplane_common::abi::Epoch`] has it.
    Epoch(u64),
    /// JSON: what `status` says of ports leaves out what is empty, which postcard cannot.
    Ports(String),
    /// JSON, likewise.
    Uplinks(String),
    Provided(Vec<Providing>),
    Names(Vec<String>),
    Reading(Box<Reading>),
    Registers(Vec<Owned>),
    Granted(u32),
    Quotas(Vec<Spent>),
    Flows(LiveFlows),
}

/// What the loader says first, without being asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The configuration that it has read: both have the same, also when the file is written meanwhile.
    pub config: String,
    /// How programs are attached.
    pub mechanism: Mechanism,
}

/// Writes a message.
///
/// # Errors
/// When it is too long, or the other end is gone.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize, max: usize) -> io::Result<()> {
    // Room for the length, which is known afterwards.
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(Error::other)?;
    let length = bytes.len() - 4;
    if length > max {
        return Err(Error::other(format!(
            "a message of {length} bytes; at most {max} are taken"
        )));
    }
    let length = u32::try_from(length).map_err(Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&bytes)
}

/// Reads a message; `None`: the other end has closed, between two of them.
///
/// # Errors
/// When it is too long, is none, or breaks off.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read, max: usize) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut got = 0;
    while got < length.len() {
        match from.read(&mut length[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(more) => got += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > max {
        return Err(Error::other(format!(
            "a message of {length} bytes; at most {max} are taken"
        )));
    }
    // Memory is taken for what has come, not for what was announced.
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    match postcard::take_from_bytes(&bytes) {
        Ok((message, [])) => Ok(Some(message)),
        Ok(_) => Err(Error::other("something comes after a message")),
        Err(error) => Err(Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_message_comes_through_and_then_the_end() {
        let mut line = Vec::new();
        write(
            &mut line,
            &Request::Apply("[host]".into(), Vec::new()),
            REQUEST_MAX,
        )
        .expect("written");
        write(&mut line, &Request::Settle(u64::MAX), REQUEST_MAX).expect("written");
        let mut line = line.as_slice();
        let mut next = || read::<Request>(&mut line, REQUEST_MAX).expect("a message");
        assert!(matches!(next(), Some(Request::Apply(text, _)) if text == "[host]"));
        assert!(matches!(next(), Some(Request::Settle(u64::MAX))));
        assert!(next().is_none());
    }

    #[test]
    fn what_is_too_long_breaks_off_or_goes_on_is_refused() {
        let long = write(
            &mut Vec::new(),
            &Request::Apply("x".repeat(100), Vec::new()),
            64,
        );
        assert!(long.is_err_and(|error| error.to_string().contains("at most 64")));
        let mut whole = Vec::new();
        write(&mut whole, &Request::Anchor, REQUEST_MAX).expect("written");
        let seal = postcard::to_stdvec(&Request::Seal).expect("bytes");
        for bytes in [
            (REQUEST_MAX as u32 + 1).to_le_bytes().to_vec(),
            whole[..whole.len() - 1].to_vec(),
            whole[..3].to_vec(),
            framed(&[]),
            // No such request; a request and more.
            framed(&[200]),
            framed(&[seal.as_slice(), &[0]].concat()),
            // A text of 2^60 bytes, of which two come.
            framed(&[
                3, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, b'a', b'b',
            ]),
        ] {
            let read = read::<Request>(&mut bytes.as_slice(), REQUEST_MAX);
            assert!(read.is_err(), "{bytes:?}: {read:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_loader_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let framed = framed(&body);
            for bytes in [&framed, &body] {
                let _ = read::<Request>(&mut bytes.as_slice(), REQUEST_MAX);
            }
        }
    }
}
