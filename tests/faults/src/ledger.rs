//! What a victim says while it lives, one line an event, written outside the database: [`Event`], [`Ledger`].
//!
//! # Contract
//! * A line is one `write` call: it is there wholly or not at all, and before the next thing the victim does.
//! * `Begun` comes before the engine is called, an answer after it has answered.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

/// One line of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A step is about to be tried, under this seq of its gateway (0 where it has none).
    Begun { step: usize, seq: u64 },
    /// It is durable, says the engine.
    Durable(usize),
    /// Tags are defined. Whether that took a record is not said, so nothing follows for the changes before it.
    Defined(usize),
    /// It is written but not synced, says the engine.
    Written(usize),
    /// Nothing was written, says the engine.
    NotWritten(usize),
    /// Nobody knows, says the engine.
    Unknown(usize),
    /// The database was opened, or opened again, and showed rows of this digest.
    Opened(u64),
    /// A snapshot showed rows of this digest.
    Shown(u64),
    /// Everything begun is durable: a seal or a sync has succeeded.
    Synced,
    /// The database was closed without an error.
    Closed,
    /// A read failed.
    ReadFailed(String),
    /// The database could not be opened.
    OpenFailed(String),
    /// Something else was refused: a seal, a session.
    Refused(String),
    /// The victim has done all it was told to.
    Ended,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| text.replace('\n', " ");
        match self {
            Self::Begun { step, seq } => write!(f, "begun {step} {seq}"),
            Self::Durable(step) => write!(f, "durable {step}"),
            Self::Defined(step) => write!(f, "defined {step}"),
            Self::Written(step) => write!(f, "written {step}"),
            Self::NotWritten(step) => write!(f, "not-written {step}"),
            Self::Unknown(step) => write!(f, "unknown {step}"),
            Self::Opened(digest) => write!(f, "opened {digest}"),
            Self::Shown(digest) => write!(f, "shown {digest}"),
            Self::Synced => f.write_str("synced"),
            Self::Closed => f.write_str("closed"),
            Self::ReadFailed(why) => write!(f, "read-failed {}", text(why)),
            Self::OpenFailed(why) => write!(f, "open-failed {}", text(why)),
            Self::Refused(why) => write!(f, "refused {}", text(why)),
            Self::Ended => f.write_str("ended"),
        }
    }
}

impl FromStr for Event {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let wrong = || format!("a ledger line nobody wrote: {line:?}");
        let number = || rest.parse::<usize>().map_err(|_| wrong());
        let digest = || rest.parse::<u64>().map_err(|_| wrong());
        Ok(match word {
            "begun" => {
                let (step, seq) = rest.split_once(' ').ok_or_else(wrong)?;
                let step = step.parse().map_err(|_| wrong())?;
                Self::Begun { step, seq: seq.parse().map_err(|_| wrong())? }
            }
            "durable" => Self::Durable(number()?),
            "defined" => Self::Defined(number()?),
            "written" => Self::Written(number()?),
            "not-written" => Self::NotWritten(number()?),
            "unknown" => Self::Unknown(number()?),
            "opened" => Self::Opened(digest()?),
            "shown" => Self::Shown(digest()?),
            "synced" => Self::Synced,
            "closed" => Self::Closed,
            "read-failed" => Self::ReadFailed(rest.into()),
            "open-failed" => Self::OpenFailed(rest.into()),
            "refused" => Self::Refused(rest.into()),
            "ended" => Self::Ended,
            _ => return Err(wrong()),
        })
    }
}

/// Events of a ledger's bytes. A last line without its end was cut by a kill and did not happen.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Event>, String> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|e| e.to_string())?;
    text.lines().map(str::parse).collect()
}

/// The victim's end of a ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Mutex<File>,
}

impl Ledger {
    /// The ledger that whoever started this process has put in place of the standard output: nothing is opened here,
    /// so that no fault can hit it.
    pub(crate) fn inherited() -> std::io::Result<Self> {
        let file = std::io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self { file: Mutex::new(File::from(file)) })
    }

    /// Writes one line.
    ///
    /// # Panics
    /// If it cannot: a victim that cannot say what it does is of no use.
    pub(crate) fn say(&self, event: &Event) {
        let line = format!("{event}\n");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write(line.as_bytes()).expect("the ledger can be written");
        assert_eq!(written, line.len(), "a line of the ledger was cut");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let events = [
            Event::Begun { step: 3, seq: 9 },
            Event::Durable(3),
            Event::Defined(2),
            Event::Written(4),
            Event::NotWritten(5),
            Event::Unknown(6),
            Event::Opened(u64::MAX),
            Event::Shown(0),
            Event::Synced,
            Event::Closed,
            Event::ReadFailed("a b".into()),
            Event::OpenFailed("c".into()),
            Event::Refused("d e".into()),
            Event::Ended,
        ];
        let lines: Vec<String> = events.iter().map(ToString::to_string).collect();
        let text = lines.join("\n") + "\n";
        assert_eq!(parse(text.as_bytes()).unwrap(), events);
        let cut = format!("{text}durable 12");
        assert_eq!(parse(cut.as_bytes()).unwrap(), events);
        assert!(parse(b"durable x\n").is_err());
    }
}
