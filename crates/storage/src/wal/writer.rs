//! Writer of a log: appends groups to the active segment, one at a time, and changes to another segment when that is
//! full or has failed.

use std::rc::Rc;

use super::group::{GROUP_HEADER_BYTES, GroupHeader, encode, record_bytes};
use super::segment::SegmentHeader;
use super::{GROUP_BYTES_MAX, Position, segment_name};
use crate::disk::{BLOCK, Disk, DiskError, File, Kind, Result, blocks};
use crate::manifest::Sealed;
use crate::sabotage::{Pillar, is_off};
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};

/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

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
        if !is_off(Pillar::NameBeforeManifest) {
            disk.sync_dir().await?;
        }
        Ok(Self { file, number, bytes })
    }

    /// Position in the log for which it is meant.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Counts of a writer.
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
    /// Offset up to which the segment is known to be durable.
    durable_bytes: u64,
    bytes: u64,
}

/// The reason why a segment that has lost its name could not be made again.
#[derive(Debug)]
pub enum RestoreError {
    /// Its contents can't be read any more.
    Lost(DiskError),
    /// The file could not be written; another try may succeed.
    Disk(DiskError),
}

/// The only writer of a shard's log.
///
/// After a failed write or sync it refuses everything: the data on disk behind the last position known to be durable
/// is unknown then. That segment is not written again. A new one that begins at that position gives a known state
/// ([`Writer::replace`]), or reading the log again.
pub struct Writer<D: Disk> {
    disk: Rc<D>,
    shard: ShardId,
    epoch: u64,
    active: Active<D::File>,
    position: Position,
    /// Position up to which the log is known to be durable.
    durable: Position,
    /// Groups behind that position whose writes succeeded: callers that asked for no sync take them for done.
    unsynced: Vec<Vec<Record>>,
    /// Number that the next segment gets.
    next_number: u64,
    /// Ends of segments that were given up, and are not yet replaced by a whole one.
    given_up: Vec<(u64, Sealed)>,
    /// Numbers of segments that could not be begun.
    unused: Vec<u64>,
    is_broken: bool,
    stats: Stats,
}

