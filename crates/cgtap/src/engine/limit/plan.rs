//! What limits take: which programs charge, which gates ask, and how the record becomes so.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use cgtap_sys::Errno;
use cgtap_sys::bpf::{Map, get_map};

use super::super::CgroupRef;
use super::super::attach::{self, attach_one, remember};
use super::super::error::{Error, ErrorKind, Result};
use super::super::instance::{Loaded, Source, instance_of};
use super::super::meter::Compiled;
use super::super::request::{AttachRequest, ObjectSource};
use super::super::session::Session;
use super::words::PREFIX;
use super::{LimitChange, birth, path_up, settle, wrong};
use crate::attach::Anchor;
use crate::budget::denial::SIGNAL;
use crate::budget::emit::LEVELS_MAX;
use crate::budget::ladder::Asks;
use crate::budget::pair;
use crate::cgroup::Cgroup;
use crate::hook::{HookKind, HookSpec};
use crate::id::{AttachmentId, CgroupId, InstanceId, ProgramId};
use crate::kernel::read::Access;
use crate::kernel::scope::{self, ScopeInfo};
use crate::kernel::target;
use crate::limit::controller::Controller;
use crate::limit::gate::maps::HOMES;
use crate::limit::gate::{self, Budgets, Claim, LADDERS_MAX, PARTS_MAX, Part};
use crate::limit::record::{
    Action, Charger, GateChoice, GateRecord, Group, LimitRecord, PartRecord, Reads, Way,
};
use crate::meter::file;
use crate::meter::image;
use crate::meter::library::{Known, Source as MeterSource};
use crate::meter::record::MeterRecord;
use crate::meter::resolve::{GateProgram, Resolved, resolve, resolve_gates};
use crate::meter::shape::{Shape, Sink};
use crate::meter::usage::Form;
use crate::meter::written::Meter;
use crate::object::image::{MapImage, ObjectImage, ProgramImage};
use crate::store::config::Config;
use crate::store::pins;

/// Where processes that are over a limit get their signal.
const SIGNAL_HOOK: &str = "raw_tracepoint:sys_enter";

/// A value of a meter that is to be limited, looked at.
pub(super) struct Asked<'a> {
    known: &'a Known,
    value: usize,
    labels: BTreeMap<String, String>,
}

/// The ways in which gates of a change may be had are used up at `way`.
pub(super) fn is_last_way(change: &LimitChange, way: usize) -> bool {
    let ways = |r: &super::LimitRequest| {
        let gates = r.meter.meter.gates.iter();
        let most = gates.map(|g| g.choices.len()).max().unwrap_or(1);
        // Where no gate can be had, what is only observed is observed where it is counted.
        most + usize::from(r.action == Some(Action::Observe))
    };
    change.requests().map(ways).max().unwrap_or(1) <= way + 1
}

impl<'a> Asked<'a> {
    pub(super) fn new(
        known: &'a Known,
        value: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let meter = &known.meter;
        let at = meter.values.iter().position(|v| v.name == value);
        let Some(at) = at else {
            let names: Vec<String> = meter
                .values
                .iter()
                .map(|v| meter.value_name(&v.name))
                .collect();
            return Err(wrong(format!(
                "the meter {} has no value {value}; it has {}",
                meter.name,
                names.join(", ")
            )));
        };
        for name in labels.keys() {
            if !meter.labels.iter().any(|l| l.name == *name) {
                let names: Vec<&str> = meter.labels.iter().map(|l| l.name.as_str()).collect();
                return Err(wrong(format!(
                    "the meter {} has no label {name}; it has {}",
                    meter.name,
                    if names.is_empty() {
                        "none".to_owned()
                    } else {
                        names.join(", ")
                    }
                )));
            }
        }
        Ok(Self {
            known,
            value: at,
            labels: labels.clone(),
        })
    }

    fn meter(&self) -> &Meter {
        &self.known.meter
    }

    pub(super) fn is_gauge(&self) -> bool {
        self.meter().values[self.value].form == Form::Gauge
    }

