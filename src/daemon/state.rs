//! What the daemon knows: the file's configuration, the ports that hooks added, and the gate.

mod ask;

use super::{
    confine::Confined, control::Refusal, hooks::read_dynamic, live::Looks, meter::Meter, translate,
};
use crate::{
    config::{Config, Port},
    loader::Gate,
    status,
};
use anyhow::{Context as _, Result};
use dataplane::gate::{Event, PortState};
use metering::ledger::Addition;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, Notify};

/// A change of policy. A configuration is read once, by whoever asks: of thousands of ports that takes as long as
/// putting it in force.
pub enum Step {
    /// A configuration takes the place of the one before.
    Apply(Box<Config>),
    /// TOML of a port that is added.
    PortAdd(String),
    /// TOML of a port as it is to be.
    PortSet(String),
    /// Name of a port that goes.
    PortRemove(String),
}

/// The daemon's state.
pub struct State {
    /// `None` after `detach`.
    gate: Option<Gate>,
    meter: Option<Meter>,
    confined: Confined,
    /// Its start is in the ledger, or soon will be.
    start_entered: bool,
    /// As in the file.
    pub(super) file: Config,
    pub(super) path: PathBuf,
    /// Added by hooks.
    pub(super) dynamic: Vec<Port>,
    /// How often a configuration of a file was put in force.
    applied: u64,
    /// The last thing that was said of each subject, so that it is said once.
    said: HashSet<String>,
    /// What the ledger is still to be told.
    entries: Vec<String>,
    /// Who changes something, one after the other: the ledger has them in the order in which they are made.
    changes: Rc<Mutex<()>>,
    looks: Looks,
}

impl State {
    /// Puts the configuration in force on a gate that the loader has opened or adopted.
    ///
    /// # Errors
    /// What the system refused; what was enforced before stays enforced.
    pub fn start(file: Config, path: &Path, mut gate: Gate, confined: Confined) -> Result<Self> {
        let dynamic = read_dynamic(&file);
        let meter = Meter::start(&file, &mut gate)?;
        let mut state = Self {
            gate: Some(gate),
            meter,
            confined,
            start_entered: false,
            file,
            path: path.into(),
            dynamic,
            applied: 0,
            said: HashSet::new(),
            entries: Vec::new(),
            changes: Rc::default(),
            looks: Looks::default(),
        };
        let config = state.effective(&state.file, &state.dynamic)?;
        state.enforce(&config)?;
        Ok(state)
    }

    fn gate(&mut self) -> Result<&mut Gate> {
        self.gate.as_mut().context("detached")
    }

    pub(super) fn enforce(&mut self, config: &Config) -> Result<u32> {
        let meter = self.meter.as_mut();
        let books = meter.map(|meter| meter.books.configure(config));
        let (grants, said) = books.unwrap_or_default();
        for line in said {
            self.say(line);
        }
        let applied = self.gate()?.apply(config, &grants);
        if applied.is_err() && self.meter.is_some() {
            // The books are of what stays in force.
            let before = self.config();
            let _ = self
                .meter
                .as_mut()
                .map(|meter| meter.books.configure(&before));
        }
        let (revision, events) = applied?;
        self.tell(events);
        if let Some(meter) = &mut self.meter {
            meter.configure(config);
            meter.books.granted(&grants);
        }
        // A record belongs to one policy: what tenants and zones mean may be another now.
        self.cut_now();
        Ok(revision)
    }

    fn cut_now(&mut self) {
        let (Some(meter), Some(gate)) = (&mut self.meter, &mut self.gate) else {
            return;
        };
        for line in meter.cut_now(gate) {
            self.say(line);
        }
    }

    /// How long until [`State::turn`] may have something to do.
    pub fn until_turn(&self) -> Duration {
        self.meter
            .as_ref()
            .map_or(Duration::from_secs(3_600), Meter::wait)
    }

    /// The service manager is told that all is in force.
    ///
    /// # Errors
    /// When the loader is gone.
    pub fn ready(&self) -> Result<()> {
        match &self.gate {
            Some(gate) => Ok(gate.ready()?),
            None => Ok(()),
        }
    }

    /// And that the daemon ends. A loader that is gone need not be told.
    pub fn stopping(&self) {
        let _ = self.gate.as_ref().map(Gate::stopping);
    }

    /// True once: with the first window, when the ledger is there to take an entry of the start.
    pub fn is_to_enter_the_start(&mut self) -> bool {
        let writes = self
            .meter
            .as_ref()
            .is_some_and(|meter| meter.status().windows != 0);
        writes && !std::mem::replace(&mut self.start_entered, writes)
    }

    /// What the ledger is to be told since the last time; nothing before its first window.
    pub fn take_entries(&mut self) -> Vec<String> {
        if self.meter.is_some() && !self.start_entered {
            return Vec::new();
        }
        std::mem::take(&mut self.entries)
    }

