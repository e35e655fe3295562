//! Appends groups to the active segment, one at a time.

use std::rc::Rc;

use super::group::{GROUP_HEADER_BYTES, GroupHeader, encode, record_bytes};
use super::record::Record;
use super::segment::SegmentHeader;
use super::{GROUP_BYTES_MAX, Position, segment_name};
use crate::disk::{BLOCK, Disk, DiskError, File, Kind, Result, blocks};
use crate::manifest::Sealed;
use crate::types::{Lsn, ShardId};

/// A zeroed segment that is ready to be written.
pub struct Prepared<F> {
    file: F,
    number: u64,
    bytes: u64,
}

impl<F> Prepared<F> {
    /// Makes a segment file, durable with its name.
    ///
    /// # Errors
    /// If the disk fails or is full.
    pub async fn create<D: Disk<File = F>>(
        disk: &D,
        shard: ShardId,
        number: u64,
        bytes: u64,
    ) -> Result<Self> {
        let file = disk.create(&segment_name(shard, number), bytes).await?;
        disk.sync_dir().await?;
        Ok(Self { file, number, bytes })
    }

    /// Where in the log it is meant to go.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// What a writer has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Groups written.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes written, padding included.
    pub bytes: u64,
    /// Syncs done.
    pub syncs: u64,
}

struct Active<F> {
    file: F,
    number: u64,
    first_lsn: Lsn,
    offset: u64,
    /// The segment is known to be durable up to here.
    durable_bytes: u64,
    bytes: u64,
}

/// The only writer of a shard's log.
///
/// After a failed write or sync it refuses everything: what is on disk is unknown then, and only
/// a new segment, or reading the log again, gives a known state.
pub struct Writer<D: Disk> {
    disk: Rc<D>,
    shard: ShardId,
    epoch: u64,
    active: Active<D::File>,
    position: Position,
    /// All records up to here are known to be durable.
    durable: Lsn,
    is_broken: bool,
    stats: Stats,
}

impl<D: Disk> Writer<D> {
    /// Begins a log, or goes on with one at `position`, in a new segment.
    ///
    /// # Errors
    /// If the segment's header can't be made durable.
    pub async fn begin(
        disk: Rc<D>,
        shard: ShardId,
        epoch: u64,
        prepared: Prepared<D::File>,
        position: Position,
        unix_ms: u64,
    ) -> Result<Self> {
        let durable = Lsn(position.next_lsn.0 - 1);
        let active = activate(&*disk, shard, epoch, prepared, position, unix_ms).await?;
        let stats = Stats { syncs: 1, bytes: BLOCK as u64, ..Stats::default() };
        Ok(Self { disk, shard, epoch, active, position, durable, is_broken: false, stats })
    }