    /// What clients of this meter bear.
    pub(super) fn usual_action(&self) -> Action {
        let value = &self.meter().values[self.value].name;
        if let Some(controller) = Controller::of_own(&self.meter().value_name(value)) {
            return Action::Controller(controller);
        }
        let gate = self.meter().gates_of(self.value).next();
        match gate.and_then(|g| g.choices.first()) {
            Some(choice) => Action::Deny(choice.deny.0),
            None => Action::Observe,
        }
    }

    /// The group that it makes with an action.
    pub(super) fn group(&self, action: Action, way: usize, force: bool) -> Result<Group> {
        let meter = self.meter();
        let value = &meter.values[self.value];
        let name = meter.value_name(&value.name);
        if let Some(own) = Controller::of_own(&name) {
            if action != Action::Controller(own) {
                return Err(wrong(format!(
                    "{name} is counted and held by the kernel itself; write --on {}",
                    own.file()
                )));
            }
            return Ok(self.described(Way::Kernel, Vec::new()));
        }
        if let Some(source) = meter.source {
            // Of no gate, so that no other way is tried.
            let refuse = |e: Error| {
                let errno = e.errno().unwrap_or(Errno::ENODEV);
                wrong(format!("cannot limit {name}: {e}")).with_errno(errno)
            };
            super::super::feed::check(source).map_err(refuse)?;
        }
        let resolved = resolve(meter).map_err(|e| {
            Error::new(ErrorKind::Hook, format!("cannot limit {name}: {e}"))
                .with_errno(Errno::ENOENT)
        })?;
        // Whatever is wrong with the labels is said now.
        words_of_labels(meter, &resolved, &self.labels)?;
        let wants_gate = matches!(action, Action::Deny(_));
        let may_gate = wants_gate || action == Action::Observe;
        let mut gates = Vec::new();
        let mut charges = Way::After;
        if may_gate {
            match self.gates(&resolved, action, way, force) {
                Ok((found, is_asked)) => {
                    if is_asked {
                        charges = Way::Before;
                    }
                    if is_asked || wants_gate {
                        gates = found;
                    }
                }
                Err(e) if wants_gate => return Err(e),
                // What is only observed can be observed where it is counted.
                Err(e) => tracing::debug!("{name} is observed where it is counted: {e}"),
            }
        }
        Ok(self.described(charges, gates))
    }

    fn described(&self, way: Way, gates: Vec<GateChoice>) -> Group {
        let meter = self.meter();
        let value = &meter.values[self.value];
        Group {
            path: match &self.known.source {
                MeterSource::Builtin => format!("built-in:{}", meter.name),
                MeterSource::File(path) => path.display().to_string(),
            },
            text: self.known.text.clone(),
            meter: meter.name.clone(),
            value: value.name.clone(),
            unit: value.unit,
            form: value.form,
            labels: self.labels.clone(),
            way,
            charger: None,
            gates,
        }
    }

    /// The value is held where its device is used, on kernels that have such a gate.
    fn is_asked_elsewhere(&self) -> bool {
        let mut choices = self.meter().gates_of(self.value).flat_map(|g| &g.choices);
        choices.any(|c| !c.hook.is_at_open())
    }

