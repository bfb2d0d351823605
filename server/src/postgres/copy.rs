//! `COPY .. TO STDOUT`: an answer as text, CSV or PostgreSQL's binary rows, for those who load it elsewhere.

use std::fmt::Debug;
use std::sync::Arc;

use futures::Sink;
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::{CopyCsvOptions, CopyEncoder, CopyTextOptions, FieldInfo, Tag};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};

use super::Runner;
use super::answer::{Client, Rows, begin, complete, in_its_time, of_arrow, send, send_by};
use super::connection::Connection;
use super::errors::{error, of_query};
use super::times::on_the_wire;
use super::values::encode_row;
use super::words::CopyFormat;

impl Runner {
    /// Answers COPY .. TO STDOUT.
    pub(super) async fn copy<C: Client>(
        &self,
        client: &mut C,
        connection: &Connection,
        sql: &str,
        format: CopyFormat,
    ) -> PgWireResult<()>
    where
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut cancelled = connection.cancelled();
        let (answer, _place, shown) =
            begin(&self.door.admission, connection, &mut cancelled, sql, Vec::new()).await?;
        let is_binary = format == CopyFormat::Binary;
        let of_wire = if is_binary { Format::UnifiedBinary } else { Format::UnifiedText };
        let Rows { fields, mut answer, zone, lost, ends } =
            Rows::begin(client, answer, &of_wire, shown).await?;
        let columns = i16::try_from(fields.len())
            .map_err(|_| error("54011", "an answer has at most 32767 columns"))?;
        let code = i8::from(is_binary);
        let response = CopyOutResponse::new(code, columns, vec![i16::from(code); fields.len()]);
        send(client, PgWireBackendMessage::CopyOutResponse(response)).await?;
        if let CopyFormat::Csv { delimiter, has_header: true, .. } = &format {
            let header = CopyData::new(header_of(&fields, *delimiter).into());
            send(client, PgWireBackendMessage::CopyData(header)).await?;
        }
        let mut encoder = copy_encoder(&fields, format);
        let mut count = 0;
        let mut is_first = true;
        loop {
            let batch = tokio::select! {
                batch = answer.next() => batch.map_err(|failure| of_query(&failure))?,
                _ = cancelled.changed() => return Err(PgWireError::QueryCanceled),
            };
            let Some(batch) = batch else { break };
            in_its_time(ends)?;
            let (batch, has_lost) = on_the_wire(&batch, &zone).map_err(|e| of_arrow(&e))?;
            lost.note(has_lost);
            for row in 0..batch.num_rows() {
                let data = encode_row(&mut encoder, &batch, row, &fields)?;
                send_by(client, PgWireBackendMessage::CopyData(data), ends).await?;
            }
            is_first &= batch.num_rows() == 0;
            count += batch.num_rows();
        }
        if is_binary {
            // The head comes with the first row; without one it must come all the same, as PostgreSQL sends it.
            let empty = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0\xFF\xFF".as_slice();
            let end = CopyEncoder::finish_copy_binary();
            let end = if is_first { CopyData::new(empty.into()) } else { end };
            send(client, PgWireBackendMessage::CopyData(end)).await?;
        }
        lost.tell(client).await?;
        send(client, PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
        complete(client, Tag::new("COPY").with_rows(count)).await
    }
}

fn copy_encoder(fields: &Arc<Vec<FieldInfo>>, format: CopyFormat) -> CopyEncoder {
    let fields = Arc::clone(fields);
    match format {
        CopyFormat::Binary => CopyEncoder::new_binary(fields),
        CopyFormat::Text { delimiter, null } => {
            let delimiter = delimiter.to_string().into();
            CopyEncoder::new_text(fields, CopyTextOptions { delimiter, null_string: null.into() })
        }
        CopyFormat::Csv { delimiter, null, .. } => {
            // A quoted text is never null, whatever stands for that.
            let is_text = |field: &FieldInfo| *field.datatype() == Type::TEXT;
            let texts = fields.iter().enumerate().filter(|(_, field)| is_text(field));
            let force_quote = texts.map(|(at, _)| at).collect();
            let (delimiter, null_string) = (delimiter.to_string().into(), null.into());
            let plain = CopyCsvOptions::default();
            let options = CopyCsvOptions { delimiter, null_string, force_quote, ..plain };
            CopyEncoder::new_csv(fields, options)
        }
    }
}

fn header_of(fields: &[FieldInfo], delimiter: char) -> String {
    let quoted = |field: &FieldInfo| {
        let name = field.name();
        let is_plain = !name.contains([delimiter, '"', '\n', '\r']);
        if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    };
    let names: Vec<String> = fields.iter().map(quoted).collect();
    names.join(&delimiter.to_string()) + "\n"
}
