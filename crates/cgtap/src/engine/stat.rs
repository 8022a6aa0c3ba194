//! Counting: hooks by a generated program on the same lists as any other, perf events by one
//! counter a CPU. One call counts both and tells of both in one report.

mod hooks;
mod meters;
mod table;

use std::time::Instant;

use self::hooks::Hooks;
use self::meters::Meters;
use self::table::Table;
use super::Engine;
use super::error::Result;
use super::report::StatReport;
use super::request::{StatEvent, StatRequest};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::counter::{self, CounterEvent, Counters};
use crate::hook::HookSpec;
use crate::kernel;

/// Counting that is under way. It goes with this value, or with the process.
#[derive(Debug)]
pub struct Stat {
    hierarchy: Hierarchy,
    request: StatRequest,
    cgroups: Vec<Cgroup>,
    hooks: Hooks,
    meters: Meters,
    /// Perf events, if any were asked for.
    counters: Option<Counters>,
    started: Instant,
}

impl Engine {
    /// Starts counting. The counters go with the returned value, or with this process.
    ///
    /// # Errors
    /// [`Error`](super::Error) as [`Engine::attach`], and for a perf event that this machine does
    /// not have.
    pub fn stat(&self, request: StatRequest) -> Result<Stat> {
        let _kept = kernel::keep();
        let hierarchy = self.hierarchy()?;
        let mut cgroups = Vec::new();
        for reference in &request.cgroups {
            cgroups.push(super::find_cgroup(&hierarchy, reference)?);
        }
        let (mut specs, mut events): (Vec<HookSpec>, Vec<CounterEvent>) = Default::default();
        let mut meters = Vec::new();
        for event in &request.events {
            match event {
                StatEvent::Hook(spec) => specs.push(spec.clone()),
                StatEvent::Counter(event) => events.push(event.clone()),
                StatEvent::Meter(event) => meters.push(event.meter()),
            }
        }
        let wanted = counter::Request {
            cgroups: &cgroups,
            events: &events,
            per_cgroup: request.per_cgroup,
        };
        // What takes long comes first: hooks and perf events begin within little time.
        let mut counters = if events.is_empty() {
            None
        } else {
            Some(Counters::open(&hierarchy, &wanted)?)
        };
        let meters = Meters::start(self, &request.cgroups, &meters)?;
        let hooks = Hooks::start(self, &request.cgroups, specs, request.per_cgroup)?;
        if let Some(counters) = &mut counters {
            counters.begin()?;
        }
        Ok(Stat {
            hierarchy,
            cgroups,
            hooks,
            meters,
            request,
            counters,
            started: Instant::now(),
        })
    }
}

impl Stat {
    /// The counts since the start.
    ///
    /// # Errors
    /// [`Error`](super::Error) if the state cannot be read, or the counters.
    pub fn read(&self) -> Result<StatReport> {
        let seconds = self.started.elapsed().as_secs_f64();
        let counters = self.counters.as_ref().map(Counters::read).transpose()?;
        self.report(seconds, counters)
    }

    fn report(&self, seconds: f64, counters: Option<counter::Counts>) -> Result<StatReport> {
        let (hooks, mut lost) = self.hooks.read()?;
        let meters = self.meters.read()?.map(|(table, missed)| {
            lost += missed;
            table
        });
        let table = Table::new(
            &self.request,
            &self.cgroups,
            &hooks,
            meters.as_ref(),
            counters.as_ref(),
        );
        let mut rows = Vec::new();
        for at in 0..self.cgroups.len() {
            if self.request.per_cgroup {
                table.per_cgroup(&self.hierarchy, at, &mut rows);
            } else {
                rows.push(table.total(at));
            }
        }
        Ok(StatReport {
            seconds,
            cgroups: rows,
            lost: lost + counters.as_ref().map_or(0, |c| c.lost),
            merged: counters.as_ref().map_or(0, |c| c.merged),
        })
    }

    /// Stops counting and returns the last counts.
    ///
    /// # Errors
    /// [`Error`](super::Error) if the state cannot be read or changed.
    pub fn finish(mut self) -> Result<StatReport> {
        let seconds = self.started.elapsed().as_secs_f64();
        let counters = self.counters.take().map(Counters::stop).transpose()?;
        let report = self.report(seconds, counters);
        self.hooks.stop()?;
        self.meters.stop()?;
        report
    }
}
