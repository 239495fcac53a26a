//! What the daemon is asked, and changes nothing by.

use super::State;
use crate::{
    daemon::{control::Refusal, live::Looks},
    live::{self, Subject},
};
use dataplane::gate::{PortState, PortStatus};
use metering::flow::Detail;

impl State {
    /// The flows that are in the table now: of a tenant, and of one of its ports.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn live_flows(&mut self, subject: &Subject) -> Result<live::Seen, Refusal> {
        let tenants = &self.file.tenants;
        let tenant = tenants.iter().find(|tenant| tenant.id.0 == subject.tenant);
        // Of a tenant that nobody knows nothing may be kept.
        let detail = tenant.map_or(Detail::Off, |tenant| tenant.flow_detail);
        let found = self
            .gate()?
            .live_flows(Some(subject.tenant), subject.port.clone())?;
        Ok(live::Seen::of(&found, detail))
    }

    /// Looks at flows that go on.
    pub(in crate::daemon) fn looks(&mut self) -> &mut Looks {
        &mut self.looks
    }

    /// What is known of each port.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn ports(&mut self) -> Result<Vec<PortStatus>, Refusal> {
        Ok(self.gate()?.ports()?)
    }

    /// True after `detach`.
    pub fn detached(&self) -> bool {
        self.gate.is_none()
    }

    /// The revision in force; 0 when it cannot be asked for.
    pub fn revision(&self) -> u32 {
        let epoch = self.gate.as_ref().and_then(|gate| gate.epoch().ok());
        epoch.map_or(0, |epoch| epoch.revision())
    }

    /// One line for the log.
    pub fn summary(&self) -> String {
        let Some(gate) = self.gate.as_ref() else {
            return "detached".into();
        };
        let ports = gate.ports().unwrap_or_default();
        let count = |state| ports.iter().filter(|port| port.state == state).count();
        format!(
            "{} ports blessed, {} waiting, revision {}, {}",
            count(PortState::Blessed),
            count(PortState::Waiting),
            self.revision(),
            gate.mechanism().name()
        )
    }
}