    /// The gates, in the `way`th way that each has, and whether the amount is known there.
    fn gates(
        &self,
        resolved: &Resolved,
        action: Action,
        way: usize,
        force: bool,
    ) -> Result<(Vec<GateChoice>, bool)> {
        let meter = self.meter();
        let name = meter.value_name(&meter.values[self.value].name);
        let refuse = |why: String| {
            Error::new(
                ErrorKind::Rule,
                format!(
                    "cannot deny {name}: {why}; --on freeze, signal:NAME or observe do without a \
                     gate"
                ),
            )
            .with_errno(Errno::EINVAL)
        };
        if meter.gates_of(self.value).next().is_none() {
            return Err(refuse(format!(
                "the meter {} knows no place where it could be refused",
                meter.name
            )));
        }
        let all = resolve_gates(meter, self.value, &resolved.labels).map_err(|e| {
            Error::new(ErrorKind::Hook, format!("cannot hold {name}: {e}"))
                .with_errno(Errno::ENOENT)
        })?;
        let mut choices: Vec<GateChoice> = Vec::new();
        let mut is_asked = false;
        for (gate, ways) in all.iter().enumerate() {
            if action == Action::Observe && way >= ways.len() {
                return Err(refuse(
                    "this kernel takes no program at its gate".to_owned(),
                ));
            }
            let choice = way.min(ways.len().saturating_sub(1));
            let Some(program) = ways.get(choice) else {
                continue;
            };
            for label in self.labels.keys() {
                let at = meter.labels.iter().position(|l| l.name == *label);
                if at.is_none_or(|at| program.by.get(at).is_none_or(Option::is_none)) {
                    return Err(refuse(format!(
                        "its gate at {} cannot tell the label {label}",
                        program.hook
                    )));
                }
            }
            if let Action::Deny(errno) = action {
                let errno = Errno(errno);
                // Better than nothing, and not what was asked for.
                if program.hook.is_at_open() && self.is_asked_elsewhere() && !force {
                    return Err(refuse(format!(
                        "this kernel takes no program where it is used; at {} its device can be kept \
                         from being opened while nothing is left, and who has it open goes on, which \
                         --force does",
                        program.hook
                    )));
                }
                if program.hook.kind() == HookKind::RawTracepointWritable && errno != program.deny {
                    return Err(refuse(format!(
                        "its gate at {} can only make it fail with {}, not with {errno}",
                        program.hook, program.deny
                    )));
                }
                if program.retried.contains(&errno) && !force {
                    return Err(refuse(format!(
                        "its clients try again at once on {errno}, for ever, and would spin; \
                         {} is what they bear, --force does it anyway",
                        program.deny
                    )));
                }
            }
            is_asked |= program.ask.is_some();
            choices.push(GateChoice {
                hook: program.hook.clone(),
                gate,
                choice,
            });
        }
        // Where a device can only be kept from being opened, there is nothing to be asked beside that.
        if choices.iter().any(|c| c.hook.is_at_open()) {
            choices.retain(|c| c.hook.is_at_open());
        }
        Ok((choices, is_asked))
    }
}

/// Numbers of label words, and what stands there.
type Only = Vec<(usize, Vec<u64>)>;

/// The words of labels: label by label.
fn words_of_labels(
    meter: &Meter,
    resolved: &Resolved,
    labels: &BTreeMap<String, String>,
) -> Result<Only> {
    let mut only = Vec::new();
    for (at, (label, shown)) in meter.labels.iter().zip(&resolved.labels).enumerate() {
        let Some(text) = labels.get(&label.name) else {
            continue;
        };
        let words = crate::meter::record::words_of_text(shown, text)
            .map_err(|why| wrong(format!("the label {} is never `{text}`: {why}", label.name)))?;
        only.push((at, words));
    }
    Ok(only)
}

/// A group's meter on this kernel, read once a change.
struct Ready {
    meter: Meter,
    value: usize,
    resolved: Resolved,
    only: Only,
}

#[derive(Default)]
struct Meters {
    ready: HashMap<u32, Ready>,
}

impl Meters {
    fn of(&mut self, number: u32, group: &Group) -> Result<&Ready> {
        match self.ready.entry(number) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(Ready::new(group)?)),
        }
    }
}

impl Ready {
    fn new(group: &Group) -> Result<Self> {
        let meter = file::parse(&group.path, &group.text)
            .map_err(|e| Error::new(ErrorKind::State, e.to_string()))?;
        let mut values = meter.values.iter();
        let value = values.position(|v| v.name == group.value).unwrap_or(0);
        let resolved = resolve(&meter).map_err(|e| Error::new(ErrorKind::Hook, e.to_string()))?;
        let only = words_of_labels(&meter, &resolved, &group.labels)?;
        Ok(Self {
            meter,
            value,
            resolved,
            only,
        })
    }
}

