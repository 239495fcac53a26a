//! The store's end: takes what hosts sent out of the stream and brings it into a database, by the code of the sink
//! that a single host has.
//!
//! Invariants (`tests/fleet.rs`)
//! - A message is acknowledged after the database has committed it, and the host is answered after that, too. Whatever
//!   dies between the two, the message comes again, and the database's mark says that it is there.
//! - What does not continue what is there waits for what is on the way; what never comes is asked for, from the mark on.
//! - What has a name that is taken is kept in the stream, told to the host, and tried again; other ledgers go on.
//!
//! What it is not: it keeps nothing. All that it knows is in the database and in the stream.

use super::{Line, Open, PATIENCE, Sent, Target, away, wire::Answer};
use crate::sink::{Batch, Item, Mark, SinkError, Store};
use async_nats::jetstream::{
    AckKind, Message,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures_util::StreamExt as _;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Messages that are taken at once: memory is bounded by them, 1 MiB each.
const MESSAGES_MAX: usize = 64;
/// Messages that may be on the way at once; those that wait for others count.
const ON_THE_WAY_MAX: i64 = 10_000;
/// So often is a message looked at that does not continue what is there, before what lies between is asked for.
const LOOKS: i64 = 4;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Messages that were looked at.
    pub messages: u64,
    /// Records that the database took.
    pub records: u64,
    /// Messages that it had.
    pub again: u64,
    /// Messages that wait for what lies between.
    pub early: u64,
    /// Messages that come again with what lies between, which was asked for.
    pub asked: u64,
    /// Messages of records that have a name that is taken.
    pub forks: u64,
    /// What somebody must know of.
    pub said: Vec<String>,
}

/// What is known of a ledger.
struct Ledger {
    mark: Mark,
    /// The question that is open; 0: none.
    asks: u64,
    fork: Option<String>,
}

/// What to do with a message.
enum Verdict {
    Took(u64),
    Again,
    Early,
    Asked,
    Fork { what: String, is_new: bool },
    Wrong(String),
}

impl Verdict {
    /// What the stream is told.
    fn end(&self, patience: Duration) -> AckKind {
        match self {
            Self::Took(_) | Self::Again | Self::Asked => AckKind::Ack,
            Self::Early => AckKind::Nak(Some(patience / 2)),
            Self::Fork { .. } => AckKind::Nak(Some(patience * 2)),
            Self::Wrong(_) => AckKind::Term,
        }
    }
}

impl Done {
    fn add(&mut self, message: &Message, verdict: &Verdict) {
        self.messages += 1;
        match verdict {
            Verdict::Took(records) => self.records += records,
            Verdict::Again => self.again += 1,
            Verdict::Asked => self.asked += 1,
            Verdict::Early => self.early += 1,
            Verdict::Fork { what, is_new } => {
                self.forks += 1;
                if *is_new {
                    let subject = &message.subject;
                    self.said.push(format!("ALARM: {subject}: FORK: {what}"));
                }
            }
            Verdict::Wrong(why) => self.said.push(format!(
                "a message on {} is no batch of records ({why}); put aside",
                message.subject
            )),
        }
    }
}

/// Takes records out of a stream into a database.
pub struct Intake<S> {
    line: Line,
    to: S,
    name: String,
    patience: Duration,
    ledgers: BTreeMap<[u8; 16], Ledger>,
    waiting: VecDeque<Message>,
    /// What the store answered earlier was compared with what it has.
    is_compared: bool,
}

impl<S: Store> Intake<S> {
    /// Nothing is connected yet. `name`: of the durable consumer, one for each database. `patience`: until a message
    /// that was not acknowledged comes again.
    #[must_use]
    pub fn new(from: Target, to: S, name: &str, patience: Duration) -> Self {
        Self {
            line: Line::new(from, PATIENCE),
            to,
            name: name.to_owned(),
            patience,
            ledgers: BTreeMap::new(),
            waiting: VecDeque::new(),
            is_compared: false,
        }
    }

