//! `tagmill demo`: the main job in one command, on an empty machine.
//!
//! It starts the real server over a directory of its own, simulates a day of a small plant, sends
//! it through the gateway client, asks what an analyst would ask, works every answer out a second
//! time from the simulator's own samples, and goes on live. The directory remembers the
//! simulation, so that a rerun knows what must be in it.
//!
//! Reading order: [`equipment`] and [`plant`] (the plant), [`signals`] and [`feed`] (its gateway),
//! [`ledger`] (what was sent), [`mod@questions`] and [`answer`] (what is asked, what must come back),
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
use crate::lifecycle::{LISTEN, ServeOptions, Server};

/// Seconds of the history after which the server seals, so that late samples are late for it, too.
const SEALS_S: [i64; 2] = [21_600, 59_400];

/// What the demo was asked to do.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The program's name as it was called, for commands to copy.
    pub program: String,
    /// Directory of the database.
    pub data: PathBuf,
    /// Address of the server; without one port 7410 of this machine, or a free one.
    pub listen: Option<SocketAddr>,
    /// Let other machines reach the address, though nobody is asked for a password.
    pub insecure_no_auth: bool,
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
    let server =
        Server::start(database, ServeOptions { listen, ..ServeOptions::default() }).await?;
    let address = server.address().to_string();
    let outcome = tokio::select! {
        outcome = demonstrate(options, &address, paper) => outcome,
        pressed = tokio::signal::ctrl_c() => pressed.map(|()| true).map_err(Error::from),
    };
    server.shutdown().await?;
    let right = outcome?;
    let data = options.data.display();
    paper.fact(
        "stopped",
        &[&format!("the data stays in {data}; run again, the demo goes on with it")],
    )?;
    Ok(right)
}

/// The usual port, unless somebody has it.
fn usual_or_free() -> SocketAddr {
    let is_free = TcpListener::bind(LISTEN).is_ok();
    if is_free { LISTEN } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
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
            for batch in &batches {
                ledger.take(batch);
            }
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
            "{UNITS} units, {tags} tags: {fast} read every second, {normal} every 5 s, \
             {slow} every 10 s, {change} on change"
        );
        paper.fact("plant", &[&rates])?;
        let (start_ns, end_ns) = self.plan.window();
        let [uncertain, bad] = self.ledger.untrusted();
        let tally = self.feed.tally();
        let day = format!(
            "{} to {} UTC, simulated in {:.1} s: {} samples,",
            minute(start_ns),
            minute(end_ns),
            self.took.as_secs_f64(),
            grouped(&self.ledger.arrived()),
        );
        let troubles = format!(
            "{} of them late, {} repeated or corrected, {} Uncertain, {} Bad",
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
        let wanted = rows(&self.facts(self.feed.signals()));
        if held_rows(link, &self.plan).await? == Cell::Whole(wanted) {
            let held = format!("{} rows are there from an earlier run", grouped(&wanted));
            return Ok(paper.fact("ingest", &[&held])?);
        }
        let began = Instant::now();
        let (mut sent, mut taken, mut shown) = (0, 0, Instant::now());
        let all = self.ledger.arrived();
        for (batch, second) in batches.iter().zip((0..).map(|index: i64| index * BATCH_S)) {
            if SEALS_S.contains(&second) {
                taken += link.flush().await?;
                link.seal().await?;
            }
            link.send(batch).await?;
            sent += samples(batch);
            if shown.elapsed() > Duration::from_millis(100) {
                shown = Instant::now();
                paper.progress(&format!("{} of {} samples sent", grouped(&sent), grouped(&all)))?;
            }
        }
        taken += link.flush().await?;
        let took = began.elapsed().as_secs_f64();
        let rate = format!("{:.0}", sent as f64 / took);
        let said = format!(
            "{} samples over gRPC in {took:.1} s: {} samples/s, on disk before each ack",
            grouped(&sent),
            grouped(&rate),
        );
        paper.fact("ingest", &[&said])?;
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
    let wanted = rows(&day.facts(day.feed.signals()));
    link.seal().await?;
    let sql = "SELECT count(*) FILTER (WHERE kind = 'base'), count(*), sum(bytes), sum(rows) \
               FROM system.segments";
    let (answer, _) = link.ask(sql).await?;
    let [[Cell::Whole(base), Cell::Whole(all), Cell::Whole(on_disk), Cell::Whole(stored)]] =
        answer.iter().map(Vec::as_slice).collect::<Vec<_>>()[..]
    else {
        return Err(Error::Unfit {
            what: format!("system.segments answers {answer:?}"),
            next: "this is a fault of the demo or the server: please report it".to_owned(),
        });
    };
    let said = format!(
        "{} in {base} base and {} late segments: {:.2} bytes per sample, time and quality included",
        bytes(u64::try_from(*on_disk).unwrap_or_default()),
        all - base,
        *on_disk as f64 / *stored as f64,
    );
    paper.fact("disk", &[&said])?;
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
    let facts = day.facts(day.feed.signals());
    let mut all: Vec<Question> = vec![motors_now(&facts)];
    all.extend(questions(&facts));
    let mut right = true;
    for (number, question) in all.iter().enumerate() {
        let (rows, took) = link.ask(&question.sql).await?;
        let difference = difference(&question.expected, &rows);
        right &= difference.is_none();
        let answered = Answered { question, rows, took, difference: difference.as_deref() };
        let heading = if number == 0 { "now".to_owned() } else { number.to_string() };
        paper.question(&heading, &answered)?;
    }
    Ok(right)
}

