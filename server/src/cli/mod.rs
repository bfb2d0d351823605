//! The command line: one command a file.
//!
//! Contract: results go to standard output, everything else to standard error; an error says what to do next and ends
//! with exit code 1. Reading order: [`target`] (where the database is), then the commands.

pub mod attributes;
pub mod audit;
pub mod backup;
pub mod complete;
pub mod config;
pub mod delete;
pub mod demo;
pub mod end;
pub mod export;
pub mod failure;
pub mod format;
pub mod forward;
pub mod import;
pub mod restore;
pub mod salvage;
pub mod serve;
pub mod shell;
pub mod sql;
pub mod statements;
pub mod states;
pub mod tags;
pub mod target;
pub mod times;
pub mod token;
pub mod verify;
pub mod wire;
pub mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::failure::Result;

/// Shown below the commands.
const EXAMPLES: &str = "\
Examples:
  tagmill demo
  tagmill serve --data plant
  tagmill import runs.parquet --wide time=ts,tag=run --data plant
  tagmill sql --data plant -c \"SELECT tag, count(*), max(ts) FROM samples GROUP BY tag\"
  tagmill tags list 'unit3/*'

Commands ask the server on 127.0.0.1:7410 unless --connect ADDR names another one or --data DIR a directory that
no server has open. 'tagmill COMMAND --help' shows the words and examples of a command.";

#[derive(Debug, Parser)]
#[command(name = "tagmill", version, about = "A time-series database for plant telemetry", after_help = EXAMPLES)]
#[command(max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the main job: a server, a simulated plant, a day of its history, five questions.
    Demo(demo::Args),
    /// Serves a database to gateways and analysts.
    Serve(serve::Args),
    /// Asks in SQL: at a prompt, from the command line, or from standard input.
    Sql(sql::Args),
    /// Imports Parquet and CSV files.
    Import(Box<import::command::Args>),
    /// Forwards samples from standard input to servers, with a queue on disk: a gateway for shell scripts.
    Forward(forward::Args),
    /// Exports samples and tags as Parquet files, one a day.
    Export(export::Args),
    /// Lists, shows, changes and renames tags.
    Tags(tags::Args),
    /// Writes one sample.
    Write(write::Args),
    /// Deletes samples of some tags in a time range.
    Delete(delete::Args),
    /// Takes a backup while writes go on.
    Backup(backup::Args),
    /// Makes a database of a backup.
    Restore(restore::Args),
    /// Reads every byte and names what is damaged.
    Verify(verify::Args),
    /// Makes a damaged database open again, at the price of what cannot be read.
    Salvage(salvage::Args),
    /// Ends a statement that runs.
    End(end::Args),
    /// Makes, lists and revokes tokens: who is let in.
    Token(token::Args),
    /// Checks the log of who did what.
    Audit(audit::Args),
    /// Says what a server would do with a configuration, or what is wrong with it.
    Config(config::Args),
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_quiet() {
                // Nobody to tell if standard error is gone, too.
                drop(std::io::Write::write_fmt(
                    &mut std::io::stderr(),
                    format_args!("error: {failure}\n"),
                ));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Import(args) => import::command::run_command(*args),
        Command::Forward(args) => forward::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Tags(args) => tags::run(args),
        Command::Write(args) => write::run(args),
        Command::Delete(args) => delete::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::End(args) => end::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Token(args) => token::run(args),
        Command::Config(args) => config::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no examples", command.get_name());
        }
    }
}
