//! Work of a running machine, as `shard` does it; it continues after its disk has failed a call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::Change;
use super::machine::{Machine, Node, Running, SEGMENT_BYTES};
use crate::disk::sim::{SimDisk, SimFile, run};
use crate::disk::{Disk, DiskError};
use crate::engine::LinkProgress;
use crate::engine::checkpoint::Next;
use crate::engine::testing::Model;
use crate::manifest::{Sealed, Segment, Snapshot};
use crate::shard::keeper::Change as Kept;
use crate::snapshot::reader::{self, ReadError};
use crate::snapshot::retain::{self, Retained, Usage};
use crate::snapshot::snapshot_name;
use crate::snapshot::writer::{Identity, Writer as SnapshotWriter, discard};
use crate::types::mix;
use crate::types::record::Record;
use crate::wal::{Prepared, segment_name};

impl Machine {
    /// Writes some changes in one group, acknowledged when it is durable.
    pub(super) fn write(&mut self, shard: usize, changes: Vec<Change>) -> Result<(), DiskError> {
        let node = &mut self.nodes[shard];
        let mut after = node.known.acknowledged.clone();
        let stage = |change: Change| change.stage(&mut node.engine, &mut after);
        let records: Vec<Record> = changes.into_iter().flat_map(stage).collect();
        if records.is_empty() {
            return Ok(());
        }
        let logged = self.log(shard, &records, &after);
        let node = &mut self.nodes[shard];
        if let Err(error) = logged {
            node.engine.abandon_staged();
            self.refuse(shard);
            return Err(error);
        }
        let first = node.log.next_lsn().0 - records.len() as u64;
        for (lsn, record) in (first..).map(crate::types::Lsn).zip(records) {
            let mut done = node.engine.apply(lsn, record);
            while !done {
                done = node.engine.apply_more();
            }
        }
        node.position = node.log.position();
        node.known.acknowledged = after;
        self.assert_indexes();
        Ok(())
    }

    /// Makes a group durable.
    fn log(&mut self, shard: usize, records: &[Record], after: &Model) -> Result<(), DiskError> {
        self.mend(shard)?;
        if !self.nodes[shard].log.fits(records) {
            self.rotate(shard)?;
        }
        let node = &mut self.nodes[shard];
        node.known.under_way.push(after.clone());
        let now_ms = self.clock.now();
        run(node.log.append(records, now_ms, true))?;
        node.history.push((now_ms, after.0.len()));
        let file = segment_name(node.id, node.log.segment());
        self.disk.assert_durable(&file, "an acknowledgement");
        node.known.under_way.clear();
        Ok(())
    }

    /// Handles a log that could not be written. The refused group may be on disk, whole: MANIFEST says that it does
    /// not count, if the disk permits.
    fn refuse(&mut self, shard: usize) {
        let node = &self.nodes[shard];
        if let Some((number, sealed)) = node.log.broken_end()
            && self.keep(Kept::Sealed(node.id, number, sealed)).is_ok()
        {
            self.nodes[shard].known.under_way.clear();
        }
    }

    /// Continues in a new segment, if the one before has failed.
    fn mend(&mut self, shard: usize) -> Result<(), DiskError> {
        if !self.nodes[shard].log.is_broken() {
            return Ok(());
        }
        let prepared = self.prepare(shard)?;
        let node = &mut self.nodes[shard];
        let (id, given_up) = (node.id, run(node.log.replace(prepared, self.clock.now()))?);
        node.known.under_way.clear();
        for number in node.log.take_unused() {
            if self.keep(Kept::Unused(id, number)).is_ok() {
                run(self.disk.remove(&segment_name(id, number))).ok();
            }
        }
        for (number, sealed) in given_up {
            if self.keep(Kept::Sealed(id, number, sealed)).is_ok() {
                self.cut(&segment_name(id, number), sealed.end_bytes).ok();
            }
        }
        Ok(())
    }

