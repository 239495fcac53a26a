//! A sink that many hosts' records come to by way of a stream: what the store's end must be able to ask it.

use super::{Item, Mark, Sink, SinkError};
use std::collections::BTreeMap;

/// A database that keeps its marks in itself, of every ledger.
pub trait Store: Sink {
    /// How far it is in every ledger that it knows.
    ///
    /// # Errors
    /// [`SinkError`].
    fn marks(&mut self) -> Result<BTreeMap<[u8; 16], Mark>, SinkError>;

    /// Whether it has these records and totals of a ledger, which are below its mark and in ascending order.
    ///
    /// # Errors
    /// [`SinkError::Fork`]: others under their numbers.
    fn holds(&mut self, id: &[u8; 16], items: &[Item], totals: &[Item]) -> Result<(), SinkError>;
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn marks(&mut self) -> Result<BTreeMap<[u8; 16], Mark>, SinkError> {
        (**self).marks()
    }

    fn holds(&mut self, id: &[u8; 16], items: &[Item], totals: &[Item]) -> Result<(), SinkError> {
        (**self).holds(id, items, totals)
    }
}
