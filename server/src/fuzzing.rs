//! What the bodies of the server's fuzz targets share: bytes as choices, panics that are awaited, and the replay of a corpus.
//!
//! Contract: the same bytes make the same choices; when they end, every choice is the first one. A panic within
//! [`may_panic`] is caught by who runs it, as in the server, and is no finding.

use std::cell::Cell;

thread_local! {
    static AWAITED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what catches panics of its own.
pub(crate) fn may_panic<T>(body: impl FnOnce() -> T) -> T {
    AWAITED.set(true);
    let done = body();
    AWAITED.set(false);
    done
}

/// Whether a panic of this thread would be caught. A hook asks before it speaks of one.
pub(crate) fn is_awaited() -> bool {
    AWAITED.get()
}

/// Bytes that decide what a target makes.
#[derive(Clone, Debug)]
pub(crate) struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *byte
    }

    /// One of the first `count` numbers, at most 256.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// Eight bytes as a number.
    pub(crate) fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// One of several.
    pub(crate) fn of<T: Copy>(&mut self, several: &[T]) -> T {
        several[self.below(several.len())]
    }

    /// As many of some letters as come up, at most `most`.
    pub(crate) fn text(&mut self, letters: &[char], most: usize) -> String {
        (0..self.below(most + 1)).map(|_| self.of(letters)).collect()
    }
}

/// Every input of a corpus, and of each as many prefixes and flipped bits as told, evenly spread.
#[cfg(test)]
pub(crate) fn replay(target: &str, attempts: usize, body: fn(&[u8])) {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !is_awaited() {
                next(panic);
            }
        }));
    });
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/engine/corpus");
    let folder = std::path::Path::new(root).join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 3, "{target} has a corpus");
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        // Told with the panic, if there is one.
        println!("{}, or a change of it", path.display());
        body(&bytes);
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(attempts).max(1)) {
            body(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            body(&changed);
        }
    }
}
