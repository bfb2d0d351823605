//! The plan against its rules: tables, and databases that a seed makes and that its tasks are applied to.

use super::*;
use crate::disk::sim::Random;
use SegmentKind::{Base, Late};
use SegmentStage::{Final, Merged, Sealed};

const DAY: i64 = 20_000;

fn known(id: u64, kind: SegmentKind, stage: SegmentStage, days: (i64, i64), bytes: u64) -> Known {
    Known {
        id: SegmentId(id),
        kind,
        stage,
        min_seq: Seq(10 * id - 9),
        max_seq: Seq(10 * id),
        first_day: days.0,
        last_day: days.1,
        bytes,
        is_settled: true,
        is_damaged: false,
        hits: 0,
        ended_bytes: 0,
        is_outlived: false,
    }
}

/// Segments of one day.
fn of_day(list: &[(SegmentKind, SegmentStage, u64)]) -> Vec<Known> {
    let ids = 1..;
    let of = |(id, (kind, stage, bytes)): (u64, &(_, _, u64))| {
        known(id, *kind, *stage, (DAY, DAY), *bytes)
    };
    ids.zip(list).map(of).collect()
}

fn check(what: &str, segments: &[Known], now_day: i64, want: Option<(Aim, &[u64])>) {
    let got = plan(segments, now_day);
    let got = got.map(|task| (task.aim, task.inputs.iter().map(|id| id.0).collect::<Vec<_>>()));
    assert_eq!(got, want.map(|(aim, ids)| (aim, ids.to_vec())), "{what}");
}

#[test]
fn a_day_that_goes_on_merges_in_fours() {
    let base = |n| vec![(Base, Sealed, 100); n];
    check("three", &of_day(&base(3)), DAY, None);
    check("four", &of_day(&base(4)), DAY, Some((Aim::Merge, &[1, 2, 3, 4])));
    let mut list = base(3);
    list.insert(0, (Base, Merged, 400));
    check("those merged before rest", &of_day(&list), DAY, None);
    let mut list = vec![(Base, Merged, 100); 8];
    check("eight merged ones", &of_day(&list), DAY, Some((Aim::Merge, &[1, 2, 3, 4, 5, 6, 7, 8])));
    list[0].2 = 10_000;
    check("one outweighs the rest", &of_day(&list), DAY, None);
    let mut damaged = of_day(&base(4));
    damaged[1].is_damaged = true;
    check("a damaged one is passed over", &damaged, DAY, None);
}

#[test]
fn late_goes_into_base_when_there_is_much_of_it() {
    let list = |bytes| {
        let mut list = vec![(Base, Merged, 1_000)];
        list.extend(vec![(Late, Sealed, bytes); 4]);
        of_day(&list)
    };
    check("a tenth", &list(25), DAY, Some((Aim::Merge, &[2, 3, 4, 5])));
    check("more", &list(26), DAY, Some((Aim::IntoBase, &[1, 2, 3, 4, 5])));
    let lone = of_day(&[(Base, Sealed, 100), (Late, Sealed, 100)]);
    check("a lone seal waits for others", &lone, DAY, None);
    let mut wide = list(300);
    wide[3].first_day -= 1;
    wide[3].is_settled = false;
    check("late before a wide one", &wide[..], DAY, None);
}

#[test]
fn a_day_that_is_over_is_ended_once() {
    let one = of_day(&[(Base, Sealed, 100)]);
    check("not over yet", &one, DAY + 1, None);
    check("over", &one, DAY + 2, Some((Aim::Final, &[1])));
    let mut busy = of_day(&[(Base, Merged, 100), (Late, Sealed, 5)]);
    check("with its late samples", &busy, DAY + 2, Some((Aim::Final, &[1, 2])));
    busy[1].is_settled = false;
    check("samples still come", &busy, DAY + 2, None);
    check("ended", &of_day(&[(Base, Final, 100)]), DAY + 2, None);
    check("two classes", &of_day(&[(Base, Final, 100), (Base, Final, 1)]), DAY + 2, None);
    check("a little late", &of_day(&[(Base, Final, 100), (Late, Sealed, 10)]), DAY + 2, None);
    let much = of_day(&[(Base, Final, 100), (Late, Sealed, 11)]);
    check("much late", &much, DAY + 2, Some((Aim::Final, &[1, 2])));
    let mut hit = of_day(&[(Base, Final, 100)]);
    hit[0].hits = 33;
    check("many deletes", &hit, DAY + 2, Some((Aim::Final, &[1])));
    let mut ended = of_day(&[(Base, Final, 300), (Base, Final, 100)]);
    ended[0].ended_bytes = 100;
    check("a quarter has ended", &ended, DAY + 2, None);
    ended[0].ended_bytes = 101;
    check("more has ended", &ended, DAY + 2, Some((Aim::Final, &[1, 2])));
    (ended[0].ended_bytes, ended[1].is_outlived) = (0, true);
    check("to be rolled up", &ended, DAY + 2, Some((Aim::Final, &[1, 2])));
    hit[0].is_damaged = true;
    check("damaged", &hit, DAY + 2, None);
}

