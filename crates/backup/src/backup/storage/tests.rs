//! Properties of both kinds of storage, and the bucket's protocol without locks: processes that pause or are killed at
//! each critical point.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tempfile::TempDir;

use super::bucket::Bucket;
use super::client::{Client, Store};
use super::directory::Directory;
use super::upload::PART_BYTES;
use super::{Draft, Storage, UNFINISHED_AGE};
use crate::backup::prune::{Rules, prune};
use crate::backup::record::{Backup, Stored, sample};
use crate::disk::DiskError;

const FIRST: &str = "20260301-040506-0a1b";
const SECOND: &str = "20260301-050607-1a2b";
const THIRD: &str = "20260301-060708-2a3b";
const FILE: &str = "wal_0000_00000001.wal";

fn in_directory() -> (TempDir, Storage) {
    let binary = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
    let storage = Storage { place: Box::new(Directory::new(&directory.path().join("backups"))) };
    (directory, storage)
}

/// A storage in memory; several of one memory act as several processes.
fn in_bucket(memory: &Arc<InMemory>) -> Storage {
    let store: Arc<dyn Store> = memory.clone();
    let client = Client::over(store, "bucket", "some/prefix").unwrap();
    Storage { place: Box::new(Bucket::of(client)) }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// All objects of the bucket.
fn objects(memory: &Arc<InMemory>) -> Vec<String> {
    use futures_util::TryStreamExt;
    let listed = object_store::ObjectStore::list(memory.as_ref(), None);
    let found: Vec<_> = block_on(listed.try_collect()).unwrap();
    found.into_iter().map(|meta| meta.location.to_string()).collect()
}

fn backup(id: &str, parent: Option<&str>, bytes: u64) -> Backup {
    let file = Stored {
        name: FILE.into(),
        bytes,
        crc32c: 0,
        head_crc32c: 0,
        backup: parent.unwrap_or(id).into(),
    };
    let second = id.bytes().fold(0, |sum, byte| sum * 3 + u64::from(byte));
    sample(id, parent, second, vec![file])
}

fn write(draft: &Draft, content: &[u8]) {
    let pieces = content.chunks(1_000_000);
    let fill = |put: &mut dyn FnMut(&[u8]) -> crate::backup::Result<()>| {
        pieces.into_iter().try_for_each(put)
    };
    draft.write(FILE, content.len() as u64, fill).unwrap();
}

fn publish(storage: &Storage, id: &str, parents: &[Backup]) -> Backup {
    let backup = backup(id, parents.first().map(|parent| parent.id.as_str()), 3);
    let draft = storage.begin(id, parents).unwrap();
    if parents.is_empty() {
        write(&draft, b"abc");
    }
    draft.publish(&backup).unwrap();
    backup
}

fn ids(storage: &Storage) -> Vec<String> {
    let listed = storage.list().unwrap();
    assert!(listed.damaged.is_empty(), "{:?}", listed.damaged);
    listed.backups.into_iter().map(|backup| backup.id).collect()
}

fn content(file: &crate::disk::view::Viewed) -> Vec<u8> {
    let mut content = Vec::new();
    file.read_all(|piece| -> Result<(), DiskError> {
        content.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    content
}

/// Runs a case on both kinds.
fn on_both(case: impl Fn(&Storage)) {
    let (_directory, storage) = in_directory();
    case(&storage);
    case(&in_bucket(&Arc::default()));
}

#[test]
fn a_backup_is_there_once_it_is_published_and_until_it_is_removed() {
    on_both(|storage| {
        assert_eq!(ids(storage), [""; 0]);
        assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [""; 0]);
        assert!(storage.load(FIRST).unwrap_err().contains("there is no backup"));
        let draft = storage.begin(FIRST, &[]).unwrap();
        write(&draft, b"abc");
        assert_eq!(content(&draft.open(FILE).unwrap()), b"abc");
        assert_eq!(ids(storage), [""; 0]);
        let made = backup(FIRST, None, 3);
        draft.publish(&made).unwrap();
        assert_eq!(ids(storage), [FIRST]);
        assert_eq!(storage.load(FIRST).unwrap(), made);
        assert_eq!(content(&storage.open(&made.files[0]).unwrap()), b"abc");
        let longer = Stored { bytes: 4, ..made.files[0].clone() };
        assert!(storage.open(&longer).err().unwrap().contains("3 bytes instead of 4"));
        let other = Stored { name: "other".into(), ..made.files[0].clone() };
        assert!(storage.open(&other).err().unwrap().contains("o such file"));
        storage.remove(FIRST).unwrap();
        assert_eq!(ids(storage), [""; 0]);
    });
}

#[test]
fn unpublished_backups_are_removed() {
    on_both(|storage| {
        let draft = storage.begin(FIRST, &[]).unwrap();
        write(&draft, b"abc");
        let broken = draft.write("other", 9, |put| {
            put(b"half of it")?;
            Err("the source is gone".into())
        });
        assert_eq!(broken, Err("the source is gone".into()));
        drop(draft);
        assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [""; 0], "nothing is left");
        assert_eq!(ids(storage), [""; 0]);
    });
    let memory = Arc::default();
    drop(in_bucket(&memory).begin(FIRST, &[]).unwrap());
    assert_eq!(objects(&memory), [""; 0]);
}

#[test]
fn remains_of_a_killed_backup_are_removed_once_old() {
    on_both(|storage| {
        let draft = storage.begin(FIRST, &[]).unwrap();
        write(&draft, b"abc");
        std::mem::forget(draft);
        assert_eq!(ids(storage), [""; 0]);
        assert_eq!(storage.remove_unfinished(UNFINISHED_AGE).unwrap(), [""; 0]);
        let removed = storage.remove_unfinished(Duration::ZERO).unwrap();
        assert!(removed.len() == 1 && removed[0].contains(FIRST), "{removed:?}");
        assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [""; 0]);
    });
}

