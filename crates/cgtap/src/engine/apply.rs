//! Making the kernel what a changed record says.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use cgtap_sys::bpf::{Map, MapSpec, MapType, get_map, pin};
use cgtap_sys::{Errno, SysError};

use super::error::{Error, ErrorKind, Result};
use super::session::{Session, desired};
use super::workshop::Workshop;
use crate::dispatch::set::{Indices, LoadedSet, Loader, SetError, Turns};
use crate::dispatch::switch::Switch;
use crate::dispatch::word::SET_MAX;
use crate::id::CgroupId;
use crate::store::config::{Config, HookId, HookRecord, MemberRecord, SetRecord};
use crate::store::pins;

/// A set to be built, for one cgroup.
struct Wanted {
    cgroup: CgroupId,
    members: Vec<MemberRecord>,
}

/// A set that is loaded, with its record and its counter.
struct Built {
    cgroup: CgroupId,
    record: SetRecord,
    set: LoadedSet,
    counter: Map,
}

/// What runs for each configured cgroup of a hook.
fn arrays(config: &Config, hook: &HookRecord) -> BTreeMap<CgroupId, Vec<MemberRecord>> {
    hook.lists
        .configured()
        .map(|cgroup| {
            let members = config.effective(hook, &config.cgroups, cgroup);
            let members = members
                .into_iter()
                .map(|e| config.member(e.cgroup, &e.attachment));
            (cgroup, members.collect())
        })
        .collect()
}

impl Session {
    /// Carries out `next`: loads what is new beside the old, writes the record, publishes, takes
    /// the old away. To be called within [`Session::change`], which takes it all back if this
    /// fails. It fails only before the record is written: an error means that all is as before.
    pub(super) fn apply(&mut self, mut next: Config) -> Result<()> {
        let before = pins::expected(&self.config);
        next.forget_unused();
        let active: Vec<HookId> = next
            .hooks
            .iter()
            .filter(|(_, h)| h.is_active())
            .map(|(id, _)| *id)
            .collect();
        let mut changed = BTreeSet::new();
        let mut next_serial = next.next.set;
        let mut records: BTreeMap<HookId, HookRecord> = BTreeMap::new();
        {
            let mut workshop = Workshop::new(self);
            for id in active.iter().chain(self.config.hooks.keys()) {
                let Some(hook) = next.hooks.get(id).filter(|_| !records.contains_key(id)) else {
                    continue;
                };
                let (wanted, record) = regroup(&next, hook);
                if wanted.is_empty() && record.sets == hook.sets {
                    continue;
                }
                changed.insert(*id);
                let is_new = !self.config.hooks.get(id).is_some_and(HookRecord::is_active);
                let record = self.build(
                    &mut workshop,
                    &next,
                    *id,
                    record,
                    wanted,
                    is_new,
                    &mut next_serial,
                )?;
                records.insert(*id, record);
            }
        }
        next.next.set = next_serial;
        next.hooks.extend(records);
        self.watch(&next)?;
        self.watch_owners(&next)?;
        let mut prepared = Vec::new();
        for id in &changed {
            // A hook whose last list is gone still has its sets as retired ones.
            let Some(hook) = next.hooks.get(id).filter(|h| h.is_active()) else {
                continue;
            };
            let sys = |e: SysError| Error::sys(format!("publish the change at {}", hook.spec), &e);
            let switch = self.switch(*id)?;
            let one = switch.prepare(&desired(hook)).map_err(sys)?;
            prepared.push((switch, one));
        }
        self.write_config(next.clone())?;
        // The change stands. What is left to do cannot take it back: where it fails, it is left
        // to the next command.
        for (switch, one) in prepared {
            switch.commit(one);
        }
        // What only came needs no waiting: nothing goes that an event could still hold.
        let settled = if next.hooks.values().all(|h| h.retired.is_empty()) {
            Ok(())
        } else {
            self.settle(&mut next)
        };
        if let Err(e) = settled.and_then(|()| self.clear(&before)) {
            self.unfinished(&e);
        }
        Ok(())
    }