/// Says how to go on from here.
fn invite<W: Write>(options: &DemoOptions, address: &str, paper: &mut Paper<W>) -> Result<()> {
    let (program, data) = (&options.program, options.data.display());
    let question = "-c \"SELECT tag, value FROM latest\"";
    if options.live == Some(Duration::ZERO) {
        let command = format!("{program} sql --data {data} {question}");
        return Ok(paper.fact("ask more", &[&command])?);
    }
    // The usual address needs no word.
    let is_usual = address.parse() == Ok(LISTEN);
    let target = if is_usual { String::new() } else { format!(" --connect {address}") };
    let prompt = format!("{program} sql{target}     in another terminal, for a prompt");
    Ok(paper.fact("ask more", &[&prompt, &format!("{program} sql{target} {question}")])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole day through the library, without server and wire.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_database_answers_as_the_ledger_does() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path(), tagmill::Options::default()).unwrap();
        let plan = Plan { seed: 7, start_ns: 1_743_285_600_000_000_000 };
        let mut day = Day::simulate(plan).await.unwrap();
        let mut definitions = Vec::new();
        for signal in day.feed.signals().iter() {
            let definition = signal.definition.clone();
            if let Some(set) = &definition.attributes.state_set {
                let states: Vec<(u16, String)> = (0..).zip(signal.states()).collect();
                database.engine().set_states(set, &states).unwrap();
            }
            definitions.push(definition);
        }
        let ids = database.define(&definitions).unwrap();
        assert!(ids.iter().enumerate().all(|(at, id)| id.index() == at));
        for (at, batch) in std::mem::take(&mut day.batches).into_iter().enumerate() {
            if at % 250 == 100 {
                database.engine().seal().unwrap();
            }
            let appended = database.append(batch).unwrap();
            assert_eq!(appended.rejects, []);
        }
        let facts = day.facts(day.feed.signals());
        let mut all = questions(&facts);
        all.push(motors_now(&facts));
        for question in all {
            let answer = database.sql(&question.sql).await.unwrap();
            let answer = answer::rows_of(&answer).unwrap();
            assert_eq!(difference(&question.expected, &answer), None, "{}", question.sql);
            assert!(answer.len() > 4, "{}", question.sql);
            let (question, took) = (&question, Duration::from_secs(1));
            let mut paper = Paper::new(Vec::new(), false);
            let answered = Answered { question, rows: answer, took, difference: None };
            paper.question("1", &answered).unwrap();
            let page = String::from_utf8(paper.into_inner()).unwrap();
            assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
        }
    }

    /// The command as people run it, and run it again.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_demo_is_right_and_a_rerun_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let options = DemoOptions {
            program: "tagmill".to_owned(),
            data: directory.path().join("demo"),
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            insecure_no_auth: false,
            live: Some(Duration::from_secs(1)),
        };
        for said in ["samples over gRPC", "are there from an earlier run"] {
            let mut paper = Paper::new(Vec::new(), false);
            assert!(run(&options, &mut paper).await.unwrap());
            let page = String::from_utf8(paper.into_inner()).unwrap();
            assert!(page.contains(said), "{page}");
            assert_eq!(page.matches("✓ checked").count(), 6, "{page}");
            assert!(page.contains("bytes per sample"), "{page}");
            assert!(page.contains("live samples on disk"), "{page}");
        }
    }
}
