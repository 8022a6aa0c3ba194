//! `cgtap demo`: the main job on real input, with its own numbers checked.

mod check;
mod crew;
mod events;
mod show;
mod stage;
pub mod worker;

use std::time::{Duration, Instant};

use cgtap::engine::{CgroupRef, Engine, ListRequest, Stat, StatReport};

use self::check::Check;
use self::crew::Worker;
use self::events::Event;
use self::show::{Place, Show};
use self::stage::{Directory, Stage};
use self::worker::Work;
use super::Context;
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;

/// The cgroups below the topmost one, parents first.
const CGROUPS: [&str; 6] = [
    "tenant-a",
    "tenant-a/job1",
    "tenant-a/job2",
    "tenant-b",
    "tenant-b/job1",
    "tenant-b/job2",
];

/// Who works where from the beginning.
const PLACES: [Place; 4] = [
    place("tenant-a/job1", Work::Files),
    place("tenant-a/job2", Work::Forks),
    place("tenant-b/job1", Work::Spin),
    place("tenant-b/job2", Work::Sleep),
];

/// Who comes later, into a cgroup that is made for it.
const LATE: Place = place("tenant-b/late", Work::Calls);

/// Where more counting programs are attached than those at the top, and what they count. They
/// know nothing of each other.
const BELOW: [(&str, &[Event]); 2] = [
    ("tenant-a", &[Event::Calls, Event::Writes]),
    ("tenant-a/job1", &[Event::Writes]),
];

/// When the late one comes, and how long all may take.
const LATE_AFTER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the counts are shown: on a terminal, as JSON, and in a pipe.
const LIVE_EVERY: Duration = Duration::from_millis(250);
const JSON_EVERY: Duration = Duration::from_millis(500);
const PIPE_EVERY: Duration = Duration::from_millis(1900);

const GLANCE: Duration = Duration::from_millis(25);

/// What a task does to the counts while it goes to sleep, it has done by then.
const SETTLING: Duration = Duration::from_millis(50);

const fn place(cgroup: &'static str, work: Work) -> Place {
    Place { cgroup, work }
}

/// Runs the demo. What it makes outside of this process goes when the values go that stand for
/// it, in the reverse of the order below, whether it comes to its end or not.
pub fn run(context: &Context) -> Result<Status, Failure> {
    let begun = Instant::now();
    let interrupt = Interrupt::noted()?;
    let mut context = context.clone();
    let own_state = (!context.state_named).then(Directory::for_state);
    if let Some(state) = &own_state {
        context.options.state = state.path().to_owned();
    }
    let engine = context.engine()?;
    let mount = engine.cgroup_root()?;
    stage::sweep(&mount);
    let files = Directory::for_files()?;
    let mut stage = Stage::make(&mount)?;
    for cgroup in CGROUPS {
        stage.make_cgroup(cgroup)?;
    }
    let mut show = Show::new(&context, stage::name());
    let mut workers = Vec::new();
    for place in PLACES {
        interrupt.check()?;
        workers.push(start(place, &stage, &files)?);
    }
    show.cgroups(&stage.directory(""), &PLACES)?;

    let counters = Counters::attach(&engine, &stage, &context)?;
    let tree = engine.tree(Some(&cgroup(&stage, "")))?;
    show.attached(&tree)?;

    interrupt.check()?;
    show.work_begins()?;
    for worker in &mut workers {
        worker.go()?;
    }
    let mut watch = Watch {
        show: &mut show,
        counters: &counters,
        interrupt: &interrupt,
        json: context.json,
    };
    watch.until_late(&mut workers, &mut stage, &files)?;
    watch.until_done(&mut workers)?;
    std::thread::sleep(SETTLING);

    let counts = counters.finish()?;
    let checks = counts.check(&workers);
    show.counts(&counts.top, &names(), &counts.events)?;
    show.checks(&checks)?;
    show.detached(attachments_left(&engine, &stage)?)?;
    show.done(&checks, begun.elapsed().as_secs_f64())?;
    verdict(&checks, counts.lost())
}

fn verdict(checks: &[Check], lost: u64) -> Result<Status, Failure> {
    let wrong = checks.iter().filter(|check| !check.ok).count();
    match (checks.len(), wrong) {
        (0, _) => Err(Failure::Bad("nothing was counted".to_owned())),
        (_, 0) => Ok(Status::DONE),
        (all, wrong) => Err(Failure::Bad(format!(
            "{wrong} of {all} numbers are not what was done; {lost} events were reported lost"
        ))),
    }
}

fn start(place: Place, stage: &Stage, files: &Directory) -> Result<Worker, Failure> {
    let directory = stage.directory(place.cgroup);
    let file = files.path().join(place.cgroup.replace('/', "-"));
    Worker::start(place.work, place.cgroup, &directory, &file)
}

fn cgroup(stage: &Stage, name: &str) -> CgroupRef {
    CgroupRef::Path(stage.directory(name))
}

