//! The file of tokens: who is known, and what is kept of them.
//!
//! # Contract
//! * TOML, a table `[[token]]` each; unknown keys are refused. Nothing in it lets anybody in.
//! * It is replaced as a whole, synced, and readable by its owner alone; changes from several processes wait for each
//!   other. A reader sees it before or after a change.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tagmill_storage::TagScope;

use super::Role;
use super::scram::Verifier;
use super::token::{Digest, Token, hex, is_same, random};

/// Most tokens of a file.
const TOKENS_MAX: usize = 10_000;
/// Longest name of a token.
const NAME_BYTES_MAX: usize = 63;
/// Head of a new file.
const HEAD: &str = "# Tokens of Tagmill, as digests. Change it with 'tagmill token'; the server reads it again by itself.\n\n";

/// All tokens.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Makes up what unknown users are answered with: the same for ever, as for known ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    #[serde(default, rename = "token")]
    entries: Vec<Entry>,
}

/// What is kept of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Public part of its text.
    pub id: String,
    /// What people call it, and the user name of PostgreSQL clients.
    pub name: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// Paths of the tags it may know of; all without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    /// A name in the certificate of a gateway that is let in without the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// How many tags it may make known in a day, where that is not [`super::NEW_TAGS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tags: Option<u64>,
    /// When it was made, in UTC.
    pub created: String,
    /// When it ends, in UTC.
    pub expires: String,
    sha256: String,
    scram: String,
    #[serde(skip)]
    within: Option<Arc<TagScope>>,
    #[serde(skip)]
    expires_s: i64,
    #[serde(skip)]
    digest: Digest,
}

/// What a new token is to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name, not in use.
    pub name: String,
    /// At least one.
    pub roles: Vec<Role>,
    /// Paths of tags; none for all.
    pub scope: Vec<String>,
    /// A name in the certificate of a gateway, which is then let in without the token.
    pub certificate: Option<String>,
    /// How many tags it may make known in a day; none for [`super::NEW_TAGS`].
    pub new_tags: Option<u64>,
    /// When it ends, in seconds since 1970.
    pub expires: i64,
}

impl Entry {
    /// Whether it lets in at an instant.
    pub fn is_valid(&self, now_s: i64) -> bool {
        now_s < self.expires_s
    }

    /// Whether a secret is its own.
    pub fn has_digest(&self, digest: &Digest) -> bool {
        is_same(&self.digest, digest)
    }

    /// What a login by SCRAM has to prove.
    pub fn verifier(&self) -> Option<Verifier> {
        Verifier::from_text(&self.scram)
    }

    /// The tags it may know of.
    pub fn scope(&self) -> Option<Arc<TagScope>> {
        self.within.clone()
    }

    /// Whether the file says the same of both.
    fn is_same(&self, other: &Self) -> bool {
        let says = |entry: &Self| {
            let Self { name, roles, scope, certificate, new_tags, .. } = entry.clone();
            let secrets = (entry.sha256.clone(), entry.scram.clone());
            (name, roles, scope, certificate, new_tags, entry.expires.clone(), secrets)
        };
        says(self) == says(other)
    }

    /// Takes what is written apart.
    fn check(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        let wrong = move |what: &str| format!("token {name:?}: {what}");
        if self.roles.is_empty() {
            return Err(wrong("it has no role"));
        }
        let expires = chrono::DateTime::parse_from_rfc3339(&self.expires);
        self.expires_s = expires.map_err(|_| wrong("'expires' is not a time"))?.timestamp();
        let digest = digest_of(&self.sha256).ok_or_else(|| wrong("'sha256' is not a digest"))?;
        self.digest = digest;
        self.verifier().ok_or_else(|| wrong("'scram' is not a verifier"))?;
        if !self.scope.is_empty() {
            let scope = TagScope::new(&self.scope).map_err(|why| wrong(&format!("scope {why}")))?;
            self.within = Some(Arc::new(scope));
        }
        Ok(())
    }
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It could not be read this time.
    #[error("{0}")]
    Unread(String),
    /// What it says is wrong.
    #[error("{0}")]
    Wrong(String),
}

