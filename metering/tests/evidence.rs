//! Evidence: whatever is changed in a ledger, a proof or a checkpoint is found, and the record is named; by
//! `metering::verify` and by a verifier in Python that knows `docs/METERING.md` alone.

#[path = "evidence/change.rs"]
mod change;
#[path = "evidence/export.rs"]
mod export;
#[path = "evidence/file.rs"]
mod file;
#[path = "evidence/mutate.rs"]
mod mutate;
#[path = "evidence/python.rs"]
mod python;
#[path = "evidence/site.rs"]
mod site;
#[path = "evidence/speed.rs"]
mod speed;
#[path = "evidence/table.rs"]
mod table;