    /// Makes the next segment, and has MANIFEST name it before any write to it.
    fn prepare(&mut self, shard: usize) -> Result<Prepared<SimFile>, DiskError> {
        let disk = self.disk.clone();
        let node = &mut self.nodes[shard];
        let (id, number) = (node.id, node.log.next_number());
        let prepared = match node.spare.take() {
            Some(prepared) => prepared,
            None => match run(Prepared::create(&*disk, id, number, SEGMENT_BYTES)) {
                Ok(prepared) => prepared,
                Err(error) => {
                    run(disk.remove(&segment_name(id, number))).ok();
                    return Err(error);
                }
            },
        };
        match self.keep(Kept::Added(id, number)) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                self.nodes[shard].spare = Some(prepared);
                Err(error)
            }
        }
    }

    pub(super) fn rotate(&mut self, shard: usize) -> Result<(), DiskError> {
        self.mend(shard)?;
        let prepared = self.prepare(shard)?;
        let node = &mut self.nodes[shard];
        let id = node.id;
        match run(node.log.rotate(prepared, self.clock.now())) {
            // Until MANIFEST says so, the header of the next segment does.
            Ok((number, sealed)) => self.keep(Kept::Sealed(id, number, sealed)).ok(),
            Err(error) => {
                self.refuse(shard);
                return Err(error);
            }
        };
        Ok(())
    }

    /// Brings a log to rest.
    pub(super) fn seal(&mut self, shard: usize) -> Result<(), DiskError> {
        let node = &mut self.nodes[shard];
        if node.log.is_broken() {
            return Ok(());
        }
        let now_ms = self.clock.now();
        let is_group = node.log.fits(&[]);
        if let Err(error) = run(node.log.seal(now_ms)) {
            self.refuse(shard);
            return Err(error);
        }
        if is_group {
            node.history.push((now_ms, node.engine.live_count()));
        }
        node.position = node.log.position();
        Ok(())
    }

    pub(super) fn link(&mut self, shard: usize, steps: u64) {
        let engine = &mut self.nodes[shard].engine;
        (0..steps).all(|_| engine.link_step() == LinkProgress::More);
        self.assert_indexes();
    }

    /// Begins a snapshot or continues it for `pieces` pieces; true if it is done.
    pub(super) fn snapshot(&mut self, shard: usize, pieces: u64) -> Result<bool, DiskError> {
        let disk = self.disk.clone();
        let node = &mut self.nodes[shard];
        if node.running.is_none() {
            let epoch = self.manifest.as_ref().map_or(0, |manifest| manifest.epoch);
            if !node.begin_snapshot(&disk, epoch, self.clock.now())? {
                return Ok(false);
            }
        }
        let node = &mut self.nodes[shard];
        let running = node.running.as_mut().expect("it has begun");
        for _ in 0..pieces {
            let (mut next, mut unread) = (running.checkpoint.next_over(&node.engine, None), None);
            while let Ok(Next::Read(extent)) = next {
                let base = match run(reader::content(&*disk, node.id, &extent)) {
                    Ok((base, failure)) => {
                        unread = failure;
                        base
                    }
                    Err(error) => {
                        node.give_up_snapshot(&disk);
                        return Err(error);
                    }
                };
                next = running.checkpoint.next_over(&node.engine, Some(&base));
            }
            let piece = match (next, unread) {
                (Ok(Next::Piece(piece)), _) => piece,
                (Ok(Next::More), _) => continue,
                (Ok(Next::Done), _) => return self.finish_snapshot(shard).map(|()| true),
                // Data that the disk would not read this time is not lost.
                (Err(_), Some(error)) => {
                    node.give_up_snapshot(&disk);
                    return Err(error);
                }
                (other, _) => panic!("nothing is damaged: {other:?}"),
            };
            let put = running.writer.put(&*disk, piece.part, piece.block, &piece.bytes);
            if let Err(error) = run(put) {
                node.give_up_snapshot(&disk);
                return Err(error);
            }
        }
        Ok(false)
    }

    fn finish_snapshot(&mut self, shard: usize) -> Result<(), DiskError> {
        let disk = self.disk.clone();
        let node = &mut self.nodes[shard];
        let Running { checkpoint, writer, identity } = node.running.take().expect("it has begun");
        let id = node.id;
        let written = run(writer.finish(&*disk, checkpoint.shape(), checkpoint.carried()));
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                node.engine.abandon_checkpoint(checkpoint);
                run(discard(&*disk, identity));
                return Err(match error {
                    ReadError::Disk(error) => error,
                    damaged @ (ReadError::Damaged { .. } | ReadError::Newer { .. }) => {
                        panic!("just written: {damaged}")
                    }
                });
            }
        };
        let snapshot = Snapshot {
            shard: id.0,
            number: identity.number,
            file: snapshot_name(id, identity.number),
            next_lsn: identity.position.next_lsn.0,
            chain: identity.position.chain,
            file_bytes: written.file_bytes,
            files: run(Usage::of(&*disk, &written.extents)).files(identity.number),
        };
        let sealed = self.sealed(shard);
        let node = &mut self.nodes[shard];
        let retained = retain::retain(node.snapshots.clone(), snapshot.clone(), &sealed);
        let Retained { live, snapshots, segments, files } = retained;
        node.snapshots = live;
        node.extents = written.extents;
        node.dispensable.extend(files.iter().map(|&number| snapshot_name(id, number)));
        node.dispensable.extend(segments.iter().map(|&number| segment_name(id, number)));
        let kept = self.keep(Kept::Snapshotted {
            snapshot,
            dropped_snapshots: snapshots,
            dropped_segments: segments,
        });
        let node = &mut self.nodes[shard];
        if let Err(error) = kept {
            node.engine.abandon_checkpoint(checkpoint);
            return Err(error);
        }
        node.engine.note_named(&node.extents).expect("they can be read from there");
        node.engine.note_saved(&checkpoint);
        node.engine.end_checkpoint(checkpoint);
        for name in std::mem::take(&mut node.dispensable) {
            run(disk.remove(&name)).ok();
        }
        Ok(())
    }

    /// The complete segments of a shard.
    fn sealed(&self, shard: usize) -> BTreeMap<u64, Sealed> {
        let id = self.nodes[shard].id.0;
        let segments = self.manifest.iter().flat_map(|manifest| &manifest.segments);
        let ours = segments.filter(|segment: &&Segment| segment.shard == id);
        ours.filter_map(|segment| Some((segment.number, segment.sealed?))).collect()
    }
}

