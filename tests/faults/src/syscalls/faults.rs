//! What can happen at a system call, as `strace` does it, and what the engine may then answer.

use crate::checker::Leave;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The process dies on entering the call.
    Kill,
    /// The call is not made and gives this error.
    Error(&'static str),
    /// The call is not made and says that it has moved no byte.
    Zero,
}

/// Something that happens at a call, once or from then on for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    kind: Kind,
    is_for_ever: bool,
    leave: Leave,
}

impl Fault {
    /// Whether the process dies of it.
    pub(super) fn is_kill(&self) -> bool {
        self.kind == Kind::Kill
    }

    /// What it may make fail.
    pub(super) fn leave(&self) -> Leave {
        self.leave
    }

    /// The rule for `strace -e inject=`, without the name of the call.
    pub(super) fn rule(&self, when: u64) -> String {
        let what = match self.kind {
            Kind::Kill => "signal=KILL".to_owned(),
            Kind::Error(error) => format!("error={error}"),
            Kind::Zero => "retval=0".to_owned(),
        };
        let ever = if self.is_for_ever { "+" } else { "" };
        format!("{what}:when={when}{ever}")
    }
}

/// Everything that can happen at a call.
pub(super) fn of(call: &str) -> Vec<Fault> {
    let nothing = Leave::default();
    let writes = Leave { writes: true, reads: false };
    let both = Leave { writes: true, reads: true };
    let (errors, leave): (&[&'static str], Leave) = match call {
        "openat" => (&["EMFILE", "ENFILE", "EACCES", "EROFS", "ENOSPC", "EIO"], both),
        "pread64" | "read" | "statx" | "newfstatat" | "getdents64" => (&["EIO"], both),
        "pwrite64" | "write" | "pwritev" => {
            (&["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS"], writes)
        }
        "fdatasync" | "fsync" => (&["EIO", "ENOSPC", "EDQUOT", "EROFS"], writes),
        "fallocate" => (&["ENOSPC", "EDQUOT", "EFBIG", "EIO"], writes),
        "ftruncate" => (&["EIO", "EROFS"], writes),
        "rename" | "renameat" | "renameat2" => (&["EIO", "ENOSPC", "EROFS"], writes),
        "unlinkat" => (&["EIO", "EROFS", "EBUSY", "EACCES"], writes),
        "mkdirat" => (&["ENOSPC", "EIO", "EROFS"], writes),
        "flock" => (&["ENOLCK"], writes),
        _ => (&[], nothing),
    };
    let mut faults = vec![Fault { kind: Kind::Kill, is_for_ever: false, leave: nothing }];
    for error in errors {
        for is_for_ever in [false, true] {
            faults.push(Fault { kind: Kind::Error(error), is_for_ever, leave });
        }
    }
    let once = |kind, leave| Fault { kind, is_for_ever: false, leave };
    match call {
        // Interrupted calls are made again: nobody may notice.
        "openat" | "pread64" | "pwrite64" | "fdatasync" | "fsync" | "fallocate" | "flock" => {
            faults.push(once(Kind::Error("EINTR"), nothing));
        }
        _ => {}
    }
    match call {
        "fallocate" => {
            // A file system that reserves nothing: zeros are written instead.
            for is_for_ever in [false, true] {
                let kind = Kind::Error("EOPNOTSUPP");
                faults.push(Fault { kind, is_for_ever, leave: nothing });
            }
        }
        "pread64" => faults.push(once(Kind::Zero, both)),
        "pwrite64" => faults.push(once(Kind::Zero, writes)),
        _ => {}
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_strace() {
        let rules: Vec<String> = of("fallocate").iter().map(|fault| fault.rule(3)).collect();
        assert!(rules.contains(&"signal=KILL:when=3".to_owned()));
        assert!(rules.contains(&"error=ENOSPC:when=3+".to_owned()));
        assert!(of("fallocate").iter().filter(|fault| fault.is_kill()).count() == 1);
        let interrupted = of("pwrite64").into_iter().find(|f| f.kind == Kind::Error("EINTR"));
        assert_eq!(interrupted.unwrap().leave(), Leave::default());
    }
}
