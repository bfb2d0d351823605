//! What a database must hold after so many batches of each gateway, and the comparison with what it says it holds.
//!
//! # Contract
//! * A gateway's batches are there in their order and whole: how many, its first tag's rows say, and then every tag must
//!   have as many rows and the exact sum.
//! * What was acknowledged, or seen by an earlier comparison, is there.
//! * It remembers one sum a tag, so a run may last as long as it likes.
//!
//! # What it does not know
//! How the answer was got. A batch that was applied twice with nothing between leaves no trace here: see
//! [`crate::kills`], which asks the server's own count.

use std::collections::HashMap;

use crate::plant::Plant;

/// Rows and sum of values, by tag, as a database tells them.
pub(crate) type Found = HashMap<String, (u64, f64)>;

/// Offences that one comparison lists; more are not looked for.
const LISTED: usize = 10;

/// The model.
#[derive(Debug)]
pub(crate) struct Content {
    plant: Plant,
    gateways: Vec<Written>,
}

/// What is known to be there of one gateway.
#[derive(Clone, Debug)]
struct Written {
    batches: u64,
    /// Sum of all values of each tag, in quarters.
    sums: Vec<i64>,
}

/// What a comparison has found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Samples that must be there and are not.
    pub(crate) lost: u64,
    /// What is wrong, for people.
    pub(crate) offences: Vec<String>,
}

impl Content {
    /// An empty database.
    pub(crate) fn new(plant: Plant) -> Self {
        let empty = Written { batches: 0, sums: vec![0; plant.tags] };
        Self { plant, gateways: vec![empty; plant.gateways] }
    }

    /// Who writes.
    pub(crate) fn plant(&self) -> &Plant {
        &self.plant
    }

    /// Batches of each gateway that the last comparison has seen.
    pub(crate) fn batches(&self) -> Vec<u64> {
        self.gateways.iter().map(|written| written.batches).collect()
    }

    /// Compares what a database holds with what it must hold: at least the acknowledged batches of each gateway, and of
    /// whatever it holds exactly the samples. What is there now must be there from now on.
    pub(crate) fn compare(&mut self, found: &Found, acked: &[u64]) -> Verdict {
        let mut verdict = Verdict::default();
        for (gateway, acked) in acked.iter().enumerate() {
            self.compare_gateway(gateway, found, *acked, &mut verdict);
        }
        let known = self.plant.gateways * self.plant.tags;
        if found.len() > known {
            verdict.offences.push(format!("{} tags, of which {known} were defined", found.len()));
        }
        verdict
    }

    fn compare_gateway(&mut self, number: usize, found: &Found, acked: u64, to: &mut Verdict) {
        let of = |tag: usize| found.get(&Plant::name(number, tag)).copied().unwrap_or_default();
        let batches = of(0).0 / self.plant.cycles;
        let written = &mut self.gateways[number];
        let floor = acked.max(written.batches);
        if batches < floor {
            let missing = self.plant.written(floor) - self.plant.written(batches);
            to.lost += missing;
            to.offences.push(format!(
                "gateway {number}: {batches} batches, of which {acked} were acknowledged and {} seen before: {missing} \
                 samples are lost",
                written.batches
            ));
            return;
        }
        written.advance(&self.plant, number, batches);
        for (tag, sum) in written.sums.iter().enumerate() {
            let wanted = (batches * self.plant.cycles, *sum as f64 / 4.0);
            let (rows, total) = of(tag);
            if (rows, total.to_bits()) != (wanted.0, wanted.1.to_bits())
                && to.offences.len() < LISTED
            {
                to.offences.push(format!(
                    "{} after {batches} batches: {rows} rows with sum {total}, wanted {} with {}",
                    Plant::name(number, tag),
                    wanted.0,
                    wanted.1
                ));
            }
        }
    }
}