#[test]
fn a_backup_replaces_no_other() {
    on_both(|storage| {
        let first = publish(storage, FIRST, &[]);
        let again = storage.begin(FIRST, &[]).and_then(|draft| {
            let bytes = 3;
            draft.publish(&Backup { description: "another".into(), ..backup(FIRST, None, bytes) })
        });
        assert!(again.is_err());
        assert_eq!(storage.load(FIRST).unwrap(), first);
        assert_eq!(content(&storage.open(&first.files[0]).unwrap()), b"abc");
    });
}

#[test]
fn large_files_go_and_come_in_parts() {
    let memory = Arc::default();
    let storage = in_bucket(&memory);
    for length in [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 3 * PART_BYTES + 5] {
        let sent: Vec<u8> = (0..length).map(|i| (i / 7) as u8).collect();
        let draft = storage.begin(FIRST, &[]).unwrap();
        write(&draft, &sent);
        let file = draft.open(FILE).unwrap();
        assert!(content(&file) == sent, "{length}");
        // Random access, as a reader of a snapshot does.
        for (offset, bytes) in [(0, 1), (5 << 20, 3 << 20), (4_096, 4_096), (8_192, 100_000)] {
            let mut found = Vec::new();
            let read = crate::disk::File::read_at(&file, offset as u64, bytes, &mut found);
            crate::disk::view::run(read).unwrap();
            let end = (offset + bytes).min(sent.len());
            assert!(found == sent[offset..end], "{length}: {bytes} at {offset}");
        }
        assert_eq!(objects(&memory).len(), 2, "the file, and that it is being made");
        drop(draft);
    }
    assert_eq!(objects(&memory), [""; 0]);
}

#[test]
fn the_upload_of_a_process_that_was_killed_is_given_up() {
    let memory: Arc<InMemory> = Arc::default();
    let storage = in_bucket(&memory);
    let draft = storage.begin(FIRST, &[]).unwrap();
    let mut sink = draft.unpublished.create(FILE, 3 * PART_BYTES).unwrap();
    sink.put(&vec![7; 2 * PART_BYTES as usize]).unwrap();
    std::mem::forget((sink, draft));
    let mark = format!("some/prefix/.adding/{FIRST}/upload-0");
    let mark =
        block_on(async { memory.get(&Path::from(mark)).await.unwrap().bytes().await.unwrap() });
    let mark = String::from_utf8(mark.to_vec()).unwrap();
    let (path, upload) = mark.split_once('\n').unwrap();
    assert_eq!(path, format!("some/prefix/{FIRST}/{FILE}"));
    assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [FIRST]);
    assert_eq!(objects(&memory), [""; 0]);
    use object_store::multipart::MultipartStore;
    let (path, part) = (Path::from(path), PutPayload::from_static(b"more"));
    assert!(block_on(memory.put_part(&path, &upload.into(), 1, part)).is_err());
}

const NOTHING: Rules =
    Rules { hourly: 0, daily: 0, weekly: 0, monthly: 0, min_age_days: 0, older_than_days: None };

#[test]
fn parents_of_a_backup_in_progress_stay() {
    let memory = Arc::default();
    let (here, there) = (in_bucket(&memory), in_bucket(&memory));
    let first = publish(&here, FIRST, &[]);
    publish(&here, SECOND, &[]);
    let draft = here.begin(THIRD, std::slice::from_ref(&first)).unwrap();
    let pruned = prune(&there, &NOTHING, 0, false).unwrap();
    assert!(pruned.removed.is_empty() && pruned.needed == [FIRST]);
    draft.publish(&backup(THIRD, Some(FIRST), 3)).unwrap();
    let pruned = prune(&there, &NOTHING, 0, false).unwrap();
    let removed: Vec<&str> = pruned.removed.iter().map(|backup| backup.id.as_str()).collect();
    assert_eq!((removed, pruned.needed), (vec![SECOND], vec![FIRST.to_owned()]));
    assert_eq!(ids(&here), [THIRD, FIRST]);
    let left = objects(&memory);
    assert!(!left.iter().any(|name| name.contains("/.")), "no word is left: {left:?}");
}

