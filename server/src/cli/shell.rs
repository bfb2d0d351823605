//! The SQL prompt: lines, history, completion, and the words that begin with a backslash.
//!
//! Contract: a statement ends with `;` and may span lines; Ctrl-C drops the line or ends the running statement; an
//! error never ends the prompt. Without a terminal the command reads statements from standard input instead.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use super::complete::{Prompt, Words};
use super::failure::{Failure, Result};
use super::format::Format;
use super::sql::{Asker, Style};
use super::statements::Split;
use crate::globs::glob_to_like;

const HELP: &str = "\
A statement ends with ';' and may span lines. Tab completes relations, columns, functions, and tag names
inside quotes. Ctrl-C drops the line or ends the running statement, Ctrl-D leaves.
  \\d            relations             \\d NAME       columns of a relation
  \\t [GLOB]     tags                  \\l [GLOB]     latest values
  \\f FORMAT     table, csv or json    \\tz ZONE      zone times are shown in
  \\timing       turn timing on or off \\s            settings
  \\?            this help             \\q            leave";

/// What a backslash word asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Order {
    Quit,
    Help,
    Timing,
    Ask(String),
    Format(Format),
    Zone(super::times::Zone),
}

/// Runs the prompt until the caller leaves.
///
/// # Errors
/// If the terminal cannot be used.
pub fn run(asker: &mut Asker, style: &mut Style) -> Result<()> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .max_history_size(10_000)
        .map_err(|error| terminal(&error))?
        .history_ignore_space(true)
        .build();
    let mut editor: Editor<Prompt, FileHistory> =
        Editor::with_config(config).map_err(|error| terminal(&error))?;
    editor.set_helper(Some(Prompt::new(Words::fetch(asker))));
    let history = history_file();
    if let Some(history) = &history {
        // None yet, or not readable: the prompt works without.
        drop(editor.load_history(history));
    }
    let mut out = std::io::stdout();
    writeln!(out, "tagmill {}, {}. \\? for help.", env!("CARGO_PKG_VERSION"), asker.name())?;
    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { "tagmill> " } else { "     ..> " };
        match editor.readline(prompt) {
            Ok(line) => {
                if text.is_empty() && line.trim_start().starts_with('\\') {
                    drop(editor.add_history_entry(line.trim()));
                    if !obey(line.trim(), asker, style) {
                        break;
                    }
                    continue;
                }
                text.push_str(&line);
                text.push('\n');
                text = take(&text, asker, style, |whole| {
                    drop(editor.add_history_entry(whole));
                });
            }
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal(&error)),
        }
    }
    if let Some(history) = &history {
        drop(std::fs::create_dir_all(history.parent().unwrap_or(history)));
        if let Err(error) = editor.save_history(history) {
            writeln!(std::io::stderr(), "history is not kept: {}: {error}", history.display())?;
        }
    }
    Ok(())
}

/// Runs what is complete and gives back what is not.
fn take(text: &str, asker: &mut Asker, style: &mut Style, remember: impl FnOnce(&str)) -> String {
    let split = Split::of(text);
    if !split.rest.is_empty() {
        return text.to_owned();
    }
    if !split.complete.is_empty() {
        remember(text.trim());
    }
    for statement in split.complete {
        let started = Instant::now();
        match asker.print(&statement, style) {
            Ok(rows) if style.has_timing => {
                say(&format!("{rows} rows in {:.1} ms", started.elapsed().as_secs_f64() * 1e3));
            }
            Ok(_) => {}
            Err(failure) => {
                say(&format!("error: {failure}"));
                break;
            }
        }
    }
    String::new()
}

/// Does what a backslash word asks for; false to leave.
fn obey(line: &str, asker: &mut Asker, style: &mut Style) -> bool {
    match order(line) {
        Ok(Order::Quit) => return false,
        Ok(Order::Help) => say(HELP),
        Ok(Order::Timing) => {
            style.has_timing = !style.has_timing;
            say(if style.has_timing { "timing is on" } else { "timing is off" });
        }
        Ok(Order::Format(format)) => style.format = format,
        Ok(Order::Zone(zone)) => style.zone = zone,
        Ok(Order::Ask(sql)) => {
            if let Err(failure) = asker.print(&sql, style) {
                say(&format!("error: {failure}"));
            }
        }
        Err(why) => say(&why),
    }
    true
}

fn order(line: &str) -> Result<Order, String> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim().trim_end_matches(';').trim_end();
    let filter = |column: &str| {
        let pattern = if rest.is_empty() { "%".to_owned() } else { glob_to_like(rest) };
        format!("{column} LIKE '{}'", pattern.replace('\'', "''"))
    };
    Ok(match (word, rest) {
        ("\\q" | "\\quit" | "\\exit", _) => Order::Quit,
        ("\\?" | "\\h" | "\\help", _) => Order::Help,
        ("\\timing", _) => Order::Timing,
        ("\\s", _) => Order::Ask("SELECT * FROM system.settings".to_owned()),
        ("\\d", "") => Order::Ask(super::complete::RELATIONS_SQL.to_owned()),
        ("\\d", name) => Order::Ask(super::complete::columns_sql(name)),
        ("\\t", _) => Order::Ask(format!(
            "SELECT tag, type, unit, description FROM tags WHERE {} ORDER BY tag",
            filter("tag")
        )),
        ("\\l", _) => Order::Ask(format!(
            "SELECT tag, ts, value, value_text, quality FROM latest WHERE {} ORDER BY tag",
            filter("tag")
        )),
        ("\\f", format) => {
            let format = <Format as clap::ValueEnum>::from_str(format, true);
            match format {
                Ok(Format::Arrow) | Err(_) => return Err("\\f takes table, csv or json".to_owned()),
                Ok(format) => Order::Format(format),
            }
        }
        ("\\tz", zone) => Order::Zone(zone.parse()?),
        _ => return Err(format!("no order {word}: \\? lists them")),
    })
}

fn say(text: &str) {
    // A terminal that is gone ends the prompt at the next line.
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn terminal(error: &ReadlineError) -> Failure {
    Failure::new(format!("the terminal: {error}")).next("use -c 'SELECT ..' instead")
}

fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|path| path.is_absolute()).or_else(|| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"))
    })?;
    Some(state.join("tagmill/history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_orders() {
        assert_eq!(order("\\q"), Ok(Order::Quit));
        assert_eq!(order("\\f json"), Ok(Order::Format(Format::Json)));
        assert!(
            order("\\f arrow").is_err() && order("\\x").is_err() && order("\\tz Mars").is_err()
        );
        let Ok(Order::Ask(sql)) = order("\\t unit'3/*;") else { panic!() };
        assert!(sql.contains("tag LIKE 'unit''3/%'"), "{sql}");
    }
}
