//! Directories that were damaged and repaired, or given another number of shards: the documents afterwards are those
//! of before, or are reported as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::damage;
use super::machine::{Machine, SHARDS};
use super::{Known, Report, step};
use crate::disk::sim::{Crash, Fault, SimDisk, run};
use crate::engine::Engine;
use crate::engine::testing::{Model, Random, engine};
use crate::graph::check::check;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::recovery::{Listed, recover};
use crate::repair::{Repaired, Stamp, repair, reshard};
use crate::types::{DocId, ShardId};
use crate::verify::verify;

const STAMP: Stamp = Stamp { epoch: 0xfeed_0000_0900, unix_ms: 77 };

/// A directory, its documents, and all versions that there have been.
struct Sample {
    disk: SimDisk,
    now: BTreeMap<DocId, Version>,
    /// Vectors and metadata, apart: if a write is lost, a later change of metadata alone may meet the former vector.
    ever: BTreeSet<(DocId, u32)>,
}

/// Fingerprints of a vector and of metadata.
type Version = (u32, u32);

fn print(vector: &[f32], payload: &[u8]) -> Version {
    (crc32c::crc32c(bytemuck::cast_slice(vector)), crc32c::crc32c(payload))
}

fn all(known: &[Known]) -> BTreeMap<DocId, Version> {
    let models = known.iter().map(|known: &Known| &known.acknowledged);
    let documents = models.flat_map(|model: &Model| &model.0);
    documents.map(|(&id, (vector, payload))| (id, print(vector, payload.bytes()))).collect()
}

fn sample(seed: u64) -> Sample {
    let disk = Rc::new(SimDisk::default());
    let mut machine = Machine::boot(&disk, &vec![Known::default(); SHARDS as usize]).unwrap();
    let (mut random, mut report) = (Random(seed << 20), Report::default());
    let mut ever = BTreeSet::new();
    for _ in 0..20 + random.below(100) {
        step(&mut machine, &mut random, &mut report).expect("a disk that works");
        for (id, (vector, payload)) in all(&machine.known()) {
            ever.extend([(id, vector), (id, payload)]);
        }
    }
    for shard in 0..SHARDS as usize {
        machine.seal(shard).expect("a disk that works");
    }
    // At rest: data that comes back or goes after a loss of power is the matter of other tests.
    Sample { disk: disk.after(Crash::Everything), now: all(&machine.known()), ever }
}

/// The engines that a start finds, shard by shard; it has to start.
fn found(disk: &SimDisk) -> Vec<Engine> {
    let manifest = run(Manifest::load(disk)).unwrap().unwrap();
    let recovered = (0..manifest.shards).map(|shard| {
        let (snapshots, segments) = (&manifest.snapshots, &manifest.segments);
        let listed = Listed { shard: ShardId(shard), snapshots, segments };
        let recovered = run(recover(disk, listed, engine().params().clone(), || {}));
        let engine = recovered.unwrap_or_else(|why| panic!("shard {shard}: {why}")).engine.unwrap();
        check(engine.graph(), engine.store().slot_count()).unwrap();
        for version in engine.versions() {
            assert_eq!(version.id.shard(manifest.shards), ShardId(shard));
        }
        engine
    });
    recovered.collect()
}

fn documents<'a>(engines: impl IntoIterator<Item = &'a Engine>) -> BTreeMap<DocId, Version> {
    let versions = engines.into_iter().flat_map(Engine::versions);
    versions.map(|v| (v.id, print(v.vector, v.payload.bytes()))).collect()
}

fn repaired(disk: &SimDisk) -> Option<Repaired> {
    let params = engine().params().clone();
    run(repair(disk, &params, 5, 9, &mut |_| Ok(()))).unwrap()
}

#[test]
fn a_repair_keeps_readable_documents_and_reports_the_others() {
    let seeds = super::setting("KYRODB_SIM_SEEDS").map_or(300, |seeds| seeds.max(300));
    let (mut whole, mut lossless, mut uncertain, mut lossy) = (0, 0, 0, 0);
    for seed in super::first_seed()..super::first_seed() + seeds {
        let sample = sample(seed % 100);
        let mut random = Random(seed << 32);
        let times = 1 + random.below(3);
        let damages = damage::inflict(&sample.disk, &mut random, times);
        let Some(repaired) = repaired(&sample.disk) else {
            whole += 1;
            assert_eq!(documents(&found(&sample.disk)), sample.now, "seed {seed}");
            continue;
        };
        let report = run(verify(&sample.disk, &mut |_, _, _| {})).unwrap().unwrap();
        assert!(report.is_clean, "seed {seed}: {report}");
        let engines = found(&sample.disk);
        let found = documents(&engines);
        for (id, (vector, payload)) in &found {
            let has_been = |part: &u32| sample.ever.contains(&(*id, *part));
            assert!(
                has_been(vector) && has_been(payload),
                "seed {seed}: {id:?} {damages:?} {repaired:#?}"
            );
        }
        let of = |shard: u32, documents: &BTreeMap<DocId, Version>| {
            let is_here = |id: &DocId| id.shard(SHARDS) == ShardId(shard);
            let here = documents.iter().filter(|(id, _)| is_here(id));
            here.map(|(&id, &version)| (id, version)).collect::<BTreeMap<_, _>>()
        };
        let is_whole = |shard: &u32| of(*shard, &found) == of(*shard, &sample.now);
        for shard in &repaired.shards {
            assert_eq!(shard.loss.documents.iter().filter(|id| found.contains_key(id)).count(), 0);
            let is_told = !shard.loss.is_nothing() || !repaired.is_certain;
            assert!(
                is_told || is_whole(&shard.shard),
                "seed {seed}: {damages:?} {:?} {:?} {repaired:#?}",
                of(shard.shard, &found),
                of(shard.shard, &sample.now)
            );
        }
        assert!(repaired.intact.iter().all(is_whole), "seed {seed}: {repaired:#?}");
        match (repaired.is_lossless, repaired.is_certain) {
            (true, true) => lossless += 1,
            (true, false) => uncertain += 1,
            (false, _) => lossy += 1,
        }
    }
    println!("{whole} whole, {lossless} without a loss, {uncertain} uncertain, {lossy} with one");
    assert!(whole > 20 && lossless > 20 && lossy > 20 && uncertain < lossless);
}

