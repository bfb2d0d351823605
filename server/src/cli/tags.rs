//! `tagmill tags`: what is known of tags, looked at and changed.

use std::io::Write;
use std::path::PathBuf;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use tagmill_proto::v1;
use tagmill_storage::{TagAttributes, TagDefinition, TagEdit};

use super::attributes::{self, TagFile};
use super::failure::{Failure, Result};
use super::format::Format;
use super::import::report::{grouped, some_of};
use super::sql::{Asker, Style};
use super::states::StateSets;
use super::target::{Door, Local, Remote, TargetArgs, quoted};
use super::times::Zone;
use super::wire::{attributes_to_wire, type_to_wire};
use crate::globs::glob_to_like;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill tags list 'unit3/*'
  tagmill tags show unit3/FT-101.PV --data plant
  tagmill tags set unit3/FT-101.PV unit=m3/h range_low=0 range_high=250 label:area=U3
  tagmill tags set unit3/FT-101.PV --clear description --clear label:area
  tagmill tags rename unit3/FT-101.PV unit3/FT-101A.PV
  tagmill tags import tags.csv --data plant

Attributes are description, unit, stepped, range_low, range_high, max_gap (90s, 15m, 2h), uncertain_usable,
rollover, jitter, reset_value, retention, state_set, label:KEY. They apply to all history; a tag's type
never changes.";

