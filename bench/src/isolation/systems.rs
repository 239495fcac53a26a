//! What is measured: octroi in each of its shapes, and what an operator would use instead. Each limits the same
//! bytes at the same place of the same host, and is taken away again before the next one.
//!
//! What this kernel has not got is tried, not looked up, and skipped with the kernel's own words.

use super::{
    edt::Edt,
    ours::{ports, shares, start},
};
use anyhow::{Context as _, Result};
use octroi::lab::{
    Site,
    site::{UPLINK, ipv4},
};
use std::path::Path;

/// One of the ways to limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// No limit at all.
    None,
    /// Ceilings of ports; the shape that octroi chooses by itself, fq and EDT aside.
    OctroiHtb,
    /// Ceilings of ports, no queue.
    OctroiPolice,
    /// Ceilings of ports, departure times and fq.
    OctroiEdt,
    /// Shares of the uplink: guarantees and ceilings of tenants; what is over them is refused.
    OctroiShare,
    /// The same with departure times: what is over them waits in fq.
    OctroiShareEdt,
    /// HTB as `tc` makes it: a FIFO below each class.
    Htb,
    /// HTB with fq_codel below each class.
    HtbFqCodel,
    /// cake as the shaper; where it cannot be (tenants with ceilings of their own), below the classes of HTB.
    Cake,
    /// A small program that gives departure times by one rate, and fq: `isolation/edt.rs`.
    FqEdt,
    /// TBF with 50 ms.
    Tbf,
    /// nftables, `limit rate over … drop`, with 50 ms of burst.
    Nft,
    /// The `police` action of `tc`, with 50 ms of burst.
    Police,
}

/// What is to be limited.
#[derive(Clone, Debug)]
pub enum Plan {
    /// What goes to the first tenant, Mbit/s.
    ToTenant(u64),
    /// What comes from tenants and leaves by the uplink.
    Uplink {
        /// Mbit/s of all; `None`: there is room enough.
        capacity: Option<u64>,
        /// By tenant, from the first.
        parts: Vec<Part>,
    },
}

#[cfg(test)]
impl Plan {
    /// Of 500 Mbit/s a tenant has 100 guaranteed, and another may have 10.
    pub(super) fn example() -> Self {
        let part = |guarantee, ceiling| Part { guarantee, ceiling };
        Self::Uplink {
            capacity: Some(500),
            parts: vec![part(Some(100), None), part(None, Some(10))],
        }
    }
}

/// A tenant's part, Mbit/s.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// Always available.
    pub guarantee: Option<u64>,
    /// Never exceeded.
    pub ceiling: Option<u64>,
}

/// The time that a burst of a peer lasts at its rate, ms.
const BURST_MS: u64 = 50;
/// Of a peer at a low rate, bytes: two frames.
const BURST_MIN: u64 = 3_028;
/// What an uplink that has room enough is said to have, Mbit/s.
pub(super) const ROOM: u64 = 10_000;

fn burst(mbit: u64) -> u64 {
    (mbit * 125 * BURST_MS).max(BURST_MIN)
}

