//! The backup program: arguments → [`crate::backup`] → what it came to, and an exit code.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::backup::create::Create;
use crate::backup::prune::Rules;
use crate::backup::restore::{Point, Restore};
use crate::backup::storage::Overlap;
use crate::backup::textfile::{Done, Textfile};
use crate::backup::time::show;
use crate::backup::verify::verify;
use crate::backup::{Backup, Storage, create, give_way, prune, raise_file_limit, restore};
use crate::clock::unix_ms;
use crate::disk::owner::restrict_new_files;
use crate::table::{Column, table};
use crate::types::human::show_bytes;

/// Backs up a KyroDB data directory, beside a running server or a stopped one, and restores it.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "kyrodb_backup", version)]
struct Arguments {
    /// Data directory: what is backed up, or restored to
    #[arg(
        long,
        value_name = "PATH",
        default_value = "./data",
        env = "KYRODB_DATA_DIR",
        global = true
    )]
    data_dir: PathBuf,

    /// Where backups are: a directory, or s3://BUCKET/PREFIX with the AWS_ variables for endpoint
    /// (AWS_ENDPOINT_URL), region (AWS_REGION) and credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)
    #[arg(long, value_name = "PLACE", default_value = "./backups", global = true)]
    backup_dir: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a backup; the server may run, and goes on
    #[command(alias = "create-full")]
    Create(CreateArguments),

    /// Show the backups, newest first
    List(ListArguments),

    /// Compare every checksum of a backup and its parents, and open it for a trial, which takes
    /// the memory of its largest shard
    Verify(VerifyArguments),

    /// Restore a data directory: to a backup, or to a moment
    Restore(RestoreArguments),

    /// Remove backups that no rule keeps; the newest, and what a kept one needs, always stay
    Prune(PruneArguments),
}

#[derive(Args)]
struct CreateArguments {
    /// A word about it, for `list`
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,

    /// Copy only what the reference and its parents do not have
    #[arg(long, requires = "reference")]
    incremental: bool,

    /// The backup to add to; `latest` is the newest
    #[arg(long, value_name = "ID", requires = "incremental")]
    reference: Option<String>,

    /// Take no rests between pieces, which otherwise spare a server beside it
    #[arg(long)]
    fast: bool,

    #[command(flatten)]
    metrics: MetricsArguments,
}

#[derive(Args)]
struct MetricsArguments {
    /// Write when this was done and what came of it to a file, as Prometheus text for the textfile
    /// collector of node_exporter, which reads files whose names end in .prom. `create` and
    /// `verify` may share one
    #[arg(long, value_name = "PATH")]
    metrics_file: Option<PathBuf>,
}

#[derive(Args)]
struct ListArguments {
    /// As a table or as JSON
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// JSON: short for --format json
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Args)]
struct VerifyArguments {
    #[command(flatten)]
    which: WhichArguments,

    #[command(flatten)]
    metrics: MetricsArguments,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WhichArguments {
    /// Which backup; `latest` is the newest
    #[arg(value_name = "ID")]
    id: Option<String>,

    /// Which backup; `latest` is the newest
    #[arg(long, value_name = "ID")]
    backup_id: Option<String>,
}

#[derive(Args)]
struct RestoreArguments {
    #[command(flatten)]
    point: PointArguments,

    /// Check everything and say what would be done; change nothing
    #[arg(long)]
    dry_run: bool,

    /// What is in the data directory may be removed; so may BACKUP_ALLOW_CLEAR=true say
    #[arg(long)]
    allow_clear: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct PointArguments {
    /// To this backup; `latest` is the newest
    #[arg(long, value_name = "ID")]
    backup_id: Option<String>,

    /// To the end of this Unix second: all acknowledged by then, nothing asked for later
    #[arg(long, value_name = "UNIX")]
    point_in_time: Option<u64>,
}

#[derive(Args)]
struct PruneArguments {
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N", default_value_t = 24)]
    keep_hourly: usize,

    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 7)]
    keep_daily: usize,

    /// Keep the newest of each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t = 4)]
    keep_weekly: usize,

    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t = 6)]
    keep_monthly: usize,

    /// Keep all that are younger
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    min_age_days: u64,

    /// Remove all that are older, and nothing else: the --keep rules do not count then
    #[arg(long, value_name = "DAYS")]
    older_than_days: Option<u64>,

    /// Say what would go; change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What its command line can have.
