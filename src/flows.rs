//! Looking at flow detail: `octroi flows`. Who looks is in the ledger first.

use crate::records::{At, Format, time};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use dataplane_common::encryption::Class;
use jiff::Timestamp;
use metering::{
    flow::{Detail, Row},
    ledger::{self, FlowFilter, FlowLine, Look, Network},
};
use serde::Serialize;
use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    ops::ControlFlow,
};

/// `octroi flows`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    at: At,
    /// Tenant's number.
    #[arg(long)]
    tenant: Option<u32>,
    /// Name of a port.
    #[arg(long)]
    port: Option<String>,
    /// `from` the tenant, or `to` the tenant.
    #[arg(long)]
    direction: Option<String>,
    /// Windows that begin at or after this time, as in 2026-11-24T03:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Windows that begin before this time.
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// The other end is in this network, or may be, as in 198.51.100.0/24.
    #[arg(long, value_name = "PREFIX")]
    remote: Option<String>,
    /// At most so many rows, the oldest window first.
    #[arg(long)]
    limit: Option<u64>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// A row as it is shown. Numbers of 64 bits are strings: they do not fit a double.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    window_start: String,
    window_end: String,
    seq: String,
    tenant: u32,
    port: String,
    direction: &'static str,
    zone: u32,
    detail: &'static str,
    ethertype: String,
    protocol: u8,
    remote: String,
    remote_port: u16,
    local: String,
    local_port: u16,
    vlan: u16,
    flows: String,
    packets: String,
    l2_bytes: String,
    l3_bytes: String,
    tcp_flags: String,
    drop_reasons: String,
    drop_packets: String,
    first_boottime_ns: String,
    last_boottime_ns: String,
    evidence: String,
    tls_version: String,
    tls_suite: String,
}

/// An address of a row; a prefix with its length, nothing where there is none.
pub(crate) fn address(row: &Row, address: &[u8; 16]) -> String {
    let Some(bytes) = row.remote_bytes() else {
        return String::new();
    };
    let [a, b, c, d, ..] = *address;
    let text = match row.ethertype {
        0x0800 => IpAddr::from([a, b, c, d]).to_string(),
        _ => IpAddr::from(*address).to_string(),
    };
    match row.detail {
        Detail::Full => text,
        _ => format!("{text}/{}", 8 * bytes),
    }
}

/// The classes of evidence of a row, as `octroi encryption` names them; empty where nobody looked.
pub(crate) fn evidence(row: &Row) -> String {
    let seen = Class::ALL
        .iter()
        .filter(|class| row.evidence.classes >> **class as u8 & 1 != 0);
    let names: Vec<&str> = seen.map(|class| class.name()).collect();
    names.join(" ")
}

/// A number that a server of TLS chose; empty where none was read, or flows of one row differ.
pub(crate) fn chosen(number: u16) -> String {
    match number {
        0 => String::new(),
        _ => format!("{number:#06x}"),
    }
}

impl Line {
    pub(crate) fn of(line: &FlowLine) -> Self {
        let row = &line.row;
        let full = row.detail == Detail::Full;
        let only_full = |value: u64| {
            if full {
                value.to_string()
            } else {
                String::new()
            }
        };
        Self {
            window_start: time(line.window_start),
            window_end: time(line.window_end),
            seq: line.seq.to_string(),
            tenant: line.tenant,
            port: line.port.clone(),
            direction: if line.direction == 0 { "from" } else { "to" },
            zone: row.zone,
            detail: row.detail.as_str(),
            ethertype: format!("{:#06x}", row.ethertype),
            protocol: row.protocol,
            remote: address(row, &row.remote),
            remote_port: row.port,
            local: if full {
                address(row, &row.local)
            } else {
                String::new()
            },
            local_port: row.local_port,
            vlan: row.vlan,
            flows: row.flows.to_string(),
            packets: row.counts.packets.to_string(),
            l2_bytes: row.counts.l2_bytes.to_string(),
            l3_bytes: row.counts.l3_bytes.to_string(),
            tcp_flags: format!("{:#04x}", row.tcp_flags),
            drop_reasons: format!("{:#010x}", row.drop_reasons),
            drop_packets: row.drop_packets.to_string(),
            first_boottime_ns: only_full(row.first_ns),
            last_boottime_ns: only_full(row.last_ns),
            evidence: evidence(row),
            tls_version: chosen(row.evidence.tls_version),
            tls_suite: chosen(row.evidence.tls_suite),
        }
    }
}

pub(crate) fn network(text: &str) -> Result<Network> {
    let wrong = || format!("--remote {text}: write a network such as 198.51.100.0/24");
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().with_context(wrong)?;
    let mut bytes = [0; 16];
    let (ethertype, most) = match address {
        IpAddr::V4(address) => {
            bytes[..4].copy_from_slice(&address.octets());
            (0x0800, 32)
        }
        IpAddr::V6(address) => {
            bytes = address.octets();
            (0x86DD, 128)
        }
    };
    let bits = match bits {
        Some(bits) => bits.parse().with_context(wrong)?,
        None => most,
    };
    if bits > most {
        bail!("{}", wrong());
    }
    Ok(Network {
        ethertype,
        address: bytes,
        bits,
    })
}