    /// Takes what is there, and returns when it is durable, answered and acknowledged.
    ///
    /// # Errors
    /// [`SinkError`]: the stream or the database is not there, or refuses. Afterwards nothing is known but what they say.
    pub fn step(&mut self) -> Result<Done, SinkError> {
        let mut done = Done::default();
        if !self.is_compared {
            self.compare()?;
            self.is_compared = true;
        }
        if self.waiting.is_empty() {
            let (name, patience) = (self.name.clone(), self.patience);
            let fetched = self
                .line
                .run(async |open| fetch(open, &name, patience).await)?;
            self.waiting.extend(fetched);
        }
        let (mut answered, mut ends) = (BTreeSet::new(), Vec::new());
        let mut wrong = None;
        while let Some(message) = self.waiting.pop_front() {
            match self.judge(&message) {
                Ok((ledger, verdict)) => {
                    answered.extend(ledger);
                    ends.push((message, verdict));
                }
                Err(error) => {
                    // The database is not there: this one and those behind it wait here, and come again by themselves
                    // when that takes long.
                    self.waiting.push_front(message);
                    wrong = Some(error);
                    break;
                }
            }
        }
        let ended = self.end(&answered, &ends);
        if let Err(error) = ended {
            // They come again. What is kept here is of a connection that may be gone.
            self.waiting.clear();
            wrong.get_or_insert(error);
        }
        for (message, verdict) in &ends {
            done.add(message, verdict);
        }
        match wrong {
            Some(error) => {
                self.ledgers.clear();
                Err(error)
            }
            None => Ok(done),
        }
    }

    /// Asks for what the store said it had and has not: it was put back to an old copy of itself. A ledger that is
    /// complete sends nothing by which that would be noticed.
    fn compare(&mut self) -> Result<(), SinkError> {
        let marks = self.to.marks()?;
        self.line.run(async |open| {
            for (id, answer) in open.streams.answers().await? {
                let mark = marks.get(&id).copied().unwrap_or(Mark::NONE);
                if answer.mark.next <= mark.next || answer.asks != 0 {
                    continue;
                }
                let answer = Answer {
                    mark,
                    asks: question()?,
                    fork: answer.fork,
                };
                open.answer(&id, &answer).await?;
            }
            Ok(())
        })
    }

    /// Answers hosts, then the stream.
    fn end(
        &mut self,
        answered: &BTreeSet<[u8; 16]>,
        ends: &[(Message, Verdict)],
    ) -> Result<(), SinkError> {
        let answers: Vec<([u8; 16], Answer)> = answered
            .iter()
            .filter_map(|id| {
                let ledger = self.ledgers.get(id)?;
                let answer = Answer {
                    mark: ledger.mark,
                    asks: ledger.asks,
                    fork: ledger.fork.clone(),
                };
                Some((*id, answer))
            })
            .collect();
        if ends.is_empty() {
            return Ok(());
        }
        let patience = self.patience;
        self.line.run(async |open| {
            for (id, answer) in &answers {
                open.answer(id, answer).await?;
            }
            for (message, verdict) in ends {
                let ended = message.ack_with(verdict.end(patience)).await;
                ended.map_err(|error| SinkError::Unavailable(error.to_string()))?;
            }
            let flushed = open.client.flush().await;
            flushed.map_err(|error| away(&error))
        })
    }

    /// What to do with a message, after what can be done; and the ledger whose host gets an answer.
    fn judge(&mut self, message: &Message) -> Result<(Option<[u8; 16]>, Verdict), SinkError> {
        let wrong = |why: String| Ok((None, Verdict::Wrong(why)));
        let info = match message.info() {
            Ok(info) => info,
            Err(error) => return wrong(error.to_string()),
        };
        let sent = match Sent::decode(&message.payload) {
            Ok(sent) => sent,
            Err(why) => return wrong(why),
        };
        let id = sent.batch.ledger_id;
        if self.line.target.subject(&id) != message.subject.as_str() {
            return wrong("it is of another ledger than its subject".into());
        }
        let verdict = match self.meet(&sent.batch) {
            Ok(()) => self.place(&sent, info.delivered),
            Err(error) => Err(error),
        };
        let verdict = match verdict {
            Err(SinkError::Fork(what)) => self.fork(&sent.batch, what)?,
            verdict => verdict?,
        };
        let is_answered = !matches!(verdict, Verdict::Early);
        Ok((is_answered.then_some(id), verdict))
    }

