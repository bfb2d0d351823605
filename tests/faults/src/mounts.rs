//! What is mounted for a test, and taken away again: [`Mount`], [`enter_namespace`].
//!
//! # Contract
//! * Guards unmount what they mounted, by its path, and nothing else.
//! * The process lives in a mount namespace of its own, and loop devices free themselves at their last unmount: even if it
//!   is killed nothing stays behind.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{has, tool};

/// Set in a process that has its own namespace.
const MARK: &str = "TAGMILL_FAULTS_NAMESPACE";

/// Starts this program again, in a mount namespace of its own. Comes back only if it is in one already.
///
/// # Errors
/// Why there can be none: no `unshare`, or not root.
pub(crate) fn enter_namespace() -> Result<(), String> {
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    if !has("unshare") {
        return Err("there is no unshare: install util-linux".into());
    }
    tool("unshare", &["--mount", "--propagation", "private", "true"])
        .map_err(|error| format!("no mount namespace, which takes root: {error}"))?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(program);
    command.args(std::env::args_os().skip(1)).env(MARK, "1");
    Err(format!("unshare: {}", command.exec()))
}

/// Something mounted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Runs `mount` with these arguments; the last is the place.
    pub(crate) fn new(arguments: &[&str], point: &Path) -> io::Result<Self> {
        let place = path(point);
        tool("mount", &[arguments, &[&place]].concat())?;
        Ok(Self(point.to_owned()))
    }

    /// Unmounts, and says if that failed.
    pub(crate) fn unmount(self) -> io::Result<()> {
        let result = unmount(&path(&self.0));
        if result.is_ok() {
            let _nothing_to_drop = std::mem::ManuallyDrop::new(self);
        }
        result
    }
}

fn unmount(point: &str) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..50 {
        match tool("umount", &[point]) {
            Ok(_) => return Ok(()),
            Err(error) => last = Err(error), // a process that was killed may still be on its way out
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    last
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&path(&self.0)).or_else(|_| tool("umount", &["-l", &path(&self.0)]).map(drop)).ok();
    }
}

/// A loop device over a file, past the page cache, that frees itself when it is unmounted.
#[derive(Debug)]
pub(crate) struct Loop {
    device: String,
}

impl Loop {
    /// Attaches `file` to a free device.
    pub(crate) fn attach(file: &Path) -> io::Result<Self> {
        let device = tool("losetup", &["--direct-io=on", "-f", "--show", &path(file)])?;
        Ok(Self { device })
    }

    /// Its path.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // While it is mounted the kernel only marks it: it goes with the mount.
        tool("losetup", &["-d", &self.device]).ok();
    }
}

/// A path as an argument.
pub(crate) fn path(path: &Path) -> String {
    path.display().to_string()
}
