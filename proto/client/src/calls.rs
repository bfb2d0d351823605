//! Calls without a stream: one write, care of tags, SQL. Thin on purpose: what the server answers is what comes back.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tagmill_proto::v1::admin_client::AdminClient;
use tagmill_proto::v1::execute_response::Message;
use tagmill_proto::v1::ingest_client::IngestClient;
use tagmill_proto::v1::query_client::QueryClient;
use tagmill_proto::v1::{
    DefineTags, DefineTagsRequest, DefineTagsResponse, DeleteRangeRequest, DeleteRangeResponse,
    DeleteTagRequest, EditTagRequest, ExecuteRequest, ExecuteResponse, NamedBatch, NamedColumn,
    RenameTagRequest, SealRequest, SetStatesRequest, TagDefinition, ValueType, WriteRequest,
    WriteResponse,
};
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::batch::{Qualities, Times, Values, make_column};
use crate::credentials::{Credentials, Secured};
use crate::definitions::TagDef;
use crate::error::Result;

async fn open(address: &str, credentials: &Credentials) -> Result<Secured> {
    let tune =
        |endpoint: Endpoint| endpoint.connect_timeout(Duration::from_secs(10)).tcp_nodelay(true);
    credentials.connect(address, tune).await
}

/// One batch by tag names, without a stream: for a few samples now and then. A [`crate::Gateway`] is much faster.
#[derive(Clone, Debug)]
pub struct Writer {
    client: IngestClient<Secured>,
}

/// Samples by tag names, for [`Writer::write`].
#[derive(Clone, Debug, Default)]
pub struct NamedSamples {
    columns: Vec<NamedColumn>,
}

impl NamedSamples {
    /// Adds samples of one tag. If it does not exist it is defined, of the type of its values.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if times, values and qualities differ in number.
    pub fn column(
        &mut self,
        name: &str,
        times: Times<'_>,
        values: Values<'_>,
        qualities: Qualities<'_>,
    ) -> Result<()> {
        let tag = TagDef::new(name, ValueType::Unspecified);
        self.typed_column(&tag, times, values, qualities)
    }

    /// Adds samples of one tag. If it does not exist it is defined, of the type that `tag` says; its attributes do not
    /// travel: [`Writer::define`] them.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if times, values and qualities differ in number.
    pub fn typed_column(
        &mut self,
        tag: &TagDef,
        times: Times<'_>,
        values: Values<'_>,
        qualities: Qualities<'_>,
    ) -> Result<()> {
        let column = Some(make_column(0, times, values, qualities)?);
        let (name, r#type) = (tag.name.clone(), tag.value_type.into());
        self.columns.push(NamedColumn { name, r#type, column });
        Ok(())
    }
}

impl Writer {
    /// Connects to a server, such as `127.0.0.1:7410`.
    ///
    /// # Errors
    /// [`crate::Error::Unreachable`].
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_as(address, &Credentials::default()).await
    }

    /// Connects to a server that asks who calls.
    ///
    /// # Errors
    /// [`crate::Error::Unreachable`], [`crate::Error::Invalid`].
    pub async fn connect_as(address: &str, credentials: &Credentials) -> Result<Self> {
        Ok(Self { client: IngestClient::new(open(address, credentials).await?) })
    }

    /// Writes samples; they are on disk when this returns. A second call with the same `key` changes nothing and says so;
    /// an empty key promises nothing.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn write(&mut self, key: &str, samples: NamedSamples) -> Result<WriteResponse> {
        let batch = Some(NamedBatch { columns: samples.columns });
        let request = WriteRequest { key: key.into(), durability: 0, batch };
        Ok(self.client.write(request).await?.into_inner())
    }

    /// Defines tags; they are on disk when this returns. The answer lists those that were refused.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn define(&mut self, tags: &[TagDef]) -> Result<DefineTagsResponse> {
        let tag = |def: &TagDef| TagDefinition {
            alias: 0,
            name: def.name.clone(),
            r#type: def.value_type.into(),
            attributes: Some(def.attributes.clone()),
        };
        let define = DefineTags { id: 0, tags: tags.iter().map(tag).collect() };
        let request = DefineTagsRequest { gateway: String::new(), define: Some(define) };
        Ok(self.client.define_tags(request).await?.into_inner())
    }
}

