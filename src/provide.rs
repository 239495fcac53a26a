//! `octroi provide`: the tunnels that this host provides, and what other hosts need to know of it.

use crate::{
    cli::At,
    config::{ClearOverlays, Config, Mode},
    status::{self, Report},
};
use anyhow::Result;
use clap::Args;
use dataplane::provide::Providing;
use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

/// `octroi provide`.
#[derive(Debug, Args)]
pub struct Options {
    /// What other hosts write into their [[provide.peers]] of this one: its public keys.
    #[arg(long, conflicts_with = "json")]
    keys: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

/// Prints it.
///
/// # Errors
/// When there is no gate.
pub fn provide(options: &Options) -> Result<()> {
    let Report {
        daemon, provided, ..
    } = status::read(&options.at.run_dir, &options.at.pin_dir)?;
    if !daemon {
        anyhow::bail!("no daemon runs; what stands in the kernel goes on; start it to see what");
    }
    if options.json {
        println!("{}", serde_json::to_string(&provided)?);
        return Ok(());
    }
    if provided.is_empty() {
        println!("this host provides no encryption; add [[provide]]");
    }
    for tunnel in &provided {
        if options.keys {
            print!("{}", keys(tunnel));
        } else {
            print!("{}", lines(tunnel));
        }
    }
    Ok(())
}

/// What another host writes of this one.
fn keys(tunnel: &Providing) -> String {
    let keys: Vec<String> = tunnel
        .sides
        .iter()
        .map(|side| format!("\"{}\"", side.public_key))
        .collect();
    format!(
        "# {}: this host at {}\nkeys = [{}]\n",
        tunnel.name,
        tunnel.address,
        keys.join(", ")
    )
}

/// What is known of a tunnel, for people.
pub(crate) fn lines(tunnel: &Providing) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let ago = |then: u64| match then {
        0 => "never".to_owned(),
        then => format!("{} s ago", now.saturating_sub(then)),
    };
    let mut text = format!("provide {}: {}\n", tunnel.name, tunnel.provider);
    if !tunnel.error.is_empty() {
        let _ = writeln!(text, "  DOES NOT STAND: {}", tunnel.error);
    }
    for side in &tunnel.sides {
        let _ = writeln!(
            text,
            "  {} UDP {}: key {} drawn {}",
            side.device,
            side.listen_port,
            side.public_key,
            ago(side.key_since_s)
        );
    }
    for peer in &tunnel.peers {
        let carries = peer.carries.map(|side| side as usize);
        let state = match (carries, peer.evidence.as_str()) {
            (None, _) => "nothing goes there: its keys are not known".to_owned(),
            (Some(_), "") => "silent: what is sent there may be lost, and is encrypted".to_owned(),
            (Some(_), evidence) => evidence.to_owned(),
        };
        let _ = write!(text, "  {}: {state}", peer.name);
        if let Some(at) = carries {
            let device = tunnel.sides.get(at).map_or("?", |side| &side.device);
            let _ = write!(
                text,
                "; by {device}: handshake {}, {} bytes received, {} sent",
                ago(peer.handshake_s[at]),
                peer.received[at],
                peer.sent[at]
            );
        }
        if peer.key_known.contains(&false) {
            text.push_str("; a key of it is missing");
        }
        text.push('\n');
    }
    text
}

/// Says what a configuration provides, and what may leave in clear, in words.
pub fn explain(config: &Config) {
    for uplink in &config.uplinks {
        let enforced = config
            .encryption
            .iter()
            .any(|rule| rule.mode == Mode::Enforce);
        let what = match uplink.clear_overlays {
            ClearOverlays::Drop => "dropped",
            ClearOverlays::Count => "counted, and leave",
            // Nobody need hear of it who asks for no encryption.
            ClearOverlays::Allow if enforced => {
                "not looked for, though tenants' rules enforce encryption"
            }
            ClearOverlays::Allow => continue,
        };
        println!(
            "  uplink `{}`: overlays that this host would send in clear are {what}",
            uplink.interface
        );
    }
    for tunnel in &config.provide {
        let rotate = match tunnel.rotate {
            Some(rotate) => format!("every {} s the other key's turn", rotate.as_secs()),
            None => "keys stay".to_owned(),
        };
        println!(
            "  provide `{}`: WireGuard by `{}a` (UDP {}) and `{}b` (UDP {}), this host at {}; {rotate}",
            tunnel.name,
            tunnel.device,
            tunnel.listen_port,
            tunnel.device,
            tunnel.listen_port + 1,
            tunnel.address
        );
        for peer in &tunnel.peers {
            let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
            let known = peer.keys.iter().flatten().count();
            println!(
                "    {} goes to `{}` at {}, or nowhere; {known} of its 2 keys known",
                addresses.join(", "),
                peer.name,
                peer.endpoint
            );
        }
    }
}
