//! Counting perf events for any number of cgroups with one perf event for each event and CPU.
//!
//! perf opens an event for each cgroup, event and CPU, and the kernel goes through them at every switch
//! between cgroups. Here a CPU has one counter an event, whoever runs there, and a small program
//! at `sched_switch` says whose counts they were: what it costs does not grow with the number of
//! cgroups.
//!
//! Everything belongs to the process: links and maps go with their descriptors, and the perf events with
//! the map.

mod cgroups;
pub mod error;
pub mod event;
mod maps;
pub mod program;
pub mod rows;

use cgtap_sys::bpf::{AttachType, Link, LoadError, Prog, ProgSpec, ProgType, possible_cpus};
use cgtap_sys::libbpf::Btf;
use std::os::fd::AsFd;

pub use error::CounterError;
pub use event::{CounterEvent, EventError, Unit};
use maps::Maps;
use program::{Target, control};
use rows::{Plan, Row};

use crate::asm::{EditError, Insn, encode};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::id::CgroupId;
use crate::kernel::layout::Layout;
use crate::kernel::{cpu, tracepoint};

/// Where the kernel tells of each step of a CPU's coming and going (`cpuhp_enter`,
/// include/trace/events/cpuhp.h).
const HOTPLUG: &str = "cpuhp_enter";

/// What to count.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// In these cgroups and all below them.
    pub cgroups: &'a [Cgroup],
    /// These events.
    pub events: &'a [CounterEvent],
    /// With a row for each cgroup below them.
    pub per_cgroup: bool,
}

/// Counting that is under way.
#[derive(Debug)]
pub struct Counters {
    // The links go first: nothing runs any more when the maps go.
    watchers: Vec<Watcher>,
    flush: Prog,
    maps: Maps,
    plan: Plan,
    cpus: Vec<u32>,
    is_counting: bool,
}

/// A program of ours at a tracepoint, for as long as this lives.
#[derive(Debug)]
struct Watcher {
    prog: Prog,
    _link: Link,
}

/// What was counted up to a moment.
#[derive(Clone, Debug)]
pub struct Counts {
    /// The rows; the one of [`rows::OUTSIDE`] is nobody's.
    pub rows: Vec<Row>,
    /// What could not be counted, or was charged to another cgroup: switches that the kernel kept from the
    /// programs, counters that could not be read, cgroups that found no place, CPUs that came or went.
    pub lost: u64,
    /// Cgroups that found no row of their own: they are counted in the row of the one above.
    pub merged: u64,
}

impl Counts {
    /// The row of a cgroup.
    #[must_use]
    pub fn row_of(&self, id: CgroupId) -> Option<usize> {
        self.rows.iter().position(|row| row.id == id)
    }
}

type Generated = Result<Vec<Insn>, EditError>;

fn load(
    name: &'static str,
    btf: Option<(&Btf, &str)>,
    insns: Generated,
    maps: &[&cgtap_sys::bpf::Map],
) -> Result<Prog, CounterError> {
    let insns = insns.map_err(|source| CounterError::Generate { name, source })?;
    let maps: Vec<_> = maps.iter().map(|m| m.as_fd()).collect();
    let (prog_type, attach_type, attach_btf_id) = match btf {
        Some((btf, target)) => (
            ProgType::Tracing,
            AttachType::TraceRawTp,
            tracepoint::raw(btf, target)?.typedef_id,
        ),
        None => (ProgType::RawTracepoint, AttachType::None, 0),
    };
    Prog::load(&ProgSpec {
        attach_type,
        attach_btf_id,
        ..ProgSpec::generated(name, prog_type, &encode(&insns), &maps)
    })
    .map_err(|LoadError { errno, log }| CounterError::Load { name, errno, log })
}

