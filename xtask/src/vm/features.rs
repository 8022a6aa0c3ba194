//! `xtask vm features`: what `cgtap doctor` finds on each kernel, as a table in the documents. The
//! table is made by looking, never by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;

use super::cache::Cache;
use super::guest::{End, Guest, Out};
use super::{Options, kernels};
use crate::Result;

/// Where the table is.
const PAGE: &str = "docs/features.md";
/// What the guest leaves.
const REPORT: &str = "doctor.json";
/// Features of whoever asks and of what is mounted: those of a guest say nothing of its kernel.
const OF_THE_GUEST: [&str; 5] = ["user", "bpffs", "cgroup2", "tracefs", "no lockdown"];

/// Options of `xtask vm features`.
#[derive(clap::Args)]
pub struct Args {
    /// Writes nothing, and fails if the page is not what the kernels say.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Deserialize)]
struct Report {
    kernel: String,
    features: Vec<Feature>,
}

#[derive(Clone, Deserialize)]
struct Feature {
    name: String,
    state: String,
    why: String,
}

/// Looks, and writes or compares.
pub fn run(cache: &Cache, args: &Args) -> Result<ExitCode> {
    let tree = super::tree();
    let command = tree.join("target/debug/cgtap");
    let command = command.to_str().ok_or("the tree's path is not UTF-8")?;
    let mut reports = Vec::new();
    for kernel in kernels::named("all")? {
        let kernel = kernel.unpack(cache)?;
        let out = Out::new(cache, None)?;
        let script = format!(
            "{command} --json doctor > $CGTAP_GUEST_OUT/{REPORT}; test -s $CGTAP_GUEST_OUT/{REPORT}"
        );
        let guest = Guest {
            label: None,
            kernel: &kernel,
            options: &args.options,
            out: out.dir(),
        };
        match guest.run(cache, &["sh".to_owned(), "-c".to_owned(), script])? {
            End::Exited(0) => {}
            other => return Err(format!("kernel {}: {other:?}", kernel.name).into()),
        }
        let report: Report = serde_json::from_slice(&std::fs::read(out.dir().join(REPORT))?)?;
        reports.push((kernel.name, report));
    }
    let page = page(&reports);
    let path = tree.join(PAGE);
    if args.check {
        return compare(&path, &page);
    }
    std::fs::write(&path, page)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Releases of Debian's change under the same name; what the table says must not.
fn compare(path: &Path, page: &str) -> Result<ExitCode> {
    let rows = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|l| l.starts_with("| "));
        rows.filter(|l| !l.starts_with("| feature"))
            .map(str::to_owned)
            .collect()
    };
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    if rows(&kept) == rows(page) {
        println!("{} is what the kernels say", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "{} is not what the kernels say; `./dev features` writes it anew:\n{page}",
        path.display()
    );
    Ok(ExitCode::FAILURE)
}

fn page(reports: &[(String, Report)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut states: BTreeMap<(&str, usize), &Feature> = BTreeMap::new();
    for (at, (_, report)) in reports.iter().enumerate() {
        for feature in &report.features {
            if OF_THE_GUEST.contains(&feature.name.as_str()) || feature.name.starts_with("CAP_") {
                continue;
            }
            if !names.contains(&feature.name.as_str()) {
                names.push(&feature.name);
            }
            states.insert((&feature.name, at), feature);
        }
    }
    let mut page = "# Features by kernel\n\n<!-- Written by `./dev features`. -->\n\nWhat `cgtap \
                    doctor` finds on Debian's kernels in guests without a GPU or a PMU. `cgtap \
                    doctor` says it for yours, with the remedy of each lack.\n\n| feature |"
        .to_owned();
    for (name, _) in reports {
        let _ = write!(page, " {name} |");
    }
    page += "\n|---|";
    page += &"---|".repeat(reports.len());
    let mut lacks: Vec<String> = Vec::new();
    for name in names {
        let _ = write!(page, "\n| {name} |");
        for (at, (kernel, _)) in reports.iter().enumerate() {
            let feature = states.get(&(name, at));
            let _ = write!(page, " {} |", feature.map_or("-", |f| f.state.as_str()));
            if let Some(feature) = feature.filter(|f| f.state != "yes") {
                let why = feature.why.lines().next().unwrap_or_default();
                lacks.push(format!("- {name}, {kernel}: {why}"));
            }
        }
    }
    page += "\n\nWhy not:\n\n";
    page += &lacks.join("\n");
    page += "\n\nReleases: ";
    let releases: Vec<&str> = reports.iter().map(|(_, r)| r.kernel.as_str()).collect();
    page += &releases.join(", ");
    page += ".\n";
    page
}
