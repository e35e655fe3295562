//! Times of the last backup and verification, for monitoring: a file of Prometheus text that the textfile collector of
//! node_exporter reads. A failed run keeps the figures of the last good one, and notes the failure.
//!
//! The file is replaced as a whole, so that the collector reads either version whole. Notes of other commands stay, and
//! the directory is locked meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Result;

/// Longest file that can be one of ours, in bytes.
const BYTES_MAX: u64 = 64 << 10;

/// All families, with their help texts. All are gauges.
const FAMILIES: [(&str, &str); 8] = [
    (CREATE_SUCCEEDED, "1 if the last run of kyrodb_backup create has made a backup, else 0"),
    (LAST_SUCCESS, "The moment, in Unix seconds, whose state the last backup has"),
    ("kyrodb_backup_last_size_bytes", "Bytes that the last backup has added"),
    ("kyrodb_backup_last_documents", "Documents in the last backup"),
    ("kyrodb_backup_last_duration_seconds", "How long the last backup took"),
    (VERIFY_SUCCEEDED, "1 if the last run of kyrodb_backup verify has found a good backup, else 0"),
    (LAST_VERIFIED, "When a backup was last verified and good, in Unix seconds"),
    ("kyrodb_backup_last_verify_duration_seconds", "How long the last good verification took"),
];

const CREATE_SUCCEEDED: &str = "kyrodb_backup_create_succeeded";
const LAST_SUCCESS: &str = "kyrodb_backup_last_success_timestamp_seconds";
const VERIFY_SUCCEEDED: &str = "kyrodb_backup_verify_succeeded";
const LAST_VERIFIED: &str = "kyrodb_backup_last_verified_timestamp_seconds";

/// Result of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// A backup was made.
    Created {
        /// Moment of its state.
        unix_seconds: u64,
        /// Bytes that it has added.
        bytes: u64,
        /// Documents in it.
        documents: u64,
    },
    /// A backup failed.
    NotCreated,
    /// A backup is good.
    Verified {
        /// Time of the verification.
        unix_seconds: u64,
    },
    /// A backup is not good, or could not be verified.
    NotVerified,
}

/// The text file.
#[derive(Debug)]
pub struct Textfile {
    path: PathBuf,
    directory: PathBuf,
    /// Start of the command: the time at which the file was opened.
    begun: Instant,
}

/// Values by family.
type Values = BTreeMap<String, String>;

impl Textfile {
    /// Checks that the file can be written later, and that it belongs to no other program.
    ///
    /// # Errors
    /// If that is not so.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        if path.file_name().is_none() {
            return Err(format!("--metrics-file {shown}: not the name of a file"));
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let file = Self { path: path.to_owned(), directory, begun: Instant::now() };
        let _lock = file.lock()?;
        file.read()?;
        // Checks that the directory is writable before a backup takes hours.
        let temporary = file.temporary();
        File::create(&temporary)
            .and_then(|_| std::fs::remove_file(&temporary))
            .map_err(|error| format!("--metrics-file {shown} can't be written: {error}"))?;
        Ok(file)
    }

    /// Notes a result.
    ///
    /// # Errors
    /// If the file can't be written. Then it is unchanged.
    pub fn note(&self, done: &Done) -> Result<()> {
        let _lock = self.lock()?;
        let mut values = self.read()?;
        let seconds = format!("{:.3}", self.begun.elapsed().as_secs_f64());
        let mut set = |name: &str, value: String| values.insert(name.to_owned(), value);
        match done {
            Done::Created { unix_seconds, bytes, documents } => {
                set(CREATE_SUCCEEDED, "1".into());
                set(LAST_SUCCESS, unix_seconds.to_string());
                set("kyrodb_backup_last_size_bytes", bytes.to_string());
                set("kyrodb_backup_last_documents", documents.to_string());
                set("kyrodb_backup_last_duration_seconds", seconds);
            }
            Done::NotCreated => drop(set(CREATE_SUCCEEDED, "0".into())),
            Done::Verified { unix_seconds } => {
                set(VERIFY_SUCCEEDED, "1".into());
                set(LAST_VERIFIED, unix_seconds.to_string());
                set("kyrodb_backup_last_verify_duration_seconds", seconds);
            }
            Done::NotVerified => drop(set(VERIFY_SUCCEEDED, "0".into())),
        }
        self.write(&text(&values)).map_err(|error| {
            format!("--metrics-file {} can't be written: {error}", self.path.display())
        })
    }

    fn lock(&self) -> Result<File> {
        let locked = File::open(&self.directory).and_then(|directory| {
            directory.lock()?;
            Ok(directory)
        });
        locked.map_err(|error| {
            format!("--metrics-file {}: its directory can't be used: {error}", self.path.display())
        })
    }

    /// The values in the file.
    fn read(&self) -> Result<Values> {
        let shown = self.path.display();
        match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Values::new()),
            Ok(metadata) if metadata.is_file() && metadata.len() <= BYTES_MAX => {}
            Ok(_) => return Err(not_ours(&self.path)),
            Err(error) => return Err(format!("--metrics-file {shown} can't be read: {error}")),
        }
        let text = std::fs::read_to_string(&self.path)
            .map_err(|error| format!("--metrics-file {shown} can't be read: {error}"))?;
        values(&text).ok_or_else(|| not_ours(&self.path))
    }

    /// A name that the collector does not read.
    fn temporary(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.directory.join(format!(".{name}.{}.tmp", std::process::id()))
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        let temporary = self.temporary();
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            // The collector runs as another user, whatever this user's umask is.
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)
        });
        if written.is_err() {
            // Nothing is left in a directory that can't be written to.
            std::fs::remove_file(&temporary).ok();
        }
        written
    }
}