#[test]
fn wide_segments_are_split() {
    let mut wide = vec![known(1, Base, Sealed, (DAY, DAY + 1), 100)];
    check("settled", &wide, DAY + 1, Some((Aim::Split, &[1])));
    wide[0].is_settled = false;
    check("still fresh", &wide, DAY + 1, None);
    let mut many: Vec<Known> =
        (1..=4).map(|id| known(id, Late, Sealed, (DAY - 9, DAY), 100)).collect();
    for known in &mut many {
        known.is_settled = false;
    }
    check("several at once", &many, DAY, Some((Aim::Merge, &[1, 2, 3, 4])));
    many[2].last_day = DAY - 9;
    check("not across another", &many, DAY, None);
}

#[test]
fn force_ends_every_day() {
    let segments = [
        known(1, Base, Final, (DAY, DAY), 100),
        known(2, Base, Sealed, (DAY + 1, DAY + 1), 100),
        known(3, Late, Sealed, (DAY + 1, DAY + 1), 1),
    ];
    let tasks = plan_the_end(&segments, Seq(30));
    let [task] = tasks.as_slice() else { panic!("one day is open: {tasks:?}") };
    assert_eq!(task.inputs, [SegmentId(2), SegmentId(3)]);
    assert_eq!((task.kind, task.stage), (Base, Final));
    assert_eq!(plan_the_end(&segments, Seq(10)), [], "what came later may stay");
    let mut hit = segments[..1].to_vec();
    assert_eq!(plan_the_end(&hit, Seq(30)), []);
    hit[0].hits = 1;
    assert_eq!(plan_the_end(&hit, Seq(30)).len(), 1, "deletes are applied");
    (hit[0].hits, hit[0].ended_bytes) = (0, 1);
    assert_eq!(plan_the_end(&hit, Seq(30)).len(), 1, "what has ended goes");
    (hit[0].ended_bytes, hit[0].is_outlived) = (0, true);
    assert_eq!(plan_the_end(&hit, Seq(30)).len(), 1, "or is rolled up");
}

/// Segments that seals leave: seqs ascend, days are few.
fn draw(random: &mut Random) -> Vec<Known> {
    let count = 1 + random.below(60);
    let mut segments = Vec::new();
    for id in 1..=count {
        let kind = if random.once_in(2) { Base } else { Late };
        let first = DAY + random.below(3) as i64;
        let days = if random.once_in(4) {
            (first, first + random.below(3) as i64)
        } else {
            (first, first)
        };
        let mut segment = known(id, kind, Sealed, days, 1 + random.below(1_000));
        segment.is_settled = random.once_in(2);
        segment.is_damaged = random.once_in(30);
        segment.hits = random.index(40);
        segments.push(segment);
    }
    segments
}

/// What rules 1 to 4 say of a task.
fn obeys(segments: &[Known], task: &Task) {
    let find = |id: &SegmentId| segments.iter().find(|known| known.id == *id).expect("it lives");
    let inputs: Vec<&Known> = task.inputs.iter().map(find).collect();
    let is_in = |known: &Known| task.inputs.contains(&known.id);
    let mut distinct = task.inputs.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), inputs.len(), "an input twice");
    assert!((1..=INPUTS_MAX).contains(&inputs.len()), "{} inputs", inputs.len());
    assert!(!inputs.iter().any(|known| known.is_damaged), "a damaged input");
    let days = inputs.iter().flat_map(|known| known.first_day..=known.last_day);
    for day in days {
        let mut lates: Vec<&Known> =
            segments.iter().filter(|k| k.kind == Late && k.touches(day)).collect();
        lates.sort_by_key(|known| (known.max_seq, known.id));
        let taken: Vec<bool> = lates.iter().map(|known| is_in(known)).collect();
        let first = taken.iter().position(|taken| *taken);
        let last = taken.iter().rposition(|taken| *taken);
        if let (Some(first), Some(last)) = (first, last) {
            assert!(taken[first..=last].iter().all(|taken| *taken), "late not side by side");
            assert!(task.kind == Late || first == 0, "an older late segment stays behind");
        }
        let mixes = inputs.iter().any(|known| known.kind == Late) && task.kind == Base;
        if mixes {
            assert!(inputs.iter().all(|known| !known.is_wide()), "late of several days into base");
            let left = segments.iter().any(|k| k.kind == Base && k.touches(day) && !is_in(k));
            assert!(!left, "a base segment of the day stays behind");
        }
        if task.kind == Late {
            assert!(inputs.iter().all(|known| known.kind == Late), "base into late");
        }
    }
}

