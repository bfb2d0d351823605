//! A disk whose every write and flush is remembered, in order: a FUSE file system with one large file in it.
//!
//! # Contract
//! * `disk.img` is the disk: a loop device over it, opened past the page cache, sends writes as writes and flushes as syncs.
//! * `ledger` takes a victim's lines into the same order: what stands before a write was said before it.
//! * `short` is a file that reads and writes fewer bytes than asked, as a real system call may.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tagmill_storage::disk::sim::Random;

/// One thing that happened, in order.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// Bytes were written to the disk.
    Write { offset: usize, bytes: Vec<u8> },
    /// Everything written before is on the medium.
    Flush,
    /// The victim said this.
    Said(Vec<u8>),
}

#[derive(Debug)]
struct State {
    image: Vec<u8>,
    log: Vec<Entry>,
    short: Vec<u8>,
    random: Random,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Device(Arc<Mutex<State>>);

/// Names of the files, by inode from 2.
const NAMES: [&str; 3] = ["disk.img", "ledger", "short"];
const SECOND: Duration = Duration::from_secs(1);

impl Device {
    /// A disk that holds `image`; `seed` decides how short the calls on `short` are.
    pub(crate) fn new(image: Vec<u8>, seed: u64) -> Self {
        let (log, short, random) = (Vec::new(), vec![0; 1 << 20], Random::new(seed));
        Self(Arc::new(Mutex::new(State { image, log, short, random })))
    }

    /// Shows it at `point` until the session is dropped.
    pub(crate) fn mount(&self, point: &Path) -> io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("tagmill-power".into())];
        fuser::spawn_mount(self.clone(), point, &config)
    }

    /// Forgets what happened so far. Gives the disk as it is.
    pub(crate) fn restart_log(&self) -> Vec<u8> {
        let mut state = self.state();
        state.log.clear();
        state.image.clone()
    }

    /// What happened since the log was restarted.
    pub(crate) fn take_log(&self) -> Vec<Entry> {
        std::mem::take(&mut self.state().log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: u64) -> FileAttr {
        let state = self.state();
        let size = match inode {
            2 => state.image.len() as u64,
            4 => state.short.len() as u64,
            _ => 0,
        };
        let kind = if inode == 1 { FileType::Directory } else { FileType::RegularFile };
        FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl State {
    fn read(&mut self, inode: u64, offset: usize, count: usize) -> Vec<u8> {
        let (file, count) = match inode {
            2 => (&self.image, count),
            4 => (&self.short, 1 + self.random.index(count)),
            _ => return Vec::new(),
        };
        let end = offset.saturating_add(count).min(file.len());
        file.get(offset..end).unwrap_or_default().to_vec()
    }

    /// Number of bytes taken, or `None` past the end.
    fn write(&mut self, inode: u64, offset: usize, bytes: &[u8]) -> Option<usize> {
        let count = if inode == 4 { 1 + self.random.index(bytes.len()) } else { bytes.len() };
        let bytes = bytes.get(..count)?;
        match inode {
            3 => self.log.push(Entry::Said(bytes.to_vec())),
            2 => {
                self.image.get_mut(offset..offset + count)?.copy_from_slice(bytes);
                self.log.push(Entry::Write { offset, bytes: bytes.to_vec() });
            }
            _ => self.short.get_mut(offset..offset + count)?.copy_from_slice(bytes),
        }
        Some(count)
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX / 2)
}

impl Filesystem for Device {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match (2..).zip(NAMES).find(|(_, known)| name == *known) {
            Some((inode, _)) => reply.entry(&SECOND, &self.attributes(inode), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(inode.into()));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&Duration::ZERO, &self.attributes(inode.into()));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&self.state().read(inode.into(), place(offset), size as usize));
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.state().write(inode.into(), place(offset), data);
        match written.and_then(|count| u32::try_from(count).ok()) {
            Some(count) => reply.written(count),
            None => reply.error(Errno::ENOSPC),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if u64::from(inode) == 2 {
            self.state().log.push(Entry::Flush);
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        // A discard: what was there reads as zeros.
        let zeros = vec![0; place(length)];
        let is_disk = u64::from(inode) == 2;
        match is_disk.then(|| self.state().write(2, place(offset), &zeros)).flatten() {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOSYS),
        }
    }
}
