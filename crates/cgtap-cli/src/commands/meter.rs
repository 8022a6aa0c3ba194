//! `cgtap meter`.

use std::path::Path;

use cgtap::engine::{CgroupRef, EnabledMeter, Engine, ErrorKind, Lifetime, MeterCode};
use cgtap::kernel;
use cgtap::meter::library::{Known, Library, Source};
use cgtap::meter::usage::{Form, Truth, Unit};
use cgtap::meter::{file, written::Meter};
use serde::Serialize;

use super::Context;
use crate::cli::{MeterAction, MeterArgs};
use crate::failure::{Failure, Status};
use crate::render;

/// A meter as it is shown.
#[derive(Debug, Serialize)]
pub struct MeterRow {
    /// Its name.
    pub name: String,
    /// What it tells.
    pub help: String,
    /// `built-in`, or its file.
    pub source: String,
    /// `enabled`, `available` or `unavailable`.
    pub state: &'static str,
    /// Where it is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Why it cannot be had here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What it counts.
    pub values: Vec<ValueRow>,
    /// What it splits by.
    pub labels: Vec<LabelRow>,
    /// What it does not see.
    pub cannot_see: Vec<String>,
}

/// A value of a meter.
#[derive(Debug, Serialize)]
pub struct ValueRow {
    /// What usage calls it.
    pub meter: String,
    /// What is done with what is measured.
    pub form: Form,
    /// What it is of.
    pub unit: Unit,
    /// How true it is.
    pub kind: Truth,
    /// What it tells.
    pub help: String,
}

/// A label of a meter.
#[derive(Debug, Serialize)]
pub struct LabelRow {
    /// Its name.
    pub name: String,
    /// What it tells.
    pub help: String,
}

#[derive(Serialize)]
struct Meters<'a> {
    meters: &'a [MeterRow],
    wrong: Vec<String>,
}

#[derive(Serialize)]
struct Programs<'a> {
    programs: &'a [MeterCode],
}

#[derive(Serialize)]
struct Changed<'a> {
    meters: &'a [EnabledMeter],
}

/// Shows, enables and disables meters.
pub fn run(context: &Context, args: &MeterArgs) -> Result<Status, Failure> {
    let _kept = kernel::keep();
    match &args.action {
        MeterAction::List => list(context, &args.meters),
        MeterAction::Show { name, code, file } => show(context, &args.meters, name, *code, *file),
        MeterAction::Enable { names, all, cgroup } => {
            enable(context, &args.meters, names, *all, cgroup.as_ref())
        }
        MeterAction::Disable { names, all } => disable(context, names, *all),
        MeterAction::Schema => {
            context.pretty(&file::schema())?;
            Ok(Status::DONE)
        }
    }
}

fn load(context: &Context, dir: &Path) -> Library {
    let library = Library::load(dir);
    for wrong in &library.wrong {
        context.teller.note(&wrong.to_string());
    }
    library
}

fn row(engine: &Engine, enabled: &[EnabledMeter], known: &Known) -> MeterRow {
    let meter = &known.meter;
    let at = enabled.iter().find(|m| m.name == meter.name);
    let refused = match at {
        Some(_) => None,
        None => engine.check_meter(meter).err(),
    };
    let state = match (at, &refused) {
        (Some(_), _) => "enabled",
        (None, None) => "available",
        (None, Some(_)) => "unavailable",
    };
    MeterRow {
        name: meter.name.clone(),
        help: meter.help.clone(),
        source: match &known.source {
            Source::Builtin => "built-in".to_owned(),
            Source::File(path) => path.display().to_string(),
        },
        state,
        cgroup: at.map(|m| m.cgroup.clone()),
        why: match at {
            Some(m) if m.is_gone => {
                Some("its cgroup is gone; enable it anew, or disable it".into())
            }
            _ => refused.map(|e| e.to_string()),
        },
        values: meter
            .values
            .iter()
            .map(|v| ValueRow {
                meter: meter.value_name(&v.name),
                form: v.form,
                unit: v.unit,
                kind: v.truth,
                help: v.help.clone(),
            })
            .collect(),
        labels: meter
            .labels
            .iter()
            .map(|l| LabelRow {
                name: l.name.clone(),
                help: l.help.clone(),
            })
            .collect(),
        cannot_see: meter.cannot_see.clone(),
    }
}