/// Every cgroup that is shown, in the order of the tree.
fn names() -> Vec<&'static str> {
    let mut names = vec![""];
    names.extend(CGROUPS);
    names.push(LATE.cgroup);
    names
}

fn attachments_left(engine: &Engine, stage: &Stage) -> Result<usize, Failure> {
    let lists = engine.list(&ListRequest {
        cgroup: Some(cgroup(stage, "")),
        recursive: true,
        ..ListRequest::default()
    })?;
    Ok(lists.iter().map(|list| list.attachments.len()).sum())
}

/// The counting programs.
struct Counters {
    /// What is counted at the top, for each cgroup below by itself.
    events: Vec<Event>,
    top: Stat,
    /// What is counted further down, and where.
    below: Vec<(&'static str, Vec<Event>, Stat)>,
}

/// What they counted.
struct Counts {
    events: Vec<Event>,
    top: StatReport,
    below: Vec<(&'static str, Vec<Event>, StatReport)>,
}

impl Counters {
    fn attach(engine: &Engine, stage: &Stage, context: &Context) -> Result<Self, Failure> {
        let (top, all, missing) = events::count_all(engine, &cgroup(stage, ""), true)?;
        for missing in missing {
            context.teller.note(&missing);
        }
        let mut below = Vec::new();
        for (name, events) in BELOW {
            let mut events = events.to_vec();
            events.retain(|event| all.contains(event));
            if !events.is_empty() {
                let stat = events::count(engine, cgroup(stage, name), &events, false)?;
                below.push((name, events, stat));
            }
        }
        Ok(Self {
            events: all,
            top,
            below,
        })
    }

    fn finish(self) -> Result<Counts, Failure> {
        let mut below = Vec::new();
        for (name, events, stat) in self.below {
            below.push((name, events, stat.finish()?));
        }
        Ok(Counts {
            events: self.events,
            top: self.top.finish()?,
            below,
        })
    }
}

impl Counts {
    fn lost(&self) -> u64 {
        let below = self.below.iter().map(|(_, _, report)| report.lost);
        self.top.lost + below.sum::<u64>()
    }

    fn check(&self, workers: &[Worker]) -> Vec<Check> {
        let demo = stage::name();
        let row = |name: &str| check::row(&self.top, &demo, name);
        let mut checks = Vec::new();
        for worker in workers {
            if let Some(row) = row(&worker.cgroup) {
                let promise = worker.work.promise();
                checks.extend(check::promises(&worker.cgroup, promise, row, &self.events));
            }
        }
        if let Some(top) = row("") {
            checks.extend(check::sum(&self.top, top, &self.events));
        }
        for (name, events, report) in &self.below {
            if let (Some(top), Some(own)) = (row(name), check::row(report, &demo, name)) {
                let top = (top, self.events.as_slice());
                checks.extend(check::agreement(name, top, (own, events)));
            }
        }
        let reported = self.lost();
        let checks = checks.into_iter();
        checks.map(|check| check.but_for(reported)).collect()
    }
}

/// Showing the counts while the work runs.
struct Watch<'w, 'c> {
    show: &'w mut Show<'c>,
    counters: &'w Counters,
    interrupt: &'w Interrupt,
    json: bool,
}

impl Watch<'_, '_> {
    /// Until the late one has come, in a cgroup that was not there when the programs were
    /// attached: its first event is to be counted.
    fn until_late(
        &mut self,
        workers: &mut Vec<Worker>,
        stage: &mut Stage,
        files: &Directory,
    ) -> Result<(), Failure> {
        self.watch(Some(Instant::now() + LATE_AFTER), workers)?;
        stage.make_cgroup(LATE.cgroup)?;
        let mut late = start(LATE, stage, files)?;
        self.show.created(LATE.cgroup, LATE.work)?;
        late.go()?;
        workers.push(late);
        Ok(())
    }

    /// Until everybody has done their work.
    fn until_done(&mut self, workers: &mut [Worker]) -> Result<(), Failure> {
        self.watch(None, workers)
    }

    /// Until `end`, or until all are done.
    fn watch(&mut self, end: Option<Instant>, workers: &mut [Worker]) -> Result<(), Failure> {
        let every = match (self.json, self.show.is_live()) {
            (true, _) => JSON_EVERY,
            (false, true) => LIVE_EVERY,
            (false, false) => PIPE_EVERY,
        };
        let begun = Instant::now();
        let mut shown = begun;
        loop {
            self.interrupt.check()?;
            if end.is_some_and(|end| Instant::now() >= end) || all_done(workers)? {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(Failure::Bad("the work does not come to its end".to_owned()));
            }
            if shown.elapsed() >= every {
                shown = Instant::now();
                let report = self.counters.top.read()?;
                self.show.counts(&report, &names(), &self.counters.events)?;
            }
            std::thread::sleep(GLANCE);
        }
    }
}

fn all_done(workers: &mut [Worker]) -> Result<bool, Failure> {
    for worker in workers {
        if !worker.is_done()? {
            return Ok(false);
        }
    }
    Ok(true)
}
