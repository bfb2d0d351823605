//! The rules of the house that a compiler does not check, each as a test.
//!
//! # Contract
//! * Every rule is data at the top of this file, a pure function that finds offences in a text, a self-test that feeds
//!   the function a bad text, and one `#[test]` that runs it over the repository.
//! * A failure lists every offence as `file:line: what is wrong: what to do instead`.
//!
//! # What it does not know
//! The crates it looks at: it reads their text. It needs only std, so `rustc --test tests/tidy.rs` builds it too.
//!
//! To change a rule, change its table and say why in the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

// ---- the tables -----------------------------------------------------------------------------------------------------

/// The only folders at the root. Hidden ones are not looked at, `IGNORED` ones are nobody's business.
const FOLDERS: &[&str] =
    &["storage", "query", "server", "proto", "benches", "fuzz", "tests", "docs", "packaging"];
/// What building and running leave behind.
const IGNORED: &[&str] = &["target", "tagmill-demo", "node_modules", "__pycache__"];

/// Which crates of the workspace a crate may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("tagmill-storage", &[]),
    ("tagmill-proto", &[]),
    ("tagmill-client", &["tagmill-proto"]),
    ("tagmill", &["tagmill-storage"]),
    ("tagmill-server", &["tagmill", "tagmill-storage", "tagmill-proto", "tagmill-client"]),
    ("tagmill-engine-tests", &["tagmill-storage"]),
    ("tagmill-fault-tests", &["tagmill-storage", "tagmill-engine-tests"]),
    ("tagmill-load-tests", &["tagmill-client"]),
    ("tagmill-tests", &EVERYTHING),
    (
        "tagmill-benches",
        &[
            "tagmill",
            "tagmill-storage",
            "tagmill-client",
            "tagmill-server",
            "tagmill-engine-benches",
        ],
    ),
    ("tagmill-engine-benches", &["tagmill-storage"]),
];
const EVERYTHING: [&str; 7] = [
    "tagmill",
    "tagmill-storage",
    "tagmill-proto",
    "tagmill-client",
    "tagmill-server",
    "tagmill-engine-tests",
    "tagmill-tests",
];

/// What a crate is built without, and why.
const WITHOUT: &[(&str, &[&str], &str)] = &[
    (
        "tagmill-storage",
        &["tokio", "futures", "async-trait", "datafusion", "tonic", "prost", "clap"],
        "the engine is usable alone: no async, no SQL, no wire",
    ),
    ("tagmill", &["tonic", "prost", "clap"], "the library opens no socket and parses no command"),
    ("tagmill-client", &["datafusion", "arrow", "clap"], "a gateway embeds it: keep it small"),
];

/// Order of knowledge inside `storage`: a module may use only names of lines above its own, and names to its left.
/// `a::b` gives a submodule a place of its own. Names defined in `lib.rs` itself are free; what it re-exports counts as
/// the module it comes from.
const STORAGE_ORDER: &[&[&str]] = &[
    &[
        "ids",
        "limits",
        "time",
        "quality",
        "tag",
        "tier::width",
        "sample",
        "error",
        "options",
        "metrics",
        "planted",
        "retention",
    ],
    &["bytes", "checksum", "fields", "disk"],
    &["encoding"],
    &["chunk"],
    // A segment is written together with the rollups of its rows.
    &["tier"],
    &["registry", "head", "segment", "wal", "manifest"],
    &["scan"],
    // What the engine's threads share. They get it handed in, so it stands before them.
    &["engine::core"],
    &["maintenance", "recovery", "backup", "verify", "salvage", "parquet"],
    &["engine"],
    &["fuzzing"],
];
/// Allowed by the order, and strangers all the same: (user, used, why).
const STORAGE_STRANGERS: &[(&str, &str, &str)] = &[
    ("head", "registry", "a row knows its tag by number"),
    ("segment", "registry", "a row knows its tag by number"),
    ("segment", "head", "a segment is written from series, whoever made them"),
    ("wal", "segment", "the log and the segments meet in the engine only"),
    ("scan", "wal", "what is visible is in the View, not in the log"),
];

/// Words that may not stand in code: (word, under, except in, instead).
const BANNED: &[(&str, &str, &[&str], &str)] = &[
    ("std::fs", "storage/src/", &["storage/src/disk/real.rs"], "go through Disk"),
    ("fs::", "storage/src/", &["storage/src/disk/real.rs"], "go through Disk"),
    ("SystemTime::now", "storage/src/", &["storage/src/time.rs"], "ask Clock::wall_ns"),
    ("println!", "storage/src/", &[], "return it"),
    ("println!", "query/src/", &[], "return it"),
    ("println!", "proto/", &[], "return it"),
    ("eprintln!", "storage/src/", &[], "return an Error"),
    ("eprintln!", "query/src/", &[], "return an Error"),
    ("eprintln!", "proto/", &[], "return an Error"),
    ("unsafe", "", &["storage/src/disk/mapping.rs"], "write it in safe Rust"),
    ("should_panic", "", &[], "return an error and compare it"),
    ("#[ignore", "", &[], "make it fast, or make it a soak command"),
];

