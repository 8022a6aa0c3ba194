//! Where everything lies below the state directory. bpffs takes no dots in names.

use std::collections::BTreeSet;

use super::config::{Config, HookId, HookRecord, MemberRecord};
use crate::id::InstanceId;

/// The record.
pub const CONFIG: &str = "config";
/// The record that is about to take its place.
pub const CONFIG_NEW: &str = "config_new";
/// Control words of the state.
pub const CONTROL: &str = "control";
/// Configured cgroups, id to state.
pub const CGROUPS: &str = "cgroups";
/// Link of the program at cgroup_rmdir.
pub const REAPER: &str = "reaper";
/// Processes that attachments go with, pid to gate.
pub const OWNERS: &str = "owners";
/// The gates: a word each, set when the process ends.
pub const GATES: &str = "gates";
/// Link of the program at sched_process_exit, while there are such processes.
pub const UNDERTAKER: &str = "undertaker";
/// The budgets of limits.
pub const BUDGETS: &str = "budgets";
/// What limits denied.
pub const DENIALS: &str = "denials";
/// Budgets that cgroups are given as they are made.
pub const PLACES: &str = "places";
/// Who has some.
pub const BIRTHS: &str = "births";
/// The budget that each cgroup has of its own, of what patterns limit.
pub const HOMES: &str = "homes";
/// Addresses of `current`.
pub const CURRENT: &str = "current";
/// Directory of the hooks.
pub const HOOKS: &str = "hooks";
/// Directory of the instances.
pub const INSTANCES: &str = "instances";
/// Directory of an instance's maps, and of its cgroup storage.
const MAPS: &str = "maps";
const STORAGE: &str = "storage";

/// Everything that may stand at the top: a directory with something else in it is not ours.
pub const TOP: [&str; 16] = [
    CONFIG, CONFIG_NEW, CONTROL, CGROUPS, REAPER, OWNERS, GATES, UNDERTAKER, CURRENT, HOOKS,
    INSTANCES, BUDGETS, DENIALS, PLACES, BIRTHS, HOMES,
];

/// Directory of a hook.
#[must_use]
pub fn hook_dir(hook: HookId) -> String {
    format!("{HOOKS}/{}", hook.0)
}

/// A pin of a hook: `link`, `link_N`, `link_turn_N`, `turns`, `progs`, `cache`, `control`, `table_even`, `table_odd`, `notes`
/// or `noter`.
#[must_use]
pub fn hook(hook: HookId, what: &str) -> String {
    format!("{HOOKS}/{}/{what}", hook.0)
}

/// The pins of the maps of a hook, which [`crate::dispatch::switch::Switch`] makes.
pub const HOOK_MAPS: [&str; 5] = ["progs", "cache", "control", "table_even", "table_odd"];

/// A link of a hook by its number: `link`, `link_1`, `link_2`, ...; with them the hook is live.
#[must_use]
pub fn hook_link(id: HookId, number: u32) -> String {
    match number {
        0 => hook(id, HOOK_LINK),
        _ => hook(id, &format!("{HOOK_LINK}_{number}")),
    }
}

/// Where the turns of a hook's sets are written down, where they take some.
pub const TURNS: &str = "turns";

/// The link of a set that takes turns.
#[must_use]
pub fn turn(id: HookId, set: u16) -> String {
    hook(id, &format!("{HOOK_LINK}_turn_{set}"))
}

/// All links of a hook: those of its dispatcher, then those of its sets.
pub fn all_links(id: HookId, record: &HookRecord) -> Vec<String> {
    let turns = record.all_sets().filter(|_| record.turns);
    let links = record.links().into_iter();
    links
        .map(|number| hook_link(id, number))
        .chain(turns.map(|set| turn(id, set.head)))
        .collect()
}

/// The notes of a hook whose scope takes some.
pub const NOTES: &str = "notes";
/// The link of the program that makes them.
pub const NOTER: &str = "noter";

/// What the links of a hook are called; the first of them is.
const HOOK_LINK: &str = "link";

/// Whether what is expected below the state is a directory. Maps of an instance may have any name.
#[must_use]
pub fn is_dir(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [HOOKS | INSTANCES] | [HOOKS | INSTANCES, _] => true,
        [INSTANCES, _, last] => matches!(last, MAPS | STORAGE),
        _ => false,
    }
}

/// Whether a pin below the state is a link of a hook.
#[must_use]
pub fn is_hook_link(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    name.starts_with(HOOKS)
        && name.split('/').count() == 3
        && (last == NOTER
            || last
                .strip_prefix(HOOK_LINK)
                .is_some_and(|number| number.is_empty() || number.starts_with('_')))
}

/// Run counter of a set.
#[must_use]
pub fn set_counter(hook_id: HookId, serial: u32) -> String {
    hook(hook_id, &format!("set_{serial}"))
}

