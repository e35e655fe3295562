//! `--metrics-file`: figures of backups for monitoring.

use std::path::Path;

use crate::{Place, assert_says, flip};

fn value(path: &Path, name: &str) -> Option<f64> {
    crate::common::metric(&std::fs::read_to_string(path).unwrap(), name)
}

#[test]
fn create_and_verify_note_what_they_have_done() {
    let place = Place::made(41, 60);
    let path = place.path("kyrodb.prom");
    let file = path.to_str().unwrap();
    let before = kyrodb::clock::unix_ms() / 1000;
    let id = place.create(&["--metrics-file", file]);
    let item = &place.list()[0];
    let of_the_list = |key: &str| item[key].as_u64().map(|value| value as f64);
    let value = |name: &str| value(&path, name);
    assert_eq!(value("kyrodb_backup_create_succeeded"), Some(1.0));
    let made = value("kyrodb_backup_last_success_timestamp_seconds");
    assert_eq!(made, of_the_list("timestamp"));
    assert!(made >= Some(before as f64));
    assert_eq!(value("kyrodb_backup_last_size_bytes"), of_the_list("size_bytes"));
    assert_eq!(value("kyrodb_backup_last_documents"), of_the_list("vector_count"));
    assert!(value("kyrodb_backup_last_duration_seconds") > Some(0.0));
    assert_eq!(value("kyrodb_backup_last_verified_timestamp_seconds"), None);
    place.run(&["verify", &id, "--metrics-file", file]);
    assert_eq!(value("kyrodb_backup_verify_succeeded"), Some(1.0));
    let verified = value("kyrodb_backup_last_verified_timestamp_seconds");
    assert!(verified >= made && made.is_some());

    // A failed run is noted, and the time of the last good one stays.
    flip(&place.file(&id, "wal_"), 9_000);
    place.fails(&["verify", &id, "--metrics-file", file]);
    assert_eq!(value("kyrodb_backup_verify_succeeded"), Some(0.0));
    assert_eq!(value("kyrodb_backup_last_verified_timestamp_seconds"), verified);
    std::fs::remove_file(place.data_dir().join("MANIFEST")).unwrap();
    place.fails(&["create", "--metrics-file", file]);
    assert_eq!(value("kyrodb_backup_create_succeeded"), Some(0.0));
    assert_eq!(value("kyrodb_backup_last_success_timestamp_seconds"), made);
}

#[test]
fn a_file_that_can_not_be_had_is_told_before_a_backup_is_made() {
    let place = Place::made(42, 20);
    let other = place.path("other.prom");
    std::fs::write(&other, "node_time_seconds 3\n").unwrap();
    let said = place.fails(&["create", "--metrics-file", other.to_str().unwrap()]);
    assert_says(&said, &["other.prom", "something else", "name another file"]);
    let nowhere = place.path("nowhere/kyrodb.prom");
    let said = place.fails(&["create", "--metrics-file", nowhere.to_str().unwrap()]);
    assert_says(&said, &["nowhere/kyrodb.prom", "directory"]);
    assert!(!place.backup_dir().exists(), "nothing was made");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "node_time_seconds 3\n");
}
