//! Two writers that keep an engine busy: every batch is acknowledged after its `fdatasync`.
//!
//! It knows nothing of what the batches hold. They are made before: the clock of a benchmark covers the engine alone.

use std::sync::mpsc::sync_channel;

use tagmill_storage::{Batch, Engine, TagColumn};

/// Batches of each writer under way at a time.
const UNDER_WAY: usize = 8;

/// Writes all batches; those of a writer come in their order.
///
/// # Errors
/// If a writer fails.
pub fn feed(engine: &Engine, batches: Vec<Vec<TagColumn>>) -> Result<(), &'static str> {
    let (mut odd, mut even) = (Vec::new(), Vec::new());
    for (number, batch) in batches.into_iter().enumerate() {
        if number % 2 == 0 { even.push(batch) } else { odd.push(batch) }
    }
    std::thread::scope(|scope| {
        let writers = [odd, even].map(|mine| scope.spawn(move || write(engine, mine)));
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| "a writer failed"))
    })
}

fn write(engine: &Engine, batches: Vec<Vec<TagColumn>>) {
    let (taken, returned) = sync_channel(UNDER_WAY);
    let mut under_way = 0;
    for columns in batches {
        if under_way == UNDER_WAY {
            returned.recv().expect("every batch is answered");
            under_way -= 1;
        }
        let taken = taken.clone();
        let done = move |result: tagmill_storage::Result<_>| {
            result.expect("the engine takes the batch");
            taken.send(()).expect("the writer waits");
        };
        engine.submit(Batch { columns, ..Batch::default() }, Box::new(done));
        under_way += 1;
    }
    for _ in 0..under_way {
        returned.recv().expect("every batch is answered");
    }
}