impl Counters {
    /// Opens the counters and attaches the programs; nothing is counted yet.
    ///
    /// # Errors
    /// [`CounterError`]: no such counter on this machine, or what the kernel said.
    pub fn open(hierarchy: &Hierarchy, request: &Request<'_>) -> Result<Self, CounterError> {
        event::check(request.events)?;
        let btf = Btf::vmlinux().map_err(CounterError::Btf)?;
        let layout = Layout::read(&btf).map_err(CounterError::Btf)?;
        let plan = Plan::of(request.events);
        let places = possible_cpus().map_err(CounterError::sys("count the CPUs"))? as u32;
        let cpus = cpu::online().map_err(CounterError::Online)?;
        let rows = cgroups::rows_wanted(hierarchy, request);
        let maps = Maps::make(&plan, rows, places)?;
        maps.open_events(request.events, &cpus, places)?;

        let target = Target {
            layout: &layout,
            plan: &plan,
            cpus: places,
        };
        let flush = load(
            "cgtap_flush",
            None,
            program::flush(&target),
            &maps.of_charge(),
        )?;
        let watch = |name, at, insns, maps: &[&cgtap_sys::bpf::Map]| {
            let prog = load(name, Some((&btf, at)), insns, maps)?;
            let _link = Link::raw_tracepoint(&prog, None)
                .map_err(CounterError::sys("attach the programs that count"))?;
            Ok::<_, CounterError>(Watcher { prog, _link })
        };
        // New cgroups are seen before the old ones are gone through: none is missed between.
        let own_rows = request.per_cgroup.then_some(rows);
        let mut watchers = vec![
            watch(
                "cgtap_mkdir",
                "cgroup_mkdir",
                program::at_mkdir(&layout, own_rows),
                &maps.of_tree(),
            )?,
            watch(
                "cgtap_release",
                "cgroup_release",
                program::at_release(&layout),
                &maps.of_tree()[..1],
            )?,
        ];
        // Without it no CPU can go.
        if tracepoint::raw(&btf, HOTPLUG).is_ok() {
            let control = &maps.of_tree()[1..2];
            watchers.push(watch(
                "cgtap_hotplug",
                HOTPLUG,
                program::at_hotplug(),
                control,
            )?);
        }
        cgroups::place(hierarchy, request, &maps)?;
        watchers.push(watch(
            "cgtap_switch",
            "sched_switch",
            program::at_switch(&target),
            &maps.of_charge(),
        )?);
        watchers.push(watch(
            "cgtap_move",
            "cgroup_attach_task",
            program::at_move(&target),
            &maps.of_charge(),
        )?);
        Ok(Self {
            watchers,
            flush,
            maps,
            plan,
            cpus,
            is_counting: false,
        })
    }

