//! A hook's state in the kernel: its maps, and how a change is published through them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType, Prog, get_map, grace_period, map_flags, pin};
use cgtap_sys::memory::Words;

use super::word::{
    CACHE_SLOTS, CONTROL_GENERATION, CONTROL_LOST_DEPTH, CONTROL_LOST_SET, CONTROL_NOTES_LOST,
    CONTROL_SETTLED, CONTROL_UNOWNED, CONTROL_WORDS, GENERATION_MAX, GENERATION_SHIFT, SET_MAX,
};
use crate::id::CgroupId;

/// Cgroups that one hook can have lists on.
pub const CONFIGURED_MAX: u32 = 65_536;

/// The maps of a hook, open.
#[derive(Debug)]
pub struct Switch {
    /// PROG_ARRAY of the sets.
    pub progs: Map,
    /// The cache of every cgroup's set.
    pub cache: Map,
    /// The control words.
    pub control: Map,
    /// Configured cgroups and their sets, for even generations and for odd ones.
    pub tables: [Map; 2],
    words: Words,
}

/// A publication that is written and only wants its generation.
#[derive(Debug)]
#[must_use = "nothing is in force before it is committed"]
pub struct Prepared {
    generation: u64,
}

/// The fixed maps, by the name of their pin.
fn spec(name: &str) -> MapSpec<'static> {
    let base = MapSpec {
        name: "",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    };
    match name {
        "progs" => MapSpec {
            name: "cgtap_progs",
            map_type: MapType::ProgArray,
            value_size: 4,
            max_entries: u32::from(SET_MAX) + 1,
            ..base
        },
        "cache" => MapSpec {
            name: "cgtap_cache",
            value_size: CACHE_SLOTS as u32 * 8,
            flags: map_flags::MMAPABLE,
            ..base
        },
        "control" => MapSpec {
            name: "cgtap_control",
            value_size: CONTROL_WORDS as u32 * 8,
            flags: map_flags::MMAPABLE,
            ..base
        },
        // Only user space writes: entries are allocated there, never in an event.
        _ => MapSpec {
            name: "cgtap_table",
            map_type: MapType::Hash,
            key_size: 8,
            value_size: 4,
            max_entries: CONFIGURED_MAX,
            flags: map_flags::NO_PREALLOC,
        },
    }
}

