//! `tagmill end`: ends a statement that runs.

use tagmill_proto::v1;

use super::failure::Result;
use super::target::TargetArgs;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill sql -c 'SELECT id, principal, elapsed_ms, sql FROM system.queries'
  tagmill end 17
  tagmill end 17 --connect https://historian:7410 --token-file ~/.tagmill-token

Everybody may end statements of their own token, an operator those of others.";

/// Arguments of `tagmill end`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The statement's number in system.queries.
    id: u64,
    /// Address of a server; by default 127.0.0.1:7410.
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,
    /// File with the token; otherwise the variable `TAGMILL_TOKEN` has it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If there is no such statement, or the server cannot be asked.
pub fn run(args: Args) -> Result<()> {
    let Args { id, connect, token_file } = args;
    let remote = TargetArgs { connect, token_file, ..TargetArgs::default() }.open_remote()?;
    remote.block_on(async {
        let mut query = v1::query_client::QueryClient::new(remote.channel().await?);
        query.end(v1::EndRequest { id }).await.map_err(|status| remote.failure(&status))
    })?;
    println!("statement {id} has been told to end");
    Ok(())
}
