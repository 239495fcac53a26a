//! The meter's side: [`dataplane::gate::Gate`] as far as a meter may have it.

use super::wire::{self, ANSWER_MAX, Answer, Hello, REQUEST_MAX, Reply, Request};
use crate::config::Config;
use anyhow::Context as _;
use dataplane::{
    attach::Mechanism,
    flows::Timeouts,
    gate::{Event, LiveFlows, Owned, PortStatus, Reading, UplinkStatus},
    provide::Providing,
    quota::{Grant, Spent},
};
use dataplane_common::abi::{Anchor, Epoch};
use std::{
    cell::RefCell,
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

/// The loader refuses, or is gone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Result of a question.
pub type Result<T> = std::result::Result<T, Error>;

/// The gate, by way of the loader. Whoever asks waits for the answer.
pub struct Gate {
    loader: RefCell<UnixStream>,
    mechanism: Mechanism,
}

/// Takes the answer of one kind, or says that it is of another.
macro_rules! expect {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer? {
            $pattern => Ok($value),
            _ => Err(Error("the loader answers something else".into())),
        }
    };
}

impl Gate {
    /// Takes the socket that the loader gave to this process as standard input. Also the configuration that the
    /// loader has read.
    ///
    /// # Errors
    /// When a person has started this, and no loader.
    pub fn inherited() -> anyhow::Result<(Self, String)> {
        let by_hand = "this is what `octroi run` starts; use that";
        let socket = io::stdin().as_fd().try_clone_to_owned().context(by_hand)?;
        let mut loader = UnixStream::from(socket);
        loader.local_addr().context(by_hand)?;
        let hello = wire::read::<Hello>(&mut loader, ANSWER_MAX).context(by_hand)?;
        let hello = hello.context("the loader is gone")?;
        let gate = Self {
            loader: RefCell::new(loader),
            mechanism: hello.mechanism,
        };
        Ok((gate, hello.config))
    }

    fn ask(&self, request: &Request) -> Result<Answer> {
        let gone = |error: io::Error| Error(format!("the loader is gone: {error}"));
        let mut loader = self.loader.borrow_mut();
        wire::write(&mut *loader, request, REQUEST_MAX).map_err(gone)?;
        let reply = wire::read::<Reply>(&mut *loader, ANSWER_MAX).map_err(gone)?;
        reply
            .ok_or_else(|| Error("the loader is gone".into()))?
            .map_err(Error)
    }

    fn tell(&self, request: &Request) -> Result<()> {
        expect!(self.ask(request), Answer::Done => ())
    }

    /// How programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// See [`dataplane::gate::Gate::meter`].
    ///
    /// # Errors
    /// The loader's.
    pub fn meter(&mut self, timeouts: Timeouts) -> Result<()> {
        self.tell(&Request::Meter(timeouts))
    }

    /// What the last ledger left in the kernel.
    ///
    /// # Errors
    /// The loader's.
    pub fn anchor(&self) -> Result<Anchor> {
        expect!(self.ask(&Request::Anchor), Answer::Anchor(anchor) => anchor)
    }

    /// Writes it.
    ///
    /// # Errors
    /// The loader's.
    pub fn set_anchor(&mut self, anchor: Anchor) -> Result<()> {
        self.tell(&Request::SetAnchor(anchor))
    }

    /// Puts a configuration in force; see [`dataplane::gate::Gate::apply`].
    ///
    /// # Errors
    /// The loader's; then the revision before stays in force.
    pub fn apply(&mut self, config: &Config, grants: &[Grant]) -> Result<(u32, Vec<Event>)> {
        let apply = Request::Apply(config.to_toml(), grants.to_vec());
        expect!(self.ask(&apply), Answer::Applied(revision, events) => (revision, events))
    }

    /// See [`dataplane::gate::Gate::grant`].
    ///
    /// # Errors
    /// The loader's; then the revision before stays in force.
    pub fn grant(&mut self, grants: &[Grant]) -> Result<u32> {
        let grant = Request::Grant(grants.to_vec());
        expect!(self.ask(&grant), Answer::Granted(revision) => revision)
    }

    /// See [`dataplane::gate::Gate::quotas`].
    ///
    /// # Errors
    /// The loader's.
    pub fn quotas(&self) -> Result<Vec<Spent>> {
        expect!(self.ask(&Request::Quotas), Answer::Quotas(spent) => spent)
    }

    /// See [`dataplane::gate::Gate::reconcile`].
    ///
    /// # Errors
    /// The loader's; failures of single interfaces are events.
    pub fn reconcile(&mut self) -> Result<Vec<Event>> {
        expect!(self.ask(&Request::Reconcile), Answer::Events(events) => events)
    }

    /// Window and revision in force.
    ///
    /// # Errors
    /// The loader's.
    pub fn epoch(&self) -> Result<Epoch> {
        expect!(self.ask(&Request::Epoch), Answer::Epoch(number) => Epoch(number))
    }