/// Crates whose types meet in one call: two versions of one would not fit together. `*` = and its relatives.
const ONE_VERSION: &[&str] = &[
    "arrow",
    "arrow-*",
    "datafusion",
    "datafusion-*",
    "object_store",
    "parquet",
    "prost",
    "tonic",
];
/// Where every dependency comes from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Names that say nothing about what a module owns.
const VAGUE_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"];

/// Lines of a `.rs` file. Test files and generated code are apart.
const FILE_LINES_MAX: usize = 700;

// ---- the rules over the repository ----------------------------------------------------------------------------------

#[test]
fn crates_depend_downwards_only() {
    let manifests = manifests();
    report(manifests.iter().flat_map(|file| crate_offences(&file.path, &file.text)));
    for (name, _) in ARROWS {
        let line = format!("name = \"{name}\"");
        assert!(manifests.iter().any(|file| file.text.contains(&line)), "no crate {name}");
    }
}

#[test]
fn versions_stand_in_the_root_manifest_only() {
    report(manifests().iter().flat_map(|file| version_offences(&file.path, &file.text)));
}

#[test]
fn every_dependency_has_a_line_in_the_decisions() {
    let decisions: String = files(&["md"])
        .into_iter()
        .filter(|file| file.path.starts_with("docs/decisions/"))
        .map(|file| file.text)
        .collect();
    let root = fs::read_to_string(root().join("Cargo.toml")).expect("root manifest is readable");
    let names: Vec<_> = dependencies(&root).into_iter().map(|found| found.name).collect();
    assert!(names.len() > 20, "the root manifest lists its versions: found only {names:?}");
    report(undecided(&names, &decisions));
}

#[test]
fn every_dependency_is_used() {
    let sources = sources();
    let mut offences = Vec::new();
    for manifest in manifests() {
        let folder = manifest.path.trim_end_matches("Cargo.toml");
        // `proto/client` is a crate of its own inside `proto`.
        let inside = |path: &str| {
            let inner = path.strip_prefix(folder);
            inner.is_some_and(|inner| folder.contains("client") || !inner.starts_with("client/"))
        };
        let texts =
            sources.iter().filter(|file| inside(&file.path)).map(|file| code_of(&file.text));
        offences.extend(unused_offences(
            &manifest.path,
            &manifest.text,
            &texts.collect::<String>(),
        ));
    }
    report(offences);
}

#[test]
fn the_lock_file_holds_one_version_of_each_family() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    assert!(lock.contains("name = \"datafusion\""), "Cargo.lock does not look like ours");
    report(lock_offences(&lock));
}

#[test]
fn storage_modules_look_left_only() {
    let lib = fs::read_to_string(root().join("storage/src/lib.rs")).expect("lib.rs is readable");
    let exports = exports(&lib);
    let mut seen = 0;
    let mut offences = Vec::new();
    for file in files(&["rs"]) {
        let Some(inside) = file.path.strip_prefix("storage/src/") else { continue };
        if inside == "lib.rs" || is_test_file(&file.path) {
            continue;
        }
        seen += 1;
        offences.extend(module_offences(inside, &file.text, &exports));
    }
    assert!(seen > 5, "storage has {seen} files: is the path right?");
    report(offences);
}

#[test]
fn every_source_file_says_what_it_is() {
    report(sources().iter().filter_map(|file| header_offence(&file.path, &file.text)));
}

#[test]
fn files_stay_small() {
    report(sources().iter().filter_map(|file| size_offence(&file.path, &file.text)));
}

#[test]
fn code_avoids_banned_words() {
    report(sources().iter().flat_map(|file| banned_offences(&file.path, &file.text)));
}

#[test]
fn doc_examples_run() {
    report(sources().iter().flat_map(|file| doc_offences(&file.path, &file.text)));
}

#[test]
fn notes_to_self_have_an_issue() {
    let kinds = ["rs", "md", "toml", "proto", "py", "sh", "slt", "justfile", "run"];
    report(files(&kinds).iter().flat_map(|file| note_offences(&file.path, &file.text)));
}

#[test]
fn root_has_the_agreed_folders() {
    let entries = fs::read_dir(root()).expect("the root is readable");
    let folders: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(folders.iter().any(|name| name == "storage"), "no storage in {folders:?}");
    report(folders.iter().filter_map(|name| folder_offence(name)));
}

