//! Questions to a database: by the command `tagmill sql` where the answer is looked at, over gRPC where only its time is.
//!
//! # Contract
//! An answer that breaks off is an error, never a short answer. Whoever waits for one waits for a bounded time.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tagmill_client::{Piece, Query};

use crate::Outcome;
use crate::content::Found;

/// How long one question of a check may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Where a database is.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// A server's address.
    Server(String),
    /// A folder that no server has open.
    Folder(PathBuf),
}

/// How the server shall find the answer of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As it thinks best.
    Best,
    /// From every sample, row by row.
    RowByRow,
}

/// Rows and sums of every tag of the run.
///
/// # Errors
/// If it cannot be asked, or its answer not be read.
pub(crate) async fn content(program: &Path, at: &At, way: Way) -> Outcome<Found> {
    let statement = "SELECT tag, count(*) AS samples, sum(value) AS total FROM samples WHERE tag LIKE 'load/%' GROUP BY tag";
    let tiers = if way == Way::RowByRow { "SET tagmill.tiers = off; " } else { "" };
    let statement = format!("SET statement_timeout = '5 min'; {tiers}{statement}");
    let csv = sql(program, at, &statement).await?;
    let (_, rows) =
        csv.split_once("tag,samples,total\n").ok_or_else(|| format!("no rows in {csv:?}"))?;
    rows.lines()
        .map(|line| row(line).ok_or_else(|| format!("not a row: {line:?}").into()))
        .collect()
}

fn row(line: &str) -> Option<(String, (u64, f64))> {
    let mut words = line.split(',');
    let (tag, samples, total) = (words.next()?, words.next()?, words.next()?);
    Some((tag.to_owned(), (samples.parse().ok()?, total.parse().ok()?)))
}

async fn sql(program: &Path, at: &At, statement: &str) -> Outcome<String> {
    let mut command = Command::new(program);
    command.args(["sql", "--format", "csv", "-c", statement]);
    match at {
        At::Server(address) => command.arg("--connect").arg(address),
        At::Folder(folder) => command.arg("--data").arg(folder),
    };
    Ok(tokio::task::spawn_blocking(move || output(command)).await??)
}

/// What a command prints, if it ends well and in time.
fn output(mut command: Command) -> io::Result<String> {
    let (mut said, mut noise) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(noise.try_clone()?);
    let mut child = Guard(command.spawn()?);
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("no answer after {PATIENCE:?} to {command:?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |file: &mut std::fs::File| {
        io::Seek::rewind(file)?;
        io::read_to_string(file)
    };
    if status.success() {
        return text(&mut said);
    }
    Err(io::Error::other(format!("{command:?} ends with {status}: {}", text(&mut noise)?)))
}

/// Kills a child that is still there.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It has ended already, as a rule.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs a statement over gRPC and takes the whole answer without looking at it. Gives its rows.
///
/// # Errors
/// What the server answers.
pub(crate) async fn rows(
    query: &mut Query,
    statement: &str,
    settings: &HashMap<String, String>,
) -> Outcome<u64> {
    let mut answer = query.execute(statement, settings.clone()).await?;
    while let Some(piece) = answer.next().await? {
        if let Piece::Finished { rows, .. } = piece {
            return Ok(rows);
        }
    }
    Err(format!("an answer without its end: {statement}").into())
}
