//! Processes of ours: started in a group of their own, waited for with patience that ends, killed by their id.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::victim::Orders;

/// How long one victim may live. The longest takes a few seconds on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with success.
    Well,
    /// By SIGKILL.
    Killed,
    /// In any other way: an abort, a panic, an exit code.
    Badly(String),
    /// Not at all: it hung and was killed here.
    Hung,
}

/// The command that makes this program a victim.
pub(crate) fn victim(orders: &Orders) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    arguments(&mut command, orders);
    Ok(command)
}

/// Appends the arguments that tell a victim its orders.
pub(crate) fn arguments(command: &mut Command, orders: &Orders) {
    command.arg("victim").arg(&orders.data);
    for number in [orders.seed, orders.first as u64, orders.steps as u64] {
        command.arg(number.to_string());
    }
    if orders.is_careless {
        command.arg("careless");
    }
}

/// Runs a command to its end, with the ledger as its output. What it writes to the error stream is part of a bad end.
pub(crate) fn run(mut command: Command, ledger: File) -> io::Result<End> {
    let noise = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(ledger).stderr(noise.try_clone()?);
    let mut child = Guard(command.process_group(0).spawn()?);
    let started = Instant::now();
    let mut nap = Duration::from_micros(200);
    loop {
        if let Some(status) = child.0.try_wait()? {
            return end(status, noise);
        }
        if started.elapsed() > PATIENCE {
            return Ok(End::Hung); // the guard kills it
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(4));
    }
}

fn end(status: ExitStatus, mut noise: File) -> io::Result<End> {
    if status.success() {
        return Ok(End::Well);
    }
    if status.signal() == Some(9) {
        return Ok(End::Killed);
    }
    let mut text = String::new();
    io::Seek::rewind(&mut noise)?;
    io::Read::read_to_string(&mut noise, &mut text)?;
    let tail: Vec<&str> = text.lines().rev().take(12).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Ok(End::Badly(format!("{status}: {}", tail.join(" | "))))
}

/// Runs a tool of the system and gives what it printed.
///
/// # Errors
/// What it said when it failed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), said.trim())))
}

/// Whether a program can be started.
pub(crate) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(Path::new).map(Path::to_owned);
    std::env::split_paths(&paths).chain(system).any(|folder| folder.join(program).is_file())
}

/// Kills the whole group of a child that is still there.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let group = format!("-{}", self.0.id());
            tool("kill", &["-KILL", "--", &group]).ok();
            self.0.wait().ok();
        }
    }
}
