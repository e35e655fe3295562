//! Reads snapshots back: each byte is checked before it is used.

use std::collections::BTreeMap;

use super::{
    EXTENT_BYTES, EXTENTS_AT_ONCE, Extent, FORMAT_VERSION, FORMAT_VERSION_SHARED, Header, Part,
    decode_extent, snapshot_name,
};
use crate::disk::{BLOCK, Disk, DiskError, File, Kind, blocks};
use crate::types::ShardId;

/// Bytes read ahead at once if no other task wants the core.
const WINDOW_BYTES: usize = 1 << 20;

/// Bytes read at once beside searches: the work on them between two reads takes a core some tens of microseconds.
const VERIFY_WINDOW_BYTES: usize = 128 << 10;

/// The reason why a snapshot can't be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The data can't be as it was written.
    #[error("{file} is damaged at byte {offset}: {why}")]
    Damaged {
        /// The file, by name.
        file: String,
        /// Offset in the file, in bytes.
        offset: u64,
        /// Description of the fault.
        why: String,
    },
    /// The snapshot was written in a format that a later version of this program has.
    #[error(
        "{file} was made by a newer version of KyroDB (snapshot format {version}; this program reads \
         the versions {FORMAT_VERSION} and {FORMAT_VERSION_SHARED}): start that version"
    )]
    Newer {
        /// The file, by name.
        file: String,
        /// Its format.
        version: u16,
    },
}

impl ReadError {
    /// A [`ReadError::Damaged`].
    pub fn damaged(file: &str, offset: u64, why: impl Into<String>) -> Self {
        Self::Damaged { file: file.into(), offset, why: why.into() }
    }
}

/// Header and table of a snapshot.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The header.
    pub header: Header,
    /// Its table.
    pub extents: Vec<Extent>,
}

/// Reads header and table of the snapshot `number` of `shard`.
///
/// # Errors
/// If the file is missing, damaged, or another one.
pub async fn contents<D: Disk>(
    disk: &D,
    shard: ShardId,
    number: u64,
) -> Result<Contents, ReadError> {
    read_contents(disk, &snapshot_name(shard, number), shard, number).await
}

async fn read_contents<D: Disk>(
    disk: &D,
    name: &str,
    shard: ShardId,
    number: u64,
) -> Result<Contents, ReadError> {
    let file = open(disk, name).await?;
    let mut block = Vec::new();
    file.read_at(0, BLOCK, &mut block).await?;
    if let Some(version) = Header::newer_version(&block) {
        return Err(ReadError::Newer { file: name.into(), version });
    }
    let bad = |offset: u64, why: String| ReadError::damaged(name, offset, why);
    let header = Header::decode(&block).map_err(|why| bad(0, why))?;
    if (header.shard, header.number) != (shard, number) {
        let found = format!("it is snapshot {} of shard {}", header.number, header.shard.0);
        return Err(bad(0, found));
    }
    let extents = read_table(&file, &header, number).await?;
    file.close().await?;
    let extents = extents.map_err(|why| bad(header.table_offset, why))?;
    Ok(Contents { header, extents })
}

/// Reads the table of extents, some at a time; or describes its fault.
async fn read_table<F: File>(
    file: &F,
    header: &Header,
    number: u64,
) -> Result<Result<Vec<Extent>, String>, DiskError> {
    let (offset, count) = (header.table_offset, header.extents as usize);
    let bytes = blocks(count * EXTENT_BYTES) as u64;
    if offset.checked_add(bytes) != Some(header.file_bytes) {
        return Ok(Err("the table of extents does not end the file".into()));
    }
    let (mut extents, mut window) = (Vec::new(), Vec::new());
    let (mut read, mut crc, mut is_later, mut fault) = (0, 0, false, None);
    // One block more than there may be: the file has to end at the recorded length.
    while read < bytes + BLOCK as u64 {
        let wanted = (bytes + BLOCK as u64 - read).min(VERIFY_WINDOW_BYTES as u64) as usize;
        window.clear();
        file.read_at(offset + read, wanted, &mut window).await?;
        read += window.len() as u64;
        crc = crc32c::crc32c_append(crc, &window);
        let (rows, _) = window.as_chunks();
        for row in rows.iter().take(count - extents.len()) {
            match decode_extent(row) {
                Ok(extent) => {
                    is_later |= extent.file > number;
                    extents.push(extent);
                }
                // Reported only if the checksum is right.
                Err(why) => {
                    fault = Some(why);
                    break;
                }
            }
        }
        if window.len() < wanted {
            break;
        }
    }
    Ok(match fault {
        _ if read != bytes => Err(format!("the file does not have {} bytes", header.file_bytes)),
        _ if crc != header.table_crc => Err("bad checksum of the table of extents".into()),
        Some(why) => Err(why),
        None if is_later => Err("an extent in the file of a later snapshot".into()),
        None => Ok(extents),
    })
}

