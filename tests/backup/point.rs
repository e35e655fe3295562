//! Restores to a point in time: exactly what was acknowledged by the end of that second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::documents::Contents;
use crate::common::{Process, runtime};
use crate::{Place, SETTINGS, assert_contents, assert_says, fails, snapshot};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The present second, once it has ended.
fn ended_second() -> u64 {
    let second = now();
    while now() == second {
        std::thread::sleep(Duration::from_millis(1));
    }
    second
}

#[test]
fn a_restore_has_exactly_what_was_acknowledged_by_then() {
    restores(Place::new(6));
}

pub(crate) fn restores(mut place: Place) {
    let early = now() - 1_000;
    let mut process = Process::start(&place.data_dir(), SETTINGS);
    let mut moments: Vec<(u64, Contents)> = Vec::new();
    let mut parent: Option<String> = None;
    // Each run of the server completes its segments, so that snapshots make the first of them dispensable, and only the
    // first backup has them.
    for round in 0..4 {
        place.change(&process, 150);
        moments.push((ended_second(), place.contents.clone()));
        place.change(&process, 40);
        runtime().block_on(async { snapshot(&mut process.client().await).await });
        place.change(&process, 40);
        moments.push((ended_second(), place.contents.clone()));
        if round % 2 == 1 {
            let id = match &parent {
                Some(parent) => place.create_on(parent),
                None => place.create(&[]),
            };
            parent = Some(id);
        }
        process.stop();
        process = Process::start(&place.data_dir(), SETTINGS);
    }
    process.stop();
    let late = now() + 1_000;
    let target = place.path("never");
    let second = |second: u64| second.to_string();
    for asked in [early, late] {
        let arguments = ["restore", "--point-in-time", &second(asked)];
        let said = fails(&mut place.command_on(&target, &arguments));
        let last = second(moments[3].0);
        assert_says(&said, &["no backup in", &second(asked), "What they have", " UTC (", &last]);
    }
    assert!(!target.exists());
    let mut restored = 0;
    for (index, (moment, contents)) in moments.iter().enumerate() {
        let target = place.path(&format!("restored{index}"));
        let moment = second(*moment);
        let arguments = ["restore", "--point-in-time", moment.as_str()];
        let output = place.command_on(&target, &arguments).output().unwrap();
        if output.status.code() != Some(0) {
            // Between the first backup and the older snapshot of the second one is a gap.
            assert!((4..6).contains(&index), "{index}: {}", crate::said(&output));
            assert_says(&crate::said(&output), &["no backup in"]);
            continue;
        }
        let process = Process::start(&target, SETTINGS);
        assert_contents(&process, contents);
        process.stop();
        restored += 1;
    }
    assert!(restored >= 6, "{restored}");
}
