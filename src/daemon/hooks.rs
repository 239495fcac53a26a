//! The ports that hooks added: beside those of the file, and kept over a restart.

use super::{control::Refusal, state::State};
use crate::config::{self, Config, Errors, Port};
use anyhow::{Context as _, Result};
use std::fs;

/// Ports that `port add` brought, kept in the run directory so that a restart adopts them.
pub const DYNAMIC_PORTS: &str = "ports.toml";

impl State {
    /// The file's ports and the hooks' together; a port that is in both is the file's.
    pub(super) fn effective(&self, file: &Config, dynamic: &[Port]) -> Result<Config, Errors> {
        let mut config = file.clone();
        for port in dynamic {
            if file.port(port.name.as_str()).is_none() {
                config = config.with_port(port.clone())?;
            }
        }
        Ok(config)
    }

    pub(super) fn change_ports(&mut self, dynamic: Vec<Port>) -> Result<u32, Refusal> {
        let config = self.effective(&self.file, &dynamic)?;
        // Written first: a daemon that dies in between finds the port and blesses it.
        let before = std::mem::replace(&mut self.dynamic, dynamic);
        let revision = self.write_dynamic().and_then(|()| self.enforce(&config));
        if revision.is_err() {
            self.dynamic = before;
            let _ = self.write_dynamic();
        }
        Ok(revision?)
    }

    /// The hooks' ports and one more, and its name.
    pub(super) fn with_added(&self, port: &str) -> Result<(Vec<Port>, String), Refusal> {
        let port = config::parse_port(port, "port")?;
        let name = port.name.as_str().to_owned();
        let mut dynamic = self.dynamic.clone();
        // A hook may call twice: adding what is there already is done.
        match self.file.port(&name) {
            Some(known) if *known != port => return Err(self.is_in_the_file(&name)),
            None if !dynamic.contains(&port) => dynamic.push(port),
            _ => {}
        }
        Ok((dynamic, name))
    }

    /// The hooks' ports, one of them changed, and its name.
    pub(super) fn with_set(&self, port: &str) -> Result<(Vec<Port>, String), Refusal> {
        let port = config::parse_port(port, "port")?;
        let name = port.name.as_str().to_owned();
        let mut dynamic = self.dynamic.clone();
        let place = self.dynamic_place(&name)?;
        dynamic[place] = port;
        Ok((dynamic, name))
    }

    /// The hooks' ports but one.
    pub(super) fn without(&self, name: &str) -> Result<Vec<Port>, Refusal> {
        let mut dynamic = self.dynamic.clone();
        dynamic.remove(self.dynamic_place(name)?);
        Ok(dynamic)
    }

    fn dynamic_place(&self, name: &str) -> Result<usize, Refusal> {
        self.dynamic
            .iter()
            .position(|port| port.name.as_str() == name)
            .ok_or_else(|| {
                if self.file.port(name).is_some() {
                    self.is_in_the_file(name)
                } else {
                    Refusal::config(format!(
                        "there is no port {name}; `octroi status` lists the ports"
                    ))
                }
            })
    }

    fn is_in_the_file(&self, name: &str) -> Refusal {
        Refusal::config(format!(
            "port {name} is in {}; change it there and run `octroi apply`",
            self.path.display()
        ))
    }

    fn write_dynamic(&self) -> Result<()> {
        let mut config = self.file.clone();
        config.ports = self.dynamic.clone();
        let path = self.file.host.run_dir.join(DYNAMIC_PORTS);
        let new = path.with_extension("new");
        fs::write(&new, config.to_toml())
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("{}: cannot be written", path.display()))
    }
}

/// Ports that hooks added before this daemon started; what cannot be read is said and left out.
pub(super) fn read_dynamic(file: &Config) -> Vec<Port> {
    let path = file.host.run_dir.join(DYNAMIC_PORTS);
    if !path.exists() {
        return Vec::new();
    }
    match config::load(&path) {
        Ok(config) => config.ports,
        Err(errors) => {
            eprintln!("{errors}\noctroi: ports that were added by hooks are not taken over");
            Vec::new()
        }
    }
}
