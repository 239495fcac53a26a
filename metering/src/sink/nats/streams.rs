//! The two streams of a fleet: of records, and of what the store answers.

use super::{
    Target, away,
    wire::{Answer, Sent},
};
use crate::sink::{Mark, SinkError, text::unhex_exact};
use async_nats::jetstream::{
    Context, ErrorCode,
    context::GetStreamErrorKind,
    message::StreamMessage,
    stream::{
        Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream,
    },
};
use futures_util::StreamExt as _;
use std::time::Duration;

/// Of a stream that is made here: until a record that no store has taken is dropped. Its host has it still.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Of a stream that is made here: how long a name is known, the server's own default.
const NAMES_KEPT: Duration = Duration::from_secs(120);

/// Both, checked.
pub(super) struct Streams {
    pub records: Stream,
    pub answers: Stream,
    pub target: Target,
}

impl Streams {
    /// Looks whether they are what they must be, and makes them where the configuration says so.
    pub async fn open(context: &Context, target: &Target) -> Result<Self, SinkError> {
        let [records, answers] = wanted(target);
        Ok(Self {
            records: open(context, target, records).await?,
            answers: open(context, target, answers).await?,
            target: target.clone(),
        })
    }

    /// How far a ledger is in the stream: the sequence number of its last message, its mark, and which question
    /// it answers. `None`: no message of it is there (any more).
    pub async fn last(&self, ledger_id: &[u8; 16]) -> Result<Option<(u64, Mark, u64)>, SinkError> {
        let Some(message) = last(&self.records, &self.target.subject(ledger_id)).await? else {
            return Ok(None);
        };
        let (mark, answers) = Sent::decode_line(&message.payload).map_err(|error| {
            SinkError::Refused(format!(
                "message {} of the stream {} is no batch of records ({error}); somebody else writes there",
                message.sequence, self.target.stream
            ))
        })?;
        Ok(Some((message.sequence, mark, answers)))
    }

    /// What the store said last of every ledger.
    pub async fn answers(&self) -> Result<Vec<([u8; 16], Answer)>, SinkError> {
        let all = format!("{}.ack.*", self.target.stream);
        let mut subjects = self
            .answers
            .info_with_subjects(all)
            .await
            .map_err(|error| away(&error))?;
        let mut answers = Vec::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(|error| away(&error))?;
            let id = subject.rsplit('.').next().and_then(unhex_exact::<16>);
            if let Some(id) = id
                && let Some(answer) = self.answer(&id).await?
            {
                answers.push((id, answer));
            }
        }
        Ok(answers)
    }

    /// What the store said last of a ledger; `None`: it has said nothing yet.
    pub async fn answer(&self, ledger_id: &[u8; 16]) -> Result<Option<Answer>, SinkError> {
        let Some(message) = last(&self.answers, &self.target.answer_subject(ledger_id)).await?
        else {
            return Ok(None);
        };
        let answer = Answer::decode(&message.payload).map_err(|error| {
            SinkError::Refused(format!(
                "message {} of the stream {} is no answer of a store ({error}); somebody else writes there",
                message.sequence,
                answers_of(&self.target.stream)
            ))
        })?;
        Ok(Some(answer))
    }
}

fn answers_of(stream: &str) -> String {
    format!("{stream}-ack")
}