async fn open<D: Disk>(disk: &D, name: &str) -> Result<D::File, ReadError> {
    match disk.open(name).await {
        Ok(file) => Ok(file),
        Err(error) if error.kind == Kind::NotFound => {
            Err(ReadError::damaged(name, 0, "the file is missing"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads `extents`, in the order in which they lie in their files, and hands each with its bytes to `take`, which may
/// find them wrong.
///
/// # Errors
/// If a file is missing or damaged, or what `take` finds.
pub async fn read<D: Disk>(
    disk: &D,
    shard: ShardId,
    extents: &[Extent],
    mut take: impl FnMut(&Extent, &[u8]) -> Result<(), String>,
) -> Result<(), ReadError> {
    let mut sorted: Vec<&Extent> = extents.iter().collect();
    sorted.sort_by_key(|extent| (extent.file, extent.offset));
    for extents in sorted.chunk_by(|a, b| a.file == b.file) {
        let name = snapshot_name(shard, extents[0].file);
        read_file(disk, &name, extents, WINDOW_BYTES, &mut take).await?;
    }
    Ok(())
}

async fn read_file<D: Disk>(
    disk: &D,
    name: &str,
    extents: &[&Extent],
    window_bytes: usize,
    take: &mut impl FnMut(&Extent, &[u8]) -> Result<(), String>,
) -> Result<(), ReadError> {
    let file = open(disk, name).await?;
    let (mut window, mut start) = (Vec::new(), 0);
    for (index, extent) in extents.iter().enumerate() {
        let bytes = blocks(extent.bytes as usize);
        let end = extent.offset + bytes as u64;
        if extent.offset < start || end > start + window.len() as u64 {
            start = extent.offset;
            window.clear();
            file.read_at(start, following(&extents[index..], window_bytes), &mut window).await?;
        }
        let from = (extent.offset - start) as usize;
        let why = |why: &str| ReadError::damaged(name, extent.offset, why);
        let content = window.get(from..from + bytes).ok_or_else(|| why("the file ends there"))?;
        if crc32c::crc32c(content) != extent.crc {
            return Err(why("bad checksum of an extent"));
        }
        take(extent, &content[..extent.bytes as usize]).map_err(|found| why(&found))?;
    }
    file.close().await?;
    Ok(())
}

/// The contents at the place of an extent, unchecked: as much of it as there is, with zeros for blocks that can't be
/// read; and the reasons why those can't.
///
/// # Errors
/// If the file can't be opened. A file that is missing has no contents.
pub async fn content<D: Disk>(
    disk: &D,
    shard: ShardId,
    extent: &Extent,
) -> Result<(Vec<u8>, Option<DiskError>), DiskError> {
    let file = match disk.open(&snapshot_name(shard, extent.file)).await {
        Ok(file) => file,
        Err(error) if error.kind == Kind::NotFound => return Ok((Vec::new(), Some(error))),
        Err(error) => return Err(error),
    };
    let (mut content, bytes) = (Vec::new(), blocks(extent.bytes as usize));
    let failure = file.read_at(extent.offset, bytes, &mut content).await.err();
    if failure.is_some() {
        content.clear();
        for start in (0..bytes).step_by(BLOCK) {
            let read = file.read_at(extent.offset + start as u64, BLOCK, &mut content).await;
            content.truncate(if read.is_ok() { start + BLOCK } else { start });
            content.resize(start + BLOCK, 0);
        }
    }
    file.close().await?;
    Ok((content, failure))
}

/// Bytes to read for the first of `extents`: as many of them as follow one another, up to `bytes_max`.
fn following(extents: &[&Extent], bytes_max: usize) -> usize {
    let start = extents[0].offset;
    let mut end = start + blocks(extents[0].bytes as usize) as u64;
    for extent in &extents[1..] {
        let next = extent.offset + blocks(extent.bytes as usize) as u64;
        if extent.offset != end || next - start > bytes_max as u64 {
            break;
        }
        end = next;
    }
    (end - start) as usize
}

/// The extents that lie in the file `number`, in the order in which they lie there, made in slices. Those of a part
/// were written one after the other, so that only the parts have to be sorted.
async fn own_extents<'a, D: Disk>(disk: &D, extents: &'a [Extent], number: u64) -> Vec<&'a Extent> {
    let mut parts: BTreeMap<Part, Vec<&Extent>> = BTreeMap::new();
    for some in extents.chunks(EXTENTS_AT_ONCE) {
        for extent in some.iter().filter(|extent| extent.file == number) {
            parts.entry(extent.part).or_default().push(extent);
        }
        disk.rest().await;
    }
    let mut parts: Vec<Vec<&Extent>> = parts.into_values().collect();
    parts.sort_unstable_by_key(|part| part[0].offset);
    parts.concat()
}

/// Reads all extents in a snapshot's own file, under this name, and checks them.
///
/// # Errors
/// If anything is not as it was written.
pub async fn verify<D: Disk>(
    disk: &D,
    name: &str,
    shard: ShardId,
    number: u64,
) -> Result<Contents, ReadError> {
    let contents = read_contents(disk, name, shard, number).await?;
    let own = own_extents(disk, &contents.extents, number).await;
    // Extents lie side by side from the header to the table: every block belongs to one.
    let mut end = BLOCK as u64;
    for some in own.chunks(EXTENTS_AT_ONCE) {
        for extent in some {
            if extent.offset != end {
                return Err(ReadError::damaged(name, end, "a gap between extents"));
            }
            end += blocks(extent.bytes as usize) as u64;
        }
        disk.rest().await;
    }
    if end != contents.header.table_offset {
        return Err(ReadError::damaged(name, end, "a gap before the table of extents"));
    }
    read_file(disk, name, &own, VERIFY_WINDOW_BYTES, &mut |_, _| Ok(())).await?;
    Ok(contents)
}
