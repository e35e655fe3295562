//! A small file system for tests that fill it up.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Errors make it read-only, as on most systems.
const OPTIONS: &str = "loop,errors=remount-ro";

/// A small file system in a file.
pub struct Volume {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Volume {
    /// `None`, with a message, if the system does not permit it.
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
            && run("mount", &["-o", OPTIONS], &[&image, &mounted_at]);
        is_mounted.then_some(Self { image, mounted_at })
    }

    /// A path on it. The output of a server goes to a file beside its directory, so here as well.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mounted_at.join(name)
    }

    /// Makes the file system detect damage: from then on nothing can be written or synced. False, with a message, if
    /// the system does not permit it.
    pub fn fail(&self) -> bool {
        let found =
            Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.mounted_at).output();
        let device = found.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let device = device.unwrap_or_default();
        let name = device.trim_start_matches("/dev/");
        let failed = std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1");
        if let Err(error) = &failed {
            println!("skipped: the file system of `{device}` can't be broken: {error}");
        }
        failed.is_ok()
    }

    /// The repair by an operator: unmounts it, checks it, and mounts it again.
    pub fn mend(&self) {
        let run = |program: &str, arguments: &[&str], paths: &[&Path]| {
            let status = Command::new(program).args(arguments).args(paths).status();
            status.ok().and_then(|status| status.code())
        };
        assert_eq!(run("umount", &[], &[&self.mounted_at]), Some(0));
        let checked = run("e2fsck", &["-p"], &[&self.image]);
        assert!(checked.is_some_and(|code| code <= 1), "{checked:?}");
        assert_eq!(run("mount", &["-o", OPTIONS], &[&self.image, &self.mounted_at]), Some(0));
    }

    fn ballast(&self) -> PathBuf {
        self.mounted_at.join("ballast")
    }

    /// Writes to a file until the file system is full.
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