fn filter(options: &Options) -> Result<FlowFilter> {
    let utc_ns = |time: &Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    Ok(FlowFilter {
        tenant: options.tenant,
        port: options.port.clone(),
        direction: crate::records::direction(options.direction.as_deref())?,
        remote: options.remote.as_deref().map(network).transpose()?,
        from: options.from.as_ref().map(utc_ns),
        to: options.to.as_ref().map(utc_ns),
    })
}

/// Who this is, for people: the user, and the one that logged in, which sudo does not change.
pub(crate) fn who() -> String {
    // SAFETY: takes nothing, cannot fail.
    let user = unsafe { libc::geteuid() };
    let login = fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    match login.trim().parse::<u32>() {
        Ok(login) if login != u32::MAX => format!("uid {user}, logged in as uid {login}"),
        _ => format!("uid {user}"),
    }
}

/// What was asked, as it was asked.
fn what(options: &Options) -> String {
    let mut words = vec!["flows".to_owned()];
    let mut say = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name} {value}")));
    };
    say("tenant", options.tenant.map(|tenant| tenant.to_string()));
    say("port", options.port.clone());
    say("direction", options.direction.clone());
    say("from", options.from.map(|from| from.to_string()));
    say("to", options.to.map(|to| to.to_string()));
    say("remote", options.remote.clone());
    say("limit", options.limit.map(|limit| limit.to_string()));
    words.join(" ")
}

/// Shows flow detail.
///
/// # Errors
/// When the look cannot be entered in the ledger, which comes first; when something cannot be read or was
/// changed: that is named, and the rest is shown.
pub fn show(options: &Options) -> Result<()> {
    let path = options.at.path()?;
    let filter = filter(options)?;
    let look = Look {
        at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        who: who(),
        what: what(options),
    };
    ledger::enter(&path, &look)
        .context("flow detail is shown to nobody whose look cannot be entered in the ledger")?;
    let mut out = Out::new(io::BufWriter::new(io::stdout().lock()), options.format);
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut written = out.head();
    let faults = ledger::flows(&path, &filter, &mut |line| {
        if left == 0 || written.is_err() {
            return ControlFlow::Break(());
        }
        left -= 1;
        written = out.line(&Line::of(line));
        ControlFlow::Continue(())
    })?;
    match written.and_then(|()| out.end()) {
        // `octroi flows | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("standard output")?,
    }
    if faults.is_empty() {
        return Ok(());
    }
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    bail!("{}", faults.join("; "))
}

/// Standard output, row by row: a day can have more than fits into memory.
enum Out<W: Write> {
    Table(W),
    Json(W),
    Csv(Box<csv::Writer<W>>),
}

impl<W: Write> Out<W> {
    fn new(out: W, format: Format) -> Self {
        match format {
            Format::Table => Self::Table(out),
            Format::Json => Self::Json(out),
            Format::Csv => Self::Csv(Box::new(csv::Writer::from_writer(out))),
        }
    }

    fn head(&mut self) -> io::Result<()> {
        let Self::Table(out) = self else {
            return Ok(());
        };
        writeln!(
            out,
            "{:<24} {:>6} {:<16} {:<4} {:>4} {:>5} {:<43} {:>6} {:>5} {:>10} {:>14} {:>8} {:<20} from",
            "window from",
            "tenant",
            "port",
            "way",
            "zone",
            "proto",
            "remote",
            "port",
            "flows",
            "packets",
            "l2 bytes",
            "dropped",
            "evidence"
        )
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        match self {
            Self::Json(out) => {
                serde_json::to_writer(&mut *out, line)?;
                out.write_all(b"\n")
            }
            Self::Csv(csv) => csv.serialize(line).map_err(io::Error::other),
            Self::Table(out) => {
                let near = if line.local.is_empty() {
                    String::new()
                } else {
                    format!("{} port {}", line.local, line.local_port)
                };
                writeln!(
                    out,
                    "{:<24} {:>6} {:<16} {:<4} {:>4} {:>5} {:<43} {:>6} {:>5} {:>10} {:>14} {:>8} {:<20} {near}",
                    line.window_start,
                    line.tenant,
                    line.port,
                    line.direction,
                    line.zone,
                    line.protocol,
                    if line.remote.is_empty() {
                        &line.ethertype
                    } else {
                        &line.remote
                    },
                    line.remote_port,
                    line.flows,
                    line.packets,
                    line.l2_bytes,
                    line.drop_packets,
                    line.evidence,
                )
            }
        }
    }

    fn end(self) -> io::Result<()> {
        match self {
            Self::Table(mut out) | Self::Json(mut out) => out.flush(),
            Self::Csv(mut csv) => csv.flush(),
        }
    }
}
