//! States after crashes and failures of the simulated disk, and the faults of order that it notices by itself.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

fn block(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK]
}

/// A disk with the files `a` and `b`, durable.
fn with_files() -> SimDisk {
    let disk = SimDisk::default();
    run(async {
        for (name, byte) in [("a", 1), ("b", 2)] {
            let file = disk.create(name, BLOCK as u64).await.unwrap();
            file.write_at(block(byte), 0).await.unwrap();
            file.sync_data().await.unwrap();
        }
        disk.sync_dir().await.unwrap();
    });
    disk
}

/// All states that may be found, by the outcome of many tosses.
fn outcomes<T: Ord>(disk: &SimDisk, see: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..400).map(|seed| see(&disk.after(Crash::Random(seed)))).collect()
}

fn names(disk: &SimDisk) -> String {
    run(disk.list()).unwrap().concat()
}

fn first(disk: &SimDisk, name: &str) -> Vec<u8> {
    disk.content(name).iter().step_by(SECTOR).copied().collect()
}

#[test]
fn names_are_durable_one_by_one_and_renames_whole() {
    let disk = with_files();
    run(async {
        disk.rename("a", "c").await.unwrap();
        disk.remove("b").await.unwrap();
        disk.begin("d").await.unwrap();
    });
    let all = ["ab", "abd", "a", "ad", "bc", "bcd", "c", "cd"];
    assert_eq!(outcomes(&disk, names), all.map(String::from).into());
    assert_eq!(names(&disk.after(Crash::Nothing)), "ab");
    assert_eq!(names(&disk.after(Crash::Prefix(1))), "bc");
    assert_eq!(names(&disk.after(Crash::Suffix(1))), "abd");
    run(disk.sync_dir()).unwrap();
    assert_eq!(outcomes(&disk, names), ["cd".to_owned()].into());
}

#[test]
fn a_change_of_a_name_is_never_without_those_before_it() {
    let disk = with_files();
    run(async {
        disk.rename("b", "a").await.unwrap();
        disk.begin("b").await.unwrap();
        disk.rename("b", "c").await.unwrap();
    });
    let see = |disk: &SimDisk| (names(disk), first(disk, "a")[0]);
    let found = outcomes(&disk, see);
    let expected = [("ab", 1), ("a", 2), ("ab", 2), ("ac", 2)];
    assert_eq!(found, expected.map(|(names, a)| (names.to_owned(), a)).into());
    // Each with the changes that it needs, and all but the first: none.
    assert_eq!(see(&disk.after(Crash::Only(2))), ("ac".into(), 2));
    assert_eq!(see(&disk.after(Crash::Without(0))), ("ab".into(), 1));
}

#[test]
fn a_length_is_old_or_new_with_any_data() {
    let disk = with_files();
    run(async {
        let file = disk.begin("c").await.unwrap();
        disk.sync_dir().await.unwrap();
        file.write_at(block(3), 0).await.unwrap();
    });
    let see = |disk: &SimDisk| (disk.content("c").len(), first(disk, "c").contains(&3));
    assert_eq!(outcomes(&disk, see), [(0, false), (BLOCK, true)].into());
    assert_eq!(see(&disk.after(Crash::Suffix(1))), (BLOCK, false));
    assert_eq!(see(&disk.after(Crash::Without(8))), (0, false));
    // A cut as well.
    let disk = with_files();
    run(async { disk.open("a").await.unwrap().truncate(0).await.unwrap() });
    assert_eq!(outcomes(&disk, |disk| disk.content("a").len()), [0, BLOCK].into());
    // A file that is begun again loses its content, under the name that it keeps.
    run(disk.begin("b")).unwrap();
    assert_eq!(outcomes(&disk, |disk| disk.content("b").len()), [0, BLOCK].into());
}

#[test]
fn sectors_are_torn_one_by_one_or_block_by_block() {
    let disk = with_files();
    run(async {
        let file = disk.open("a").await.unwrap();
        file.write_at(block(3), 0).await.unwrap();
        file.write_at(block(4), 0).await.unwrap();
    });
    let found = outcomes(&disk, |disk| first(disk, "a"));
    assert!(found.len() > 300, "{}", found.len());
    assert!(found.iter().flatten().all(|byte| [1, 3, 4].contains(byte)));
    let half = disk.after(Crash::HalfBlocks);
    assert_eq!(first(&half, "a"), [4, 4, 4, 4, 1, 1, 1, 1]);
    let whole: BTreeSet<_> =
        (0..50).map(|seed| first(&disk.after_torn(Crash::Random(seed), BLOCK), "a")).collect();
    assert_eq!(whole, [1, 3, 4].map(|byte| vec![byte; 8]).into());
}