impl Switch {
    /// Makes the maps of a hook and pins them below `dir`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn create(dir: &Path) -> Result<Self, SysError> {
        let make = |name: &str| {
            let map = Map::create(&spec(name))?;
            pin(&map, &dir.join(name))?;
            Ok(map)
        };
        let switch = Self::with(make)?;
        switch.words.set(CONTROL_GENERATION, 1 << GENERATION_SHIFT);
        // Nobody reads it yet.
        switch.settle();
        Ok(switch)
    }

    /// Opens the maps that are pinned below `dir`.
    ///
    /// # Errors
    /// The kernel's answer: `ENOENT` if one is missing.
    pub fn open(dir: &Path) -> Result<Self, SysError> {
        Self::with(|name| get_map(&dir.join(name)))
    }

    fn with(mut get: impl FnMut(&str) -> Result<Map, SysError>) -> Result<Self, SysError> {
        let (progs, cache, control) = (get("progs")?, get("cache")?, get("control")?);
        let tables = [get("table_even")?, get("table_odd")?];
        let words = Words::map(&control)?;
        Ok(Self {
            progs,
            cache,
            control,
            tables,
            words,
        })
    }

    /// Puts a segment in its place. Nothing reaches it before its set is published.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn place(&self, index: u16, prog: &Prog) -> Result<(), SysError> {
        self.progs.set_prog(u32::from(index), prog.as_fd())
    }

    /// Empties every place that is not in `keep`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn vacate_others(&self, keep: &std::collections::BTreeSet<u16>) -> Result<(), SysError> {
        for index in (0..=SET_MAX).filter(|i| !keep.contains(i)) {
            self.progs.delete(&u32::from(index).to_ne_bytes())?;
        }
        Ok(())
    }

    /// Empties these places.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn vacate(&self, indices: &[u16]) -> Result<(), SysError> {
        for index in indices {
            self.progs.delete(&u32::from(*index).to_ne_bytes())?;
        }
        Ok(())
    }

    /// The table that events of a generation read.
    fn table(&self, generation: u64) -> &Map {
        &self.tables[(generation & 1) as usize]
    }

    fn entries(&self, generation: u64) -> Result<BTreeMap<CgroupId, u16>, SysError> {
        let table = self.table(generation);
        let mut entries = BTreeMap::new();
        for key in table.keys()? {
            let id = key.as_slice().try_into().map(u64::from_ne_bytes);
            let set = table.lookup(&key)?.unwrap_or_default();
            let set = set.as_slice().try_into().map(u32::from_ne_bytes);
            if let (Ok(id), Ok(set)) = (id, set) {
                entries.insert(CgroupId(id), set as u16);
            }
        }
        Ok(entries)
    }

    /// Makes `desired` (configured cgroup to set) what every event sees from one moment on.
    ///
    /// # Errors
    /// As [`Switch::prepare`].
    pub fn publish(&self, desired: &BTreeMap<CgroupId, u16>) -> Result<(), SysError> {
        let prepared = self.prepare(desired)?;
        self.commit(prepared);
        Ok(())
    }

    /// Writes `desired` beside what is in force, into the table of the next generation. An event
    /// reads the table that goes with the generation it read, so it sees wholly the old or wholly
    /// the new.
    ///
    /// Two publications are a grace period apart: one is waited for here unless
    /// [`Switch::settle`] has said that it is over. Then nobody reads the table that is written: a
    /// hash gives the memory of an entry that is replaced to the next one at once
    /// (kernel/bpf/memalloc.c), and who still looked at it would see another cgroup's set.
    ///
    /// # Errors
    /// The kernel's answer: `E2BIG` with [`CONFIGURED_MAX`] cgroups. What was written has no
    /// effect, and neither has it if it is never committed: the next publication starts anew.
    pub fn prepare(&self, desired: &BTreeMap<CgroupId, u16>) -> Result<Prepared, SysError> {
        let mut generation = self.generation();
        if generation >= GENERATION_MAX {
            self.start_anew()?;
            generation = self.generation();
        }
        if self.words.get(CONTROL_SETTLED) != generation {
            grace_period()?;
        }
        let next = generation + 1;
        let (table, current) = (self.table(next), self.entries(next)?);
        for id in current.keys().filter(|id| !desired.contains_key(id)) {
            table.delete(&id.0.to_ne_bytes())?;
        }
        for (id, set) in desired {
            if current.get(id) != Some(set) {
                table.update(&id.0.to_ne_bytes(), &u32::from(*set).to_ne_bytes())?;
            }
        }
        if cfg!(not(target_arch = "x86_64")) {
            // Where loads may pass each other, no CPU may read the new generation and then an
            // entry from before it.
            grace_period()?;
        }
        Ok(Prepared {
            generation: next << GENERATION_SHIFT,
        })
    }

    /// Puts in force what was prepared: one store, which cannot fail.
    pub fn commit(&self, prepared: Prepared) {
        self.words.set(CONTROL_GENERATION, prepared.generation);
    }

    /// Notes that a grace period has passed since the last publication: the next one need not
    /// wait for it.
    pub fn settle(&self) {
        self.words.set(CONTROL_SETTLED, self.generation());
    }

    /// Begins the generations again, with the one that reads the same table as the last; the cache
    /// is cleared of words that the new generations could take for their own.
    fn start_anew(&self) -> Result<(), SysError> {
        const { assert!(GENERATION_MAX & 1 == 1) };
        let cache = Words::map(&self.cache)?;
        let clear = || (0..CACHE_SLOTS).for_each(|slot| cache.set(slot, 0));
        grace_period()?;
        clear();
        self.words.set(CONTROL_GENERATION, 1 << GENERATION_SHIFT);
        // An event that had read the old generation may have stored under it meanwhile.
        grace_period()?;
        clear();
        self.settle();
        Ok(())
    }

    /// The places that hold a segment.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn occupied(&self) -> Result<std::collections::BTreeSet<u16>, SysError> {
        let mut places = std::collections::BTreeSet::new();
        for index in 0..=SET_MAX {
            if self
                .progs
                .lookup(&u32::from(index).to_ne_bytes())?
                .is_some()
            {
                places.insert(index);
            }
        }
        Ok(places)
    }

    /// The set of each configured cgroup, as events see it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn in_force(&self) -> Result<BTreeMap<CgroupId, u16>, SysError> {
        self.entries(self.generation())
    }

    /// Events that did not run what they should have: a set that was not in its place, a cgroup
    /// too deep.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.words.get(CONTROL_LOST_SET) + self.words.get(CONTROL_LOST_DEPTH)
    }

    /// Events that belonged to nobody.
    #[must_use]
    pub fn unowned(&self) -> u64 {
        self.words.get(CONTROL_UNOWNED)
    }

    /// Notes that could not be stored.
    #[must_use]
    pub fn notes_lost(&self) -> u64 {
        self.words.get(CONTROL_NOTES_LOST)
    }

    /// The generation, for tests.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.words.get(CONTROL_GENERATION) >> GENERATION_SHIFT
    }

    /// Moves the generation to this one or the one before, whichever reads the same table, for
    /// tests of its end.
    pub fn set_generation(&self, generation: u64) {
        let generation = generation - ((generation ^ self.generation()) & 1);
        self.words
            .set(CONTROL_GENERATION, generation << GENERATION_SHIFT);
    }
}