impl<D: Disk> Writer<D> {
    /// Begins a log, or continues one at `position`, in a new segment.
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
        let next_number = prepared.number + 1;
        let active = activate(&*disk, shard, epoch, prepared, position, unix_ms).await?;
        Ok(Self {
            disk,
            shard,
            epoch,
            active,
            position,
            durable: position,
            unsynced: Vec::new(),
            next_number,
            given_up: Vec::new(),
            unused: Vec::new(),
            is_broken: false,
            stats: Stats { syncs: 1, bytes: BLOCK as u64, ..Stats::default() },
        })
    }

    /// LSN of the next record.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.position.next_lsn
    }

    /// Position of the next record.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// LSN up to which all records are known to be durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.next_lsn.0 - 1)
    }

    /// Bytes written, but not known to be durable.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.active.offset - self.active.durable_bytes
    }

    /// True if groups whose writes succeeded are not known to be durable.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// True after a failed write or sync, until the segment is replaced.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Number of the next segment.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// End of the broken segment, if all groups that any caller takes for done are durable in it. Other groups that
    /// may be found in it were refused.
    #[must_use]
    pub fn broken_end(&self) -> Option<(u64, Sealed)> {
        (self.is_broken && self.unsynced.is_empty()).then(|| self.durable_end())
    }

    /// Counts of what was written so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Number of the segment being written.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.active.number
    }

    /// True if the segment has groups.
    #[must_use]
    pub fn has_groups(&self) -> bool {
        self.active.offset > BLOCK as u64
    }

    /// Share of the segment in use, 0 to 1.
    #[must_use]
    pub fn fill(&self) -> f64 {
        self.active.offset as f64 / self.active.bytes as f64
    }

    /// Number of `records`, from the front, that go into one group.
    #[must_use]
    pub fn group_len<'a>(records: impl IntoIterator<Item = &'a Record>) -> usize {
        let mut bytes = 0;
        let fits = |record: &Record| {
            bytes += record_bytes(record);
            bytes <= GROUP_BYTES_MAX
        };
        records.into_iter().map(fits).take_while(|&fits| fits).count()
    }

    /// True if a group of `records` fits into the active segment. Behind a group with records there is always room
    /// for one without, of one block: else nothing could confirm the last group of a full segment, and damage to it
    /// would pass for a torn write.
    #[must_use]
    pub fn fits(&self, records: &[Record]) -> bool {
        let reserved = if records.is_empty() { 0 } else { group_bytes(&[]) };
        self.active.offset + (group_bytes(records) + reserved) as u64 <= self.active.bytes
    }

    /// Writes one group. With `sync` it is durable when this returns. Without, it is remembered until it is durable,
    /// and written again to a new segment if this one fails before.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then.
    ///
    /// # Panics
    /// If the group does not fit, in itself or into the segment: see [`Writer::fits`].
    pub async fn append(&mut self, records: &[Record], unix_ms: u64, sync: bool) -> Result<()> {
        self.append_noting(records, unix_ms, sync, || {}).await
    }

    /// Appends as [`Writer::append`] does; calls `on_written` after the write, before the sync.
    ///
    /// # Errors
    /// As for [`Writer::append`].
    pub async fn append_noting(
        &mut self,
        records: &[Record],
        unix_ms: u64,
        sync: bool,
        on_written: impl FnOnce(),
    ) -> Result<()> {
        self.check()?;
        self.write(records, unix_ms).await?;
        on_written();
        if sync {
            return self.sync().await;
        }
        self.unsynced.push(records.to_vec());
        Ok(())
    }

    async fn write(&mut self, records: &[Record], unix_ms: u64) -> Result<()> {
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
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then.
    pub async fn sync(&mut self) -> Result<()> {
        self.check()?;
        self.is_broken = true;
        if !is_off(Pillar::SyncBeforeAck) {
            self.active.file.sync_data().await?;
        }
        self.is_broken = false;
        self.stats.syncs += 1;
        self.durable = self.position;
        self.active.durable_bytes = self.active.offset;
        self.unsynced.clear();
        Ok(())
    }

    /// Makes the log durable, then writes a group without records, durable too, that says so: damage to any group
    /// before it is told apart from a torn write. If the segment is full, such a group is its last one already.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then.
    pub async fn seal(&mut self, unix_ms: u64) -> Result<()> {
        // The group names the offset that was durable before it was written, so the sync comes first.
        if self.unsynced_bytes() != 0 {
            self.sync().await?;
        }
        if self.fits(&[]) { self.append(&[], unix_ms, true).await } else { Ok(()) }
    }

    /// Number and end of the active segment, if all of it is durable: the end that MANIFEST may record once the
    /// writer appends no more.
    #[must_use]
    pub fn end(&self) -> Option<(u64, Sealed)> {
        let is_durable = !self.is_broken && self.unsynced_bytes() == 0;
        is_durable.then(|| self.durable_end())
    }

    /// Changes to the next segment; returns the end of the former one.
    ///
    /// # Errors
    /// If the disk fails; the writer is broken then, and the prepared segment is among the
    /// [unused](Self::take_unused) ones.
    pub async fn rotate(
        &mut self,
        prepared: Prepared<D::File>,
        unix_ms: u64,
    ) -> Result<(u64, Sealed)> {
        if let Err(error) = self.complete().await {
            // MANIFEST names the segment already: its file stays, and its number is not used again.
            self.next_number = prepared.number + 1;
            self.unused.push(prepared.number);
            return Err(error);
        }
        self.go_over(prepared, unix_ms).await
    }

    /// Makes the active segment durable: the header of the next one claims that this one is complete.
    async fn complete(&mut self) -> Result<()> {
        self.check()?;
        if self.unsynced_bytes() == 0 { Ok(()) } else { self.sync().await }
    }

    /// Continues after a failure in a new segment, at the position up to which the log is known to be durable. Its
    /// header cuts off everything behind that position in the failed segment. Groups that were written without a sync
    /// are written again, with their LSNs, and synced. Returns the ends of the segments given up.
    ///
    /// # Errors
    /// If the disk fails; the writer is still broken then, and nothing is forgotten.
    pub async fn replace(
        &mut self,
        prepared: Prepared<D::File>,
        unix_ms: u64,
    ) -> Result<Vec<(u64, Sealed)>> {
        assert!(self.is_broken, "a good segment is rotated");
        let given_up = self.go_over(prepared, unix_ms).await?;
        self.given_up.push(given_up);
        let unsynced = std::mem::take(&mut self.unsynced);
        if let Err(error) = self.write_again(&unsynced, unix_ms).await {
            self.unsynced = unsynced;
            return Err(error);
        }
        Ok(std::mem::take(&mut self.given_up))
    }

    async fn write_again(&mut self, groups: &[Vec<Record>], unix_ms: u64) -> Result<()> {
        for group in groups {
            self.write(group, unix_ms).await?;
        }
        if groups.is_empty() { Ok(()) } else { self.sync().await }
    }

    /// Begins a segment at the position up to which the log is known to be durable.
    async fn go_over(
        &mut self,
        prepared: Prepared<D::File>,
        unix_ms: u64,
    ) -> Result<(u64, Sealed)> {
        assert!(prepared.number >= self.next_number, "a segment is begun once");
        self.next_number = prepared.number + 1;
        self.is_broken = true;
        let (disk, position) = (&*self.disk, self.durable);
        self.unused.push(prepared.number);
        let active = activate(disk, self.shard, self.epoch, prepared, position, unix_ms).await?;
        self.unused.pop();
        self.is_broken = false;
        self.stats.syncs += 1;
        self.stats.bytes += BLOCK as u64;
        let end = self.durable_end();
        self.active = active;
        self.position = position;
        Ok(end)
    }

    /// Numbers of segments that could not be begun, since the last call: MANIFEST must not name them for longer than
    /// the segments after them. Their headers may exist, or appear.
    pub fn take_unused(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.unused)
    }

    /// End of the active segment, as far as it is known to be durable.
    fn durable_end(&self) -> (u64, Sealed) {
        let active = &self.active;
        let sealed = Sealed {
            first_lsn: active.first_lsn.0,
            last_lsn: self.durable.next_lsn.0 - 1,
            end_bytes: active.durable_bytes,
            chain: self.durable.chain,
        };
        (active.number, sealed)
    }

    /// Restores the name of the active segment's file after the file was removed: writes it again from the contents
    /// of the open file, durable with its name, and continues in it.
    ///
    /// # Errors
    /// If its contents can't be read any more, or can't be written.
    pub async fn restore(&mut self) -> std::result::Result<(), RestoreError> {
        let name = segment_name(self.shard, self.active.number);
        let temporary = format!("{name}.tmp");
        let disk = self.disk.clone();
        let copy = disk.create(&temporary, self.active.bytes).await.map_err(RestoreError::Disk)?;
        let end = if self.is_broken { self.active.durable_bytes } else { self.active.offset };
        let mut offset = 0;
        while offset < end {
            let bytes = (end - offset).min(COPY_BYTES) as usize;
            let mut content = Vec::with_capacity(bytes);
            let read = self.active.file.read_at(offset, bytes, &mut content).await;
            read.map_err(RestoreError::Lost)?;
            let mut buffer = disk.buffer(bytes);
            if content.len() != bytes {
                return Err(RestoreError::Lost(self.error("read", "the file has been cut")));
            }
            buffer.as_mut().copy_from_slice(&content);
            copy.write_at(buffer, offset).await.map_err(RestoreError::Disk)?;
            offset += bytes as u64;
        }
        let named = async {
            copy.sync_data().await?;
            disk.rename(&temporary, &name).await?;
            disk.sync_dir().await
        };
        named.await.map_err(RestoreError::Disk)?;
        self.active.file = copy;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if !self.is_broken {
            return Ok(());
        }
        Err(self.error("append to", "an earlier write or sync of this segment failed"))
    }

    fn error(&self, operation: &'static str, reason: &str) -> DiskError {
        let file = segment_name(self.shard, self.active.number);
        DiskError { kind: Kind::Failed, operation, file, reason: reason.into() }
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