/// Makes lists and instances of `next` what its limits take.
pub(super) fn reconcile(session: &Session, next: &mut Config) -> Result<()> {
    let mut meters = Meters::default();
    forget(next)?;
    check_levels(next)?;
    chargers(session, next, &mut meters)?;
    birth::reconcile(session, next)?;
    settle::reconcile(session, next)?;
    gates(session, next, &mut meters)
}

/// Takes away the programs that charge what nothing limits any more.
pub(in crate::engine) fn forget(next: &mut Config) -> Result<()> {
    for instance in next.limits.forget_groups() {
        take_off_instance(next, instance)?;
    }
    if !next.limits.has_places()
        && let Some(births) = next.limits.births.take()
    {
        take_off_instance(next, births.instance)?;
    }
    if next.limits.reserving().is_empty()
        && let Some(settler) = next.limits.settler.take()
    {
        take_off_instance(next, settler.instance)?;
    }
    Ok(())
}

fn check_levels(config: &Config) -> Result<()> {
    for limit in config.limits.limits.values() {
        let levels = chain(config, limit.group, limit.cgroup).len();
        if levels > LEVELS_MAX {
            return Err(wrong(format!(
                "{} would be the {levels}th limited cgroup above one another; there can be \
                 {LEVELS_MAX}",
                config.path(limit.cgroup)
            )));
        }
    }
    Ok(())
}

/// The limits of a group at a cgroup and above it, the nearest first.
pub(super) fn chain(config: &Config, group: u32, from: CgroupId) -> Vec<&LimitRecord> {
    path_up(config, from)
        .into_iter()
        .filter_map(|cgroup| config.limits.at(group, cgroup).map(|(_, l)| l))
        .collect()
}

fn take_off(next: &mut Config, id: AttachmentId) -> Result<()> {
    let Some((hook, cgroup, _)) = next.find(id).map(|(h, c, a)| (h, c, *a)) else {
        return Ok(());
    };
    if let Some(record) = next.hooks.get_mut(&hook) {
        let gone = record.lists.detach(cgroup, Some(Anchor::Id(id)), None);
        gone.map_err(|e| wrong(format!("cannot take a program of limits away: {e}")))?;
    }
    Ok(())
}

pub(super) fn attached(
    config: &Config,
    instance: InstanceId,
) -> Vec<(AttachmentId, CgroupId, u32)> {
    config
        .hooks
        .values()
        .flat_map(|h| h.lists.attachments())
        .filter(|(_, a)| a.program.instance == instance)
        .map(|(cgroup, a)| (a.id, cgroup, a.program.index))
        .collect()
}

pub(super) fn take_off_instance(next: &mut Config, instance: InstanceId) -> Result<()> {
    for (id, ..) in attached(next, instance) {
        take_off(next, id)?;
    }
    Ok(())
}

fn request() -> AttachRequest {
    AttachRequest::new(
        CgroupRef::Path("/".into()),
        ObjectSource::Instance(InstanceId(0)),
    )
}

pub(super) fn put(
    session: &Session,
    next: &mut Config,
    cgroup: &Cgroup,
    program: ProgramId,
    spec: &HookSpec,
    replace: Option<AttachmentId>,
) -> Result<AttachmentId> {
    remember(session, next, cgroup)?;
    let request = AttachRequest {
        replace,
        ..request()
    };
    let job = attach::Job {
        program,
        spec: spec.clone(),
    };
    Ok(attach_one(session, next, &job, &request, cgroup, true)?.id)
}