    /// Brings a batch into the database, if it continues what is there.
    fn place(&mut self, sent: &Sent, delivered: i64) -> Result<Verdict, SinkError> {
        let batch = &sent.batch;
        let Some(ledger) = self.ledgers.get_mut(&batch.ledger_id) else {
            return Ok(Verdict::Early);
        };
        let mark = ledger.mark;
        if batch.from.next > mark.next {
            if ledger.fork.is_some() {
                // What is before it is refused: it waits with that.
                return Ok(Verdict::Early);
            }
            if ledger.asks != 0 && sent.answers != ledger.asks {
                // Sent before the question: all of it comes again.
                return Ok(Verdict::Asked);
            }
            if delivered < LOOKS {
                return Ok(Verdict::Early);
            }
            ledger.asks = question()?;
            return Ok(Verdict::Asked);
        }
        let took = self.bring(batch, mark)?;
        if let Some(ledger) = self.ledgers.get_mut(&batch.ledger_id) {
            ledger.fork = None;
            if batch.to.next > mark.next {
                ledger.mark = batch.to;
                ledger.asks = 0;
            }
        }
        Ok(if batch.to.next > mark.next {
            Verdict::Took(took)
        } else {
            Verdict::Again
        })
    }

    /// Learns how far the database is in the ledger, and what was asked, once.
    fn meet(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let id = batch.ledger_id;
        if self.ledgers.contains_key(&id) {
            return Ok(());
        }
        let mark = self.to.mark(&id, &batch.host)?;
        let answer = self.line.run(async |open| open.streams.answer(&id).await)?;
        let asks = answer.map_or(0, |answer| answer.asks);
        let ledger = Ledger {
            mark,
            asks,
            fork: None,
        };
        self.ledgers.insert(id, ledger);
        Ok(())
    }

    /// Brings in what of a batch is not there, and compares what is. Returns how many records were new.
    fn bring(&mut self, batch: &Batch, mark: Mark) -> Result<u64, SinkError> {
        let split = |items: &[Item]| items.partition_point(|item| item.seq < mark.next);
        let (there, new) = batch.items.split_at(split(&batch.items));
        let totals = batch.totals.as_deref().unwrap_or_default();
        let (totals_there, new_totals) = totals.split_at(split(totals));
        if !there.is_empty() || !totals_there.is_empty() {
            self.to.holds(&batch.ledger_id, there, totals_there)?;
        }
        let same = |at: &Mark| at.next != mark.next || at.leaf == mark.leaf;
        if !same(&batch.from) || !same(&batch.to) {
            return Err(SinkError::Fork(format!(
                "record {} is another one at the store",
                mark.next.saturating_sub(1)
            )));
        }
        if batch.to.next <= mark.next {
            return Ok(0);
        }
        let rest = Batch {
            from: mark,
            items: new.to_vec(),
            totals: batch.totals.as_ref().map(|_| new_totals.to_vec()),
            ..batch.clone()
        };
        self.to.deliver(&rest)?;
        Ok((new.len() + new_totals.len()) as u64)
    }

    /// Keeps an alarm, and remembers that this ledger waits for somebody.
    fn fork(&mut self, batch: &Batch, what: String) -> Result<Verdict, SinkError> {
        self.to.fork(&batch.ledger_id, &batch.host, &what)?;
        let ledger = self.ledgers.entry(batch.ledger_id).or_insert(Ledger {
            mark: Mark::NONE,
            asks: 0,
            fork: None,
        });
        let is_new = ledger.fork.as_ref() != Some(&what);
        ledger.fork = Some(what.clone());
        Ok(Verdict::Fork { what, is_new })
    }
}

/// A number for a question, that no question before had.
fn question() -> Result<u64, SinkError> {
    let random = getrandom::u64();
    let random = random
        .map_err(|error| SinkError::Unavailable(format!("there is no random number: {error}")))?;
    Ok(random.max(1))
}

/// What the stream has for this consumer now, at most [`MESSAGES_MAX`].
async fn fetch(open: &Open, name: &str, patience: Duration) -> Result<Vec<Message>, SinkError> {
    let wanted = pull::Config {
        durable_name: Some(name.to_owned()),
        description: Some("brings records of octroi into a database".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: patience,
        max_ack_pending: ON_THE_WAY_MAX,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = open
        .streams
        .records
        .get_or_create_consumer(name, wanted)
        .await
        .map_err(|error| away(&error))?;
    let fetched = consumer.fetch().max_messages(MESSAGES_MAX).messages().await;
    let mut fetched = fetched.map_err(|error| away(&error))?;
    let mut messages = Vec::new();
    while let Some(message) = fetched.next().await {
        messages.push(message.map_err(|error| SinkError::Unavailable(error.to_string()))?);
    }
    Ok(messages)
}
