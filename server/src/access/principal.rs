//! Who was let in, and what it may do: roles and a scope, which only allow.

use std::sync::Arc;

use tagmill_storage::TagScope;

/// What a principal may do.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Ask about tags in scope.
    Reader,
    /// Write samples of tags in scope, and define such tags.
    Writer,
    /// Take backups, verify, seal, confirm the clock; see what the database says of itself.
    Operator,
    /// All of it, deletes and edits of tags too.
    Admin,
}

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Which token; empty where nobody is asked.
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    pub(super) roles: Arc<[Role]>,
    pub(super) scope: Option<Arc<TagScope>>,
    /// How many tags it may make known in a day.
    pub(super) new_tags: u64,
}

/// Who asks is not let in, or may not do that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Not known, or not any more.
    #[error("the token is not valid: it is unknown, has expired or was revoked")]
    Unknown,
    /// Known, and not allowed.
    #[error("{0}")]
    Forbidden(String),
    /// Too many have failed from the same address.
    #[error("too many failed logins from this address: wait a minute")]
    Waits,
}

impl Principal {
    /// Who is there where nobody is asked.
    pub fn anyone() -> Self {
        let (id, name) = (Arc::from(""), Arc::from("anyone"));
        Self { id, name, roles: Arc::from([Role::Admin]), scope: None, new_tags: u64::MAX }
    }

    /// Whether it may do what a role allows.
    pub fn may(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.roles.contains(&Role::Admin)
    }

    /// Fails unless it may do what a role allows.
    ///
    /// # Errors
    /// [`Denied::Forbidden`], with the role that is missing.
    pub fn require(&self, role: Role) -> Result<(), Denied> {
        if self.may(role) {
            return Ok(());
        }
        let role = role.name();
        let name = &self.name;
        Err(Denied::Forbidden(format!("token {name:?} lacks the role {role}")))
    }

    /// The tags it may know of; all if there is no scope.
    pub fn scope(&self) -> Option<&Arc<TagScope>> {
        self.scope.as_ref()
    }

    /// Whether it may know of a tag of this name.
    pub fn reaches(&self, tag: &str) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.holds(tag))
    }
}

impl Role {
    /// As the command line and the file name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}
