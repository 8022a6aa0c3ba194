//! What meters read, each source once, and whose it is.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cgtap_sys::Errno;

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::Session;
use super::super::usage;
use crate::cgroup::{self, Cgroup};
use crate::id::CgroupId;
use crate::kernel::pretend;
use crate::meter::record::MeterRecord;
use crate::meter::shape::client::IDENTITY;
use crate::meter::source::Source;
use crate::source::feed::Known;
use crate::source::nvml::{self, Clock, Whose};
use crate::source::proc::{self, Scan};
use crate::source::{Key, Reading, fdinfo_readings, key};

/// How old samples may be that are asked of a GPU of which none were read.
const RECENT_US: u64 = 5_000_000;

/// The reading before.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    /// What is known of it.
    pub(super) known: &'a BTreeMap<Key, Known>,
    /// When it was, in nanoseconds since boot; 0 if there was none.
    pub(super) at_ns: u64,
}

/// What was read of a source.
pub(super) struct Read {
    pub(super) readings: Vec<Reading>,
    /// Everything could be looked at.
    pub(super) is_whole: bool,
}

/// What was read, each source once.
#[derive(Default)]
pub(super) struct Sources {
    files: Option<Scan>,
}

impl Sources {
    pub(super) fn read(
        &mut self,
        source: Source,
        meter: &MeterRecord,
        before: Before<'_>,
        cgroups: &mut Cgroups<'_>,
        unread: &mut Vec<String>,
    ) -> Result<Read> {
        let values: Vec<&str> = meter.values.iter().map(|v| v.name.as_str()).collect();
        match source {
            Source::FdinfoEngines | Source::FdinfoMemory => {
                let scan = self.files(unread)?;
                let of_path = |path: &Path| cgroups.id(path);
                Ok(Read {
                    readings: fdinfo_readings(scan, source, &values, of_path),
                    is_whole: scan.refused == 0,
                })
            }
            Source::Nvml => Ok(Read {
                readings: nvml_readings(&values, before, cgroups, unread)?,
                is_whole: true,
            }),
        }
    }

    fn files(&mut self, unread: &mut Vec<String>) -> Result<&Scan> {
        if self.files.is_none() {
            let root = pretend::root();
            let scan = crate::source::proc::scan(&root).map_err(|e| {
                Error::new(
                    ErrorKind::Kernel,
                    format!(
                        "cannot list the processes in {}: {e}",
                        root.join("proc").display()
                    ),
                )
            })?;
            if scan.refused > 0 {
                unread.push(format!(
                    "the open files of some processes may not be looked at ({} of them), and what is held \
                     stays as it was last known; that takes root with CAP_SYS_PTRACE",
                    scan.refused
                ));
            }
            if scan.nameless > 0 {
                unread.push(format!(
                    "drivers of GPUs that do not say which client an open file is cannot be read ({} files)",
                    scan.nameless
                ));
            }
            self.files = Some(scan);
        }
        let none = || Error::new(ErrorKind::Kernel, "the processes were not read");
        self.files.as_ref().ok_or_else(none)
    }
}

fn nvml_readings(
    values: &[&str],
    before: Before<'_>,
    cgroups: &mut Cgroups<'_>,
    unread: &mut Vec<String>,
) -> Result<Vec<Reading>> {
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let clock = Clock {
        now_us: epoch.unwrap_or_default().as_micros() as u64,
        now_ns: usage::now().as_nanos() as u64,
    };
    let busy = values.iter().position(|value| *value == "busy");
    let last_us = |gpu: &str| {
        let labels = &key([0; IDENTITY], &[gpu])[IDENTITY..];
        let known = before
            .known
            .iter()
            .filter(|(key, _)| &key[IDENTITY..] == labels);
        let last = known.filter_map(|(_, known)| known.last.get(busy?).copied());
        last.max().unwrap_or(0) / 1_000
    };
    // Of one that nothing is known of, what was sampled a moment ago is enough.
    let since_us = |gpu: &str| match last_us(gpu) {
        0 => clock.now_us.saturating_sub(RECENT_US),
        last => last,
    };
    let gpus = nvml::read(since_us)
        .map_err(|why| Error::new(ErrorKind::Unsupported, why).with_errno(Errno::ENODEV))?;
    for gpu in &gpus {
        if let Some(why) = &gpu.unsampled {
            unread.push(format!(
                "utilisation of the GPU {} is not told: {why}",
                gpu.name
            ));
        }
    }
    let whose = |pid| cgroups.whose(pid);
    Ok(nvml::readings(
        &gpus,
        values,
        clock,
        before.at_ns,
        last_us,
        whose,
    ))
}

/// Ids of the cgroups that are charged, by the paths that processes tell.
pub(super) struct Cgroups<'a> {
    session: &'a Session,
    /// Where the meter counts.
    top: Option<Cgroup>,
    known: HashMap<PathBuf, CgroupId>,
}

impl<'a> Cgroups<'a> {
    pub(super) fn new(session: &'a Session, top: CgroupId) -> Self {
        Self {
            session,
            top: session.hierarchy.by_id(top).ok(),
            known: HashMap::new(),
        }
    }

    /// The cgroup of a path that /proc told; 0 for one that is gone, or where the meter does not count.
    fn id(&mut self, path: &Path) -> CgroupId {
        if let Some(known) = self.known.get(path) {
            return *known;
        }
        let found = self.session.hierarchy.by_told(path).ok();
        let counts = |found: &Cgroup| {
            self.top
                .as_ref()
                .is_some_and(|top| found.id == top.id || found.ancestors.contains(&top.id))
        };
        let id = found.filter(counts).map_or(CgroupId(0), |found| found.id);
        self.known.insert(path.to_owned(), id);
        id
    }
}

impl Cgroups<'_> {
    /// Whose a process is; none if it is not there any more.
    fn whose(&mut self, pid: u32) -> Option<Whose> {
        let dir = pretend::root().join("proc").join(pid.to_string());
        let ticks = proc::started(&dir).ok()?;
        let path = cgroup::of_process(&dir).ok()?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Some(Whose {
            cgroup: self.id(&path),
            started_ns: ticks.saturating_mul(1_000_000_000 / per_second),
        })
    }
}
