//! Where a command finds its database: a directory it opens itself, or a server.
//!
//! Contract: without a word it is the loopback server, and if none answers the error names both ways. A directory is
//! made only by commands that write. Every door answers SQL and knows the types of tags; what differs beyond that is
//! decided by each command.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use futures::TryStreamExt;
use tagmill::{Database, Session};
use tagmill_client::{Credentials, Secured};
use tagmill_proto::v1;
use tagmill_storage::{Engine, ValueType};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

use super::failure::{Failure, Result};

/// Port of a server that was told nothing else.
pub const PORT: u16 = 7_410;
/// The server a command asks that was told nothing.
pub const LOOPBACK: &str = "127.0.0.1:7410";
/// Longest message of an answer.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// How long to wait for a server to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the database is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TargetArgs {
    /// Directory of the database, opened by this command alone.
    #[arg(long, value_name = "DIR", conflicts_with = "connect")]
    pub data: Option<PathBuf>,
    /// Address of a server; by default 127.0.0.1:7410.
    #[arg(long, value_name = "ADDR")]
    pub connect: Option<String>,
    /// File with the token for the server; else the variable `TAGMILL_TOKEN`.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub token_file: Option<PathBuf>,
    /// Authorities in PEM that have signed the server's certificate; else the variable `TAGMILL_CA`, or the system's.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub ca: Option<PathBuf>,
}

/// An open way to a database.
#[derive(Debug)]
pub enum Door {
    /// A directory.
    Local(Local),
    /// A server.
    Remote(Remote),
}

/// What a statement answers with, in this order; notices may come at any time.
#[derive(Debug)]
pub enum Heard<'a> {
    /// The columns.
    Schema(&'a SchemaRef),
    /// Rows.
    Rows(&'a RecordBatch),
    /// A remark.
    Notice(&'a str),
}

/// Takes an answer as it comes.
pub type Hear<'a> = dyn FnMut(Heard<'_>) -> Result<()> + 'a;

impl TargetArgs {
    /// Opens the way for a command that writes: a directory is made if there is none.
    ///
    /// # Errors
    /// If the directory cannot be opened, or no server answers.
    pub fn open(&self) -> Result<Door> {
        self.open_with(true)
    }

    /// Opens the way for a command that reads.
    ///
    /// # Errors
    /// If there is no such directory, it cannot be opened, or no server answers.
    pub fn open_existing(&self) -> Result<Door> {
        self.open_with(false)
    }

    fn open_with(&self, create: bool) -> Result<Door> {
        if let Some(dir) = &self.data {
            return Local::open(dir, create, Runtime::new()?).map(Door::Local);
        }
        self.open_remote().map(Door::Remote)
    }

    /// Who the server is told that we are.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn credentials(&self) -> Result<Credentials> {
        let mut credentials =
            Credentials::from_environment().map_err(|error| Failure::new(error.to_string()))?;
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
        };
        if let Some(path) = &self.token_file {
            let token = String::from_utf8(read(path)?).map_err(|_| {
                Failure::new(format!("{}: there is no token in it", path.display()))
            })?;
            credentials.token = Some(token.trim().to_owned());
        }
        if let Some(path) = &self.ca {
            credentials.authorities = Some(read(path)?);
        }
        Ok(credentials)
    }

    /// Opens the way to the server, whatever directory is named.
    ///
    /// # Errors
    /// If no server answers.
    pub fn open_remote(&self) -> Result<Remote> {
        let runtime = Runtime::new()?;
        let address = self.connect.as_deref().unwrap_or(LOOPBACK);
        let remote = Remote {
            runtime: Arc::new(runtime),
            uri: uri_of(address),
            was_told: self.connect.is_some(),
            settings: HashMap::new(),
            credentials: self.credentials()?,
        };
        remote.block_on(remote.channel())?;
        Ok(remote)
    }
}

