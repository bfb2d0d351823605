//! Tags, aliases and tag sets as gateways define them.

use std::collections::HashSet;

use tagmill_proto::v1;
use tagmill_storage::{Engine, Error, Result, TagDefinition, TagId};
use tonic::Status;

use super::messages::{Definitions, definition, tags_of_set};
use super::named::too_many_new;
use super::rejects;
use crate::access::shares::{Made, Share};
use crate::access::{Access, GATEWAYS_A_DAY, PLACES_A_DAY, Principal};

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) defined: u32,
    pub(super) rejects: Vec<v1::DefineReject>,
}

type Wanted = Vec<(u32, TagDefinition)>;

impl Definitions {
    /// Makes the tags that the caller may write, and their aliases if there is a gateway, durable. Blocks.
    pub(super) fn apply(
        self,
        engine: &Engine,
        access: &Access,
        caller: &Principal,
        gateway: Option<&str>,
    ) -> Result<Answer> {
        let mut answer = Answer::default();
        let wanted = self.wanted(caller, gateway.is_some(), &mut answer);
        // Counted when all others are out: what is outside of the scope must not show in what is left.
        let names = wanted.iter().map(|(_, definition)| definition.name.as_str());
        let new = names.filter(|name| !engine.has_name(name)).map(str::to_owned);
        let new: HashSet<String> = new.collect();
        let mut share = access.take(caller, Made::Tags, new.len() as u64);
        let wanted = if share.count() == new.len() as u64 {
            wanted
        } else {
            within(wanted, share.count(), &new, caller, &mut answer)
        };
        let definitions: Vec<TagDefinition> = wanted.iter().map(|(_, d)| d.clone()).collect();
        let mut taken = Vec::with_capacity(wanted.len());
        for ((alias, definition), id) in wanted.into_iter().zip(engine.reserve(&definitions)) {
            match id {
                Ok(id) => taken.push((alias, definition, id)),
                Err(Error::Invalid(detail)) => {
                    let name = definition.name;
                    answer.rejects.push(v1::DefineReject { alias, name, detail });
                }
                Err(error) => return Err(error),
            }
        }
        answer.defined = u32::try_from(taken.len()).unwrap_or(u32::MAX);
        let made: HashSet<&str> = taken.iter().map(|(_, d, _)| d.name.as_str()).collect();
        // Their ids are taken, whatever comes next.
        share.spend(made.into_iter().filter(|name| new.contains(*name)).count() as u64);
        remember(engine, (access, caller), gateway, taken)?;
        answer.rejects = rejects::definitions(answer.rejects);
        Ok(answer)
    }

    /// What the engine would take, of tags that the caller may write.
    fn wanted(self, caller: &Principal, needs_alias: bool, answer: &mut Answer) -> Wanted {
        let mut wanted = Vec::with_capacity(self.tags.len());
        for tag in self.tags {
            let (alias, name) = (tag.alias, tag.name.clone());
            let definition = definition(tag, needs_alias);
            match definition.and_then(|definition| in_scope(caller, definition)) {
                Ok(definition) => wanted.push((alias, definition)),
                Err(detail) => answer.rejects.push(v1::DefineReject { alias, name, detail }),
            }
        }
        wanted
    }
}

/// Those that are known, and so many new ones.
fn within(
    wanted: Wanted,
    most: u64,
    new: &HashSet<String>,
    caller: &Principal,
    answer: &mut Answer,
) -> Wanted {
    let mut granted = HashSet::new();
    let mut rest = Vec::with_capacity(wanted.len());
    for (alias, definition) in wanted {
        if new.contains(&definition.name) && !granted.contains(&definition.name) {
            if granted.len() as u64 >= most {
                let (name, detail) = (definition.name, too_many_new(caller));
                answer.rejects.push(v1::DefineReject { alias, name, detail });
                continue;
            }
            granted.insert(definition.name.clone());
        }
        rest.push((alias, definition));
    }
    rest
}

