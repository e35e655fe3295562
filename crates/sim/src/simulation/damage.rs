//! Damage to files behind a server's back.

use crate::disk::sim::{SimDisk, run};
use crate::disk::{BLOCK, Disk};
use crate::engine::testing::Random;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::types::ShardId;
use crate::wal::{forge, parse_segment_name};

/// Files that were damaged, and must not be damaged further: a test can't expect a fault that nothing can show.
#[derive(Default)]
struct Damaged {
    files: Vec<String>,
    /// The group behind the last group of a log confirms it: two flips may take both.
    flipped: Vec<String>,
    /// A segment of another log shows by its end, which MANIFEST and the next segment have. If those or its end are
    /// gone, it passes for a damaged one of this log, and its contents come back. So if there is one, no segment of
    /// its shard, nor MANIFEST, is damaged.
    foreign: Option<ShardId>,
}

/// Damages files `times` times; returns the kind of each. `None` if there was nothing of the kind to be damaged.
pub(super) fn inflict(disk: &SimDisk, random: &mut Random, times: u64) -> Vec<Option<u64>> {
    let mut damaged = Damaged::default();
    (0..times).map(|_| once(disk, random, &mut damaged)).collect()
}

/// True for the files by which a segment of another log shows in `shard`.
fn vouches(name: &str, shard: ShardId) -> bool {
    name == MANIFEST_NAME || parse_segment_name(name).is_some_and(|(of, _)| of == shard)
}

fn once(disk: &SimDisk, random: &mut Random, damaged: &mut Damaged) -> Option<u64> {
    let names = run(disk.list()).expect("a disk that works");
    let mut name = || names[random.below(names.len() as u64) as usize].clone();
    let (name, other) = (name(), name());
    let mut bytes = disk.content(&name);
    let is_spared = |name: &str| damaged.foreign.is_some_and(|shard| vouches(name, shard));
    if bytes.is_empty() || is_spared(&name) || is_spared(&other) {
        return None;
    }
    let what = random.below(6);
    match what {
        0 | 1 if damaged.flipped.contains(&name) => return None,
        0 => {
            let bit = random.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            disk.set_content(&name, bytes);
        }
        1 => {
            // Most of a segment is zeros.
            let used: Vec<usize> = (0..bytes.len()).filter(|&byte| bytes[byte] != 0).collect();
            let byte = *used.get(random.below(used.len().max(1) as u64) as usize)?;
            bytes[byte] ^= 1 << random.below(8);
            disk.set_content(&name, bytes);
        }
        // A cut there is an operator's doing: the start goes on without it and says so.
        2 if is_last_of_its_log(disk, &names, &name) => return None,
        2 => {
            let blocks = bytes.len() as u64 / BLOCK as u64;
            bytes.truncate(random.below(blocks) as usize * BLOCK);
            disk.set_content(&name, bytes);
        }
        3 => {
            let others = disk.content(&other);
            disk.set_content(&other, bytes);
            disk.set_content(&name, others);
        }
        4 | 5 if damaged.foreign.is_some() => return None,
        4 => damaged.files.push(forget(disk, random)?),
        _ => damaged.foreign = Some(exchange(disk, random, &damaged.files)?),
    }
    match what {
        0 | 1 => damaged.flipped.push(name.clone()),
        3 => damaged.files.push(other),
        _ => {}
    }
    damaged.files.push(name);
    Some(what)
}

/// True for a segment after which no later one of its log was taken into use.
fn is_last_of_its_log(disk: &SimDisk, names: &[String], name: &str) -> bool {
    let Some((shard, number)) = parse_segment_name(name) else { return false };
    let is_used = |name: &String| disk.content(name).first().is_some_and(|&byte| byte != 0);
    let is_later = |name: &&String| {
        parse_segment_name(name).is_some_and(|(of, other)| of == shard && other > number)
    };
    !names.iter().filter(is_later).any(is_used)
}

/// Removes a complete segment, and its entry in MANIFEST.
fn forget(disk: &SimDisk, random: &mut Random) -> Option<String> {
    let mut manifest = run(Manifest::load(disk)).ok()??;
    let sealed = |index: &usize| manifest.segments[*index].sealed.is_some();
    let candidates: Vec<usize> = (0..manifest.segments.len()).filter(sealed).collect();
    let index = *candidates.get(random.below(candidates.len().max(1) as u64) as usize)?;
    let gone = manifest.segments.remove(index);
    run(disk.remove(&gone.file)).ok()?;
    disk.set_content(MANIFEST_NAME, padded(manifest.encode()));
    Some(gone.file)
}

/// Replaces a complete segment by that of another log, which differs in one vector.
fn exchange(disk: &SimDisk, random: &mut Random, damaged: &[String]) -> Option<ShardId> {
    let manifest = run(Manifest::load(disk)).ok()??;
    let sealed = manifest.segments.iter().filter(|segment| segment.sealed.is_some());
    let candidates: Vec<_> = sealed.collect();
    let segment = candidates.get(random.below(candidates.len().max(1) as u64) as usize)?;
    let shard = ShardId(segment.shard);
    if damaged.iter().any(|name| vouches(name, shard)) {
        return None;
    }
    let forged = forge::another_segment(&disk.content(&segment.file), random.below(u64::MAX))?;
    disk.set_content(&segment.file, forged);
    Some(shard)
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), b' ');
    bytes
}
