//! What a [`Harness`] does at random: one step after another, each with its place in the model.

use std::collections::BTreeSet;
use std::sync::Arc;

use tagmill_storage::disk::sim::Random;
use tagmill_storage::{
    Appended, Batch, Clock, Error, OnDamage, Origin, Qualities, Reject, RejectReason, SECOND_NS,
    ScanRequest, Seq, TagColumn, TagDefinition, TagEdit, TagId, TagSelection, TimeRange, ValueType,
    Values,
};

use crate::harness::{Answer, Harness, Place};
use crate::model::{Change, Judged, difference, digest, pairs};
use crate::watch::Watch;
use crate::workload;

const DURABLE: Answer = Answer { seq: None, is_durable: true };

/// One kind of thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what it says")]
pub enum Step {
    Append,
    AppendAsGateway,
    Define,
    Delete,
    Edit,
    DeleteTag,
    Seal,
    Compact,
    Sync,
    GrowStates,
    Alias,
    Scan,
    Hold,
    MoveClock,
    /// Samples older than what is there, and corrections of it.
    AppendLate,
    /// One record that fills a log file, so that the next one begins a new one.
    AppendMuch,
    Reopen,
    /// A bulk load past the log.
    Backfill,
}

impl Step {
    /// Those that can be muted: without the others little happens.
    pub const OPTIONAL: [Self; 13] = [
        Self::AppendAsGateway,
        Self::Define,
        Self::Delete,
        Self::Edit,
        Self::DeleteTag,
        Self::Seal,
        Self::Compact,
        Self::Backfill,
        Self::Sync,
        Self::GrowStates,
        Self::Alias,
        Self::Scan,
        Self::Hold,
    ];

    /// Any of them, writes more often than the rest.
    pub fn draw(random: &mut Random) -> Self {
        match random.below(42) {
            0..=15 => Self::Append,
            16..=19 => Self::AppendAsGateway,
            20..=21 => Self::Define,
            22..=24 => Self::Delete,
            25 => Self::Edit,
            26 => Self::DeleteTag,
            27..=28 => Self::Seal,
            29..=30 => Self::Sync,
            31..=32 => Self::GrowStates,
            33 => Self::Alias,
            34..=37 => Self::Scan,
            38 => Self::Hold,
            39 => Self::Compact,
            40 => Self::Backfill,
            _ => Self::MoveClock,
        }
    }
}

impl Harness {
    /// Lives through `lives` times of up to `steps` random steps, closed or killed and opened again after each; `look` is
    /// called at the end of each with everything settled that can be.
    pub fn live(&mut self, lives: u64, steps: u64, look: &mut dyn FnMut(&mut Self)) {
        self.open();
        for _ in 0..lives {
            let watch = self.keeps_history.then(|| {
                let seed = self.random.bits();
                Watch::start(self.engine(), 2, seed)
            });
            for _ in 0..self.random.below(steps) {
                self.step();
                if self.random.once_in(12) {
                    self.check();
                }
            }
            if let Some(watch) = watch {
                self.engine().sync().expect("a healthy disk");
                self.settle_doubts();
                watch.check(&self.history);
            }
            self.check();
            look(self);
            if matches!(self.place, Place::Sim(_)) && self.random.once_in(3) {
                self.kill();
            } else {
                self.close();
            }
            self.open();
        }
        self.check();
        self.close();
    }

    /// Does one thing.
    pub fn step(&mut self) {
        let mut step = Step::draw(&mut self.random);
        while self.muted.contains(&step) {
            step = Step::draw(&mut self.random);
        }
        self.perform(step);
    }

    /// Mutes some steps, as the seed decides.
    pub fn mute_some(&mut self) {
        let odds = 2 + self.random.below(6);
        self.muted = Step::OPTIONAL.into_iter().filter(|_| self.random.once_in(odds)).collect();
    }

    /// Does this.
    pub fn perform(&mut self, step: Step) {
        self.trace(|| format!("{step:?}"));
        match step {
            Step::Append => self.append(),
            Step::AppendAsGateway => self.append_as_gateway(),
            Step::Define => self.define(),
            Step::Delete => self.delete(),
            Step::Edit => self.edit(),
            Step::DeleteTag => self.delete_tag(),
            Step::Seal => self.seal(),
            Step::Compact => self.compact(),
            Step::Sync => self.sync(),
            Step::GrowStates => self.grow_states(),
            Step::Alias => self.alias(),
            Step::Scan => self.scan(),
            Step::Hold => {
                self.check_held();
                self.hold();
            }
            Step::MoveClock => self.move_clock(),
            Step::AppendLate => {
                self.timeline.is_late = Some(true);
                self.append();
                self.timeline.is_late = None;
            }
            Step::AppendMuch => self.append_much(),
            Step::Reopen => self.reopen(),
            Step::Backfill => self.backfill(),
        }
    }