/// Makes reserved tags durable, or the aliases of a gateway, and the tags with them.
fn remember(
    engine: &Engine,
    (access, caller): (&Access, &Principal),
    gateway: Option<&str>,
    taken: Vec<(u32, TagDefinition, TagId)>,
) -> Result<()> {
    let Some(gateway) = gateway else {
        let taken: Vec<TagDefinition> = taken.into_iter().map(|(_, d, _)| d).collect();
        return engine.define(&taken).map(|_| ());
    };
    let known = engine.aliases(gateway);
    let pairs = taken.iter().map(|(alias, _, id)| (*alias, *id));
    let new = |(alias, id): &(u32, TagId)| known.get(alias) != Some(id);
    let pairs: Vec<(u32, TagId)> = pairs.filter(new).collect();
    if pairs.is_empty() {
        return Ok(());
    }
    let mut share = take_places(access, caller, pairs.len()).map_err(Error::Invalid)?;
    engine.define_aliases(gateway, &pairs)?;
    share.spend(pairs.len() as u64);
    Ok(())
}

/// The share of so many aliases, or tags of a set: the log of the registry keeps each for ever.
///
/// # Errors
/// A sentence, if the token has written too many today.
fn take_places<'a>(
    access: &'a Access,
    caller: &Principal,
    count: usize,
) -> Result<Share<'a>, String> {
    let share = access.take(caller, Made::Places, count as u64);
    if share.count() == count as u64 {
        return Ok(share);
    }
    let name = &caller.name;
    Err(format!(
        "token {name:?} has defined {PLACES_A_DAY} aliases and tags of sets today: wait for tomorrow"
    ))
}

/// The share of a gateway that the server has not heard of, which it will keep for ever.
///
/// # Errors
/// If the token has made enough of them today.
pub(super) fn take_gateway<'a>(
    engine: &Engine,
    access: &'a Access,
    caller: &Principal,
    gateway: &str,
) -> Result<Share<'a>, Status> {
    let new = u64::from(!engine.knows_gateway(gateway));
    let share = access.take(caller, Made::Gateways, new);
    if share.count() < new {
        let (name, most) = (&caller.name, GATEWAYS_A_DAY);
        let why =
            format!("token {name:?} has sent under {most} new names today: wait for tomorrow");
        return Err(Status::resource_exhausted(why));
    }
    Ok(share)
}

