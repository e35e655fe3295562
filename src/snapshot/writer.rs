//! Writes a snapshot: extents as they come, then their table, then the header, and looks at what
//! has become of it before anybody relies on it.

use super::reader::{self, ReadError};
use super::{BLOCK, EXTENT_BYTES, EXTENT_BYTES_MAX, Extent, Header, Part, Shape, snapshot_name};
use crate::disk::{Disk, DiskError, File, blocks};
use crate::sabotage::{Pillar, is_off};
use crate::types::ShardId;
use crate::wal::Position;

/// Extents are gathered to writes of about so much: what is done with them between two writes
/// takes a core some tens of microseconds.
const WRITE_BYTES: usize = 128 << 10;

/// What a snapshot is of, and which.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Whose state it is.
    pub shard: ShardId,
    /// Which snapshot, counted from 1.
    pub number: u64,
    /// Generation of the log's writer.
    pub epoch: u64,
    /// Where the log goes on.
    pub position: Position,
    /// Now, Unix milliseconds.
    pub unix_ms: u64,
}

/// A snapshot being written.
pub struct Writer<F> {
    file: F,
    identity: Identity,
    /// What is gathered for the next write, and where it goes.
    gathered: Vec<u8>,
    offset: u64,
    extents: Vec<Extent>,
}

/// A snapshot that is durable under its name.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its table: all extents, in the order of parts and blocks.
    pub extents: Vec<Extent>,
    /// Length of its own file.
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
        Ok(Self { file, identity, gathered, offset, extents: Vec::new() })
    }

    /// Adds an extent.
    ///
    /// # Errors
    /// If the disk fails.
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

    /// Ends the snapshot: writes the table, with the extents that are `carried` over from files of
    /// earlier snapshots, and the header; reads everything back; gives the file its name.
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
        let mut extents = std::mem::take(&mut self.extents);
        extents.extend_from_slice(carried);
        extents.sort_by_key(|extent| (extent.part, extent.block));
        self.flush(disk).await?;
        let table_offset = self.offset;
        let mut table = Vec::with_capacity(blocks(extents.len() * EXTENT_BYTES));
        extents.iter().for_each(|extent| extent.encode(&mut table));
        table.resize(blocks(table.len()), 0);
        let table_crc = crc32c::crc32c(&table);
        for part in table.chunks(WRITE_BYTES) {
            self.gathered.extend_from_slice(part);
            self.flush(disk).await?;
        }
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

/// Removes what a snapshot that failed has left. What can't be removed goes at the next start.
pub async fn discard<D: Disk>(disk: &D, identity: Identity) {
    let removed = disk.remove(&temporary(identity)).await;
    tracing::debug!(?removed, "an unfinished snapshot");
}