#[test]
fn names_of_modules_say_what_they_own() {
    report(sources().iter().flat_map(|file| name_offence(&file.path)));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = files(&["md"]);
    assert!(documents.iter().any(|file| file.path == "README.md"), "no README.md");
    let mut offences = Vec::new();
    for file in &documents {
        for (line, target) in links(&file.text) {
            let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
            if !root().join(folder).join(&target).exists() {
                offences.push(format!("{}:{line}: dead link to {target}: correct it", file.path));
            }
        }
    }
    report(offences);
}

#[test]
fn examples_in_documents_are_files_that_run() {
    let mut offences = Vec::new();
    for file in files(&["md"]) {
        for Excerpt { line, source, text } in excerpts(&file.text) {
            let original = fs::read_to_string(root().join(&source)).unwrap_or_default();
            if !original.contains(&text) || text.trim().is_empty() {
                let path = &file.path;
                offences.push(format!("{path}:{line}: not what {source} says: copy it again"));
            }
        }
    }
    report(offences);
}

#[test]
fn decisions_have_numbers_of_their_own() {
    let names: Vec<_> = files(&["md"])
        .into_iter()
        .filter_map(|file| file.path.strip_prefix("docs/decisions/").map(str::to_owned))
        .collect();
    assert!(!names.is_empty(), "no decisions");
    report(number_offences(&names));
}

// ---- finding offences in a text -------------------------------------------------------------------------------------

fn crate_offences(path: &str, toml: &str) -> Vec<String> {
    let Some(name) = package_name(toml) else { return vec![format!("{path}:1: no package name")] };
    let Some((_, allowed)) = ARROWS.iter().find(|(owner, _)| *owner == name) else {
        return vec![format!("{path}:1: unknown crate {name}: give it a line in ARROWS")];
    };
    let mut offences = Vec::new();
    for Dependency { line, name: used, .. } in dependencies(toml) {
        let ours = ARROWS.iter().any(|(owner, _)| *owner == used);
        if ours && !allowed.contains(&used.as_str()) {
            offences.push(format!("{path}:{line}: {name} may not use {used}: see ARCHITECTURE.md"));
        }
        for (owner, without, why) in WITHOUT {
            if *owner == name && without.contains(&used.as_str()) {
                offences.push(format!("{path}:{line}: {name} does without {used}: {why}"));
            }
        }
    }
    offences
}

fn version_offences(path: &str, toml: &str) -> Vec<String> {
    let mut offences: Vec<_> = dependencies(toml)
        .into_iter()
        .filter(|found| !found.inherits)
        .map(|Dependency { line, name, .. }| {
            format!("{path}:{line}: {name} has its own version or path: use `workspace = true`")
        })
        .collect();
    if !toml.contains("[lints]\nworkspace = true") {
        offences.push(format!("{path}:1: no house lints: add `[lints] workspace = true`"));
    }
    offences
}

fn undecided(names: &[String], decisions: &str) -> Vec<String> {
    names
        .iter()
        .filter(|name| !name.starts_with("tagmill"))
        .filter(|name| !decisions.contains(&format!("| `{name}` |")))
        .map(|name| format!("Cargo.toml:1: {name} has no line in docs/decisions: say why it is in"))
        .collect()
}

fn unused_offences(path: &str, toml: &str, sources: &str) -> Vec<String> {
    let used = |name: &str| has_word(sources, &name.replace('-', "_"));
    dependencies(toml)
        .into_iter()
        .filter(|Dependency { name, .. }| !used(name))
        .map(|Dependency { line, name, .. }| {
            format!("{path}:{line}: {name} is not used: remove it")
        })
        .collect()
}

fn lock_offences(lock: &str) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut offences = Vec::new();
    let mut name = "";
    for (number, line) in lock.lines().enumerate() {
        let value = line.split('"').nth(1).unwrap_or_default();
        if line.starts_with("name = ") {
            name = value;
            let single = ONE_VERSION.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == *pattern,
            });
            if single && !taken.insert(name) {
                offences.push(format!("Cargo.lock:{}: a second {name}: unite them", number + 1));
            }
        }
        if line.starts_with("source = ") && value != REGISTRY {
            offences.push(format!("Cargo.lock:{}: {name} is not from crates.io", number + 1));
        }
    }
    offences
}

/// `inside` is a path below `storage/src`.
fn module_offences(inside: &str, source: &str, exports: &BTreeMap<String, String>) -> Vec<String> {
    let mut home: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    if home.last() == Some(&"mod") {
        home.pop();
    }
    let Some((own_place, own)) = place(&home) else {
        let unknown = home[0];
        return vec![format!(
            "storage/src/{inside}:1: unknown module {unknown}: give it a place in STORAGE_ORDER"
        )];
    };
    let mut offences = Vec::new();
    let code = without_tests(&code_of(source));
    for (line, path) in used_paths(&code, &home) {
        let at = format!("storage/src/{inside}:{line}");
        if path[0] == "*" {
            offences.push(format!("{at}: glob over the crate root: name what is used"));
            continue;
        }
        let exported = exports.get(path[0]).map(|module| module.split("::").collect::<Vec<_>>());
        let Some((used_place, used)) = place(&exported.unwrap_or(path)) else { continue };
        if used_place > own_place {
            offences.push(format!(
                "{at}: {own} may not know {used}: move the code, or hand in what it needs"
            ));
        }
        for (user, stranger, why) in STORAGE_STRANGERS {
            if *user == own && *stranger == used {
                offences.push(format!("{at}: {own} may not know {used}: {why}"));
            }
        }
    }
    offences
}