    /// Starts counting.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn begin(&mut self) -> Result<(), CounterError> {
        self.flush_all(true)?;
        self.is_counting = true;
        Ok(())
    }

    /// Ends the turn on each CPU, so that the rows hold all that was counted; how many CPUs are
    /// not there any more.
    fn flush_all(&self, is_counting: bool) -> Result<u64, CounterError> {
        let mut gone = 0;
        for cpu in &self.cpus {
            match self.flush.test_run_on_cpu(*cpu, &[u64::from(is_counting)]) {
                Ok(_) => {}
                Err(e) if e.errno == cgtap_sys::Errno::ENXIO => gone += 1,
                Err(e) => return Err(CounterError::sys("read the counters of a CPU")(e)),
            }
        }
        Ok(gone)
    }

    /// What was counted until now; the last call with `is_last` stops counting.
    fn counts(&self, is_last: bool) -> Result<Counts, CounterError> {
        let gone = if self.is_counting {
            self.flush_all(!is_last)?
        } else {
            0
        };
        let mut missed = 0;
        for watcher in &self.watchers {
            let info = watcher
                .prog
                .info()
                .map_err(CounterError::sys("ask for missed events"))?;
            missed += info.recursion_misses;
        }
        // There is no counter on a CPU that came online since.
        let online = cpu::online().map_err(CounterError::Online)?;
        let came = online.iter().filter(|cpu| !self.cpus.contains(cpu)).count() as u64;
        let word = |at| self.maps.control.get(at);
        Ok(Counts {
            rows: self.maps.read(&self.plan)?,
            lost: gone
                + came
                + missed
                + word(control::UNPLACED)
                + word(control::UNREAD)
                + word(control::WENT)
                + word(control::UNSEEN),
            merged: word(control::MERGED),
        })
    }

    /// What was counted until now; counting goes on.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read(&self) -> Result<Counts, CounterError> {
        self.counts(false)
    }

    /// Stops counting at this moment, on one CPU after the other, and tells what was counted.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn stop(mut self) -> Result<Counts, CounterError> {
        let counts = self.counts(true);
        self.is_counting = false;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::program::turn::{ID, TASK};
    use super::*;

    const TURN: [u8; 4] = [0; 4];

    /// The programs that charge, attached nowhere: their maps are changed by the test alone.
    struct Still {
        flush: Prog,
        at_move: Prog,
        at_switch: Prog,
        maps: Maps,
        turn_bytes: usize,
    }

    impl Still {
        /// Counting on the CPU of this thread, which stays there.
        fn begun() -> Self {
            let cpu = cpu::online().unwrap()[0];
            let mut one = rustix::thread::CpuSet::new();
            one.set(cpu as usize);
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            let events: [CounterEvent; 1] = ["faults".parse().unwrap()];
            let (plan, cpus) = (Plan::of(&events), possible_cpus().unwrap() as u32);
            let maps = Maps::make(&plan, 1, cpus).unwrap();
            maps.open_events(&events, &[cpu], cpus).unwrap();
            let btf = Btf::vmlinux().unwrap();
            let layout = Layout::read(&btf).unwrap();
            let target = Target {
                layout: &layout,
                plan: &plan,
                cpus,
            };
            let of = |name, at, insns| load(name, at, insns, &maps.of_charge()).unwrap();
            let switch = Some((&*btf, "sched_switch"));
            let still = Self {
                flush: of("cgtap_flush", None, program::flush(&target)),
                // Loaded for its tracepoint it could not be run on purpose.
                at_move: of("cgtap_move", None, program::at_move(&target)),
                at_switch: of("cgtap_switch", switch, program::at_switch(&target)),
                turn_bytes: program::turn_bytes(&plan),
                maps,
            };
            still.flush();
            still
        }

        fn flush(&self) {
            self.flush.test_run_raw_tp(&[1]).unwrap();
        }

        fn moves(&self) {
            self.at_move.test_run_raw_tp(&[0]).unwrap();
        }

        /// As if these words of the turn were of another task and cgroup.
        fn forget(&self, words: &[i16]) {
            let turn = &self.maps.of_charge()[program::charge_map::TURN as usize];
            let mut bytes = turn.lookup(&TURN).unwrap().unwrap();
            for of_cpu in bytes.chunks_exact_mut(self.turn_bytes) {
                for word in words {
                    of_cpu[*word as usize..][..8].fill(0xff);
                }
            }
            turn.update(&TURN, &bytes).unwrap();
        }

        fn unseen(&self) -> u64 {
            self.maps.control.get(control::UNSEEN)
        }
    }

    #[test]
    fn a_task_that_leaves_and_was_not_seen_to_begin_is_told() {
        let still = Still::begun();
        still.forget(&[TASK, ID]);
        let _link = Link::raw_tracepoint(&still.at_switch, None).unwrap();
        // It leaves the one CPU where it is counted.
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(still.unseen() > 0);
    }

    #[test]
    fn a_task_that_moves_and_was_not_seen_to_begin_is_told() {
        let still = Still::begun();
        still.moves();
        assert_eq!(still.unseen(), 0);
        // It is in the cgroup whose turn it is, now that it has moved: where it was nobody knows.
        still.forget(&[TASK]);
        still.moves();
        assert_eq!(still.unseen(), 1);
        still.moves();
        assert_eq!(still.unseen(), 1, "it is told once");
    }

    #[test]
    fn a_task_that_was_not_seen_to_begin_is_told_where_counting_ends() {
        let still = Still::begun();
        still.flush();
        assert_eq!(still.unseen(), 0);
        still.forget(&[TASK]);
        still.flush();
        assert_eq!(
            still.unseen(),
            0,
            "what it did is its cgroup's all the same"
        );
        still.forget(&[TASK, ID]);
        still.flush();
        assert_eq!(still.unseen(), 1);
        still.flush();
        assert_eq!(still.unseen(), 1, "it is told once");
    }

    #[test]
    fn what_was_not_seen_before_counting_is_nothing_to_tell() {
        let still = Still::begun();
        still.flush.test_run_raw_tp(&[0]).unwrap();
        still.forget(&[TASK, ID]);
        still.moves();
        still.forget(&[TASK]);
        still.flush();
        assert_eq!(still.unseen(), 0);
    }
}