#[test]
fn no_backup_is_begun_on_a_parent_that_is_about_to_be_removed() {
    let memory = Arc::default();
    let (here, there) = (in_bucket(&memory), in_bucket(&memory));
    let first = publish(&here, FIRST, &[]);
    let parents = std::slice::from_ref(&first);
    let retired = there.retire(&[FIRST.into()], |_| true).unwrap();
    assert!(retired.needed.is_empty());
    for word in ["being removed", "full backup", ".removing"] {
        let why = here.begin(SECOND, parents).err().unwrap();
        assert!(why.contains(word), "{why}");
    }
    // Neither the abandoned one nor the marks of the prune are in the way.
    drop(retired);
    let draft = here.begin(SECOND, parents).unwrap();
    assert_eq!(there.retire(&[FIRST.into()], |_| true).unwrap().needed, [FIRST.into()].into());
    draft.publish(&backup(SECOND, Some(FIRST), 3)).unwrap();
    // Published after the prune has listed the backups.
    let retired = there.retire(&[FIRST.into()], |id| id == FIRST).unwrap();
    assert_eq!(retired.needed, [FIRST.into()].into());
    drop(retired);
    here.remove(SECOND).unwrap();
    here.remove(FIRST).unwrap();
    assert!(here.begin(THIRD, parents).err().unwrap().contains("being removed"), "it is gone");
    assert_eq!(objects(&memory), [""; 0]);
}

#[test]
fn a_prune_that_was_killed_is_forgotten_after_a_day() {
    let memory = Arc::default();
    let storage = in_bucket(&memory);
    let first = publish(&storage, FIRST, &[]);
    std::mem::forget(storage.retire(&[FIRST.into()], |_| true).unwrap());
    let parents = std::slice::from_ref(&first);
    storage.remove_unfinished(UNFINISHED_AGE).unwrap();
    assert!(storage.begin(SECOND, parents).is_err());
    assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [""; 0]);
    publish(&storage, SECOND, parents);
    assert_eq!(ids(&storage), [SECOND, FIRST]);
    // As left by a kill between removing the record and removing the files.
    let record = Path::from(format!("some/prefix/{SECOND}/backup.json"));
    block_on(memory.delete(&record)).unwrap();
    let file = Path::from(format!("some/prefix/{SECOND}/{FILE}"));
    block_on(memory.put(&file, PutPayload::from_static(b"abc"))).unwrap();
    assert_eq!(ids(&storage), [FIRST]);
    assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [SECOND]);
    assert_eq!(objects(&memory).len(), 2, "the record and the file of the other one");
}

#[test]
fn a_backup_taken_for_abandoned_is_not_published() {
    let memory = Arc::default();
    let (here, there) = (in_bucket(&memory), in_bucket(&memory));
    let draft = here.begin(FIRST, &[]).unwrap();
    write(&draft, b"abc");
    assert_eq!(there.remove_unfinished(Duration::ZERO).unwrap(), [FIRST]);
    let why = draft.publish(&backup(FIRST, None, 3)).unwrap_err();
    assert!(why.contains("for a day"), "{why}");
    assert_eq!(objects(&memory), [""; 0]);
}

/// Killed after writing its record, the process has not removed its mark as unpublished.
#[test]
fn a_published_backup_is_not_taken_for_abandoned() {
    let memory = Arc::default();
    let storage = in_bucket(&memory);
    publish(&storage, FIRST, &[]);
    let word = Path::from(format!("some/prefix/.adding/{FIRST}/parents"));
    block_on(memory.put(&word, PutPayload::from_static(b""))).unwrap();
    assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [""; 0]);
    assert_eq!(ids(&storage), [FIRST]);
    assert_eq!(objects(&memory).len(), 2);
}

#[test]
fn objects_of_other_programs_are_left_alone() {
    let memory: Arc<InMemory> = Arc::default();
    for name in ["some/prefix/photos/a.jpg", "some/prefix/notes", "some/other/backup.json"] {
        block_on(memory.put(&Path::from(name), PutPayload::from_static(b"x"))).unwrap();
    }
    let storage = in_bucket(&memory);
    assert_eq!(ids(&storage), [""; 0]);
    prune(&storage, &NOTHING, 0, false).unwrap();
    assert_eq!(storage.remove_unfinished(Duration::ZERO).unwrap(), [""; 0]);
    assert_eq!(objects(&memory).len(), 3);
}
