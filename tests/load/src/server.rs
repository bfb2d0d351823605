//! The real `tagmill serve` in a process of its own: started, asked for its figures, killed.
//!
//! # Contract
//! * It listens on 127.0.0.1 only, for gRPC at the address it is told and for HTTP at a port of the system's choice.
//! * Dropping a [`Server`] kills its process by its id and waits until it has ended.
//! * What it says goes into a file beside its data; a panic in there is an error of [`Server::kill`].

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::figures::Usage;

/// How long a server may take to start, on a machine that is busy, with a log to be read.
const START_MAX: Duration = Duration::from_mins(1);
/// How long it may take to tell its figures.
const FIGURES_MAX: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    address: String,
    http: String,
}

impl Server {
    /// Starts `program` on `data` and waits until it listens at `address`, whose port may be 0.
    ///
    /// # Errors
    /// What it said, if it ends before, or takes too long.
    pub(crate) async fn start(program: &Path, data: &Path, address: &str) -> Outcome<Self> {
        let log = data.with_extension("log");
        let mut command = Command::new(program);
        command.args(["serve", "--postgres", "off", "--http", "127.0.0.1:0"]);
        command.args(["--own-figures", "off"]);
        command.args(["--listen", address, "--data"]).arg(data).env("TAGMILL_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let mut server = Self { child, log, address: String::new(), http: String::new() };
        let started = Instant::now();
        loop {
            let said = server.said();
            if let Some((address, http)) = addresses(&said) {
                (server.address, server.http) = (address, http);
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("the server ended while it started, {status}: {said}").into());
            }
            if started.elapsed() > START_MAX {
                return Err(
                    format!("the server does not listen after {START_MAX:?}: {said}").into()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Where it serves gRPC.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it has taken of the machine.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// SIGKILL: no handler runs, nothing is flushed. It is gone when this returns.
    ///
    /// # Errors
    /// If it had ended by itself, or panicked.
    pub(crate) fn kill(mut self) -> Outcome<()> {
        let ended = self.child.try_wait()?;
        self.child.kill()?;
        self.child.wait()?;
        let said = self.said();
        if let Some(status) = ended {
            return Err(format!("the server ended by itself, {status}: {said}").into());
        }
        if said.contains("panicked") {
            Err(format!("the server panicked: {said}").into())
        } else {
            Ok(())
        }
    }

    /// Samples that it has written to its log since it was started, each as often as it was written.
    ///
    /// # Errors
    /// If it does not say.
    pub(crate) async fn samples_written(&self) -> Outcome<u64> {
        let text = tokio::time::timeout(FIGURES_MAX, self.figures()).await??;
        let mut lines = text.lines();
        let figure = lines.find_map(|line| line.strip_prefix("tagmill_samples_total "));
        let figure = figure.ok_or_else(|| format!("no tagmill_samples_total in: {text}"))?;
        Ok(figure.parse().map_err(|error| format!("tagmill_samples_total {figure}: {error}"))?)
    }

    async fn figures(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.http).await?;
        // In this version of HTTP the answer ends with the connection.
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Addresses of gRPC and HTTP in what a server says when it has begun to listen.
fn addresses(said: &str) -> Option<(String, String)> {
    said.contains("  send: ").then_some(())?;
    let (_, address) =
        said.lines().find_map(|line| line.strip_prefix("serving "))?.rsplit_once(" on ")?;
    let (_, http) = said.split_once("curl http://")?;
    let (http, _) = http.split_once('/')?;
    Some((address.to_owned(), http.to_owned()))
}

/// A loopback address that nobody uses now. Its port lies below those that the system takes for outgoing connections, so
/// it stays free while the server is down.
///
/// # Errors
/// If there is none.
pub(crate) fn lasting_address() -> Outcome<String> {
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 10_000;
    // Runs at the same time start far apart.
    let start = std::process::id().wrapping_mul(997);
    let mut addresses =
        (0..PORTS).map(|at| format!("127.0.0.1:{}", FIRST + start.wrapping_add(at) % PORTS));
    let free = addresses.find(|address| TcpListener::bind(address).is_ok());
    free.ok_or_else(|| "no port from 20000 to 29999 is free".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_from_what_is_said_when_all_of_it_is() {
        let said = "serving /tmp/a on b on 127.0.0.1:7\n  ask:  tagmill sql --connect 127.0.0.1:7\n        curl \
                    http://127.0.0.1:9/api/v1/sql -d 'SELECT 1'\n  send: gRPC\n";
        assert_eq!(addresses(said), Some(("127.0.0.1:7".into(), "127.0.0.1:9".into())));
        assert_eq!(addresses(&said[..said.len() - 11]), None);
    }
}
