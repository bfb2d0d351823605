//! Streams of batches that are made aside: on threads of the runtime that may block, a few batches ahead of the reader.
//!
//! # Contract
//! Nothing starts before the stream is first polled. When it is dropped its threads find nobody listening and end, and
//! the stream waits for none of them. An error of one ends the stream.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::{
    RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter,
};
use futures::TryStreamExt;
use tokio::sync::mpsc::Sender;

use crate::limits::BATCHES_AHEAD;

/// Where batches go.
pub(crate) type BatchSender = Sender<Result<RecordBatch>>;
/// Something that makes batches, and blocks meanwhile.
pub(crate) type Work = Box<dyn FnOnce(&BatchSender) -> Result<()> + Send>;

/// The batches of one work.
pub(crate) fn stream_of(
    schema: &SchemaRef,
    work: impl FnOnce(&BatchSender) -> Result<()> + Send + 'static,
) -> SendableRecordBatchStream {
    stream_of_all(schema, async move { Ok(vec![Box::new(work) as Work]) })
}

/// The batches of several works that run at once, in the order in which they come; `works` says what they are.
pub(crate) fn stream_of_all(
    schema: &SchemaRef,
    works: impl Future<Output = Result<Vec<Work>>> + Send + 'static,
) -> SendableRecordBatchStream {
    let inner = Arc::clone(schema);
    let stream = futures::stream::once(async move {
        let works = works.await?;
        let mut builder = RecordBatchReceiverStreamBuilder::new(inner, BATCHES_AHEAD);
        for work in works {
            let sender = builder.tx();
            builder.spawn_blocking(move || work(&sender));
        }
        Ok::<_, DataFusionError>(builder.build())
    });
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), stream.try_flatten()))
}
