//! The planted bugs are not in a build that did not ask for them.

use tagmill_storage::planted;

#[test]
fn this_build_holds_no_planted_bugs() {
    assert_eq!(planted::IS_POSSIBLE, cfg!(feature = "planted"), "another crate planted them");
    assert!(planted::Bug::ALL.len() >= 20);
}