/// Arguments of `tagmill tags`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Lists tags with type, unit and description.
    List {
        /// Names to list; * stands for any characters.
        #[arg(default_value = "*")]
        pattern: String,
        /// How the list is written.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Shows everything about one tag.
    Show {
        /// The tag's full name.
        tag: String,
        /// Zone times are shown in.
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        tz: Zone,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Changes attributes of a tag.
    Set {
        /// The tag's full name.
        tag: String,
        /// Attributes to set, such as unit=bar.
        #[arg(value_name = "ATTRIBUTE=VALUE")]
        pairs: Vec<String>,
        /// An attribute to unset; may be given several times.
        #[arg(long, value_name = "ATTRIBUTE")]
        clear: Vec<String>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Gives a tag another name; its history follows.
    Rename {
        /// The tag's full name.
        tag: String,
        /// Its name from now on.
        new_name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Sets attributes of many tags from a CSV or JSON file; defines those it gives a type.
    ///
    /// A CSV file has a column 'tag' and one for each attribute. JSON is {"tags": {"NAME": {"unit": ..}}} or a list of
    /// objects with 'tag'. A name that is no whole tag name stands for every tag that ends with it as its last levels.
    Import {
        /// The file.
        file: PathBuf,
        /// Say what would change, change nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// Runs the command.
///
/// # Errors
/// If the database cannot be reached, or refuses the change.
pub fn run(args: Args) -> Result<()> {
    match args.order {
        Order::List { pattern, format, target } => list(&pattern, format, &target),
        Order::Show { tag, tz, target } => show(&tag, tz, target.open_existing()?),
        Order::Set { tag, pairs, clear, target } => {
            let change = Change::of_words(&pairs, &clear)?;
            let mut door = target.open_existing()?;
            change.apply(&mut door, &tag)?;
            say(&format!("{tag} is changed"))?;
            door.close()
        }
        Order::Rename { tag, new_name, target } => rename(&tag, &new_name, target.open_existing()?),
        Order::Import { file, dry_run, target } => import(&file, dry_run, &target),
    }
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

fn list(pattern: &str, format: Format, target: &TargetArgs) -> Result<()> {
    let mut asker = Asker::new(target.open_existing()?);
    let sql = format!(
        "SELECT tag, type, unit, description FROM tags WHERE tag LIKE {} ORDER BY tag",
        quoted(&glob_to_like(pattern))
    );
    let style = Style { format, zone: Zone::UTC, has_timing: false };
    let count = asker.print(&sql, &style)?;
    if count == 0 {
        writeln!(std::io::stderr(), "no tag matches '{pattern}'")?;
    }
    asker.close()
}

/// One line for each thing that is known: the answer's single row, turned on its side.
fn show(tag: &str, zone: Zone, mut door: Door) -> Result<()> {
    check_known(&mut door, tag)?;
    let mut out = std::io::stdout();
    for sql in [
        format!("SELECT * FROM tags WHERE tag = {}", quoted(tag)),
        format!(
            "SELECT count(*) AS samples, min(ts) AS earliest, max(ts) AS newest FROM samples WHERE tag = {}",
            quoted(tag)
        ),
        format!(
            "SELECT ts AS latest_ts, value AS latest_value, value_text AS latest_text, \
             quality AS latest_quality FROM latest WHERE tag = {}",
            quoted(tag)
        ),
    ] {
        door.rows(&sql, |batch| {
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                let text = match field.data_type() {
                    DataType::Timestamp(..) if column.len() == 1 && column.is_valid(0) => {
                        let ns = cast(
                            column,
                            &DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None),
                        )?;
                        zone.show(
                            ns.as_primitive::<arrow::datatypes::TimestampNanosecondType>().value(0),
                        )
                    }
                    _ if column.len() == 1 && column.is_valid(0) => {
                        arrow::util::display::array_value_to_string(column, 0)?
                    }
                    _ => continue,
                };
                writeln!(out, "{:<18}{text}", field.name())?;
            }
            Ok(())
        })?;
    }
    door.close()
}

/// A change of a tag's attributes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Change {
    set: TagAttributes,
    clear: Vec<String>,
}

impl Change {
    fn of_words(pairs: &[String], clear: &[String]) -> Result<Self> {
        if pairs.is_empty() && clear.is_empty() {
            return Err(Failure::new("nothing to change")
                .next("write ATTRIBUTE=VALUE, such as unit=bar, or --clear ATTRIBUTE"));
        }
        let set = attributes::of_pairs(pairs)?;
        if let Some(field) =
            clear.iter().find(|field| !attributes::clear(&mut TagAttributes::default(), field))
        {
            return Err(attributes::unknown(field));
        }
        set.check().map_err(Failure::new)?;
        Ok(Self { set, clear: clear.to_vec() })
    }

    fn apply(&self, door: &mut Door, tag: &str) -> Result<()> {
        match door {
            Door::Local(local) => self.apply_local(local, tag),
            Door::Remote(remote) => self.apply_remote(remote, tag),
        }
    }

    fn apply_local(&self, local: &Local, tag: &str) -> Result<()> {
        let engine = local.engine();
        let snapshot = engine.snapshot();
        let registry = snapshot.registry();
        let id = registry.find(tag).ok_or_else(|| unknown_tag(tag))?;
        let known = registry.get(id).ok_or_else(|| unknown_tag(tag))?;
        let mut cleared = known.attributes.clone();
        for field in &self.clear {
            attributes::clear(&mut cleared, field);
        }
        let mut new = self.set.clone();
        new.fill_from(&cleared);
        Ok(engine.edit_tag(id, TagEdit { attributes: Some(new), ..TagEdit::default() })?)
    }

    fn apply_remote(&self, remote: &Remote, tag: &str) -> Result<()> {
        let is_label = |field: &&String| field.starts_with("label:") || field.starts_with("label.");
        let (labels, fields): (Vec<&String>, Vec<&String>) = self.clear.iter().partition(is_label);
        let request = v1::EditTagRequest {
            name: tag.to_owned(),
            set: Some(attributes_to_wire(&self.set)),
            clear: fields
                .into_iter()
                .map(
                    |field| {
                        if field == "max_gap" { "max_gap_ns".to_owned() } else { field.clone() }
                    },
                )
                .collect(),
            clear_labels: labels.into_iter().map(|label| label[6..].to_owned()).collect(),
        };
        remote.block_on(async {
            let mut admin = v1::admin_client::AdminClient::new(remote.channel().await?);
            admin.edit_tag(request).await.map_err(|status| remote.failure(&status))?;
            Ok(())
        })
    }
}

fn unknown_tag(tag: &str) -> Failure {
    Failure::new(format!("no tag '{tag}'"))
        .next("'tagmill tags list' shows the names; 'tagmill tags list \"*part*\"' finds by a part")
}

fn check_known(door: &mut Door, tag: &str) -> Result<()> {
    let known = door.texts(&format!("SELECT tag FROM tags WHERE tag = {}", quoted(tag)))?;
    if known.is_empty() { Err(unknown_tag(tag)) } else { Ok(()) }
}

fn rename(tag: &str, new_name: &str, door: Door) -> Result<()> {
    match &door {
        Door::Local(local) => {
            let engine = local.engine();
            let id = engine.snapshot().registry().find(tag).ok_or_else(|| unknown_tag(tag))?;
            let edit = TagEdit { name: Some(new_name.to_owned()), ..TagEdit::default() };
            engine.edit_tag(id, edit)?;
        }
        Door::Remote(remote) => {
            let request =
                v1::RenameTagRequest { name: tag.to_owned(), new_name: new_name.to_owned() };
            remote.block_on(async {
                let mut admin = v1::admin_client::AdminClient::new(remote.channel().await?);
                admin.rename_tag(request).await.map_err(|status| remote.failure(&status))
            })?;
        }
    }
    say(&format!("{tag} is now {new_name}"))?;
    door.close()
}

fn import(path: &std::path::Path, is_dry_run: bool, target: &TargetArgs) -> Result<()> {
    let file = TagFile::read(path)?;
    let mut door = if is_dry_run { target.open_existing()? } else { target.open()? };
    let known = door.texts("SELECT tag FROM tags ORDER BY tag")?;
    let mut used = std::collections::BTreeSet::new();
    let mut states = StateSets::default();
    let mut changed = 0_u64;
    for tag in &known {
        let Some((name, entry)) = file.find_named(tag) else { continue };
        used.insert(name.to_owned());
        states.add(tag, entry);
        if entry.attributes != TagAttributes::default() {
            changed += 1;
            let change = Change { set: entry.attributes.clone(), clear: Vec::new() };
            if !is_dry_run {
                change.apply(&mut door, tag)?;
            }
        }
    }
    let unused = file.entries.iter().filter(|(name, _)| !used.contains(*name));
    let (new, lost): (Vec<_>, Vec<_>) = unused.partition(|(_, entry)| entry.value_type.is_some());
    let definitions: Vec<TagDefinition> = new
        .into_iter()
        .filter_map(|(name, entry)| {
            states.add(name, entry);
            let attributes = entry.attributes.clone();
            Some(TagDefinition { name: name.clone(), value_type: entry.value_type?, attributes })
        })
        .collect();
    if !is_dry_run {
        define(&door, &definitions)?;
        states.set(&door)?;
    }
    let would = if is_dry_run { "would change" } else { "changed" };
    say(&format!(
        "{would} {} tags, {} {} new ones",
        grouped(changed),
        if is_dry_run { "define" } else { "defined" },
        grouped(definitions.len() as u64)
    ))?;
    if !lost.is_empty() {
        let names = some_of(lost.iter().map(|(name, _)| name.as_str()));
        say(&format!("  no such tag, and no type to define it with: {names}"))?;
    }
    if !file.skipped.is_empty() {
        let names = some_of(file.skipped.iter().map(String::as_str));
        say(&format!("  not attributes, left out: {names}"))?;
    }
    door.close()
}

/// Makes tags known; those that are keep what they have.
///
/// # Errors
/// If one is refused, or the database cannot be written.
pub(super) fn define(door: &Door, definitions: &[TagDefinition]) -> Result<()> {
    // A record of the log holds so many, even if each says all it may.
    const TAGS_PER_RECORD: usize = 100;
    if definitions.is_empty() {
        return Ok(());
    }
    match door {
        Door::Local(local) => {
            for some in definitions.chunks(TAGS_PER_RECORD) {
                local.engine().define(some)?;
            }
            Ok(())
        }
        Door::Remote(remote) => define_remote(remote, definitions),
    }
}

fn define_remote(remote: &Remote, definitions: &[TagDefinition]) -> Result<()> {
    const TAGS_PER_REQUEST: usize = 1_000;
    remote.block_on(async {
        let mut ingest = v1::ingest_client::IngestClient::new(remote.channel().await?);
        for tags in definitions.chunks(TAGS_PER_REQUEST) {
            let tag = |tag: &TagDefinition| v1::TagDefinition {
                alias: 0,
                name: tag.name.clone(),
                r#type: type_to_wire(tag.value_type).into(),
                attributes: Some(attributes_to_wire(&tag.attributes)),
            };
            let define = v1::DefineTags { id: 0, tags: tags.iter().map(tag).collect() };
            let request = v1::DefineTagsRequest { gateway: String::new(), define: Some(define) };
            let answer = ingest.define_tags(request).await.map_err(|s| remote.failure(&s))?;
            if let Some(reject) = answer.into_inner().rejects.first() {
                return Err(Failure::new(format!("tag '{}': {}", reject.name, reject.detail)));
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_checked_before_anything_is_opened() {
        let words = |pairs: &[&str], clear: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
            Change::of_words(&owned(pairs), &owned(clear))
        };
        assert!(words(&[], &[]).is_err());
        assert!(words(&["unit"], &[]).is_err());
        assert!(words(&[], &["colour"]).unwrap_err().to_string().contains("unit"));
        assert!(words(&["range_low=inf"], &[]).is_err());
        let change = words(&["unit=bar"], &["label:area"]).unwrap();
        assert_eq!(change.set.unit.as_deref(), Some("bar"));
    }
}
