//! `tagmill serve`: the server, until it is told to stop.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use tagmill::Database;
use tracing_subscriber::EnvFilter;

use crate::cli::failure::{Failure, Result};
use crate::lifecycle::{LISTEN, ServeOptions, Server};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill serve --data /var/lib/tagmill
  tagmill serve --data plant --listen 127.0.0.1:7500

Gateways send samples to the address by gRPC (proto/tagmill/v1/ingest.proto, docs/ingest.md);
'tagmill sql --connect ADDR' asks there. Ctrl-C ends the server: what it has acknowledged is on disk.
The log goes to standard error; TAGMILL_LOG=debug says more, TAGMILL_LOG=warn less.";

/// Serves a database to gateways and analysts.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of the database; made if there is none.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value_t = LISTEN)]
    listen: SocketAddr,
    /// Folder below which 'tagmill backup --connect' may write; without it such requests are refused.
    #[arg(long, value_name = "DIR")]
    backups: Option<PathBuf>,
    /// Allow an address that other machines can reach, though this version has neither TLS nor passwords.
    #[arg(long)]
    insecure_no_auth: bool,
}

/// Runs the command.
///
/// # Errors
/// If the database cannot be opened or the address not be used.
pub fn run(args: Args) -> Result<()> {
    let Args { data, listen, backups, insecure_no_auth } = args;
    start_log();
    let database = Database::open(&data, tagmill::Options::default())
        .map_err(|error| Failure::new(error.to_string()).within(data.display()))?;
    let options = ServeOptions { listen, insecure_no_auth, backups, ..ServeOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let starting = runtime.block_on(Server::start(database, options));
    let mut server = starting.map_err(|error| Failure::new(error.to_string()))?;
    let address = server.address();
    eprintln!("serving {} on {address}", data.display());
    eprintln!("  ask:  tagmill sql --connect {address}");
    eprintln!("  send: gRPC tagmill.v1.Ingest, or tagmill import FILE --connect {address}");
    if insecure_no_auth && !listen.ip().is_loopback() {
        eprintln!("  warning: whoever reaches {address} may read, write and delete");
    }
    runtime.block_on(async {
        tokio::select! {
            stopped = server.stopped() => stopped,
            asked = asked_to_stop() => asked.map_err(crate::lifecycle::Error::Threads),
        }
        .map_err(|error| Failure::new(error.to_string()))?;
        eprintln!("stopping");
        server.shutdown().await.map_err(|error| Failure::new(error.to_string()))
    })?;
    eprintln!("stopped: everything acknowledged is on disk");
    Ok(())
}

/// Writes what happens to standard error: from `info` up, or what the variable `TAGMILL_LOG` says.
fn start_log() {
    let filter = EnvFilter::try_from_env("TAGMILL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Whoever runs this inside another program may have a log already.
    drop(log.try_init());
}

/// Waits for Ctrl-C or, on Unix, SIGTERM.
async fn asked_to_stop() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => pressed,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
