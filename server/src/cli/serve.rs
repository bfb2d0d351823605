//! `tagmill serve`: the server, until it is told to stop.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;
use tagmill::Database;
use tagmill_storage::{RetentionClass, Tier};
use tracing_subscriber::EnvFilter;

use super::config::{Config, LogForm, Wanted};
use super::failure::{Failure, Result};
use crate::lifecycle::Server;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill serve --data /var/lib/tagmill
  tagmill serve --data plant --listen 127.0.0.1:7500
  tagmill serve --data plant --retention 2y --retention vibration=30d
  tagmill serve --data plant --retention 90d,1m=2y,1h=forever
  tagmill serve --data plant --listen 0.0.0.0:7410 --tls-cert server.pem --tls-key server.key
  tagmill serve --config /etc/tagmill.toml

As soon as there are tokens ('tagmill token create'), everybody is asked for theirs. An address that other machines can
reach needs tokens and a certificate. Gateways send samples to the address by gRPC (docs/ingest.md), 'tagmill sql
--connect ADDR' asks there. Ctrl-C ends the server: what it has acknowledged is on disk.
The log goes to standard error; TAGMILL_LOG=debug says more, TAGMILL_LOG=warn less.";

/// Serves a database to gateways and analysts.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file that says what these words say: 'tagmill config check --help' shows one. Words go before the environment
    /// (`TAGMILL_LISTEN` and so on), and that before the file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    words: Config,
    /// Say that this machine's clock is right, though it leapt more than a day since the newest sample.
    #[arg(long)]
    confirm_clock: bool,
}