impl Door {
    /// Runs one statement.
    ///
    /// # Errors
    /// If it is wrong or fails, or `hear` does.
    pub fn execute(&mut self, sql: &str, hear: &mut Hear<'_>) -> Result<()> {
        match self {
            Self::Local(local) => local.execute(sql, hear),
            Self::Remote(remote) => remote.execute(sql, hear),
        }
    }

    /// Runs one statement and hands over its rows alone.
    ///
    /// # Errors
    /// As [`Door::execute`].
    pub fn rows(
        &mut self,
        sql: &str,
        mut take: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.execute(sql, &mut |heard| match heard {
            Heard::Rows(batch) => take(batch),
            Heard::Schema(_) | Heard::Notice(_) => Ok(()),
        })
    }

    /// The first column of a statement's answer, as texts; nulls are left out.
    ///
    /// # Errors
    /// As [`Door::execute`].
    pub fn texts(&mut self, sql: &str) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        self.rows(sql, |batch| {
            let column = cast(batch.column(0), &DataType::Utf8)?;
            texts.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
            Ok(())
        })?;
        Ok(texts)
    }

    /// The name to show for it.
    pub fn name(&self) -> String {
        match self {
            Self::Local(local) => local.dir.display().to_string(),
            Self::Remote(remote) => remote.uri.clone(),
        }
    }

    /// Closes a directory properly; a server needs nothing.
    ///
    /// # Errors
    /// If the last bytes cannot be written.
    pub fn close(self) -> Result<()> {
        match self {
            Self::Local(local) => local.close(),
            Self::Remote(_) => Ok(()),
        }
    }
}

/// A database this process has opened.
#[derive(Debug)]
pub struct Local {
    dir: PathBuf,
    runtime: Runtime,
    database: Database,
    session: Session,
}

impl Local {
    fn open(dir: &std::path::Path, create: bool, runtime: Runtime) -> Result<Self> {
        if !create && !dir.is_dir() {
            return Err(Failure::new(format!("{}: no such directory", dir.display())).next(
                "name the directory of a database with --data, or a server with --connect ADDR",
            ));
        }
        let storage = tagmill_storage::Options { create, ..tagmill_storage::Options::default() };
        let options = tagmill::Options { storage, ..tagmill::Options::default() };
        let database = Database::open(dir, options)?;
        let session = database.session();
        Ok(Self { dir: dir.to_owned(), runtime, database, session })
    }

    /// The storage engine.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(self.database.engine())
    }

    fn execute(&mut self, sql: &str, hear: &mut Hear<'_>) -> Result<()> {
        let session = &mut self.session;
        self.runtime.block_on(unless_interrupted(async {
            let mut answer = session.execute(sql).await?;
            for notice in &answer.notices {
                hear(Heard::Notice(notice))?;
            }
            hear(Heard::Schema(&answer.schema))?;
            while let Some(batch) = answer.stream.try_next().await.map_err(tagmill::Error::from)? {
                hear(Heard::Rows(&batch))?;
            }
            Ok(())
        }))
    }

    /// Closes the database.
    ///
    /// # Errors
    /// If the last bytes cannot be written.
    pub fn close(self) -> Result<()> {
        drop(self.session);
        drop(self.runtime);
        Ok(self.database.close()?)
    }
}

/// A server.
#[derive(Clone, Debug)]
pub struct Remote {
    runtime: Arc<Runtime>,
    uri: String,
    was_told: bool,
    /// The server keeps no session for us: settings travel with each statement.
    settings: HashMap<String, String>,
    credentials: Credentials,
}

