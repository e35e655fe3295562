//! Chains of incremental backups, and pruning them.

use crate::common::{Process, runtime};
use crate::{Place, SETTINGS, assert_contents, assert_says, snapshot};

fn size(place: &Place, id: &str) -> u64 {
    let list = place.list();
    let item = list.iter().find(|item| item["id"] == id).unwrap();
    item["size_bytes"].as_u64().unwrap()
}

#[test]
fn a_chain_with_a_snapshot_in_between_is_restored_at_each_of_its_backups() {
    restores(Place::new(3));
}

pub(crate) fn restores(mut place: Place) {
    let mut process = Process::start(&place.data_dir(), SETTINGS);
    let mut made = Vec::new();
    place.change(&process, 400);
    made.push((place.create(&["--description", "the first"]), place.contents.clone()));
    for round in 0..3 {
        runtime().block_on(async { snapshot(&mut process.client().await).await });
        place.change(&process, 60);
        if round == 1 {
            process.stop();
            process = Process::start(&place.data_dir(), SETTINGS);
        }
        let id = place.create_on(&made.last().unwrap().0);
        made.push((id, place.contents.clone()));
    }
    process.stop();
    // A log at rest has one more group, unless it was at rest before the last backup; then nothing is written, and
    // nothing is copied.
    for is_at_rest in [false, true] {
        let id = place.create_on(&made.last().unwrap().0);
        assert!(!is_at_rest || size(&place, &id) == 0);
        made.push((id, place.contents.clone()));
    }
    for (index, (id, contents)) in made.iter().enumerate() {
        assert_says(&place.run(&["verify", id]), &[id, "is good", &contents.len().to_string()]);
        let process = place.restored(&format!("restored{index}"), &["--backup-id", id]);
        assert_contents(&process, contents);
        process.stop();
    }
    let listed = place.list();
    let parents: Vec<_> = listed.iter().rev().map(|item| item["parent_id"].as_str()).collect();
    let ids = made.iter().map(|(id, _)| Some(id.as_str()));
    assert_eq!(parents, [None].into_iter().chain(ids.take(5)).collect::<Vec<_>>());
    assert_eq!(listed[5]["description"], "the first");
}

#[test]
fn an_empty_database_comes_back_empty() {
    let mut place = Place::made(19, 0);
    let id = place.create(&[]);
    assert_says(&place.run(&["verify", &id]), &["is good", "0 vectors"]);
    let process = place.restored("restored", &["--backup-id", &id]);
    assert_contents(&process, &place.contents);
    place.change(&process, 20);
    assert_contents(&process, &place.contents);
    process.stop();
}

/// Files of a server that belong to no shard.
#[test]
fn small_files_beside_the_shards_are_in_it_and_keys_are_not() {
    let place = Place::made(4, 10);
    let data_dir = place.data_dir();
    std::fs::create_dir(data_dir.join("usage")).unwrap();
    std::fs::write(data_dir.join("tenants.json"), "{\"acme\": 0}").unwrap();
    std::fs::write(data_dir.join("usage/usage_state.snap"), "counters").unwrap();
    std::fs::write(data_dir.join("api_keys.yaml"), "api_keys: []").unwrap();
    let id = place.create(&[]);
    place.run(&["verify", "--backup-id", &id]);
    let target = place.path("restored");
    crate::succeeds(&mut place.command_on(&target, &["restore", "--backup-id", &id]));
    let content = |name: &str| std::fs::read_to_string(target.join(name)).unwrap();
    assert_eq!(content("tenants.json"), "{\"acme\": 0}");
    assert_eq!(content("usage/usage_state.snap"), "counters");
    assert!(!target.join("api_keys.yaml").exists() && !target.join("LOCK").exists());
}

#[test]
fn prune_keeps_what_a_kept_backup_needs() {
    prunes(Place::new(5));
}

pub(crate) fn prunes(place: Place) {
    const NOTHING: [&str; 9] = [
        "prune",
        "--keep-hourly",
        "0",
        "--keep-daily",
        "0",
        "--keep-weekly",
        "0",
        "--keep-monthly",
        "0",
    ];
    let place = place.filled(50);
    let first = place.create(&[]);
    let second = place.create_on(&first);
    assert_says(&place.run(&NOTHING), &[&first, "needs it", "0 removed, 2 kept"]);
    let third = place.create(&[]);
    let dry = place.run(&[&NOTHING[..], &["--dry-run"]].concat());
    assert_says(&dry, &["Would remove", &first, &second, "2 removed, 1 kept"]);
    assert_eq!(place.list().len(), 3);
    let said = place.run(&[&NOTHING[..], &["--min-age-days", "1"]].concat());
    assert_says(&said, &["0 removed, 3 kept"]);
    assert_says(&place.run(&["prune", "--older-than-days", "1"]), &["0 removed, 3 kept"]);
    let said = place.run(&NOTHING);
    assert_says(&said, &[&format!("Removed {first}"), &format!("Removed {second}")]);
    assert_says(&said, &["2 removed, 1 kept"]);
    assert_eq!(place.list().len(), 1);
    assert_eq!(place.left(), [third.clone()].into());
    place.run(&["verify", &third]);
}
