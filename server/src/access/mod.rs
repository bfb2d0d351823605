//! Who may do what: tokens, roles, scopes.
//!
//! # Contract
//! * Nobody is let in by default: who is not known, whose token has ended or was revoked, gets [`Denied`], and no word why.
//! * A [`Principal`] has roles, which say what it may do, and a scope, which says with which tags. Both only allow.
//! * Secrets are kept as digests; what the file holds lets nobody in. Comparisons take the same time whatever differs.
//! * The file of tokens is read again within [`LOOK_EVERY`] of a change, and the log hears of what has changed. One that
//!   cannot be read lets nobody in, until it can.
//! * A refusal beyond the budget of its address comes late, by [`Access::ask`] and [`Access::refused`]. Calls that a
//!   principal may not make have a budget of their own, beyond which the log hears of them together ([`Access::forbade`]).
//!
//! # What it does not know
//! Wires, and what a door does: the doors ask.
//!
//! # Reading order
//! [`principal`] (roles and scopes), [`token`] (its text and digests), [`scram`] (a login that does not send it),
//! [`mod@file`], [`attempts`], [`shares`].

pub mod attempts;
pub mod file;
pub mod principal;
pub mod scram;
pub mod shares;
pub mod token;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use self::attempts::Attempts;
use self::file::{Entry, Tokens, Unusable};
pub use self::principal::{Denied, Principal, Role};
use self::scram::Verifier;
use self::shares::{Made, Share, Shares};
use crate::audit::{Audit, Event};

/// A change of the file counts after this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tags that a token may make known in a day, unless it says otherwise: a gateway that makes up names must not fill the
/// registry.
pub const NEW_TAGS: u64 = 10_000;
/// Names under which a token may begin to send in a day.
pub const GATEWAYS_A_DAY: u64 = 1_000;
/// Idempotency keys that a token may use in a day.
pub const KEYS_A_DAY: u64 = 100_000;
/// Aliases and tags of tag sets that a token may define in a day.
pub const PLACES_A_DAY: u64 = 10_000_000;
/// Labels of states that a token may add in a day.
pub const LABELS_A_DAY: u64 = 100_000;

/// Where somebody comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Which way: `grpc`, `http`, `postgres`.
    pub door: &'static str,
    /// The address, if it is known.
    pub peer: Option<SocketAddr>,
}

/// What a door needs to know of a user that logs in by SCRAM.
#[derive(Clone, Debug)]
pub struct Login {
    verifier: Verifier,
    principal: Option<Principal>,
}

/// Who may do what, as the file says at the moment.
#[derive(Debug)]
pub struct Access {
    /// Where the tokens are; without it nobody is asked and everybody may do everything.
    path: Option<PathBuf>,
    known: Mutex<Known>,
    /// Seeds what an unknown user is answered with, if the file has no seed for that.
    seed: [u8; 32],
    attempts: Attempts,
    /// Calls that were refused to principals, by address: they are not late, but told together.
    forbidden: Attempts,
    /// Logins and calls that were refused since the start.
    refused: [AtomicU64; 2],
    audit: Option<Arc<Audit>>,
    shares: Shares,
}

#[derive(Debug, Default)]
struct Known {
    tokens: Tokens,
    /// Those that the file had when it could last be read: the log hears of what has changed since.
    told: Tokens,
    /// Whether it cannot be read now, which the log hears once.
    is_unread: bool,
    /// Whether there is or ever was a file: it is never taken for none again.
    has_file: bool,
    looked: Option<Instant>,
    /// The file's time and length at the last look.
    stamp: Option<(SystemTime, u64)>,
}

impl Login {
    /// What the user is asked to prove.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Who it is, once that is proved.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn principal(self) -> Result<Principal, Denied> {
        self.principal.ok_or(Denied::Unknown)
    }
}

impl Access {
    /// Nobody is asked: everybody may do everything.
    pub fn open() -> Self {
        Self::new(None, Known::default(), [0; 32])
    }