    /// Woken whenever the ledger has done something. Without a meter nothing wakes it.
    pub fn ledger_told(&self) -> Arc<Notify> {
        self.meter.as_ref().map(Meter::told).unwrap_or_default()
    }

    /// The meter's turn.
    pub fn turn(&mut self) {
        let (Some(meter), Some(gate)) = (&mut self.meter, &mut self.gate) else {
            return;
        };
        for line in meter.turn(gate, &self.file) {
            eprintln!("octroi: {line}");
        }
    }

    /// The wall clock was set: the window ends now.
    pub fn clock_was_set(&mut self) {
        if let Some(meter) = &mut self.meter {
            eprintln!("octroi: the wall clock was set");
            meter.clock_was_set();
        }
        self.turn();
    }

    /// The last window of a daemon that ends.
    pub fn farewell(&mut self) {
        let (Some(mut meter), Some(gate)) = (self.meter.take(), &mut self.gate) else {
            return;
        };
        for line in meter.farewell(gate) {
            eprintln!("octroi: {line}");
        }
    }

    /// Looks at interfaces and programs, and says what changed.
    pub fn look(&mut self) {
        let Some(gate) = self.gate.as_mut() else {
            return;
        };
        match gate.reconcile() {
            Ok(events) => self.tell(events),
            Err(error) => self.say(format!("warning: {error}")),
        }
    }

    fn tell(&mut self, events: Vec<Event>) {
        let mut lines = HashSet::new();
        for event in events {
            let (line, lasting) = match event {
                Event::Blessed(name, on) => (format!("port {name} blessed on {on}"), false),
                Event::Gone(name, on) => (format!("{name}: {on} is gone"), false),
                Event::Repaired(on, program) => (
                    format!("warning: somebody detached {program} from {on}; put back"),
                    false,
                ),
                Event::Waiting(name, on) => (
                    format!("{name} waits for {on}: it is attached as soon as {on} comes"),
                    true,
                ),
                Event::Foreign(on, names) => (
                    format!(
                        "warning: {} came before octroi on {on}; moved",
                        names.join(", ")
                    ),
                    false,
                ),
                Event::Provided(name, what) => {
                    let line = format!("provide {name}: {what}");
                    // Whose keys encrypted, and since when, is evidence: it is in the ledger.
                    self.entries.push(line.clone());
                    (line, false)
                }
                Event::Failed(what, why) => (format!("warning: {what}: {why}"), true),
            };
            if !lasting || !self.said.contains(&line) {
                eprintln!("octroi: {line}");
            }
            if lasting {
                lines.insert(line);
            }
        }
        self.said = lines;
    }

    fn say(&mut self, line: String) {
        if !self.said.contains(&line) {
            eprintln!("octroi: {line}");
            self.said.insert(line);
        }
    }

    /// What a file may not change while the daemon runs.
    fn fixed(&self, file: &Config) -> Result<(), Refusal> {
        if translate::plan(file) != translate::plan(&self.file)
            || file.host.pin_dir != self.file.host.pin_dir
            || file.host.run_dir != self.file.host.run_dir
            || file.meter != self.file.meter
        {
            return Err(Refusal::config(
                "[host] ports_max, zones_max, flows_max, pin_dir, run_dir and [meter] are fixed while the gate stands; \
                 leave them as they are, or run `octroi detach` and start again",
            ));
        }
        let places = |config: &Config| {
            let api = config.api.as_ref();
            let metrics = config.metrics.as_ref().map(|metrics| metrics.listen);
            let listen = api.and_then(|api| api.tls.as_ref().map(|tls| tls.listen));
            (
                api.map(|api| (api.socket.clone(), api.page)),
                listen,
                metrics,
            )
        };
        if places(file) != places(&self.file) {
            return Err(Refusal::config(
                "[api] socket, page and listen, and [metrics] listen, are fixed while the daemon runs; leave them as they are, or start the daemon again",
            ));
        }
        if let Some(path) = self.confined.outside(file) {
            return Err(Refusal::config(format!(
                "{}: the daemon writes where it could when it started, and nowhere else; start it again with this file",
                path.display()
            )));
        }
        Ok(())
    }

    fn apply(&mut self, file: Config) -> Result<String, Refusal> {
        self.fixed(&file)?;
        let config = self.effective(&file, &self.dynamic)?;
        let revision = self.enforce(&config)?;
        self.file = file;
        self.applied += 1;
        Ok(format!("revision {revision} in force"))
    }

