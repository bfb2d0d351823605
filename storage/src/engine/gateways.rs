//! Sessions, aliases and tag sets of gateways.

use std::collections::HashSet;
use std::sync::Arc;

use super::Engine;
use super::core::lock;
use crate::error::{Error, Result};
use crate::limits;
use crate::registry::Change;
use crate::registry::gateways::{Aliases, TagSets};
use crate::tag::TagId;
use crate::wal::record::Content;

/// A gateway's right to append, until a newer session of it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Goes into [`crate::Origin::session`].
    pub generation: u64,
    /// Greatest durable seq of this gateway in this epoch; 0 if there is none. The next batch is one more.
    pub mark: u64,
}

/// How far a gateway has come, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayMark {
    /// Its name.
    pub gateway: Arc<str>,
    /// Its newest epoch.
    pub epoch: u64,
    /// Greatest durable seq of that epoch.
    pub seq: u64,
}

impl Engine {
    /// Opens a session for a gateway. Batches of its older sessions are refused from now on.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the gateway has used a later epoch; [`Error::Invalid`] for an unusable name.
    pub fn open_session(&self, gateway: &str, epoch: u64) -> Result<Session> {
        check_gateway(gateway)?;
        if epoch == 0 {
            return Err(Error::Invalid("a gateway's epoch begins at 1".into()));
        }
        let view = self.core.view();
        let mut sessions = lock(&self.core.sessions);
        let mark = match view.gateways.get(gateway) {
            Some(known) if known.epoch > epoch => {
                return Err(Error::Fenced { gateway: gateway.to_owned() });
            }
            Some(known) if known.epoch == epoch => known.seq,
            _ => 0,
        };
        Ok(Session { generation: sessions.open(gateway), mark })
    }

    /// Whether something of a gateway is kept already: a session of this run, aliases, or how far it has come.
    pub fn knows_gateway(&self, gateway: &str) -> bool {
        let view = self.core.view();
        view.gateways.get(gateway).is_some() || lock(&self.core.sessions).has(gateway)
    }

    /// Whether a newer session of the gateway than this one was opened.
    pub fn is_fenced(&self, gateway: &str, generation: u64) -> bool {
        lock(&self.core.sessions).is_fenced(gateway, generation)
    }

    /// Remembers a gateway's numbers for tags; durable when it returns. Reserved tags become durable with it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown tag, and for more than [`limits::GATEWAY_ALIASES_MAX`]; else as [`Engine::append`].
    pub fn define_aliases(&self, gateway: &str, aliases: &[(u32, TagId)]) -> Result<()> {
        check_gateway(gateway)?;
        let known = self.aliases(gateway);
        let new: HashSet<u32> = aliases.iter().map(|(alias, _)| *alias).collect();
        let new = new.iter().filter(|alias| !known.contains_key(alias)).count();
        if known.len() + new > limits::GATEWAY_ALIASES_MAX {
            let most = limits::GATEWAY_ALIASES_MAX;
            return Err(Error::Invalid(format!("a gateway has at most {most} aliases")));
        }
        let tags: Vec<TagId> = aliases.iter().map(|(_, tag)| *tag).collect();
        let pairs = aliases.to_vec();
        self.define_for_gateway(&tags, Change::Aliases { gateway: Arc::from(gateway), pairs })
    }

    /// Remembers a list of tags that a gateway scans together; durable when it returns.
    ///
    /// # Errors
    /// As [`Self::define_aliases`], and [`Error::Invalid`] for more than a gateway may have.
    pub fn define_tag_set(
        &self,
        gateway: &str,
        set: u32,
        version: u32,
        tags: &[TagId],
    ) -> Result<()> {
        check_gateway(gateway)?;
        if tags.len() > limits::TAG_SET_MAX {
            let most = limits::TAG_SET_MAX;
            return Err(Error::Invalid(format!("a tag set has at most {most} tags")));
        }
        let sets = self.tag_sets(gateway);
        let others = sets.iter().filter(|(known, _)| **known != set);
        let (count, held) = others
            .fold((1, tags.len()), |(count, held), (_, (_, tags))| (count + 1, held + tags.len()));
        if count > limits::GATEWAY_SETS_MAX || held > limits::GATEWAY_SET_TAGS_MAX {
            let (sets, most) = (limits::GATEWAY_SETS_MAX, limits::GATEWAY_SET_TAGS_MAX);
            let why = format!("a gateway has at most {sets} tag sets, of {most} tags together");
            return Err(Error::Invalid(why));
        }
        let gateway = Arc::from(gateway);
        let change = Change::TagSet { gateway, set, version, tags: Arc::from(tags) };
        self.define_for_gateway(tags, change)
    }

    /// The gateway's durable aliases.
    pub fn aliases(&self, gateway: &str) -> Aliases {
        let view = self.core.view();
        view.gateways.get(gateway).map(|known| Arc::clone(&known.aliases)).unwrap_or_default()
    }

    /// The gateway's durable tag sets: set number to (version, tags).
    pub fn tag_sets(&self, gateway: &str) -> TagSets {
        let view = self.core.view();
        view.gateways.get(gateway).map(|known| TagSets::clone(&known.sets)).unwrap_or_default()
    }

    /// Every gateway that has sent a batch, and its durable mark, by name.
    pub fn gateways(&self) -> Vec<GatewayMark> {
        let view = self.core.view();
        let marks = view.gateways.iter().filter(|(_, known)| known.epoch > 0);
        let mark = |(gateway, known): (&Arc<str>, &crate::registry::gateways::Gateway)| {
            GatewayMark { gateway: Arc::clone(gateway), epoch: known.epoch, seq: known.seq }
        };
        let mut marks: Vec<GatewayMark> = marks.map(mark).collect();
        marks.sort_by(|a, b| a.gateway.cmp(&b.gateway));
        marks
    }

    fn define_for_gateway(&self, tags: &[TagId], change: Change) -> Result<()> {
        let mut changes = self.definitions(tags)?;
        changes.push(change);
        self.write(Content { changes, ..Content::default() }).map(|_| ())
    }
}

/// Checks the id of a gateway.
///
/// # Errors
/// [`Error::Invalid`] if it is empty, longer than [`limits::GATEWAY_BYTES_MAX`], or has control characters.
pub fn check_gateway(gateway: &str) -> Result<()> {
    let is_fine = !gateway.is_empty()
        && gateway.len() <= limits::GATEWAY_BYTES_MAX
        && !gateway.chars().any(char::is_control);
    if is_fine {
        return Ok(());
    }
    let most = limits::GATEWAY_BYTES_MAX;
    let why = format!("a gateway id has 1 to {most} bytes and no control characters");
    Err(Error::Invalid(why))
}
