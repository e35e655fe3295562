//! One suite for all disks: the properties that the log relies on hold on the real ones and the simulated one.

#![allow(clippy::unwrap_used, reason = "tests alone use it")]

use super::*;

/// Goes through every call of a disk whose directory is empty.
///
/// # Panics
/// If the disk does not do what its documentation says.
pub async fn conformance<D: Disk>(disk: D) {
    let block = |byte: u8, count: usize| {
        let mut buffer = disk.buffer(count * BLOCK);
        buffer.as_mut().fill(byte);
        buffer
    };
    assert!(disk.buffer(2 * BLOCK).as_mut().iter().all(|&byte| byte == 0));

    // A created file is all zeros, of the length asked for.
    let bytes = 80 * BLOCK as u64;
    let file = disk.create("a", bytes).await.unwrap();
    let mut content = Vec::new();
    file.read_at(0, 100 * BLOCK, &mut content).await.unwrap();
    assert_eq!(content, vec![0; bytes as usize]);

    // Writes are read back, around them nothing changes, and reads append.
    file.write_at(block(7, 300), 2 * BLOCK as u64).await.unwrap();
    file.write_at(block(8, 1), 3 * BLOCK as u64).await.unwrap();
    file.sync_data().await.unwrap();
    let mut content = vec![1];
    file.read_at(BLOCK as u64, 3 * BLOCK, &mut content).await.unwrap();
    let expected: Vec<u8> =
        [0, 7, 8].iter().flat_map(|&byte| std::iter::repeat_n(byte, BLOCK)).collect();
    assert_eq!((content[0], &content[1..]), (1, expected.as_slice()));
    file.close().await.unwrap();

    // Another handle, a read over the end, a cut.
    let file = disk.open("a").await.unwrap();
    let mut content = Vec::new();
    file.read_at(301 * BLOCK as u64, 4 * BLOCK, &mut content).await.unwrap();
    assert_eq!(content, vec![7; BLOCK]);
    file.truncate(BLOCK as u64).await.unwrap();
    file.sync_data().await.unwrap();
    let mut content = Vec::new();
    file.read_at(0, 4 * BLOCK, &mut content).await.unwrap();
    assert_eq!(content.len(), BLOCK);
    file.close().await.unwrap();

    // Names.
    disk.create("b", BLOCK as u64).await.unwrap().close().await.unwrap();
    disk.rename("b", "c").await.unwrap();
    disk.sync_dir().await.unwrap();
    assert_eq!(disk.list().await.unwrap(), ["a", "c"]);
    disk.rename("a", "c").await.unwrap();
    assert_eq!(disk.list().await.unwrap(), ["c"]);
    disk.remove("c").await.unwrap();
    assert_eq!(disk.remove("c").await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(disk.open("c").await.err().unwrap().kind, Kind::NotFound);
    assert!(disk.list().await.unwrap().is_empty());

    // Small files as a whole.
    replace(&disk, "m", b"one").await.unwrap();
    replace(&disk, "m", &[b'x'; 5_000]).await.unwrap();
    let content = read_all(&disk, "m", 8192).await.unwrap();
    assert_eq!((content.len(), content.trim_ascii_end()), (8192, [b'x'; 5_000].as_slice()));
    assert!(read_all(&disk, "m", 8191).await.is_err());
    assert_eq!(disk.list().await.unwrap(), ["m"]);
}