#[test]
fn writes_of_a_failed_sync_are_not_made_durable_by_a_later_one() {
    let disk = with_files();
    run(async {
        let file = disk.open("a").await.unwrap();
        file.write_at(block(3), 0).await.unwrap();
        disk.fault_at(disk.calls() + 1, Fault::Fails(Kind::Failed));
        file.sync_data().await.unwrap_err();
        // Another process finds it, and syncs it in vain.
        let disk = disk.restarted();
        let file = disk.open("a").await.unwrap();
        assert_eq!(disk.content("a"), block(3));
        file.sync_data().await.unwrap();
        assert!(outcomes(&disk, |disk| first(disk, "a")).len() > 100);
        assert_eq!(first(&disk.after(Crash::Nothing), "a"), [1; 8]);
        // Only another write makes it durable, and nothing brings the old one back.
        file.write_at(block(4), 0).await.unwrap();
        file.sync_data().await.unwrap();
        assert_eq!(outcomes(&disk, |disk| disk.content("a")), [block(4)].into());
    });
}

#[test]
fn a_fault_has_no_effect_or_a_part_once_or_always() {
    let disk = with_files();
    run(async {
        let file = disk.open("a").await.unwrap();
        disk.fault_at(disk.calls() + 1, Fault::Fails(Kind::NoSpace));
        assert_eq!(file.write_at(block(3), 0).await.unwrap_err().kind, Kind::NoSpace);
        assert_eq!(disk.content("a"), block(1));
        disk.fault_from(disk.calls() + 1, Fault::Partly(Kind::Failed));
        for byte in [4, 5] {
            file.write_at(block(byte), 0).await.unwrap_err();
            assert_eq!(first(&disk, "a"), [byte, byte, byte, byte, 1, 1, 1, 1]);
        }
        file.sync_data().await.unwrap();
        disk.fault_at(disk.calls() + 1, Fault::Partly(Kind::Failed));
        disk.rename("a", "c").await.unwrap_err();
        assert_eq!(names(&disk), "bc");
        disk.fault_at(disk.calls() + 1, Fault::Partly(Kind::NoSpace));
        assert!(disk.create("d", 8 * BLOCK as u64).await.is_err());
        assert_eq!(disk.content("d"), vec![0; 4 * BLOCK]);
        disk.mend();
        file.write_at(block(6), 0).await.unwrap();
    });
}

#[test]
fn a_wrong_order_of_durability_panics() {
    let claims: Claims = |_, _| vec![Claim { name: "b".into(), bytes: Some(BLOCK as u64) }];
    let panics = |work: &dyn Fn(&SimDisk)| {
        let disk = with_files();
        disk.watch_order(claims);
        let result = catch_unwind(AssertUnwindSafe(|| {
            work(&disk);
            run(disk.rename("a", "c")).unwrap();
        }));
        let panic = result.err()?;
        panic.downcast::<String>().ok().map(|message| *message)
    };
    let write = |name: &'static str, offset: usize| {
        move |disk: &SimDisk| {
            run(async {
                let file = disk.open(name).await.unwrap();
                file.write_at(block(3), offset as u64).await.unwrap();
            });
        }
    };
    assert_eq!(panics(&|_| ()), None);
    assert_eq!(panics(&write("a", 0)).unwrap(), "c gets a file that is not durable");
    assert_eq!(panics(&write("b", 0)).unwrap(), "c relies on b, which is not durable");
    assert_eq!(panics(&write("b", BLOCK)), None, "nothing is read there");
    let named = panics(&|disk| {
        run(disk.remove("b")).unwrap();
        run(disk.create("b", BLOCK as u64)).unwrap();
    });
    assert_eq!(named.unwrap(), "c relies on b, whose name is not durable");
    let gone = panics(&|disk| run(disk.remove("b")).unwrap());
    assert_eq!(gone.unwrap(), "c relies on b, which is not there");
}
