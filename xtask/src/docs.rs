//! Documentation that is made of the program's own tables: a page a built-in meter, and the
//! schemas of meter files and policies.

use std::path::{Path, PathBuf};

use cgtap::meter::file;
use cgtap::meter::library::{Known, Library};
use cgtap::meter::written::Meter;
use cgtap::policy;

use crate::Result;

/// Arguments of `docs`.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; fail if a page is not as it would be written
    #[arg(long)]
    check: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes the pages, or compares them.
pub fn run(args: &Args) -> Result<()> {
    let pages = pages()?;
    if args.check {
        let stale = stale(&pages);
        return if stale.is_empty() {
            Ok(())
        } else {
            Err(format!("{} are not current; run ./dev docs", stale.join(", ")).into())
        };
    }
    let dir = root().join("docs/meters");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    for (name, text) in &pages {
        std::fs::write(root().join(name), text)?;
    }
    println!("{} pages", pages.len());
    Ok(())
}

fn stale(pages: &[(String, String)]) -> Vec<String> {
    let is_current = |(name, text): &&(String, String)| {
        std::fs::read_to_string(root().join(name)).is_ok_and(|found| found == *text)
    };
    pages
        .iter()
        .filter(|page| !is_current(page))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Every page: its path and its text.
fn pages() -> Result<Vec<(String, String)>> {
    let library = Library::builtin();
    if let Some(wrong) = library.wrong.first() {
        return Err(wrong.to_string().into());
    }
    let mut pages = vec![
        (
            "docs/meter.schema.json".to_owned(),
            serde_json::to_string_pretty(&file::schema())? + "\n",
        ),
        (
            "docs/policy.schema.json".to_owned(),
            serde_json::to_string_pretty(&policy::schema())? + "\n",
        ),
        ("docs/meters/README.md".to_owned(), index(&library)),
    ];
    for known in &library.meters {
        pages.push((format!("docs/meters/{}.md", known.meter.name), page(known)));
    }
    Ok(pages)
}

fn index(library: &Library) -> String {
    let mut text = String::from(
        "# Built-in meters\n\nMade of the meters' own files by `./dev docs`. How they are written: \
         [meters.md](../meters.md).\n\n| meter | what it tells |\n|---|---|\n",
    );
    for known in &library.meters {
        let meter = &known.meter;
        text += &format!("| [{0}]({0}.md) | {1} |\n", meter.name, meter.help);
    }
    text
}

fn page(known: &Known) -> String {
    let meter = &known.meter;
    let mut text = format!(
        "# {}\n\n{}.\n\n    cgtap meter enable {0}\n    cgtap usage\n\n",
        meter.name, meter.help
    );
    text += "| value | form | unit | kind | what it tells |\n|---|---|---|---|---|\n";
    for value in &meter.values {
        text += &format!(
            "| `{}_{}` | {} | {} | {} | {} |\n",
            meter.name, value.name, value.form, value.unit, value.truth, value.help
        );
    }
    if !meter.labels.is_empty() {
        text += "\n| label | what it tells |\n|---|---|\n";
        for label in &meter.labels {
            text += &format!("| `{}` | {} |\n", label.name, label.help);
        }
    }
    text += &match meter.source {
        Some(source) => format!("\nIt reads {}, whenever somebody asks.\n", source.words()),
        None => format!("\nIt counts at:\n\n{}", hooks(meter)),
    };
    text += &gates(meter);
    if !meter.cannot_see.is_empty() {
        text += "\nIt cannot see:\n\n";
        for line in &meter.cannot_see {
            text += &format!("- {line}\n");
        }
    }
    text += &format!(
        "\nIts file ([{0}.toml](../../crates/cgtap/src/meter/builtin/{0}.toml)):\n\n```toml\n{1}```\n",
        meter.name, known.text
    );
    text
}

/// The gates: a row a value, the ways of a gate in it.
fn gates(meter: &Meter) -> String {
    let mut rows = String::new();
    for gate in &meter.gates {
        let Some(best) = gate.choices.first() else {
            continue;
        };
        let ways: Vec<String> = gate.choices.iter().map(|c| code(&c.hook)).collect();
        for (value, ask) in &best.holds {
            let name = &meter.values[*value].name;
            let ask = ask.as_ref().map(|e| code(&e.text));
            rows += &format!(
                "| `{}_{name}` | {} | {} | {} |\n",
                meter.name,
                ways.join(", else "),
                ask.as_deref().unwrap_or("known afterwards"),
                best.deny
            );
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "\nA limit can be held at:\n\n| value | gate | what an event asks for | errno |\n\
         |---|---|---|---|\n{rows}"
    )
}

fn code(text: impl std::fmt::Display) -> String {
    format!("`{text}`")
}

/// The hooks, the ways of one in a row.
fn hooks(meter: &Meter) -> String {
    let notes = meter
        .notes
        .iter()
        .map(|n| (n.choices.iter().map(|c| code(&c.hook)).collect(), None));
    let probes = meter.probes.iter().map(|p| {
        let ways = p.choices.iter().map(|c| code(&c.hook));
        (ways.collect(), p.unless.as_ref())
    });
    let mut lines: Vec<String> = Vec::new();
    for (ways, unless) in notes.chain(probes) {
        let ways: Vec<String> = ways;
        let unless = unless.map_or_else(String::new, |hook| {
            format!(", where there is no {}", code(hook))
        });
        let line = format!("- {}{unless}\n", ways.join(", else "));
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_the_files_are() {
        assert_eq!(
            stale(&pages().unwrap()),
            Vec::<String>::new(),
            "run ./dev docs"
        );
    }
}