/// Care of the database. Every change is on disk when its call returns.
#[derive(Clone, Debug)]
pub struct Admin {
    client: AdminClient<Secured>,
}

impl Admin {
    /// Connects to a server, such as `127.0.0.1:7410`.
    ///
    /// # Errors
    /// [`crate::Error::Unreachable`].
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_as(address, &Credentials::default()).await
    }

    /// Connects to a server that asks who calls.
    ///
    /// # Errors
    /// [`crate::Error::Unreachable`], [`crate::Error::Invalid`].
    pub async fn connect_as(address: &str, credentials: &Credentials) -> Result<Self> {
        Ok(Self { client: AdminClient::new(open(address, credentials).await?) })
    }

    /// Changes attributes of a tag.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn edit_tag(&mut self, request: EditTagRequest) -> Result<()> {
        self.client.edit_tag(request).await?;
        Ok(())
    }

    /// Gives a tag another name.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn rename_tag(&mut self, name: &str, new_name: &str) -> Result<()> {
        let request = RenameTagRequest { name: name.into(), new_name: new_name.into() };
        self.client.rename_tag(request).await?;
        Ok(())
    }

    /// Deletes a tag with all its samples.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn delete_tag(&mut self, name: &str) -> Result<()> {
        self.client.delete_tag(DeleteTagRequest { name: name.into() }).await?;
        Ok(())
    }

    /// Deletes samples, or counts them.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn delete_range(
        &mut self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse> {
        Ok(self.client.delete_range(request).await?.into_inner())
    }

    /// Turns the samples held in memory into segments now; gives their numbers.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn seal(&mut self) -> Result<Vec<u64>> {
        Ok(self.client.seal(SealRequest {}).await?.into_inner().segments)
    }

    /// Gives codes of a state set their labels.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn set_states(&mut self, set: &str, labels: HashMap<u32, String>) -> Result<()> {
        self.client.set_states(SetStatesRequest { set: set.into(), labels }).await?;
        Ok(())
    }
}

/// SQL.
#[derive(Clone, Debug)]
pub struct Query {
    client: QueryClient<Secured>,
}

impl Query {
    /// Connects to a server, such as `127.0.0.1:7410`.
    ///
    /// # Errors
    /// [`crate::Error::Unreachable`].
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_as(address, &Credentials::default()).await
    }

    /// Connects to a server that asks who calls.
    ///
    /// # Errors
    /// [`crate::Error::Unreachable`], [`crate::Error::Invalid`].
    pub async fn connect_as(address: &str, credentials: &Credentials) -> Result<Self> {
        Ok(Self { client: QueryClient::new(open(address, credentials).await?) })
    }

    /// Runs one statement under these settings. The first piece of the answer may wait for the server's work.
    ///
    /// # Errors
    /// What the server answers: a mistake in the SQL, for example.
    pub async fn execute(
        &mut self,
        sql: &str,
        settings: HashMap<String, String>,
    ) -> Result<Answer> {
        let request = ExecuteRequest { sql: sql.into(), settings };
        Ok(Answer { pieces: self.client.execute(request).await?.into_inner() })
    }
}

/// The answer of [`Query::execute`]. Dropping it stops the statement.
#[derive(Debug)]
pub struct Answer {
    pieces: Streaming<ExecuteResponse>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// The next bytes of one Arrow IPC stream, cut anywhere.
    Ipc(Bytes),
    /// A remark of the server.
    Notice(String),
    /// The end: everything has arrived.
    Finished {
        /// Rows in all.
        rows: u64,
        /// Time the server took.
        elapsed: Duration,
    },
}

impl Answer {
    /// The next piece; `None` after [`Piece::Finished`].
    ///
    /// # Errors
    /// What the server answers. An answer that breaks off without its end is an error, too.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        while let Some(response) = self.pieces.message().await? {
            match response.message {
                Some(Message::Ipc(bytes)) => return Ok(Some(Piece::Ipc(bytes))),
                Some(Message::Notice(text)) => return Ok(Some(Piece::Notice(text))),
                Some(Message::Finished(end)) => {
                    let elapsed = Duration::from_nanos(end.elapsed_ns);
                    return Ok(Some(Piece::Finished { rows: end.rows, elapsed }));
                }
                // A later server may say more than this client knows.
                None => {}
            }
        }
        Ok(None)
    }
}