    /// Makes a change.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub fn change(&mut self, step: Step) -> Result<String, Refusal> {
        match step {
            Step::Apply(file) => self.apply(*file),
            Step::PortAdd(port) => {
                let (dynamic, name) = self.with_added(&port)?;
                self.change_ports(dynamic)?;
                self.blessed(&name)
            }
            Step::PortSet(port) => {
                let (dynamic, name) = self.with_set(&port)?;
                self.change_ports(dynamic)?;
                self.blessed(&name)
            }
            Step::PortRemove(name) => {
                let revision = self.change_ports(self.without(&name)?)?;
                Ok(format!("port {name} removed in revision {revision}"))
            }
        }
    }

    /// Takes everything out of the kernel.
    ///
    /// # Errors
    /// What the system refused.
    pub fn detach(&mut self) -> Result<String, Refusal> {
        // What was counted is written while the registers are still there; nothing more is.
        if let Some(gate) = &mut self.gate {
            gate.retire_all().map_err(anyhow::Error::from)?;
        }
        if let Some(meter) = &mut self.meter {
            meter.end();
        }
        self.farewell();
        if let Some(gate) = self.gate.take() {
            gate.detach().map_err(anyhow::Error::from)?;
        }
        Ok("detached".into())
    }

    /// Would [`State::change`] refuse, as far as the configuration can tell?
    ///
    /// # Errors
    /// Its refusal.
    pub fn check(&self, step: &Step) -> Result<(), Refusal> {
        let dynamic = match step {
            Step::Apply(file) => {
                self.fixed(file)?;
                self.effective(file, &self.dynamic)?;
                return Ok(());
            }
            Step::PortAdd(port) => self.with_added(port)?.0,
            Step::PortSet(port) => self.with_set(port)?.0,
            Step::PortRemove(name) => self.without(name)?,
        };
        self.effective(&self.file, &dynamic)?;
        Ok(())
    }

    /// [`State::report`], as the control socket says it.
    ///
    /// # Errors
    /// As that.
    pub fn status(&mut self) -> Result<String, Refusal> {
        Ok(serde_json::to_string(&self.report()?).map_err(anyhow::Error::from)?)
    }

    /// What `status` says.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn report(&mut self) -> Result<status::Report, Refusal> {
        let names = self.file.clone();
        let mut report = status::Report::of(self.gate()?, &names)?;
        report.confined = Some(self.confined.clone());
        report.meter = self.meter.as_ref().map(|meter| meter.status().clone());
        if let (Some(meter), Some(gate)) = (&self.meter, &self.gate) {
            report.quotas = meter.books.status(&gate.quotas()?);
        }
        report.sinks = self.meter.as_ref().map(Meter::sinks).unwrap_or_default();
        Ok(report)
    }

    /// The configuration of the file, without the hooks' ports.
    pub fn file(&self) -> &Config {
        &self.file
    }

    /// What is in force, the hooks' ports too.
    pub fn config(&self) -> Config {
        let effective = self.effective(&self.file, &self.dynamic);
        effective.unwrap_or_else(|_| self.file.clone())
    }

    /// Held by whoever changes something, from its entry in the ledger to its end.
    pub(super) fn changes(&self) -> Rc<Mutex<()>> {
        Rc::clone(&self.changes)
    }

    /// How often another configuration of a file was put in force.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The ledger's file.
    pub fn ledger(&self) -> Option<PathBuf> {
        self.file.meter.as_ref().map(|meter| meter.ledger.clone())
    }

    /// The ledger's last window is not written: what it refuses now, it does not refuse for its content.
    pub fn ledger_fails(&self) -> bool {
        self.meter
            .as_ref()
            .is_none_or(|meter| meter.status().error.is_some())
    }

    /// Hands a record that belongs to no window to the ledger and returns a ticket for the answer; `None` while it is at work.
    ///
    /// # Errors
    /// When there is no ledger.
    pub fn add(&mut self, addition: &Addition) -> Result<Option<u64>, Refusal> {
        // What is written meanwhile is heard here, so that the ledger is free as soon as it can be.
        self.turn();
        let meter = self.meter.as_mut();
        let meter =
            meter.ok_or_else(|| Refusal::config("the daemon has no ledger; add [meter]"))?;
        Ok(meter.add(addition))
    }

    /// The answer for a ticket, when there is one.
    pub fn answered(&mut self, ticket: u64) -> Option<Result<u64, String>> {
        self.turn();
        let Some(meter) = self.meter.as_mut() else {
            return Some(Err("the daemon ends".into()));
        };
        meter.answer(ticket)
    }

    fn blessed(&mut self, name: &str) -> Result<String, Refusal> {
        let ports = self.gate()?.ports().map_err(anyhow::Error::from)?;
        let port = ports
            .iter()
            .find(|port| port.name == name && port.state != PortState::Retired);
        match port {
            Some(port) if port.state == PortState::Blessed => {
                Ok(format!("port {name} blessed on {}", port.interface))
            }
            _ => {
                let on = port.map_or("its interface", |port| &port.interface);
                let message = format!(
                    "port {name} is in force, but {on} is not there yet; it is blessed as soon as \
                     {on} comes"
                );
                Err(Refusal {
                    waiting: true,
                    ..Refusal::system(message)
                })
            }
        }
    }
}
