//! A policy file, looked at: its words are meters, values and amounts, and errors have its lines.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use cgtap::cgroup::pattern::Pattern;
use cgtap::engine::{CgroupRef, Engine, ErrorKind, LimitRequest, PatternRequest, show_action};
use cgtap::id::CgroupId;
use cgtap::meter::library::{Known, Library, Source};
use cgtap::meter::usage::Unit;
use cgtap::meter::{file, written::Meter};
use cgtap::policy::{self, PolicyLimit, PolicyMeter, Said, Which};

use super::super::limit::{self, Written};
use super::difference::{Difference, Reach, Stand, Wanted, WantedMeter};
use crate::cli::cgroup_ref;
use crate::failure::Failure;
use crate::render;

/// What a cgroup is that a policy names and that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// An error.
    Refused,
    /// One that went since; it is limited again when it comes again.
    Skipped,
}

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    path: PathBuf,
    meters: Vec<MeterOf>,
    limits: Vec<LimitOf>,
    wrong: Vec<String>,
}

#[derive(Clone, Debug)]
struct MeterOf {
    line: usize,
    meter: Meter,
    cgroup: CgroupRef,
}

#[derive(Clone, Debug)]
struct LimitOf {
    line: usize,
    written: String,
    of: Of,
    // Its cgroup is written when it is known.
    request: LimitRequest,
    meter: String,
    stand: Stand,
}

#[derive(Clone, Debug)]
enum Of {
    Cgroup(CgroupRef),
    Pattern(Pattern),
}

/// What is limited at a cgroup: a value, and labels.
pub type Key = (CgroupId, String, BTreeMap<String, String>);

impl LimitOf {
    /// What is asked of cgroups that come later.
    fn later(&self) -> Option<PatternRequest> {
        match &self.of {
            Of::Cgroup(_) => None,
            Of::Pattern(pattern) => Some(PatternRequest {
                pattern: pattern.clone(),
                limit: self.request.clone(),
            }),
        }
    }
}