fn list(context: &Context, dir: &Path) -> Result<Status, Failure> {
    let engine = context.engine()?;
    let library = load(context, dir);
    let enabled = engine.meters()?;
    let rows: Vec<MeterRow> = library
        .meters
        .iter()
        .map(|known| row(&engine, &enabled, known))
        .collect();
    let body = Meters {
        meters: &rows,
        wrong: library.wrong.iter().map(ToString::to_string).collect(),
    };
    context.result(body, |look| render::meters(&rows, look))?;
    Ok(Status::DONE)
}

/// The meter of a name, or of a file.
fn find(library: &Library, name: &str) -> Result<Known, Failure> {
    if name.contains('/') || name.ends_with(".toml") {
        let path = Path::new(name);
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::system(format!("cannot read {name}"), e))?;
        let meter = file::parse(name, &text).map_err(|e| Failure::Usage(e.to_string()))?;
        return Ok(Known {
            meter,
            source: Source::File(path.to_owned()),
            text,
        });
    }
    let names: Vec<String> = library
        .meters
        .iter()
        .map(|k| k.meter.name.clone())
        .collect();
    let found = library.meters.iter().find(|k| k.meter.name == name);
    found.cloned().ok_or_else(|| {
        let hint = cgtap::near::hint(name, &names);
        Failure::Usage(format!(
            "there is no meter {name}{hint}; there are {}, or name a meter file by its path",
            names.join(", ")
        ))
    })
}

fn show(
    context: &Context,
    dir: &Path,
    name: &str,
    code: bool,
    file: bool,
) -> Result<Status, Failure> {
    let engine = context.engine()?;
    let known = find(&load(context, dir), name)?;
    if file {
        context.print(&known.text)?;
    } else if code {
        let programs = engine.meter_code(&known.meter)?;
        let body = Programs {
            programs: &programs,
        };
        context.result(body, |look| render::meter_code(&programs, look))?;
    } else {
        let row = row(&engine, &engine.meters()?, &known);
        let body = Meters {
            meters: std::slice::from_ref(&row),
            wrong: Vec::new(),
        };
        context.result(body, |look| render::meter(&row, look))?;
    }
    Ok(Status::DONE)
}

fn enable(
    context: &Context,
    dir: &Path,
    names: &[String],
    all: bool,
    cgroup: Option<&CgroupRef>,
) -> Result<Status, Failure> {
    let engine = context.engine()?;
    let root = CgroupRef::Path("/".into());
    let cgroup = cgroup.unwrap_or(&root);
    let library = load(context, dir);
    let mut wanted: Vec<Meter> = Vec::new();
    if all {
        let enabled = engine.meters()?;
        for known in library.meters {
            let counts = enabled
                .iter()
                .any(|m| m.name == known.meter.name && !m.is_gone);
            match engine.check_meter(&known.meter) {
                Ok(()) if !counts => wanted.push(known.meter),
                Ok(()) => {}
                Err(e) => context.teller.note(&e.to_string()),
            }
        }
    } else {
        for name in names {
            wanted.push(find(&library, name)?.meter);
        }
    }
    // All or none: what was enabled before one that cannot be goes again.
    let mut done: Vec<EnabledMeter> = Vec::new();
    for meter in &wanted {
        match engine.enable_meter(meter, cgroup, Lifetime::Pinned) {
            Ok(enabled) => done.push(enabled),
            // Of all there are those that can be.
            Err(e) if all && e.kind() != ErrorKind::Cgroup => context.teller.note(&e.to_string()),
            Err(e) => {
                for meter in &done {
                    if let Err(left) = engine.disable_meter(&meter.name) {
                        let name = &meter.name;
                        context
                            .teller
                            .note(&format!("{name} is still enabled: {left}"));
                    }
                }
                return Err(e.into());
            }
        }
    }
    changed(context, "enabled", &done)
}

fn disable(context: &Context, names: &[String], all: bool) -> Result<Status, Failure> {
    let engine = context.engine()?;
    let names = if all {
        engine.meters()?.into_iter().map(|m| m.name).collect()
    } else {
        names.to_vec()
    };
    let mut done = Vec::new();
    for name in &names {
        done.push(engine.disable_meter(name)?);
    }
    changed(context, "disabled", &done)
}

fn changed(context: &Context, what: &str, meters: &[EnabledMeter]) -> Result<Status, Failure> {
    context.result(Changed { meters }, |_| {
        meters
            .iter()
            .map(|m| format!("{what} {} for {}\n", m.name, m.cgroup))
            .collect()
    })?;
    Ok(Status::DONE)
}
