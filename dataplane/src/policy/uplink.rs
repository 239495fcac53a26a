//! What a revision says of an uplink.

use dataplane_common::{abi::PortPolicy, flood};

/// What becomes of overlays in clear that the host itself sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClearOverlays {
    /// Nobody looks.
    #[default]
    Allow,
    /// They leave, and are counted as `would_drop`.
    Count,
    /// They are dropped.
    Drop,
}

/// A link by which packets leave the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Interface name.
    pub interface: String,
    /// Whether floods are policed there, by XDP.
    pub xdp: bool,
    /// What may not leave there.
    pub clear_overlays: ClearOverlays,
}

impl Uplink {
    /// Its entry in `PORTS`.
    pub(crate) fn entry(&self) -> PortPolicy {
        let overlays = match self.clear_overlays {
            ClearOverlays::Allow => 0,
            ClearOverlays::Count => PortPolicy::COUNTS_CLEAR_OVERLAYS,
            ClearOverlays::Drop => PortPolicy::DROPS_CLEAR_OVERLAYS,
        };
        PortPolicy {
            flags: overlays | if self.xdp { flood::POLICES } else { 0 },
            ..PortPolicy::default()
        }
    }
}
