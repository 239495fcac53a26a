//! Devices, addresses and routes of tunnels, by rtnetlink.

use super::MARK;
use crate::{
    policy::Prefix,
    shaping::rtnl::{Attributes, Result, Rtnl, attributes, ifinfomsg, u32_at},
};
use std::net::IpAddr;

/// `rtm_protocol` of routes that were made here: "o". iproute2 and the kernel give it to nobody.
pub(crate) const PROTOCOL: u8 = 0x6F;
/// Metric of a route into a tunnel.
const INTO: u32 = 50;
/// Metric of the route that leads nowhere: behind all that anybody makes by itself.
const NOWHERE: u32 = 1_000_000;
/// `struct rtmsg`.
const RTMSG: usize = 12;
/// `IFLA_INET_CONF`, and the number of `rp_filter` in it (linux/ip.h).
const INET_CONF: u16 = 1;
const RP_FILTER: u16 = 8;
/// A packet's source must be reachable, by whatever interface.
const LOOSE: u32 = 2;

/// A device that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub ifindex: u32,
    pub name: String,
    pub up: bool,
    /// Behind [`MARK`].
    pub says: String,
}

/// A route that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub to: Prefix,
    /// Index of the device that it leads to; `None`: nowhere.
    pub into: Option<u32>,
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(end).into_owned()
}

/// `struct rtmsg` and what both kinds of routes have.
fn route(to: Prefix, kind: u8, scope: u8) -> ([u8; RTMSG], Attributes) {
    let (family, bytes) = octets(to.address);
    let mut body = [0; RTMSG];
    body[0] = family;
    body[1] = to.len;
    body[4] = libc::RT_TABLE_MAIN;
    body[5] = PROTOCOL;
    body[6] = scope;
    body[7] = kind;
    (body, Attributes::default().put(libc::RTA_DST, &bytes))
}

impl Rtnl {
    /// Devices that were made here.
    pub(super) fn provided(&mut self) -> Result<Vec<Device>> {
        let nothing = Attributes::default();
        self.send(
            libc::RTM_GETLINK,
            libc::NLM_F_DUMP,
            &ifinfomsg(0, false),
            &nothing,
        )?;
        let mut found = Vec::new();
        self.receive(|kind, body| {
            if kind == libc::RTM_NEWLINK {
                found.extend(device(body));
            }
        })?;
        Ok(found)
    }

    /// Writes behind [`MARK`] what a device says of itself, and takes packets from sources that the other side's route leads to.
    pub(super) fn mark(&mut self, ifindex: u32, says: &str) -> Result<()> {
        let conf = Attributes::default().u32(RP_FILTER, LOOSE);
        let inet = Attributes::default().put(INET_CONF, conf.bytes());
        let families = Attributes::default().put(libc::AF_INET as u16, inet.bytes());
        let more = Attributes::default()
            .put(libc::IFLA_IFALIAS, format!("{MARK}{says}").as_bytes())
            .put(libc::IFLA_AF_SPEC, families.bytes());
        self.ask(libc::RTM_NEWLINK, 0, &ifinfomsg(ifindex, false), &more)
    }

