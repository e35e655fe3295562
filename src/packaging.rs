//! What a package of the programs has beside them, made by themselves from what `--help` knows: a
//! manual page for each program and each of its commands, and completions for shells.
//!
//! Two options do that which `--help` does not show: `--generate-man DIR` and
//! `--generate-completions DIR`, each alone on the command line.

use std::ffi::OsString;
use std::io::{Result, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Section of the manual: programs of users.
const SECTION: &str = "1";

/// What is said at the end of each page of a program, beside what its arguments tell.
const MORE: [(&str, &str); 5] = [
    ("kyrodb", ""),
    (
        "kyrodb_server",
        ".SH ENVIRONMENT\n\
         .TP\nKYRODB_CONFIG, KYRODB_PORT, KYRODB_DATA_DIR\nAs \\-\\-config, \\-\\-port and \\-\\-data\\-dir.\n\
         .TP\nKYRODB__SECTION__KEY\nA key of the configuration, above the file and below the command line, \
         such as KYRODB__HNSW__EF_SEARCH.\n\
         .TP\nRUST_LOG\nWhat is logged, above logging.level.\n\
         .SH SIGNALS\n\
         .TP\nSIGTERM, SIGINT\nFinish what is in flight, take a last snapshot, seal the logs, end. A \
         second one ends it at once; nothing that was acknowledged is lost.\n\
         .TP\nSIGHUP\nRead timeouts, objectives, rate limits, the log level, API keys and certificates \
         again. The log says what else has changed and needs a restart.\n\
         .SH FILES\n\
         .TP\n/etc/kyrodb/kyrodb.toml\nThe configuration, where the service of the package reads it.\n\
         .TP\n/var/lib/kyrodb\nThe data directory of that service.\n",
    ),
    (
        "kyrodb_backup",
        ".SH ENVIRONMENT\n\
         .TP\nKYRODB_DATA_DIR\nThe data directory, as \\-\\-data\\-dir.\n\
         .TP\nBACKUP_ALLOW_CLEAR\nWith the value true the same as \\-\\-allow\\-clear.\n\
         .TP\nAWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY\nFor backups in \
         a bucket.\n",
    ),
    (
        "kyrodb_ctl",
        ".SH ENVIRONMENT\n\
         .TP\nKYRODB_URL, KYRODB_CA_CERT\nAs \\-\\-url and \\-\\-ca\\-cert.\n\
         .TP\nKYRODB_API_KEY\nA key, where no \\-\\-key\\-file is named.\n",
    ),
    (
        "kyrodb_load_tester",
        ".SH ENVIRONMENT\n\
         .TP\nKYRODB_API_KEY\nA key, where no \\-\\-key\\-file is named.\n",
    ),
];

/// Does what one of the two options asks, if the command line consists of the program's name and that;
/// `None` otherwise.
#[must_use]
pub fn if_asked(words: &[OsString], command: fn() -> Command) -> Option<ExitCode> {
    let [_, option, directory] = words else { return None };
    let write = match option.to_str()? {
        "--generate-man" => write_man,
        "--generate-completions" => write_completions,
        _ => return None,
    };
    Some(match write(command(), Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", directory.to_string_lossy());
            ExitCode::FAILURE
        }
    })
}

/// Writes a page for the program and one for each of its commands, `NAME.1` and `NAME-COMMAND.1`.
fn write_man(command: Command, directory: &Path) -> Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let program = command.get_name().to_owned();
    let version = command.get_version().unwrap_or_default().to_owned();
    let mut open = vec![command];
    while let Some(command) = open.pop() {
        open.extend(command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned());
        // That of a command has the program before it, as the pages that refer to it say.
        let page = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let mut text = Vec::new();
        Man::new(command)
            .title(page.clone())
            .section(SECTION)
            .source(format!("KyroDB {version}"))
            .manual("KyroDB")
            .render(&mut text)?;
        if page == program {
            let more = MORE.iter().find(|(name, _)| *name == program);
            text.extend(more.map_or("", |(_, more)| more).bytes());
        }
        see_also(&program, &page, &mut text)?;
        std::fs::write(directory.join(format!("{page}.{SECTION}")), text)?;
    }
    Ok(())
}

fn see_also(program: &str, page: &str, text: &mut Vec<u8>) -> Result<()> {
    let others = MORE.iter().map(|(name, _)| *name).filter(|name| *name != program);
    let own = (page != program).then_some(program);
    let all: Vec<String> =
        own.into_iter().chain(others).map(|name| format!("\\fB{name}\\fR({SECTION})")).collect();
    writeln!(text, ".SH \"SEE ALSO\"\n{}", all.join(", "))
}

/// Writes completions for the shells that packages install them for, under the names these look for.
fn write_completions(mut command: Command, directory: &Path) -> Result<()> {
    let name = command.get_name().to_owned();
    let files = [
        (Shell::Bash, name.clone()),
        (Shell::Zsh, format!("_{name}")),
        (Shell::Fish, format!("{name}.fish")),
    ];
    for (shell, file) in files {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, name.clone(), &mut text);
        std::fs::write(directory.join(file), text)?;
    }
    Ok(())
}