impl From<Unusable> for String {
    fn from(why: Unusable) -> Self {
        why.to_string()
    }
}

impl Tokens {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let text = fs::read_to_string(path)
            .map_err(|error| Unusable::Unread(format!("{}: {error}", path.display())))?;
        let wrong =
            |why: &dyn std::fmt::Display| Unusable::Wrong(format!("{}: {why}", path.display()));
        let mut tokens: Self = toml::from_str(&text).map_err(|error| wrong(&error.message()))?;
        for entry in &mut tokens.entries {
            entry.check().map_err(|why| wrong(&why))?;
        }
        Ok(tokens)
    }

    /// What unknown users' answers are made of.
    pub fn seed(&self) -> Option<Digest> {
        self.seed.as_deref().and_then(digest_of)
    }

    /// The tokens, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The token of an id.
    pub fn by_id(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// The token of a name.
    pub fn by_name(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The token of a name in a certificate.
    pub fn by_certificate(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.certificate.as_deref() == Some(name))
    }

    /// What has changed since the file had other tokens: `token.create`, `token.change` or `token.revoke`, and the name.
    pub fn since<'a>(&'a self, before: &'a Self) -> Vec<(&'static str, &'a str)> {
        let by_id = |tokens: &'a Self| -> HashMap<&'a str, &'a Entry> {
            tokens.iter().map(|entry| (entry.id.as_str(), entry)).collect()
        };
        let (known, there) = (by_id(before), by_id(self));
        let gone = before.iter().filter(|entry| !there.contains_key(entry.id.as_str()));
        let gone = gone.map(|entry| ("token.revoke", entry.name.as_str()));
        let new = self.iter().filter_map(|entry| match known.get(entry.id.as_str()) {
            None => Some(("token.create", entry.name.as_str())),
            Some(known) if !known.is_same(entry) => Some(("token.change", entry.name.as_str())),
            Some(_) => None,
        });
        gone.chain(new).collect()
    }

    /// Adds a token to a file, which is made if there is none. Gives its text, which is nowhere afterwards.
    ///
    /// # Errors
    /// If the name is taken or no name, the scope none, or the file cannot be written.
    pub fn create(path: &Path, new: NewToken) -> Result<String, String> {
        let _lock = lock(path)?;
        let mut tokens = if path.exists() { Self::read(path)? } else { Self::default() };
        let NewToken { name, roles, scope, certificate, new_tags, expires } = new;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_name) {
            return Err(format!(
                "{name:?} is no name of a token: 1 to {NAME_BYTES_MAX} letters, digits, '-', '_', '.', '@'"
            ));
        }
        if tokens.by_name(&name).is_some() {
            return Err(format!("there is a token {name:?}: revoke it, or take another name"));
        }
        if let Some(taken) = certificate.as_deref().and_then(|name| tokens.by_certificate(name)) {
            return Err(format!("the certificate belongs to token {:?} already", taken.name));
        }
        if tokens.entries.len() >= TOKENS_MAX {
            return Err(format!("there are {TOKENS_MAX} tokens: revoke some"));
        }
        let token = loop {
            let token = Token::draw()?;
            if tokens.by_id(&token.id).is_none() {
                break token;
            }
        };
        let time = |seconds| {
            let time = chrono::DateTime::from_timestamp(seconds, 0);
            time.map(|time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
        };
        let mut entry = Entry {
            id: token.id,
            name,
            roles,
            scope,
            certificate,
            new_tags,
            created: time(super::now()).ok_or("the clock is out of range")?,
            expires: time(expires).ok_or("the time of expiry is out of range")?,
            sha256: hex(&token.digest),
            scram: Verifier::new(&token.text)?.to_text(),
            within: None,
            expires_s: 0,
            digest: token.digest,
        };
        entry.check()?;
        if tokens.seed().is_none() {
            tokens.seed = Some(hex(&random::<32>()?));
        }
        tokens.entries.push(entry);
        tokens.write(path)?;
        Ok(token.text)
    }

    /// Takes a token out of a file, by its name or id.
    ///
    /// # Errors
    /// If there is none, or the file cannot be written.
    pub fn revoke(path: &Path, name: &str) -> Result<(), String> {
        let _lock = lock(path)?;
        let mut tokens = Self::read(path)?;
        let before = tokens.entries.len();
        tokens.entries.retain(|entry| entry.name != name && entry.id != name);
        if tokens.entries.len() == before {
            return Err(format!("there is no token {name:?}"));
        }
        tokens.write(path)
    }

    fn write(&self, path: &Path) -> Result<(), String> {
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        let text = toml::to_string(self).map_err(|error| error.to_string())?;
        let next = beside(path, "next");
        drop(fs::remove_file(&next)); // of a change that did not end
        let mut file = private().create_new(true).open(&next).map_err(wrong)?;
        file.write_all(format!("{HEAD}{text}").as_bytes()).map_err(wrong)?;
        file.sync_all().map_err(wrong)?;
        keep_owner(path, &next).map_err(wrong)?;
        fs::rename(&next, path).map_err(wrong)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|f| f.sync_all()).map_err(wrong)
    }
}

