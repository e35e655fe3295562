//! A file system of its own, to be filled up.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in a file.
pub struct Volume {
    mounted_at: PathBuf,
}

impl Volume {
    /// `None`, and why, where the system does not let us.
    pub fn mount(directory: &Path, bytes: u64) -> Option<Self> {
        let (image, mounted_at) = (directory.join("image"), directory.join("volume"));
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a new file");
        std::fs::create_dir(&mounted_at).expect("a new directory");
        let run = |program: &str, arguments: &[&str], paths: &[&Path]| {
            let output = Command::new(program).args(arguments).args(paths).output();
            match output {
                Ok(output) if output.status.success() => true,
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    println!("skipped: {program} failed: {}", said.trim());
                    false
                }
                Err(error) => {
                    println!("skipped: {program} can't be run: {error}");
                    false
                }
            }
        };
        let is_mounted = run("mkfs.ext4", &["-q", "-m", "0"], &[&image])
            && run("mount", &["-o", "loop"], &[&image, &mounted_at]);
        is_mounted.then_some(Self { mounted_at })
    }

    /// A name on it. What a server prints goes to a file beside its directory, so here as well.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mounted_at.join(name)
    }

    fn ballast(&self) -> PathBuf {
        self.mounted_at.join("ballast")
    }

    /// Writes to a file until nothing more fits.
    pub fn fill(&self) {
        let file = File::options().create(true).append(true).open(self.ballast());
        let mut file = file.expect("a name is free on it");
        for bytes in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; bytes]).is_ok() {}
        }
        assert!(file.sync_all().is_ok());
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.mounted_at).status();
        let is_unmounted = unmounted.is_ok_and(|status| status.success());
        assert!(is_unmounted || std::thread::panicking());
    }
}
