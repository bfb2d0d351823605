//! Opens a database, writes an hour of two tags and asks about it in SQL.
//!
//! Run it with `cargo run -p tagmill --example sql`. Give it a folder to keep the database.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use tagmill::arrow::util::pretty::pretty_format_batches;
use tagmill::{
    Batch, Database, Labels, Options, Qualities, Quality, TagAttributes, TagColumn, TagDefinition,
    ValueType, Values, statements,
};

/// 2026-03-01T00:00:00Z.
const START_NS: i64 = 1_772_323_200_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

const QUESTIONS: &str = "
    -- Every 15 minutes: mean, extremes, and when it was hottest.
    SELECT time_bucket('15 min', ts) AS time, avg(value) AS mean, max(value) AS hottest,
           max_time(value, ts) AS hottest_at
    FROM samples WHERE tag = 'U1/TT-101.PV' GROUP BY time ORDER BY time;

    -- The newest five samples, whatever their quality.
    SELECT ts, value, quality_name(quality) AS quality
    FROM samples WHERE tag = 'U1/TT-101.PV' ORDER BY ts DESC LIMIT 5;

    -- How much was produced in each area.
    SELECT label(tag, 'area') AS area, last(value_int, ts) - first(value_int, ts) AS produced
    FROM samples WHERE label(tag, 'kind') = 'counter' GROUP BY area;

    -- What every tag shows now.
    SELECT tag, ts, value FROM latest ORDER BY tag;

    -- A mistyped name is answered with a notice.
    SELECT count(*) AS samples FROM samples WHERE tag = 'U1/TT-110.PV'
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(folder) => print!("{}", run(Path::new(&folder)).await?),
        None => print!("{}", run(tempfile::tempdir()?.path()).await?),
    }
    Ok(())
}

/// Writes, asks, and gives the answers as text.
///
/// # Errors
/// What the database says.
pub async fn run(folder: &Path) -> Result<String, Box<dyn Error>> {
    let database = Database::open(folder, Options::default())?;
    write(&database)?;
    let mut shown = String::new();
    let mut session = database.session();
    for statement in statements(QUESTIONS) {
        let answer = session.execute(statement).await?;
        for notice in &answer.notices {
            writeln!(shown, "notice: {notice}")?;
        }
        let batches = answer.collect().await?;
        writeln!(shown, "{}\n", pretty_format_batches(&batches)?)?;
    }
    drop(session);
    database.close()?;
    Ok(shown)
}

/// One hour: a temperature every second, with a sensor that fails at the end, and a counter every minute.
fn write(database: &Database) -> tagmill::Result<()> {
    let labels = |kind: &str| Labels::from([("area", "U1"), ("kind", kind)]);
    let tags = database.define(&[
        TagDefinition {
            name: "U1/TT-101.PV".to_owned(),
            value_type: ValueType::F64,
            attributes: TagAttributes {
                unit: Some("°C".to_owned()),
                labels: labels("temperature"),
                ..TagAttributes::default()
            },
        },
        TagDefinition {
            name: "U1/FQ-102.PV".to_owned(),
            value_type: ValueType::I64,
            attributes: TagAttributes { labels: labels("counter"), ..TagAttributes::default() },
        },
    ])?;
    let [temperature, counter] = tags[..] else { unreachable!("two were defined") };
    let seconds: Vec<i64> = (0..3_600).collect();
    let minutes: Vec<i64> = (0..60).collect();
    database.append(Batch {
        columns: vec![
            TagColumn {
                tag: temperature,
                times: seconds.iter().map(|second| START_NS + second * SECOND_NS).collect(),
                values: Values::F64(
                    seconds.iter().map(|&second| 80.0 + (second % 1_000) as f64 / 100.0).collect(),
                ),
                qualities: Qualities::Each(
                    seconds
                        .iter()
                        .map(|&second| match second {
                            3_598.. => Quality(0x808C_0000), // BadSensorFailure
                            _ => Quality::GOOD,
                        })
                        .collect(),
                ),
            },
            TagColumn {
                tag: counter,
                times: minutes.iter().map(|minute| START_NS + minute * 60 * SECOND_NS).collect(),
                values: Values::I64(minutes.iter().map(|minute| 1_000 + minute * 12).collect()),
                qualities: Qualities::GOOD,
            },
        ],
        ..Batch::default()
    })?;
    Ok(())
}
