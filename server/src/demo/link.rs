//! The demo's line to its server: batches through the gateway client, SQL and care of tags.
//!
//! Contract: everything goes over gRPC, as any gateway's and any analyst's would. A batch's tag ids
//! are the signals' numbers; the aliases they travel under are kept here.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::ipc::reader::StreamReader;
use tagmill_client::{
    Admin, BatchBuilder, Cells, Gateway, GatewayOptions, Piece, Qualities as Sent, Query,
    TagAttributes, TagDef, TagSet, Times, ValueType as WireType, Values as Column,
};
use tagmill_storage::{
    Batch, Qualities, ScanBlock, TagColumn, TagDefinition, TagId, ValueType, Values,
};

use super::answer::{Cell, rows_of};
use super::error::{Error, Result};
use super::feed::Feed;

/// Text tag that says what the directory holds.
pub const PLAN_TAG: &str = "demo/plan";

/// Connections of the demo to its own server.
#[derive(Debug)]
pub struct Link {
    gateway: Gateway,
    admin: Admin,
    query: Query,
    aliases: Vec<u32>,
    sets: Vec<(Arc<[TagId]>, TagSet)>,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn open(address: &str) -> Result<Self> {
        Ok(Self {
            gateway: Gateway::connect(address, GatewayOptions::new("demo")).await?,
            admin: Admin::connect(address).await?,
            query: Query::connect(address).await?,
            aliases: Vec::new(),
            sets: Vec::new(),
        })
    }

    /// Writes down what the directory holds.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn write_plan(&self, time_ns: i64, plan: &str) -> Result<()> {
        let tag = TagDef::new(PLAN_TAG, WireType::Text)
            .description("which simulation this directory holds, and since when");
        let aliases = self.gateway.define(&[tag]).await?;
        let mut batch = BatchBuilder::new();
        for alias in aliases {
            batch.text(alias, &[time_ns], &[plan])?;
        }
        self.gateway.send(batch).await?;
        self.flush().await?;
        Ok(())
    }

    /// Defines the feed's tags, their states and their tag sets.
    ///
    /// # Errors
    /// If the server refuses one.
    pub async fn define(&mut self, feed: &Feed) -> Result<()> {
        let mut states: HashMap<&str, Vec<String>> = HashMap::new();
        for signal in feed.signals().iter() {
            if let Some(set) = &signal.definition.attributes.state_set {
                states.entry(set).or_insert_with(|| signal.states());
            }
        }
        for (set, labels) in states {
            self.admin.set_states(set, (0u32..).zip(labels).collect()).await?;
        }
        let tags: Vec<TagDef> =
            feed.signals().iter().map(|signal| tag_def(&signal.definition)).collect();
        self.aliases = self.gateway.define(&tags).await?;
        for tags in feed.tag_sets() {
            let aliases: Vec<u32> = tags.iter().map(|tag| self.aliases[tag.index()]).collect();
            self.sets.push((Arc::clone(tags), self.gateway.define_set(&aliases).await?));
        }
        Ok(())
    }

    /// Queues a batch; waits while the server is behind.
    ///
    /// # Errors
    /// If the stream has ended for good.
    pub async fn send(&self, batch: &Batch) -> Result<()> {
        let mut sent = BatchBuilder::new();
        for column in &batch.columns {
            put_column(&mut sent, self.aliases[column.tag.index()], column)?;
        }
        for scan in &batch.scans {
            self.put_scan(&mut sent, scan)?;
        }
        if !sent.is_empty() {
            self.gateway.send(sent).await?;
        }
        Ok(())
    }

    /// Waits until everything sent is on disk; gives the number of samples taken since last time.
    ///
    /// # Errors
    /// If a sample was refused: the demo sends none that should be.
    pub async fn flush(&self) -> Result<u64> {
        let summary = self.gateway.flush().await?;
        if let Some(reject) = summary.rejects.first() {
            let count = summary.rejected_samples;
            let what = format!("the server refused {count} samples, the first: {}", reject.detail);
            let next = "this is a fault of the demo or the server: please report it".to_owned();
            return Err(Error::Unfit { what, next });
        }
        Ok(summary.accepted_samples)
    }

    /// Asks the server to turn what it holds in memory into segments.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn seal(&mut self) -> Result<()> {
        self.admin.seal().await?;
        Ok(())
    }

    /// Asks one statement; gives the rows and how long it took from here.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn ask(&mut self, sql: &str) -> Result<(Vec<Vec<Cell>>, Duration)> {
        let asked = Instant::now();
        let mut answer = self.query.execute(sql, HashMap::new()).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.next().await? {
            match piece {
                Piece::Ipc(piece) => bytes.extend_from_slice(&piece),
                Piece::Notice(_) => {}
                Piece::Finished { .. } => break,
            }
        }
        let batches = StreamReader::try_new(Cursor::new(bytes), None)?;
        let batches = batches.collect::<Result<Vec<_>, _>>()?;
        let took = asked.elapsed();
        Ok((rows_of(&batches)?, took))
    }

    /// Ends the stream once everything is on disk.
    ///
    /// # Errors
    /// If the stream has ended before.
    pub async fn close(self) -> Result<()> {
        self.gateway.close().await?;
        Ok(())
    }

    fn put_scan(&self, batch: &mut BatchBuilder, scan: &ScanBlock) -> Result<()> {
        let known = self.sets.iter().find(|(tags, _)| *tags == scan.tags);
        let (_, set) = known.expect("the feed scans the tag sets it has named");
        let codes = codes(&scan.qualities);
        let qualities = as_sent(&scan.qualities, &codes);
        let cells = Cells { values: &scan.values, missing: &scan.missing };
        batch.scan(set, &scan.times, cells, qualities)?;
        Ok(())
    }
}

