//! Care of the database: service `tagmill.v1.Admin`.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tagmill_proto::v1::admin_server::Admin;
use tagmill_proto::v1::{
    BackupRequest, BackupResponse, DeleteRangeRequest, DeleteRangeResponse, DeleteTagRequest,
    DeleteTagResponse, EditTagRequest, EditTagResponse, RenameTagRequest, RenameTagResponse,
    SealRequest, SealResponse, SetStatesRequest, SetStatesResponse, VerifyRequest, VerifyResponse,
};
use tagmill_storage::{
    BackupReport, Engine, Error, Registry, Result, ScanRequest, Snapshot, Tag, TagAttributes,
    TagEdit, TagId, TagSelection, TimeRange,
};
use tonic::{Request, Response, Status};

use crate::access::{Access, Principal, Role};
use crate::audit::Event;
use crate::doors::{caller, peer_of, whole_caller};
use crate::ingest::messages::attributes;
use crate::status::{blocking, of_join, of_storage};

/// Names that a delete lists.
const NAMES_MAX: usize = 100;
/// Damaged places that a verification lists.
const DAMAGE_MAX: usize = 1_000;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct AdminService {
    engine: Arc<Engine>,
    /// One edit at a time: an edit replaces all attributes by what it has read, changed.
    edits: Arc<Mutex<()>>,
    /// Where backups may be written.
    backups: Option<PathBuf>,
    access: Arc<Access>,
}

impl AdminService {
    pub(crate) fn new(engine: Arc<Engine>, backups: Option<PathBuf>, access: Arc<Access>) -> Self {
        Self { engine, edits: Arc::default(), backups, access }
    }

    /// Does something that the audit log has been told of, on disk, and tells it if that failed. Once begun it goes on to
    /// its end on a thread of its own, whether or not the caller is still there to hear of it.
    async fn call<T: Send + 'static>(
        &self,
        event: Event,
        call: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let (engine, access) = (Arc::clone(&self.engine), Arc::clone(&self.access));
        let doing = tokio::task::spawn_blocking(move || {
            access.require(event.clone()).map_err(Status::unavailable)?;
            let stopped = |_| Err(Status::internal("a task of the server stopped: it panicked"));
            let done = catch_unwind(AssertUnwindSafe(|| call(&engine)));
            let done = done.map_or_else(stopped, |done| done.map_err(|error| of_storage(&error)));
            if let Err(status) = &done {
                access.note(|| event.result(status.message()));
            }
            done
        });
        doing.await.map_err(|error| of_join(&error))?
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn edit_tag(
        &self,
        request: Request<EditTagRequest>,
    ) -> Result<Response<EditTagResponse>, Status> {
        let caller = caller(&request, Role::Admin)?;
        let event = event("tag.edit", &caller, &request).on(&request.get_ref().name);
        let request = request.into_inner();
        let edits = Arc::clone(&self.edits);
        self.call(event, move |engine| {
            let _one_at_a_time = edits.lock().unwrap_or_else(PoisonError::into_inner);
            edit_tag(engine, &caller, request)
        })
        .await?;
        Ok(Response::new(EditTagResponse {}))
    }

    async fn rename_tag(
        &self,
        request: Request<RenameTagRequest>,
    ) -> Result<Response<RenameTagResponse>, Status> {
        let caller = caller(&request, Role::Admin)?;
        let event = event("tag.rename", &caller, &request);
        let RenameTagRequest { name, new_name } = request.into_inner();
        if !caller.reaches(&new_name) {
            let why = format!("{new_name:?} is outside of the scope of token {:?}", caller.name);
            return Err(Status::permission_denied(why));
        }
        let event = event.on(format!("{name} to {new_name}"));
        self.call(event, move |engine| {
            let tag = find(seen(engine, &caller).registry(), &name)?.id;
            engine.edit_tag(tag, TagEdit { name: Some(new_name), attributes: None })
        })
        .await?;
        Ok(Response::new(RenameTagResponse {}))
    }

    async fn delete_tag(
        &self,
        request: Request<DeleteTagRequest>,
    ) -> Result<Response<DeleteTagResponse>, Status> {
        let caller = caller(&request, Role::Admin)?;
        let who = who(&caller, peer_of(&request));
        let event = event("tag.delete", &caller, &request);
        let name = request.into_inner().name;
        let event = event.on(&name);
        self.call(event, move |engine| {
            let tag = find(seen(engine, &caller).registry(), &name)?.id;
            engine.delete_tag(tag, &who)
        })
        .await?;
        Ok(Response::new(DeleteTagResponse {}))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let caller = caller(&request, Role::Admin)?;
        let who = who(&caller, peer_of(&request));
        let event = event("samples.delete", &caller, &request);
        let request = Arc::new(request.into_inner());
        let (engine, by, asked) = (Arc::clone(&self.engine), caller.clone(), Arc::clone(&request));
        let object = blocking(move || Ok(object_of(&engine, &by, &asked))).await?;
        let event = event.on(object);
        let delete = move |engine: &Engine| delete_range(engine, &caller, &request, &who);
        let response = self.call(event, delete).await?;
        Ok(Response::new(response))
    }