    /// Whoever has a token of a file is let in.
    ///
    /// # Errors
    /// If the file cannot be read, or the system has no random numbers.
    pub fn by_tokens(path: PathBuf) -> Result<Self, String> {
        let (looked, stamp) = (Some(Instant::now()), stamp_of(&path));
        let tokens = Tokens::read(&path).map_err(|error| error.to_string())?;
        let told = tokens.clone();
        let known = Known { tokens, told, has_file: true, looked, stamp, ..Known::default() };
        Ok(Self::new(Some(path), known, token::random()?))
    }

    /// As [`Self::by_tokens`] from the moment on at which there is such a file; until then nobody is asked.
    ///
    /// # Errors
    /// As [`Self::by_tokens`], if there is one.
    pub fn when_there(path: PathBuf) -> Result<Self, String> {
        if path.exists() {
            return Self::by_tokens(path);
        }
        Ok(Self::new(Some(path), Known::default(), token::random()?))
    }

    fn new(path: Option<PathBuf>, known: Known, seed: [u8; 32]) -> Self {
        let (attempts, shares) = (Attempts::default(), Shares::default());
        let (known, forbidden) = (Mutex::new(known), Attempts::default());
        let refused = Default::default();
        Self { path, known, seed, attempts, forbidden, refused, audit: None, shares }
    }

    /// The same, and who was refused is told to a log.
    #[must_use]
    pub fn with_audit(self, audit: Arc<Audit>) -> Self {
        Self { audit: Some(audit), ..self }
    }

    /// Tells an event to the log, if there is one.
    pub fn note(&self, event: impl FnOnce() -> Event) {
        if let Some(audit) = &self.audit {
            audit.note(event());
        }
    }

    /// Logins and tokens that were refused since the start.
    pub fn refused_logins(&self) -> u64 {
        self.refused[0].load(Ordering::Relaxed)
    }

    /// Calls by gRPC that a principal may not make, since the start.
    pub fn refused_calls(&self) -> u64 {
        self.refused[1].load(Ordering::Relaxed)
    }

    /// Tells the log of a call that a principal may not make. Those beyond the budget of its address are told together: no
    /// token fills the log, nor keeps other events out of it.
    pub fn forbade(&self, peer: Option<SocketAddr>, event: impl FnOnce() -> Event) {
        self.refused[1].fetch_add(1, Ordering::Relaxed);
        if let Some(address) = peer.map(|peer| peer.ip()) {
            if !self.forbidden.may(address) {
                self.forbidden.suppress();
                self.tell_untold();
                return;
            }
            self.forbidden.failed(address);
        }
        self.note(event);
    }

    /// Tells an event to the log and returns when it is on disk. Blocks.
    ///
    /// # Errors
    /// A sentence: what it tells of must not be done.
    pub fn require(&self, event: Event) -> Result<(), String> {
        self.audit.as_ref().map_or(Ok(()), |audit| audit.require(event))
    }

    /// Lets somebody in by a token, or by the names in a certificate. Who fails too often from one address hears of it
    /// late; whoever has a valid token never waits.
    ///
    /// # Errors
    /// [`Denied::Unknown`], [`Denied::Waits`].
    pub async fn ask(
        &self,
        token: Option<&str>,
        names: &[String],
        origin: Origin,
    ) -> Result<Principal, Denied> {
        self.tell_untold();
        let entered = self.enter(token, names, origin);
        if entered.as_ref().is_err_and(|denied| *denied == Denied::Waits) {
            self.attempts.wait().await;
        }
        entered
    }

    /// Counts a login that failed, tells the log, and returns when whoever tried is to hear of it.
    pub async fn refused(&self, user: &str, origin: Origin) -> Denied {
        let denied = self.refuse(user, origin);
        if denied == Denied::Waits {
            self.attempts.wait().await;
        }
        denied
    }