fn header_offence(path: &str, source: &str) -> Option<String> {
    let generated = path.contains("/generated/");
    (!generated && !source.starts_with("//! "))
        .then(|| format!("{path}:1: no header: open with `//!` and what the file is"))
}

fn size_offence(path: &str, source: &str) -> Option<String> {
    let lines = source.lines().count();
    let apart = path.contains("/generated/") || is_test_file(path);
    (!apart && lines > FILE_LINES_MAX).then(|| {
        format!("{path}:{FILE_LINES_MAX}: {lines} lines: split it by the state its parts own")
    })
}

fn banned_offences(path: &str, source: &str) -> Vec<String> {
    let code = code_of(source);
    // Tests of the engine may look at real files and clocks; nothing excuses the words banned everywhere.
    let outside_tests = without_tests(&code);
    let mut offences = Vec::new();
    for (word, under, except, instead) in BANNED {
        if !path.starts_with(under) || except.contains(&path) {
            continue;
        }
        let local = !under.is_empty();
        if local && is_test_file(path) {
            continue;
        }
        let text = if local { &outside_tests } else { &code };
        for (number, line) in text.lines().enumerate() {
            if has_word(line, word) {
                offences.push(format!("{path}:{}: `{word}`: {instead}", number + 1));
            }
        }
    }
    offences
}

fn doc_offences(path: &str, source: &str) -> Vec<String> {
    let marks = ["```ignore", concat!("```should", "_panic"), "```text,ignore"];
    let lines = source.lines().enumerate();
    lines
        .filter(|(_, line)| line.trim_start().starts_with("//"))
        .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)))
        .map(|(number, _)| {
            format!("{path}:{}: an example that does not run: use `text` or repair it", number + 1)
        })
        .collect()
}

fn note_offences(path: &str, text: &str) -> Vec<String> {
    let (never, with_issue) = (concat!("FIX", "ME"), concat!("TO", "DO"));
    let mut offences = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = if is_markdown(path) { without_code_spans(line) } else { line.to_owned() };
        if has_word(&line, never) {
            offences.push(format!("{path}:{}: {never}: repair it before it is merged", number + 1));
        }
        if has_word(&line, with_issue) && !names_issue(&line, with_issue) {
            let want = format!("{with_issue}(#12)");
            offences.push(format!("{path}:{}: write {want}, or do it now", number + 1));
        }
    }
    offences
}

fn folder_offence(name: &str) -> Option<String> {
    let fine = name.starts_with('.') || IGNORED.contains(&name) || FOLDERS.contains(&name);
    (!fine).then(|| format!("{name}/:1: a new folder at the root: nest it where it belongs"))
}

fn name_offence(path: &str) -> Vec<String> {
    let stems = path.trim_end_matches(".rs").split('/');
    stems
        .filter(|stem| VAGUE_NAMES.contains(stem))
        .map(|stem| format!("{path}:1: `{stem}` says nothing: name it after what it owns"))
        .collect()
}

fn number_offences(names: &[String]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut offences = Vec::new();
    for name in names.iter().filter(|name| *name != "README.md") {
        let number = name.split('-').next().unwrap_or_default();
        let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            offences.push(format!("docs/decisions/{name}:1: call it NNNN-what-was-decided.md"));
        } else if !taken.insert(number) {
            offences.push(format!("docs/decisions/{name}:1: number {number} is taken"));
        }
    }
    offences
}

/// Relative link targets with their line, anchors cut off; code blocks and code spans do not count.
fn links(markdown: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let line = without_code_spans(line);
        for part in line.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number + 1, path.to_owned()));
            }
        }
    }
    found
}

#[derive(Debug, PartialEq)]
struct Excerpt {
    line: usize,
    source: String,
    text: String,
}

/// Code blocks that follow a line `<!-- from path -->`.
fn excerpts(markdown: &str) -> Vec<Excerpt> {
    let mut found = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mark = line.strip_prefix("<!-- from ").and_then(|rest| rest.strip_suffix(" -->"));
        let Some(source) = mark else { continue };
        let block = lines.by_ref().skip_while(|(_, line)| line.is_empty()).skip(1);
        let text = block
            .map(|(_, line)| line)
            .take_while(|line| !line.starts_with("```"))
            .fold(String::new(), |text, line| text + line + "\n");
        found.push(Excerpt { line: number + 1, source: source.to_owned(), text });
    }
    found
}