    async fn seal(&self, request: Request<SealRequest>) -> Result<Response<SealResponse>, Status> {
        let caller = whole_caller(&request, Role::Operator)?;
        let event = event("seal", &caller, &request);
        let segments = self.call(event, Engine::seal).await?;
        let segments = segments.into_iter().map(|id| id.0).collect();
        Ok(Response::new(SealResponse { segments }))
    }

    async fn backup(
        &self,
        request: Request<BackupRequest>,
    ) -> Result<Response<BackupResponse>, Status> {
        let caller = whole_caller(&request, Role::Operator)?;
        let event = event("backup", &caller, &request);
        let BackupRequest { name, copy } = request.into_inner();
        let event = event.on(&name);
        let backups = self.backups.clone();
        let response = self.call(event, move |engine| {
            let folder = backup_folder(backups.as_ref(), &name)?;
            let report = engine.backup(&folder, !copy)?;
            Ok(backup_response(&report, folder.display().to_string()))
        });
        Ok(Response::new(response.await?))
    }

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyResponse>, Status> {
        let caller = whole_caller(&request, Role::Operator)?;
        let event = event("verify", &caller, &request);
        Ok(Response::new(self.call(event, |engine| Ok(verify(engine))).await?))
    }

    async fn set_states(
        &self,
        request: Request<SetStatesRequest>,
    ) -> Result<Response<SetStatesResponse>, Status> {
        let caller = whole_caller(&request, Role::Admin)?;
        let event = event("states.set", &caller, &request);
        let SetStatesRequest { set, labels } = request.into_inner();
        let event = event.on(&set);
        self.call(event, move |engine| {
            let code = |code: u32| {
                let too_great =
                    |_| Error::Invalid(format!("{code} is no state: codes end at 65535"));
                u16::try_from(code).map_err(too_great)
            };
            let labels: Result<Vec<_>> =
                labels.into_iter().map(|(number, label)| Ok((code(number)?, label))).collect();
            engine.set_states(&set, &labels?)
        })
        .await?;
        Ok(Response::new(SetStatesResponse {}))
    }
}

/// Something that a caller does.
fn event<T>(action: &str, caller: &Principal, request: &Request<T>) -> Event {
    Event::new(action).by(caller).from("grpc", peer_of(request))
}

/// The report of a backup as it travels.
pub(crate) fn backup_response(report: &BackupReport, folder: String) -> BackupResponse {
    BackupResponse {
        seq: report.seq.0,
        segments: report.segments,
        linked: report.linked,
        copied: report.copied,
        kept: report.kept,
        missing: report.missing,
        bytes: report.bytes,
        folder,
    }
}

/// The folder of a backup, which stays below the one that was allowed.
fn backup_folder(backups: Option<&PathBuf>, name: &str) -> Result<PathBuf> {
    let Some(backups) = backups else {
        let why =
            "this server writes no backups: start it with --backups DIR, or stop it and use --data";
        return Err(Error::Invalid(why.into()));
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(is_plain) {
        let why = "the name of a backup has up to 128 letters, digits, '-', '_' and '.', and begins with none of the dots";
        return Err(Error::Invalid(why.into()));
    }
    Ok(backups.join(name))
}

/// Verifies every segment. Lists the first of what is damaged.
fn verify(engine: &Engine) -> VerifyResponse {
    let snapshot = engine.snapshot();
    let mut damage = Vec::new();
    let places = engine.verify(&mut |error| {
        if damage.len() < DAMAGE_MAX {
            damage.push(error.to_string());
        }
    });
    let segments = snapshot.segments();
    let bytes = segments.iter().map(|segment| segment.bytes).sum();
    VerifyResponse { places, damage, segments: segments.len() as u64, bytes }
}

/// Whose doing it is, for the record.
fn who(caller: &Principal, peer: Option<SocketAddr>) -> String {
    let peer = peer.map_or_else(|| "gRPC".to_owned(), |peer| format!("gRPC {peer}"));
    if caller.id.is_empty() { peer } else { format!("{} ({}) by {peer}", caller.name, caller.id) }
}

/// What a caller may know of.
fn seen(engine: &Engine, caller: &Principal) -> Snapshot {
    let snapshot = engine.snapshot();
    caller.scope().map(|scope| snapshot.within(scope)).unwrap_or(snapshot)
}

fn find<'a>(registry: &'a Registry, name: &str) -> Result<&'a Arc<Tag>> {
    let tag = registry.find(name).and_then(|id| registry.get(id));
    tag.ok_or_else(|| Error::Invalid(format!("there is no tag {name:?}")))
}