impl Remote {
    /// Runs a future to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A connection.
    ///
    /// # Errors
    /// If no server answers, with what to do then.
    pub async fn channel(&self) -> Result<Secured> {
        let tune = |endpoint: Endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        self.credentials.connect(&self.uri, tune).await.map_err(|error| match error {
            tagmill_client::Error::Unreachable { why, .. } if self.uri.starts_with("https") => {
                Failure::new(format!("no server answers at {}: {why}", self.uri))
                    .next("--ca FILE names the authority that has signed its certificate")
            }
            tagmill_client::Error::Unreachable { .. } => self.unreachable(),
            other => Failure::new(other.to_string()).next("write an address like 127.0.0.1:7410"),
        })
    }

    fn unreachable(&self) -> Failure {
        let next = if self.was_told {
            "check the address, and that 'tagmill serve' runs there"
        } else {
            "--data DIR opens a directory without a server, --connect ADDR asks another server, \
             'tagmill serve --data DIR' starts one here"
        };
        Failure::new(format!("no server answers at {}", self.uri)).next(next)
    }

    /// What a server's refusal means to a person.
    pub fn failure(&self, status: &tonic::Status) -> Failure {
        match status.code() {
            tonic::Code::Unavailable if status.message().contains("transport") => {
                self.unreachable()
            }
            tonic::Code::Unimplemented => {
                Failure::new(format!("the server at {} lacks this call", self.uri))
                    .next("it is older than this program: upgrade it")
            }
            tonic::Code::Unauthenticated => Failure::new(status.message())
                .next("--token-file FILE or the variable TAGMILL_TOKEN gives a token"),
            _ => Failure::new(status.message()),
        }
    }

    fn execute(&mut self, sql: &str, hear: &mut Hear<'_>) -> Result<()> {
        self.block_on(unless_interrupted(self.ask(sql, hear)))?;
        match setting(sql) {
            Some((name, Some(value))) => {
                self.settings.insert(name, value);
            }
            Some((name, None)) if name == "all" => self.settings.clear(),
            Some((name, None)) => {
                self.settings.remove(&name);
            }
            None => {}
        }
        Ok(())
    }

    async fn ask(&self, sql: &str, hear: &mut Hear<'_>) -> Result<()> {
        let mut client = v1::query_client::QueryClient::new(self.channel().await?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = v1::ExecuteRequest { sql: sql.to_owned(), settings: self.settings.clone() };
        let answer = client.execute(request).await.map_err(|status| self.failure(&status))?;
        let mut pieces = answer.into_inner();
        let mut decoder = StreamDecoder::new();
        let mut has_schema = false;
        while let Some(piece) = pieces.message().await.map_err(|status| self.failure(&status))? {
            use v1::execute_response::Message;
            match piece.message {
                Some(Message::Notice(notice)) => hear(Heard::Notice(&notice))?,
                Some(Message::Finished(_)) => return Ok(()),
                None => {}
                Some(Message::Ipc(bytes)) => {
                    let mut bytes = Buffer::from(bytes);
                    loop {
                        let batch = decoder.decode(&mut bytes)?;
                        if let Some(schema) = decoder.schema().filter(|_| !has_schema) {
                            has_schema = true;
                            hear(Heard::Schema(&schema))?;
                        }
                        match batch {
                            Some(batch) => hear(Heard::Rows(&batch))?,
                            None => break,
                        }
                    }
                }
            }
        }
        Err(Failure::new("the answer broke off").next("run it again; the server may have stopped"))
    }

    /// The types of all tags, by name.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub fn tag_types(&self) -> Result<HashMap<String, ValueType>> {
        let mut types = HashMap::new();
        let mut hear = |heard: Heard<'_>| {
            if let Heard::Rows(batch) = heard {
                let names = cast(batch.column(0), &DataType::Utf8)?;
                let kinds = cast(batch.column(1), &DataType::Utf8)?;
                let pairs = names.as_string::<i32>().iter().zip(kinds.as_string::<i32>());
                for (name, kind) in pairs {
                    let kind = kind.and_then(ValueType::from_name);
                    types.extend(name.map(str::to_owned).zip(kind));
                }
            }
            Ok(())
        };
        self.block_on(self.ask("SELECT tag, type FROM tags", &mut hear))?;
        Ok(types)
    }
}

