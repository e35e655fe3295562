//! Writer of a snapshot: extents as they come, then their table, then the header; reads the file back and compares it
//! before it gets its name.

use super::reader::{self, ReadError};
use super::{
    BLOCK, EXTENT_BYTES_MAX, EXTENTS_AT_ONCE, Extent, Header, Part, Shape, encode_extent,
    snapshot_name,
};
use crate::disk::{Disk, DiskError, File, blocks};
use crate::sabotage::{Pillar, is_off};
use crate::types::ShardId;
use crate::types::position::Position;

/// Bytes to which extents are gathered for a write, about: the work on them between two writes takes a core some tens
/// of microseconds.
const WRITE_BYTES: usize = 128 << 10;

/// The shard and number of a snapshot, and its position in the log.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Shard whose state it is.
    pub shard: ShardId,
    /// Number of the snapshot, from 1.
    pub number: u64,
    /// Epoch of the log's writer.
    pub epoch: u64,
    /// Position at which the log continues.
    pub position: Position,
    /// The present time, Unix milliseconds.
    pub unix_ms: u64,
}

/// A snapshot being written.
pub struct Writer<F> {
    file: F,
    identity: Identity,
    /// Bytes gathered for the next write, and their offset.
    gathered: Vec<u8>,
    offset: u64,
    /// Extents in the order of writing, and the index at which each part begins.
    extents: Vec<Extent>,
    parts: Vec<(Part, usize)>,
}

/// A snapshot that is durable under its name.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its table: all extents, in the order of parts and blocks.
    pub extents: Vec<Extent>,
    /// Length of its own file in bytes.
    pub file_bytes: u64,
}

