//! A real server in a process of its own, to be killed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tagmill_client::Query;

/// How long a server may take to start, on a machine that is busy with other tests.
const START_MAX: Duration = Duration::from_mins(1);

/// A running server. Dropping it kills it. What it says goes into a file beside its data, shown if the test fails.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Server {
    /// Starts `program` on `data` at `address` and waits until it answers a statement.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start(program: &str, data: &Path, address: &str) -> Self {
        let log = data.with_extension("log");
        let file = File::create(&log).expect("a file beside the data");
        let child = spawn(program, data, address, file.into());
        let mut server = Self { child, address: address.to_owned(), log };
        let started = Instant::now();
        while !server.answers().await {
            let ended = server.child.try_wait().expect("the server is a child of this process");
            assert!(ended.is_none(), "the server ended while it started: {ended:?}");
            assert!(started.elapsed() < START_MAX, "no answer from {address}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server
    }

    /// Starts `program` under `strace`, with this fate of these system calls in `strace`'s words, and waits until it has ended,
    /// did enough, or `patience` is over; then it is killed. Gives whether it had ended by itself. It may do so at any
    /// moment, its start included.
    ///
    /// # Panics
    /// If there is no `strace`, or the program panicked.
    pub fn run_injected(
        program: &str,
        data: &Path,
        address: &str,
        (calls, fate): (&str, &str),
        did_enough: impl Fn() -> bool,
        patience: Duration,
    ) -> bool {
        let log = data.with_extension("log");
        let file = File::create(&log).expect("a file beside the data");
        let mut command = Command::new("strace");
        // The tracer is a grandchild: the child is the program itself.
        command.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{fate}")]);
        command.arg(program);
        let child = serve(&mut command, data, address, file.into());
        let mut server = Self { child, address: address.to_owned(), log };
        let started = Instant::now();
        let mut ended = None;
        while ended.is_none() && !did_enough() && started.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
            ended = server.child.try_wait().expect("the server is a child of this process");
        }
        server.child.kill().ok();
        server.child.wait().expect("a killed child ends");
        let said = fs::read_to_string(&server.log).unwrap_or_default();
        assert!(!said.contains("panicked"), "{said}");
        ended.is_some()
    }

    async fn answers(&self) -> bool {
        let Ok(mut query) = Query::connect(&self.address).await else { return false };
        query.execute("SELECT 1", std::collections::HashMap::new()).await.is_ok()
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    ///
    /// # Panics
    /// If it had ended by itself.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("the server is a child of this process");
        assert!(ended.is_none(), "the server ended by itself: {ended:?}");
        self.child.kill().expect("a running child can be killed");
        self.child.wait().expect("a killed child ends");
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(!said.contains("panicked"), "{said}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("the server said: {}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Starts `program` where it must refuse, and gives its exit status and what it said.
///
/// # Panics
/// If it does not end.
pub fn refused(program: &str, data: &Path, address: &str) -> (ExitStatus, String) {
    let child = spawn(program, data, address, Stdio::piped());
    let output = child.wait_with_output().expect("the server is a child of this process");
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn spawn(program: &str, data: &Path, address: &str, stderr: Stdio) -> Child {
    serve(&mut Command::new(program), data, address, stderr)
}

fn serve(command: &mut Command, data: &Path, address: &str, stderr: Stdio) -> Child {
    command
        .args(["serve", "--listen", address, "--postgres", "off", "--http", "off"])
        .args(["--own-figures", "off", "--data"])
        .arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    command.spawn().unwrap_or_else(|error| panic!("{command:?} starts: {error}"))
}

/// A loopback address that nobody uses now, and that no other call in this process gets. Below the range from which the
/// system takes ports for outgoing connections, so that it stays free while the server is down.
///
/// # Panics
/// If there is none.
pub fn free_address() -> String {
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 10_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Test processes at the same time start far apart.
    let start = std::process::id().wrapping_mul(997);
    let mut addresses = (0..PORTS).map(|_| {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        format!("127.0.0.1:{}", FIRST + start.wrapping_add(tried) % PORTS)
    });
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}