// ---- reading Rust ---------------------------------------------------------------------------------------------------

/// The source with comments, texts and characters blanked out, line for line.
fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => comment_end(&chars, at),
            '"' => text_end(&chars, at),
            'r' if !follows_word(&chars, at) => raw_text_end(&chars, at).unwrap_or(at),
            '\'' => char_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)
}

fn comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut next = at;
    while next < chars.len() {
        match (chars[next], chars.get(next + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                next += 1;
                continue;
            }
        }
        next += 2;
        if depth == 0 {
            break;
        }
    }
    next
}

fn text_end(chars: &[char], at: usize) -> usize {
    let mut next = at + 1;
    while next < chars.len() && chars[next] != '"' {
        next += if chars[next] == '\\' { 2 } else { 1 };
    }
    (next + 1).min(chars.len())
}

/// End of `r"..."` or `r#"..."#`; `None` for a word that merely begins with r.
fn raw_text_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |place: &usize| {
        chars[*place] == '"'
            && chars[*place + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    Some((open + 1..chars.len()).find(closes).map_or(chars.len(), |place| place + 1 + hashes))
}

/// End of a character; `None` for a lifetime.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    if chars.get(at + 1) == Some(&'\\') {
        let rest = chars.get(at + 3..)?;
        return rest.iter().position(|c| *c == '\'').map(|length| at + 4 + length);
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

/// Whether the letter at `at` continues a word; `b` before `r` is a prefix of a raw text, not a word.
fn follows_word(chars: &[char], at: usize) -> bool {
    let is_word = |place: usize| chars[place].is_alphanumeric() || chars[place] == '_';
    let prefixed = at > 0 && matches!(chars[at - 1], 'b' | 'c') && (at < 2 || !is_word(at - 2));
    at > 0 && is_word(at - 1) && !prefixed
}

/// `code` with every item under `#[cfg(test)]` blanked out, line for line. Takes what [`code_of`] gives.
fn without_tests(code: &str) -> String {
    let mark = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(mark) {
        out.push_str(&rest[..start]);
        let end = start + mark.len() + item_length(&rest[start + mark.len()..]);
        out.extend(rest[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    out + rest
}

/// Bytes up to the `;` that ends an item, or the `}` that closes its body.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if c == '}' && depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Words, `::` and single signs of code, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                found.push((number + 1, &rest[..length]));
            }
            rest = &rest[length..];
        }
    }
    found
}