fn put_column(sent: &mut BatchBuilder, alias: u32, column: &TagColumn) -> Result<()> {
    let texts: Vec<&str>;
    let values = match &column.values {
        Values::F64(values) => Column::F64(values),
        Values::F32(values) => Column::F32(values),
        Values::I64(values) => Column::I64(values),
        Values::Bool(values) => Column::Bool(values),
        Values::State(values) => Column::State(values),
        Values::Text(values) => {
            texts = values.iter().map(AsRef::as_ref).collect();
            Column::Text(&texts)
        }
    };
    let codes = codes(&column.qualities);
    sent.column(alias, Times::Each(&column.times), values, as_sent(&column.qualities, &codes))?;
    Ok(())
}

/// Status codes of qualities that differ; empty for those that do not.
fn codes(qualities: &Qualities) -> Vec<u32> {
    match qualities {
        Qualities::Uniform(_) => Vec::new(),
        Qualities::Each(each) => each.iter().map(|quality| quality.0).collect(),
    }
}

fn as_sent<'a>(qualities: &Qualities, codes: &'a [u32]) -> Sent<'a> {
    match qualities {
        Qualities::Uniform(quality) => Sent::Uniform(quality.0),
        Qualities::Each(_) => Sent::Each(codes),
    }
}

fn tag_def(definition: &TagDefinition) -> TagDef {
    let value_type = match definition.value_type {
        ValueType::F64 => WireType::F64,
        ValueType::F32 => WireType::F32,
        ValueType::I64 => WireType::I64,
        ValueType::Bool => WireType::Bool,
        ValueType::State => WireType::State,
        ValueType::Text => WireType::Text,
    };
    let known = &definition.attributes;
    let attributes = TagAttributes {
        description: known.description.clone(),
        unit: known.unit.clone(),
        range_low: known.range_low,
        range_high: known.range_high,
        rollover: known.rollover,
        state_set: known.state_set.clone(),
        labels: known
            .labels
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        ..TagAttributes::default()
    };
    TagDef { attributes, ..TagDef::new(definition.name.as_str(), value_type) }
}