    /// Loads and places the new sets of a hook, and its dispatcher if it has none.
    #[allow(
        clippy::too_many_arguments,
        reason = "one step of apply, cut out to be read alone"
    )]
    fn build(
        &self,
        workshop: &mut Workshop<'_>,
        next: &Config,
        id: HookId,
        mut record: HookRecord,
        wanted: Vec<Wanted>,
        is_new: bool,
        next_serial: &mut u32,
    ) -> Result<HookRecord> {
        let dir = pins::hook_dir(id);
        let sys = |e: SysError| Error::sys(format!("make hook {}", record.spec), &e);
        let switch = if is_new {
            self.dir.make_dir(&dir)?;
            Switch::create(&self.path(&dir)).map_err(sys)?
        } else {
            self.switch(id)?
        };
        let progs = workshop.take(
            &pins::hook(id, "progs"),
            switch.progs.try_clone().map_err(sys)?,
        );
        let control = workshop.take(
            &pins::hook(id, "control"),
            switch.control.try_clone().map_err(sys)?,
        );
        let attach_btf = record.target().load_btf().map_err(sys)?;
        // The dispatcher is the first user of the array: the kernel holds all that is put into it
        // to the dispatcher's type.
        let fresh = if is_new {
            Some(self.load_fresh(next, id, &record, &switch)?)
        } else {
            None
        };
        let decided = match record.turns {
            true => {
                let name = pins::hook(id, pins::TURNS);
                let map = get_map(&self.path(&name)).map_err(sys)?;
                Some(workshop.take(&name, map))
            }
            false => None,
        };
        let mut indices = Indices::new(record.all_sets().flat_map(|s| s.indices.iter().copied()));
        let mut built = Vec::new();
        for Wanted {
            cgroup,
            members: member_records,
        } in wanted
        {
            let members = member_records
                .iter()
                .map(|m| workshop.member(next, id, &record.spec, m))
                .collect::<Result<Vec<_>>>()?;
            let counter = make_counter()?;
            let counter_at = workshop.maps.add(counter.try_clone().map_err(sys)?);
            let loader = Loader {
                kind: record.spec.kind().info(),
                returns: record.target().returns(),
                attach_btf_id: record.target().load_btf_id(),
                attach_btf: attach_btf.as_ref().map(AsFd::as_fd),
                maps: &workshop.maps,
                btfs: &workshop.btfs,
                progs,
                control,
                turns: decided.map(|decided| Turns {
                    decided,
                    from: (*next_serial % u32::from(SET_MAX)) as u16,
                }),
            };
            let set = loader
                .load(&members, counter_at, &mut indices)
                .map_err(|e| set_refused(&next.path(cgroup), &record, member_records.len(), &e))?;
            let set_record = SetRecord {
                serial: *next_serial,
                head: set.head,
                indices: set.progs.iter().map(|(index, _)| *index).collect(),
                members: member_records,
            };
            *next_serial += 1;
            built.push(Built {
                cgroup,
                record: set_record,
                set,
                counter,
            });
        }
        // Who takes turns stands behind whoever gives them.
        let fresh = match fresh {
            Some(fresh) if record.turns => {
                self.attach_fresh(id, &record, &fresh)?;
                None
            }
            other => other,
        };
        for one in built {
            for (index, prog) in &one.set.progs {
                // Also where nothing jumps to it: it is the list of what is in its place.
                switch.place(*index, prog).map_err(sys)?;
                if record.turns {
                    self.attach_set(id, &record, *index, prog)?;
                }
            }
            let path = self.path(&pins::set_counter(id, one.record.serial));
            pin(&one.counter, &path).map_err(sys)?;
            record.sets.insert(one.cgroup, one.record);
        }
        if let Some(fresh) = fresh {
            self.attach_fresh(id, &record, &fresh)?;
        }
        Ok(record)
    }
}

/// Which sets a hook needs that it does not have, and its record without those it does not need
/// any more: they are retired.
fn regroup(config: &Config, hook: &HookRecord) -> (Vec<Wanted>, HookRecord) {
    let mut record = hook.clone();
    let mut wanted = Vec::new();
    let mut old = std::mem::take(&mut record.sets);
    for (cgroup, members) in arrays(config, hook) {
        match old.remove(&cgroup) {
            Some(set) if set.members == members => {
                record.sets.insert(cgroup, set);
            }
            other => {
                record.retired.extend(other);
                wanted.push(Wanted { cgroup, members });
            }
        }
    }
    record.retired.extend(old.into_values());
    (wanted, record)
}

/// Counts the runs of a set, one word a CPU.
fn make_counter() -> Result<Map> {
    Map::create(&MapSpec {
        name: "cgtap_runs",
        map_type: MapType::PercpuArray,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    })
    .map_err(|e| Error::sys("make a run counter", &e))
}

fn set_refused(path: &str, hook: &HookRecord, members: usize, error: &SetError) -> Error {
    let asked = format!(
        "cannot run {members} programs for {} in cgroup {path}: {error}; nothing has changed",
        hook.spec
    );
    match error {
        SetError::Load { source, .. } => {
            let words = super::error::verifier_words(&source.log);
            Error::new(
                ErrorKind::Verifier,
                format!("{asked}; the verifier says: {words}"),
            )
            .with_errno(source.errno)
            .with_log(source.log.clone())
        }
        SetError::Segments(_) | SetError::OneProgram { .. } => {
            Error::new(ErrorKind::Full, asked).with_errno(Errno::E2BIG)
        }
        SetError::Index(_) => Error::new(ErrorKind::Full, asked).with_errno(Errno::ENOSPC),
        SetError::Sys(e) => Error::new(ErrorKind::Kernel, asked).with_errno(e.errno),
        SetError::Edit(_) | SetError::Records(_) => Error::new(ErrorKind::Kernel, asked),
    }
}
