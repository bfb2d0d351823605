//! Work behind the scenes: folding small runs, sealing the head into segments, compacting these, letting go of what has
//! ended.
//!
//! # Contract
//! * One thread does all of it but the reading and writing of compactions, so installs never compete. Nothing it does
//!   changes what a query answers.
//! * A step that fails leaves everything as it was and is tried again later; appends go on until the head is full.
//!
//! # Reading order
//! [`plan`] (what to do, pure), [`fold`], [`draft`] (files before their edit), [`seal`], [`compact`], [`expire`],
//! [`backfill`], [`quarantine`] (what cannot be read), [`scrub`] (looks for it), [`trash`].

pub(crate) mod backfill;
pub(crate) mod compact;
pub(crate) mod draft;
pub(crate) mod expire;
pub(crate) mod fold;
pub(crate) mod pin;
mod plan;
pub(crate) mod quarantine;
pub(crate) mod scrub;
pub(crate) mod seal;
pub(crate) mod trash;

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use crate::engine::core::{Core, lock};
use crate::error::Result;
use crate::ids::SegmentId;
use crate::segment::damage::Damage;
use backfill::{Installed, Prepared};
use compact::install::Compacted;
use expire::Expiry;
use pin::Pinned;
use plan::{Situation, Task};
use seal::Ledger;

/// What the engine asks of its maintenance thread.
#[derive(Debug)]
pub(crate) enum Request {
    /// Seal now and say which segments came of it.
    Seal(SyncSender<Result<Vec<SegmentId>>>),
    /// Seal, and pin what is there then.
    Pin(SyncSender<Result<Pinned>>),
    /// Look again at these places and at all that are in quarantine.
    Judge(Vec<Damage>, SyncSender<Result<()>>),
    /// Give up what the damaged places of this segment held; which segment has the rest.
    Forget(SegmentId, SyncSender<Result<Option<SegmentId>>>),
    /// Put the outputs of a compaction in the place of its inputs; false if one of these is gone.
    Install(Box<Compacted>, SyncSender<Result<bool>>),
    /// Raise the horizons that are due and let go of what has ended, after believing the clock if it says so.
    Expire(bool, SyncSender<Result<()>>),
    /// Take in a backfill whose segments are written.
    Backfill(Box<Prepared>, SyncSender<Result<Installed>>),
    /// Look whether the engine was closed.
    Stop,
}

/// How often the thread looks around by itself.
const TICK: Duration = Duration::from_millis(50);
/// How long a failed step rests before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Works until the engine closes.
pub(crate) fn run(core: &Core, mut ledger: Ledger, mut expiry: Expiry, inbox: &Receiver<Request>) {
    let mut rest_until: Option<Instant> = None;
    let mut renewed = Instant::now();
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(Request::Seal(reply)) => {
                let result = seal::seal(core, &mut ledger);
                core.room_was_made();
                let _asker_may_be_gone = reply.send(result);
            }
            Ok(Request::Pin(reply)) => {
                let result = pin::pin(core, &mut ledger);
                core.room_was_made();
                let _asker_may_be_gone = reply.send(result);
            }
            Ok(Request::Judge(suspects, reply)) => {
                let result = quarantine::judge(core, &mut ledger, suspects, true);
                let _asker_may_be_gone = reply.send(result);
            }
            Ok(Request::Forget(segment, reply)) => {
                let result = quarantine::forget(core, &mut ledger, segment);
                let _asker_may_be_gone = reply.send(result);
            }
            Ok(Request::Install(compacted, reply)) => {
                let result = compact::install::install(core, &mut ledger, &compacted);
                drop(compacted);
                let _asker_may_be_gone = reply.send(result);
            }
            Ok(Request::Expire(believes, reply)) => {
                let act = if believes { Expiry::confirm } else { Expiry::run };
                let _asker_may_be_gone = reply.send(act(&mut expiry, core, &mut ledger));
            }
            Ok(Request::Backfill(prepared, reply)) => {
                let result = backfill::install(core, &mut ledger, *prepared);
                core.room_was_made();
                let _asker_may_be_gone = reply.send(result);
            }
            Ok(Request::Stop) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if core.is_closed() {
            return;
        }
        quarantine::tend(core, &mut ledger);
        if renewed.elapsed() >= RETRY {
            renewed = Instant::now();
            core.renew_stale();
            core.ballast.renew();
        }
        expiry.step(core, &mut ledger);
        let may_seal = rest_until.is_none_or(|until| Instant::now() >= until);
        match plan::plan(&situation(core), &core.options) {
            Task::Seal if may_seal => {
                let failed = seal::seal(core, &mut ledger).is_err();
                rest_until = failed.then(|| Instant::now() + RETRY);
                core.room_was_made();
            }
            Task::Fold => fold::fold(core),
            Task::Seal | Task::Rest => {}
        }
    }
}

fn situation(core: &Core) -> Situation {
    let now_ns = core.clock.monotonic_ns();
    let age =
        |since: Option<u64>| since.map(|since| Duration::from_nanos(now_ns.saturating_sub(since)));
    let install = lock(&core.install);
    let (unfolded_age, unsealed_age) =
        (age(install.unfolded_since_ns), age(install.unsealed_since_ns));
    drop(install);
    let view = core.view();
    Situation {
        head_bytes: core.head_bytes(),
        wal_bytes: lock(&core.wal).bytes(),
        has_rows: !view.head.runs.is_empty(),
        unfolded_runs: view.head.runs.len() - view.head.folded,
        unfolded_rows: view.head.unfolded_rows(),
        unfolded_age,
        unsealed_age,
    }
}
