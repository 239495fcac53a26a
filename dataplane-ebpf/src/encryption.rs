//! The tenant's encryption policy. No policy can be configured yet, so the stage has one rule: a
//! port that names one is refused, because this gate cannot hold it.

use dataplane_common::{abi::PortPolicy, reason::DropReason};

/// # Errors
/// [`DropReason::EncryptionPolicy`] for a port with a policy.
#[inline(always)]
pub fn check(port: &PortPolicy) -> Result<(), DropReason> {
    if port.encryption == 0 {
        Ok(())
    } else {
        Err(DropReason::EncryptionPolicy)
    }
}
