//! What a client sends as Arrow: checked before anything reads it, and read where no stream waits for it.
//!
//! # Contract
//! * A message takes memory in proportion to its bytes, whatever lengths it speaks of: nothing in it is compressed, all of
//!   its buffers fit into it side by side, and columns and dictionaries are few.
//! * Where the library that reads it stumbles, its load ends with an error, and nothing else does.
//!
//! # What it does not know
//! Which columns are wanted, and how often a short column shows a long text.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::sql::server::PeekableFlightDataStream;
use futures::StreamExt;
use tagmill::arrow::array::{ArrayRef, RecordBatch};
use tagmill::arrow::buffer::Buffer;
use tagmill::arrow::datatypes::{DataType, Schema, SchemaRef};
use tagmill::arrow::error::ArrowError;
use tagmill::arrow::ipc;
use tagmill::arrow::ipc::MessageHeader;
use tagmill::arrow::ipc::convert::fb_to_schema;
use tagmill::arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use tonic::Status;

/// Bytes of what a message says of its columns. Their values stand beside it.
const HEADER_BYTES_MAX: usize = 256 << 10;
/// Columns of a schema, those within others too, and bytes of all their names and remarks: a name may stand there once and
/// be that of many.
const FIELDS_MAX: usize = 2_048;
const NAMES_BYTES_MAX: usize = 1 << 20;
/// Bytes of all dictionaries of one stream.
const DICTIONARIES_BYTES_MAX: usize = 8 << 20;

/// Batches of a stream, as they come.
pub(super) struct Received {
    stream: PeekableFlightDataStream,
    reader: Reader,
}

impl Received {
    pub(super) fn new(stream: PeekableFlightDataStream) -> Self {
        Self { stream, reader: Reader::default() }
    }

