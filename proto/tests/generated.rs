//! The committed code is what the `.proto` files give.
//!
//! `UPDATE_GENERATED=1 cargo test -p tagmill-proto` writes it anew.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::fs;
use std::path::Path;

use tagmill_proto::Message as _;

const FILES: [&str; 4] = ["tag", "ingest", "admin", "query"];

/// Fields that the view leaves as bytes: (field as the `.proto` has it, as the view has it).
const LEFT_AS_BYTES: [(&str, &str); 5] = [
    ("DefineTags define_tags = 2;", "bytes define_tags = 2;"),
    ("DefineTagSet define_tag_set = 3;", "bytes define_tag_set = 3;"),
    ("Batch batch = 4;", "bytes batch = 4;"),
    ("DefineTags define = 2;", "bytes define = 2;"),
    ("NamedBatch batch = 3;", "bytes batch = 3;"),
];

/// Messages that hold such a field; the view shares all others with `v1`.
const CHANGED: [&str; 3] = ["ClientMessage", "DefineTagsRequest", "WriteRequest"];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = tempfile::tempdir().unwrap();

    let files = FILES.map(|name| root.join(format!("tagmill/v1/{name}.proto")));
    let descriptors = protox::compile(files, [root]).unwrap();
    let encoded = descriptors.encode_to_vec();
    compare_bytes(&encoded, &root.join("src/generated/descriptors.bin"));
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(scratch.path())
        .compile_fds(descriptors)
        .unwrap();
    compare(&scratch.path().join("tagmill.v1.rs"), &root.join("src/generated/tagmill.v1.rs"));

    make_view(root, scratch.path());
    let view = root.join("src/generated/view/tagmill.v1.rs");
    compare(&scratch.path().join("out/tagmill.v1.rs"), &view);
}

fn make_view(root: &Path, scratch: &Path) {
    let folder = scratch.join("tagmill/v1");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(scratch.join("out")).unwrap();
    fs::copy(root.join("tagmill/v1/tag.proto"), folder.join("tag.proto")).unwrap();
    let mut text = fs::read_to_string(root.join("tagmill/v1/ingest.proto")).unwrap();
    for (field, left) in LEFT_AS_BYTES {
        assert_eq!(text.matches(&format!(" {field}")).count(), 1, "{field}");
        text = text.replace(&format!(" {field}"), &format!(" {left}"));
    }
    let path = folder.join("ingest.proto");
    fs::write(&path, text).unwrap();

    let descriptors = protox::compile([path], [scratch]).unwrap();
    let mut build = tonic_prost_build::configure().bytes(".").out_dir(scratch.join("out"));
    for file in &descriptors.file {
        let messages = file.message_type.iter().filter_map(|message| message.name.as_deref());
        let enums = file.enum_type.iter().filter_map(|item| item.name.as_deref());
        for name in messages.chain(enums).filter(|name| !CHANGED.contains(name)) {
            build = build.extern_path(format!(".tagmill.v1.{name}"), format!("crate::v1::{name}"));
        }
    }
    build.compile_fds(descriptors).unwrap();
}

fn compare(fresh: &Path, committed: &Path) {
    compare_bytes(&fs::read(fresh).unwrap(), committed);
}

fn compare_bytes(fresh: &[u8], committed: &Path) {
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(committed, fresh).unwrap();
        return;
    }
    let current = fs::read(committed).unwrap_or_default();
    let path = committed.display();
    assert!(
        current == fresh,
        "{path} is not what the .proto files give: run UPDATE_GENERATED=1 cargo test -p tagmill-proto"
    );
}