impl Policy {
    /// Reads the policy at `path`, with the meters of the directory `meters`.
    ///
    /// # Errors
    /// [`Failure`] with the line: what is no policy, and what this kernel lacks.
    pub fn read(engine: &Engine, meters: &Path, path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::system(format!("cannot read the policy {name}"), e))?;
        let text = policy::parse(&name, &text).map_err(|e| Failure::Usage(e.to_string()))?;
        let mut library = Library::load(meters);
        let mut policy = Self {
            path: path.to_owned(),
            meters: Vec::new(),
            limits: Vec::new(),
            wrong: library.wrong.iter().map(ToString::to_string).collect(),
        };
        for meter in &text.meters {
            let meter = policy.meter(&mut library, meter)?;
            policy.meters.push(meter);
        }
        for limit in &text.limits {
            let limit = policy.limit(engine, &library, limit)?;
            policy.limits.push(limit);
        }
        Ok(policy)
    }

    /// What is wrong with meter files that it does not name.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// A failure that is about `line` of it; 0 if about no single one.
    pub fn at(&self, line: usize, failure: Failure) -> Failure {
        super::at(&self.path, line, failure)
    }

    fn place(&self, line: usize) -> String {
        policy::place(&self.path.display().to_string(), line)
    }

    fn usage(&self, line: usize) -> impl Fn(String) -> Failure {
        let place = self.place(line);
        move |why| Failure::Usage(format!("{place}: {why}"))
    }

    fn meter(&self, library: &mut Library, entry: &PolicyMeter) -> Result<MeterOf, Failure> {
        let Said { text, line } = entry.which.said();
        let meter = match &entry.which {
            Which::Name(_) => {
                let found = library.find(text).map(|k| k.meter.clone());
                found.ok_or_else(|| {
                    let names: Vec<String> = library
                        .meters
                        .iter()
                        .map(|k| k.meter.name.clone())
                        .collect();
                    let hint = cgtap::near::hint(text, &names);
                    self.usage(*line)(format!(
                        "there is no meter {text}{hint}; `cgtap meter list` shows those there are"
                    ))
                })?
            }
            Which::File(_) => {
                let path = self.path.parent().unwrap_or(Path::new("")).join(text);
                self.file(library, &path, *line)?
            }
        };
        let same = |other: &&MeterOf| other.meter.name == meter.name;
        if let Some(other) = self.meters.iter().find(same) {
            return Err(self.usage(*line)(format!(
                "the meter {} is named on line {} too; keep one of the two",
                meter.name, other.line
            )));
        }
        let root = || Ok(CgroupRef::Path("/".into()));
        let cgroup = entry.cgroup.as_ref().map(|said| self.cgroup(said));
        Ok(MeterOf {
            line: *line,
            meter,
            cgroup: cgroup.unwrap_or_else(root)?,
        })
    }

    /// The meter of a file, which limits may then name too.
    fn file(&self, library: &mut Library, path: &Path, line: usize) -> Result<Meter, Failure> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::system(format!("{}: cannot read {name}", self.place(line)), e))?;
        let meter = file::parse(&name, &text).map_err(|e| self.usage(line)(e.to_string()))?;
        match library.find(&meter.name) {
            Some(known) if known.text == text => {}
            Some(_) => {
                return Err(self.usage(line)(format!(
                    "there is another meter {} without this file; give this one another name",
                    meter.name
                )));
            }
            None => library.meters.push(Known {
                meter: meter.clone(),
                source: Source::File(path.to_owned()),
                text,
            }),
        }
        Ok(meter)
    }

    fn cgroup(&self, said: &Said) -> Result<CgroupRef, Failure> {
        match cgroup_ref(&said.text).map_err(self.usage(said.line))? {
            CgroupRef::Pid(_) => Err(self.usage(said.line)(
                "a process is gone before its policy is; name its cgroup".to_owned(),
            )),
            cgroup => Ok(cgroup),
        }
    }

    fn limit(
        &self,
        engine: &Engine,
        library: &Library,
        entry: &PolicyLimit,
    ) -> Result<LimitOf, Failure> {
        let line = entry.cgroup.line;
        let of = match Pattern::of(&entry.cgroup.text).map_err(self.usage(line))? {
            Some(pattern) => Of::Pattern(pattern),
            None => Of::Cgroup(self.cgroup(&entry.cgroup)?),
        };
        // Each word by itself first: what is wrong is on its line.
        limit::value(library, &entry.meter.text).map_err(self.usage(entry.meter.line))?;
        if let Some(on) = &entry.on {
            limit::action(&on.text).map_err(self.usage(on.line))?;
        }
        let mut written = Written {
            cgroup: CgroupRef::Path("/".into()),
            meter: &entry.meter.text,
            amount: &entry.amount.text,
            burst: None,
            on: entry.on.as_ref().map(|on| on.text.as_str()),
            force: entry.force,
            borrow: entry.borrow,
        };
        limit::request(library, &written).map_err(self.usage(entry.amount.line))?;
        written.burst = entry.burst.as_ref().map(|b| b.text.as_str());
        let burst_line = entry.burst.as_ref().map_or(line, |b| b.line);
        let mut request = limit::request(library, &written).map_err(self.usage(burst_line))?;
        let action = engine
            .check_limit(&request)
            .map_err(|e| self.at(entry.meter.line, e.into()))?;
        request.action = Some(action);
        request.policy = true;
        let values = &request.meter.meter.values;
        let unit = values.iter().find(|v| v.name == request.value);
        let stand = Stand {
            unit: unit.map_or(Unit::default(), |v| v.unit),
            amount: request.amount,
            period_ns: request.period_ns(),
            burst: request.burst_or_amount(),
            on: show_action(action),
            borrow: request.borrow,
        };
        Ok(LimitOf {
            line,
            written: entry.cgroup.text.clone(),
            of,
            meter: request.value_name(),
            request,
            stand,
        })
    }

    /// What it takes to make meters and limits so.
    ///
    /// # Errors
    /// [`Failure`] with the line: a cgroup that is not there, a value limited twice; or the state
    /// cannot be read.
    pub fn difference(&self, engine: &Engine, absent: Absent) -> Result<Difference, Failure> {
        let mut difference = Difference::default();
        self.wanted_meters(engine, absent, &mut difference)?;
        let obstacles: Vec<Option<String>> = (self.limits.iter())
            .map(|limit| limit.later()?.obstacle(engine))
            .collect();
        let wanted = self.wanted_limits(engine, absent, &obstacles, &mut difference.reach)?;
        let followed = (self.limits.iter().zip(&obstacles))
            .filter(|(_, obstacle)| obstacle.is_none())
            .filter_map(|(limit, _)| Some((limit.later()?, limit.stand.clone())))
            .collect();
        let make = |wanted: &Wanted| LimitRequest {
            cgroup: CgroupRef::Id(wanted.id),
            ..self.limits[wanted.entry].request.clone()
        };
        difference.compare(&wanted, &engine.limits(None)?, make);
        difference.follow(followed, &engine.patterns()?);
        Ok(difference)
    }

    /// It has patterns.
    pub fn follows(&self) -> bool {
        self.limits.iter().any(|l| matches!(l.of, Of::Pattern(_)))
    }

    /// The meters that do not count yet.
    fn wanted_meters(
        &self,
        engine: &Engine,
        absent: Absent,
        difference: &mut Difference,
    ) -> Result<(), Failure> {
        let enabled = engine.meters()?;
        for entry in &self.meters {
            let found = match engine.cgroup(&entry.cgroup) {
                Ok(found) => found,
                Err(e) if is_absent(&e, absent) => continue,
                Err(e) => return Err(self.at(entry.line, e.into())),
            };
            let name = &entry.meter.name;
            // One whose cgroup is gone gives way.
            match enabled.iter().find(|m| m.name == *name && !m.is_gone) {
                Some(there) if there.cgroup == found.path => difference.kept += 1,
                Some(there) => {
                    return Err(self.usage(entry.line)(format!(
                        "the meter {name} counts for {} and not for {}; `cgtap meter disable {name}` \
                         lets it begin anew, or write that cgroup here",
                        there.cgroup, found.path
                    )));
                }
                None => {
                    engine
                        .check_meter(&entry.meter)
                        .map_err(|e| self.at(entry.line, e.into()))?;
                    difference.enable(WantedMeter {
                        meter: entry.meter.clone(),
                        id: found.id,
                        path: found.path,
                    });
                }
            }
        }
        Ok(())
    }

    /// The limits that are to be, cgroup by cgroup; `obstacles` says of each limit of the file why what
    /// comes later is not held by itself.
    fn wanted_limits(
        &self,
        engine: &Engine,
        absent: Absent,
        obstacles: &[Option<String>],
        reach: &mut Vec<Reach>,
    ) -> Result<BTreeMap<Key, Wanted>, Failure> {
        let mut all: BTreeMap<Key, Wanted> = BTreeMap::new();
        // What is said of a cgroup itself counts before what is said of many.
        for is_exact in [true, false] {
            for (at, (entry, obstacle)) in self.limits.iter().zip(obstacles).enumerate() {
                let found: Vec<(CgroupId, String)> = match &entry.of {
                    Of::Cgroup(cgroup) if is_exact => match engine.limitable(cgroup) {
                        Ok(found) => vec![(found.id, found.path)],
                        Err(e) if is_absent(&e, absent) => Vec::new(),
                        Err(e) => return Err(self.at(entry.line, e.into())),
                    },
                    Of::Pattern(pattern) if !is_exact => {
                        let found = engine.matching(pattern)?;
                        found.into_iter().map(|f| (f.id, f.path)).collect()
                    }
                    _ => continue,
                };
                reach.push(Reach {
                    place: self.place(entry.line),
                    written: entry.written.clone(),
                    matches: (!is_exact).then_some(found.len()),
                    obstacle: obstacle.clone(),
                    line: entry.line,
                });
                for (id, path) in found {
                    let key = (id, entry.meter.clone(), entry.request.labels.clone());
                    let wanted = Wanted {
                        id,
                        path,
                        entry: at,
                        is_exact,
                        covers_later: obstacle.is_none(),
                        stand: entry.stand.clone(),
                    };
                    self.want(&mut all, key, wanted)?;
                }
            }
        }
        reach.sort_by_key(|r| r.line);
        Ok(all)
    }

    fn want(
        &self,
        all: &mut BTreeMap<Key, Wanted>,
        key: Key,
        wanted: Wanted,
    ) -> Result<(), Failure> {
        match all.entry(key) {
            Entry::Vacant(new) => {
                new.insert(wanted);
                Ok(())
            }
            Entry::Occupied(other) if other.get().is_exact != wanted.is_exact => Ok(()),
            Entry::Occupied(other) => {
                let (_, meter, labels) = other.key();
                Err(self.usage(self.limits[wanted.entry].line)(format!(
                    "{} of {} is limited on line {} too; keep one of the two",
                    render::limited(meter, labels),
                    wanted.path,
                    self.limits[other.get().entry].line,
                )))
            }
        }
    }
}

/// A cgroup that is gone, where that may be.
fn is_absent(error: &cgtap::engine::Error, absent: Absent) -> bool {
    absent == Absent::Skipped
        && error.kind() == ErrorKind::Cgroup
        && error.errno() == Some(cgtap_sys::Errno::ENOENT)
}