fn edit_tag(engine: &Engine, caller: &Principal, request: EditTagRequest) -> Result<()> {
    let snapshot = seen(engine, caller);
    let tag = find(snapshot.registry(), &request.name)?;
    // What is set wins over what there is; then what is to be cleared goes.
    let mut edited = attributes(request.set.unwrap_or_default());
    let set = edited.state_set.as_deref().filter(|set| !set.is_empty());
    if let Some(set) = set.filter(|set| !caller.reaches(set)) {
        let why = format!("{set:?} is outside of the scope of token {:?}", caller.name);
        return Err(Error::Invalid(why));
    }
    edited.fill_from(&tag.attributes);
    for name in &request.clear {
        clear(&mut edited, name)?;
    }
    for key in &request.clear_labels {
        edited.labels.remove(key);
    }
    engine.edit_tag(tag.id, TagEdit { name: None, attributes: Some(edited) })
}

/// Unsets one attribute, by the name it has in `TagAttributes`.
fn clear(attributes: &mut TagAttributes, name: &str) -> Result<()> {
    match name {
        "description" => attributes.description = None,
        "unit" => attributes.unit = None,
        "stepped" => attributes.stepped = None,
        "range_low" => attributes.range_low = None,
        "range_high" => attributes.range_high = None,
        "max_gap_ns" => attributes.max_gap_ns = None,
        "uncertain_usable" => attributes.uncertain_usable = None,
        "rollover" => attributes.rollover = None,
        "jitter" => attributes.jitter = None,
        "reset_value" => attributes.reset_value = None,
        "retention" => attributes.retention = None,
        "state_set" => attributes.state_set = None,
        "labels" => attributes.labels.clear(),
        other => return Err(Error::Invalid(format!("there is no attribute {other:?} to clear"))),
    }
    Ok(())
}

fn range_of(request: &DeleteRangeRequest) -> TimeRange {
    let all = TimeRange::ALL;
    let start_ns = request.from_ns.unwrap_or(all.start_ns);
    TimeRange::new(start_ns, request.to_ns.unwrap_or(all.end_ns))
}

/// What a delete concerns, for the audit log. Names come last: they may be more than it holds.
fn object_of(engine: &Engine, caller: &Principal, request: &DeleteRangeRequest) -> String {
    let selected = select_tags(seen(engine, caller).registry(), &request.tags);
    let count = selected.map_or(0, |tags| tags.len());
    let how = if request.dry_run { "dry run" } else { "for ever" };
    let names = request.tags.join(", ");
    format!("{}, {how}, {count} tags: {names}", range_of(request))
}

fn delete_range(
    engine: &Engine,
    caller: &Principal,
    request: &DeleteRangeRequest,
    who: &str,
) -> Result<DeleteRangeResponse> {
    let snapshot = seen(engine, caller);
    let tags = select_tags(snapshot.registry(), &request.tags)?;
    let range = range_of(request);
    if range.is_empty() {
        return Err(Error::Invalid(format!("the range {range} is empty")));
    }
    let names = tags.iter().take(NAMES_MAX).filter_map(|tag| snapshot.registry().get(*tag));
    let names = names.map(|tag| tag.name.to_string()).collect();
    let selection = TagSelection::Only(tags.as_slice().into());
    let rows_estimate = snapshot.estimate_rows(&ScanRequest::new(selection, range));
    if !request.dry_run {
        engine.delete(&tags, range, who)?;
    }
    let tags = u32::try_from(tags.len()).unwrap_or(u32::MAX);
    Ok(DeleteRangeResponse { tags, rows_estimate, names })
}