/// Programs that charge budgets where the meters count.
fn chargers(session: &Session, next: &mut Config, meters: &mut Meters) -> Result<()> {
    let groups: Vec<u32> = next.limits.groups.keys().copied().collect();
    let root = session.hierarchy.by_path(std::path::Path::new("/"))?;
    for number in groups {
        let Some(group) = next.limits.groups.get(&number).cloned() else {
            continue;
        };
        if group.way != Way::After {
            continue;
        }
        let charger = match group.charger {
            Some(charger) => charger,
            None => make_charger(session, next, number, &group, meters)?,
        };
        let limited = (next.limits.limits.values()).filter(|l| l.group == number);
        let found = next.limits.patterns.iter().filter(|p| p.group == number);
        let limited: BTreeSet<CgroupId> = (limited.map(|l| l.cgroup))
            .chain(found.map(|p| p.anchor))
            .collect();
        let is_topmost = |cgroup: &CgroupId| {
            let above = &path_up(next, *cgroup)[1..];
            !above.iter().any(|c| limited.contains(c))
        };
        let topmost: Vec<CgroupId> = limited.iter().copied().filter(is_topmost).collect();
        let mut wanted: BTreeSet<(u32, CgroupId)> = BTreeSet::new();
        for (at, (_, at_root)) in charger.programs.iter().enumerate() {
            if *at_root {
                wanted.insert((at as u32, root.id));
            } else {
                wanted.extend(topmost.iter().map(|c| (at as u32, *c)));
            }
        }
        for (id, cgroup, index) in attached(next, charger.instance) {
            if !wanted.remove(&(index, cgroup)) {
                take_off(next, id)?;
            }
        }
        for (index, cgroup) in wanted {
            let cgroup = session.hierarchy.by_id(cgroup)?;
            let program = ProgramId {
                instance: charger.instance,
                index,
            };
            let spec = charger.programs[index as usize].0.clone();
            put(session, next, &cgroup, program, &spec, None)?;
        }
    }
    Ok(())
}

fn make_charger(
    session: &Session,
    next: &mut Config,
    number: u32,
    group: &Group,
    meters: &mut Meters,
) -> Result<Charger> {
    let ready = meters.of(number, group)?;
    let compiled = Compiled::of(&ready.meter, ready.resolved.clone())?.for_loading();
    let resolved = ready.resolved.only(ready.value);
    let shape = Shape::new(&ready.meter, &resolved);
    // Where a label begins among the words.
    let mut begin = 0;
    let mut firsts = Vec::new();
    for shown in &resolved.labels {
        firsts.push(begin);
        begin += crate::meter::resolve::words_of(shown);
    }
    let only = ready.only.iter().flat_map(|(label, words)| {
        let first = firsts[*label];
        words
            .iter()
            .enumerate()
            .map(move |(at, w)| (first + at, *w))
    });
    let only: Vec<(usize, u64)> = only.collect();
    let root = session.hierarchy.by_path(std::path::Path::new("/"))?.id;
    let reads = ready.meter.source.map(|source| Reads {
        meter: MeterRecord::new(&ready.meter, &resolved, &shape, root),
        source,
        value: ready.value,
        only: only.clone(),
    });
    let sink = Sink::Budgets(only);
    let access = compiled.ways().first().copied().unwrap_or(Access::Probe);
    let placed = compiled.programs_of(access, &resolved, &shape, &sink)?;
    let (budgets, denials) = session.budget_maps()?;
    let shared = image::Shared {
        current: compiled.current(),
        budgets: Some((&budgets, &denials)),
    };
    let made = image::make_maps(&ready.meter, &shape, &sink, shared)
        .map_err(|e| Error::sys(format!("make the maps of limits on {}", group.name()), &e))?;
    let (maps, fds) = made.into_iter().map(|(map, fd)| (map, Some(fd))).unzip();
    let loaded = Loaded {
        name: format!("{PREFIX}{}", group.name()),
        image: image::object(&placed, maps),
        maps: fds,
        chosen: Vec::new(),
        meter: None,
    };
    let (instance, ..) = instance_of(session, next, Source::New(Box::new(loaded)))?;
    let charger = Charger {
        instance,
        programs: placed.into_iter().map(|p| (p.hook, p.at_root)).collect(),
        reads,
    };
    if let Some(group) = next.limits.groups.get_mut(&number) {
        group.charger = Some(charger.clone());
    }
    Ok(charger)
}

