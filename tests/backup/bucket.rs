//! Backups in S3-compatible storage: properties shared with directories, kills in the middle of an upload, and errors
//! when the storage can't be used.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::free_port;
use crate::s3::{S3, set};
use crate::{Place, assert_contents, assert_says, fails, files, said};

#[test]
fn a_backup_under_writes_is_a_state_that_existed() {
    crate::hot::exists(&Place::in_bucket(41));
}

#[test]
fn a_chain_is_restored_at_each_of_its_backups() {
    crate::chain::restores(Place::in_bucket(42));
}

#[test]
fn a_restore_has_exactly_what_was_acknowledged_by_then() {
    crate::point::restores(Place::in_bucket(43));
}

#[test]
fn prune_keeps_what_a_kept_backup_needs() {
    crate::chain::prunes(Place::in_bucket(44));
}

#[test]
fn a_flipped_bit_in_any_file_of_the_chain_is_found() {
    crate::damage::is_found(Place::in_bucket(45));
}

#[test]
fn a_missing_parent_is_named() {
    crate::damage::names_parent(Place::in_bucket(46));
}

#[test]
fn no_backups_are_an_empty_list() {
    let place = Place::in_bucket(47);
    assert_eq!(place.run(&["list", "--json"]), "[]\n");
    assert_says(&place.run(&["list"]), &["No backups in s3://backups/of/this."]);
    assert_says(&place.run(&["prune"]), &["0 removed, 0 kept"]);
    let said = place.fails(&["verify", "--backup-id", "../data"]);
    assert_says(&said, &["there is no backup ../data in s3://backups/of/this"]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let place = Place::in_bucket(48).filled(60);
    let id = place.create(&[]);
    let before = files(place.directory.path());
    let target = place.path("target");
    let arguments = ["restore", "--backup-id", &id, "--dry-run"];
    let printed = crate::succeeds(&mut place.command_on(&target, &arguments));
    let vectors = format!("{} vectors", place.contents.len());
    assert_says(&printed, &["Would restore", &id, &vectors, "Nothing was changed"]);
    place.run(&["prune", "--older-than-days", "0", "--dry-run"]);
    assert!(!target.exists() && files(place.directory.path()) == before);
}

/// Larger than a part, so that the upload takes several requests.
const LARGE: &str = "usage/usage_state.snap";

#[test]
fn a_large_file_goes_in_parts_and_comes_back() {
    let place = Place::in_bucket(49).filled(40);
    std::fs::create_dir(place.data_dir().join("usage")).unwrap();
    let content: Vec<u8> = (0..21_000_000_u32).map(|i| (i / 5) as u8).collect();
    std::fs::write(place.data_dir().join(LARGE), &content).unwrap();
    let id = place.create(&[]);
    place.run(&["verify", &id]);
    let process = place.restored("restored", &["--backup-id", &id]);
    assert_contents(&process, &place.contents);
    process.stop();
    assert!(std::fs::read(place.path("restored").join(LARGE)).unwrap() == content);
    assert_eq!(place.s3().parts(), 0);
}

/// Makes all objects two days older.
fn age(s3: &S3) {
    let then = SystemTime::now() - Duration::from_secs(2 * 86_400);
    for path in files(&s3.directory()).into_keys() {
        std::fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    }
}

#[test]
fn a_backup_killed_during_an_upload_is_removed_after_a_day() {
    let place = Place::in_bucket(50).filled(40);
    let first = place.create(&[]);
    std::fs::create_dir(place.data_dir().join("usage")).unwrap();
    std::fs::write(place.data_dir().join(LARGE), vec![7; 21_000_000]).unwrap();
    let begun = place.left();
    // In the last part of a large file, and before the record.
    for (line, is_in_parts) in [("partNumber=3", true), ("backup.json", false)] {
        place.s3().hold("PUT", line);
        let arguments = ["create", "--incremental", "--reference", &first];
        let mut child = place.command(&arguments).spawn().unwrap();
        place.s3().wait_held();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(place.list().len(), 1);
        assert_eq!(place.s3().parts() > 0, is_in_parts);
        let left = place.left();
        assert!(left.len() > begun.len(), "{left:?}");
        // The upload may still be in progress, as far as other processes know.
        assert_says(&place.run(&["prune"]), &["0 removed, 1 kept"]);
        assert_eq!(place.left(), left);
        age(place.s3());
        let said = place.run(&["prune"]);
        assert_says(&said, &["0 removed, 1 kept", "which an unfinished backup had left"]);
        assert_eq!((place.left(), place.s3().parts()), (begun.clone(), 0));
    }
    place.run(&["verify", &first]);
    let second = place.create_on(&first);
    place.run(&["verify", &second]);
}

/// A service that answers with an error in the middle: the request is retried for a while, then given up, and nothing
/// is left.
#[test]
fn a_failure_during_an_upload_leaves_nothing() {
    let place = Place::in_bucket(51).filled(40);
    std::fs::create_dir(place.data_dir().join("usage")).unwrap();
    std::fs::write(place.data_dir().join(LARGE), vec![7; 21_000_000]).unwrap();
    place.s3().hold("PUT", "partNumber=2");
    let said = fails(place.command(&["create"]).env("AWS_TIMEOUT", "1 second"));
    assert_says(&said, &["no backup was made", &place.s3().endpoint(), "can't be reached"]);
    assert!(place.left().is_empty() && place.s3().parts() == 0, "{:?}", place.left());
}

/// A prune pauses between writing its mark and checking for backups in progress.
#[test]
fn a_reference_that_a_prune_is_about_to_remove_is_refused() {
    let place = Place::in_bucket(52).filled(30);
    let first = place.create(&[]);
    let second = place.create(&[]);
    place.s3().hold("GET", ".adding");
    let nothing = ["prune", "--keep-hourly", "0", "--keep-daily", "0", "--keep-weekly", "0"];
    let arguments = [&nothing[..], &["--keep-monthly", "0"]].concat();
    let mut prune = place.command(&arguments).spawn().unwrap();
    place.s3().wait_held();
    let said = place.fails(&["create", "--incremental", "--reference", &first]);
    assert_says(&said, &[&first, "is being removed by a prune", "full backup"]);
    let third = place.create_on(&second);
    prune.kill().unwrap();
    prune.wait().unwrap();
    let said = place.run(&arguments);
    assert_says(&said, &[&format!("Removed {first}"), &second, "needs it", "1 removed, 2 kept"]);
    place.run(&["verify", &third]);
}

#[test]
fn storage_that_cannot_be_used_is_named_with_the_way_out() {
    let place = Place::in_bucket(53).filled(10);
    let closed = format!("http://127.0.0.1:{}", free_port());
    // Accepts connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let (s3, url) = (place.s3(), place.s3().url());
    let on = |url: &str, change: &dyn Fn(&mut Command)| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
        command.args(["create", "--backup-dir", url, "--data-dir"]).arg(place.data_dir());
        s3.allow(&mut command);
        change(&mut command);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let denied = |command: &mut Command| set(command, &s3.endpoint(), "somebody", "another");
    let unknown = |command: &mut Command| set(command, &s3.endpoint(), "nobody", "a secret");
    let nameless = |command: &mut Command| {
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_METADATA_ENDPOINT", &closed);
    };
    let halved = |command: &mut Command| {
        command.env_remove("AWS_SECRET_ACCESS_KEY");
    };
    let unreachable = |command: &mut Command| {
        command.env("AWS_ENDPOINT_URL", &closed);
    };
    let unanswered = |command: &mut Command| {
        command.env("AWS_ENDPOINT_URL", &silent);
    };
    let plain = |command: &mut Command| {
        command.env_remove("AWS_ALLOW_HTTP");
    };
    let endpoint = s3.endpoint();
    let region = "AWS_REGION";
    let cases: Vec<(_, [&str; 3])> = vec![
        (
            on(&url, &denied),
            ["denies access to s3://backups/of/this", "AWS_SECRET_ACCESS_KEY", region],
        ),
        (on(&url, &unknown), ["denies access to", "NotSignedUp", "AWS_ACCESS_KEY_ID"]),
        (on(&url, &nameless), ["no credentials for s3://", "set AWS_ACCESS_KEY_ID", &closed]),
        (on(&url, &halved), ["s3://backups can't be used", "SecretAccessKey", "AWS_"]),
        (on(&url, &unreachable), [&closed, "can't be reached", "AWS_ENDPOINT_URL"]),
        (on(&url, &unanswered), [&silent, "can't be reached", "no answer within"]),
        (on(&url, &plain), [&endpoint, "has no TLS", "AWS_ALLOW_HTTP=true"]),
        (on("s3://nowhere/x", &|_| ()), ["no bucket nowhere at", &endpoint, "--backup-dir"]),
        (on("s3://", &|_| ()), ["s3:// names no place", "s3://BUCKET/PREFIX", "--backup-dir"]),
        (on("s3:///of/this", &|_| ()), ["names no place", "s3://BUCKET/PREFIX", "the bucket"]),
        (on("s3://backups/a//b", &|_| ()), ["names no place", "s3://BUCKET/PREFIX", "a path"]),
        (on("gs://backups/a", &|_| ()), ["gs://backups/a", "not known", "s3://BUCKET/PREFIX"]),
        (on("file://host/a", &|_| ()), ["file://host/a", "names a host", "file:///PATH"]),
    ];
    for (child, parts) in cases {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{parts:?}: {}", said(&output));
        assert_says(&said(&output), &parts);
    }
    assert!(place.left().is_empty());
}

#[test]
fn a_url_may_name_a_directory() {
    let place = Place::made(54, 20);
    let url = format!("file://{}", place.backup_dir().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
    command.args(["create", "--backup-dir", &url, "--data-dir"]).arg(place.data_dir());
    crate::succeeds(&mut command);
    let listed = place.list();
    place.run(&["verify", listed[0]["id"].as_str().unwrap()]);
}