impl<F: File> Writer<F> {
    /// Begins a snapshot under a temporary name.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn begin<D: Disk<File = F, Buffer = F::Buffer>>(
        disk: &D,
        identity: Identity,
    ) -> Result<Self, DiskError> {
        let file = disk.begin(&temporary(identity)).await?;
        let (gathered, offset) = (Vec::with_capacity(WRITE_BYTES), BLOCK as u64);
        Ok(Self { file, identity, gathered, offset, extents: Vec::new(), parts: Vec::new() })
    }

    /// Adds an extent. The extents of a part follow one another, in the order of their blocks.
    ///
    /// # Errors
    /// If the disk fails.
    ///
    /// # Panics
    /// If they do not, or it is too long.
    pub async fn put<D: Disk<File = F, Buffer = F::Buffer>>(
        &mut self,
        disk: &D,
        part: Part,
        block: u32,
        bytes: &[u8],
    ) -> Result<(), DiskError>
    where
        F::Buffer: AsMut<[u8]>,
    {
        assert!(bytes.len() <= EXTENT_BYTES_MAX);
        match self.extents.last() {
            Some(last) if last.part == part => assert!(last.block < block, "in their order"),
            _ => {
                assert!(self.parts.iter().all(|(before, _)| *before != part), "side by side");
                self.parts.push((part, self.extents.len()));
            }
        }
        let start = self.gathered.len();
        self.gathered.extend_from_slice(bytes);
        self.gathered.resize(start + blocks(bytes.len()), 0);
        self.extents.push(Extent {
            part,
            block,
            file: self.identity.number,
            offset: self.offset + start as u64,
            bytes: u32::try_from(bytes.len()).expect("extents are bounded"),
            crc: crc32c::crc32c(&self.gathered[start..]),
        });
        if self.gathered.len() >= WRITE_BYTES { self.flush(disk).await } else { Ok(()) }
    }

    async fn flush<D: Disk<File = F, Buffer = F::Buffer>>(
        &mut self,
        disk: &D,
    ) -> Result<(), DiskError>
    where
        F::Buffer: AsMut<[u8]>,
    {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut buffer = disk.buffer(self.gathered.len());
        buffer.as_mut().copy_from_slice(&self.gathered);
        self.file.write_at(buffer, self.offset).await?;
        self.offset += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    /// The extents of a part.
    fn of_part(&self, part: Part) -> &[Extent] {
        let found = self.parts.iter().position(|(of, _)| *of == part);
        let end =
            |index: usize| self.parts.get(index + 1).map_or(self.extents.len(), |part| part.1);
        found.map_or(&[], |index| &self.extents[self.parts[index].1..end(index)])
    }

    /// Writes the table, in slices: all extents in the order of parts and blocks. Returns them, and the
    /// checksum.
    async fn write_table<D: Disk<File = F, Buffer = F::Buffer>>(
        &mut self,
        disk: &D,
        carried: &[Extent],
    ) -> Result<(Vec<Extent>, u32), DiskError>
    where
        F::Buffer: AsMut<[u8]>,
    {
        let mut table = Vec::with_capacity(self.extents.len() + carried.len());
        let (mut crc, mut rest) = (0, carried);
        for part in Part::ALL {
            let (mut ours, mut theirs) = (0, 0);
            loop {
                let own = self.of_part(part).get(ours).copied();
                let other = rest.get(theirs).filter(|extent| extent.part == part).copied();
                let (next, is_own) = match (own, other) {
                    (None, None) => break,
                    (Some(own), Some(other)) => {
                        assert_ne!(own.block, other.block, "a block is carried or written");
                        if own.block < other.block { (own, true) } else { (other, false) }
                    }
                    (Some(own), None) => (own, true),
                    (None, Some(other)) => (other, false),
                };
                *(if is_own { &mut ours } else { &mut theirs }) += 1;
                encode_extent(&next, &mut self.gathered);
                table.push(next);
                if table.len().is_multiple_of(EXTENTS_AT_ONCE) {
                    crc = crc32c::crc32c_append(crc, &self.gathered);
                    self.flush(disk).await?;
                    disk.rest().await;
                }
            }
            rest = &rest[theirs..];
        }
        assert!(rest.is_empty(), "what is carried is in the order of parts and blocks");
        self.gathered.resize(blocks(self.gathered.len()), 0);
        crc = crc32c::crc32c_append(crc, &self.gathered);
        self.flush(disk).await?;
        Ok((table, crc))
    }

    /// Ends the snapshot: writes the table, with the extents that are `carried` over from files of
    /// earlier snapshots, in the order of parts and blocks, and the header; reads everything back; gives
    /// the file its name.
    ///
    /// # Errors
    /// If the disk fails, or gives back something else than was written.
    pub async fn finish<D: Disk<File = F, Buffer = F::Buffer>>(
        mut self,
        disk: &D,
        shape: Shape,
        carried: &[Extent],
    ) -> Result<Written, ReadError>
    where
        F::Buffer: AsMut<[u8]>,
    {
        self.flush(disk).await?;
        let table_offset = self.offset;
        let (extents, table_crc) = self.write_table(disk, carried).await?;
        let Identity { shard, number, epoch, position, unix_ms } = self.identity;
        let file_bytes = self.offset;
        let count = u32::try_from(extents.len()).expect("extents are bounded");
        let header = Header {
            shard,
            number,
            epoch,
            position,
            unix_ms,
            shape,
            extents: count,
            table_offset,
            table_crc,
            file_bytes,
        };
        let mut block = disk.buffer(BLOCK);
        header.encode(block.as_mut());
        self.file.write_at(block, 0).await?;
        if !is_off(Pillar::SyncBeforeSnapshot) {
            self.file.sync_data().await?;
        }
        self.file.close().await?;
        let (temporary, name) = (temporary(self.identity), snapshot_name(shard, number));
        reader::verify(disk, &temporary, shard, number).await?;
        disk.rename(&temporary, &name).await?;
        disk.sync_dir().await?;
        Ok(Written { extents, file_bytes })
    }
}

/// The name of a snapshot that is not finished.
fn temporary(identity: Identity) -> String {
    format!("{}.tmp", snapshot_name(identity.shard, identity.number))
}

/// Removes the files of a snapshot that failed. A file that can't be removed is removed at the next start.
pub async fn discard<D: Disk>(disk: &D, identity: Identity) {
    let removed = disk.remove(&temporary(identity)).await;
    tracing::debug!(?removed, "an unfinished snapshot");
}