/// What each gate is to ask.
fn wanted_gates(config: &Config) -> BTreeMap<(HookSpec, CgroupId), Vec<PartRecord>> {
    let mut wanted: BTreeMap<(HookSpec, CgroupId), Vec<PartRecord>> = BTreeMap::new();
    let signal_hook: Option<HookSpec> = SIGNAL_HOOK.parse().ok();
    // Hook by hook the cgroups that have a gate of their own there.
    let mut places: BTreeSet<(HookSpec, CgroupId)> = BTreeSet::new();
    let limits = &config.limits;
    let named = limits
        .limits
        .values()
        .map(|l| (l.group, l.cgroup, l.action));
    let found = limits
        .patterns
        .iter()
        .map(|p| (p.group, p.anchor, p.action));
    for (group, cgroup, action) in named.chain(found) {
        let Some(group) = limits.groups.get(&group) else {
            continue;
        };
        match action {
            Action::Deny(_) | Action::Observe => {
                places.extend(group.gates.iter().map(|g| (g.hook.clone(), cgroup)));
            }
            Action::Signal(_) => places.extend(signal_hook.clone().map(|h| (h, cgroup))),
            Action::Freeze | Action::Controller(_) => {}
        }
    }
    for (hook, cgroup) in places {
        let mut parts = Vec::new();
        for (number, group) in &config.limits.groups {
            if limits.is_found_at(config, *number, cgroup) {
                parts.extend(found_parts(*number, group, &hook, signal_hook.as_ref()));
                continue;
            }
            let levels = chain(config, *number, cgroup);
            let claims = |verdict: &dyn Fn(Action) -> Option<i32>| -> Vec<(u32, bool, i32)> {
                let of =
                    |l: &&LimitRecord| Some((l.slot, l.period_ns.is_some(), verdict(l.action)?));
                levels.iter().filter_map(of).collect()
            };
            for (at, gate) in group.gates.iter().enumerate() {
                if gate.hook != hook {
                    continue;
                }
                let verdict = |action: Action| match (action, group.way) {
                    (Action::Deny(errno), _) => Some(errno),
                    (Action::Observe, Way::Before) => Some(0),
                    _ => None,
                };
                let claims = claims(&verdict);
                if !claims.is_empty() {
                    parts.push(PartRecord {
                        group: *number,
                        gate: Some(at),
                        claims,
                        is_found: false,
                    });
                }
            }
            if signal_hook.as_ref() == Some(&hook) {
                let verdict = |action: Action| match action {
                    Action::Signal(signal) => Some(SIGNAL + signal),
                    _ => None,
                };
                let claims = claims(&verdict);
                if !claims.is_empty() {
                    parts.push(PartRecord {
                        group: *number,
                        gate: None,
                        claims,
                        is_found: false,
                    });
                }
            }
        }
        if !parts.is_empty() {
            wanted.insert((hook, cgroup), parts);
        }
    }
    leave_out(config, &mut wanted);
    wanted
}

/// What a gate asks of a group whose budgets it finds.
fn found_parts(
    number: u32,
    group: &Group,
    hook: &HookSpec,
    signal_hook: Option<&HookSpec>,
) -> Vec<PartRecord> {
    let gates = group.gates.iter().enumerate();
    let here = gates
        .filter(|(_, g)| g.hook == *hook)
        .map(|(at, _)| Some(at));
    let signals = (group.way == Way::After && signal_hook == Some(hook)).then_some(None);
    let part = |gate| PartRecord {
        group: number,
        gate,
        claims: Vec::new(),
        is_found: true,
    };
    here.chain(signals).map(part).collect()
}

/// Leaves out gates that ask what the next one above asks, since they would find the same.
fn leave_out(config: &Config, wanted: &mut BTreeMap<(HookSpec, CgroupId), Vec<PartRecord>>) {
    let is_told = |(hook, cgroup): &(HookSpec, CgroupId), parts: &Vec<PartRecord>| {
        let mut above = path_up(config, *cgroup).into_iter().skip(1);
        let next = above.find_map(|c| wanted.get(&(hook.clone(), c)));
        parts.iter().all(|p| p.is_found) && next == Some(parts)
    };
    let gone = wanted.iter().filter(|(at, parts)| is_told(at, parts));
    let gone: Vec<(HookSpec, CgroupId)> = gone.map(|(at, _)| at.clone()).collect();
    for at in gone {
        wanted.remove(&at);
    }
}

