//! `tagmill forward`: samples from standard input to servers, with a queue on disk between.
//!
//! Contract: a line is in the queue half a second after it was read, or with the 1,000 samples it came with, and is
//! delivered then whatever happens to this program or to a server. A line that cannot be read is told and left out. It ends
//! when everything is delivered after the end of the input, or when it is told to: then what it has read is stored.
//!
//! Reading order: [`input`] (lines), [`samples`] (of a line; pure), [`pending`] (a batch), [`types`] (of tags that servers
//! know), this file (queue, what is told).

mod input;
mod pending;
mod samples;
mod types;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tagmill_client::{Destination, Error, ForwardOptions, Forwarder, Full, Ticket};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::input::{Line, read_input};
use self::pending::{Pending, Tags};
use self::samples::{Reader, Refusal};
use super::failure::{Failure, Result};
use super::import::report::grouped;
use super::import::stamps::TimeFormat;
use super::serve::asked_to_stop;
use super::target::{TargetArgs, uri_of};
use crate::http::lines::{self, Precision, Template};
use crate::ingest::messages::value_type;
use crate::lifecycle::turns_true;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  A gateway in a shell: what a script prints goes to a server, also after an outage
    while sleep 1; do echo \"room,site=north temp=$(cat /sys/class/thermal/thermal_zone0/temp)i\"; done |
      tagmill forward --to plant:7410 --gateway north --queue /var/spool/tagmill
  CSV with a header, to two servers, each in its own time
    tagmill forward --to plant:7410 --to hq=https://hq:7410 --token-file t --gateway lab --queue q --format csv <log.csv
  Deliver what the queue still holds
    tagmill forward --to plant:7410 --gateway north --queue /var/spool/tagmill </dev/null

A line that was stored is delivered to each server once, whatever is restarted meanwhile. One queue is for one gateway
name, and one program at a time. CSV has the columns tag,time,value[,quality]; times are RFC 3339 or numbers of
--precision. A new tag has the type of its first value: of CSV a number makes it f64, true and false bool, else text.
docs/cli.md says more.";

/// How long a sample may wait for others.
const STORE_WITHIN: Duration = Duration::from_millis(500);
/// How long a server may take to tell the types of its tags. Nothing is read before.
const TYPES_WITHIN: Duration = Duration::from_secs(5);
/// How often to say how it goes.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often to look whether everything is delivered.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the last samples may take to be stored when the program is told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Reasons that are told of one kind at a time; the rest is counted.
const TOLD_MAX: usize = 10;