/// Paths from the crate root that `code` mentions, by `crate::` or by `super::`: their first two names at most.
/// `home` is the module the code is in.
fn used_paths<'a>(code: &'a str, home: &[&'a str]) -> Vec<(usize, Vec<&'a str>)> {
    let tokens = tokens(code);
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| *word);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut next = at;
        let mut supers = 0;
        while word(next) == "super" && word(next + 1) == "::" {
            supers += 1;
            next += 2;
        }
        if word(at) == "crate" && word(at + 1) == "::" {
            at = take_paths(&tokens, at + 2, &[], &mut found);
        } else if supers > 0 {
            let base = &home[..home.len().saturating_sub(supers)];
            at = take_paths(&tokens, next, base, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Adds the paths of the use tree at `at`, which continues `base`; gives the place after what was understood.
fn take_paths<'a>(
    tokens: &[(usize, &'a str)],
    at: usize,
    base: &[&'a str],
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| *word);
    let line = tokens.get(at).map_or(0, |(line, _)| *line);
    if base.len() >= 2 {
        found.push((line, base.to_vec()));
        return at + 1;
    }
    if word(at) != "{" {
        let own = matches!(word(at), "self" | "");
        let path: Vec<&str> = base.iter().copied().chain((!own).then(|| word(at))).collect();
        let deeper = !own && word(at + 1) == "::" && path.len() < 2;
        if deeper {
            return take_paths(tokens, at + 2, &path, found);
        }
        if !path.is_empty() {
            found.push((line, path));
        }
        return at + 1;
    }
    let mut next = at + 1;
    while !matches!(word(next), "}" | "") {
        next = take_paths(tokens, next, base, found);
        let mut depth = 0_usize;
        while !(depth == 0 && matches!(word(next), "," | "}" | "")) {
            match word(next) {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            next += 1;
        }
        next += usize::from(word(next) == ",");
    }
    next + 1
}

/// What `lib.rs` re-exports: name -> the module it comes from.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let code = without_tests(&code_of(lib));
    let tokens = tokens(&code);
    let mut found = BTreeMap::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].1 != "use" {
            at += 1;
            continue;
        }
        let words: Vec<&str> =
            tokens[at + 1..].iter().map(|token| token.1).take_while(|word| *word != ";").collect();
        at += words.len() + 1;
        let mut names = words
            .into_iter()
            .filter(|word| word.starts_with(char::is_alphabetic))
            .skip_while(|word| matches!(*word, "crate" | "self"))
            .peekable();
        let Some(first) = names.next() else { continue };
        let second = names.peek().copied().unwrap_or_default();
        if let Some((_, module)) = place(&[first, second]) {
            found.extend(names.map(|name| (name.to_owned(), module.to_owned())));
        }
    }
    found
}

/// Where in [`STORAGE_ORDER`] a path belongs, and the name it has there.
fn place(path: &[&str]) -> Option<(usize, &'static str)> {
    let find = |name: &str| {
        let mut all = STORAGE_ORDER.iter().copied().flatten().enumerate();
        all.find(|(_, listed)| **listed == name).map(|(place, listed)| (place, *listed))
    };
    let submodule = path.get(..2).and_then(|pair| find(&pair.join("::")));
    submodule.or_else(|| path.first().and_then(|first| find(first)))
}

// ---- reading TOML, markdown, lines ----------------------------------------------------------------------------------

#[derive(Debug, PartialEq)]
struct Dependency {
    line: usize,
    name: String,
    /// Whether version and path come from the root manifest.
    inherits: bool,
}

/// Entries of every `dependencies` section, dev and build ones included.
fn dependencies(toml: &str) -> Vec<Dependency> {
    let mut found: Vec<Dependency> = Vec::new();
    let mut inside = false;
    let mut table = false;
    let mut open = 0_usize;
    for (number, line) in toml.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if open == 0 && line.starts_with('[') {
            let section = line.trim_matches(['[', ']']);
            let name = section.rsplit('.').next().unwrap_or_default();
            inside = name.ends_with("dependencies");
            table = !inside && section.contains("dependencies.");
            if table {
                found.push(Dependency { line: number + 1, name: name.into(), inherits: false });
            }
            continue;
        }
        if open == 0
            && inside
            && let Some((key, value)) = line.split_once('=')
        {
            let (key, value) = (key.trim(), value.trim());
            let inherits = (key.ends_with(".workspace") && value == "true")
                || value.replace(' ', "").contains("workspace=true");
            let name = key.split('.').next().unwrap_or_default().trim_matches('"').to_owned();
            found.push(Dependency { line: number + 1, name, inherits });
        }
        if table && line.replace(' ', "") == "workspace=true" {
            found.last_mut().expect("the table pushed one").inherits = true;
        }
        open += line.matches(['[', '{']).count();
        open = open.saturating_sub(line.matches([']', '}']).count());
    }
    found
}

fn package_name(toml: &str) -> Option<&str> {
    let line = toml.lines().find(|line| line.starts_with("name = "))?;
    line.split('"').nth(1)
}

fn is_markdown(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "md")
}

fn without_code_spans(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Whether `word` stands in `line` and is not the middle of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open_end = !word.ends_with(is_word) || word.starts_with('#');
        !(word.starts_with(is_word) && before.is_some_and(is_word))
            && (open_end || !after.is_some_and(is_word))
    })
}

/// Whether every `note` in `line` is followed by `(#12)`.
fn names_issue(line: &str, note: &str) -> bool {
    line.match_indices(note).all(|(at, _)| {
        let rest = &line[at + note.len()..];
        let Some((number, _)) = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')'))
        else {
            return false;
        };
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Whether a file holds only tests: then it may be long and look anywhere.
fn is_test_file(path: &str) -> bool {
    let stem = path.trim_end_matches(".rs");
    path.starts_with("tests/") || stem.ends_with("tests") || path.contains("/tests/")
}

// ---- the repository -------------------------------------------------------------------------------------------------

struct SourceFile {
    /// From the root, levels separated by `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    // Cargo names the folder of the tests crate; a bare `rustc --test` is run at the root.
    match option_env!("CARGO_MANIFEST_DIR") {
        Some(tests) => Path::new(tests).parent().expect("the crate lies in the root").to_owned(),
        None => std::env::current_dir().expect("there is a current folder"),
    }
}

fn sources() -> Vec<SourceFile> {
    let sources = files(&["rs"]);
    assert!(sources.iter().any(|file| file.path == "tests/tidy.rs"), "cannot find myself");
    sources
}

/// Manifests of the workspace's crates. `fuzz` is a workspace of its own, which a nightly compiler builds.
fn manifests() -> Vec<SourceFile> {
    let all = files(&["toml"]);
    all.into_iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && !file.path.starts_with("fuzz/"))
        .collect()
}

