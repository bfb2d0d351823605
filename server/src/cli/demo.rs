//! `tagmill demo`: a server, a plant, a day of its history, five questions, in one command.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::failure::{Failure, Result};
use crate::demo::error::Error;
use crate::demo::report::Paper;
use crate::demo::{DemoOptions, run as run_demo};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  Fill ./tagmill-demo, answer five questions, go on live until Ctrl-C:
    tagmill demo
  The same, but end after the answers:
    tagmill demo --once
  Ask more while it runs, from another terminal:
    tagmill sql

Every answer is also worked out from the simulator's own samples; the exit code is 1 if one differs.
Run again, it goes on with the data it finds.";

/// Arguments of `tagmill demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of the database: an empty one, or one of the demo.
    #[arg(long, value_name = "DIR", default_value = "tagmill-demo")]
    data: PathBuf,
    /// Address to serve on [default: 127.0.0.1:7410, or a free port if that is taken].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve on an address that other machines can reach, without passwords and unencrypted.
    #[arg(long)]
    insecure_no_auth: bool,
    /// End after the answers.
    #[arg(long, conflicts_with = "seconds")]
    once: bool,
    /// End after so many seconds of live samples.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// If an answer is wrong, or the directory, the server or the output fails.
pub fn run(args: Args) -> Result<()> {
    let live = if args.once { Some(0) } else { args.seconds };
    let options = DemoOptions {
        program: std::env::args().next().unwrap_or_else(|| "tagmill".to_owned()),
        data: args.data,
        listen: args.listen,
        insecure_no_auth: args.insecure_no_auth,
        live: live.map(Duration::from_secs),
    };
    let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut paper = Paper::new(std::io::stdout(), is_coloured);
    let runtime = tokio::runtime::Runtime::new()?;
    match runtime.block_on(run_demo(&options, &mut paper)) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(Failure::new("an answer differs from the simulator's own samples, see above")
                .next("please report it, with the version and the lines above"))
        }
        Err(Error::Output(error)) => Err(error.into()),
        Err(Error::Unfit { what, next }) => Err(Failure::new(what).next(next)),
        Err(other) => Err(Failure::new(other.to_string())),
    }
}
