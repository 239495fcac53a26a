//! Who waits for the ledger's thread, and what it answered.

use std::collections::BTreeMap;

/// So many answers are kept for those who do not come for them.
const ANSWERS_MAX: usize = 16;

/// The seq of a record that was added, or why there is none.
pub(super) type Answer = Result<u64, String>;

/// Tickets for records that belong to no window.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// The last one that was given.
    given: u64,
    /// The one that the ledger's thread is at.
    asked: Option<u64>,
    /// What nobody has come for yet.
    answers: BTreeMap<u64, Answer>,
}

impl Tickets {
    /// A ticket for what was just handed over.
    pub(super) fn give(&mut self) -> u64 {
        self.given += 1;
        self.asked = Some(self.given);
        self.given
    }

    /// The thread has answered.
    pub(super) fn answered(&mut self, answer: Answer) {
        if let Some(ticket) = self.asked.take() {
            if self.answers.len() >= ANSWERS_MAX {
                self.answers.pop_first();
            }
            self.answers.insert(ticket, answer);
        }
    }

    /// The answer for a ticket. It is told once.
    pub(super) fn take(&mut self, ticket: u64) -> Option<Answer> {
        self.answers.remove(&ticket)
    }
}