    fn enter(
        &self,
        token: Option<&str>,
        names: &[String],
        origin: Origin,
    ) -> Result<Principal, Denied> {
        if !self.asks() {
            return Ok(Principal::anyone());
        }
        match token {
            Some(token) => self.by_token(token.trim()).map_err(|_| self.refuse("", origin)),
            None => self.by_certificate(names),
        }
    }

    /// Counts a login that failed, and tells the log. Those beyond the budget of their address are told together.
    fn refuse(&self, user: &str, origin: Origin) -> Denied {
        self.refused[0].fetch_add(1, Ordering::Relaxed);
        let Origin { door, peer } = origin;
        let address = peer.map(|peer| peer.ip());
        if address.is_some_and(|address| !self.attempts.may(address)) {
            self.attempts.suppress();
            self.tell_untold();
            return Denied::Waits;
        }
        if let Some(address) = address {
            self.attempts.failed(address);
        }
        let user = token::without_secret(user);
        tracing::warn!(peer = peer.map(display), door, user, "a login was refused");
        self.note(|| Event::new("login").result("refused").from(door, peer).on(user));
        Denied::Unknown
    }

    /// Tells the log of refusals that it was not told of one by one.
    fn tell_untold(&self) {
        if let Some(count) = self.attempts.take_untold() {
            tracing::warn!(count, "logins were refused beyond what their addresses may try");
            let result = format!("{count} more refused");
            self.note(|| Event::new("login").result(result));
        }
        if let Some(count) = self.forbidden.take_untold() {
            let result = format!("{count} more refused");
            self.note(|| Event::new("call").result(result));
        }
    }

    /// Who has a certificate with one of these names.
    fn by_certificate(&self, names: &[String]) -> Result<Principal, Denied> {
        self.with(|tokens| {
            let mut entries = names.iter().filter_map(|name| tokens.by_certificate(name));
            let entry = entries.find(|entry| entry.is_valid(now()));
            entry.map(principal).ok_or(Denied::Unknown)
        })
    }

    /// Takes so many of what a principal may make today, or as many as are left. Administrators, and everybody where nobody
    /// is asked, may make any number.
    pub fn take(&self, principal: &Principal, made: Made, wanted: u64) -> Share<'_> {
        let most = match made {
            Made::Tags => Some(principal.new_tags).filter(|most| *most < u64::MAX),
            _ if principal.may(Role::Admin) => None,
            Made::Gateways => Some(GATEWAYS_A_DAY),
            Made::Keys => Some(KEYS_A_DAY),
            Made::Places => Some(PLACES_A_DAY),
            Made::Labels => Some(LABELS_A_DAY),
        };
        self.shares.take((&principal.id, made), wanted, most, now())
    }

    /// Whether anybody is asked who they are.
    pub fn asks(&self) -> bool {
        self.path.is_some() && self.look().has_file
    }

    /// Who has this token.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn by_token(&self, text: &str) -> Result<Principal, Denied> {
        if !self.asks() {
            return Ok(Principal::anyone());
        }
        let (id, digest) = token::parse(text).ok_or(Denied::Unknown)?;
        self.with(|tokens| {
            let entry = tokens.by_id(id).filter(|entry| entry.is_valid(now()));
            let entry = entry.filter(|entry| entry.has_digest(&digest)).ok_or(Denied::Unknown)?;
            Ok(principal(entry))
        })
    }

    /// What a user of this name, or with a token of this id, has to prove. Of one who is not known it is as well
    /// formed, and always the same.
    pub fn login(&self, user: &str) -> Login {
        let found = self.with(|tokens| {
            let entry = tokens.by_name(user).or_else(|| tokens.by_id(user));
            let entry = entry.filter(|entry| entry.is_valid(now()))?;
            Some((entry.verifier()?, principal(entry)))
        });
        let Some((verifier, principal)) = found else {
            let seed = self.with(Tokens::seed).unwrap_or(self.seed);
            return Login { verifier: Verifier::of_nobody(&seed, user), principal: None };
        };
        Login { verifier, principal: Some(principal) }
    }

    /// Fails if a principal that was let in would not be any more.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn still(&self, principal: &Principal) -> Result<(), Denied> {
        if !self.asks() {
            return Ok(());
        }
        let is_valid = |tokens: &Tokens| {
            tokens.by_id(&principal.id).is_some_and(|entry| entry.is_valid(now()))
        };
        if self.with(is_valid) { Ok(()) } else { Err(Denied::Unknown) }
    }

    fn with<T>(&self, ask: impl FnOnce(&Tokens) -> T) -> T {
        ask(&self.look().tokens)
    }

    /// What is known, no older than [`LOOK_EVERY`].
    fn look(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &self.path else { return known };
        if known.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return known;
        }
        known.looked = Some(Instant::now());
        let stamp = stamp_of(path);
        let is_there = stamp.is_some() || known.has_file;
        if is_there && (stamp != known.stamp || stamp.is_none()) {
            known.has_file = true;
            let read = Tokens::read(path);
            // What could not be read may be readable the next time, though nothing has changed.
            known.stamp = stamp.filter(|_| !matches!(read, Err(Unusable::Unread(_))));
            match read {
                Ok(tokens) => {
                    for (action, name) in tokens.since(&known.told) {
                        self.note(|| Event::new(action).on(name));
                    }
                    known.told = tokens.clone();
                    known.tokens = tokens;
                    known.is_unread = false;
                }
                Err(error) => {
                    tracing::error!("nobody is let in: {error}");
                    if !std::mem::replace(&mut known.is_unread, true) {
                        self.note(|| Event::new("tokens.read").result(error.to_string()));
                    }
                    known.tokens = Tokens::default();
                }
            }
        }
        known
    }
}