fn not_ours(path: &Path) -> String {
    format!(
        "--metrics-file {} has something else in it, which would be lost: name another file",
        path.display()
    )
}

/// The values of a file; `None` if it is not one of ours.
fn values(text: &str) -> Option<Values> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    samples
        .map(|line| {
            let (name, value) = line.split_once(' ')?;
            let is_ours = FAMILIES.iter().any(|(family, _)| *family == name);
            value.parse::<f64>().ok().filter(|_| is_ours)?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

fn text(values: &Values) -> String {
    let mut text = String::new();
    for (name, help) in FAMILIES {
        if let Some(value) = values.get(name) {
            let written =
                writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
            debug_assert!(written.is_ok(), "memory takes it");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: Done = Done::Created { unix_seconds: 1_772_337_906, bytes: 4_096, documents: 7 };

    fn value(path: &Path, name: &str) -> Option<String> {
        values(&std::fs::read_to_string(path).unwrap()).unwrap().remove(name)
    }

    #[test]
    fn a_failed_run_keeps_the_figures_of_the_last_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kyrodb_backup.prom");
        let file = Textfile::open(&path).unwrap();
        assert!(!path.exists(), "nothing was done yet");
        file.note(&Done::NotCreated).unwrap();
        assert_eq!(value(&path, CREATE_SUCCEEDED), Some("0".into()));
        assert_eq!(value(&path, LAST_SUCCESS), None, "there was none");
        file.note(&CREATED).unwrap();
        let verified = Done::Verified { unix_seconds: 1_772_337_999 };
        file.note(&verified).unwrap();
        file.note(&Done::NotVerified).unwrap();
        file.note(&Done::NotCreated).unwrap();
        let wanted = [
            (CREATE_SUCCEEDED, "0"),
            (LAST_SUCCESS, "1772337906"),
            ("kyrodb_backup_last_size_bytes", "4096"),
            ("kyrodb_backup_last_documents", "7"),
            (VERIFY_SUCCEEDED, "0"),
            (LAST_VERIFIED, "1772337999"),
        ];
        for (name, wanted) in wanted {
            assert_eq!(value(&path, name).as_deref(), Some(wanted), "{name}");
        }
        for name in
            ["kyrodb_backup_last_duration_seconds", "kyrodb_backup_last_verify_duration_seconds"]
        {
            let seconds: f64 = value(&path, name).unwrap().parse().unwrap();
            assert!(seconds >= 0.0, "{name}: {seconds}");
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary is left");
    }

    /// Alerts and the dashboard use only families that are written.
    #[test]
    fn backup_metrics_of_alerts_and_dashboard_are_written() {
        for (file, least) in [("prometheus/kyrodb.rules.yml", 4), ("grafana/kyrodb.json", 2)] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib").join(file);
            let text = std::fs::read_to_string(path).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names: Vec<&str> =
                words.filter(|word| word.starts_with("kyrodb_backup_")).collect();
            assert!(names.len() >= least, "{file}: {names:?}");
            for name in names {
                assert!(FAMILIES.iter().any(|(family, _)| *family == name), "{file}: {name}");
            }
        }
    }

    #[test]
    fn files_of_other_programs_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.prom");
        let others = ["up 1\n", "kyrodb_backup_last_documents many\n", "notes", "x{a=\"b\"} 1\n"];
        for other in others {
            std::fs::write(&path, other).unwrap();
            let why = Textfile::open(&path).unwrap_err();
            assert!(why.contains("something else") && why.contains("disk.prom"), "{why}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        }
        std::fs::write(&path, "x".repeat(1 + BYTES_MAX as usize)).unwrap();
        assert!(Textfile::open(&path).unwrap_err().contains("something else"));
        assert!(Textfile::open(directory.path()).unwrap_err().contains("something else"));
        let nowhere = directory.path().join("nowhere/a.prom");
        assert!(Textfile::open(&nowhere).unwrap_err().contains("its directory can't be used"));
        assert!(Textfile::open(Path::new("/")).unwrap_err().contains("not the name of a file"));
    }
}
