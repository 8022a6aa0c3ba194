//! The maps of counting, and what is read out of them.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Map, MapSpec, MapType, map_flags};
use cgtap_sys::memory::Words;
use cgtap_sys::perf;

use super::error::CounterError;
use super::event::{AtSwitch, CounterEvent};
use super::program::{control, turn_bytes};
use super::rows::{Plan, Row, decode};
use crate::id::CgroupId;

/// Cgroups that are followed at a time.
const CGROUPS_MAX: u32 = 65_536;
/// Words of a row's entry in the map of births: its cgroup's id and the row of the one above.
const BIRTH_WORDS: usize = 2;

/// The maps.
#[derive(Debug)]
pub(super) struct Maps {
    turn: Map,
    cgroups: Map,
    rows: Map,
    events: Map,
    control_map: Map,
    born_map: Map,
    /// Control words.
    pub control: Words,
    born: Words,
    rows_max: u32,
}

impl Maps {
    /// Makes them, for so many rows and CPUs.
    pub fn make(plan: &Plan, rows_max: u32, cpus: u32) -> Result<Self, CounterError> {
        let make = |name, map_type, key_size, value_size, max_entries, flags| {
            Map::create(&MapSpec {
                name,
                map_type,
                key_size,
                value_size,
                max_entries,
                flags,
            })
            .map_err(CounterError::sys("make the maps that count"))
        };
        let mapped = map_flags::MMAPABLE;
        let births = rows_max * BIRTH_WORDS as u32 * 8;
        let events = plan.places.len() as u32 * cpus;
        let control_map = make(
            "cgtap_control",
            MapType::Array,
            4,
            control::WORDS as u32 * 8,
            1,
            mapped,
        )?;
        let born_map = make("cgtap_born", MapType::Array, 4, births, 1, mapped)?;
        let words = |map| Words::map(map).map_err(CounterError::sys("map what is counted"));
        let maps = Self {
            turn: make(
                "cgtap_turn",
                MapType::PercpuArray,
                4,
                turn_bytes(plan) as u32,
                1,
                0,
            )?,
            cgroups: make("cgtap_cgroups", MapType::Hash, 8, 8, CGROUPS_MAX, 0)?,
            rows: make(
                "cgtap_rows",
                MapType::PercpuArray,
                4,
                plan.words as u32 * 8,
                rows_max,
                0,
            )?,
            events: make("cgtap_events", MapType::PerfEventArray, 4, 4, events, 0)?,
            control: words(&control_map)?,
            born: words(&born_map)?,
            control_map,
            born_map,
            rows_max,
        };
        // The first row is that of what runs outside.
        maps.control.set(control::NEXT_ROW, 1);
        Ok(maps)
    }

    /// Those of the programs that charge, as [`super::program::charge_map`] has them.
    pub fn of_charge(&self) -> [&Map; 5] {
        [
            &self.turn,
            &self.cgroups,
            &self.rows,
            &self.events,
            &self.control_map,
        ]
    }

    /// Those of the programs that follow the tree, as [`super::program::tree_map`] has them.
    pub fn of_tree(&self) -> [&Map; 3] {
        [&self.cgroups, &self.control_map, &self.born_map]
    }

    /// Opens each event on each CPU. The map keeps them: no descriptor stays open, however many
    /// CPUs there are.
    pub fn open_events(
        &self,
        events: &[CounterEvent],
        cpus: &[u32],
        places: u32,
    ) -> Result<(), CounterError> {
        let read = events.iter().filter(|e| e.at_switch() != AtSwitch::Itself);
        for (at, event) in read.enumerate() {
            for cpu in cpus {
                let fd = perf::open_counter(event.perf_type() as u32, event.config(), *cpu)
                    .map_err(|e| {
                        CounterError::open(event, e, (cpus.first() != Some(cpu)).then_some(*cpu))
                    })?;
                self.events
                    .set_perf_event(at as u32 * places + cpu, fd.as_fd())
                    .map_err(CounterError::sys("give a perf event to the programs"))?;
            }
        }
        Ok(())
    }

    /// A row for `id`, below that of `parent`; that of `parent` itself if there are no more.
    pub fn new_row(&self, id: CgroupId, parent: usize) -> usize {
        let words = self.control.as_slice();
        let row =
            words[control::NEXT_ROW].fetch_add(1, std::sync::atomic::Ordering::Relaxed) as usize;
        if row >= self.rows_max as usize {
            words[control::MERGED].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return parent;
        }
        self.born.set(row * BIRTH_WORDS + 1, parent as u64);
        self.born.set(row * BIRTH_WORDS, id.0);
        row
    }

    /// The row in which a cgroup is counted, if it is.
    pub fn row_of(&self, id: CgroupId) -> Result<Option<usize>, CounterError> {
        let value = self
            .cgroups
            .lookup(&id.0.to_ne_bytes())
            .map_err(CounterError::sys("look a cgroup up"))?;
        Ok(value
            .and_then(|v| v.try_into().ok())
            .map(|v| u64::from_ne_bytes(v) as usize))
    }

    /// Has a cgroup counted in `row`.
    pub fn place(&self, id: CgroupId, row: usize) -> Result<(), CounterError> {
        match self
            .cgroups
            .insert(&id.0.to_ne_bytes(), &(row as u64).to_ne_bytes())
        {
            Ok(_) => Ok(()),
            Err(e) if e.errno == cgtap_sys::Errno::E2BIG => {
                let words = self.control.as_slice();
                words[control::UNPLACED].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
            Err(e) => Err(CounterError::sys("have a cgroup counted")(e)),
        }
    }

    /// All rows that were given out.
    pub fn read(&self, plan: &Plan) -> Result<Vec<Row>, CounterError> {
        let given = (self.control.get(control::NEXT_ROW) as usize).min(self.rows_max as usize);
        (0..given)
            .map(|row| {
                let bytes = self
                    .rows
                    .lookup(&(row as u32).to_ne_bytes())
                    .map_err(CounterError::sys("read the counts"))?
                    .unwrap_or_default();
                Ok(Row {
                    id: CgroupId(self.born.get(row * BIRTH_WORDS)),
                    parent: self.born.get(row * BIRTH_WORDS + 1) as usize,
                    own: decode(plan, &bytes),
                })
            })
            .collect()
    }
}