/// Makes a tag set durable. Blocks. The answer lists aliases that are not known; then nothing was defined.
pub(super) fn define_set(
    engine: &Engine,
    (access, caller): (&Access, &Principal),
    gateway: &str,
    message: &v1::DefineTagSet,
) -> Result<Vec<v1::DefineReject>> {
    let aliases = engine.aliases(gateway);
    let snapshot = engine.snapshot();
    // An alias of a tag that is outside, or has come to be, is not known.
    let snapshot = match caller.scope() {
        Some(scope) => snapshot.within(scope),
        None => snapshot,
    };
    let tags = match tags_of_set(message, snapshot.registry(), &aliases) {
        Ok(tags) => tags,
        Err(reject) => return Ok(vec![reject]),
    };
    let sets = engine.tag_sets(gateway);
    let known = sets.get(&message.set);
    if known.is_none_or(|(version, known)| *version != message.version || known.as_ref() != tags) {
        let reject = |detail| Ok(vec![v1::DefineReject { alias: 0, name: String::new(), detail }]);
        let mut share = match take_places(access, caller, tags.len()) {
            Ok(share) => share,
            Err(why) => return reject(why),
        };
        match engine.define_tag_set(gateway, message.set, message.version, &tags) {
            Ok(()) => share.spend(tags.len() as u64),
            Err(Error::Invalid(why)) => return reject(why),
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}

/// The definition, if the caller may write the tag and what its states are called.
fn in_scope(caller: &Principal, definition: TagDefinition) -> Result<TagDefinition, String> {
    let set = definition.attributes.state_set.as_deref().filter(|set| !set.is_empty());
    let mut names = std::iter::once(definition.name.as_str()).chain(set);
    if let Some(name) = names.find(|name| !caller.reaches(name)) {
        return Err(format!("{name:?} is outside of the scope of token {:?}", caller.name));
    }
    Ok(definition)
}

/// Whether a caller may send as a gateway: one with a scope as that of its own name, and as those below it.
///
/// # Errors
/// Why not.
pub(super) fn check_gateway(caller: &Principal, gateway: &str) -> Result<(), Status> {
    let name = caller.name.as_ref();
    let rest = gateway.strip_prefix(name);
    if caller.scope().is_none() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        return Ok(());
    }
    let gateway = rejects::shown(gateway);
    let why = format!("token {name:?} sends as gateway {name:?} or {name}/.., not as {gateway:?}");
    Err(Status::permission_denied(why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::file::{NewToken, Tokens};
    use crate::access::{Role, now};

    fn definitions(names: &[&str], state_set: Option<&str>) -> Definitions {
        let attributes = v1::TagAttributes {
            state_set: state_set.map(ToOwned::to_owned),
            ..v1::TagAttributes::default()
        };
        let tag = |(alias, name): (u32, &&str)| v1::TagDefinition {
            alias,
            name: (*name).to_owned(),
            r#type: v1::ValueType::State.into(),
            attributes: Some(attributes.clone()),
        };
        Definitions { id: 1, tags: (1..).zip(names).map(tag).collect() }
    }

    fn access_of(folder: &std::path::Path, new_tags: u64) -> (Access, Principal) {
        let path = folder.join("access.toml");
        let new = NewToken {
            name: "g1".to_owned(),
            roles: vec![Role::Writer],
            scope: vec!["plant".to_owned()],
            certificate: None,
            new_tags: Some(new_tags),
            expires: now() + 3_600,
        };
        let text = Tokens::create(&path, new).unwrap();
        let access = Access::by_tokens(path).unwrap();
        let caller = access.by_token(&text).unwrap();
        (access, caller)
    }

    #[test]
    fn what_is_outside_of_the_scope_costs_no_share_and_names_no_states() {
        let dir = tempfile::tempdir().unwrap();
        let options = tagmill_storage::Options::default();
        let engine = Engine::open(&dir.path().join("data"), options).unwrap();
        let (access, caller) = access_of(dir.path(), 2);
        let apply = |definitions: Definitions| {
            let answer = definitions.apply(&engine, &access, &caller, Some("g1")).unwrap();
            let why: Vec<String> = answer.rejects.into_iter().map(|reject| reject.detail).collect();
            (answer.defined, why)
        };
        let (defined, why) =
            apply(definitions(&["other/A", "other/B", "plant/A", "plant/A"], None));
        assert_eq!((defined, why.len()), (2, 2), "{why:?}");
        assert!(why.iter().all(|why| why.contains("outside of the scope")), "{why:?}");
        let (defined, why) = apply(definitions(&["plant/B"], Some("pumps")));
        assert_eq!((defined, why.len()), (0, 1));
        assert!(why[0].contains("\"pumps\" is outside of the scope"), "{why:?}");
        let (defined, why) = apply(definitions(&["plant/B", "plant/C", "plant/A"], None));
        assert_eq!((defined, why.len()), (2, 1), "one new, and one that is known");
        assert!(why[0].contains("as many tags known today"), "{why:?}");
    }

    #[test]
    fn an_alias_of_a_tag_outside_of_the_scope_is_in_no_set() {
        let dir = tempfile::tempdir().unwrap();
        let engine =
            Engine::open(&dir.path().join("data"), tagmill_storage::Options::default()).unwrap();
        let (access, caller) = access_of(dir.path(), 9);
        let define = |name| TagDefinition::new(name, tagmill_storage::ValueType::F64);
        let ids = engine.define(&[define("plant/a"), define("other/b")]).unwrap();
        let pairs: Vec<(u32, TagId)> = (1..).zip(ids).collect();
        engine.define_aliases("g1", &pairs).unwrap();
        let set = |aliases: Vec<u32>| {
            let message = v1::DefineTagSet { id: 1, set: 1, version: 1, aliases };
            define_set(&engine, (&access, &caller), "g1", &message).unwrap()
        };
        let rejects = set(vec![1, 2]);
        assert_eq!(rejects[0].detail, "alias 2 is not defined");
        assert!(engine.tag_sets("g1").is_empty());
        assert_eq!(set(vec![1]), []);
        assert_eq!(engine.tag_sets("g1").len(), 1);
    }

    #[test]
    fn tags_whose_ids_are_taken_cost_their_share_whatever_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let engine =
            Engine::open(&dir.path().join("data"), tagmill_storage::Options::default()).unwrap();
        let (access, caller) = access_of(dir.path(), 2);
        let no_name = "g".repeat(tagmill_storage::limits::GATEWAY_BYTES_MAX + 1);
        let apply = |names: &[&str], gateway: &str| {
            definitions(names, None).apply(&engine, &access, &caller, Some(gateway))
        };
        assert!(apply(&["plant/A", "plant/B"], &no_name).is_err());
        assert_eq!(apply(&["plant/C"], "g1").unwrap().rejects.len(), 1, "none is left");
        assert_eq!(apply(&["plant/A", "plant/B"], "g1").unwrap().defined, 2, "reserved already");
    }
}