fn principal(entry: &Entry) -> Principal {
    let (id, name) = (Arc::from(entry.id.as_str()), Arc::from(entry.name.as_str()));
    let roles: Arc<[Role]> = Arc::from(entry.roles.as_slice());
    let most = if roles.contains(&Role::Admin) { u64::MAX } else { NEW_TAGS };
    let new_tags = entry.new_tags.unwrap_or(most);
    Principal { id, name, roles, scope: entry.scope(), new_tags }
}

fn stamp_of(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// Seconds since 1970.
pub fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

#[cfg(test)]
mod tests {
    use super::file::NewToken;
    use super::*;

    fn new(name: &str, roles: &[Role], scope: &[&str]) -> NewToken {
        let scope = scope.iter().map(ToString::to_string).collect();
        let (name, roles) = (name.to_owned(), roles.to_vec());
        NewToken { name, roles, scope, certificate: None, new_tags: None, expires: now() + 3_600 }
    }

    #[test]
    fn a_token_lets_in_until_it_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        assert!(Access::by_tokens(path.clone()).is_err(), "there is no file");
        let text = Tokens::create(&path, new("grafana", &[Role::Reader], &["plant/u1"])).unwrap();
        let access = Access::by_tokens(path.clone()).unwrap();
        let grafana = access.by_token(&text).unwrap();
        assert_eq!(grafana.name.as_ref(), "grafana");
        assert!(grafana.may(Role::Reader) && !grafana.may(Role::Writer));
        assert!(grafana.reaches("plant/u1/T") && !grafana.reaches("plant/u10/T"));
        assert!(grafana.require(Role::Admin).unwrap_err().to_string().contains("lacks the role"));
        let mut wrong = text.clone();
        wrong.replace_range(text.len() - 1.., if text.ends_with('A') { "B" } else { "A" });
        for other in [wrong.as_str(), "", "tgm_", "tgm_00000000_", &text[..20]] {
            assert_eq!(access.by_token(other).unwrap_err(), Denied::Unknown, "{other:?}");
        }
        access.still(&grafana).unwrap();
        Tokens::revoke(&path, "grafana").unwrap();
        access.known.lock().unwrap().looked = None;
        assert_eq!(access.by_token(&text).unwrap_err(), Denied::Unknown);
        assert_eq!(access.still(&grafana).unwrap_err(), Denied::Unknown);
    }

    #[test]
    fn a_certificate_stands_for_its_token_and_a_token_makes_so_many_tags_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let name = "urn:tagmill:gateway:g1".to_owned();
        let mut gateway = new("g1", &[Role::Writer], &["plant"]);
        (gateway.certificate, gateway.new_tags) = (Some(name.clone()), Some(5));
        Tokens::create(&path, gateway.clone()).unwrap();
        gateway.name = "g2".to_owned();
        assert!(Tokens::create(&path, gateway).is_err(), "the certificate is taken");
        let access = Access::by_tokens(path.clone()).unwrap();
        let origin = Origin { door: "grpc", peer: None };
        let enter = |names: &[String]| access.enter(None, names, origin);
        assert_eq!(enter(&[]).unwrap_err(), Denied::Unknown);
        assert_eq!(enter(&["urn:tagmill:gateway:g".to_owned()]).unwrap_err(), Denied::Unknown);
        let g1 = enter(&["other".to_owned(), name]).unwrap();
        assert!(g1.may(Role::Writer) && !g1.may(Role::Reader) && !g1.reaches("other"));
        let mut share = access.take(&g1, Made::Tags, 3);
        share.spend(3);
        assert_eq!(access.take(&g1, Made::Tags, 3).count(), 2);
        assert_eq!(access.take(&g1, Made::Gateways, 1 << 40).count(), GATEWAYS_A_DAY);
        assert_eq!(access.take(&g1, Made::Keys, 1 << 40).count(), KEYS_A_DAY);
        for made in [Made::Tags, Made::Gateways, Made::Keys, Made::Places, Made::Labels] {
            assert_eq!(access.take(&Principal::anyone(), made, 1 << 40).count(), 1 << 40);
        }
    }

    #[test]
    fn the_first_token_makes_the_server_ask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let access = Access::when_there(path.clone()).unwrap();
        let look_again = || access.known.lock().unwrap().looked = None;
        assert!(!access.asks() && access.by_token("").unwrap().may(Role::Admin));
        let text = Tokens::create(&path, new("a", &[Role::Reader], &[])).unwrap();
        look_again();
        assert!(access.asks() && access.by_token(&text).is_ok());
        assert_eq!(access.by_token("").unwrap_err(), Denied::Unknown);
        assert_eq!(access.still(&Principal::anyone()).unwrap_err(), Denied::Unknown);
        // A file that has gone is no open door.
        std::fs::remove_file(&path).unwrap();
        look_again();
        assert!(access.asks());
        assert_eq!(access.by_token(&text).unwrap_err(), Denied::Unknown);
    }

    #[test]
    fn the_log_hears_of_tokens_that_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        Tokens::create(&path, new("old", &[Role::Reader], &[])).unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let access = Access::by_tokens(path.clone()).unwrap().with_audit(audit);
        let look_again = || {
            access.known.lock().unwrap().looked = None;
            access.asks();
        };
        look_again();
        Tokens::create(&path, new("new", &[Role::Writer], &[])).unwrap();
        look_again();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "token = 3").unwrap();
        look_again();
        std::fs::write(&path, text.replace("\"writer\"", "\"writer\", \"admin\"")).unwrap();
        look_again();
        Tokens::revoke(&path, "old").unwrap();
        look_again();
        access.require(Event::new("server.stop")).unwrap();
        let log = std::fs::read_to_string(dir.path().join(crate::audit::FILE)).unwrap();
        let lines =
            log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let told: Vec<String> =
            lines.map(|line| format!("{} {}", line["action"], line["object"])).collect();
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        let wanted = [
            r#""token.create" "new""#,
            r#""tokens.read" """#,
            r#""token.change" "new""#,
            r#""token.revoke" "old""#,
            r#""server.stop" """#,
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_token_that_has_ended_and_a_broken_file_let_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let mut ended = new("old", &[Role::Admin], &[]);
        ended.expires = now() - 1;
        let old = Tokens::create(&path, ended).unwrap();
        let text = Tokens::create(&path, new("boss", &[Role::Admin], &[])).unwrap();
        let access = Access::by_tokens(path.clone()).unwrap();
        assert_eq!(access.by_token(&old).unwrap_err(), Denied::Unknown);
        assert!(access.login("old").principal().is_err());
        assert!(access.by_token(&text).unwrap().may(Role::Writer));
        std::fs::write(&path, "token = 3").unwrap();
        access.known.lock().unwrap().looked = None;
        assert_eq!(access.by_token(&text).unwrap_err(), Denied::Unknown);
        std::fs::remove_file(&path).unwrap();
        access.known.lock().unwrap().looked = None;
        assert_eq!(access.by_token(&text).unwrap_err(), Denied::Unknown);
    }

    #[test]
    fn a_file_that_could_not_be_read_once_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let text = Tokens::create(&path, new("boss", &[Role::Admin], &[])).unwrap();
        let access = Access::by_tokens(path.clone()).unwrap();
        let look_again = || access.known.lock().unwrap().looked = None;
        let aside = dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        // A folder is there, has a time, and cannot be read.
        std::fs::create_dir(&path).unwrap();
        look_again();
        assert_eq!(access.by_token(&text).unwrap_err(), Denied::Unknown);
        assert_eq!(access.known.lock().unwrap().stamp, None);
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        look_again();
        access.by_token(&text).unwrap();
        // What is read and wrong is not read again until it changes.
        std::fs::write(&path, "token = 3").unwrap();
        look_again();
        assert_eq!(access.by_token(&text).unwrap_err(), Denied::Unknown);
        assert!(access.known.lock().unwrap().stamp.is_some());
    }

    #[tokio::test]
    async fn refusals_of_an_address_come_late_and_a_valid_token_lets_in_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let text = Tokens::create(&path, new("boss", &[Role::Admin], &[])).unwrap();
        let mut access = Access::by_tokens(path).unwrap();
        access.attempts.late_by = Duration::from_hours(1);
        let origin = Origin { door: "grpc", peer: Some("192.0.2.1:9".parse().unwrap()) };
        let soon = Duration::from_millis(5);
        for _ in 0..10 {
            assert_eq!(access.ask(Some("x"), &[], origin).await.unwrap_err(), Denied::Unknown);
        }
        assert!(tokio::time::timeout(soon, access.ask(Some("x"), &[], origin)).await.is_err());
        assert!(tokio::time::timeout(soon, access.refused("boss", origin)).await.is_err());
        access.ask(Some(&text), &[], origin).await.unwrap();
    }

    #[test]
    fn calls_that_an_address_may_not_make_are_told_one_by_one_and_then_together() {
        let dir = tempfile::tempdir().unwrap();
        let access = Access::open().with_audit(Audit::open(dir.path()).unwrap());
        let peers = ["[2001:db8::1]:9", "[2001:db8::2]:9", "192.0.2.1:9"];
        let [one, same, other] = peers.map(|peer| Some(peer.parse::<SocketAddr>().unwrap()));
        for _ in 0..20 {
            access.forbade(one, || Event::new("call").result("refused").from("grpc", one));
            access.forbade(same, || Event::new("call").result("refused").from("grpc", same));
        }
        access.forbade(other, || Event::new("call").result("refused").from("grpc", other));
        // Nor is a login of that address late for it.
        assert!(access.attempts.may(one.unwrap().ip()));
        access.require(Event::new("server.stop")).unwrap();
        let text = std::fs::read_to_string(dir.path().join(crate::audit::FILE)).unwrap();
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!((count("[2001:db8::"), count("192.0.2.1:9")), (10, 1));
        assert_eq!(count("\"1 more refused\""), 1);
        assert_eq!(access.forbidden.take_untold(), None, "the others are told a minute later");
    }
}