pub(super) fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program. The first of the words is its name, as in the command line of a process.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    if let Some(code) = crate::packaging::if_asked(words, command) {
        return code;
    }
    restrict_new_files();
    let arguments = Arguments::parse_from(words);
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    raise_file_limit();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("kyrodb_backup: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. A closed pipe is no error.
fn say(line: &str) {
    let written = writeln!(std::io::stdout(), "{line}");
    tracing::debug!(?written, "a line");
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let storage = Storage::at(&arguments.backup_dir)?;
    match &arguments.command {
        Command::Create(create) => run_create(arguments, &storage, create),
        Command::List(list) => run_list(&storage, list),
        Command::Verify(verify) => run_verify(&storage, verify),
        Command::Restore(restore) => run_restore(arguments, &storage, restore),
        Command::Prune(prune) => run_prune(&storage, prune),
    }
}

fn run_create(
    arguments: &Arguments,
    storage: &Storage,
    asked: &CreateArguments,
) -> Result<(), String> {
    let metrics = asked.metrics.open()?;
    if storage.overlap(&arguments.data_dir) == Overlap::Around {
        let data_dir = arguments.data_dir.display();
        eprintln!(
            "kyrodb_backup: warning: the backups are in the data directory {data_dir}, and are lost \
             with its disk; a restore to it is refused. Give another place with --backup-dir PATH."
        );
    }
    give_way();
    let (description, reference) = (asked.description.clone(), asked.reference.clone());
    let created = create(
        storage,
        &arguments.data_dir,
        Create { description, reference, is_fast: asked.fast },
    );
    let done = match &created {
        Ok(created) => Done::Created {
            unix_seconds: created.backup.timestamp,
            bytes: created.backup.size_bytes,
            documents: created.backup.vector_count,
        },
        Err(_) => Done::NotCreated,
    };
    let noted = note(metrics.as_ref(), &done);
    let created = created.map_err(|why| format!("no backup was made: {why}{}", also(&noted)))?;
    if created.is_clock_back {
        eprintln!(
            "kyrodb_backup: warning: the log has writes that are later than now, so the clock of \
             this host was set back. The backup has everything that was on disk, but its shards \
             may be a moment apart, and restores to a point in time may miss writes of that time."
        );
    }
    let backup = created.backup;
    say(&format!("Backup ID: {}", backup.id));
    say(&format!("Type:      {}", backup.backup_type));
    say(&format!("Size:      {} ({} bytes)", show_bytes(backup.size_bytes), backup.size_bytes));
    say(&format!("Vectors:   {}", backup.vector_count));
    noted.map_err(|why| format!("the backup was made, but {why}"))
}

impl MetricsArguments {
    /// Sees that the file can be written before anything is done that takes long.
    fn open(&self) -> Result<Option<Textfile>, String> {
        self.metrics_file.as_deref().map(Textfile::open).transpose()
    }
}

/// Notes what was done, if that is wanted.
fn note(metrics: Option<&Textfile>, done: &Done) -> Result<(), String> {
    metrics.map_or(Ok(()), |file| file.note(done))
}

/// What else went wrong, behind what is said already.
fn also(noted: &Result<(), String>) -> String {
    noted.as_ref().err().map_or_else(String::new, |why| format!("\n  and {why}"))
}

/// A backup as `list --json` has it.
#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    timestamp: u64,
    backup_type: crate::backup::record::Type,
    size_bytes: u64,
    vector_count: u64,
    checksum: &'a str,
    parent_id: Option<&'a str>,
    description: &'a str,
}

fn run_list(storage: &Storage, asked: &ListArguments) -> Result<(), String> {
    let listed = storage.list()?;
    for why in &listed.damaged {
        eprintln!("kyrodb_backup: warning: {why}");
    }
    if asked.json || asked.format == Format::Json {
        let items: Vec<Item<'_>> = listed.backups.iter().map(item).collect();
        let text = serde_json::to_string_pretty(&items).map_err(|error| error.to_string())?;
        say(&text);
    } else if listed.backups.is_empty() {
        say(&format!("No backups in {}.", storage.shown()));
    } else {
        print_table(&listed.backups);
    }
    Ok(())
}

fn item(backup: &Backup) -> Item<'_> {
    Item {
        id: &backup.id,
        timestamp: backup.timestamp,
        backup_type: backup.backup_type,
        size_bytes: backup.size_bytes,
        vector_count: backup.vector_count,
        checksum: &backup.checksum,
        parent_id: backup.parent_id.as_deref(),
        description: &backup.description,
    }
}