    /// Addresses of all devices, by their indices.
    pub(super) fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>> {
        let nothing = Attributes::default();
        // AF_UNSPEC: of both families.
        self.send(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8], &nothing)?;
        let mut found = Vec::new();
        self.receive(|kind, body| {
            let ifindex = u32_at(body, 4);
            let (libc::RTM_NEWADDR, Some(ifindex)) = (kind, ifindex) else {
                return;
            };
            // IPv4 has its own address in the first, IPv6 where nobody is at the other end in the second.
            for (kind, value) in attributes(body.get(8..).unwrap_or_default()) {
                if matches!(kind, libc::IFA_LOCAL | libc::IFA_ADDRESS)
                    && let Some(is) = address(value)
                {
                    found.push((ifindex, is));
                }
            }
        })?;
        Ok(found)
    }

    /// Gives a device an address, alone in its prefix. One that is there stays.
    pub(super) fn give_address(&mut self, ifindex: u32, is: IpAddr) -> Result<()> {
        let (family, bytes) = octets(is);
        let mut body = [0; 8];
        body[0] = family;
        body[1] = bytes.len() as u8 * 8;
        // Nobody else is asked whether the address is free: the tunnel has no neighbours.
        body[2] = libc::IFA_F_NODAD as u8;
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        let more = Attributes::default()
            .put(libc::IFA_LOCAL, &bytes)
            .put(libc::IFA_ADDRESS, &bytes);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(libc::RTM_NEWADDR, flags, &body, &more)
    }

    /// Routes that were made here.
    pub(super) fn provided_routes(&mut self) -> Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut body = [0; RTMSG];
            body[0] = family as u8;
            let nothing = Attributes::default();
            self.send(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body, &nothing)?;
            self.receive(|kind, body| {
                if kind == libc::RTM_NEWROUTE {
                    found.extend(read_route(body));
                }
            })?;
        }
        Ok(found)
    }

    /// Leads to a device what goes to a prefix, from `source`. In one step, where another route led elsewhere.
    pub(super) fn lead(&mut self, to: Prefix, ifindex: u32, source: IpAddr) -> Result<()> {
        let scope = match to.address {
            IpAddr::V4(_) => libc::RT_SCOPE_LINK,
            IpAddr::V6(_) => libc::RT_SCOPE_UNIVERSE,
        };
        let (body, more) = route(to, libc::RTN_UNICAST, scope);
        let more = more
            .u32(libc::RTA_OIF, ifindex)
            .u32(libc::RTA_PRIORITY, INTO)
            .put(libc::RTA_PREFSRC, &octets(source).1);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(libc::RTM_NEWROUTE, flags, &body, &more)
    }

    /// Leads nowhere what goes to a prefix, when no other route does.
    pub(super) fn lead_nowhere(&mut self, to: Prefix) -> Result<()> {
        let (body, more) = route(to, libc::RTN_BLACKHOLE, libc::RT_SCOPE_UNIVERSE);
        let more = more.u32(libc::RTA_PRIORITY, NOWHERE);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(libc::RTM_NEWROUTE, flags, &body, &more)
    }

    /// Takes a route away that was made here.
    pub(super) fn forget_route(&mut self, gone: &Route) -> Result<()> {
        let (kind, metric) = match gone.into {
            Some(_) => (libc::RTN_UNICAST, INTO),
            None => (libc::RTN_BLACKHOLE, NOWHERE),
        };
        // RT_SCOPE_NOWHERE: whatever scope it has.
        let (body, more) = route(gone.to, kind, libc::RT_SCOPE_NOWHERE);
        let more = more.u32(libc::RTA_PRIORITY, metric);
        self.ask(libc::RTM_DELROUTE, 0, &body, &more)
    }
}

fn device(body: &[u8]) -> Option<Device> {
    let mut device = Device {
        ifindex: u32_at(body, 4)?,
        name: String::new(),
        up: u32_at(body, 8)? & libc::IFF_UP as u32 != 0,
        says: String::new(),
    };
    let mut ours = false;
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => device.name = text(value),
            libc::IFLA_IFALIAS => {
                if let Some(says) = text(value).strip_prefix(MARK) {
                    device.says = says.to_owned();
                    ours = true;
                }
            }
            _ => {}
        }
    }
    ours.then_some(device)
}

fn read_route(body: &[u8]) -> Option<Route> {
    let head = body.get(..RTMSG)?;
    if head[5] != PROTOCOL || head[4] != libc::RT_TABLE_MAIN {
        return None;
    }
    let (mut to, mut into) = (None, None);
    for (kind, value) in attributes(body.get(RTMSG..)?) {
        match kind {
            libc::RTA_DST => to = address(value),
            libc::RTA_OIF => into = u32_at(value, 0),
            _ => {}
        }
    }
    Some(Route {
        to: Prefix {
            address: to?,
            len: head[1],
        },
        // Of IPv6, a route that leads nowhere has the loopback device.
        into: into.filter(|_| head[7] == libc::RTN_UNICAST),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_back_and_those_of_others_are_not() {
        let to = Prefix {
            address: [192, 0, 2, 7].into(),
            len: 32,
        };
        let (body, more) = route(to, libc::RTN_UNICAST, 0);
        let bytes = [&body[..], more.u32(libc::RTA_OIF, 9).bytes()].concat();
        assert_eq!(read_route(&bytes), Some(Route { to, into: Some(9) }));
        let mut foreign = bytes.clone();
        foreign[5] = 4;
        assert_eq!(read_route(&foreign), None);
        for end in 0..bytes.len() {
            let _ = read_route(&bytes[..end]);
            let _ = device(&bytes[..end]);
        }
    }

    #[test]
    fn a_device_is_ours_by_its_alias() {
        let link = |alias: &str| {
            let more = Attributes::default()
                .text(libc::IFLA_IFNAME, "wga")
                .put(libc::IFLA_IFALIAS, alias.as_bytes());
            [&ifinfomsg(7, true)[..], more.bytes()].concat()
        };
        let ours = device(&link("octroi provide fabric 12")).expect("ours");
        assert_eq!(
            (ours.ifindex, ours.name.as_str(), ours.up),
            (7, "wga", true)
        );
        assert_eq!(ours.says, "fabric 12");
        assert_eq!(device(&link("somebody's")), None);
    }
}
