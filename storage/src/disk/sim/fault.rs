//! What can go wrong with a call of the simulated disk, and when: [`Fault`].

use std::io;

use rustix::io::Errno;

/// The kinds of calls that can be counted and failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the method of Disk or DiskFile with its name")]
pub enum Call {
    Create,
    Open,
    List,
    CreateDir,
    Rename,
    Remove,
    SyncDir,
    Lock,
    Read,
    Write,
    Sync,
    Len,
    Truncate,
}

impl Call {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Create,
        Self::Open,
        Self::List,
        Self::CreateDir,
        Self::Rename,
        Self::Remove,
        Self::SyncDir,
        Self::Lock,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Len,
        Self::Truncate,
    ];

    /// Whether the call can change what a crash leaves. Between two such calls all crashes are alike.
    pub const fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Lock | Self::Read | Self::Len)
    }

    /// In which ways a system can fail this call.
    pub const fn failures(self) -> &'static [Failure] {
        use Failure::{
            FlippedBit, Interrupted, Io, NoSpace, Quota, ReadOnly, Short, TooLarge, TooManyFiles,
        };
        match self {
            Self::Create => &[Io, NoSpace, Quota, TooLarge, TooManyFiles, ReadOnly, Interrupted],
            Self::Write => &[Io, NoSpace, Quota, TooLarge, ReadOnly, Short, Interrupted],
            Self::Truncate => &[Io, NoSpace, Quota, ReadOnly, Interrupted],
            Self::Open | Self::SyncDir | Self::Lock => &[Io, TooManyFiles, Interrupted],
            Self::Read => &[Io, FlippedBit, Short, Interrupted],
            Self::CreateDir => &[Io, NoSpace, Quota, ReadOnly],
            Self::Rename | Self::Remove => &[Io, ReadOnly],
            // A full disk or quota can show as late as this where blocks are given at writeback.
            Self::Sync => &[Io, NoSpace, Quota, Interrupted],
            Self::List => &[Io, TooManyFiles],
            Self::Len => &[Io],
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
    /// EDQUOT.
    Quota,
    /// EFBIG.
    TooLarge,
    /// EMFILE.
    TooManyFiles,
    /// EROFS.
    ReadOnly,
    /// EINTR: to be made again, by `transfer` and not by the engine.
    Interrupted,
    /// A read or write that moves only a beginning of its bytes, as the system may: the rest is for the next call.
    Short,
    /// The call succeeds, but one bit of what it read is wrong. For reads only.
    FlippedBit,
}

impl Failure {
    /// Whether the engine never hears of it, for what is below it goes on.
    pub const fn is_continued(self) -> bool {
        matches!(self, Self::Interrupted | Self::Short)
    }

    /// The system's answer.
    pub(super) fn error(self) -> io::Error {
        io::Error::from(match self {
            Self::Io | Self::FlippedBit | Self::Short => Errno::IO,
            Self::NoSpace => Errno::NOSPC,
            Self::Quota => Errno::DQUOT,
            Self::TooLarge => Errno::FBIG,
            Self::TooManyFiles => Errno::MFILE,
            Self::ReadOnly => Errno::ROFS,
            Self::Interrupted => Errno::INTR,
        })
    }
}

/// A call that is to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Calls of this kind are counted.
    pub call: Call,
    /// Only calls on paths that begin like this; `""` for all.
    pub path: String,
    /// How many such calls succeed first.
    pub after: u64,
    /// How many fail then; `u64::MAX` for ever.
    pub times: u64,
    /// In which way.
    pub failure: Failure,
}

impl Fault {
    /// Calls of this kind fail so, from now on and for ever.
    pub fn lasting(call: Call, failure: Failure) -> Self {
        Self { call, path: String::new(), after: 0, times: u64::MAX, failure }
    }

    /// Takes note of a call; whether it is to fail.
    pub(super) fn strikes(&mut self, call: Call, path: &str) -> bool {
        if self.call != call || !path.starts_with(&self.path) {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        let strikes = self.times > 0;
        self.times = self.times.saturating_sub(u64::from(self.times != u64::MAX));
        strikes
    }
}