/// Arguments of `tagmill forward`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A server's address, with a name before it if it may move: `plant=10.0.0.1:7410`. May be given several times.
    #[arg(long, value_name = "[NAME=]ADDR", required = true, value_parser = destination)]
    to: Vec<(String, String)>,
    /// The gateway's name. No other may have it.
    #[arg(long, value_name = "NAME")]
    gateway: String,
    /// Folder of the queue; made if there is none.
    #[arg(long, value_name = "DIR")]
    queue: PathBuf,
    /// What the lines are: Influx line protocol, or CSV.
    #[arg(long, value_name = "FORMAT", default_value = "lines")]
    format: Format,
    /// How tags of line protocol are named, of {measurement}, {tags}, {tag:KEY} and {field}.
    #[arg(long, value_name = "TEMPLATE", default_value = lines::DEFAULT, value_parser = Template::parse)]
    template: Template,
    /// What times count that are numbers.
    #[arg(long, value_name = "UNIT", default_value = "ns")]
    precision: Unit,
    /// Room on disk, such as 500MiB or 1GiB. What every server has is kept for as long as there is room.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    capacity: u64,
    /// What to do when the queue is full of what some server lacks.
    #[arg(long, value_name = "POLICY", default_value = "block")]
    when_full: WhenFull,
    /// Samples a second that each server gets at most, so that catching up leaves room for others.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// File with the token for the servers; else the variable `TAGMILL_TOKEN`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Authorities in PEM that have signed the servers' certificates; else the variable `TAGMILL_CA`, or the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Lines,
    Csv,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Unit {
    Ns,
    Us,
    Ms,
    S,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum WhenFull {
    /// Reading waits.
    Block,
    /// What does not fit is told and left out.
    Refuse,
    /// The oldest goes, and is counted.
    DropOldest,
}

impl Args {
    fn target(&self, address: &str) -> TargetArgs {
        TargetArgs {
            data: None,
            connect: Some(address.to_owned()),
            token_file: self.token_file.clone(),
            ca: self.ca.clone(),
        }
    }

    fn options(&self) -> Result<ForwardOptions> {
        let mut to = Vec::with_capacity(self.to.len());
        for (name, address) in &self.to {
            let credentials = self.target(address).credentials()?;
            to.push(Destination { name: name.clone(), address: uri_of(address), credentials });
        }
        Ok(ForwardOptions {
            capacity_bytes: self.capacity,
            when_full: match self.when_full {
                WhenFull::Block => Full::Block,
                WhenFull::Refuse => Full::Refuse,
                WhenFull::DropOldest => Full::DropOldest,
            },
            rate: self.rate,
            agent: concat!("tagmill forward ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..ForwardOptions::new(self.gateway.clone(), to)
        })
    }

    fn reader(&self) -> Result<Reader> {
        let word = match self.precision {
            Unit::Ns => "ns",
            Unit::Us => "us",
            Unit::Ms => "ms",
            Unit::S => "s",
        };
        let unknown = || Failure::new(format!("{word} is no unit"));
        Ok(match self.format {
            Format::Lines => Reader::Lines {
                template: self.template.clone(),
                precision: Precision::parse(word).ok_or_else(unknown)?,
            },
            Format::Csv => match word.parse() {
                Ok(TimeFormat::Since1970(unit_ns)) => Reader::Csv { unit_ns, header: None },
                _ => return Err(unknown()),
            },
        })
    }
}

/// Runs the command.
///
/// # Errors
/// If the queue cannot be opened, a line or sample was left out, or a server has ended for good.
pub fn run(args: &Args) -> Result<()> {
    let (options, reader) = (args.options()?, args.reader()?);
    let servers = args.to.iter().map(|(_, address)| (address.clone(), args.target(address)));
    let known = types::of_servers(servers.collect(), TYPES_WITHIN);
    for line in known.remarks.iter().flat_map(|remark| remark.lines()) {
        tell(format_args!("{}", printable(line)));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let opened = Forwarder::open(&args.queue, options).await;
        let forwarder = opened.map_err(|error| Failure::new(error.to_string()))?;
        let lost = lost(&forwarder);
        let work = Work {
            forwarder: Arc::new(forwarder),
            reader,
            tags: Tags::new(known.types),
            pending: Pending::default(),
            tally: Tally::default(),
            told: String::new(),
            stop: stopping(),
            lost,
            capacity_bytes: args.capacity,
        };
        work.run(args, read_input()?).await
    })
}

/// Turns true when the program is told to stop.
fn stopping() -> watch::Receiver<bool> {
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        // A signal that cannot be waited for ends the program by itself.
        let asked = asked_to_stop();
        if let Ok(asked) = asked
            && asked.await.is_ok()
        {
            stop.send_replace(true);
        }
        // Whoever waits for it must not take an end of this task for the signal.
        stop.closed().await;
    });
    stopping
}

/// What was left out, and what was done.
#[derive(Debug, Default)]
struct Tally {
    stored_samples: u64,
    bad_lines: u64,
    unstored_samples: u64,
    rejected_samples: u64,
}

struct Work {
    forwarder: Arc<Forwarder>,
    reader: Reader,
    tags: Tags,
    pending: Pending,
    tally: Tally,
    /// What was told last.
    told: String,
    /// Whether the program was told to stop.
    stop: watch::Receiver<bool>,
    /// Records that had been given up before this run.
    lost: u64,
    /// What the queue may take.
    capacity_bytes: u64,
}

impl Work {
    async fn run(mut self, args: &Args, mut lines: mpsc::Receiver<Line>) -> Result<()> {
        self.take_all(&mut lines).await?;
        if *self.stop.borrow() {
            self.rescue(&mut lines).await?;
        } else {
            self.deliver().await;
        }
        self.report();
        let lost = lost(&self.forwarder).saturating_sub(self.lost);
        let ended = self.forwarder.status().servers.into_iter().find(|server| server.ended);
        if let Some(forwarder) = Arc::into_inner(self.forwarder) {
            forwarder.close().await.map_err(|error| Failure::new(error.to_string()))?;
        }
        if let Some(server) = ended {
            let why = server.last_error.unwrap_or_default();
            return Err(Failure::new(format!("{}: {why}", server.name)).next(format!(
                "when that is put right, run it again: what is not delivered stays in {}",
                args.queue.display()
            )));
        }
        self.tally.judge(lost)
    }

