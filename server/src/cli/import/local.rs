//! A sink into an engine of this process.
//!
//! Contract: one thread appends in order while the file is read on; a full head is waited for. The session is the
//! newest of its import: a second run of the same import at the same time fences the first.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tagmill_storage::{
    Batch, Engine, Error, Origin, Session, TagColumn, TagDefinition, TagId, ValueType,
};

use super::sink::{Column, Sink, SinkReject};
use crate::cli::failure::{Failure, Result};

/// Batches that may wait for the appending thread.
const QUEUE: usize = 2;

/// The gateway an import writes as.
pub fn gateway(id: &str) -> String {
    format!("import/{id}")
}

/// A sink into an engine.
#[derive(Debug)]
pub struct LocalSink {
    engine: Arc<Engine>,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    gateway: Arc<str>,
    session: u64,
    queue: Option<SyncSender<Batch>>,
    thread: JoinHandle<Result<HashMap<(TagId, String), u64>>>,
}

impl LocalSink {
    /// A sink into this engine.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, writer: None }
    }

    /// Waits for the appending thread: what was refused, or why it stopped.
    fn join(&mut self) -> Result<HashMap<(TagId, String), u64>> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(HashMap::new());
        };
        drop(writer.queue.take());
        writer.thread.join().unwrap_or_else(|_| Err(Failure::new("the appending thread panicked")))
    }
}

impl Sink for LocalSink {
    fn begin(&mut self, id: &str) -> Result<u64> {
        self.join()?;
        let gateway = gateway(id);
        let Session { generation, mark } = self.engine.open_session(&gateway, 1)?;
        let (queue, batches) = sync_channel::<Batch>(QUEUE);
        let engine = Arc::clone(&self.engine);
        let thread = std::thread::spawn(move || {
            let mut rejects = HashMap::new();
            for batch in batches {
                for reject in append(&engine, &batch)? {
                    let count = u64::from(reject.count);
                    *rejects.entry((reject.tag, reject.reason.to_string())).or_insert(0) += count;
                }
            }
            Ok(rejects)
        });
        self.writer = Some(Writer {
            gateway: gateway.into(),
            session: generation,
            queue: Some(queue),
            thread,
        });
        Ok(mark)
    }

    fn type_of(&self, name: &str) -> Option<ValueType> {
        let snapshot = self.engine.snapshot();
        let registry = snapshot.registry();
        Some(registry.get(registry.find(name)?)?.value_type)
    }

    fn define(&mut self, tags: &[TagDefinition]) -> Result<Vec<Result<u32, String>>> {
        let answers = self.engine.reserve(tags).into_iter();
        Ok(answers.map(|tag| tag.map(|tag| tag.0).map_err(|error| error.to_string())).collect())
    }

    fn send(&mut self, seq: u64, columns: Vec<Column>) -> Result<()> {
        let Some(writer) = &self.writer else {
            return Err(Failure::new("the import has not begun"));
        };
        let origin =
            Origin { gateway: Arc::clone(&writer.gateway), epoch: 1, seq, session: writer.session };
        let columns = columns
            .into_iter()
            .map(|column| TagColumn {
                tag: TagId(column.tag),
                times: column.times,
                values: column.values,
                qualities: column.qualities,
            })
            .collect();
        let batch = Batch { columns, origin: Some(origin), ..Batch::default() };
        let is_taken = writer.queue.as_ref().is_some_and(|queue| queue.send(batch).is_ok());
        if is_taken {
            return Ok(());
        }
        // The thread hangs up only when an append has failed.
        self.join()?;
        Err(Failure::new("the appending thread has stopped"))
    }

    fn finish(&mut self) -> Result<Vec<SinkReject>> {
        let rejects = self.join()?;
        Ok(rejects
            .into_iter()
            .map(|((tag, reason), count)| SinkReject { tag: tag.0, count, reason })
            .collect())
    }
}

/// Appends a batch, waiting while the head is full.
fn append(engine: &Engine, batch: &Batch) -> Result<Vec<tagmill_storage::Reject>> {
    loop {
        match engine.append(batch.clone()) {
            Ok(appended) => return Ok(appended.rejects),
            // The engine has waited already; sealing goes on meanwhile.
            Err(Error::Busy { .. }) => {}
            Err(error @ Error::Fenced { .. }) => {
                return Err(Failure::from(error).next("the same import runs elsewhere: let it end"));
            }
            Err(error) => {
                return Err(Failure::from(error)
                    .next("run the same import again: it goes on where it stopped"));
            }
        }
    }
}
