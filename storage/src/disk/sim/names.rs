//! Which names the simulated directory has: as programs see them, and as a crash would leave them.
//!
//! # Contract
//! A new, removed or renamed name is pending until its folder is synced. A crash keeps any of the pending ones; a rename
//! never leaves a file without a name, as no journalling file system does, but across folders it may leave two.

use std::collections::{BTreeMap, BTreeSet};

use super::Random;
use super::content::Fate;

/// Number of a file, whatever its names.
pub(super) type InodeId = u64;

#[derive(Clone, Debug)]
enum Change {
    Folder(String),
    Link(String, InodeId),
    Unlink(String),
    Rename(String, String, InodeId),
}

#[derive(Clone, Debug, Default)]
struct Tree {
    folders: BTreeSet<String>,
    files: BTreeMap<String, InodeId>,
}

impl Tree {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Folder(path) => {
                self.folders.insert(path.clone());
            }
            Change::Link(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            Change::Unlink(path) => {
                self.files.remove(path);
            }
            Change::Rename(from, to, inode) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *inode);
            }
        }
    }

    fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }
}

/// All names of a simulated disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    seen: Tree,
    durable: Tree,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn find(&self, path: &str) -> Option<InodeId> {
        self.seen.files.get(path).copied()
    }

    pub(super) fn has_folder(&self, path: &str) -> bool {
        self.seen.has_folder(path)
    }

    /// Paths and inodes of every file a program sees.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, InodeId)> {
        self.seen.files.iter().map(|(path, inode)| (path.as_str(), *inode))
    }

    /// Inodes that a name may still lead to, now or after a crash.
    pub(super) fn reachable(&self) -> BTreeSet<InodeId> {
        let pending = self.pending.iter().filter_map(|change| match change {
            Change::Link(_, inode) | Change::Rename(_, _, inode) => Some(*inode),
            Change::Folder(_) | Change::Unlink(_) => None,
        });
        let named = self.seen.files.values().chain(self.durable.files.values()).copied();
        named.chain(pending).collect()
    }

    pub(super) fn add_folder(&mut self, path: &str) {
        if !self.seen.has_folder(path) {
            self.push(Change::Folder(path.to_owned()));
        }
    }

    pub(super) fn link(&mut self, path: &str, inode: InodeId) {
        self.push(Change::Link(path.to_owned(), inode));
    }

    pub(super) fn unlink(&mut self, path: &str) {
        self.push(Change::Unlink(path.to_owned()));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, inode: InodeId) {
        self.push(Change::Rename(from.to_owned(), to.to_owned(), inode));
    }

    fn push(&mut self, change: Change) {
        self.seen.apply(&change);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self, folder: &str) {
        for change in std::mem::take(&mut self.pending) {
            match &change {
                Change::Folder(path) | Change::Link(path, _) | Change::Unlink(path)
                    if folder_of(path) == folder =>
                {
                    self.durable.apply(&change);
                }
                Change::Rename(from, _, _) if folder_of(from) == folder => {
                    self.durable.apply(&change);
                }
                Change::Rename(from, to, inode) if folder_of(to) == folder => {
                    self.durable.apply(&Change::Link(to.clone(), *inode));
                    self.pending.push(Change::Unlink(from.clone()));
                }
                _ => self.pending.push(change),
            }
        }
    }

    /// A failed sync of a folder: some of its names are durable, the rest is dropped though programs see it.
    pub(super) fn sync_partly(&mut self, folder: &str, random: &mut Random) {
        let fate = Fate::draw(random, self.pending.len());
        for (index, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let here = match &change {
                Change::Folder(path) | Change::Link(path, _) | Change::Unlink(path) => {
                    folder_of(path) == folder
                }
                Change::Rename(from, to, _) => [from, to].iter().any(|p| folder_of(p) == folder),
            };
            if !here {
                self.pending.push(change);
            } else if fate.keeps(index, random) {
                self.durable.apply(&change);
            }
        }
    }

    /// The power goes: programs will see what is durable.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        let fate = Fate::draw(random, pending.len());
        for (index, change) in pending.iter().enumerate() {
            if fate.keeps(index, random) {
                self.durable.apply(change);
            }
        }
        let durable = &mut self.durable;
        let kept: BTreeSet<String> = std::mem::take(&mut durable.folders);
        let whole = |path: &str| kept.contains(path) && ancestors_kept(path, &kept);
        durable.folders = kept.iter().filter(|path| whole(path)).cloned().collect();
        let folders = durable.folders.clone();
        durable.files.retain(|path, _| {
            let folder = folder_of(path);
            folder.is_empty() || folders.contains(folder)
        });
        self.seen = self.durable.clone();
    }
}

/// The folder that holds `path`; `""` for the database directory.
pub(super) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn ancestors_kept(path: &str, kept: &BTreeSet<String>) -> bool {
    let folder = folder_of(path);
    folder.is_empty() || (kept.contains(folder) && ancestors_kept(folder, kept))
}