impl Written {
    fn advance(&mut self, plant: &Plant, gateway: usize, batches: u64) {
        let value = |tag, row| Plant::quarters(gateway, tag, row).cast_signed();
        for number in self.batches..batches {
            let first = number * plant.cycles;
            for (tag, sum) in self.sums.iter_mut().enumerate() {
                *sum += (first..first + plant.cycles).map(|row| value(tag, row)).sum::<i64>();
            }
            if let Some((tag, row)) = plant.correction(number) {
                let after = Plant::corrected(gateway, tag, row).cast_signed();
                self.sums[tag] += after - value(tag, row);
            }
        }
        self.batches = batches;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PLANT: Plant =
        Plant { gateways: 2, tags: 3, cycles: 4, start_ns: 0, step_ns: 1, has_corrections: true };

    /// A database to which batches are applied as a careless server might: the last value of a row wins.
    #[derive(Clone, Default)]
    struct Rows(BTreeMap<(usize, usize, u64), u64>);

    impl Rows {
        fn apply(&mut self, gateway: usize, number: u64) {
            let first = number * PLANT.cycles;
            for (tag, row) in
                (0..PLANT.tags).flat_map(|tag| (first..first + 4).map(move |r| (tag, r)))
            {
                self.0.insert((gateway, tag, row), Plant::quarters(gateway, tag, row));
            }
            if let Some((tag, row)) = PLANT.correction(number) {
                self.0.insert((gateway, tag, row), Plant::corrected(gateway, tag, row));
            }
        }

        fn found(&self) -> Found {
            let mut found = Found::new();
            for ((gateway, tag, _), quarters) in &self.0 {
                let (rows, total) = found.entry(Plant::name(*gateway, *tag)).or_default();
                (*rows, *total) = (*rows + 1, *total + *quarters as f64 / 4.0);
            }
            found
        }
    }

    fn after(batches: u64) -> Rows {
        let mut rows = Rows::default();
        (0..2).for_each(|gateway| (0..batches).for_each(|number| rows.apply(gateway, number)));
        rows
    }

    /// Acknowledged or not, whole batches in their order are right, also as more of them come.
    #[test]
    fn whole_batches_are_right() {
        let mut content = Content::new(PLANT);
        for batches in [0, 1, 5, 6] {
            let verdict = content.compare(&after(batches).found(), &[batches, batches / 2]);
            assert!(verdict.offences.is_empty() && verdict.lost == 0, "{verdict:?}");
            assert_eq!(content.batches(), [batches, batches]);
        }
    }

    /// Every sample of a missing batch is counted, whether it was acknowledged or only seen before.
    #[test]
    fn missing_batches_are_lost() {
        let lost = PLANT.written(7) - PLANT.written(5);
        let verdict = Content::new(PLANT).compare(&after(5).found(), &[5, 7]);
        assert_eq!((verdict.lost, verdict.offences.len()), (lost, 1), "{verdict:?}");
        let mut content = Content::new(PLANT);
        assert_eq!(content.compare(&after(7).found(), &[0, 0]).lost, 0);
        assert_eq!(content.compare(&after(5).found(), &[0, 0]).lost, 2 * lost);
    }

    /// Half a batch, a value that was never written, and a tag too many are found.
    #[test]
    fn strange_rows_are_found() {
        let whole = after(5);
        let mut half = whole.clone();
        half.0.remove(&(1, 2, 19));
        let mut other = whole.clone();
        *other.0.get_mut(&(0, 1, 3)).unwrap() += 1;
        let mut more = whole.clone();
        more.0.insert((7, 0, 0), 1);
        for wrong in [half, other, more] {
            let verdict = Content::new(PLANT).compare(&wrong.found(), &[5, 5]);
            assert_eq!(verdict.offences.len(), 1, "{verdict:?}");
        }
    }

    /// A batch applied again after its successor brings a corrected value back.
    #[test]
    fn a_batch_applied_again_is_found() {
        let mut rows = after(5);
        rows.apply(1, 3);
        let verdict = Content::new(PLANT).compare(&rows.found(), &[5, 5]);
        assert_eq!(verdict.offences.len(), 1, "{verdict:?}");
    }
}
