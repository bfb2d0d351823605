//! A block of rollups, as a segment has it behind its chunks.

use tagmill_storage::fuzzing::rollups::Block;
use tagmill_storage::{Needs, Rollup, Rule, Tier, ValueType};

/// Sums are written with up to five decimals, or as they are.
const ROUNDS_MAX: usize = 6;

/// Any bytes are read as a block of rollups or refused: in full and in part to the same rows. What was read is written and
/// read again to the same, and in the end to the same bytes. Whatever is asked of it is answered with windows that ascend,
/// and wide ones hold as many samples as narrow ones.
///
/// The first byte is tier and type, the next four are the numbers of runs and of rows.
pub fn rollups(data: &[u8]) {
    let [kind, runs_low, runs_high, rows_low, rows_high, bytes @ ..] = data else { return };
    let number = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]));
    let (tier, value_type) = kinds(*kind);
    let counts = (number(*runs_low, *runs_high), number(*rows_low, *rows_high));
    let Some(block) = Block::read(tier, value_type, counts, bytes) else { return };
    let mut bytes = block.written();
    for round in 0.. {
        let again = block.reread(&bytes).expect("our own bytes decode");
        assert!(block.agrees(&again), "written and read again it says something else");
        // A sum may be rounded once more, to fewer decimals.
        let before = std::mem::replace(&mut bytes, again.written());
        if before == bytes {
            break;
        }
        assert!(round < ROUNDS_MAX, "written again and again it never stays the same");
    }
    for rule in rules() {
        for needs in
            [Needs::Sql, Needs::SqlMoments, Needs::Weighted, Needs::Changes, Needs::Interval]
        {
            let fine = block.ask(&rule, needs, tier.width_ns());
            let coarse = block.ask(&rule, needs, tier.width_ns().saturating_mul(7));
            for ((tag, fine), (_, coarse)) in fine.iter().zip(&coarse) {
                let samples = |rows: &[Rollup]| rows.iter().map(Rollup::rows).sum::<u64>();
                assert_eq!(samples(fine), samples(coarse), "samples of {tag}");
                for rows in [fine, coarse] {
                    let ascends =
                        rows.is_sorted_by(|a, b| a.last_ns < b.first_ns && a.start_ns < b.start_ns);
                    assert!(ascends, "windows of {tag} out of order");
                }
            }
        }
    }
}

/// What the first byte says.
fn kinds(byte: u8) -> (Tier, ValueType) {
    let (tier, value_type) =
        (usize::from(byte) / ValueType::ALL.len(), usize::from(byte) % ValueType::ALL.len());
    (Tier::ALL[tier % Tier::ALL.len()], ValueType::ALL[value_type])
}

fn rules() -> [Rule; 3] {
    let plain = Rule {
        stepped: false,
        uncertain_usable: true,
        max_gap_ns: None,
        rollover: None,
        jitter: 0.0,
        reset_value: 0.0,
    };
    let strict = Rule { stepped: true, max_gap_ns: Some(1_000_000_000), ..plain.clone() };
    let counter = Rule { rollover: Some(1_000.0), jitter: 0.5, reset_value: 1.0, ..plain.clone() };
    [plain, strict, counter]
}
