//! `tagmill demo`: the main job in one command, on an empty machine.
//!
//! It starts the real server over a directory of its own, simulates a day of a small plant, sends
//! it through the gateway client, asks what an analyst would ask, works every answer out a second
//! time from the simulator's own samples, and goes on live. The directory remembers the
//! simulation, so that a rerun knows what must be in it.
//!
//! Reading order: [`equipment`] and [`plant`] (the plant), [`signals`] and [`feed`] (its gateway),
//! [`ledger`] (what was sent), [`questions`] and [`answer`] (what is asked, what must come back),
//! [`link`] (the line to the server), [`live`], [`report`] (how it looks).

pub mod answer;
pub mod equipment;
pub mod error;
pub mod feed;
pub mod ledger;
pub mod link;
pub mod live;
pub mod plan;
pub mod plant;
pub mod questions;
pub mod report;
pub mod signals;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tagmill::Database;
use tagmill_storage::{Batch, Clock, SystemClock};

use self::answer::{Cell, Question, difference};
use self::equipment::{DAY_S, UNITS};
use self::error::{Error, Result};
use self::feed::{BATCH_S, Feed};
use self::ledger::{Ledger, samples};
use self::link::Link;
use self::plan::Plan;
use self::questions::{Facts, motors_now, questions, rows};
use self::report::{Answered, Paper, bytes, grouped, minute};
use self::signals::Class;
use crate::lifecycle::{ServeOptions, Server};

/// Port of a server that was told nothing else.
const PORT: u16 = 7_410;

/// What the demo was asked to do.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Directory of the database.
    pub data: PathBuf,
    /// Address of the server; without one port 7410 of this machine, or a free one.
    pub listen: Option<SocketAddr>,
    /// How long to go on live; `None` for ever.
    pub live: Option<Duration>,
}

/// Runs the demo; gives whether every answer was right.
///
/// # Errors
/// If the directory, the server or the output fails.
pub async fn run<W: Write>(options: &DemoOptions, paper: &mut Paper<W>) -> Result<bool> {
    let database = Database::open(&options.data, tagmill::Options::default())?;
    let listen = options.listen.unwrap_or_else(usual_or_free);
    let server = Server::start(database, ServeOptions { listen, ..ServeOptions::default() }).await?;
    let address = server.address().to_string();
    let outcome = tokio::select! {
        outcome = demonstrate(options, &address, paper) => outcome,
        pressed = tokio::signal::ctrl_c() => pressed.map(|()| true).map_err(Error::from),
    };
    server.stop().await?;
    let right = outcome?;
    let data = options.data.display();
    paper.fact("stopped", &[&format!("the data stays in {data}; tagmill demo goes on with it")])?;
    Ok(right)
}

/// The usual port, unless somebody has it.
fn usual_or_free() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let is_free = TcpListener::bind(usual).is_ok();
    if is_free { usual } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
}

async fn demonstrate<W: Write>(
    options: &DemoOptions,
    address: &str,
    paper: &mut Paper<W>,
) -> Result<bool> {
    let mut link = Link::open(address).await?;
    paper.headline("tagmill demo: a small plant, a day of its history, five questions")?;
    let data = options.data.display();
    paper.fact("server", &[&format!("{address}, data in {data}")])?;
    let plan = plan::find_or_write(&mut link, SystemClock::default().wall_ns()).await?;
    let mut day = Day::simulate(plan).await?;
    day.describe(paper)?;
    link.define(&day.feed).await?;
    day.write(&mut link, paper).await?;
    weigh(&mut link, &day, paper).await?;

    live::catch_up(&mut day.feed, &plan, &link, |batch| day.ledger.take(batch)).await?;
    let now = day.feed.introduce();
    day.ledger.take(&now);
    link.send(&now).await?;
    link.flush().await?;
    day.ledger.settle();
    let right = ask_all(&mut link, &day, paper).await?;

    paper.rule()?;
    invite(options, address, paper)?;
    if right && options.live != Some(Duration::ZERO) {
        live::run(&mut day.feed, &plan, &link, options.live, paper).await?;
    }
    link.close().await?;
    Ok(right)
}

/// The simulated day: what was sent, and the gateway at its end.
#[derive(Debug)]
struct Day {
    plan: Plan,
    feed: Feed,
    batches: Vec<Batch>,
    ledger: Ledger,
    took: Duration,
}

impl Day {
    async fn simulate(plan: Plan) -> Result<Self> {
        let work = move || {
            let began = Instant::now();
            let mut feed = Feed::new(plan.seed, plan.start_ns);
            let mut ledger = Ledger::new(feed.signals().len());
            let mut batches = Vec::new();
            while feed.now_s() < DAY_S {
                batches.push(feed.advance(BATCH_S));
            }
            batches.push(feed.drain());
            batches.iter().for_each(|batch| ledger.take(batch));
            ledger.settle();
            Self { plan, feed, batches, ledger, took: began.elapsed() }
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| std::io::Error::other(error).into())
    }

    fn facts<'a>(&'a self, signals: &'a [signals::Signal]) -> Facts<'a> {
        Facts { signals, ledger: &self.ledger, window: self.plan.window() }
    }