/// Directory of an instance.
#[must_use]
pub fn instance_dir(instance: InstanceId) -> String {
    format!("{INSTANCES}/{instance}")
}

/// The image of an instance.
#[must_use]
pub fn image(instance: InstanceId) -> String {
    format!("{INSTANCES}/{instance}/image")
}

/// Directory of an instance's maps.
#[must_use]
pub fn map_dir(instance: InstanceId) -> String {
    format!("{INSTANCES}/{instance}/{MAPS}")
}

/// A map of an instance.
#[must_use]
pub fn map(instance: InstanceId, pin: &str) -> String {
    format!("{INSTANCES}/{instance}/{MAPS}/{pin}")
}

/// Directory of an instance's cgroup storage.
#[must_use]
pub fn storage_dir(instance: InstanceId) -> String {
    format!("{INSTANCES}/{instance}/{STORAGE}")
}

/// Cgroup storage of map `map` for what is attached to a cgroup, shared by all hooks of it or
/// not, as the map's key says (S25).
#[must_use]
pub fn storage(member: &MemberRecord, map: usize, hook: Option<HookId>) -> String {
    let instance = member.program.instance;
    let hook = hook.map_or_else(|| "all".to_owned(), |h| h.0.to_string());
    format!(
        "{INSTANCES}/{instance}/{STORAGE}/map_{map}_cgroup_{}_hook_{hook}",
        member.cgroup
    )
}

/// The zeros that per-CPU storage `map` of an instance goes with.
#[must_use]
pub fn storage_zero(instance: InstanceId, map: usize) -> String {
    format!("{INSTANCES}/{instance}/{STORAGE}/map_{map}_zero")
}

/// Every file and directory that the record accounts for, and no more: what else lies below the
/// state was left by a crash.
#[must_use]
pub fn expected(config: &Config) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = [
        CONFIG, CONTROL, CGROUPS, REAPER, OWNERS, GATES, HOOKS, INSTANCES,
    ]
    .into_iter()
    .map(str::to_owned)
    .collect();
    if !config.owners.is_empty() {
        all.insert(UNDERTAKER.to_owned());
    }
    if config.current_table {
        all.insert(CURRENT.to_owned());
    }
    if !config.limits.is_empty() {
        all.extend([BUDGETS, DENIALS].map(str::to_owned));
    }
    if config.limits.has_places() {
        all.extend([PLACES, BIRTHS, HOMES].map(str::to_owned));
    }
    for (id, record) in config.hooks.iter().filter(|(_, h)| h.is_active()) {
        all.insert(hook_dir(*id));
        all.extend(HOOK_MAPS.iter().map(|what| hook(*id, what)));
        all.extend(all_links(*id, record));
        if record.turns {
            all.insert(hook(*id, TURNS));
        }
        if record.scope.owner().is_some() {
            all.extend([NOTES, NOTER].map(|what| hook(*id, what)));
        }
        for set in record.all_sets() {
            all.insert(set_counter(*id, set.serial));
        }
        for (cgroup, attachment) in record.lists.attachments() {
            let Some(instance) = config.instances.get(&attachment.program.instance) else {
                continue;
            };
            let member = config.member(cgroup, attachment);
            for (at, map) in instance.maps.iter().enumerate() {
                if let Some(kind) = map.storage {
                    all.insert(storage(&member, at, kind.per_hook.then_some(*id)));
                }
            }
        }
    }
    for (id, record) in &config.instances {
        all.extend([
            instance_dir(*id),
            image(*id),
            map_dir(*id),
            storage_dir(*id),
        ]);
        for (at, record) in record.maps.iter().enumerate() {
            all.extend(record.pin.iter().map(|pin| map(*id, pin)));
            if record.storage.is_some_and(|s| s.per_cpu) {
                all.insert(storage_zero(*id, at));
            }
        }
    }
    all
}

/// A name that bpffs takes, unlike those in `taken`, which it joins.
#[must_use]
pub fn clean_name(name: &str, taken: &mut BTreeSet<String>) -> String {
    let clean: String = name
        .trim_start_matches('.')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let clean = if clean.is_empty() {
        "map".to_owned()
    } else {
        clean
    };
    let mut unique = clean.clone();
    let mut number = 2;
    while !taken.insert(unique.clone()) {
        unique = format!("{clean}_{number}");
        number += 1;
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::clean_name;

    #[test]
    fn names_lose_their_dots_and_stay_different() {
        let mut taken = std::collections::BTreeSet::new();
        assert_eq!(clean_name(".rodata", &mut taken), "rodata");
        assert_eq!(clean_name("rodata", &mut taken), "rodata_2");
        assert_eq!(clean_name(".data.hot", &mut taken), "data_hot");
    }
}