/// Ctrl-C ends the statement, not the program.
async fn unless_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        result = work => result,
        signal = tokio::signal::ctrl_c() => {
            signal?;
            Err(Failure::new("interrupted"))
        }
    }
}

/// An address with scheme and port.
pub(crate) fn uri_of(address: &str) -> String {
    let address = address.trim().trim_end_matches('/');
    let (scheme, host) = address.split_once("://").unwrap_or(("http", address));
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        && !host.ends_with(']');
    if has_port { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{PORT}") }
}

/// The setting a statement changes, with its new value, or `None` for its default.
fn setting(sql: &str) -> Option<(String, Option<String>)> {
    let sql = sql.trim().trim_end_matches(';').trim_end();
    let (word, rest) = sql.split_once(char::is_whitespace)?;
    if word.eq_ignore_ascii_case("reset") {
        return Some((rest.trim().to_lowercase(), None));
    }
    if !word.eq_ignore_ascii_case("set") {
        return None;
    }
    let rest = rest.trim();
    let rest = match rest.split_once(char::is_whitespace) {
        Some((word, rest)) if word.eq_ignore_ascii_case("session") => rest.trim(),
        _ => rest,
    };
    let time_zone = rest.get(..9).filter(|words| words.eq_ignore_ascii_case("time zone"));
    let (name, value) = match time_zone {
        Some(_) => ("timezone", rest.get(9..)?),
        None => rest.split_once('=').or_else(|| {
            let at = rest.to_lowercase().find(" to ")?;
            Some((rest.get(..at)?, rest.get(at + 4..)?))
        })?,
    };
    let value = value.trim();
    let quoted = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
    let value = quoted.map_or_else(|| value.to_owned(), |value| value.replace("''", "'"));
    let is_default = value.eq_ignore_ascii_case("default");
    Some((name.trim().to_lowercase(), Some(value).filter(|_| !is_default)))
}

/// A text as an SQL literal.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl From<tagmill::Error> for Failure {
    fn from(error: tagmill::Error) -> Self {
        match error {
            tagmill::Error::Storage(error) => error.into(),
            other => Self::new(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_scheme_and_port() {
        assert_eq!(uri_of("127.0.0.1:7410"), "http://127.0.0.1:7410");
        assert_eq!(uri_of("plant"), "http://plant:7410");
        assert_eq!(uri_of("[::1]"), "http://[::1]:7410");
        assert_eq!(uri_of("https://plant:1/"), "https://plant:1");
    }

    #[test]
    fn settings_are_recognised() {
        let pair = |name: &str, value: &str| Some((name.to_owned(), Some(value.to_owned())));
        assert_eq!(setting("SET timezone = 'Europe/Berlin';"), pair("timezone", "Europe/Berlin"));
        assert_eq!(setting("set TIME ZONE 'UTC'"), pair("timezone", "UTC"));
        assert_eq!(setting("SET tagmill.max_rows TO 5"), pair("tagmill.max_rows", "5"));
        assert_eq!(setting("SET timezone = DEFAULT"), Some(("timezone".into(), None)));
        assert_eq!(setting("RESET ALL"), Some(("all".into(), None)));
        assert_eq!(setting("SELECT 1"), None);
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(quoted("it's"), "'it''s'");
    }

    #[test]
    fn no_server_names_both_ways() {
        let target =
            TargetArgs { connect: Some("127.0.0.1:1".to_owned()), ..TargetArgs::default() };
        let said = target.open().unwrap_err().to_string();
        assert!(said.contains("no server answers") && said.contains("serve"), "{said}");
        let target = TargetArgs { data: Some("/no/such/dir".into()), ..TargetArgs::default() };
        let said = target.open_existing().unwrap_err().to_string();
        assert!(said.contains("--data") && said.contains("--connect"), "{said}");
    }
}