/// The segments after a task, as the engine would leave them.
fn after(segments: &[Known], task: &Task, next_id: &mut u64) -> Vec<Known> {
    let (inputs, mut rest): (Vec<Known>, Vec<Known>) =
        segments.iter().cloned().partition(|known| task.inputs.contains(&known.id));
    let mut days: Vec<i64> = inputs.iter().flat_map(|k| k.first_day..=k.last_day).collect();
    days.sort_unstable();
    days.dedup();
    for day in days {
        let of_day: Vec<&Known> = inputs.iter().filter(|known| known.touches(day)).collect();
        let share =
            |known: &&Known| known.bytes / (known.last_day - known.first_day + 1).unsigned_abs();
        *next_id += 1;
        rest.push(Known {
            id: SegmentId(*next_id),
            kind: task.kind,
            stage: task.stage,
            min_seq: of_day.iter().map(|known| known.min_seq).min().expect("inputs"),
            max_seq: of_day.iter().map(|known| known.max_seq).max().expect("inputs"),
            first_day: day,
            last_day: day,
            bytes: of_day.iter().map(share).sum::<u64>().max(1),
            is_settled: true,
            is_damaged: false,
            hits: 0,
            ended_bytes: 0,
            is_outlived: false,
        });
    }
    rest
}

#[test]
fn tasks_keep_the_rules_and_come_to_an_end() {
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let mut segments = draw(&mut random);
        let mut next_id = 1_000;
        let force = random.once_in(3).then_some(Seq(10 * random.below(70)));
        let now_day = DAY + random.below(6) as i64;
        let mut steps = 0;
        loop {
            let tasks = match force {
                Some(through) => plan_the_end(&segments, through),
                None => plan(&segments, now_day).into_iter().collect(),
            };
            if tasks.is_empty() {
                break;
            }
            // Those planned together are done one after the other, with nothing planned between.
            for task in tasks {
                obeys(&segments, &task);
                segments = after(&segments, &task, &mut next_id);
                steps += 1;
                assert!(steps < 200, "seed {seed}: no end, at {task:?}");
            }
        }
        let sound =
            |known: &&Known| !segments.iter().any(|k| k.is_damaged && k.touches(known.first_day));
        if force == Some(Seq(690)) {
            assert!(segments.iter().filter(sound).all(Known::is_final_base), "seed {seed}");
        }
    }
}

#[test]
fn a_sample_is_written_again_about_twice() {
    for (seals, late_bytes, most) in [(6, 0, 2.0), (24, 1, 2.3), (100, 0, 3.4), (24, 50, 6.0)] {
        let (mut segments, mut next_id, mut id) = (Vec::new(), 100_000, 0);
        let (mut sealed, mut written) = (0, 0);
        let mut now_day = DAY;
        for seal in 0..=seals {
            for (kind, bytes) in [(Base, 100 - late_bytes), (Late, late_bytes)] {
                if seal < seals && bytes > 0 {
                    id += 1;
                    sealed += bytes;
                    segments.push(known(id, kind, Sealed, (DAY, DAY), bytes));
                }
            }
            now_day += if seal == seals { 2 } else { 0 };
            while let Some(task) = plan(&segments, now_day) {
                let is_input = |known: &&Known| task.inputs.contains(&known.id);
                written += segments.iter().filter(is_input).map(|known| known.bytes).sum::<u64>();
                segments = after(&segments, &task, &mut next_id);
            }
        }
        assert_eq!(segments.len(), 1, "one segment of the day in the end");
        let times = written as f64 / sealed as f64;
        println!("{seals} seals with {late_bytes} % late: written again {times:.1} times");
        assert!(times <= most, "{seals} seals, {late_bytes} % late: {times:.2} times");
    }
}
