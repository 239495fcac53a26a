//! The loader's side: does what is asked, or says why not.

use super::wire::{self, ANSWER_MAX, Answer, Hello, REQUEST_MAX, Reply, Request};
use crate::{
    config::{self, Config},
    daemon,
};
use anyhow::{Context as _, Result};
use dataplane::{gate::Gate, quota::Grant};
use std::{os::unix::net::UnixStream, path::PathBuf};

struct Server {
    /// `None` after `detach`.
    gate: Option<Gate>,
    pin_dir: PathBuf,
}

/// Answers until the meter closes its end.
///
/// # Errors
/// When it says what is no request.
pub(super) fn serve(gate: Gate, config: Config, meter: &mut UnixStream) -> Result<()> {
    let hello = Hello {
        config: config.to_toml(),
        mechanism: gate.mechanism(),
    };
    let mut server = Server {
        gate: Some(gate),
        pin_dir: config.host.pin_dir,
    };
    if wire::write(meter, &hello, ANSWER_MAX).is_err() {
        return Ok(()); // it has ended, and said why
    }
    loop {
        let request = wire::read(meter, REQUEST_MAX).context("the meter says what is no request");
        let Some(request) = request? else {
            return Ok(());
        };
        let reply = server.answer(request);
        if wire::write(meter, &reply, ANSWER_MAX).is_err() {
            return Ok(());
        }
    }
}

impl Server {
    fn answer(&mut self, request: Request) -> Reply {
        if let Request::Ready | Request::Stopping = request {
            let state = match request {
                Request::Ready => sd_notify::NotifyState::Ready,
                _ => sd_notify::NotifyState::Stopping,
            };
            // Where no service manager is, nobody is told.
            let _ = sd_notify::notify(false, &[state]);
            return Ok(Answer::Done);
        }
        if let Request::Detach = request {
            let gate = self.gate.take().ok_or("detached")?;
            eprintln!("octroi: loader: everything is taken out of the kernel");
            return gate.detach().map(|()| Answer::Done).map_err(said);
        }
        let gate = self.gate.as_mut().ok_or("detached")?;
        match request {
            Request::Apply(text, grants) => apply(gate, &self.pin_dir, &text, &grants),
            Request::Grant(grants) => gate.grant(&grants).map(Answer::Granted).map_err(said),
            Request::Quotas => gate.quotas().map(Answer::Quotas).map_err(said),
            Request::Meter(timeouts) => gate.meter(timeouts).map(|()| Answer::Done).map_err(said),
            Request::Anchor => gate.anchor().map(Answer::Anchor).map_err(said),
            Request::SetAnchor(anchor) => {
                let set = gate.set_anchor(anchor);
                set.map(|()| Answer::Done).map_err(said)
            }
            Request::Reconcile => gate.reconcile().map(Answer::Events).map_err(said),
            Request::Epoch => {
                let epoch = gate.epoch();
                epoch.map(|epoch| Answer::Epoch(epoch.0)).map_err(said)
            }
            Request::Ports => {
                let ports = gate.ports().map_err(said)?;
                serde_json::to_string(&ports)
                    .map(Answer::Ports)
                    .map_err(said)
            }
            Request::Uplinks => {
                let uplinks = gate.uplinks().map_err(said)?;
                serde_json::to_string(&uplinks)
                    .map(Answer::Uplinks)
                    .map_err(said)
            }
            Request::Provided => Ok(Answer::Provided(gate.provided().to_vec())),
            Request::NotAudited => gate.not_audited().map(Answer::Names).map_err(said),
            Request::Seal => {
                let reading = gate.seal();
                reading
                    .map(|read| Answer::Reading(read.into()))
                    .map_err(said)
            }
            Request::Look => gate
                .look_at_registers()
                .map(Answer::Registers)
                .map_err(said),
            Request::Flows(tenant, port) => gate
                .live_flows(tenant, port.as_deref())
                .map(Answer::Flows)
                .map_err(said),
            Request::Settle(incarnation) => {
                gate.settle(incarnation);
                Ok(Answer::Done)
            }
            Request::RetireAll => {
                eprintln!("octroi: loader: all programs are taken off");
                gate.retire_all().map(|()| Answer::Done).map_err(said)
            }
            Request::Detach | Request::Ready | Request::Stopping => Ok(Answer::Done),
        }
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The configuration's own checks are those of a request: whatever a file may not say, a meter may not.
/// Of a budget, the configuration says how large it is; a grant of more is as much as that.
fn apply(gate: &mut Gate, pin_dir: &PathBuf, text: &str, grants: &[Grant]) -> Reply {
    let config = config::parse(text, "configuration").map_err(said)?;
    if daemon::plan(&config) != *gate.plan() || config.host.pin_dir != *pin_dir {
        return Err("the sizes of tables and pin_dir are fixed while the gate stands".into());
    }
    let mut policy = daemon::policy(&config);
    policy.grant(grants);
    let (revision, events) = gate.apply(policy).map_err(said)?;
    // In the journal, whatever becomes of the meter and of its ledger.
    eprintln!(
        "octroi: loader: revision {revision}: {} ports of {} tenants, {} uplinks, {} trusted interfaces",
        config.ports.len(),
        config.tenants.len(),
        config.uplinks.len(),
        config.host.trusted_interfaces.len()
    );
    Ok(Answer::Applied(revision, events))
}
