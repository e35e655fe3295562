//! Arguments, output and exit codes.

use crate::{Place, assert_says, said};

#[test]
fn wrong_usage_exits_with_2() {
    let place = Place::new(16);
    let cases: [(&[&str], &str); 12] = [
        (&[], "Usage"),
        (&["cerate"], "create"),
        (&["create", "--incremental"], "--reference"),
        (&["create", "--reference", "x"], "--incremental"),
        (&["list", "--format", "xml"], "table"),
        (&["verify"], "ID"),
        (&["verify", "a", "--backup-id", "b"], "cannot be used"),
        (&["restore"], "--point-in-time"),
        (&["restore", "--backup-id", "a", "--point-in-time", "1"], "cannot be used"),
        (&["restore", "--point-in-time", "yesterday"], "yesterday"),
        (&["prune", "--keep-daily", "many"], "many"),
        (&["list", "--bakcup-dir", "x"], "--backup-dir"),
    ];
    for (arguments, part) in cases {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
        let output = command.args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert_says(&said(&output), &[part]);
    }
    assert!(!place.backup_dir().exists());
}

#[test]
fn no_backups_are_an_empty_list() {
    let place = Place::new(17);
    assert_eq!(place.run(&["list", "--json"]), "[]\n");
    assert_eq!(place.run(&["list", "--format", "json"]), "[]\n");
    assert_says(&place.run(&["list"]), &["No backups in", "backups"]);
    assert_says(&place.run(&["prune"]), &["0 removed, 0 kept"]);
    for id in ["20260101-000000-0000", "../data", ""] {
        let said = place.fails(&["verify", "--backup-id", id]);
        assert_says(&said, &["there is no backup", "`list` shows"]);
    }
    assert_says(&place.fails(&["restore", "--point-in-time", "1"]), &["there are no backups in"]);
    assert_says(&place.fails(&["create"]), &["no backup was made", "no MANIFEST", "--data-dir"]);
    assert!(!place.backup_dir().exists());
    std::fs::create_dir_all(place.backup_dir().join("lost+found")).unwrap();
    std::fs::create_dir_all(place.backup_dir().join("other")).unwrap();
    let output = place.command(&["list", "--json"]).output().unwrap();
    assert_eq!(said(&output), "[]\n", "whatever else is there is nobody's business");
}

#[test]
fn backups_are_listed_newest_first_as_table_and_json() {
    let place = Place::made(18, 40);
    let vectors = place.contents.len() as u64;
    let printed = place.run(&["create-full", "--description", "before the move"]);
    let first = printed.lines().next().unwrap().strip_prefix("Backup ID: ").unwrap().to_owned();
    assert_says(&printed, &["Type:      Full", "Size: ", &format!("Vectors:   {vectors}\n")]);
    let second = place.create_on(&first);
    let listed = place.list();
    let ids: Vec<&str> = listed.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&second, &first]);
    let item = listed[1].as_object().unwrap();
    let mut keys: Vec<&str> = item.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "backup_type",
            "checksum",
            "description",
            "id",
            "parent_id",
            "size_bytes",
            "timestamp",
            "vector_count",
        ]
    );
    assert_eq!(
        (&item["backup_type"], &item["description"]),
        (&"Full".into(), &"before the move".into())
    );
    assert_eq!((&item["vector_count"], item["parent_id"].is_null()), (&vectors.into(), true));
    assert_eq!(listed[0]["backup_type"], "Incremental");
    assert_eq!(listed[0]["parent_id"], first.as_str());
    let table = place.run(&["list"]);
    let lines: Vec<&str> = table.lines().collect();
    // `list | head -1` is the newest backup: only a terminal sees the header.
    assert_eq!(lines.len(), 2, "{table}");
    assert_says(lines[0], &[&second, "Incremental", &first]);
    assert_says(lines[1], &[&first, "Full", " UTC", "before the move"]);
    // An unreadable backup does not hide the others.
    std::fs::write(place.backup_dir().join(&second).join("backup.json"), "{").unwrap();
    let output = place.command(&["list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_says(&said(&output), &["warning", &second, "is damaged", &first, "before the move"]);
}