    /// The next batch, or nothing at the end.
    ///
    /// # Errors
    /// What is wrong with it. Nothing comes after an error.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>, Status> {
        while let Some(data) = self.stream.next().await {
            let data = data?;
            if data.data_header.is_empty() {
                // A client may say what it wants before it says anything else.
                continue;
            }
            // After a panic there is no schema any more, and whatever comes is refused.
            let mut reader = std::mem::take(&mut self.reader);
            let reading = tokio::task::spawn_blocking(move || {
                let read = reader.read(data);
                (reader, read)
            });
            let (reader, read) = reading.await.map_err(|_| wrong("the data cannot be read"))?;
            self.reader = reader;
            if let Some(batch) = read? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

/// What is known of a stream so far.
#[derive(Debug, Default)]
struct Reader {
    schema: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Bytes of each.
    held: HashMap<i64, usize>,
}

impl Reader {
    /// Reads a message. Gives the batch that is in it.
    fn read(&mut self, data: FlightData) -> Result<Option<RecordBatch>, Status> {
        let FlightData { data_header: header, data_body: body, .. } = data;
        if header.len() > HEADER_BYTES_MAX {
            return Err(wrong("a message says at most 256 KiB of its columns"));
        }
        let message = ipc::root_as_message(&header);
        let message = message.map_err(|error| unreadable(&error.to_string()))?;
        let bytes = body.len();
        match message.header_type() {
            MessageHeader::NONE => return Ok(None),
            MessageHeader::Schema if self.schema.is_some() => {
                return Err(wrong("a load has one schema: send its batches after it"));
            }
            MessageHeader::Schema => {
                let schema = message.header_as_schema().ok_or_else(|| unreadable("no schema"))?;
                self.schema = Some(schema_of(schema)?);
                return Ok(None);
            }
            _ => {}
        }
        let schema = self.schema.clone().ok_or_else(|| wrong("the schema comes first"))?;
        let (body, version) = (Buffer::from(body), message.version());
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            let values = dictionary.data().ok_or_else(|| unreadable("an empty dictionary"))?;
            check_buffers(values, bytes)?;
            self.hold(dictionary, bytes)?;
            read_dictionary(&body, dictionary, &schema, &mut self.dictionaries, &version)
                .map_err(|error| of_arrow(&error))?;
            return Ok(None);
        }
        let batch = message.header_as_record_batch();
        let batch = batch.ok_or_else(|| wrong("a load has batches and their dictionaries"))?;
        check_buffers(batch, bytes)?;
        RecordBatchDecoder::try_new(&body, batch, schema, &self.dictionaries, &version)
            .and_then(RecordBatchDecoder::read_record_batch)
            .map(Some)
            .map_err(|error| of_arrow(&error))
    }

    /// Notes the bytes of a dictionary in place of the one it replaces.
    fn hold(&mut self, dictionary: ipc::DictionaryBatch<'_>, bytes: usize) -> Result<(), Status> {
        if dictionary.isDelta() {
            return Err(wrong("dictionaries are sent whole: without deltas"));
        }
        self.held.insert(dictionary.id(), bytes);
        if self.held.values().sum::<usize>() > DICTIONARIES_BYTES_MAX {
            return Err(wrong("the dictionaries of a load have at most 8 MiB: send plain columns"));
        }
        Ok(())
    }
}

/// Fails unless a batch is plain, and its buffers fit into its bytes side by side. One that many columns share would be
/// copied for each where it does not begin at a multiple of its values.
fn check_buffers(batch: ipc::RecordBatch<'_>, bytes: usize) -> Result<(), Status> {
    if batch.compression().is_some() {
        return Err(wrong("the buffers are compressed: send them plain"));
    }
    let outside = || unreadable("a buffer lies outside of its message");
    let buffers = batch.buffers().ok_or_else(|| unreadable("a batch without buffers"))?;
    let mut sum = 0_usize;
    for buffer in buffers {
        let from = usize::try_from(buffer.offset()).map_err(|_| outside())?;
        let length = usize::try_from(buffer.length()).map_err(|_| outside())?;
        let end = from.checked_add(length).ok_or_else(outside)?;
        sum = sum.checked_add(length).ok_or_else(outside)?;
        if end > bytes || sum > bytes {
            return Err(outside());
        }
    }
    Ok(())
}

/// A schema of few columns, whose types are those that samples and parameters come in.
fn schema_of(written: ipc::Schema<'_>) -> Result<SchemaRef, Status> {
    let mut room = Room { fields: FIELDS_MAX, bytes: NAMES_BYTES_MAX };
    for remark in written.custom_metadata().iter().flatten() {
        room.take(0, [remark.key(), remark.value()])?;
    }
    for field in written.fields().iter().flatten() {
        room.take_field(field)?;
    }
    let schema: Schema = fb_to_schema(written);
    match schema.fields().iter().map(|field| field.data_type()).find(|of| !is_taken(of)) {
        Some(_) => Err(wrong("columns are numbers, truth values, times, texts, bytes and lists")),
        None => Ok(Arc::new(schema)),
    }
}

/// What a schema may still hold.
struct Room {
    fields: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, fields: usize, texts: [Option<&str>; 2]) -> Result<(), Status> {
        let bytes = texts.into_iter().flatten().map(str::len).sum();
        let left = self.fields.checked_sub(fields).zip(self.bytes.checked_sub(bytes));
        let (fields, bytes) = left.ok_or_else(|| wrong("the schema has too many columns"))?;
        *self = Self { fields, bytes };
        Ok(())
    }

    /// A field with all within it. The library bounds how deep that is.
    fn take_field(&mut self, field: ipc::Field<'_>) -> Result<(), Status> {
        self.take(1, [field.name(), None])?;
        for remark in field.custom_metadata().iter().flatten() {
            self.take(0, [remark.key(), remark.value()])?;
        }
        for child in field.children().iter().flatten() {
            self.take_field(child)?;
        }
        Ok(())
    }
}

/// Whether a column may be of a type: those whose values have their bytes in the message.
fn is_taken(of: &DataType) -> bool {
    match of {
        DataType::List(item) | DataType::LargeList(item) => is_plain(item.data_type()),
        DataType::Dictionary(_, values) => is_plain(values),
        DataType::Null => true,
        of => is_plain(of),
    }
}

fn is_plain(of: &DataType) -> bool {
    let is_bytes = matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    of.is_primitive() || of.is_string() || is_bytes || *of == DataType::Boolean
}

fn wrong(text: &str) -> Status {
    Status::invalid_argument(text)
}

