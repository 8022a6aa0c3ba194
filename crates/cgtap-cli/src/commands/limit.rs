//! `cgtap limit` and `cgtap explain`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cgtap::engine::{
    CgroupRef, Denials, ErrorKind, Explained, LimitChange, LimitReport, LimitRequest,
    PatternReport, signal_number,
};
use cgtap::id::LimitId;
use cgtap::limit::amount;
use cgtap::limit::controller::{Controller, own_value};
use cgtap::limit::record::Action;
use cgtap::meter::library::{Known, Library};
use cgtap_sys::Errno;
use serde::Serialize;

use super::Context;
use crate::cli::{ExplainArgs, LimitAction, LimitArgs, LimitSetArgs};
use crate::failure::{Failure, Status};
use crate::render;

#[derive(Serialize)]
struct Limits<'a> {
    limits: &'a [LimitReport],
}

#[derive(Serialize)]
struct Listed<'a> {
    limits: &'a [LimitReport],
    patterns: &'a [PatternReport],
}

/// Sets, shows and clears limits.
pub fn run(context: &Context, args: &LimitArgs) -> Result<Status, Failure> {
    match &args.action {
        LimitAction::Set(set) => self::set(context, &Library::load(&args.meters), set),
        LimitAction::List { cgroup } => {
            let engine = context.engine()?;
            let limits = engine.limits(cgroup.as_ref())?;
            let patterns = engine.patterns()?;
            let body = Listed {
                limits: &limits,
                patterns: &patterns,
            };
            context.result(body, |look| render::limits(&limits, look))?;
            for pattern in &patterns {
                for note in render::later(pattern) {
                    context.teller.note(&note);
                }
            }
            for limit in limits.iter().filter(|l| l.lost > 0) {
                context.teller.note(&format!(
                    "limit {}: {} events or cgroups below it could not be charged",
                    limit.id, limit.lost
                ));
            }
            for limit in &limits {
                if let Some(missed) = render::missed(limit) {
                    context
                        .teller
                        .note(&format!("limit {}: {missed}", limit.id));
                }
            }
            Ok(Status::DONE)
        }
        LimitAction::Clear { ids, cgroup, all } => clear(context, ids, cgroup.as_ref(), *all),
        LimitAction::Log { last } => log(context, *last),
    }
}

/// A value of a meter, with labels that events must have.
#[derive(Clone, Debug)]
pub struct Value {
    /// The meter.
    pub meter: Known,
    /// Its value.
    pub value: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What `METER{LABEL=TEXT,...}` is.
///
/// # Errors
/// What is wrong with it, with what there is.
pub fn value(library: &Library, text: &str) -> Result<Value, String> {
    let (name, rest) = text.split_once('{').unwrap_or((text, ""));
    let mut labels = BTreeMap::new();
    if text.contains('{') {
        let inner = rest
            .strip_suffix('}')
            .ok_or_else(|| format!("`{text}` opens labels and does not close them with }}"))?;
        for pair in inner.split(',').filter(|p| !p.trim().is_empty()) {
            let (label, is) = pair
                .split_once('=')
                .ok_or_else(|| format!("`{pair}` is no label; write LABEL=TEXT"))?;
            let is = is.trim().trim_matches('"');
            if labels
                .insert(label.trim().to_owned(), is.to_owned())
                .is_some()
            {
                return Err(format!("the label {} is given twice", label.trim()));
            }
        }
    }
    if let Some(meter) = own_value(name) {
        let value = "current".to_owned();
        return Ok(Value {
            meter,
            value,
            labels,
        });
    }
    let mut names = Vec::new();
    for known in &library.meters {
        for value in &known.meter.values {
            let whole = known.meter.value_name(&value.name);
            if whole == name {
                return Ok(Value {
                    meter: known.clone(),
                    value: value.name.clone(),
                    labels,
                });
            }
            names.push(whole);
        }
    }
    Err(unknown(library, name, &names))
}

/// What there is instead of a value that no meter has: the values of a meter, what is called nearly so, and
/// what is of the same thing.
fn unknown(library: &Library, name: &str, names: &[String]) -> String {
    if let Some(Known { meter, .. }) = library.meters.iter().find(|k| k.meter.name == name) {
        let values: Vec<_> = meter
            .values
            .iter()
            .map(|v| meter.value_name(&v.name))
            .collect();
        let values = values.join(", ");
        return format!("{name} is a meter: say which of its values, {values}");
    }
    let hint = cgtap::near::hint(name, names);
    let word = name.split_once('_').map_or(name, |(word, _)| word);
    let kin = names
        .iter()
        .filter(|n| word != name && n.starts_with(&format!("{word}_")));
    let kin = match kin.cloned().collect::<Vec<_>>().join(", ") {
        kin if kin.is_empty() => kin,
        kin => format!("; of {word} they count {kin}"),
    };
    format!("no meter counts {name}{hint}{kin}; `cgtap meter list` shows what they count")
}

/// What `--on` says.
///
/// # Errors
/// What there is.
pub fn action(text: &str) -> Result<Action, String> {
    let wrong = || {
        format!(
            "`{text}` is nothing that can happen; there are deny:ERRNO, freeze, signal:NAME, \
             cpu.max, io.max, memory.high, dmem.max and observe"
        )
    };
    match text.split_once(':') {
        Some(("deny", name)) => Errno::by_name(name)
            .map(|errno| Action::Deny(errno.0))
            .ok_or_else(|| format!("`{name}` is no errno that is known; write EDQUOT, EPERM, ...")),
        Some(("signal", name)) => signal_number(name).map(Action::Signal).ok_or_else(|| {
            format!("`{name}` is no signal that can be sent; there are TERM, KILL, STOP, XCPU, ...")
        }),
        None if text == "freeze" => Ok(Action::Freeze),
        None if text == "observe" => Ok(Action::Observe),
        _ => {
            let mut all = Controller::ALL.into_iter();
            let found = all.find(|c| c.file() == text);
            found.map(Action::Controller).ok_or_else(wrong)
        }
    }
}

/// A limit as it is written, in words that are not yet looked at.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// Its cgroup.
    pub cgroup: CgroupRef,
    /// Its value.
    pub meter: &'a str,
    /// How much.
    pub amount: &'a str,
    /// How much may gather.
    pub burst: Option<&'a str>,
    /// What happens then.
    pub on: Option<&'a str>,
    /// Whatever clients make of it.
    pub force: bool,
    /// Only while others want their share.
    pub borrow: bool,
}

