//! Lines of operators' guides that were written for earlier servers of this name and for others, typed by a shell:
//! habits of operators work here too. Paths and ports are those of the test.
//!
//! Lines of `systemctl` and `journalctl` are replaced by the commands that systemd would run for them:
//! `tests/packaging` holds the unit to that.

use std::path::Path;
use std::process::Command;

use crate::common::{Launch, Process, directory, runtime};
use crate::{store, stored};

/// A command line.
pub(crate) struct Line {
    /// Its purpose, as in the guide.
    pub(crate) what: &'static str,
    pub(crate) typed: &'static str,
    pub(crate) code: i32,
    /// Texts that its output has to contain.
    pub(crate) says: &'static [&'static str],
}

/// Working directory of the lines, with `data`, `backups` and `config.yaml`.
pub(crate) struct Shell<'a> {
    directory: &'a Path,
    variables: Vec<(&'static str, String)>,
}

impl<'a> Shell<'a> {
    pub(crate) fn in_directory(directory: &'a Path) -> Self {
        let segment = ("KYRODB__PERSISTENCE__WAL_SEGMENT_BYTES", "4194304".to_owned());
        Self { directory, variables: vec![segment] }
    }

    pub(crate) fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.variables.push((variable, value.to_owned()));
        self
    }

    pub(crate) fn knows(mut self, process: &Process) -> Self {
        self.variables.push(("PID", process.pid().to_string()));
        self.variables.push(("HTTP", process.http.to_string()));
        self.variables.push(("KYRODB_URL", format!("http://{}", process.http)));
        self
    }

    #[track_caller]
    pub(crate) fn types(&self, lines: &[Line]) {
        let programs = Path::new(env!("CARGO_BIN_EXE_kyrodb_ctl")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        for Line { what, typed, code, says } in lines {
            let mut shell = Command::new("bash");
            shell.args(["-c", typed]).current_dir(self.directory).env("PATH", &path);
            shell.env_remove("KYRODB_DATA_DIR").envs(self.variables.iter().cloned());
            let output = shell.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(output.status.code(), Some(*code), "{what}: $ {typed}\n{said}");
            for part in *says {
                assert!(said.contains(part), "{what}: $ {typed}\n`{part}` is missing in:\n{said}");
            }
        }
    }
}

/// A server that reads `config.yaml` of the directory.
fn configured(directory: &Path, yaml: &str) -> Launch {
    std::fs::write(directory.join("config.yaml"), yaml).unwrap();
    let mut launch = Launch::new(&directory.join("log"), &[]);
    let environment: Vec<_> = launch
        .command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()))
        .collect();
    launch.command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    launch.command.current_dir(directory).args(["--config", "config.yaml"]).envs(environment);
    launch.command.args(["--port", &launch.grpc_port.to_string()]).env_remove("KYRODB_DATA_DIR");
    launch
}

pub(crate) fn started(directory: &Path, yaml: &str) -> Process {
    let mut process = configured(directory, yaml).spawn();
    process.wait_ready();
    process
}

#[test]
fn backups_as_every_day_and_every_week() {
    let directory = directory();
    let process = started(directory.path(), "");
    runtime().block_on(async { store(&mut process.client().await, 30).await });
    Shell::in_directory(directory.path()).knows(&process).types(&[
        Line {
            what: "a backup a day",
            typed: "kyrodb_backup create-full --data-dir ./data --backup-dir ./backups",
            code: 0,
            says: &["Backup ID", "Vectors:   30"],
        },
        Line {
            what: "daily: the newest backup",
            typed: "kyrodb_backup list --backup-dir ./backups | head -1 | grep Full",
            code: 0,
            says: &["Full", "UTC"],
        },
        Line {
            what: "weekly: test the restore of the latest, beside the server",
            typed: "kyrodb_backup restore --backup-id latest --backup-dir ./backups --dry-run",
            code: 0,
            says: &["Would restore", "30 vectors", "in use by another server", "Nothing was changed"],
        },
        Line {
            what: "verify",
            typed: "kyrodb_backup verify --backup-id latest --data-dir ./data --backup-dir ./backups",
            code: 0,
            says: &["is good"],
        },
        Line {
            what: "old backups go, also from below the data directory",
            typed: "mkdir -p data/backups/old_1 && rm -rf data/backups/old_*",
            code: 0,
            says: &[],
        },
    ]);
    process.stop();
}

#[test]
fn the_data_directory_moves_by_the_configuration() {
    let directory = directory();
    let process = started(directory.path(), "persistence:\n  data_dir: ./data\n");
    runtime().block_on(async { store(&mut process.client().await, 30).await });
    process.stop();
    Shell::in_directory(directory.path()).types(&[
        Line {
            what: "a copy elsewhere",
            typed: "mkdir -p mnt/ssd && cp -a data mnt/ssd/kyrodb && rm -r data",
            code: 0,
            says: &[],
        },
        Line {
            what: "the configuration names it",
            typed: "sed -i 's|data_dir: .*|data_dir: ./mnt/ssd/kyrodb|' config.yaml && \
                    kyrodb_server --config config.yaml --check-config",
            code: 0,
            says: &["the configuration is good"],
        },
        Line {
            what: "it is whole",
            typed: "find mnt/ssd/kyrodb -type f | wc -l && ls -la mnt/ssd/kyrodb && \
                    test -f mnt/ssd/kyrodb/MANIFEST",
            code: 0,
            says: &["MANIFEST"],
        },
    ]);
    let yaml = std::fs::read_to_string(directory.path().join("config.yaml")).unwrap();
    // systemd passes the unit's state directory, which has a lower precedence.
    let mut launch = configured(directory.path(), &yaml);
    launch.command.env("STATE_DIRECTORY", directory.path().join("state"));
    let mut process = launch.spawn();
    process.wait_ready();
    let found = runtime().block_on(async { stored(&mut process.client().await, 30).await });
    assert_eq!(found, 30);
    assert!(!directory.path().join("state").exists());
    process.stop();
}