/// Text files whose name ends in one of `kinds`, in order of their paths.
fn files(kinds: &[&str]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    walk(&root(), "", kinds, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(folder: &Path, prefix: &str, kinds: &[&str], found: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).expect("folders are readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let hidden = name.starts_with('.') && name != ".ci";
        if entry.path().is_dir() {
            if !hidden && !IGNORED.contains(&name.as_str()) {
                walk(&entry.path(), &format!("{path}/"), kinds, found);
            }
        } else if kinds.contains(&name.rsplit('.').next().unwrap_or_default()) {
            let text = fs::read_to_string(entry.path()).expect("text files are UTF-8");
            found.push(SourceFile { path, text });
        }
    }
}

fn report(offences: impl IntoIterator<Item = String>) {
    let offences: Vec<String> = offences.into_iter().collect();
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

// ---- every rule can fail --------------------------------------------------------------------------------------------

/// Lines of the offences, from `path:line: ..`.
fn lines_of(offences: &[String]) -> Vec<usize> {
    let number = |offence: &String| offence.split(':').nth(1).and_then(|line| line.parse().ok());
    offences.iter().map(|offence| number(offence).expect("offences name a line")).collect()
}

#[test]
fn self_test_crate_arrows() {
    let bad = "[package]\nname = \"tagmill-storage\"\n[dependencies]\ntokio.workspace = true\n\
               [dev-dependencies]\ntagmill = { workspace = true }\n";
    assert_eq!(lines_of(&crate_offences("storage/Cargo.toml", bad)), [4, 6]);
    let good = "[package]\nname = \"tagmill\"\n[dependencies]\ntagmill-storage.workspace = true\n";
    assert!(crate_offences("query/Cargo.toml", good).is_empty());
    let stranger = "[package]\nname = \"tagmill-extra\"\n";
    assert_eq!(lines_of(&crate_offences("extra/Cargo.toml", stranger)), [1]);
}

#[test]
fn self_test_versions() {
    let bad = "[lints]\nworkspace = true\n[dependencies]\na = \"1\"\nb.workspace = true\n\
               c = { path = \"../c\", features = [\n\"x = y\",\n] }\n[dependencies.d]\nversion = \"2\"\n\
               [dependencies.e]\nworkspace = true\n";
    assert_eq!(lines_of(&version_offences("x/Cargo.toml", bad)), [4, 6, 9]);
    assert_eq!(lines_of(&version_offences("x/Cargo.toml", "[dependencies]\n")), [1]);
}

#[test]
fn self_test_unused_dependencies() {
    let toml = "[dependencies]\ntokio-stream.workspace = true\nzstd.workspace = true\n";
    assert_eq!(
        lines_of(&unused_offences("a/Cargo.toml", toml, "use tokio_stream::wrappers;")),
        [3]
    );
}

#[test]
fn self_test_decisions() {
    let names = ["zstd".to_owned(), "left-pad".to_owned(), "tagmill".to_owned()];
    assert_eq!(undecided(&names, "| `zstd` | compression |").len(), 1);
    let numbers = ["0001-a.md".to_owned(), "0001-b.md".to_owned(), "notes.md".to_owned()];
    assert_eq!(number_offences(&numbers).len(), 2);
}

#[test]
fn self_test_lock_file() {
    let bad = "name = \"arrow-ipc\"\nname = \"syn\"\nname = \"syn\"\nname = \"arrow-ipc\"\n\
               source = \"git+https://example.org/arrow\"\n";
    assert_eq!(lines_of(&lock_offences(bad)), [4, 5]);
}

#[test]
fn self_test_module_arrows() {
    let exports = exports(
        "mod engine;\npub use engine::{Engine, Session as EngineSession};\npub use tag::TagId;\n\
         #[cfg(test)]\nuse scan::Hidden;\n",
    );
    assert_eq!(exports.get("EngineSession").map(String::as_str), Some("engine"));
    assert_eq!(exports.get("TagId").map(String::as_str), Some("tag"));
    assert!(!exports.contains_key("Hidden"));

    let bad = "use crate::limits;\n\
               use crate::{bytes::Reader, engine, scan::{Scan, merge}};\n\
               // use crate::engine::Engine;\n\
               fn f() { crate::Engine::open(\"crate::engine\") }\n\
               fn g(tag: crate::TagId, own: crate::wal::Record, seq: crate::Unlisted) {}\n\
               use super::super::manifest::Edit;\n\
               use super::writer;\n\
               use crate::*;\n\
               #[cfg(test)]\nmod tests { use crate::engine::Engine; }\n";
    let found = module_offences("wal/record.rs", bad, &exports);
    assert_eq!(lines_of(&found), [2, 2, 2, 4, 6, 8], "{found:#?}");
    let offences = |inside: &str, source: &str| module_offences(inside, source, &exports).len();
    assert_eq!(offences("segment/mod.rs", "use crate::head::{Head, run};\n"), 2);
    assert_eq!(offences("segment/mod.rs", "use super::scan;\n"), 1);
    assert_eq!(offences("time.rs", "use super::engine::X;\n"), 1);
    assert_eq!(offences("novel.rs", ""), 1);
    // A submodule with a place of its own.
    assert_eq!(offences("maintenance/seal.rs", "use crate::engine::core::{Core, lock};\n"), 0);
    assert_eq!(offences("maintenance/seal.rs", "use crate::engine::{core::Core, tags};\n"), 1);
    assert_eq!(offences("engine/core.rs", "use super::gateways::Sessions;\n"), 1);
    assert_eq!(offences("engine/core.rs", "use crate::{scan::View, ids::{Seq, SegmentId}};\n"), 0);
    assert_eq!(offences("engine/tags.rs", "use super::core::Core;\nuse super::Engine;\n"), 0);
}

#[test]
fn self_test_headers_and_sizes() {
    assert!(header_offence("a/src/x.rs", "use std::fs;\n").is_some());
    assert!(header_offence("a/src/x.rs", "//! What it is.\n").is_none());
    let long = "\n".repeat(FILE_LINES_MAX + 1);
    assert!(size_offence("a/src/x.rs", &long).is_some());
    assert!(size_offence("a/src/x_tests.rs", &long).is_none());
    assert!(size_offence("a/src/x.rs", &long[1..]).is_none());
}

#[test]
fn self_test_banned_words() {
    let bad = "use std::fs::File;\nfn f() { unsafe { g() } }\nlet now = SystemTime::now();\n\
               println!(\"unsafe\"); // unsafe\n#[cfg(test)]\nmod tests {\n\
               #[test]\n#[ignore = \"slow\"]\nfn t() { std::fs::read(p); }\n}\n";
    let mut found = lines_of(&banned_offences("storage/src/wal/mod.rs", bad));
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, [1, 2, 3, 4, 8]);
    let real = "use std::fs;\nfn f() { rustix::fs::fsync(g) }\n";
    assert!(banned_offences("storage/src/disk/real.rs", real).is_empty());
    assert!(
        banned_offences("server/src/main.rs", "println!();\n#![deny(unsafe_code)]\n").is_empty()
    );
}

#[test]
fn self_test_doc_examples() {
    let bad = "/// ```ignore\n/// ```\n/// ```text\n/// ```\n";
    assert_eq!(lines_of(&doc_offences("a.rs", bad)), [1]);
}

#[test]
fn self_test_notes() {
    let (never, with_issue) = (concat!("FIX", "ME"), concat!("TO", "DO"));
    let text = format!(
        "// {never} later\n// {with_issue}: x\n// {with_issue}(#12): y\n// {with_issue}(#): z\n\
         // {with_issue}(someone)\n// {with_issue}S are fine\n"
    );
    assert_eq!(lines_of(&note_offences("a.rs", &text)), [1, 2, 4, 5]);
    assert!(note_offences("a.md", &format!("Write `{with_issue}(#n)`.")).is_empty());
    assert_eq!(note_offences("a.md", &format!("{with_issue} write this")).len(), 1);
}

#[test]
fn self_test_names_and_folders() {
    assert!(folder_offence("scripts").is_some());
    assert!(folder_offence("storage").is_none() && folder_offence(".ci").is_none());
    assert_eq!(name_offence("server/src/utils/mod.rs").len(), 1);
    assert_eq!(name_offence("server/src/connection_manager.rs").len(), 0);
    assert_eq!(name_offence("server/src/helpers.rs").len(), 1);
}

#[test]
fn self_test_links() {
    let text = "[a](x.md) and [b](y.md#part \"title\") and `[c](code.md)`\n\
                ```\n[d](fenced.md)\n```\n[e](https://example.org) [f](#here) ![g](g.png)\n";
    let found = links(text);
    let want = [(1, "x.md"), (1, "y.md"), (5, "g.png")];
    assert_eq!(found, want.map(|(line, target)| (line, target.to_owned())));
}

#[test]
fn self_test_excerpts() {
    let text = "a\n<!-- from x/y.rs -->\n\n```rust\nlet a;\n\nlet b;\n```\nc\n<!-- from z.rs -->\n```\n```\n";
    let want = [(2, "x/y.rs", "let a;\n\nlet b;\n"), (10, "z.rs", "")];
    let want = want.map(|(line, source, text)| Excerpt {
        line,
        source: source.to_owned(),
        text: text.to_owned(),
    });
    assert_eq!(excerpts(text), want);
}

#[test]
fn self_test_reading_rust() {
    let source = "let a = \"x // \\\" y\"; // note\nlet b = r#\"un\"safe\"#; /* /* in */ out */ let c = '\"';\n\
                  fn f<'a>(x: &'a str) -> br\"raw\" {}\nlet attr = r;\n";
    let code = code_of(source);
    assert_eq!(code.lines().count(), source.lines().count());
    let words: Vec<&str> = tokens(&code).into_iter().map(|(_, word)| word).collect();
    let want =
        "let a = ; let b = ; let c = ; fn f < ' a > ( x : & ' a str ) - > b { } let attr = r ;";
    assert_eq!(words, want.split(' ').collect::<Vec<_>>());
}