/// As they are made where the configuration says so.
fn wanted(target: &Target) -> [Config; 2] {
    let stream = &target.stream;
    let common = Config {
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: usize::from(target.replicas.unwrap_or(1)),
        duplicate_window: NAMES_KEPT,
        allow_direct: true,
        ..Config::default()
    };
    [
        Config {
            name: stream.clone(),
            description: Some("records of octroi, until the store has them".into()),
            subjects: vec![format!("{stream}.record.*")],
            max_age: KEPT,
            // A full stream refuses: hosts wait, and their ledgers keep what it has not.
            discard: DiscardPolicy::New,
            ..common.clone()
        },
        Config {
            name: answers_of(stream),
            description: Some("how far the store is in each ledger of octroi".into()),
            subjects: vec![format!("{stream}.ack.*")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::Old,
            ..common
        },
    ]
}

async fn open(context: &Context, target: &Target, wanted: Config) -> Result<Stream, SinkError> {
    let error = match context.get_stream(&wanted.name).await {
        Ok(stream) => {
            let config = &stream.cached_info().config;
            check(config, &wanted, target.replicas.is_some()).map_err(|wrong| {
                SinkError::Refused(format!("the stream {}: {wrong}", wanted.name))
            })?;
            return Ok(stream);
        }
        Err(error) => error,
    };
    let is_missing = matches!(error.kind(), GetStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_NOT_FOUND);
    if !is_missing {
        return Err(away(&error));
    }
    if target.replicas.is_none() {
        return Err(SinkError::Refused(format!(
            "there is no stream {}; make it as docs/FLEET.md says, or write replicas = 3, and it is made",
            wanted.name
        )));
    }
    let made = context.create_stream(wanted).await;
    made.map_err(|error| away(&error))
}

/// What a stream must be so that what it acknowledged is there until it is taken.
fn check(config: &Config, wanted: &Config, counts_copies: bool) -> Result<(), String> {
    let is_of_answers = wanted.max_messages_per_subject == 1;
    if !wanted
        .subjects
        .iter()
        .all(|subject| config.subjects.contains(subject))
    {
        return Err(format!(
            "its subjects are {}; they must have {}",
            config.subjects.join(", "),
            wanted.subjects.join(", ")
        ));
    }
    if config.storage != StorageType::File {
        return Err("it is kept in memory; make it with storage file".into());
    }
    if config.retention != RetentionPolicy::Limits {
        return Err(
            "its retention is not limits: what is last of a ledger must stay; make it anew".into(),
        );
    }
    if config.sealed || config.no_ack {
        return Err("it is sealed or acknowledges nothing; make it anew".into());
    }
    if is_of_answers && config.max_age != Duration::ZERO {
        return Err("it forgets with time how far the store is; take its max_age out".into());
    }
    if counts_copies && config.num_replicas < wanted.num_replicas {
        return Err(format!(
            "it has {} copies, and the configuration wants {}; add them, or change `replicas`",
            config.num_replicas, wanted.num_replicas
        ));
    }
    Ok(())
}

/// The last message of a subject, as the stream's leader has it.
async fn last(stream: &Stream, subject: &str) -> Result<Option<StreamMessage>, SinkError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(away(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_would_lose_records_is_refused_in_words() {
        let target = Target {
            url: "nats://localhost:4222".into(),
            stream: "octroi".into(),
            replicas: Some(3),
            password_file: None,
            token_file: None,
            ca_file: None,
        };
        let [records, answers] = wanted(&target);
        let with = |of: &Config, change: fn(&mut Config)| {
            let mut config = of.clone();
            change(&mut config);
            check(&config, of, true)
        };
        assert_eq!(with(&records, |_| ()), Ok(()));
        assert_eq!(with(&answers, |_| ()), Ok(()));
        assert_eq!(with(&records, |config| config.num_replicas = 5), Ok(()));
        for (of, change, part) in [
            (
                &records,
                (|config| config.subjects.clear()) as fn(&mut Config),
                "must have octroi.record.*",
            ),
            (
                &records,
                |config| config.storage = StorageType::Memory,
                "in memory",
            ),
            (
                &records,
                |config| config.retention = RetentionPolicy::WorkQueue,
                "must stay",
            ),
            (&records, |config| config.sealed = true, "sealed"),
            (&records, |config| config.no_ack = true, "sealed"),
            (
                &records,
                |config| config.num_replicas = 1,
                "it has 1 copies",
            ),
            (
                &answers,
                |config| config.max_age = KEPT,
                "forgets with time",
            ),
        ] {
            let wrong = with(of, change).expect_err(part);
            assert!(wrong.contains(part), "{wrong}");
        }
    }
}