    /// LSN that the next record will have.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.position.next_lsn
    }

    /// Where the next record goes.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// All records up to here are known to be durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// What was written so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Number of the segment being written.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.active.number
    }

    /// How full the segment is, 0 to 1.
    #[must_use]
    pub fn fill(&self) -> f64 {
        self.active.offset as f64 / self.active.bytes as f64
    }

    /// How many of `records`, from the front, go into one group.
    #[must_use]
    pub fn group_len<'a>(records: impl IntoIterator<Item = &'a Record>) -> usize {
        let mut bytes = 0;
        let fits = |record: &Record| {
            bytes += record_bytes(record);
            bytes <= GROUP_BYTES_MAX
        };
        records.into_iter().map(fits).take_while(|&fits| fits).count()
    }

    /// True if a group of `records` fits into the active segment.
    #[must_use]
    pub fn fits(&self, records: &[Record]) -> bool {
        self.active.offset + group_bytes(records) as u64 <= self.active.bytes
    }

    /// Writes one group. With `sync` it is durable when this returns.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then.
    ///
    /// # Panics
    /// If the group does not fit, in itself or into the segment: see [`Writer::fits`].
    pub async fn append(&mut self, records: &[Record], unix_ms: u64, sync: bool) -> Result<()> {
        self.check()?;
        assert!(self.fits(records), "the caller rotates first");
        let bytes = group_bytes(records);
        let mut buffer = self.disk.buffer(bytes);
        let header = GroupHeader {
            shard: self.shard,
            epoch: self.epoch,
            record_count: 0,
            record_bytes: 0,
            start: self.position,
            durable_bytes: self.active.durable_bytes,
            unix_ms,
            chain_after: 0,
        };
        let chain = encode(header, records, buffer.as_mut());
        // From here on until the end of the sync the state of the disk is unknown.
        self.is_broken = true;
        self.active.file.write_at(buffer, self.active.offset).await?;
        self.active.offset += bytes as u64;
        self.position =
            Position { next_lsn: Lsn(self.position.next_lsn.0 + records.len() as u64), chain };
        self.stats.groups += 1;
        self.stats.records += records.len() as u64;
        self.stats.bytes += bytes as u64;
        self.is_broken = false;
        if sync { self.sync().await } else { Ok(()) }
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then.
    pub async fn sync(&mut self) -> Result<()> {
        self.check()?;
        self.is_broken = true;
        self.active.file.sync_data().await?;
        self.is_broken = false;
        self.stats.syncs += 1;
        self.durable = Lsn(self.position.next_lsn.0 - 1);
        self.active.durable_bytes = self.active.offset;
        Ok(())
    }

    /// Writes a group without records, durable, that vouches for the one before. Where the
    /// segment is full it only syncs: the next segment's header vouches as well.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then.
    pub async fn seal(&mut self, unix_ms: u64) -> Result<()> {
        if self.fits(&[]) {
            return self.append(&[], unix_ms, true).await;
        }
        if self.active.durable_bytes == self.active.offset { Ok(()) } else { self.sync().await }
    }

    /// Goes over to the next segment; returns what the former one came to.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then.
    pub async fn rotate(
        &mut self,
        prepared: Prepared<D::File>,
        unix_ms: u64,
    ) -> Result<(u64, Sealed)> {
        self.check()?;
        assert_eq!(prepared.number, self.active.number + 1, "segments follow one another");
        // The next header claims that this segment is complete: it has to be durable before.
        if self.active.durable_bytes != self.active.offset {
            self.sync().await?;
        }
        self.is_broken = true;
        let (disk, position) = (&*self.disk, self.position);
        let active = activate(disk, self.shard, self.epoch, prepared, position, unix_ms).await?;
        self.is_broken = false;
        self.stats.syncs += 1;
        self.stats.bytes += BLOCK as u64;
        let former = std::mem::replace(&mut self.active, active);
        let sealed = Sealed {
            first_lsn: former.first_lsn.0,
            last_lsn: position.next_lsn.0 - 1,
            end_bytes: former.offset,
            chain: position.chain,
        };
        Ok((former.number, sealed))
    }

    fn check(&self) -> Result<()> {
        if !self.is_broken {
            return Ok(());
        }
        Err(DiskError {
            kind: Kind::Failed,
            operation: "append to",
            file: segment_name(self.shard, self.active.number),
            reason: "an earlier write or sync of this segment failed".into(),
        })
    }
}

fn group_bytes(records: &[Record]) -> usize {
    blocks(GROUP_HEADER_BYTES + records.iter().map(record_bytes).sum::<usize>())
}

/// Writes the header of a prepared segment, durable.
async fn activate<D: Disk>(
    disk: &D,
    shard: ShardId,
    epoch: u64,
    prepared: Prepared<D::File>,
    start: Position,
    unix_ms: u64,
) -> Result<Active<D::File>> {
    let Prepared { file, number, bytes } = prepared;
    let mut block = disk.buffer(BLOCK);
    let header = SegmentHeader { shard, number, epoch, start, unix_ms, segment_bytes: bytes };
    header.encode(block.as_mut());
    file.write_at(block, 0).await?;
    file.sync_data().await?;
    let offset = BLOCK as u64;
    let first_lsn = start.next_lsn;
    Ok(Active { file, number, first_lsn, offset, durable_bytes: offset, bytes })
}