impl System {
    /// All, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::OctroiHtb,
        Self::OctroiPolice,
        Self::OctroiEdt,
        Self::OctroiShare,
        Self::OctroiShareEdt,
        Self::Htb,
        Self::HtbFqCodel,
        Self::Cake,
        Self::FqEdt,
        Self::Tbf,
        Self::Nft,
        Self::Police,
    ];

    /// As it stands in the results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OctroiHtb => "octroi-htb",
            Self::OctroiPolice => "octroi-police",
            Self::OctroiEdt => "octroi-edt",
            Self::OctroiShare => "octroi-share",
            Self::OctroiShareEdt => "octroi-share-edt",
            Self::Htb => "htb",
            Self::HtbFqCodel => "htb+fq_codel",
            Self::Cake => "cake",
            Self::FqEdt => "fq+edt",
            Self::Tbf => "tbf",
            Self::Nft => "nftables",
            Self::Police => "tc-police",
        }
    }

    /// Whether a name in the results is one of octroi's.
    pub fn is_ours(name: &str) -> bool {
        name.starts_with("octroi")
    }

    /// Why it cannot be measured here, if it cannot: what it needs is made on the remote end's loopback, and
    /// taken away again.
    pub fn missing(self, site: &Site) -> Option<String> {
        let tries = |lines: &[&str], undo: &str| {
            let tried = lines.iter().try_for_each(|line| run_in(site, line));
            let _ = site.remote.command(undo);
            tried
                .err()
                .map(|error| format!("{error:#}").replace('\n', " "))
        };
        let root = "tc qdisc del dev lo root";
        let ingress = "tc qdisc del dev lo ingress";
        match self {
            Self::None | Self::OctroiPolice | Self::OctroiShare => None,
            Self::OctroiEdt | Self::OctroiShareEdt => {
                dataplane::shaping::abilities().fq.clone().err()
            }
            Self::OctroiHtb => {
                let able = dataplane::shaping::abilities();
                able.htb.clone().and(able.ifb.clone()).err()
            }
            Self::Htb => tries(&["tc qdisc add dev lo root handle 1: htb"], root),
            Self::HtbFqCodel => tries(&["tc qdisc add dev lo root fq_codel"], root),
            Self::Cake => tries(&["tc qdisc add dev lo root cake"], root),
            Self::FqEdt => tries(&["tc qdisc add dev lo root fq"], root)
                .or_else(|| Edt::load().err().map(|error| format!("{error:#}"))),
            Self::Tbf => tries(
                &["tc qdisc add dev lo root tbf rate 1mbit burst 10kb latency 50ms"],
                root,
            ),
            Self::Nft => tries(
                &["nft add table netdev probe"],
                "nft delete table netdev probe",
            ),
            Self::Police => tries(
                &[
                    "tc qdisc add dev lo ingress",
                    "tc filter add dev lo ingress matchall action police rate 1mbit burst 10k conform-exceed drop",
                ],
                ingress,
            ),
        }
    }

    /// Whether it can do what a plan asks for; a queue of one rate knows no guarantees.
    pub fn fits(self, plan: &Plan) -> bool {
        match plan {
            Plan::ToTenant(_) => true,
            // A ceiling of a port is none of the uplink's.
            Plan::Uplink {
                capacity: Some(_), ..
            } => !matches!(
                self,
                Self::OctroiHtb | Self::OctroiPolice | Self::OctroiEdt | Self::FqEdt | Self::Police
            ),
            Plan::Uplink { .. } => true,
        }
    }

    /// Puts it in force; what is returned is a part of it.
    ///
    /// # Errors
    /// When the system or octroi refuse.
    pub fn install(self, plan: &Plan, site: &mut Site, octroi: &Path) -> Result<Option<Edt>> {
        let mut peer = None;
        match self {
            Self::None => Ok(()),
            Self::OctroiHtb => start(site, octroi, "htb", &ports(plan)),
            Self::OctroiPolice => start(site, octroi, "police", &ports(plan)),
            Self::OctroiEdt => start(site, octroi, "edt", &ports(plan)),
            Self::OctroiShare => start(site, octroi, "police", &shares(plan)),
            Self::OctroiShareEdt => start(site, octroi, "edt", &shares(plan)),
            Self::FqEdt => fq_edt(plan, site).map(|made| peer = Some(made)),
            Self::Htb | Self::HtbFqCodel | Self::Cake | Self::Tbf | Self::Nft | Self::Police => {
                let lines = self.lines(plan, site);
                lines.iter().try_for_each(|line| run(site, line))
            }
        }
        .with_context(|| format!("{} for {plan:?}", self.name()))?;
        Ok(peer)
    }

    /// The commands of a peer.
    fn lines(self, plan: &Plan, site: &Site) -> Vec<String> {
        match plan {
            Plan::ToTenant(mbit) => {
                let port = site.port(0);
                match self {
                    Self::Htb | Self::HtbFqCodel => {
                        let mut lines = vec![
                            format!("tc qdisc add dev {port} root handle 1: htb default 1"),
                            format!(
                                "tc class add dev {port} parent 1: classid 1:1 htb rate {mbit}mbit ceil {mbit}mbit"
                            ),
                        ];
                        lines.extend(self.leaf(&port, "1:1"));
                        lines
                    }
                    Self::Cake => vec![format!(
                        "tc qdisc add dev {port} root cake bandwidth {mbit}mbit"
                    )],
                    Self::Tbf => vec![tbf(&port, *mbit)],
                    // Ingress of the uplink is where what goes to the tenant comes in.
                    Self::Police => police(UPLINK, *mbit),
                    _ => nft("egress", &port, *mbit),
                }
            }
            Plan::Uplink { capacity, parts } => self.uplink(*capacity, parts, site),
        }
    }

    fn uplink(self, capacity: Option<u64>, parts: &[Part], site: &Site) -> Vec<String> {
        let whole = capacity.unwrap_or(ROOM);
        let mut lines = Vec::new();
        if let (Self::Cake, Some(capacity)) = (self, capacity) {
            // It knows no guarantees: equal parts by sender.
            return vec![format!(
                "tc qdisc add dev {UPLINK} root cake bandwidth {capacity}mbit dual-srchost"
            )];
        }
        if matches!(self, Self::Htb | Self::HtbFqCodel | Self::Cake) {
            lines = vec![
                format!("tc qdisc add dev {UPLINK} root handle 1: htb"),
                format!("tc class add dev {UPLINK} parent 1: classid 1:1 htb rate {whole}mbit"),
            ];
        }
        if let (Self::Tbf, Some(capacity)) = (self, capacity) {
            return vec![tbf(UPLINK, capacity)];
        }
        let guaranteed: u64 = parts.iter().filter_map(|part| part.guarantee).sum();
        for (at, part) in parts.iter().enumerate() {
            let equal = whole / parts.len() as u64;
            let least = part.guarantee.or(part.ceiling).unwrap_or(equal);
            let most = part.ceiling.unwrap_or(whole);
            // What cannot lend gets all of its part at once.
            let fixed = part
                .ceiling
                .unwrap_or_else(|| match (part.guarantee, guaranteed) {
                    (Some(own), 1..) => whole * own / guaranteed,
                    _ => equal,
                });
            let (port, class) = (site.port(at), format!("1:{}", 10 + at));
            match self {
                Self::Htb | Self::HtbFqCodel | Self::Cake => {
                    lines.push(format!(
                        "tc class add dev {UPLINK} parent 1:1 classid {class} htb rate {least}mbit ceil {most}mbit"
                    ));
                    lines.push(format!(
                        "tc filter add dev {UPLINK} parent 1: protocol ip u32 match ip src {}/32 flowid {class}",
                        ipv4(at + 1)
                    ));
                    lines.extend(self.leaf(UPLINK, &class));
                }
                Self::Tbf => {
                    let ifb = format!("ifb{at}");
                    lines.extend([
                        format!("ip link add {ifb} type ifb"),
                        format!("ip link set {ifb} up"),
                        tbf(&ifb, fixed),
                        format!("tc qdisc add dev {port} ingress"),
                        format!(
                            "tc filter add dev {port} ingress protocol all u32 match u32 0 0 action mirred egress \
                             redirect dev {ifb}"
                        ),
                    ]);
                }
                Self::Police => lines.extend(police(&port, fixed)),
                _ => lines.extend(nft("ingress", &port, fixed)),
            }
        }
        lines
    }

    fn leaf(self, device: &str, class: &str) -> Option<String> {
        let kind = match self {
            Self::HtbFqCodel => "fq_codel",
            Self::Cake => "cake",
            _ => return None,
        };
        Some(format!("tc qdisc add dev {device} parent {class} {kind}"))
    }
}

