//! Parquet files, read column by column with bounded memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};

use super::source::{Field, Kind, Piece, plain};
use crate::cli::failure::{Failure, Result};

/// A Parquet file whose footer has been read.
#[derive(Debug)]
pub struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    fields: Vec<Field>,
}

impl ParquetFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let metadata = ArrowReaderMetadata::load(
            &file,
            parquet::arrow::arrow_reader::ArrowReaderOptions::new(),
        )
        .map_err(|error| {
            Failure::new(format!("{}: {error}", path.display()))
                .next("the file is no Parquet file, or was cut off; copy it again")
        })?;
        let field = |field: &std::sync::Arc<arrow::datatypes::Field>| Field {
            name: field.name().clone(),
            kind: Kind::of(field.data_type()),
            shown: field.data_type().to_string(),
        };
        let fields = metadata.schema().fields().iter().map(field).collect();
        Ok(Self { path: path.to_owned(), metadata, fields })
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub(super) fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().unsigned_abs()
    }

    /// Reads until the end or until `give` says stop.
    pub(super) fn read(
        &self,
        positions: &[usize],
        rows: usize,
        give: &mut dyn FnMut(Piece) -> bool,
    ) -> Result<()> {
        let broken = |error: &dyn std::fmt::Display| {
            Failure::new(format!("{}: {error}", self.path.display()))
                .next("the file is damaged; copy it again")
        };
        let mask = ProjectionMask::roots(
            self.metadata.metadata().file_metadata().schema_descr(),
            positions.iter().copied(),
        );
        let file = open(&self.path)?;
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_projection(mask)
                .with_batch_size(rows)
                .build()
                .map_err(|error| broken(&error))?;
        // The reader keeps the file's order of columns, and each column once.
        let mut order: Vec<usize> = positions.to_vec();
        order.sort_unstable();
        order.dedup();
        let mut first_row = 0;
        for batch in reader {
            let batch = batch.map_err(|error| broken(&error))?;
            let mut columns = Vec::with_capacity(positions.len());
            for position in positions {
                let at = order.partition_point(|other| other < position);
                let kind = self.fields.get(*position).map_or(Kind::Other, |field| field.kind);
                columns.push(plain(batch.column(at), kind)?);
            }
            let done = first_row + batch.num_rows() as u64;
            let rows = batch.num_rows();
            if !give(Piece { first_row, rows, columns, malformed: Vec::new(), done }) {
                return Ok(());
            }
            first_row = done;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        Failure::new(format!("open {}: {error}", path.display()))
            .next("check the path, and that you may read the file")
    })
}