/// Runs the command.
///
/// # Errors
/// If the database cannot be opened or the address not be used.
pub fn run(args: Args) -> Result<()> {
    let Args { config, words, confirm_clock } = args;
    let mut all = words.or(Config::of_process()?);
    if let Some(file) = &config {
        all = all.or(Config::read(file)?);
    }
    let Wanted { data, options, retention, query_memory_bytes, log } = all.options()?;
    let (is_tls, insecure_no_auth) = (options.tls.is_some(), options.insecure_no_auth);
    start_log(log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is open: whoever wants it to stop is heard from the start.
    let asked_to_stop = runtime.block_on(async { asked_to_stop() })?;
    let storage = tagmill_storage::Options { retention, ..tagmill_storage::Options::default() };
    let memory_bytes = query_memory_bytes;
    let opened = tagmill::Options { storage, memory_bytes, ..tagmill::Options::default() };
    let database = Database::open(&data, opened)
        .map_err(|error| Failure::new(error.to_string()).within(data.display()))?;
    let engine = database.engine();
    let classes = if confirm_clock { engine.confirm_clock() } else { engine.expire() };
    let classes = classes.map_err(|error| Failure::new(error.to_string()))?;
    if classes.iter().any(|class| class.is_paused) {
        tracing::warn!(
            "the clock is more than a day ahead of the newest sample: nothing expires until it is confirmed \
             (--confirm-clock)"
        );
    }
    let starting = runtime.block_on(Server::start(database, options));
    let mut server = starting.map_err(|error| Failure::new(error.to_string()))?;
    let address = server.address();
    let connect = if is_tls { format!("https://{address}") } else { address.to_string() };
    let say = |text: &str| say(log, text);
    say(&format!("serving {} on {address}", data.display()));
    say(&format!("  ask:  tagmill sql --connect {connect}"));
    if let Some(postgres) = server.postgres_address() {
        let (host, port) = (postgres.ip(), postgres.port());
        say(&format!("        psql -h {host} -p {port} -d tagmill"));
    }
    if let Some(http) = server.http_address() {
        let scheme = if is_tls { "https" } else { "http" };
        say(&format!(
            "        curl {scheme}://{http}/api/v1/sql -d 'SELECT count(*) FROM samples'"
        ));
    }
    say(&format!("  send: gRPC tagmill.v1.Ingest, or tagmill import FILE --connect {connect}"));
    if insecure_no_auth && !address.ip().is_loopback() {
        say(&format!("  warning: whoever reaches {address} may read, write and delete"));
    }
    tell_system(NotifyState::Ready);
    runtime.block_on(async {
        tokio::select! {
            stopped = server.stopped() => stopped,
            asked = asked_to_stop => asked.map_err(crate::lifecycle::Error::Threads),
        }
        .map_err(|error| Failure::new(error.to_string()))?;
        tell_system(NotifyState::Stopping);
        say("stopping");
        server.shutdown().await.map_err(|error| Failure::new(error.to_string()))
    })?;
    say("stopped: everything acknowledged is on disk");
    Ok(())
}

/// Says something to people; to programs, where the log is for them, as an event like others.
fn say(log: LogForm, text: &str) {
    match log {
        LogForm::Text => eprintln!("{text}"),
        LogForm::Json => tracing::info!("{}", text.trim_start()),
    }
}

/// Reads a retention class: `NAME=TIME`, or `TIME` for the default class, and after commas `TIER=TIME`.
pub(crate) fn retention(text: &str) -> std::result::Result<RetentionClass, String> {
    let mut parts = text.split(',');
    let raw = parts.next().unwrap_or_default();
    let (name, time) = raw.split_once('=').unwrap_or(("", raw));
    let raw = time_kept(time)?;
    let tier = |part: &str| {
        let (name, time) = part.split_once('=').ok_or("write rollups like 1m=2y")?;
        let tier = Tier::ALL.into_iter().find(|tier| tier.to_string() == name);
        Ok((tier.ok_or("there are rollups of 1m, 15m, 1h and 1d")?, time_kept(time)?))
    };
    let tiers = parts.map(tier).collect::<std::result::Result<_, String>>()?;
    Ok(RetentionClass { tiers, ..RetentionClass::of_raw(name, raw) })
}

/// Reads how long something is kept; `None` for ever.
pub(crate) fn time_kept(time: &str) -> std::result::Result<Option<Duration>, String> {
    if time == "forever" {
        return Ok(None);
    }
    let unit_at = time.len() - time.chars().last().map_or(0, char::len_utf8);
    let (number, unit) = time.split_at(unit_at);
    let days = match unit {
        "d" => 1,
        "w" => 7,
        "y" => 365,
        _ => return Err("write it like 90d, 12w, 2y or forever".to_owned()),
    };
    let days = number.parse::<u64>().ok().and_then(|count| count.checked_mul(days));
    let seconds = days.filter(|days| (1..=100_000).contains(days)).map(|days| days * 86_400);
    let seconds = seconds.ok_or("a retention has 1 to 100000 days, like 90d, 12w or 2y")?;
    Ok(Some(Duration::from_secs(seconds)))
}

/// Tells systemd, if it has started this.
fn tell_system(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// Writes what happens to standard error: from `info` up, or what the variable `TAGMILL_LOG` says.
fn start_log(form: LogForm) {
    let filter = EnvFilter::try_from_env("TAGMILL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Whoever runs this inside another program may have a log already.
    drop(match form {
        LogForm::Text => log.try_init(),
        LogForm::Json => log.json().flatten_event(true).try_init(),
    });
}

/// Waits for Ctrl-C or, on Unix, SIGTERM, both heard from now on.
///
/// # Errors
/// If the system does not let them be heard.
pub(crate) fn asked_to_stop() -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Ok(())
        })
    }
    #[cfg(not(unix))]
    Ok(tokio::signal::ctrl_c())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_retention_classes() {
        let days = |text: &str| {
            let class = retention(text).unwrap();
            (class.name, class.raw.map(|raw| raw.as_secs() / 86_400))
        };
        assert_eq!(days("400d"), (String::new(), Some(400)));
        assert_eq!(days("fast=2w"), ("fast".into(), Some(14)));
        assert_eq!(days("lab=forever"), ("lab".into(), None));
        assert_eq!(days("2y"), (String::new(), Some(730)));
        let tiers = retention("fast=2w,1m=1y,1d=forever").unwrap().tiers;
        let year = Duration::from_hours(365 * 24);
        assert_eq!(tiers, [(Tier::Minute, Some(year)), (Tier::Day, None)]);
        assert_eq!(retention("90d,1h=2y").unwrap().name, "");
        for wrong in ["90d,", "90d,2m=1y", "90d,1m", "90d,1m=", "1m=1y,90d"] {
            assert!(retention(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "x=", "5", "5h", "0d", "-1d", "d", "99999999999999999999y", "5\u{e9}"] {
            assert!(retention(wrong).is_err(), "{wrong:?}");
        }
    }
}
