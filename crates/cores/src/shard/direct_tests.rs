//! The real disk does what the log builds on.

use super::direct::DirectDisk;
use crate::disk::conformance::conformance;

#[test]
fn the_real_disk_conforms() {
    for sync_metadata in [false, true] {
        // Beside the test binary: a temporary directory may be a tmpfs, which has no O_DIRECT.
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let path = directory.path().to_owned();
        glommio::LocalExecutorBuilder::default()
            .spawn(move || async move {
                conformance(DirectDisk::open(&path, sync_metadata).await.unwrap()).await;
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
