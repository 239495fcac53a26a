//! NATS JetStream: the way of a fleet's records to one store.
//!
//! The broker is transport, and the store is what has a record: a broker acknowledges what a power cut may still take from
//! it. So there are two marks. Where a ledger is in the stream is its last message there: what is sent next goes in only
//! behind that one (`Nats-Expected-Last-Subject-Sequence`), so that neither a lost acknowledgement nor two
//! daemons bring anything in twice or out of order. What is confirmed, and may be pruned here, is what the
//! store answers after its commit, on a stream beside it; if it lacks something it asks, and is sent it again from
//! there (decision 0028). There is no cursor on the host.

mod intake;
mod streams;
mod target;
mod wire;

pub use intake::{Done, Intake};
pub use target::Target;

use super::{
    Batch, Mark, Sink, SinkError, Totals,
    wait::{Connection, away},
};
use crate::note::hex;
use async_nats::{
    Client,
    jetstream::{context::PublishErrorKind, message::PublishMessage},
};
use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};
use streams::Streams;
use tokio::sync::watch;
use wire::{Answer, Sent};

/// Connecting and what is asked together take less, or nobody is there behind the socket.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the store's answer is looked at while it is behind.
const LOOK: Duration = Duration::from_secs(1);
/// In one message: 400 records of the longest kind and a head are less than 1 MiB, a server's `max_payload` when
/// nobody set it.
const RECORDS_MAX: u32 = 400;

/// What a client and its streams are, once they are known.
struct Open {
    client: Client,
    context: async_nats::jetstream::Context,
    streams: Streams,
    is_broken: watch::Receiver<bool>,
}

/// What is asked over a connection, unless that breaks first.
async fn unless_broken<T>(
    mut is_broken: watch::Receiver<bool>,
    work: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    tokio::select! {
        done = work => done,
        _ = is_broken.wait_for(|is_broken| *is_broken) => {
            Err(SinkError::Unavailable("the connection broke".into()))
        }
    }
}

impl Open {
    async fn new(target: &Target) -> Result<Self, SinkError> {
        let (client, context, is_broken) = target.connect().await?;
        let streams = Streams::open(&context, target);
        let streams = unless_broken(is_broken.clone(), streams).await?;
        Ok(Self {
            client,
            context,
            streams,
            is_broken,
        })
    }

    /// Tells a host how far the store is.
    async fn answer(&self, id: &[u8; 16], answer: &Answer) -> Result<(), SinkError> {
        let payload = answer.encode().map_err(SinkError::Refused)?;
        let subject = self.streams.target.answer_subject(id);
        let sent = self.context.publish(subject, payload.into()).await;
        let acknowledged = sent.map_err(|error| away(&error))?.await;
        acknowledged.map(drop).map_err(|error| away(&error))
    }
}

/// A cluster, connected or not.
struct Line {
    target: Target,
    connection: Connection<Open>,
}

impl Line {
    fn new(target: Target, patience: Duration) -> Self {
        Self {
            target,
            connection: Connection::new(patience),
        }
    }

    fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&Open) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let open = Open::new(&self.target);
        self.connection.ask(
            "no answer",
            |_| true,
            open,
            async |open| unless_broken(open.is_broken.clone(), work(open)).await,
        )
    }
}

/// Where a ledger is in the stream.
#[derive(Clone, Copy)]
struct Tail {
    /// Sequence number of its last message; 0: there is none.
    sequence: u64,
    /// Which question of the store its messages answer.
    answers: u64,
}

/// What the store has of a ledger.
#[derive(Clone, Copy)]
struct Confirmed {
    mark: Mark,
    looked: Instant,
}

/// A stream of a cluster, connected or not.
pub struct Nats {
    line: Line,
    tails: BTreeMap<[u8; 16], Tail>,
    /// Added to names of messages: how often one was known to the stream.
    known: u64,
    confirmed: BTreeMap<[u8; 16], Confirmed>,
}

impl Nats {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self::with_patience(target, PATIENCE)
    }

    /// The same, that waits so long for whatever it asks.
    #[must_use]
    pub fn with_patience(target: Target, patience: Duration) -> Self {
        Self {
            line: Line::new(target, patience),
            tails: BTreeMap::new(),
            known: 0,
            confirmed: BTreeMap::new(),
        }
    }
}

impl Sink for Nats {
    /// Where a ledger is in the stream; where the store is, if it asks or is further.
    fn mark(&mut self, id: &[u8; 16], _: &str) -> Result<Mark, SinkError> {
        self.tails.remove(id);
        self.confirmed.remove(id);
        let (answer, last) = self.line.run(async |open| {
            let answer = open.streams.answer(id).await?;
            Ok((answer, open.streams.last(id).await?))
        })?;
        let (sequence, sent, answers) = last.unwrap_or((0, Mark::NONE, 0));
        let mut tail = Tail { sequence, answers };
        let mut mark = sent;
        if let Some(answer) = answer {
            refused(&answer)?;
            if answer.asks != 0 && answer.asks != answers {
                tail.answers = answer.asks;
                mark = answer.mark;
            } else if answer.mark.next > mark.next {
                mark = answer.mark;
            }
        }
        self.tails.insert(*id, tail);
        Ok(mark)
    }

