//! Manifest, registry and checkpoint: the files that say what the others mean.

use tagmill_storage::fuzzing::books::{
    Checkpoint, REGISTRY_PATH, read_manifest, read_registry, seal_manifest, seal_registry,
    write_manifest, write_registry,
};

use super::{check_refusal, empty_disk};

/// Tags of the database whose checkpoint is read.
const TAGS: usize = 3_000;

/// Any bytes are a manifest or refused; what one says is written and read again to the same.
///
/// An odd first byte: renew checksums.
pub fn manifest(data: &[u8]) {
    let [flags, rest @ ..] = data else { return };
    let mut file = rest.to_vec();
    let name = if flags & 1 == 1 { seal_manifest(&mut file) } else { None };
    let name = name.unwrap_or_else(|| "manifest-0000000000000001.log".into());
    let (disk, shared) = empty_disk();
    disk.replace(&name, &file);
    let everything = match read_manifest(&shared) {
        Ok(Some(everything)) => everything,
        Ok(None) => return, // its number is none that a manifest may have
        Err(error) => return check_refusal(&error),
    };
    let (_, other) = empty_disk();
    write_manifest(&other, &everything).expect("a healthy disk");
    assert_eq!(read_manifest(&other).expect("our own manifest reads"), Some(everything));
}

/// Any bytes are a registry or refused; its changes are written and read again to the same.
///
/// An odd first byte: renew checksums. The second byte says how much of the file is not valid.
pub fn registry(data: &[u8]) {
    let [flags, beyond, rest @ ..] = data else { return };
    let mut file = rest.to_vec();
    if flags & 1 == 1 {
        seal_registry(&mut file);
    }
    let (disk, shared) = empty_disk();
    disk.replace(REGISTRY_PATH, &file);
    let valid = (file.len() as u64).saturating_sub(u64::from(*beyond));
    let changes = match read_registry(&shared, valid) {
        Ok(changes) => changes,
        Err(error) => return check_refusal(&error),
    };
    let (_, other) = empty_disk();
    let valid = write_registry(&other, &changes).expect("a healthy disk");
    assert_eq!(read_registry(&other, valid).expect("our own registry reads"), changes);
}

/// Any bytes are a checkpoint or refused; one that reads is written and read again, and then written the same.
///
/// The first byte is its number; an odd one: renew the checksum.
pub fn checkpoint(data: &[u8]) {
    let [number, rest @ ..] = data else { return };
    let mut file = rest.to_vec();
    let number = u64::from(*number);
    if number % 2 == 1 {
        Checkpoint::seal(&mut file, number);
    }
    let (disk, shared) = empty_disk();
    disk.replace(&Checkpoint::path(number), &file);
    let checkpoint = match Checkpoint::read(&shared, number, TAGS) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return check_refusal(&error),
    };
    checkpoint.write(&shared, 1_000).expect("a healthy disk");
    let again = Checkpoint::read(&shared, 1_000, TAGS).expect("our own checkpoint reads");
    disk.lose(&Checkpoint::path(1_001));
    again.write(&shared, 1_001).expect("a healthy disk");
    let [first, second] = [1_000, 1_001].map(|number| disk.bytes(&Checkpoint::path(number)));
    let [first, second] = [first, second].map(|bytes| bytes.expect("it was written"));
    // The checksums differ by their numbers.
    assert_eq!(first[..28], second[..28]);
    assert_eq!(first[32..], second[32..]);
}