/// Cut off at any call, a repair leaves a directory that another one repairs as well.
#[test]
fn a_repair_may_be_cut_off_anywhere() {
    let mut lossless = 0;
    for seed in 0..6 {
        let sample = sample(seed);
        let mut random = Random(seed << 40);
        damage::inflict(&sample.disk, &mut random, 1);
        // Damage is durable, a file that was removed included.
        let damaged = sample.disk.after(Crash::Everything);
        let undisturbed = damaged.restarted();
        let Some(expected) = repaired(&undisturbed) else { continue };
        let expected_documents = documents(&found(&undisturbed));
        lossless += usize::from(expected.is_lossless);
        for call in 1..=undisturbed.calls() {
            let disk = damaged.restarted();
            disk.fault_at(call, Fault::Crash);
            let params = engine().params().clone();
            let cut = run(repair(&disk, &params, 5, 9, &mut |_| Ok(())));
            for crash in [Crash::Nothing, Crash::Everything, Crash::Random(call)] {
                let after = disk.after(crash);
                let again = repaired(&after);
                let is_done = again.is_none();
                assert_eq!(documents(&found(&after)), expected_documents, "{seed} {call} {cut:?}");
                assert!(is_done || again.unwrap().is_lossless == expected.is_lossless);
            }
        }
    }
    assert!(lossless > 0);
}

#[test]
fn a_directory_gets_any_number_of_shards() {
    for seed in 0..40 {
        let sample = sample(seed);
        let mut disk = sample.disk;
        for shards in [3, 1, 2, 5] {
            let manifest = run(Manifest::load(&disk)).unwrap().unwrap();
            let params = engine().params().clone();
            let done = run(reshard(&disk, &manifest, params, shards, STAMP)).unwrap();
            assert_eq!((done.before, done.documents), (manifest.shards, sample.now.len()));
            assert_eq!(documents(&found(&disk)), sample.now);
            let report = run(verify(&disk, &mut |_, _, _| {})).unwrap().unwrap();
            assert!(report.is_clean && report.notes.is_empty(), "{report}");
            let names = run(crate::disk::Disk::list(&disk)).unwrap();
            let of_others = |name: &&String| {
                let place = crate::wal::parse_segment_name(name);
                let place = place.or_else(|| crate::snapshot::parse_snapshot_name(name));
                place.is_some_and(|(shard, _)| shard.0 >= shards)
            };
            assert_eq!(names.iter().find(of_others), None);
            disk = disk.restarted();
        }
    }
}

#[test]
fn resharding_may_be_cut_off_anywhere() {
    for seed in [3, 8] {
        for shards in [1, 3] {
            let sample = sample(seed);
            let manifest = run(Manifest::load(&sample.disk)).unwrap().unwrap();
            let params = engine().params().clone();
            let undisturbed = sample.disk.restarted();
            run(reshard(&undisturbed, &manifest, params.clone(), shards, STAMP)).unwrap();
            let (mut before, mut after) = (0, 0);
            for call in 1..=undisturbed.calls() {
                let disk = sample.disk.restarted();
                disk.fault_at(call, Fault::Crash);
                assert!(run(reshard(&disk, &manifest, params.clone(), shards, STAMP)).is_err());
                for crash in [Crash::Nothing, Crash::Everything, Crash::Random(call)] {
                    let found_on = disk.after(crash);
                    assert_eq!(documents(&found(&found_on)), sample.now, "{seed} {call} {crash:?}");
                    let found = run(Manifest::load(&found_on)).unwrap().unwrap();
                    before += usize::from(found.shards == SHARDS);
                    after += usize::from(found.shards == shards);
                    let report = run(verify(&found_on, &mut |_, _, _| {})).unwrap().unwrap();
                    assert!(report.is_clean, "{report}");
                }
            }
            assert!(before > 10 && after > 3, "{before} {after}");
        }
    }
}

/// Without MANIFEST the files have the parameters of the directory; also if some of them are gone, so that documents
/// have to move.
#[test]
fn a_lost_manifest_is_rebuilt() {
    let mut moved = 0;
    for seed in 0..30 {
        let sample = sample(seed);
        run(crate::disk::Disk::remove(&sample.disk, MANIFEST_NAME)).unwrap();
        let is_of_second = |name: &&String| name.contains("_0001_");
        if seed % 3 == 0 {
            let names = run(crate::disk::Disk::list(&sample.disk)).unwrap();
            for name in names.iter().filter(is_of_second) {
                run(crate::disk::Disk::remove(&sample.disk, name)).unwrap();
            }
            moved += 1;
        }
        let repaired = repaired(&sample.disk).unwrap();
        let found = documents(&found(&sample.disk));
        if seed % 3 == 0 {
            // All documents of the first shard, which is the only one now.
            let first: BTreeMap<_, _> =
                sample.now.into_iter().filter(|(id, _)| id.shard(SHARDS) == ShardId(0)).collect();
            assert_eq!(found, first);
        } else {
            assert_eq!(found, sample.now, "{repaired:#?}");
            assert!(repaired.is_lossless, "{repaired:#?}");
        }
    }
    assert_eq!(moved, 10);
}