    fn deliver(&mut self, batch: &Batch) -> Result<Mark, SinkError> {
        let id = batch.ledger_id;
        // Known again only when it is acknowledged: until then it is a guess.
        let Some(tail) = self.tails.remove(&id) else {
            return Err(SinkError::Unavailable(
                "where the ledger is in the stream is not known; asking".into(),
            ));
        };
        let payload = Sent::encode(batch, tail.answers).map_err(SinkError::Refused)?;
        let subject = self.line.target.subject(&id);
        // For whoever reads the stream, and within its duplicate window. A stream that was emptied still knows names of
        // what it no longer has: then it gets another one.
        let name = format!("{}-{}-{}", hex(&id), batch.from.next, self.known);
        let sent = self
            .line
            .run(async |open| publish(open, subject, &name, tail, payload).await);
        let sequence = match sent {
            Ok(Some(sequence)) => sequence,
            Ok(None) => {
                self.known = self.known.wrapping_add(1);
                return Err(SinkError::Unavailable(format!(
                    "the stream knows {name} already; asking where the ledger is"
                )));
            }
            Err(error) => return Err(error),
        };
        let answers = tail.answers;
        self.tails.insert(id, Tail { sequence, answers });
        Ok(batch.to)
    }

    /// What the store says it has, which is looked at while it is behind.
    fn confirmed(&mut self, id: &[u8; 16], mark: &Mark) -> Result<Mark, SinkError> {
        if let Some(known) = self.confirmed.get(id)
            && (known.mark.next >= mark.next || known.looked.elapsed() < LOOK)
        {
            return Ok(known.mark);
        }
        let answer = self.line.run(async |open| open.streams.answer(id).await)?;
        let mut confirmed = Mark::NONE;
        if let Some(answer) = answer {
            refused(&answer)?;
            let answered = self.tails.get(id).map_or(0, |tail| tail.answers);
            if answer.asks != 0 && answer.asks != answered {
                return Err(SinkError::Unavailable(format!(
                    "the store has the records below {} and lacks what follows; sending it again",
                    answer.mark.next
                )));
            }
            // More than is there is the answer to somebody else's records: `Feed::holds` tells.
            confirmed = answer.mark;
        }
        let known = Confirmed {
            mark: confirmed,
            looked: Instant::now(),
        };
        self.confirmed.insert(*id, known);
        Ok(confirmed)
    }

    /// The store is who keeps alarms, and tells the host. What the host itself finds is the daemon's alarm.
    fn fork(&mut self, _: &[u8; 16], _: &str, _: &str) -> Result<(), SinkError> {
        Ok(())
    }

    fn sums(&mut self, _: &[u8; 16], _: u64, _: &[Range<u64>]) -> Result<Totals, SinkError> {
        Err(SinkError::Refused(
            "a broker adds nothing up: compare with the store, `octroi reconcile --store ADDRESS`"
                .into(),
        ))
    }

    fn replay(&mut self, _: &Batch) -> Result<(), SinkError> {
        Err(SinkError::Refused(
            "the store says itself what it has, and is sent what it lacks: there is nothing to replay; \
             `octroi reconcile --store ADDRESS` says what is there"
                .into(),
        ))
    }

    fn batch_max(&self) -> u32 {
        RECORDS_MAX
    }
}

fn refused(answer: &Answer) -> Result<(), SinkError> {
    match &answer.fork {
        Some(what) => Err(SinkError::Fork(format!("the store refuses: {what}"))),
        None => Ok(()),
    }
}

/// Sends a batch, and returns its message's sequence number when the stream has it; `None`: it knows the name, and
/// what it has under it may be an earlier try, or nothing any more.
async fn publish(
    open: &Open,
    subject: String,
    name: &str,
    tail: Tail,
    payload: Vec<u8>,
) -> Result<Option<u64>, SinkError> {
    let stream = &open.streams.target.stream;
    let message = PublishMessage::build()
        .payload(payload.into())
        .message_id(name)
        .expected_stream(stream)
        .expected_last_subject_sequence(tail.sequence);
    let acknowledged = open.context.send_publish(subject, message).await;
    let acknowledged = acknowledged.map_err(|error| away(&error))?.await;
    let ack = acknowledged.map_err(|error| match error.kind() {
        PublishErrorKind::WrongLastSequence => SinkError::Unavailable(
            "the stream has other records of this ledger by now; asking where it is".into(),
        ),
        _ => away(&error),
    })?;
    if ack.stream != *stream {
        return Err(SinkError::Refused(format!(
            "the stream {} acknowledged what is for {stream}; it has the subjects of another",
            ack.stream
        )));
    }
    if ack.duplicate {
        return Ok(None);
    }
    if ack.sequence <= tail.sequence {
        return Err(SinkError::Unavailable(format!(
            "{stream} acknowledged message {} behind {}; asking where the ledger is",
            ack.sequence, tail.sequence
        )));
    }
    Ok(Some(ack.sequence))
}
