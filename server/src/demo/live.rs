//! The demo's live part: the plant second by second, as the wall clock has it.
//!
//! Contract: a short absence is caught up, a long one (between two runs of the demo) is left out:
//! nobody watched.

use std::io::Write;
use std::time::{Duration, Instant};

use tagmill_storage::{Batch, Clock, SystemClock};
use tokio::time::MissedTickBehavior;

use super::equipment::{PHASES, Source, UNITS};
use super::error::Result;
use super::feed::{BATCH_S, Feed};
use super::link::Link;
use super::plan::Plan;
use super::report::{Paper, grouped};

/// An absence longer than this is left out.
const ABSENCE_S: i64 = 900;
/// Seconds between two lines about how things are.
const STATUS_S: u64 = 5;

/// Lives up to now, and sends what arrives; `taken` sees each batch.
///
/// # Errors
/// If the stream to the server has ended.
pub async fn catch_up(
    feed: &mut Feed,
    plan: &Plan,
    link: &Link,
    mut taken: impl FnMut(&Batch),
) -> Result<()> {
    let now_s = plan.second_of(SystemClock::default().wall_ns());
    if now_s - feed.now_s() > ABSENCE_S {
        feed.skip_to(now_s - 1);
    }
    while feed.now_s() < now_s {
        let batch = feed.advance(BATCH_S.min(now_s - feed.now_s()));
        taken(&batch);
        link.send(&batch).await?;
    }
    Ok(())
}

/// Goes on for so long, or for ever.
///
/// # Errors
/// If the stream to the server has ended, or the report cannot be written.
pub async fn run<W: Write>(
    feed: &mut Feed,
    plan: &Plan,
    link: &Link,
    length: Option<Duration>,
    paper: &mut Paper<W>,
) -> Result<()> {
    let how_long = match length {
        Some(length) => format!("for {} s", length.as_secs()),
        None => "until Ctrl-C".to_owned(),
    };
    paper.fact("live", &[&format!("the plant goes on {how_long}, a batch every second")])?;
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut on_disk, mut second) = (0, 0);
    while length.is_none_or(|length| began.elapsed() < length) {
        tick.tick().await;
        catch_up(feed, plan, link, |_| ()).await?;
        second += 1;
        if second % STATUS_S == 0 {
            on_disk += link.flush().await?;
            paper.status(&status(feed, on_disk))?;
        }
    }
    on_disk += link.flush().await?;
    Ok(paper.fact("", &[&format!("{} live samples on disk", grouped(&on_disk))])?)
}

/// How things are, in one line.
fn status(feed: &Feed, on_disk: u64) -> String {
    let units = (0..UNITS).map(|number| {
        let unit = feed.plant().unit(number);
        let code = unit.read(Source::Phase);
        let phase = PHASES.iter().zip(0u8..).find(|(_, at)| f64::from(*at) >= code);
        let phase = phase.map_or("", |((label, _), _)| label);
        // The reactor's temperature is the fourth loop.
        format!("U{} {phase} {:.1} °C", number + 1, unit.read(Source::Pv(3)))
    });
    let units: Vec<String> = units.collect();
    let now = chrono::Local::now().format("%H:%M:%S");
    format!("{now}  {} samples   {}", grouped(&on_disk), units.join("   "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_phases_and_temperatures() {
        let mut feed = Feed::new(7, 0);
        drop(feed.advance(1));
        let status = status(&feed, 1_234);
        assert!(status.contains("1,234 samples"), "{status}");
        assert!(status.contains("U1 CHARGE 1"), "{status}");
        assert!(status.contains("U2 REACT 20"), "{status}");
        assert!(status.chars().count() < 90, "{status}");
    }
}
