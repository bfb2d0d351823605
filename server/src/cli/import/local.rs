//! A sink into an engine of this process.
//!
//! Contract: one thread pushes the batches into a backfill while the file is read on. Nothing is written before the
//! finish, which takes all of it in at once and with it the mark of the import's gateway; what stops before has written
//! nothing. The session is the newest of its import: a second run of the same import at the same time fences the first.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tagmill_storage::{
    Backfill, Engine, Error, Origin, Session, TagColumn, TagDefinition, TagId, ValueType,
};

use super::sink::{Column, Sink, SinkReject};
use crate::cli::failure::{Failure, Result};

/// Batches that may wait for the pushing thread.
const QUEUE: usize = 2;

/// Samples refused, by tag and reason.
type Rejects = HashMap<(TagId, String), u64>;

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
    /// The gateway's mark when the import began, and the newest batch handed over.
    origin: Origin,
    mark: u64,
    queue: Option<SyncSender<Step>>,
    thread: Option<JoinHandle<Result<Rejects>>>,
}

/// What the pushing thread is told. If it is told nothing more before the end, nothing is written.
enum Step {
    Push(Vec<TagColumn>),
    /// Take everything in, with this mark.
    Finish(Origin),
}

impl LocalSink {
    /// A sink into this engine.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, writer: None }
    }

    /// Waits for the pushing thread: what was refused, or why it stopped.
    fn join(&mut self) -> Result<Rejects> {
        let Some(mut writer) = self.writer.take() else { return Ok(HashMap::new()) };
        drop(writer.queue.take());
        let Some(thread) = writer.thread.take() else { return Ok(HashMap::new()) };
        thread.join().unwrap_or_else(|_| Err(Failure::new("the pushing thread panicked")))
    }

    fn tell(&mut self, step: Step) -> Result<()> {
        let queue = self.writer.as_ref().and_then(|writer| writer.queue.as_ref());
        if queue.is_some_and(|queue| queue.send(step).is_ok()) {
            return Ok(());
        }
        // The thread hangs up only when a push has failed.
        self.join()?;
        Err(Failure::new("the pushing thread has stopped"))
    }
}

impl Sink for LocalSink {
    fn begin(&mut self, id: &str) -> Result<u64> {
        self.join()?;
        let gateway = gateway(id);
        let Session { generation, mark } = self.engine.open_session(&gateway, 1)?;
        let origin = Origin { gateway: gateway.into(), epoch: 1, seq: mark, session: generation };
        self.writer = Some(Writer { origin, mark, queue: None, thread: None });
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
        let Some(writer) = &mut self.writer else {
            return Err(Failure::new("the import has not begun"));
        };
        writer.origin.seq = seq;
        if writer.queue.is_none() {
            // What was taken in before is another import's: this one goes on after it.
            let id = format!("{}@{}", writer.origin.gateway, writer.mark);
            let backfill = self.engine.backfill(&id)?;
            let (queue, steps) = sync_channel(QUEUE);
            writer.thread = Some(std::thread::spawn(move || push_all(backfill, &steps)));
            writer.queue = Some(queue);
        }
        let columns = columns.into_iter().map(|column| TagColumn {
            tag: TagId(column.tag),
            times: column.times,
            values: column.values,
            qualities: column.qualities,
        });
        self.tell(Step::Push(columns.collect()))
    }

    fn finish(&mut self) -> Result<Vec<SinkReject>> {
        let origin = self.writer.as_ref().map(|writer| writer.origin.clone());
        if let Some(origin) = origin.filter(|_| self.writer.as_ref().is_some_and(has_begun)) {
            self.tell(Step::Finish(origin))?;
        }
        let rejects = self.join()?.into_iter();
        let reject = |((tag, reason), count): ((TagId, String), u64)| SinkReject {
            tag: tag.0,
            count,
            reason,
        };
        Ok(rejects.map(reject).collect())
    }
}

fn has_begun(writer: &Writer) -> bool {
    writer.queue.is_some()
}

/// Pushes until the finish. Gives what was refused.
fn push_all(mut backfill: Backfill, steps: &Receiver<Step>) -> Result<Rejects> {
    let mut rejects = HashMap::new();
    let failed = |error: Error| match error {
        Error::Fenced { .. } => {
            Failure::from(error).next("the same import runs elsewhere: let it end")
        }
        error => Failure::from(error).next("nothing of the import was written: run it again"),
    };
    for step in steps {
        match step {
            Step::Push(columns) => {
                for reject in backfill.push(columns).map_err(failed)?.rejects {
                    let count = u64::from(reject.count);
                    *rejects.entry((reject.tag, reject.reason.to_string())).or_insert(0) += count;
                }
            }
            Step::Finish(origin) => {
                backfill.set_origin(origin);
                backfill.finish().map_err(failed)?;
                break;
            }
        }
    }
    Ok(rejects)
}
