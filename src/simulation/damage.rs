//! What happens to files behind a server's back.

use crate::disk::sim::{SimDisk, run};
use crate::disk::{BLOCK, Disk};
use crate::engine::tests::Random;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::wal::forge;

/// Damages a file; `None` if there was nothing of the kind to be damaged.
pub(super) fn inflict(disk: &SimDisk, random: &mut Random) -> Option<u64> {
    let names = run(disk.list()).expect("a disk that works");
    let mut name = || names[random.below(names.len() as u64) as usize].clone();
    let (name, other) = (name(), name());
    let mut bytes = disk.content(&name);
    if bytes.is_empty() {
        return None;
    }
    let what = random.below(6);
    match what {
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
        4 => forget(disk, random)?,
        _ => foreign(disk, random)?,
    }
    Some(what)
}

/// A complete segment is gone, and MANIFEST does not know of it.
fn forget(disk: &SimDisk, random: &mut Random) -> Option<()> {
    let mut manifest = run(Manifest::load(disk)).ok()??;
    let sealed = |index: &usize| manifest.segments[*index].sealed.is_some();
    let candidates: Vec<usize> = (0..manifest.segments.len()).filter(sealed).collect();
    let index = *candidates.get(random.below(candidates.len().max(1) as u64) as usize)?;
    let gone = manifest.segments.remove(index);
    run(disk.remove(&gone.file)).ok()?;
    disk.set_content(MANIFEST_NAME, padded(manifest.encode()));
    Some(())
}

/// A complete segment is replaced by that of another log, which differs in one vector.
fn foreign(disk: &SimDisk, random: &mut Random) -> Option<()> {
    let manifest = run(Manifest::load(disk)).ok()??;
    let sealed = manifest.segments.iter().filter(|segment| segment.sealed.is_some());
    let candidates: Vec<_> = sealed.collect();
    let segment = candidates.get(random.below(candidates.len().max(1) as u64) as usize)?;
    let forged = forge::another_segment(&disk.content(&segment.file), random.below(u64::MAX))?;
    disk.set_content(&segment.file, forged);
    Some(())
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), b' ');
    bytes
}