fn print_table(backups: &[Backup]) {
    let columns = [
        Column::Left("ID"),
        Column::Left("MADE"),
        Column::Left("TYPE"),
        Column::Right("SIZE"),
        Column::Right("VECTORS"),
        Column::Left("PARENT"),
        Column::Left("DESCRIPTION"),
    ];
    let rows = backups.iter().map(|backup| {
        [
            backup.id.clone(),
            show(backup.timestamp),
            backup.backup_type.to_string(),
            show_bytes(backup.size_bytes),
            backup.vector_count.to_string(),
            backup.parent_id.clone().unwrap_or_else(|| "-".to_owned()),
            backup.description.clone(),
        ]
    });
    // A script reads the newest backup from the first line.
    say(table(columns, rows, std::io::stdout().is_terminal()).trim_end());
}

fn run_verify(storage: &Storage, asked: &VerifyArguments) -> Result<(), String> {
    let which = &asked.which;
    let id = which.id.as_ref().or(which.backup_id.as_ref()).ok_or("no backup is named")?;
    let metrics = asked.metrics.open()?;
    let named = storage.named(id);
    let id = named.as_ref().unwrap_or(id);
    let verified = named.clone().and_then(|id| verify(storage, &id));
    let done = match &verified {
        Ok(_) => Done::Verified { unix_seconds: unix_ms() / 1000 },
        Err(_) => Done::NotVerified,
    };
    let noted = note(metrics.as_ref(), &done);
    let verified = verified
        .map_err(|why| format!("backup {id} can't be restored:\n  {why}{}", also(&noted)))?;
    say(&format!(
        "Backup {id} is good: {} files in {} backups have their checksums, and it opens with {} \
         vectors.",
        verified.files, verified.backups, verified.vectors
    ));
    noted.map_err(|why| format!("the backup is good, but {why}"))
}

fn run_restore(
    arguments: &Arguments,
    storage: &Storage,
    asked: &RestoreArguments,
) -> Result<(), String> {
    let point = match (&asked.point.backup_id, asked.point.point_in_time) {
        (Some(id), _) => Point::Backup(id.clone()),
        (None, Some(second)) => Point::Second(second),
        (None, None) => return Err("neither a backup nor a moment is named".into()),
    };
    let is_allowed = std::env::var_os("BACKUP_ALLOW_CLEAR").is_some_and(|value| value == "true");
    let may_clear = asked.allow_clear || is_allowed;
    let is_dry_run = asked.dry_run;
    let target = arguments.data_dir.display();
    let restored =
        restore(storage, &arguments.data_dir, &Restore { point, is_dry_run, may_clear })?;
    let done = if is_dry_run { "Would restore" } else { "Restored" };
    say(&format!(
        "{done} backup {} to {target}: {} vectors, {} files, {}.",
        restored.id,
        restored.vectors,
        restored.files,
        show_bytes(restored.bytes)
    ));
    if let Some(second) = asked.point.point_in_time {
        say(&format!("The logs end with {}.", show(second)));
    }
    match (restored.is_replaced, is_dry_run) {
        (true, true) => say(&format!("What {target} holds now would be removed.")),
        (true, false) => say(&format!("What {target} held before is removed.")),
        (false, _) => {}
    }
    for need in &restored.needs {
        say(&format!("Before a restore: {need}"));
    }
    if is_dry_run {
        say("Nothing was changed.");
    }
    Ok(())
}

fn run_prune(storage: &Storage, asked: &PruneArguments) -> Result<(), String> {
    let rules = Rules {
        hourly: asked.keep_hourly,
        daily: asked.keep_daily,
        weekly: asked.keep_weekly,
        monthly: asked.keep_monthly,
        min_age_days: asked.min_age_days,
        older_than_days: asked.older_than_days,
    };
    let pruned = prune(storage, &rules, unix_ms() / 1000, asked.dry_run)?;
    for why in &pruned.damaged {
        eprintln!("kyrodb_backup: warning: one that can't be read stays: {why}");
    }
    let done = if asked.dry_run { "Would remove" } else { "Removed" };
    for backup in &pruned.removed {
        let (made, size) = (show(backup.timestamp), show_bytes(backup.size_bytes));
        say(&format!("{done} {} of {made}, {}, {size}.", backup.id, backup.backup_type));
    }
    for id in &pruned.needed {
        say(&format!("Kept {id}: a backup that is kept needs it."));
    }
    for name in &pruned.unfinished {
        say(&format!("Removed {name}, which an unfinished backup had left."));
    }
    say(&format!("{} removed, {} kept.", pruned.removed.len(), pruned.kept));
    Ok(())
}