    /// Every port, live or retired, with its registers.
    ///
    /// # Errors
    /// The loader's.
    pub fn ports(&self) -> Result<Vec<PortStatus>> {
        let ports = expect!(self.ask(&Request::Ports), Answer::Ports(ports) => ports)?;
        serde_json::from_str(&ports).map_err(|error| Error(error.to_string()))
    }

    /// Every uplink, with what left by it.
    ///
    /// # Errors
    /// The loader's.
    pub fn uplinks(&self) -> Result<Vec<UplinkStatus>> {
        let uplinks = expect!(self.ask(&Request::Uplinks), Answer::Uplinks(uplinks) => uplinks)?;
        serde_json::from_str(&uplinks).map_err(|error| Error(error.to_string()))
    }

    /// Every tunnel that this host provides, as of the last [`Gate::reconcile`].
    ///
    /// # Errors
    /// The loader's.
    pub fn provided(&self) -> Result<Vec<Providing>> {
        expect!(self.ask(&Request::Provided), Answer::Provided(provided) => provided)
    }

    /// Interfaces of live ports that bear no witness.
    ///
    /// # Errors
    /// The loader's.
    pub fn not_audited(&self) -> Result<Vec<String>> {
        expect!(self.ask(&Request::NotAudited), Answer::Names(names) => names)
    }

    /// Closes the open window and reads what everybody stands at.
    ///
    /// # Errors
    /// The loader's; what was booked is found by the next one.
    pub fn seal(&mut self) -> Result<Reading> {
        expect!(self.ask(&Request::Seal), Answer::Reading(reading) => *reading)
    }

    /// What everybody stands at, without a cut.
    ///
    /// # Errors
    /// The loader's.
    pub fn look_at_registers(&self) -> Result<Vec<Owned>> {
        expect!(self.ask(&Request::Look), Answer::Registers(owners) => owners)
    }

    /// The flows that are in the table now; see [`dataplane::gate::Gate::live_flows`].
    ///
    /// # Errors
    /// The loader's.
    pub fn live_flows(&self, tenant: Option<u32>, port: Option<String>) -> Result<LiveFlows> {
        let asked = self.ask(&Request::Flows(tenant, port));
        expect!(asked, Answer::Flows(flows) => flows)
    }

    /// The last window of this owner is committed: its slot may be given away.
    ///
    /// # Errors
    /// The loader's.
    pub fn settle(&mut self, incarnation: u64) -> Result<()> {
        self.tell(&Request::Settle(incarnation))
    }

    /// Takes all programs off; what was counted stays readable.
    ///
    /// # Errors
    /// The loader's.
    pub fn retire_all(&mut self) -> Result<()> {
        self.tell(&Request::RetireAll)
    }

    /// Takes everything that octroi put into the kernel out of it.
    ///
    /// # Errors
    /// The loader's.
    pub fn detach(self) -> Result<()> {
        self.tell(&Request::Detach)
    }

    /// All is in force: the service manager may go on.
    ///
    /// # Errors
    /// The loader's.
    pub fn ready(&self) -> Result<()> {
        self.tell(&Request::Ready)
    }

    /// The daemon ends.
    ///
    /// # Errors
    /// The loader's.
    pub fn stopping(&self) -> Result<()> {
        self.tell(&Request::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, thread};

    fn gate() -> (Gate, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let gate = Gate {
            loader: RefCell::new(ours),
            mechanism: Mechanism::Tcx,
        };
        (gate, theirs)
    }

    #[test]
    fn an_answer_of_another_kind_and_a_loader_that_is_gone_are_errors() {
        let (gate, mut loader) = gate();
        let answers = thread::spawn(move || {
            let asked = wire::read::<Request>(&mut loader, REQUEST_MAX);
            assert!(matches!(asked, Ok(Some(Request::Epoch))));
            wire::write(&mut loader, &Reply::Ok(Answer::Done), ANSWER_MAX).expect("written");
            let asked = wire::read::<Request>(&mut loader, REQUEST_MAX);
            assert!(matches!(asked, Ok(Some(Request::Anchor))));
            wire::write(&mut loader, &Reply::Err("no map".into()), ANSWER_MAX).expect("written");
            // An answer breaks off.
            let asked = wire::read::<Request>(&mut loader, REQUEST_MAX);
            assert!(matches!(asked, Ok(Some(Request::Ports))));
            loader.write_all(&[9, 0, 0, 0, 1]).expect("written");
        });
        let of = |error: Error| error.to_string();
        assert!(
            gate.epoch()
                .is_err_and(|error| of(error).contains("something else"))
        );
        assert!(gate.anchor().is_err_and(|error| of(error) == "no map"));
        assert!(
            gate.ports()
                .is_err_and(|error| of(error).contains("the loader is gone"))
        );
        answers.join().expect("no panic");
        assert!(
            gate.ready()
                .is_err_and(|error| of(error).contains("the loader is gone"))
        );
    }
}
