//! Which gates ask budgets, where, and what: the program of a hook and cgroup has a part for each value that is
//! limited there.

use std::collections::{BTreeMap, BTreeSet};

use cgtap_sys::Errno;

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::Session;
use super::plan::{chain, install, put, take_off};
use super::ready::{Meters, Only};
use super::{path_up, wrong};
use crate::budget::denial::SIGNAL;
use crate::budget::ladder::Asks;
use crate::budget::pair;
use crate::cgroup::Cgroup;
use crate::hook::HookSpec;
use crate::id::{CgroupId, InstanceId, ProgramId};
use crate::kernel::read::Access;
use crate::kernel::scope::{self, ScopeInfo};
use crate::kernel::target;
use crate::limit::gate::maps::HOMES;
use crate::limit::gate::{self, Budgets, Claim, LADDERS_MAX, PARTS_MAX, Part};
use crate::limit::record::{Action, GateRecord, Group, LimitRecord, PartRecord, Way};
use crate::meter::resolve::resolve_gates;
use crate::meter::resolved::GateProgram;
use crate::object::image::ProgramImage;
use crate::store::config::Config;
use crate::store::pins;

/// Where processes that are over a limit get their signal.
const SIGNAL_HOOK: &str = "raw_tracepoint:sys_enter";

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

pub(super) fn reconcile(session: &Session, next: &mut Config, meters: &mut Meters) -> Result<()> {
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
        let mut ways = all.get(had.gate).into_iter().flatten();
        let program = ways.find(|way| way.hook == had.hook);
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
