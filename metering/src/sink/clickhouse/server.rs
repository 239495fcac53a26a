//! Questions over ClickHouse's HTTP interface, and what its answers mean.
//!
//! A 200 is not yet an answer: the server may find out behind it that it failed, and says so in the body. So what reads
//! takes JSON that is whole and counts its rows, and what writes takes an empty body; anything else is a failure.

use super::target::{Place, Target};
use crate::sink::{
    SinkError,
    line::{Answer, Line},
    text::unhex_exact,
    trust,
};
use form_urlencoded::Serializer;
use http_body_util::Full;
use hyper::{
    Request,
    body::Bytes,
    header::{HOST, HeaderValue, USER_AGENT},
};
use serde::Deserialize;
use serde_json::Value;

/// What is read of an answer, bytes: the sums of 10,000 tenants in every zone are a quarter of it.
const ANSWER_MAX: usize = 64 << 20;
/// What is told of one, characters.
const TOLD_MAX: usize = 300;

/// Exceptions that no later try makes good: rights, names, types, settings, and users who are not known. The numbers are
/// ClickHouse's. A table or database that is not there (60, 81) is made anew at the next try.
const REFUSED: [u32; 27] = [
    16, 36, 43, 44, 46, 47, 48, 50, 53, 62, 70, 115, 164, 181, 192, 193, 194, 195, 248, 291, 344,
    386, 452, 497, 516, 564, 726,
];
/// Those of them that are about who asks.
const WHO: [u32; 5] = [192, 193, 194, 497, 516];

/// A row, each column as text.
pub(super) struct Row(Vec<String>);

impl Row {
    pub fn text(&self, at: usize) -> &str {
        self.0.get(at).map_or("", String::as_str)
    }

    /// A column that is a number.
    ///
    /// # Errors
    /// [`SinkError::Refused`]: it is none, or does not fit.
    pub fn number<T: std::str::FromStr>(&self, at: usize) -> Result<T, SinkError> {
        let text = self.text(at);
        text.parse().map_err(|_| {
            SinkError::Refused(format!(
                "its tables are not octroi's: {text:?} is no number"
            ))
        })
    }

    /// A column of so many bytes in hexadecimal digits.
    ///
    /// # Errors
    /// [`SinkError::Refused`]: it is another.
    pub fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], SinkError> {
        let text = self.text(at);
        unhex_exact(text).ok_or_else(|| {
            SinkError::Refused(format!(
                "its tables are not octroi's: {text:?} is not {N} bytes"
            ))
        })
    }
}

#[derive(Deserialize)]
struct Rows {
    data: Vec<Vec<Value>>,
    rows: usize,
    exception: Option<String>,
}

/// A server that takes questions.
pub(super) struct Server<'a> {
    url: &'a str,
    place: Place,
    password: Option<HeaderValue>,
    line: Line,
}

impl<'a> Server<'a> {
    /// Connects; who asks is told with each question.
    pub async fn open(target: &'a Target) -> Result<Self, SinkError> {
        let place = target.place().map_err(SinkError::Refused)?;
        let password = target.password_file.as_deref().map(|path| {
            let secret = trust::secret(path)?;
            let mut value = HeaderValue::try_from(secret).map_err(|_| {
                let path = path.display();
                SinkError::Refused(format!(
                    "{path}: it has characters that a header cannot carry"
                ))
            })?;
            value.set_sensitive(true);
            Ok::<_, SinkError>(value)
        });
        let password = password.transpose()?;
        let line = Line::open(&target.url, &place.address, target.ca_file.as_deref()).await?;
        Ok(Self {
            url: &target.url,
            place,
            password,
            line,
        })
    }

    pub fn database(&self) -> &str {
        &self.place.database
    }

    /// What a SELECT gives. `params`: what it has as `{name:Type}`.
    ///
    /// # Errors
    /// [`SinkError`].
    pub async fn rows(
        &mut self,
        select: &str,
        params: &[(&str, &str)],
    ) -> Result<Vec<Row>, SinkError> {
        let database = self.place.database.clone();
        self.rows_of(Some(&database), select, params).await
    }

    /// The same of the server's own tables, whether the database is there or not.
    ///
    /// # Errors
    /// [`SinkError`].
    pub async fn system(
        &mut self,
        select: &str,
        params: &[(&str, &str)],
    ) -> Result<Vec<Row>, SinkError> {
        self.rows_of(None, select, params).await
    }

    async fn rows_of(
        &mut self,
        database: Option<&str>,
        select: &str,
        params: &[(&str, &str)],
    ) -> Result<Vec<Row>, SinkError> {
        let text = format!("{select} FORMAT JSONCompact");
        // Longer than what it takes by itself are sums without what is erased.
        let length = (text.len() + 1_024).max(256 << 10).to_string();
        let mut names = Serializer::new(String::new());
        names.append_pair("output_format_json_quote_64bit_integers", "1");
        names.append_pair("max_query_size", &length);
        for (name, value) in params {
            names.append_pair(&format!("param_{name}"), &escaped(value));
        }
        let answer = self.ask(database, names, text.into_bytes()).await?;
        let body = answer.body.as_deref().unwrap_or_default();
        let rows = match serde_json::from_slice::<Rows>(body) {
            Ok(rows) if rows.exception.is_none() && rows.rows == rows.data.len() => rows,
            _ => return Err(self.behind(&answer)),
        };
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let rows = rows.data.into_iter();
        Ok(rows
            .map(|row| Row(row.into_iter().map(text).collect()))
            .collect())
    }

