//! Load on the real `tagmill` program over gRPC: steady, at its peak, and killed again and again.
//!
//! ```text
//! cargo run --release -p tagmill-load-tests -- ci target/release/tagmill        a short run of each
//! cargo run --release -p tagmill-load-tests -- steady target/release/tagmill    200 k samples/s beside dashboards
//! cargo run --release -p tagmill-load-tests -- peak target/release/tagmill      as many samples as go through
//! cargo run --release -p tagmill-load-tests -- kills target/release/tagmill     ten minutes, a kill each 30 s
//! ```
//!
//! # Contract
//! * A sample that is lost, there twice or another than was sent ends it with exit code 1. A target that is missed is printed:
//!   how fast it goes depends on the machine, and on who else uses it.
//! * It ends by itself, on Ctrl-C or on SIGTERM; then its temporary folder is gone, and so is its server, ended by its id.
//!
//! # What it does not know
//! Storage, SQL and server: it is a client of the program, like a gateway.
//!
//! # Reading order
//! [`plant`] (what is written), [`content`] (what must be there), [`fleet`] (who writes, and when), [`dashboards`], [`server`],
//! [`ask`], [`check`], then the loads: [`steady`], [`peak`], [`kills`].

#![expect(clippy::print_stdout, reason = "the report is for a terminal and for scripts")]

mod ask;
mod check;
mod content;
mod dashboards;
mod figures;
mod fleet;
mod kills;
mod peak;
mod plant;
mod server;
mod steady;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};

/// What can go wrong is shown to people and ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Load on the real program: exit code 1 if anything is lost, there twice, or wrong.
#[derive(Debug, Parser)]
struct Words {
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Gateways by the clock, dashboards and a heavy question beside them.
    Steady {
        /// The program under load.
        tagmill: PathBuf,
        #[command(flatten)]
        wish: steady::Wish,
    },
    /// As many samples as go through.
    Peak {
        /// The program under load.
        tagmill: PathBuf,
        #[command(flatten)]
        wish: peak::Wish,
    },
    /// Gateways by the clock, and a server that is killed and started again.
    Kills {
        /// The program under load.
        tagmill: PathBuf,
        #[command(flatten)]
        wish: kills::Wish,
    },
    /// A short run of each: 10 s, 5 s, and a minute with a kill each 10 s.
    Ci {
        /// The program under load.
        tagmill: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Words::parse().load) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(load: Load) -> Outcome<bool> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        tokio::select! {
            done = fulfil(load) => done,
            asked = asked_to_stop() => Err(asked.err().map_or("stopped before its end".into(), Into::into)),
        }
    })
}

async fn fulfil(load: Load) -> Outcome<bool> {
    match load {
        Load::Steady { tagmill, wish } => steady::run(&tagmill, &wish).await,
        Load::Peak { tagmill, wish } => peak::run(&tagmill, &wish).await,
        Load::Kills { tagmill, wish } => kills::run(&tagmill, &wish).await,
        Load::Ci { tagmill } => ci(&tagmill).await,
    }
}

async fn ci(tagmill: &Path) -> Outcome<bool> {
    let wish = steady::Wish { seconds: 10, gateways: 50, rate: 200_000, dashboards: 5 };
    let is_steady = steady::run(tagmill, &wish).await?;
    let has_peak = peak::run(tagmill, &peak::Wish { seconds: 5, gateways: 4 }).await?;
    let wish = kills::Wish { minutes: 1, every: 10, gateways: 10, rate: 50_000, seed: None };
    let survives = kills::run(tagmill, &wish).await?;
    Ok(is_steady && has_peak && survives)
}

/// Waits for Ctrl-C or SIGTERM.
async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut ended = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = ended.recv() => Ok(()),
    }
}

/// Nanoseconds since 1970.
fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