    fn describe<W: Write>(&self, paper: &mut Paper<W>) -> Result<()> {
        let signals = self.feed.signals();
        let count = |class| signals.iter().filter(|signal| signal.class == class).count();
        let [fast, normal, slow, change] =
            [Class::Fast, Class::Normal, Class::Slow, Class::Change].map(count);
        let tags = signals.len();
        let rates = format!(
            "{UNITS} units, {tags} tags: {fast} read every second, {normal} every 5 s, {slow} every \
             10 s, {change} on change"
        );
        paper.fact("plant", &[&rates])?;
        let (start_ns, end_ns) = self.plan.window();
        let [uncertain, bad] = self.ledger.untrusted();
        let tally = self.feed.tally();
        let day = format!(
            "{} to {} UTC, simulated in {:.1} s: {} samples;",
            minute(start_ns),
            minute(end_ns),
            self.took.as_secs_f64(),
            grouped(&self.ledger.arrived()),
        );
        let troubles = format!(
            "{} come minutes to hours late, {} repeat or correct others, {} are Uncertain, {} Bad",
            grouped(&tally.late),
            grouped(&tally.again),
            grouped(&uncertain),
            grouped(&bad),
        );
        Ok(paper.fact("history", &[&day, &troubles])?)
    }

    /// Sends the day through the gateway client, unless the database has it from an earlier run.
    async fn write<W: Write>(&mut self, link: &mut Link, paper: &mut Paper<W>) -> Result<()> {
        let batches = std::mem::take(&mut self.batches);
        let wanted = rows(&self.facts(&Arc::clone(self.feed.signals())));
        if held_rows(link, &self.plan).await? == Cell::Whole(wanted) {
            let held = format!("{} rows are there from an earlier run", grouped(&wanted));
            return Ok(paper.fact("ingest", &[&held])?);
        }
        let began = Instant::now();
        let (mut sent, mut shown) = (0, Instant::now());
        let all = self.ledger.arrived();
        for batch in &batches {
            link.send(batch).await?;
            sent += samples(batch);
            if shown.elapsed() > Duration::from_millis(100) {
                shown = Instant::now();
                paper.progress(&format!("{} of {} samples sent", grouped(&sent), grouped(&all)))?;
            }
        }
        let taken = link.flush().await?;
        let took = began.elapsed().as_secs_f64();
        let rate = format!("{:.0}", sent as f64 / took);
        let line = format!(
            "{} samples over gRPC in {took:.1} s: {} samples/s, on disk before each ack",
            grouped(&sent),
            grouped(&rate),
        );
        paper.fact("ingest", &[&line])?;
        if taken == sent {
            return Ok(());
        }
        Err(Error::Unfit {
            what: format!("the server took {taken} samples of {sent}"),
            next: "this is a fault of the demo or the server: please report it".to_owned(),
        })
    }
}

/// Rows of the history that the database holds.
async fn held_rows(link: &mut Link, plan: &Plan) -> Result<Cell> {
    let (start, end) = plan.window_text();
    let sql = format!(
        "SELECT count(*) FROM samples WHERE ts >= '{start}' AND ts < '{end}' AND tag LIKE 'U_/%'"
    );
    let (rows, _) = link.ask(&sql).await?;
    Ok(rows.into_iter().flatten().next().unwrap_or(Cell::Null))
}

/// Seals, and says what the day takes on disk.
async fn weigh<W: Write>(link: &mut Link, day: &Day, paper: &mut Paper<W>) -> Result<()> {
    let began = Instant::now();
    link.seal().await?;
    let sealed = began.elapsed().as_secs_f64();
    let sql = "SELECT count(*), sum(bytes), sum(rows) FROM system.segments";
    let (answer, _) = link.ask(sql).await?;
    let Some([Cell::Whole(files), Cell::Whole(on_disk), Cell::Whole(stored)]) =
        answer.first().map(Vec::as_slice)
    else {
        return Ok(());
    };
    let line = format!(
        "{} rows in {files} segment{}, {}: {:.2} bytes per sample with time, value and quality",
        grouped(stored),
        if *files == 1 { "" } else { "s" },
        bytes(u64::try_from(*on_disk).unwrap_or_default()),
        *on_disk as f64 / *stored as f64,
    );
    paper.fact("disk", &[&line, &format!("sealed in {sealed:.1} s")])?;
    let wanted = rows(&day.facts(&Arc::clone(day.feed.signals())));
    let held = held_rows(link, &day.plan).await?;
    if held == Cell::Whole(wanted) {
        return Ok(());
    }
    Err(Error::Unfit {
        what: format!("the history has {wanted} rows, the database holds {held:?}"),
        next: "pass --data DIR with an empty directory; if it happens again, please report it"
            .to_owned(),
    })
}

/// Asks everything; gives whether all answers were right.
async fn ask_all<W: Write>(link: &mut Link, day: &Day, paper: &mut Paper<W>) -> Result<bool> {
    let signals = Arc::clone(day.feed.signals());
    let facts = day.facts(&signals);
    let mut all: Vec<Question> = vec![motors_now(&facts)];
    all.extend(questions(&facts));
    let mut right = true;
    for (number, question) in all.iter().enumerate() {
        let (rows, took) = link.ask(&question.sql).await?;
        let difference = difference(&question.expected, &rows);
        right &= difference.is_none();
        let answered = Answered { question, rows, took, difference: difference.as_deref() };
        paper.question(number, &answered)?;
    }
    Ok(right)
}

/// Says how to go on from here.
fn invite<W: Write>(options: &DemoOptions, address: &str, paper: &mut Paper<W>) -> Result<()> {
    let data = options.data.display();
    let question = "-c \"SELECT tag, ts, value FROM latest WHERE tag LIKE 'U1/reactor/%'\"";
    if options.live == Some(Duration::ZERO) {
        return Ok(paper.fact("ask more", &[&format!("tagmill sql --data {data} {question}")])?);
    }
    let target = format!("--connect {address}");
    let lines = [
        format!("tagmill sql {target}     in another terminal, for a prompt"),
        format!("tagmill sql {target} {question}"),
    ];
    Ok(paper.fact("ask more", &lines.each_ref().map(String::as_str))?)
}