    /// Changes something: a statement without data.
    ///
    /// # Errors
    /// [`SinkError`].
    pub async fn change(
        &mut self,
        database: Option<&str>,
        statement: &str,
    ) -> Result<(), SinkError> {
        let names = Serializer::new(String::new());
        let answer = self.ask(database, names, statement.into()).await?;
        self.nothing(&answer)
    }

    /// Inserts rows, all of them as one block. `into`: the table and its columns. `token`: a second insert of the same name is dropped;
    /// `None`: none is.
    ///
    /// # Errors
    /// [`SinkError`]. Afterwards nothing is known but what is there.
    pub async fn insert(
        &mut self,
        into: &str,
        rows: Vec<u8>,
        token: Option<&str>,
    ) -> Result<(), SinkError> {
        let database = self.place.database.clone();
        let mut names = Serializer::new(String::new());
        names.append_pair("query", &format!("INSERT INTO {into} FORMAT RowBinary"));
        // Acknowledged is what is there, whatever a user's profile says.
        names.append_pair("async_insert", "0");
        match token {
            Some(token) => names.append_pair("insert_deduplication_token", token),
            None => names.append_pair("insert_deduplicate", "0"),
        };
        let answer = self.ask(Some(&database), names, rows).await?;
        self.nothing(&answer)
    }

    /// Asks, and fails where the answer begins as a failure.
    async fn ask(
        &mut self,
        database: Option<&str>,
        mut names: Serializer<'_, String>,
        body: Vec<u8>,
    ) -> Result<Answer, SinkError> {
        names.append_pair("wait_end_of_query", "1");
        if let Some(database) = database {
            names.append_pair("database", database);
        }
        let mut request = Request::post(format!("/?{}", names.finish()))
            .header(HOST, &self.place.address.authority)
            .header(USER_AGENT, concat!("octroi/", env!("CARGO_PKG_VERSION")));
        if let Some(user) = &self.place.user {
            request = request.header("X-ClickHouse-User", user);
        }
        if let Some(password) = &self.password {
            request = request.header("X-ClickHouse-Key", password);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| SinkError::Refused(format!("a request: {error}")))?;
        let answer = self.line.ask(request, ANSWER_MAX).await;
        let answer =
            answer.map_err(|error| SinkError::Unavailable(format!("{}: {error}", self.url)))?;
        let header = answer.headers.get("x-clickhouse-exception-code");
        if answer.status.as_u16() != 200 || header.is_some() {
            let code = header.and_then(|code| code.to_str().ok()?.parse().ok());
            return Err(self.told(&answer, code));
        }
        match &answer.body {
            Ok(_) => Ok(answer),
            Err(why) => Err(SinkError::Unavailable(format!(
                "{}: its answer did not come whole ({why})",
                self.url
            ))),
        }
    }

    /// What changes something says nothing when it worked.
    fn nothing(&self, answer: &Answer) -> Result<(), SinkError> {
        match answer.body.as_deref() {
            Ok([]) => Ok(()),
            _ => Err(self.behind(answer)),
        }
    }

    /// A failure that came behind a 200.
    fn behind(&self, answer: &Answer) -> SinkError {
        let body = String::from_utf8_lossy(answer.body.as_deref().unwrap_or_default());
        let at = body.rfind("Code: ");
        let code = at.and_then(|at| {
            let (digits, rest) = body[at + 6..].split_once('.')?;
            rest.starts_with(" DB::Exception")
                .then(|| digits.parse().ok())?
        });
        match (code, at) {
            (Some(code), Some(at)) => {
                let words: Vec<&str> = body[at..].split_whitespace().collect();
                let said: String = words.join(" ").chars().take(TOLD_MAX).collect();
                self.means(code, &format!("{} failed behind its 200: {said}", self.url))
            }
            _ => SinkError::Unavailable(format!(
                "{} answered what is not ClickHouse's: {:?}",
                self.url,
                answer.said(TOLD_MAX)
            )),
        }
    }

    /// A failure that began as one.
    fn told(&self, answer: &Answer, code: Option<u32>) -> SinkError {
        let (status, said) = (answer.status, answer.said(TOLD_MAX));
        let answered = if said.is_empty() {
            format!("{} answered {status}", self.url)
        } else {
            format!("{} answered {status}: {said}", self.url)
        };
        match (code, status.as_u16()) {
            (Some(code), _) => self.means(code, &answered),
            (None, 300..=399) => SinkError::Refused(format!(
                "{answered}: no redirection is followed; write the address that it names as `url`"
            )),
            (None, 401 | 403) => self.means(WHO[0], &answered),
            (None, 408 | 413 | 425 | 429 | 500..=599) => SinkError::Unavailable(answered),
            (None, _) => SinkError::Refused(format!("{answered}: this is no ClickHouse")),
        }
    }

    fn means(&self, code: u32, said: &str) -> SinkError {
        if WHO.contains(&code) {
            SinkError::Refused(format!(
                "{said}; write the user into `url` and the password into `password_file`, and give the user its rights"
            ))
        } else if REFUSED.contains(&code) {
            SinkError::Refused(said.to_owned())
        } else {
            SinkError::Unavailable(said.to_owned())
        }
    }
}

/// A parameter as its format "Escaped" has it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\0' => escaped.push_str("\\0"),
            c => escaped.push(c),
        }
    }
    escaped
}