/// fq where packets leave, and the program where they come in, or where they go to the tenant.
fn fq_edt(plan: &Plan, site: &Site) -> Result<Edt> {
    let edt = Edt::load()?;
    let limits: Vec<(usize, u64)> = match plan {
        Plan::ToTenant(mbit) => vec![(0, *mbit)],
        Plan::Uplink { parts, .. } => {
            let parts = parts.iter().enumerate();
            parts
                .filter_map(|(at, part)| Some((at, part.ceiling?)))
                .collect()
        }
    };
    let (leaves, hook) = match plan {
        Plan::ToTenant(_) => (site.port(0), "egress"),
        Plan::Uplink { .. } => (UPLINK.to_owned(), "ingress"),
    };
    run(site, &format!("tc qdisc add dev {leaves} root fq"))?;
    for (at, mbit) in limits {
        let port = site.port(at);
        let found = site.host.interfaces()?;
        let index = found
            .get(&port)
            .with_context(|| format!("no {port}"))?
            .index;
        edt.set(index, mbit)?;
        run(site, &format!("tc qdisc add dev {port} clsact"))?;
        let path = edt.path();
        run(
            site,
            &format!("tc filter add dev {port} {hook} bpf da object-pinned {path}"),
        )?;
    }
    Ok(edt)
}