/// A limit that is asked for in words.
///
/// # Errors
/// What is wrong with the words.
pub fn request(library: &Library, written: &Written<'_>) -> Result<LimitRequest, String> {
    let value = value(library, written.meter)?;
    let of = value.meter.meter.values.iter();
    let unit = of
        .filter(|v| v.name == value.value)
        .map(|v| v.unit)
        .next()
        .unwrap_or_default();
    let read = |text: &str| amount::parse(text, unit).map_err(|e| e.to_string());
    let amount = read(written.amount)?;
    let burst = written.burst.map(read).transpose()?;
    if burst.is_some_and(|b| b.period_ns.is_some()) {
        return Err("a burst is an amount, without a period".to_owned());
    }
    Ok(LimitRequest {
        labels: value.labels,
        period: amount.period_ns.map(Duration::from_nanos),
        burst: burst.map(|b| b.amount),
        action: written.on.map(action).transpose()?,
        force: written.force,
        borrow: written.borrow,
        ..LimitRequest::new(
            written.cgroup.clone(),
            value.meter,
            &value.value,
            amount.amount,
        )
    })
}

fn set(context: &Context, library: &Library, args: &LimitSetArgs) -> Result<Status, Failure> {
    let written = Written {
        cgroup: args.cgroup.clone(),
        meter: &args.meter,
        amount: &args.amount,
        burst: args.burst.as_deref(),
        on: args.on.as_deref(),
        force: args.force,
        borrow: args.borrow,
    };
    let change = LimitChange {
        set: vec![request(library, &written).map_err(Failure::Usage)?],
        clear: Vec::new(),
        patterns: None,
    };
    let limits = context.engine()?.change_limits(&change)?;
    context.result(Limits { limits: &limits }, |look| {
        render::limits(&limits, look)
    })?;
    for limit in &limits {
        context.teller.note(&render::follows(limit));
    }
    Ok(Status::DONE)
}

/// How often limits are listed and cleared again that come and go meanwhile.
const CLEAR_TRIES: usize = 8;

fn clear(
    context: &Context,
    ids: &[LimitId],
    cgroup: Option<&CgroupRef>,
    all: bool,
) -> Result<Status, Failure> {
    let engine = context.engine()?;
    let ids: BTreeSet<LimitId> = ids.iter().copied().collect();
    let is_meant = |l: &LimitReport| all || cgroup.is_some() || ids.contains(&l.id);
    let (mut gone, mut followed) = (Vec::new(), Vec::new());
    for again in (0..CLEAR_TRIES).rev() {
        let known: Vec<_> = engine
            .limits(cgroup)?
            .into_iter()
            .filter(is_meant)
            .collect();
        let clear: Vec<LimitId> = if all || cgroup.is_some() {
            known.iter().map(|l| l.id).collect()
        } else {
            ids.iter().copied().collect()
        };
        // All means those that are to come too.
        let patterns = if all { engine.patterns()? } else { Vec::new() };
        if clear.is_empty() && patterns.is_empty() {
            break;
        }
        let change = LimitChange {
            set: Vec::new(),
            clear,
            patterns: (!patterns.is_empty()).then(Vec::new),
        };
        match engine.change_limits(&change) {
            // One went with its cgroup since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound && ids.is_empty() && again > 0 => continue,
            changed => drop(changed?),
        }
        gone.extend(known);
        followed.extend(patterns);
        // One may have been born since it was listed.
        if !all {
            break;
        }
    }
    for pattern in &followed {
        context.teller.note(&format!(
            "what {} matches later is limited in {} no more",
            pattern.pattern, pattern.meter
        ));
    }
    context.result(Limits { limits: &gone }, |_| {
        gone.iter()
            .map(|l| format!("cleared limit {} on {} of {}\n", l.id, l.meter, l.cgroup))
            .collect()
    })?;
    Ok(Status::DONE)
}

fn log(context: &Context, last: Option<usize>) -> Result<Status, Failure> {
    let mut denials = context.engine()?.denials()?;
    if let Some(last) = last {
        let first = denials.denials.len().saturating_sub(last);
        denials.denials.drain(..first);
    }
    let Denials { lost, .. } = denials;
    context.result(&denials, |look| render::denials(&denials, look))?;
    if lost > 0 {
        context.teller.note(&format!(
            "{lost} older denials were overwritten; `cgtap limit list` counts them all"
        ));
    }
    Ok(Status::DONE)
}

/// Says whether a cgroup is held back.
pub fn explain(context: &Context, args: &ExplainArgs) -> Result<Status, Failure> {
    let explained: Explained = context.engine()?.explain(&args.cgroup)?;
    context.result(&explained, |look| render::explained(&explained, look))?;
    Ok(Status::DONE)
}
