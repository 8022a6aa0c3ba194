//! `cgtap man`.

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::Context;
use crate::cli::{Cli, ManArgs, sections};
use crate::failure::{Failure, Status};

/// Prints a man page.
pub fn run(context: &Context, args: &ManArgs) -> Result<Status, Failure> {
    context.print(&page(args.command.as_deref())?)?;
    Ok(Status::DONE)
}

fn page(command: Option<&str>) -> Result<String, Failure> {
    let mut cgtap = Cli::command();
    cgtap.build();
    let subject = match command {
        None => cgtap,
        Some(name) => match cgtap.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                return Err(Failure::Usage(format!(
                    "cgtap has no command `{name}`; `cgtap --help` names them"
                )));
            }
        },
    };
    let synopsis = synopsis(subject.clone());
    let with_commands = command.is_none();
    let man = Man::new(subject)
        .manual("cgtap")
        .source(concat!("cgtap ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    render(&man, &synopsis, with_commands, &mut text)
        .map_err(|e| Failure::system("cannot make the page", e))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The sections in the order of man-pages(7).
fn render(
    man: &Man,
    synopsis: &str,
    with_commands: bool,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    man.render_title(out)?;
    man.render_name_section(out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([roman(synopsis)]);
    roff.to_writer(out)?;
    man.render_description_section(out)?;
    if with_commands {
        man.render_subcommands_section(out)?;
    }
    man.render_options_section(out)?;
    let mut roff = Roff::new();
    for (title, text) in sections() {
        roff.control("SH", [title.to_uppercase().as_str()]);
        roff.text([roman(text)]);
    }
    roff.to_writer(out)
}

/// The usage as the help has it: the generator's own leaves out what options take.
fn synopsis(mut command: clap::Command) -> String {
    let usage = command.render_usage().to_string();
    usage.trim_start_matches("Usage: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        for command in Cli::command().get_subcommands() {
            let text = page(Some(command.get_name())).unwrap();
            let title = format!(".TH cgtap-{}", command.get_name());
            assert!(text.contains(&title), "{title} in {text}");
            assert!(text.contains("CGTAP_STATE"));
        }
        let attach = page(Some("attach")).unwrap();
        assert!(
            attach.contains("\ncgtap attach [OPTIONS] <CGROUP> [OBJECT]\n"),
            "{attach}"
        );
        assert!(page(None).unwrap().contains(".TH cgtap 1"));
    }

    #[test]
    fn a_command_that_is_none_has_no_page() {
        assert_eq!(page(Some("nonsense")).unwrap_err().status(), 2);
    }
}
