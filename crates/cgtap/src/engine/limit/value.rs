//! A value of a meter that is to be limited, and at which of its gates it can be refused.

use std::collections::BTreeMap;

use cgtap_sys::Errno;

use super::super::error::{Error, ErrorKind, Result};
use super::ready::words_of_labels;
use super::{LimitChange, wrong};
use crate::hook::HookKind;
use crate::limit::controller::Controller;
use crate::limit::record::{Action, GateChoice, Group, Way};
use crate::meter::library::{Known, Source as MeterSource};
use crate::meter::resolve::{resolve, resolve_gates};
use crate::meter::resolved::Resolved;
use crate::meter::usage::Form;
use crate::meter::written::Meter;

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
        // Of no gate, so that no other way is tried.
        let refuse = |why: &dyn std::fmt::Display, errno| {
            wrong(format!("cannot limit {name}: {why}")).with_errno(errno)
        };
        if let Some(source) = meter.source {
            super::super::feed::check(source)
                .map_err(|e| refuse(&e, e.errno().unwrap_or(Errno::ENODEV)))?;
        }
        let resolved = resolve(meter).map_err(|e| refuse(&e, Errno::ENOENT))?;
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
            let Some(program) = ways.get(way).or(ways.last()) else {
                continue;
            };
            if action == Action::Observe && way >= ways.len() {
                return Err(refuse(
                    "this kernel takes no program at its gate".to_owned(),
                ));
            }
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
            });
        }
        // Where a device can only be kept from being opened, there is nothing to be asked beside that.
        if choices.iter().any(|c| c.hook.is_at_open()) {
            choices.retain(|c| c.hook.is_at_open());
        }
        Ok((choices, is_asked))
    }
}