/// Waits for changes that others make.
fn lock(path: &Path) -> Result<File, String> {
    let path = beside(path, "lock");
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = private().create(true).truncate(false).open(&path).map_err(wrong)?;
    file.lock().map_err(wrong)?;
    Ok(file)
}

/// Gives a new file to whom the old one, or its folder, belongs: the server must be able to read what root has changed.
#[cfg(unix)]
fn keep_owner(path: &Path, next: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let before = fs::metadata(path).or_else(|_| fs::metadata(folder.unwrap_or(Path::new("."))))?;
    let now = fs::metadata(next)?;
    if (before.uid(), before.gid()) == (now.uid(), now.gid()) {
        return Ok(());
    }
    chown(next, Some(before.uid()), Some(before.gid()))
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &Path) -> std::io::Result<()> {
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Opens for writing; on Unix what is made is its owner's alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A digest from its hexadecimal digits.
fn digest_of(text: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewToken {
        let (name, roles) = (name.to_owned(), vec![Role::Reader, Role::Writer]);
        let scope = vec!["plant/u1".to_owned()];
        let (certificate, new_tags) = (None, None);
        NewToken { name, roles, scope, certificate, new_tags, expires: 4_000_000_000 }
    }

    #[test]
    fn the_file_holds_no_secret_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let text = Tokens::create(&path, new("line-1")).unwrap();
        let written = fs::read_to_string(&path).unwrap();
        let secret = text.rsplit('_').next().unwrap();
        assert!(!written.contains(secret) && written.contains("line-1"), "{written}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(Tokens::create(&path, new("line-1")).unwrap_err().contains("there is a token"));
        for name in ["", "a b", "ü", "x;y", &"x".repeat(64)] {
            assert!(Tokens::create(&path, new(name)).is_err(), "{name:?}");
        }
        Tokens::create(&path, new("line-2")).unwrap();
        Tokens::revoke(&path, "line-1").unwrap();
        assert!(Tokens::revoke(&path, "line-1").is_err());
        let names: Vec<_> = Tokens::read(&path).unwrap().iter().map(|e| e.name.clone()).collect();
        assert_eq!(names, ["line-2"]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        Tokens::create(&path, new("a")).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("name", "nome"),
            ("\"reader\", \"writer\"", ""),
            ("reader", "root"),
            ("plant/u1", "/plant"),
            ("sha256 = \"", "sha256 = \"zz"),
            ("SCRAM-SHA-256$", "SCRAM-SHA-1$"),
            ("expires = \"", "expires = \"x"),
        ] {
            assert!(good.contains(from), "{from} in {good}");
            fs::write(&path, good.replace(from, to)).unwrap();
            assert!(Tokens::read(&path).is_err(), "{from} -> {to}");
        }
    }
}