/// Live tags that names and patterns select, ascending.
///
/// # Errors
/// [`Error::Invalid`] for a name or pattern that selects none: a mistyped name must not look like a success.
pub(crate) fn select_tags(registry: &Registry, patterns: &[String]) -> Result<Vec<TagId>> {
    let mut tags = Vec::new();
    for pattern in patterns {
        let before = tags.len();
        if pattern.contains('*') {
            let matching = registry.iter().filter(|tag| matches_glob(pattern, &tag.name));
            tags.extend(matching.map(|tag| tag.id));
        } else {
            tags.extend(registry.find(pattern));
        }
        if tags.len() == before {
            return Err(Error::Invalid(format!("no tag matches {pattern:?}")));
        }
    }
    if tags.is_empty() {
        return Err(Error::Invalid("name at least one tag, or a pattern such as 'unit3/*'".into()));
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// Whether `name` matches a pattern in which `*` stands for any characters.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    use tagmill_proto::v1;
    use tagmill_storage::{Options, TagDefinition, ValueType};

    use super::*;
    use crate::access::file::{NewToken, Tokens};
    use crate::audit::{self, Audit};

    fn audited(directory: &Path) -> AdminService {
        let engine = Engine::open(&directory.join("data"), Options::default()).unwrap();
        let access = Access::open().with_audit(Audit::open(directory).unwrap());
        AdminService::new(Arc::new(engine), None, Arc::new(access))
    }

    #[tokio::test]
    async fn a_failure_is_told_though_the_caller_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let service = audited(dir.path());
        let (go, gone) = mpsc::channel::<()>();
        let work = move |_: &Engine| {
            // Until the caller has gone.
            assert!(gone.recv().is_err());
            Err::<(), _>(Error::Invalid("no such thing".to_owned()))
        };
        let call = service.call(Event::new("seal"), work);
        assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
        drop(go);
        let told = || std::fs::read_to_string(dir.path().join(audit::FILE)).unwrap();
        for _ in 0..1_000 {
            if told().contains("no such thing") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let text = told();
        assert_eq!(text.matches("\"seal\"").count(), 2, "that it was begun, and its end: {text}");
        assert!(text.contains("no such thing"), "{text}");
    }

    #[tokio::test]
    async fn what_panics_is_told_as_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let service = audited(dir.path());
        let work = |_: &Engine| -> Result<()> { panic!("of a test") };
        let status = service.call(Event::new("seal"), work).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
        // What is required comes after what was noted before.
        service.access.require(Event::new("verify")).unwrap();
        let text = std::fs::read_to_string(dir.path().join(audit::FILE)).unwrap();
        assert!(text.contains("it panicked"), "{text}");
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("a/*", "a/b/c", true),
            ("a/*", "b/a/c", false),
            ("*/PV", "a/b/PV", true),
            ("*/PV", "a/b/PV2", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("ab*bc", "abc", false),
            ("**", "x", true),
            ("*b*", "abc", true),
        ] {
            assert_eq!(matches_glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_audit_log_hears_what_a_delete_concerns_before_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), Options::default()).unwrap();
        let tag = |name| TagDefinition::new(name, ValueType::F64);
        engine.define(&[tag("u/A"), tag("u/B")]).unwrap();
        let tags = vec!["u/*".to_owned()];
        let request = DeleteRangeRequest { tags, from_ns: Some(0), to_ns: Some(1), dry_run: true };
        let told = object_of(&engine, &Principal::anyone(), &request);
        assert!(told.starts_with("1970-01-01"), "{told}");
        assert!(told.ends_with(", dry run, 2 tags: u/*"), "{told}");
        let request = DeleteRangeRequest { tags: vec!["none".to_owned()], ..request };
        let told = object_of(&engine, &Principal::anyone(), &request);
        assert!(told.ends_with("0 tags: none"), "{told}");
    }

    #[test]
    fn an_edit_names_no_states_outside_of_the_scope() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), Options::default()).unwrap();
        engine.define(&[TagDefinition::new("plant/A", ValueType::State)]).unwrap();
        let path = dir.path().join("access.toml");
        let new = NewToken {
            name: "line".to_owned(),
            roles: vec![Role::Admin],
            scope: vec!["plant".to_owned()],
            certificate: None,
            new_tags: None,
            expires: crate::access::now() + 60,
        };
        let text = Tokens::create(&path, new).unwrap();
        let caller = Access::by_tokens(path).unwrap().by_token(&text).unwrap();
        let edit = |set: &str| {
            let state_set = Some(set.to_owned());
            let set = Some(v1::TagAttributes { state_set, ..v1::TagAttributes::default() });
            let name = "plant/A".to_owned();
            edit_tag(&engine, &caller, EditTagRequest { name, set, ..EditTagRequest::default() })
        };
        assert!(edit("pumps").unwrap_err().to_string().contains("outside of the scope"));
        edit("plant/pumps").unwrap();
    }

    #[test]
    fn only_known_attributes_are_cleared() {
        let mut attributes = TagAttributes { unit: Some("bar".into()), ..TagAttributes::default() };
        clear(&mut attributes, "unit").unwrap();
        assert_eq!(attributes.unit, None);
        assert!(clear(&mut attributes, "colour").is_err());
    }
}