impl Node {
    /// False if a snapshot may not begin now.
    fn begin_snapshot(
        &mut self,
        disk: &SimDisk,
        epoch: u64,
        unix_ms: u64,
    ) -> Result<bool, DiskError> {
        if !self.engine.may_checkpoint() {
            return Ok(false);
        }
        // Rows are short, so that nearly every file is worn: in half of the lives files are kept all the same, as
        // those with long rows are.
        let is_kept = mix(epoch ^ 2).is_multiple_of(2);
        let usage = run(Usage::of(disk, &self.extents));
        let worn = if is_kept { BTreeSet::new() } else { usage.worn_files() };
        let checkpoint = self.engine.begin_checkpoint(Arc::new(self.extents.clone()), worn);
        let position = self.position;
        assert_eq!(position.next_lsn, self.engine.applied().next());
        let number = self.next_snapshot;
        self.next_snapshot += 1;
        let identity = Identity { shard: self.id, number, epoch, position, unix_ms };
        match run(SnapshotWriter::begin(disk, identity)) {
            Ok(writer) => {
                self.running = Some(Running { checkpoint, writer, identity });
                Ok(true)
            }
            Err(error) => {
                self.engine.abandon_checkpoint(checkpoint);
                run(discard(disk, identity));
                Err(error)
            }
        }
    }

    fn give_up_snapshot(&mut self, disk: &SimDisk) {
        if let Some(Running { checkpoint, identity, .. }) = self.running.take() {
            self.engine.abandon_checkpoint(checkpoint);
            run(discard(disk, identity));
        }
    }
}