    /// Tags that can be written: known or reserved.
    pub fn writable(&self) -> Vec<(TagId, ValueType)> {
        let known = self.settled.live().map(|(id, d)| (id, d.value_type));
        let reserved = self.reserved.iter().map(|(id, d)| (*id, d.value_type));
        let mut tags: Vec<_> = known.chain(reserved).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    fn define(&mut self) {
        let count = 1 + self.random.index(6);
        let mut tags: Vec<TagDefinition> = (0..count).map(|_| self.new_definition()).collect();
        let known: Vec<_> = self.settled.live().map(|(_, d)| d.clone()).collect();
        if !known.is_empty() && self.random.once_in(2) {
            let mut again = known[self.random.index(known.len())].clone();
            again.attributes = workload::attributes(&mut self.random);
            tags.push(again);
        }
        if self.random.once_in(3) {
            tags.retain(|tag| self.settled.find(&tag.name).is_none());
            self.reserve(&tags);
            return;
        }
        let defined = self.engine().define(&tags);
        let change = if let Ok(ids) = &defined {
            Change::Define(ids.iter().copied().zip(tags).collect())
        } else {
            // New tags may be there or not, under ids that were not told: they are not compared.
            let known = |tag: TagDefinition| Some((self.settled.find(&tag.name)?, tag));
            Change::Define(tags.into_iter().filter_map(known).collect())
        };
        self.note(change, defined.map(|_| DURABLE));
    }

    fn new_definition(&mut self) -> TagDefinition {
        self.names += 1;
        let mut definition = workload::definition(&mut self.random, self.names);
        let is_reserved = |name: &str| self.reserved.values().any(|d| d.name == name);
        let free = |name: &&String| self.settled.find(name).is_none() && !is_reserved(name);
        if let Some(name) = self.freed_names.iter().find(free).cloned()
            && self.random.once_in(2)
        {
            self.freed_names.retain(|freed| *freed != name);
            definition.name = name;
        }
        definition
    }

    fn reserve(&mut self, tags: &[TagDefinition]) {
        for (reserved, tag) in self.engine().reserve(tags).into_iter().zip(tags) {
            let id = match reserved {
                Ok(id) => id,
                Err(error) => {
                    assert!(self.may_fail(), "reserve {}: {error}", tag.name);
                    continue;
                }
            };
            self.trace(|| format!("reserved {} as {id}", tag.name));
            assert!(!self.settled.tags.contains_key(&id), "{id} is reserved twice");
            self.reserved.insert(id, tag.clone());
        }
    }

    fn append(&mut self) {
        let tags = self.writable();
        if tags.is_empty() {
            return self.define();
        }
        let most = self.samples_max;
        let batch = workload::batch(&mut self.random, &mut self.timeline, &tags, most);
        self.write(batch);
    }

    fn append_much(&mut self) {
        let floats =
            |harness: &Self| harness.writable().into_iter().find(|(_, t)| *t == ValueType::F64);
        if floats(self).is_none() {
            let tags = [TagDefinition::new("floats", ValueType::F64)];
            let defined = self.engine().define(&tags);
            let ids = defined.as_ref().map_or(Vec::new(), Clone::clone);
            let change = Change::Define(ids.into_iter().zip(tags).collect());
            self.note(change, defined.map(|_| DURABLE));
        }
        let Some((tag, _)) = floats(self) else { return };
        let mut batch = Batch::default();
        let count = 2_200; // of 8 bytes that do not compress: more than the smallest log file holds
        let times = self.timeline.times(&mut self.random, count);
        let values = (0..count).map(|_| f64::from_bits(self.random.bits() >> 2)).collect();
        let qualities = Qualities::GOOD;
        batch.columns.push(TagColumn { tag, times, values: Values::F64(values), qualities });
        self.write(batch);
    }

    fn backfill(&mut self) {
        let tags = self.writable();
        if tags.is_empty() {
            return self.define();
        }
        let most = self.samples_max;
        let mut batch = workload::batch(&mut self.random, &mut self.timeline, &tags, most);
        batch.scans.clear();
        self.names += 1;
        let id = format!("import {}", self.names);
        let (change, judged) = self.judge(&batch);
        let engine = Arc::clone(self.engine());
        let load = |columns| {
            let mut backfill = engine.backfill(&id)?;
            backfill.push(columns)?;
            backfill.finish()
        };
        let loaded = load(batch.columns.clone());
        if judged.taken.is_empty() {
            return; // nothing was written
        }
        let is_done = loaded.is_ok();
        if is_done && self.keeps_history {
            // Its seq is taken before its rows are shown: until then a reader sees what was there before.
            self.settle_doubts();
            let before = (self.engine().snapshot().seq(), digest(&self.settled.rows));
            self.history.push(before);
        }
        if let Ok(report) = &loaded {
            let keys: BTreeSet<_> = judged.taken.iter().map(|(key, _)| key).collect();
            assert_eq!((report.rows, report.already_done), (keys.len() as u64, false), "{id}");
        }
        self.note(change, loaded.map(|_| DURABLE));
        if is_done && self.random.once_in(3) {
            match load(batch.columns) {
                Ok(again) => assert!(again.already_done, "{id} was done twice"),
                Err(error) => assert!(self.may_fail(), "{id}: {error}"),
            }
        }
    }

    fn write(&mut self, batch: Batch) {
        let (change, judged) = self.judge(&batch);
        let appended = self.engine().append(batch);
        if let Ok(appended) = &appended {
            check_answer(&judged, &change, appended);
            if judged.taken.is_empty() {
                return; // nothing was written
            }
        }
        self.note(change, appended.as_ref().map(answer_of).map_err(Clone::clone));
    }

    fn judge(&self, batch: &Batch) -> (Change, Judged) {
        let unsettled = self.reserved.iter().filter(|(id, _)| !self.settled.tags.contains_key(id));
        let defines: Vec<_> = unsettled.map(|(id, d)| (*id, d.clone())).collect();
        let now_ns = self.clock.wall_ns();
        let judged = self.settled.judge(&defines, batch, now_ns);
        (Change::Append { defines, batch: batch.clone(), now_ns }, judged)
    }

    fn append_as_gateway(&mut self) {
        let tags = self.writable();
        let which = self.random.index(self.senders.len());
        if tags.is_empty() || !self.doubtful.is_empty() {
            return self.sync();
        }
        let Some((epoch, session)) = self.session_of(which) else { return };
        let name = Arc::clone(&self.senders[which].name);
        let mark = self.settled.marks.get(&name).filter(|m| m.0 == epoch).map_or(0, |m| m.1);
        let most = self.samples_max;
        let mut batch = workload::batch(&mut self.random, &mut self.timeline, &tags, most);
        let kind = self.random.below(8);
        let seq = match kind {
            0 if mark > 0 => 1 + self.random.below(mark),
            1 => mark + 2 + self.random.below(5),
            _ => mark + 1,
        };
        batch.origin = Some(Origin { gateway: Arc::clone(&name), epoch, seq, session });
        let (change, judged) = self.judge(&batch);
        match self.engine().append(batch) {
            Ok(appended) if seq <= mark => assert!(appended.repeated, "{seq} was applied again"),
            Err(Error::Gap { expected, .. }) if seq > mark + 1 => assert_eq!(expected, mark + 1),
            Ok(_) if seq > mark + 1 => panic!("a gap from {mark} to {seq} was taken"),
            Ok(appended) => {
                assert!(!appended.repeated, "{seq} after {mark} passed for a repetition");
                check_answer(&judged, &change, &appended);
                self.note(change, Ok(answer_of(&appended)));
            }
            Err(error) if seq == mark + 1 => self.note(change, Err(error)),
            Err(error) => assert!(self.may_fail(), "{error}"),
        }
    }

    /// Epoch and session of a gateway; sometimes a new session, which fences the old one.
    fn session_of(&mut self, which: usize) -> Option<(u64, u64)> {
        let sender = self.senders[which].clone();
        let again = self.random.once_in(6);
        if let (Some(session), false) = (sender.session, again) {
            return Some((sender.epoch, session));
        }
        let epoch = sender.epoch + u64::from(self.random.once_in(4));
        let opened = match self.engine().open_session(&sender.name, epoch) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(self.may_fail(), "open session: {error}");
                return None;
            }
        };
        let mark = self.settled.marks.get(&sender.name).filter(|m| m.0 == epoch).map_or(0, |m| m.1);
        assert_eq!(opened.mark, mark, "mark of {} at epoch {epoch}", sender.name);
        if let Some(old) = sender.session {
            let origin = Origin {
                gateway: Arc::clone(&sender.name),
                epoch: sender.epoch,
                seq: mark + 1,
                session: old,
            };
            let fenced = self.engine().append(Batch { origin: Some(origin), ..Batch::default() });
            let is_fenced = matches!(fenced, Err(Error::Fenced { .. }));
            assert!(is_fenced || self.may_fail(), "an old session got {fenced:?}");
        }
        self.senders[which].epoch = epoch;
        self.senders[which].session = Some(opened.generation);
        Some((epoch, opened.generation))
    }

    fn delete(&mut self) {
        let tags: Vec<TagId> = self.settled.live().map(|(id, _)| id).collect();
        if tags.is_empty() {
            return;
        }
        let count = 1 + self.random.index(3);
        let tags = (0..count).map(|_| tags[self.random.index(tags.len())]).collect::<Vec<_>>();
        let range = self.range();
        let deleted = self.engine().delete(&tags, range, "a test");
        let change = Change::Delete { tags, range };
        self.note(change, deleted.map(|seq| Answer { seq: Some(seq), is_durable: true }));
    }

    /// A range that cuts through the samples there are.
    fn range(&mut self) -> TimeRange {
        let keys = self.settled.rows.len();
        let at = self.random.index(keys);
        let anchor = self.settled.rows.keys().nth(at).map_or(self.timeline.at_ns, |key| key.1);
        let span = match self.random.below(4) {
            0 => 1,
            1 => self.timeline.step_ns.saturating_mul(3),
            2 => self.timeline.reach_ns / 2,
            _ => i64::MAX / 2,
        };
        let start = if self.random.once_in(2) { anchor } else { anchor.saturating_sub(span / 2) };
        TimeRange::new(start, start.saturating_add(span.max(1)))
    }

    fn edit(&mut self) {
        let tags: Vec<_> = self.settled.live().map(|(id, d)| (id, d.clone())).collect();
        if tags.is_empty() {
            return;
        }
        let (tag, known) = &tags[self.random.index(tags.len())];
        let mut edit = TagEdit::default();
        if self.random.once_in(2) {
            self.names += 1;
            edit.name = Some(format!("{} renamed {}", known.name, self.names));
        }
        if self.random.once_in(2) {
            edit.attributes = Some(workload::attributes(&mut self.random));
        }
        let edited = self.engine().edit_tag(*tag, edit.clone());
        if edited.is_ok() && edit.name.is_some() {
            self.freed_names.push(known.name.clone());
        }
        self.note(Change::Edit(*tag, edit), edited.map(|()| DURABLE));
    }

    fn delete_tag(&mut self) {
        let tags: Vec<_> = self.settled.live().map(|(id, _)| id).collect();
        if tags.len() < 3 {
            return;
        }
        let tag = tags[self.random.index(tags.len())];
        let deleted = self.engine().delete_tag(tag, "a test");
        if deleted.is_ok() {
            self.reserved.remove(&tag);
            self.freed_names.push(self.settled.tags[&tag].definition.name.clone());
        }
        self.note(Change::DeleteTag(tag), deleted.map(|()| DURABLE));
    }

    fn seal(&mut self) {
        match self.engine().seal() {
            Ok(_) => self.settle_doubts(),
            Err(error) => assert!(self.may_fail(), "seal: {error}"),
        }
    }

    /// Everything into one segment a day; no answer may change.
    fn compact(&mut self) {
        match self.engine().compact() {
            Ok(_) => {
                self.settle_doubts();
                let segments = self.engine().snapshot().segments();
                self.trace(|| format!("{segments:?}"));
            }
            Err(error) => assert!(self.may_fail(), "compact: {error}"),
        }
    }

    fn sync(&mut self) {
        match self.engine().sync() {
            Ok(Seq(_)) => self.settle_doubts(),
            Err(error) => assert!(self.may_fail(), "sync: {error}"),
        }
    }

    fn grow_states(&mut self) {
        let set = workload::STATE_SETS[self.random.index(3)].to_owned();
        let known = self.settled.states.get(&set).cloned().unwrap_or_default();
        let mut labels: Vec<String> =
            (0..3).map(|_| format!("state {}", self.random.below(40))).collect();
        labels.dedup();
        let mut all = known.clone();
        let mut codes = Vec::new();
        for label in &labels {
            let found = all.iter().find(|(_, known)| *known == label).map(|(code, _)| *code);
            let free = (0..=u16::MAX).find(|code| !all.contains_key(code)).expect("room");
            let code = found.unwrap_or(free);
            all.insert(code, label.clone());
            codes.push(code);
        }
        let grown = self.engine().grow_states(&set, &labels);
        if let Ok(grown) = &grown {
            assert_eq!(*grown, codes, "codes of {labels:?} in {set}, which had {known:?}");
        }
        if grown.is_ok() && all == known {
            return; // nothing was written, so nothing before it became durable by it
        }
        let change = Change::States(set, codes.into_iter().zip(labels).collect());
        self.note(change, grown.map(|_| DURABLE));
    }

    fn alias(&mut self) {
        let tags: Vec<TagId> = self.settled.live().map(|(id, _)| id).collect();
        if tags.is_empty() {
            return;
        }
        let gateway = self.senders[self.random.index(self.senders.len())].name.to_string();
        let first = u32::try_from(self.random.below(1_000)).expect("small");
        let aliases: Vec<(u32, TagId)> =
            (first..first + 3).map(|alias| (alias, tags[self.random.index(tags.len())])).collect();
        let defined = self.engine().define_aliases(&gateway, &aliases);
        self.note(Change::Aliases(gateway, aliases), defined.map(|()| DURABLE));
    }

    /// A scan of a part, in either order, with and without its columns.
    pub fn scan(&mut self) {
        if !self.doubtful.is_empty() {
            return self.sync();
        }
        let mut tags: Vec<TagId> = self.settled.tags.keys().copied().collect();
        tags.push(TagId(u32::MAX));
        tags.retain(|_| self.random.once_in(2));
        let range = self.range();
        let all = self.random.once_in(4);
        let request = ScanRequest {
            tags: if all { TagSelection::All } else { TagSelection::Only(tags.into()) },
            range: if self.random.once_in(5) { TimeRange::ALL } else { range },
            descending: self.random.once_in(2),
            limit: self.random.once_in(2).then(|| self.random.below(50)),
            values: true,
            qualities: true,
            damage: OnDamage::Fail,
        };
        let snapshot = self.engine().snapshot();
        let Some(found) = self.read(&snapshot, &request) else { return };
        let expected = self.settled.scan(&request);
        let wrong = difference(pairs(&expected), pairs(&found));
        assert_eq!(wrong, None, "{request:?}");
        let estimate = snapshot.estimate_rows(&request);
        assert!(estimate >= found.len() as u64, "{request:?} was estimated at {estimate} rows");
        let bare = ScanRequest { values: false, qualities: self.random.once_in(2), ..request };
        let Some(bare) = self.read(&snapshot, &bare) else { return };
        assert!(bare.iter().map(|r| r.0).eq(found.iter().map(|r| r.0)), "keys depend on columns");
    }

    fn move_clock(&mut self) {
        let now_ns = self.clock.wall_ns();
        let moved = self.random.below(120) as i64 - 20;
        self.clock.set(now_ns.saturating_add(moved * SECOND_NS));
    }
}

fn answer_of(appended: &Appended) -> Answer {
    Answer { seq: Some(appended.seq), is_durable: appended.durable }
}

/// The engine took and refused what the model takes and refuses.
fn check_answer(judged: &Judged, change: &Change, appended: &Appended) {
    let Change::Append { batch, .. } = change else { return };
    let mut told = judged.refused.clone();
    for Reject { tag, part, first, count, reason } in &appended.rejects {
        if judged.mismatched.contains(part) {
            assert_eq!(*reason, RejectReason::LengthMismatch);
            continue;
        }
        for position in *first..*first + *count {
            let key = (*part, *tag, usize::try_from(position).expect("32 bits"));
            assert!(judged.refused.contains(&key), "{key:?} was refused as {reason}: {batch:?}");
            told.remove(&key);
        }
    }
    assert!(told.is_empty(), "{told:?} should have been refused, of {batch:?}");
    let reported = |part| appended.rejects.iter().any(|reject| reject.part == part);
    assert!(judged.mismatched.iter().all(|part| reported(*part)), "{:?}", appended.rejects);
    assert_eq!(appended.accepted, judged.taken.len() as u64, "accepted, of {batch:?}");
}