fn gates(session: &Session, next: &mut Config, meters: &mut Meters) -> Result<()> {
    let mut wanted = wanted_gates(next);
    let mut kept = Vec::new();
    for gate in std::mem::take(&mut next.limits.gates) {
        match wanted.remove(&(gate.hook.clone(), gate.cgroup)) {
            None => take_off(next, gate.attachment)?,
            Some(parts) if parts == gate.parts => kept.push(gate),
            Some(parts) => {
                let made = make_gate(session, next, meters, &gate.hook, gate.cgroup, parts);
                let (program, cgroup, parts) = made?;
                let old = Some(gate.attachment);
                let id = put(session, next, &cgroup, program, &gate.hook, old)?;
                kept.push(GateRecord {
                    attachment: id,
                    parts,
                    ..gate
                });
            }
        }
    }
    for ((hook, at), parts) in wanted {
        let (program, cgroup, parts) = make_gate(session, next, meters, &hook, at, parts)?;
        let attachment = put(session, next, &cgroup, program, &hook, None)?;
        kept.push(GateRecord {
            hook,
            cgroup: at,
            attachment,
            parts,
        });
    }
    next.limits.gates = kept;
    Ok(())
}

/// Which of the budgets that it finds a part asks.
fn asks(part: &PartRecord, program: &GateProgram) -> Asks {
    match (part.gate, &program.ask) {
        (None, _) => Asks::Signals,
        (Some(_), Some(_)) => Asks::All,
        (Some(_), None) => Asks::Errnos,
    }
}