#[test]
fn keys_of_earlier_servers_start_a_server() {
    let directory = directory();
    for (yaml, today) in [
        ("cache:\n  capacity: 50000\n", None),
        ("training:\n  window_duration_secs: 300\n", Some("cache.training_window_secs")),
        ("access_logger:\n  window_size: 50000\n", Some("cache.logger_window_size")),
        (
            "cache:\n  training:\n    max_samples: 10000\n    window_duration_secs: 300\n",
            Some("cache.training_window_secs"),
        ),
        ("timeouts:\n  cache_ms: 10\n", Some("timeouts.cache_ms has no effect")),
    ] {
        let process = started(directory.path(), yaml);
        let log = process.log();
        assert!(today.is_none_or(|today| log.contains(today)), "{yaml}: {log}");
        process.stop();
    }
    let said = configured(directory.path(), "cache:\n  cache_capacity: 50000\n").spawn().refuses();
    assert!(said.contains("did you mean `cache.capacity`?"), "{said}");
}

#[test]
fn reloads_and_the_files_of_the_process() {
    let directory = directory();
    let yaml = "server:\n  pid_file: ./run/kyrodb.pid\nlogging:\n  file: ./log/server.log\n";
    for folder in ["run", "log"] {
        std::fs::create_dir(directory.path().join(folder)).unwrap();
    }
    let process = started(directory.path(), yaml);
    Shell::in_directory(directory.path()).knows(&process).types(&[
        Line {
            what: "the log",
            typed: "tail -n 100 log/server.log | grep 'is ready'",
            code: 0,
            says: &["is ready"],
        },
        Line {
            what: "an address without a scheme",
            typed: "kyrodb_ctl --url $HTTP health && kyrodb_ctl --url localhost:${HTTP##*:} ready",
            code: 0,
            says: &["status: healthy", "ready: true"],
        },
        Line {
            what: "a variable with one `_` for two, of which nothing would be seen",
            typed: "KYRODB_HNSW_EF_SEARCH=3 kyrodb_server --config config.yaml --check-config",
            code: 0,
            says: &[
                "KYRODB_HNSW_EF_SEARCH has no effect",
                "did you mean KYRODB__HNSW__EF_SEARCH?",
                "the configuration is good",
            ],
        },
        Line {
            what: "the number of the process",
            typed: "test $(cat run/kyrodb.pid) = $PID && kill -SIGHUP $(cat run/kyrodb.pid)",
            code: 0,
            says: &[],
        },
        Line {
            what: "ExecReload of the unit, with a configuration that is refused",
            typed: "echo 'hnsw: {ef_search: 0}' > bad.yaml && \
                    kyrodb_server --config bad.yaml --check-config && kill -HUP $PID",
            code: 1,
            says: &["hnsw.ef_search"],
        },
        Line {
            what: "ExecReload of the unit",
            typed: "kyrodb_server --config config.yaml --check-config && kill -HUP $PID",
            code: 0,
            says: &["the configuration is good"],
        },
        Line {
            what: "a profile",
            typed: "kyrodb_ctl profile --seconds 1 --out cpu.svg || \
                    test $(cat /proc/sys/kernel/perf_event_paranoid) -gt 2; \
                    kyrodb_ctl health",
            code: 0,
            says: &["status: healthy"],
        },
    ]);
    process.stop();
    assert!(!directory.path().join("run/kyrodb.pid").exists());
}

#[test]
fn a_repair_by_root_leaves_a_directory_that_the_service_can_open() {
    let directory = directory();
    let process = started(directory.path(), "runtime:\n  shards: 1\n");
    runtime().block_on(async { store(&mut process.client().await, 30).await });
    process.kill();
    let data_dir = directory.path().join("data");
    Shell::in_directory(directory.path()).types(&[Line {
        what: "the integrity check",
        typed: "kyrodb_server --data-dir ./data --verify",
        code: 0,
        says: &["SOUND"],
    }]);
    crate::disk::damage(&data_dir);
    // Without root there is only one owner.
    Shell::in_directory(directory.path()).types(&[
        Line {
            what: "the repair, which writes files of its own",
            typed: "chown -R 4321:4322 data 2>/dev/null; rm data/LOCK; \
                    kyrodb_server --data-dir ./data --verify --repair",
            code: 1,
            says: &["quarantine"],
        },
        Line {
            what: "whose the files are",
            typed: "test $(stat -c %u:%g data) = $(stat -c %u:%g data/* data/quarantine/* | sort -u)",
            code: 0,
            says: &[],
        },
    ]);
}
