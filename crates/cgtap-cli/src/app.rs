//! From the words to the exit status.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, FromArgMatches};

use crate::cli::{Cli, Color, Early};
use crate::commands::{self, Context, demo};
use crate::failure::{Failure, Status};
use crate::tell::{Teller, log_to_stderr};

/// Runs the command that `words`, the program's name first, ask for.
pub fn run(words: &[OsString]) -> ExitCode {
    // No command of a user's, and its system calls are counted: nothing else is done first.
    if let Some(status) = demo::worker::run_if_asked(words) {
        return status;
    }
    let early = Early::scan(words);
    let cli = match parse(words, early) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, early),
    };
    log_to_stderr(cli.global.verbose, cli.global.json);
    let teller = Teller {
        json: cli.global.json,
        log: cli.global.verbose > 0,
        color: cli.global.color.unwrap_or_default(),
    };
    match commands::run(&Context::new(cli.global, teller), cli.command) {
        Ok(Status(status)) => ExitCode::from(status),
        // Whoever read has enough; that is no error.
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(failure) => {
            teller.failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}

fn parse(words: &[OsString], early: Early) -> Result<Cli, clap::Error> {
    let color = match early.color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    let matches = Cli::command().color(color).try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

/// Tells what is wrong with the words, or prints the help or version that they ask for.
fn refuse(error: &clap::Error, early: Early) -> ExitCode {
    let wrong = error.use_stderr();
    if wrong && early.json {
        let teller = Teller {
            json: true,
            log: false,
            color: Color::Never,
        };
        teller.failure(&Failure::Usage(one_line(error)));
    } else {
        // A closed standard output or error is nothing to complain of.
        let _ = error.print();
    }
    ExitCode::from(if wrong { Failure::USAGE_STATUS } else { 0 })
}

/// clap's message without the usage, the hints at the help and the `error:` before it.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command is given; `cgtap --help` names them".to_owned();
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\nUsage:", "\nFor more information"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .unwrap_or(text.len());
    text[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(words: &str) -> String {
        let words: Vec<_> = words.split(' ').map(OsString::from).collect();
        one_line(&parse(&words, Early::default()).unwrap_err())
    }

    #[test]
    fn a_wrong_word_is_told_in_one_line() {
        assert_eq!(
            wrong("cgtap nonsense"),
            "unrecognized subcommand 'nonsense'"
        );
        assert_eq!(
            wrong("cgtap storage x"),
            "invalid value 'x' for '<ID>': write a number, decimal or behind 0x hexadecimal"
        );
        assert_eq!(
            wrong("cgtap attach /a"),
            "the following required arguments were not provided: <OBJECT>"
        );
        assert_eq!(
            wrong("cgtap"),
            "no command is given; `cgtap --help` names them"
        );
    }
}