    /// Stores what comes until the input ends, or the program is told to stop.
    async fn take_all(&mut self, lines: &mut mpsc::Receiver<Line>) -> Result<()> {
        let mut tick = tokio::time::interval(TELL_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        let mut store_at = Instant::now();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                () = turns_true(&mut stop) => return Ok(()),
                line = lines.recv() => {
                    let Some(line) = line else { break };
                    if self.pending.is_empty() {
                        store_at = Instant::now() + STORE_WITHIN;
                    }
                    self.take(line)?;
                    if self.pending.is_full(self.capacity_bytes) {
                        self.store().await?;
                    }
                }
                () = tokio::time::sleep_until(store_at), if !self.pending.is_empty() => {
                    self.store().await?;
                }
                _ = tick.tick() => self.report(),
            }
        }
        self.store().await
    }

    fn take(&mut self, line: Line) -> Result<()> {
        let Line { number, read_ns, text } = line;
        let samples = match text {
            Ok(text) => self.reader.read(&text, read_ns),
            Err(why) => Err(Refusal::Line(why)),
        };
        let taken = match samples {
            Ok(samples) if samples.is_empty() => Ok(()),
            Ok(samples) => {
                let in_queue = |name: &str| {
                    self.forwarder.find(name).and_then(|(_, tag)| value_type(tag.value_type))
                };
                self.pending.take(number, samples, &mut self.tags, in_queue)
            }
            Err(Refusal::Line(why)) => Err(why),
            Err(Refusal::Header(why)) => {
                return Err(Failure::new(why).next("write such a line before all others"));
            }
        };
        if let Err(why) = taken {
            self.tally.bad_lines += 1;
            tell(format_args!("line {number}: {}", printable(&why)));
        }
        Ok(())
    }

    /// Stores what was read. Samples that the queue refuses are told and left out.
    async fn store(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let samples = pending.samples() as u64;
        let (first, last) = pending.lines();
        let mut tags = std::mem::take(&mut self.tags);
        let mut stop = self.stop.clone();
        let forwarder = Arc::clone(&self.forwarder);
        let stored = {
            let storing = put(&forwarder, &mut tags, &pending);
            tokio::pin!(storing);
            loop {
                // Never given up half way but at the very end: a batch that may be stored would be stored again.
                tokio::select! {
                    stored = &mut storing => break Some(stored),
                    () = turns_true(&mut stop) => {
                        break tokio::time::timeout(STOP_WITHIN, storing).await.ok();
                    }
                    () = tokio::time::sleep(TELL_EVERY) => self.report(),
                }
            }
        };
        self.tags = tags;
        let failed = |error: Error| Failure::new(error.to_string());
        match stored {
            Some(Ok(_)) => self.tally.stored_samples += samples,
            Some(Err(
                error @ (Error::Full { .. } | Error::TooLarge { .. } | Error::Unfit { .. }),
            )) => {
                self.tally.unstored_samples += samples;
                tell(format_args!("lines {first} to {last} are not stored: {error}"));
            }
            Some(Err(error)) => {
                return Err(failed(error).within(format!("lines {first} to {last} are not stored")));
            }
            None => {
                self.tally.unstored_samples += samples;
                tell(format_args!("lines {first} to {last} are not stored: the queue is full"));
            }
        }
        Ok(())
    }

    /// Waits until every server that is not given up has everything, or the program is told to stop.
    async fn deliver(&mut self) {
        let mut tell_at = Instant::now() + TELL_EVERY;
        while !*self.stop.borrow() {
            let servers = self.forwarder.status().servers;
            if servers.iter().all(|server| server.ended || server.is_delivered()) {
                return;
            }
            if Instant::now() >= tell_at {
                self.report();
                tell_at = Instant::now() + TELL_EVERY;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Stores what was read before the program was told to stop.
    async fn rescue(&mut self, lines: &mut mpsc::Receiver<Line>) -> Result<()> {
        tell(format_args!("stopping"));
        lines.close();
        // What waits in the channel is bounded, and nothing comes after it. A queue that is full is waited for once; what was
        // left out before says nothing of the room that there is now.
        let before = self.tally.unstored_samples;
        while self.tally.unstored_samples == before
            && let Ok(line) = lines.try_recv()
        {
            self.take(line)?;
            if self.pending.is_full(self.capacity_bytes) {
                self.store().await?;
            }
        }
        self.store().await?;
        let mut left = 0_u64;
        while lines.try_recv().is_ok() {
            left += 1;
        }
        if left > 0 {
            self.tally.bad_lines += left;
            tell(format_args!("{left} more lines are not stored"));
        }
        Ok(())
    }

    /// Says how it goes, if there is anything new.
    fn report(&mut self) {
        for notice in self.forwarder.take_notices() {
            tell(format_args!("{}", printable(&notice)));
        }
        self.report_rejects();
        let waiting = self.undelivered();
        let stored = grouped(self.tally.stored_samples);
        let rest = if waiting.is_empty() { "all delivered".to_owned() } else { waiting };
        let text = format!("{stored} samples stored; {rest}");
        if text != self.told {
            tell(format_args!("{text}"));
            self.told = text;
        }
    }

    fn report_rejects(&mut self) {
        for summary in self.forwarder.summaries() {
            let name = &summary.name;
            for refused in summary.refused.iter().take(TOLD_MAX) {
                tell(format_args!("{name} refuses tag {:?}: {}", refused.name, refused.detail));
            }
            let rejects = &summary.acks.rejects;
            for reject in rejects.iter().take(TOLD_MAX) {
                let tag = self.forwarder.definition(reject.alias);
                let tag =
                    tag.map_or_else(|| "a whole batch".to_owned(), |tag| format!("{:?}", tag.name));
                let (count, why) = (reject.count, &reject.detail);
                tell(format_args!("{name} rejects {count} samples of {tag}: {}", printable(why)));
            }
            if rejects.len() > TOLD_MAX {
                tell(format_args!("{name} rejects more: {} ranges in all", rejects.len()));
            }
            // A batch that is refused as a whole says no count: it is one at least.
            let whole = rejects.iter().filter(|reject| reject.count == 0).count() as u64;
            self.tally.rejected_samples += summary.acks.rejected_samples + whole;
        }
    }

    /// What servers lack, in words; empty if nothing.
    fn undelivered(&self) -> String {
        let servers = self.forwarder.status().servers.into_iter();
        let lacking = servers.filter(|server| !server.is_delivered()).map(|server| {
            if server.waiting_records == 0 {
                return format!("{} was not heard yet", server.name);
            }
            let (name, records) = (&server.name, grouped(server.waiting_records));
            let why = match &server.last_error {
                Some(error) => format!(" ({error})"),
                None => String::new(),
            };
            format!("{name} lacks {records} batches, which wait in the queue{why}")
        });
        lacking.collect::<Vec<_>>().join("; ")
    }
}

impl Tally {
    /// The exit code: whether everything was done.
    fn judge(&self, lost_records: u64) -> Result<()> {
        let counts = [
            (self.bad_lines, "lines were left out"),
            (self.unstored_samples, "samples were not stored"),
            (self.rejected_samples, "samples were rejected by a server"),
            (lost_records, "batches were dropped before a server had them"),
        ];
        let some = counts.iter().filter(|(count, _)| *count > 0);
        let texts: Vec<String> =
            some.map(|(count, what)| format!("{} {what}", grouped(*count))).collect();
        if texts.is_empty() { Ok(()) } else { Err(Failure::new(texts.join(", "))) }
    }
}

/// Brings samples into the queue, and before them the tags that are new.
async fn put(
    forwarder: &Forwarder,
    tags: &mut Tags,
    pending: &Pending,
) -> tagmill_client::Result<Ticket> {
    let new = tags.undefined();
    if !new.is_empty() {
        tags.set_aliases(&forwarder.define(&new).await?);
    }
    forwarder.append(pending.batch(tags)?).await
}

/// Records that servers never get.
fn lost(forwarder: &Forwarder) -> u64 {
    forwarder.status().servers.iter().map(|server| server.lost_records).sum()
}

/// Says something on standard error. If nobody is there to hear it, the samples count more.
fn tell(text: std::fmt::Arguments<'_>) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// A text from outside, without characters that a terminal would obey.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{FFFD}")
}

fn destination(text: &str) -> Result<(String, String), String> {
    // An address holds no `=`.
    let (name, address) = match text.split_once('=') {
        Some((name, address)) => (Some(name), address),
        None => (None, text),
    };
    if address.is_empty() || name == Some("") {
        return Err("write an address like plant:7410, or plant=10.0.0.1:7410".to_owned());
    }
    let uri = uri_of(address);
    let host = uri.split_once("://").map_or(uri.as_str(), |(_, host)| host);
    Ok((name.unwrap_or(host).to_owned(), address.to_owned()))
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err("write a size like 500MiB or 1GiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    let least = tagmill_client::forward::CAPACITY_BYTES_MIN;
    bytes
        .filter(|bytes| (least..=1 << 50).contains(bytes))
        .ok_or_else(|| "a queue has 64KiB to 1024TiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_destinations_are_read() {
        assert_eq!(
            (size("1GiB"), size("500MiB"), size("65536")),
            (Ok(1 << 30), Ok(500 << 20), Ok(65_536))
        );
        for wrong in ["", "x", "1", "1GB", "-1GiB", "99999999999999999999", "9999999TiB", "1 GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        let pair = |name: &str, address: &str| Ok((name.to_owned(), address.to_owned()));
        assert_eq!(destination("plant"), pair("plant:7410", "plant"));
        assert_eq!(destination("https://plant:1"), pair("plant:1", "https://plant:1"));
        assert_eq!(destination("hq=10.0.0.1:7"), pair("hq", "10.0.0.1:7"));
        assert!(
            destination("").is_err() && destination("hq=").is_err() && destination("=x").is_err()
        );
    }

    const CAPACITY_BYTES: u64 = tagmill_client::forward::CAPACITY_BYTES_MIN;

    /// A queue with room in a folder, whose server is away, and a program that is told to stop.
    async fn stopped(folder: &std::path::Path) -> Work {
        let to = vec![Destination::new("127.0.0.1:1")];
        let options =
            ForwardOptions { capacity_bytes: CAPACITY_BYTES, ..ForwardOptions::new("g", to) };
        let forwarder = Forwarder::open(folder, options).await.unwrap();
        // Without a sender it is true.
        let (_, stop) = watch::channel(true);
        Work {
            forwarder: Arc::new(forwarder),
            reader: Reader::Lines {
                template: Template::parse(lines::DEFAULT).unwrap(),
                precision: Precision::parse("ns").unwrap(),
            },
            tags: Tags::default(),
            pending: Pending::default(),
            tally: Tally::default(),
            told: String::new(),
            stop,
            lost: 0,
            capacity_bytes: CAPACITY_BYTES,
        }
    }

    fn line(number: u64) -> Line {
        Line { number, read_ns: 1, text: Ok(format!("m a={number} {number}")) }
    }

    /// What a full queue has not taken once does not keep what comes later from being stored where there is room.
    #[tokio::test]
    async fn what_was_read_is_stored_at_the_end_whatever_was_left_out_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut work = stopped(folder.path()).await;
        work.tally.unstored_samples = 7;
        work.take(line(1)).unwrap();
        let (sender, mut lines) = mpsc::channel(8);
        for number in 2..=4 {
            sender.try_send(line(number)).unwrap_or_else(|_| panic!("there is room"));
        }
        work.rescue(&mut lines).await.unwrap();
        let Tally { stored_samples, bad_lines, unstored_samples, .. } = work.tally;
        assert_eq!((stored_samples, bad_lines, unstored_samples), (4, 0, 7));
        assert_eq!(work.forwarder.status().last, Ticket(1), "in one batch");
    }

    /// A batch that is longer than all of the queue is told and left out; what follows it is stored.
    #[tokio::test]
    async fn a_batch_that_fits_no_queue_ends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut work = stopped(folder.path()).await;
        let words = "x".repeat(60_000);
        let text = Ok(format!("m c=\"{words}\",d=\"{words}\" 1"));
        work.take(Line { number: 1, read_ns: 1, text }).unwrap();
        assert!(work.pending.is_full(work.capacity_bytes));
        work.store().await.unwrap();
        work.take(line(2)).unwrap();
        work.store().await.unwrap();
        assert_eq!((work.tally.stored_samples, work.tally.unstored_samples), (1, 2));
    }

    #[test]
    fn what_was_left_out_is_no_success() {
        assert!(Tally::default().judge(0).is_ok());
        let said = Tally { bad_lines: 3, ..Tally::default() }.judge(1).unwrap_err().to_string();
        assert!(said.contains("3 lines were left out, 1 batches"), "{said}");
    }
}