fn unreadable(why: &str) -> Status {
    Status::invalid_argument(format!("the data cannot be read: {why}"))
}

fn of_arrow(error: &ArrowError) -> Status {
    unreadable(&error.to_string())
}

#[cfg(test)]
mod tests {
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
    use futures::{TryStreamExt, stream};
    use tagmill::arrow::array::{DictionaryArray, Int64Array, StringArray};
    use tagmill::arrow::datatypes::Int8Type;
    use tagmill::arrow::ipc::CompressionType;
    use tagmill::arrow::ipc::writer::IpcWriteOptions;

    use super::*;

    fn batch() -> RecordBatch {
        let keyed: DictionaryArray<Int8Type> = ["a", "b", "a"].into_iter().collect();
        let columns: [(&str, ArrayRef); 3] = [
            ("tag", Arc::new(keyed)),
            ("ts", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ("value", Arc::new(StringArray::from(vec!["x", "y", "z"]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    async fn messages(batch: &RecordBatch, options: IpcWriteOptions) -> Vec<FlightData> {
        let encoder = FlightDataEncoderBuilder::new()
            .with_options(options)
            .with_dictionary_handling(DictionaryHandling::Resend);
        encoder.build(stream::iter([Ok(batch.clone())])).try_collect().await.unwrap()
    }

    fn read_all(messages: &[FlightData]) -> Result<Vec<RecordBatch>, Status> {
        let mut reader = Reader::default();
        let read = messages.iter().map(|message| reader.read(message.clone()));
        Ok(read.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    #[tokio::test]
    async fn what_is_plain_and_whole_is_read() {
        let sent = messages(&batch(), IpcWriteOptions::default()).await;
        assert_eq!(sent.len(), 3, "a schema, a dictionary, a batch");
        assert_eq!(read_all(&sent).unwrap(), [batch()]);
        assert!(read_all(&sent[1..]).is_err(), "without its schema");
        assert!(read_all(&[sent[0].clone(), sent[0].clone()]).is_err(), "with two schemas");
    }

    #[tokio::test]
    async fn nothing_compressed_is_unpacked() {
        for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
            let options = IpcWriteOptions::default().try_with_compression(Some(codec)).unwrap();
            let sent = messages(&batch(), options).await;
            for upto in [2, 3] {
                // The dictionary alone, and the batch after a plain one.
                let plain = messages(&batch(), IpcWriteOptions::default()).await;
                let mut mixed = plain[..upto - 1].to_vec();
                mixed.push(sent[upto - 1].clone());
                let why = read_all(&mixed).unwrap_err();
                assert!(why.message().contains("compressed"), "{codec:?}: {why}");
            }
        }
    }

    #[tokio::test]
    async fn buffers_lie_within_their_message() {
        let sent = messages(&batch(), IpcWriteOptions::default()).await;
        for at in [1, 2] {
            for length in [0, 1, sent[at].data_body.len() / 2] {
                let mut cut = sent[..=at].to_vec();
                cut[at].data_body.truncate(length);
                assert!(read_all(&cut).is_err(), "message {at} of {length} bytes");
            }
        }
    }

    #[tokio::test]
    async fn a_schema_and_its_dictionaries_are_bounded() {
        let wide: Vec<(String, ArrayRef)> = (0..=FIELDS_MAX)
            .map(|at| (at.to_string(), Arc::new(Int64Array::from(vec![1])) as ArrayRef))
            .collect();
        let wide = RecordBatch::try_from_iter(wide).unwrap();
        assert!(read_all(&messages(&wide, IpcWriteOptions::default()).await).is_err());
        let mut reader = Reader::default();
        let sent = messages(&batch(), IpcWriteOptions::default()).await;
        reader.read(sent[0].clone()).unwrap();
        let mut large = sent[1].clone();
        large.data_body = vec![0; DICTIONARIES_BYTES_MAX + 1].into();
        assert!(reader.read(large).unwrap_err().message().contains("8 MiB"));
        // One in place of another takes its room.
        for _ in 0..3 {
            let mut same = sent[1].clone();
            same.data_body = [sent[1].data_body.as_ref(), &vec![0; 5 << 20]].concat().into();
            reader.read(same).unwrap();
        }
    }
}
