//! Another key in the place of the one that signs: `docs/METERING.md`, M-14.10.

use super::{Ledger, LedgerError, head::Signing, keys};
use crate::record::{Kind, Record, Rotation};

impl Ledger {
    /// The key that waits beside the ledger's, if one does.
    pub(super) fn next_key(&self) -> Result<Option<Signing>, LedgerError> {
        let Some(signer) = keys::read(&keys::next_key_path(&self.path))? else {
            return Ok(None);
        };
        if signer.public() == self.signing.signer.public() {
            // It signs already: only its file did not get its name.
            keys::take_place(&self.path)?;
            return Ok(None);
        }
        let name = self.signing.verifier.name();
        let next = Signing::named(signer, name);
        if let Some(next) = &next {
            keys::publish(&self.path, &next.verifier)?;
        }
        Ok(next)
    }

    /// The leaf that says so, to be written next.
    pub(super) fn rotation(&self, next: &Signing, utc_ns: i64) -> Record {
        let name = self.signing.verifier.name();
        let (old, new) = (&self.signing.signer, &next.signer);
        let text = Rotation::text(name, self.anchor.size, &old.public(), &new.public());
        Record {
            rotation: Some(Rotation {
                public: new.public(),
                by_old: old.signature(&text),
                by_new: new.signature(&text),
            }),
            ..self.own(Kind::Key, utc_ns)
        }
    }

    /// What every record of the ledger itself has.
    pub(super) fn own(&self, kind: Kind, utc_ns: i64) -> Record {
        Record {
            kind,
            host: self.epoch.host.clone(),
            boot_id: self.epoch.boot_id,
            map_generation: self.epoch.map_generation,
            window_start: utc_ns,
            window_end: utc_ns,
            ..Record::default()
        }
    }
}
