//! The few rtnetlink requests that shapes need: links, qdiscs, classes. Those of tunnels are in `provide::link`.
//!
//! Built by hand: netlink-packet-route knows no HTB, FIFO or fq, and running `tc` would be a second
//! program to install and to confine (docs/decisions/0004-traffic-control-through-netlink.md). Each
//! request waits for the kernel's answer; the words of its extended acknowledgement are kept.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{fmt, io};

/// `TC_H_ROOT`.
pub(crate) const ROOT: u32 = 0xFFFF_FFFF;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct tcmsg`.
const TCMSG: usize = 20;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;

/// `TCA_STATS_QUEUE`: qlen, backlog, drops, requeues, overlimits.
const STATS_QUEUE: u16 = 3;

/// Why the kernel refused a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// errno.
    pub code: i32,
    /// Its extended acknowledgement; may be empty.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = io::Error::from_raw_os_error(self.code);
        if self.text.is_empty() {
            write!(f, "{code}")
        } else {
            write!(f, "{}: {code}", self.text)
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Self {
                code,
                text: String::new(),
            },
            None => Self {
                code: libc::EIO,
                text: error.to_string(),
            },
        }
    }
}

/// What a request came to.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// Attributes of a message, or of an attribute.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends one.
    pub(crate) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a terminated string.
    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value)
    }

    /// Appends a number.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Walks attributes; ends at the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3FFF;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A qdisc as the kernel lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Qdisc {
    /// Interface.
    pub ifindex: u32,
    /// Its handle: major number in the high half.
    pub handle: u32,
    /// [`ROOT`], or the class that it is a leaf of.
    pub parent: u32,
    /// `htb`, `bfifo`, `fq`…
    pub kind: String,
    /// skbs that wait in it.
    pub queued: u32,
    /// Their bytes, a GSO packet as its segments.
    pub queued_bytes: u32,
    /// skbs that it, or what is below it, dropped.
    pub drops: u32,
}

/// A socket to rtnetlink in the namespace of the thread that opened it.
pub(crate) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    pub(crate) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels that lack these say only a number; that is enough.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    pub(crate) fn send(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
        more: &Attributes,
    ) -> Result<()> {
        self.sequence += 1;
        let len = HEADER + body.len() + more.bytes().len();
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        message.extend_from_slice(more.bytes());
        self.socket.send(&message, 0)?;
        Ok(())
    }

    /// Hands every message of the answer to `each`, until the kernel says that it is done.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(u16, &[u8])) -> Result<()> {
        loop {
            let (packet, _) = self.socket.recv_from_full()?;
            let mut rest = packet.as_slice();
            while let Some(len) = u32_at(rest, 0) {
                let len = (len as usize).clamp(HEADER, rest.len().max(HEADER));
                let Some(message) = rest.get(..len) else {
                    break;
                };
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                let kind = u16::from_ne_bytes([message[4], message[5]]);
                if u32_at(message, 8) != Some(self.sequence) {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => return verdict(message),
                    NLMSG_DONE => return Ok(()),
                    _ => each(kind, &message[HEADER..]),
                }
            }
        }
    }

    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
        more: &Attributes,
    ) -> Result<()> {
        self.send(kind, flags | libc::NLM_F_ACK, body, more)?;
        self.receive(|_, _| ())
    }

    /// Makes a link of a kind that needs no parameters (`ifb`, `veth`), up.
    pub(crate) fn add_link(&mut self, name: &str, kind: &str) -> Result<()> {
        let info = Attributes::default().text(libc::IFLA_INFO_KIND, kind);
        let link = Attributes::default()
            .text(libc::IFLA_IFNAME, name)
            // An IFB stops its queue when this many skbs wait for its softirq; its own 32 are few at
            // 10 Gbit/s.
            .u32(libc::IFLA_TXQLEN, 1_000)
            .put(libc::IFLA_LINKINFO, info.bytes());
        let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.ask(libc::RTM_NEWLINK, create, &ifinfomsg(0, true), &link)
    }

    /// Deletes a link.
    pub(crate) fn delete_link(&mut self, ifindex: u32) -> Result<()> {
        self.ask(
            libc::RTM_DELLINK,
            0,
            &ifinfomsg(ifindex, false),
            &Attributes::default(),
        )
    }

    /// Sets a link up.
    pub(crate) fn set_up(&mut self, ifindex: u32) -> Result<()> {
        self.ask(
            libc::RTM_NEWLINK,
            0,
            &ifinfomsg(ifindex, true),
            &Attributes::default(),
        )
    }

    /// Makes a qdisc in the place of whatever is there, or changes the one with this handle.
    pub(crate) fn qdisc(
        &mut self,
        ifindex: u32,
        parent: u32,
        handle: u32,
        kind: &str,
        options: &[u8],
    ) -> Result<()> {
        let more = kind_and_options(kind, options);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(
            libc::RTM_NEWQDISC,
            flags,
            &tcmsg(ifindex, handle, parent),
            &more,
        )
    }

    /// Makes or changes a class.
    pub(crate) fn class(
        &mut self,
        ifindex: u32,
        parent: u32,
        class: u32,
        kind: &str,
        options: &[u8],
    ) -> Result<()> {
        let more = kind_and_options(kind, options);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(
            libc::RTM_NEWTCLASS,
            flags,
            &tcmsg(ifindex, class, parent),
            &more,
        )
    }

    /// Deletes the root qdisc if it has this handle; the kernel puts its default back.
    pub(crate) fn delete_root(&mut self, ifindex: u32, handle: u32) -> Result<()> {
        let nothing = Attributes::default();
        self.ask(
            libc::RTM_DELQDISC,
            0,
            &tcmsg(ifindex, handle, ROOT),
            &nothing,
        )
    }

    /// Every qdisc of every interface, with its statistics.
    pub(crate) fn qdiscs(&mut self) -> Result<Vec<Qdisc>> {
        let nothing = Attributes::default();
        self.send(
            libc::RTM_GETQDISC,
            libc::NLM_F_DUMP,
            &tcmsg(0, 0, 0),
            &nothing,
        )?;
        let mut found = Vec::new();
        self.receive(|kind, body| {
            if kind == libc::RTM_NEWQDISC {
                found.extend(qdisc(body));
            }
        })?;
        Ok(found)
    }
}

fn kind_and_options(kind: &str, options: &[u8]) -> Attributes {
    Attributes::default()
        .text(libc::TCA_KIND, kind)
        .put(libc::TCA_OPTIONS, options)
}

/// `struct ifinfomsg`.
pub(crate) fn ifinfomsg(ifindex: u32, up: bool) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    if up {
        let flag = (libc::IFF_UP as u32).to_ne_bytes();
        body[8..12].copy_from_slice(&flag);
        body[12..16].copy_from_slice(&flag);
    }
    body
}

fn tcmsg(ifindex: u32, handle: u32, parent: u32) -> [u8; TCMSG] {
    let mut body = [0; TCMSG];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    body[8..12].copy_from_slice(&handle.to_ne_bytes());
    body[12..16].copy_from_slice(&parent.to_ne_bytes());
    body
}

fn qdisc(body: &[u8]) -> Option<Qdisc> {
    let mut qdisc = Qdisc {
        ifindex: u32_at(body, 4)?,
        handle: u32_at(body, 8)?,
        parent: u32_at(body, 12)?,
        ..Qdisc::default()
    };
    for (kind, value) in attributes(body.get(TCMSG..)?) {
        if kind == libc::TCA_KIND {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            qdisc.kind = String::from_utf8_lossy(text).into_owned();
        } else if kind == libc::TCA_STATS2 {
            for (_, queue) in attributes(value).filter(|(kind, _)| *kind == STATS_QUEUE) {
                qdisc.queued = u32_at(queue, 0).unwrap_or(0);
                qdisc.queued_bytes = u32_at(queue, 4).unwrap_or(0);
                qdisc.drops = u32_at(queue, 8).unwrap_or(0);
            }
        }
    }
    Some(qdisc)
}

/// The kernel's answer: code 0 is an acknowledgement.
fn verdict(message: &[u8]) -> Result<()> {
    let code = -(u32_at(message, HEADER).unwrap_or(0) as i32);
    if code == 0 {
        return Ok(());
    }
    let flags = i32::from(u16::from_ne_bytes([message[6], message[7]]));
    let mut text = String::new();
    if flags & libc::NLM_F_ACK_TLVS != 0 {
        // Code, then the header of the refused request (capped), then attributes.
        let more = message.get(HEADER + 4 + HEADER..).unwrap_or_default();
        if let Some((_, words)) = attributes(more).find(|(kind, _)| *kind == ERROR_TEXT) {
            text = String::from_utf8_lossy(words)
                .trim_end_matches('\0')
                .to_owned();
        }
    }
    Err(Refusal { code, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_as_they_were_put() {
        let put = Attributes::default().text(1, "htb").u32(2, 7).put(3, &[]);
        let read: Vec<_> = attributes(put.bytes()).collect();
        assert_eq!(
            read,
            [
                (1, &b"htb\0"[..]),
                (2, &7u32.to_ne_bytes()[..]),
                (3, &[][..])
            ]
        );
    }

    #[test]
    fn an_attribute_that_does_not_fit_ends_the_walk() {
        for bytes in [
            &[][..],
            &[8, 0, 1],
            &[8, 0, 1, 0],
            &[9, 0, 1, 0, 1, 2, 3, 4],
            &[0, 0, 1, 0],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn a_listed_qdisc_is_read() {
        let mut queue = Vec::new();
        for number in [5u32, 6, 7, 8, 9] {
            queue.extend_from_slice(&number.to_ne_bytes());
        }
        let stats = Attributes::default().put(STATS_QUEUE, &queue);
        let more = Attributes::default()
            .text(libc::TCA_KIND, "fq")
            .put(libc::TCA_STATS2, stats.bytes());
        let mut body = tcmsg(3, 0x6F63_0000, ROOT).to_vec();
        body.extend_from_slice(more.bytes());
        let expected = Qdisc {
            ifindex: 3,
            handle: 0x6F63_0000,
            parent: ROOT,
            kind: "fq".into(),
            queued: 5,
            queued_bytes: 6,
            drops: 7,
        };
        assert_eq!(qdisc(&body), Some(expected));
    }
}