/// Loads the program of a gate.
fn make_gate(
    session: &Session,
    next: &mut Config,
    meters: &mut Meters,
    hook: &HookSpec,
    cgroup: CgroupId,
    parts: Vec<PartRecord>,
) -> Result<(ProgramId, Cgroup, Vec<PartRecord>)> {
    let at = session.hierarchy.by_id(cgroup)?;
    if parts.len() > PARTS_MAX {
        return Err(wrong(format!(
            "{} values are limited at {hook} for {}; a gate holds {PARTS_MAX}",
            parts.len(),
            at.path
        )));
    }
    let lost = || Error::new(ErrorKind::State, "a group of limits is gone");
    let mut programs: Vec<GateProgram> = Vec::new();
    let mut onlies: Vec<Only> = Vec::new();
    for part in &parts {
        let Some(gate) = part.gate else {
            programs.push(GateProgram::always(hook.clone()));
            onlies.push(Vec::new());
            continue;
        };
        let group = next.limits.groups.get(&part.group).cloned();
        let group = group.ok_or_else(lost)?;
        let ready = meters.of(part.group, &group)?;
        let all = resolve_gates(&ready.meter, ready.value, &ready.resolved.labels)
            .map_err(|e| Error::new(ErrorKind::Hook, e.to_string()))?;
        let had = group.gates.get(gate).ok_or_else(lost)?;
        let program = all.get(had.gate).and_then(|ways| ways.get(had.choice));
        programs.push(program.cloned().ok_or_else(lost)?);
        onlies.push(ready.only.clone());
    }
    let found = parts.iter().filter(|p| p.is_found).count();
    if found > LADDERS_MAX {
        return Err(wrong(format!(
            "{found} values are limited at {hook} for {} by patterns whose later matches are held; a \
             gate holds {LADDERS_MAX}",
            at.path
        )));
    }
    let scope = match (found, next.hook(hook)) {
        (0, _) => ScopeInfo::Current,
        (_, Some((_, record))) => record.scope.clone(),
        _ => {
            let (spec, target) = target::resolve(hook)?;
            scope::resolve(&spec, &target)?
        }
    };
    if scope.owner().is_some() {
        return Err(wrong(format!(
            "{hook} cannot be followed by patterns: it goes by notes"
        )));
    }
    let claims: Vec<Vec<Claim>> = parts
        .iter()
        .map(|part| {
            let claim = |(index, is_bucket, verdict): &(u32, bool, i32)| Claim {
                index: *index,
                is_bucket: *is_bucket,
                verdict: *verdict,
            };
            part.claims.iter().map(claim).collect()
        })
        .collect();
    // The maps of reservations come behind the others.
    let first = HOMES + u32::from(found > 0);
    let mut chargers: Vec<InstanceId> = Vec::new();
    let reserved: Vec<Option<u32>> = (parts.iter().zip(&programs))
        .map(|(part, program)| {
            let is_reserved = program.expect.is_some() && program.ask.is_none();
            let is_reserved = is_reserved && next.limits.is_reserved(part.group);
            let group = next
                .limits
                .groups
                .get(&part.group)
                .filter(|_| is_reserved)?;
            chargers.push(group.charger.as_ref()?.instance);
            Some(first + chargers.len() as u32 - 1)
        })
        .collect();
    let made: Vec<Part<'_>> = programs
        .iter()
        .zip(&onlies)
        .zip(&claims)
        .zip(parts.iter().zip(&reserved))
        .map(|(((program, only), claims), (part, reserved))| Part {
            reserved: *reserved,
            program,
            only,
            of: match part.is_found {
                false => Budgets::Known(claims),
                true => Budgets::Found(part.group, asks(part, program)),
            },
        })
        .collect();
    let layout = &next.layout;
    let access = if layout.cast.is_some() {
        Access::Cast
    } else {
        Access::Probe
    };
    let has_pairs = programs.iter().any(|p| p.twice.is_some());
    let pairs = has_pairs.then_some(first + chargers.len() as u32);
    let neutral = hook.kind().info().returns.neutral();
    let insns = gate::generate(layout, access, hook.kind(), &scope, &made, pairs, neutral)
        .map_err(|e| {
            Error::new(
                ErrorKind::Unsupported,
                format!("cannot make the gate at {hook} for {}: {e}", at.path),
            )
            .with_errno(Errno::E2BIG)
        })?;
    let (budgets, denials) = session.budget_maps()?;
    let mut maps = vec![
        ("budgets".to_owned(), budgets),
        ("denials".to_owned(), denials),
    ];
    if found > 0 {
        maps.push(("homes".to_owned(), session.pinned(pins::HOMES)?));
    }
    for (at, charger) in chargers.iter().enumerate() {
        let map = super::words::map_of(session, next, *charger, "reserved")?;
        maps.push((format!("reserved_{at}"), map));
    }
    if has_pairs {
        let map = pair::make().map_err(|e| Error::sys("make the notes of pairs", &e))?;
        maps.push(("pairs".to_owned(), map));
    }
    let programs = vec![ProgramImage::generated("gate", hook, insns)];
    let instance = install(session, next, (&at.path, "cgtap_limit"), maps, programs)?;
    Ok((ProgramId { instance, index: 0 }, at, parts))
}

/// Makes an instance of generated programs and the maps that they share with others; `names` are that of
/// the instance and that of its object.
pub(super) fn install(
    session: &Session,
    next: &mut Config,
    names: (&str, &str),
    maps: Vec<(String, Map)>,
    programs: Vec<ProgramImage>,
) -> Result<InstanceId> {
    let images = maps.iter().map(|(name, map)| MapImage::of(name, map));
    let images = images
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| Error::sys("look at the maps of limits", &e))?;
    let loaded = Loaded {
        name: format!("{PREFIX}{}", names.0),
        image: ObjectImage::generated(names.1, images, programs),
        maps: maps.into_iter().map(|(_, map)| Some(map.into())).collect(),
        chosen: Vec::new(),
        meter: None,
    };
    let (instance, ..) = instance_of(session, next, Source::New(Box::new(loaded)))?;
    Ok(instance)
}

impl Session {
    /// The budgets and the denials of the state.
    pub(in crate::engine) fn budget_maps(&self) -> Result<(Map, Map)> {
        let open = |name: &str| {
            let path = self.path(name);
            get_map(&path).map_err(|e| Error::sys(format!("open {}", path.display()), &e))
        };
        Ok((open(pins::BUDGETS)?, open(pins::DENIALS)?))
    }
}
