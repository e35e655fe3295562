//! `kyrodb`: one command in front of all programs. It hands the words behind its command to the code of that
//! program, in this process; the programs keep their own names beside it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, Command, value_parser};

use super::{backup, bench, ctl, server};

/// A command, and the program that it stands for.
struct Front {
    name: &'static str,
    about: &'static str,
    /// Name of the program, and the options that stand before the words of the command line.
    program: &'static str,
    options: &'static [&'static str],
    run: fn(&[OsString]) -> ExitCode,
    command: fn() -> Command,
}

const SERVER: Front = Front {
    name: "serve",
    about: "Run the server",
    program: "kyrodb_server",
    options: &[],
    run: server::main,
    command: server::command,
};

const COMMANDS: [Front; 9] = [
    SERVER,
    Front {
        name: "demo",
        about: "Load the sample data, show some searches, and keep serving",
        options: &["--demo"],
        ..SERVER
    },
    Front {
        name: "doctor",
        about: "Check this host and the file system of the data directory",
        options: &["--doctor"],
        ..SERVER
    },
    Front {
        name: "plan",
        about: "Compute the memory and the disk space that --rows documents need",
        options: &["--plan"],
        ..SERVER
    },
    Front {
        name: "verify",
        about: "Check a data directory that no server uses; change nothing",
        options: &["--verify"],
        ..SERVER
    },
    Front {
        name: "repair",
        about: "Make a damaged data directory usable again, and list all losses",
        options: &["--verify", "--repair"],
        ..SERVER
    },
    Front {
        name: "ctl",
        about: "Look at a running server, and change how it runs",
        program: "kyrodb_ctl",
        options: &[],
        run: ctl::main,
        command: ctl::command,
    },
    Front {
        name: "backup",
        about: "Back up a data directory, and restore it",
        program: "kyrodb_backup",
        options: &[],
        run: backup::main,
        command: backup::command,
    },
    Front {
        name: "bench",
        about: "Send a server a known load, and measure its answers",
        program: "kyrodb_load_tester",
        options: &[],
        run: bench::main,
        command: bench::command,
    },
];

impl Front {
    fn named(word: Option<&OsString>) -> Option<&'static Self> {
        COMMANDS.iter().find(|front| word.is_some_and(|word| word == front.name))
    }

    /// Runs the program with these words behind its name.
    fn hand_over(&self, words: &[OsString]) -> ExitCode {
        let name = OsString::from(format!("kyrodb {}", self.name));
        let options = self.options.iter().map(OsString::from);
        let all: Vec<OsString> =
            std::iter::once(name).chain(options).chain(words.iter().cloned()).collect();
        (self.run)(&all)
    }

    /// The program with its options, as a shell has it typed.
    fn typed(&self) -> String {
        let words: Vec<&str> = [self.program].iter().chain(self.options).copied().collect();
        words.join(" ")
    }
}

fn outline() -> Command {
    Command::new("kyrodb")
        .version(env!("CARGO_PKG_VERSION"))
        .about("KyroDB: all its programs behind one command")
        .after_help("`kyrodb COMMAND --help` shows the options of a command.")
        .subcommand_required(true)
        .arg_required_else_help(true)
}

/// The commands, each with any words behind it: for `--help` and manual pages.
fn command() -> Command {
    let commands = COMMANDS.iter().map(|front| {
        let words = Arg::new("arguments")
            .value_name("ARGUMENT")
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .value_parser(value_parser!(OsString))
            .help(format!("Options and commands of {}", front.program));
        Command::new(front.name)
            .about(format!("{}: {}", front.about, front.typed()))
            .disable_help_flag(true)
            .arg(words)
    });
    outline().subcommands(commands)
}

/// The commands with all options that they have: for completions.
fn whole_command() -> Command {
    outline().subcommands(COMMANDS.iter().map(|front| {
        (front.command)().name(front.name).about(front.about).long_about(None::<&str>)
    }))
}

/// Runs the program that the second word names. The first is the name of this one.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    let is_completion = words.get(1).is_some_and(|word| word == "--generate-completions");
    let shape = if is_completion { whole_command } else { command };
    if let Some(code) = crate::packaging::if_asked(words, shape) {
        return code;
    }
    if let Some(front) = Front::named(words.get(1)) {
        return front.hand_over(&words[2..]);
    }
    if words.get(1).is_some_and(|word| word == "help")
        && let Some(front) = Front::named(words.get(2))
    {
        return front.hand_over(&["--help".into()]);
    }
    // No command is left: this prints the help, the version or the fault, and ends the process.
    command().get_matches_from(words);
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables of the options of a command and of those below it.
    fn variables(command: &Command) -> Vec<String> {
        let own = command.get_arguments().filter_map(Arg::get_env);
        let own = own.map(|name| name.to_string_lossy().into_owned());
        own.chain(command.get_subcommands().flat_map(variables)).collect()
    }

    /// Else the server would name them as variables that no program reads.
    #[test]
    fn every_variable_of_a_program_is_known_to_the_configuration() {
        let all = variables(&whole_command());
        assert!(all.iter().any(|name| name == "KYRODB_GRPC_URL"), "{all:?}");
        for name in all.iter().map(String::as_str).chain([crate::credentials::KEY_VARIABLE]) {
            assert!(crate::config::is_of_a_program(name), "{name}");
        }
    }

    #[test]
    fn every_command_has_a_program_that_takes_its_options() {
        command().debug_assert();
        whole_command().debug_assert();
        for front in &COMMANDS {
            let program = (front.command)();
            assert_eq!(program.get_name(), front.program);
            for option in front.options {
                let name = option.strip_prefix("--");
                let is_it = |argument: &Arg| argument.get_long() == name;
                assert!(program.get_arguments().any(is_it), "{}: {option}", front.name);
            }
            assert!(front.typed().starts_with("kyrodb_"));
        }
        assert!(Front::named(Some(&"serve".into())).is_some());
        assert!(Front::named(Some(&"server".into())).is_none() && Front::named(None).is_none());
    }
}
