//! Which of an object's programs are loaded.

use std::collections::BTreeMap;

use cgtap_sys::libbpf::ProgramInfo;
use serde::{Deserialize, Serialize};

use super::error::Problem;
use crate::hook::{HookSpec, SpecError};

/// A program that was left out, since nobody asked for it by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its name.
    pub program: String,
    /// Its section.
    pub section: String,
    /// Why.
    pub reason: String,
}

/// What is done with each program of the object, by its place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// To be attached: named, or all that can be.
    pub(super) chosen: Vec<bool>,
    /// Cannot be scoped, for this reason. A chosen program never is.
    pub(super) unfit: Vec<Option<String>>,
    /// Left out although nobody said so.
    pub(super) skipped: Vec<Skipped>,
}

/// Chooses programs: those of `wanted`, or every one that can be scoped and is not marked as
/// optional (`SEC("?...")`).
pub(super) fn select(
    programs: &[ProgramInfo],
    wanted: Option<&[String]>,
) -> Result<Selection, Problem> {
    if programs.is_empty() {
        return Err(Problem::NoPrograms);
    }
    let unfit = |check: fn(&str) -> Result<(), SpecError>| -> Vec<Option<String>> {
        programs
            .iter()
            .map(|program| check(&program.section).err().map(|e| e.to_string()))
            .collect()
    };
    match wanted {
        // A section whose target its own loader fills in (`uretprobe/readline`) will do: whoever
        // names the program may name the hook too.
        Some(wanted) if !wanted.is_empty() => {
            let unfit = unfit(|section| HookSpec::kind_of_section(section).map(drop));
            by_name(programs, wanted, unfit)
        }
        _ => all(
            programs,
            unfit(|section| HookSpec::from_section(section).map(drop)),
        ),
    }
}

fn by_name(
    programs: &[ProgramInfo],
    wanted: &[String],
    unfit: Vec<Option<String>>,
) -> Result<Selection, Problem> {
    let mut chosen = vec![false; programs.len()];
    for name in wanted {
        let Some(index) = programs.iter().position(|p| p.name == *name) else {
            let programs: Vec<String> = programs.iter().map(|p| p.name.clone()).collect();
            return Err(Problem::UnknownProgram {
                program: name.clone(),
                programs,
            });
        };
        if let Some(reason) = &unfit[index] {
            return Err(Problem::UnsupportedKind {
                program: name.clone(),
                section: programs[index].section.clone(),
                reason: reason.clone(),
            });
        }
        chosen[index] = true;
    }
    Ok(Selection {
        chosen,
        unfit,
        skipped: Vec::new(),
    })
}

fn all(programs: &[ProgramInfo], unfit: Vec<Option<String>>) -> Result<Selection, Problem> {
    let mut chosen = Vec::with_capacity(programs.len());
    let mut skipped = Vec::new();
    for (program, unfit) in programs.iter().zip(&unfit) {
        let reason = match unfit {
            Some(reason) => Some(reason.clone()),
            None if !program.autoload => {
                Some("its section is marked `?`: loaded only when named".to_owned())
            }
            None => None,
        };
        chosen.push(reason.is_none());
        if let Some(reason) = reason {
            skipped.push(Skipped {
                program: program.name.clone(),
                section: program.section.clone(),
                reason,
            });
        }
    }
    if !chosen.contains(&true) {
        let optional: Vec<String> = programs
            .iter()
            .zip(&unfit)
            .filter(|(_, unfit)| unfit.is_none())
            .map(|(p, _)| p.name.clone())
            .collect();
        if !optional.is_empty() {
            return Err(Problem::AllOptional { programs: optional });
        }
        return Err(Problem::NothingToScope {
            found: kinds(programs),
        });
    }
    Ok(Selection {
        chosen,
        unfit,
        skipped,
    })
}

/// `2 kprobe, 1 xdp`.
fn kinds(programs: &[ProgramInfo]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for program in programs {
        let kind = program.section.split('/').next().unwrap_or_default();
        *counts.entry(kind).or_default() += 1;
    }
    let texts: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(list: &[(&str, &str, bool)]) -> Vec<ProgramInfo> {
        list.iter()
            .map(|(name, section, autoload)| ProgramInfo {
                name: (*name).to_owned(),
                section: (*section).to_owned(),
                autoload: *autoload,
                flags: 0,
            })
            .collect()
    }

    #[test]
    fn all_that_can_be_scoped_is_chosen_unless_optional() {
        let programs = programs(&[
            ("a", "tp_btf/sched_switch", true),
            ("b", "xdp", true),
            ("c", "raw_tp/sys_enter", false),
            ("d", "raw_tp", true),
            ("e", "tp/no_category", true),
        ]);
        let selection = select(&programs, None).unwrap();
        assert_eq!(selection.chosen, [true, false, false, true, false]);
        let names: Vec<_> = selection.skipped.iter().map(|s| &s.program).collect();
        assert_eq!(names, ["b", "c", "e"]);
    }

    #[test]
    fn a_named_program_is_chosen_even_if_optional() {
        let programs = programs(&[
            ("a", "tp_btf/sched_switch", true),
            ("c", "raw_tp/sys_enter", false),
        ]);
        let selection = select(&programs, Some(&["c".to_owned()])).unwrap();
        assert_eq!(selection.chosen, [false, true]);
        assert!(selection.skipped.is_empty());
    }

    #[test]
    fn what_cannot_be_chosen_says_why() {
        let programs = programs(&[
            ("count_switches", "tp_btf/sched_switch", true),
            ("x", "xdp", true),
        ]);
        let error = select(&programs, Some(&["count_switch".to_owned()])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it has no program count_switch; it has count_switches, x; did you mean count_switches?"
        );
        let error = select(&programs, Some(&["x".to_owned()])).unwrap_err();
        assert!(matches!(error, Problem::UnsupportedKind { .. }), "{error}");
        assert!(error.to_string().contains("tp_btf:NAME"), "{error}");
        let error = select(&programs[1..], None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "none of its programs can be scoped: 1 xdp; the kinds that can are tracepoint, \
             raw_tracepoint, raw_tracepoint.w, tp_btf, kprobe, kretprobe, kprobe.multi, \
             kretprobe.multi, uprobe, uretprobe, fentry, fexit, fmod_ret, lsm, perf_event, \
             cgroup"
        );
        let optional = [ProgramInfo {
            autoload: false,
            ..programs[0].clone()
        }];
        let error = select(&optional, None).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("name those to load: count_switches"),
            "{error}"
        );
        assert_eq!(select(&[], None).unwrap_err(), Problem::NoPrograms);
    }
}