fn tbf(device: &str, mbit: u64) -> String {
    format!(
        "tc qdisc add dev {device} root tbf rate {mbit}mbit burst {} latency 50ms",
        burst(mbit)
    )
}

fn police(device: &str, mbit: u64) -> Vec<String> {
    vec![
        format!("tc qdisc add dev {device} ingress"),
        format!(
            "tc filter add dev {device} ingress matchall action police rate {mbit}mbit burst {} conform-exceed drop",
            burst(mbit)
        ),
    ]
}

fn nft(hook: &str, device: &str, mbit: u64) -> Vec<String> {
    let chain = format!("{hook}-{device}");
    vec![
        "nft add table netdev peer".to_owned(),
        format!(
            "nft add chain netdev peer {chain} {{ type filter hook {hook} device \"{device}\" priority 0 ; }}"
        ),
        format!(
            "nft add rule netdev peer {chain} limit rate over {} bytes/second burst {} bytes drop",
            mbit * 125_000,
            burst(mbit)
        ),
    ]
}

fn run(site: &Site, line: &str) -> Result<()> {
    site.host.command(line).map(drop)
}

fn run_in(site: &Site, line: &str) -> Result<()> {
    site.remote.command(line).map(drop)
}

/// Takes everything off the host's interfaces, whoever put it there. What is not there is no fault.
pub fn clear(site: &mut Site, tenants: usize) {
    site.stop();
    let _ = site.host.command("nft delete table netdev peer");
    let ports = (0..tenants).map(|at| site.port(at)).collect::<Vec<_>>();
    for device in ports.iter().map(String::as_str).chain([UPLINK]) {
        for what in ["root", "ingress", "clsact"] {
            let _ = site
                .host
                .command(&format!("tc qdisc del dev {device} {what}"));
        }
    }
    for at in 0..tenants {
        let _ = site.host.command(&format!("ip link del ifb{at}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_given_what_octroi_is_given() {
        let nft = nft("egress", "p-a", 100).join("\n");
        assert!(
            nft.contains("over 12500000 bytes/second burst 625000 bytes drop"),
            "{nft}"
        );
        assert!(tbf("p-a", 1).contains("rate 1mbit burst 6250 latency 50ms"));
        let plan = Plan::example();
        assert!(!System::OctroiHtb.fits(&plan) && System::OctroiShare.fits(&plan));
    }
}
