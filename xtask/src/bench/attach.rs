//! What attaching costs: the switch alone against a native cgroup attach, and the whole attach
//! against loading and attaching the same object plainly. Wall time: much of it is waiting.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use cgtap::dispatch::switch::Switch;
use cgtap::engine::{AttachRequest, Detach, Engine, ObjectSource};
use cgtap::id::CgroupId;
use cgtap_sys::bpf::{
    AttachType, Link, Prog, ProgSpec, ProgType, attach_cgroup_device, detach_cgroup_device,
    grace_period, load_cgroup_device,
};
use cgtap_sys::libbpf::Object;

use super::measure::Spread;
use super::parts::Bare;
use super::report::{AttachRow, Report};
use crate::Result;
use crate::ground::{self, Ground, reference};

/// Times taken of one operation, in microseconds.
struct Times(Vec<f64>);

impl Times {
    fn take<T>(&mut self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = f()?;
        self.0.push(start.elapsed().as_nanos() as f64 / 1000.0);
        Ok(result)
    }

    fn spread(self) -> Spread {
        Spread::of(self.0)
    }
}

fn row(name: &str, times: Times, against: Option<(&str, Spread)>) -> (AttachRow, Spread) {
    let spread = times.spread();
    let against = against.map(|(what, other)| (what.to_owned(), spread.median / other.median));
    let Spread { q1, median, q3 } = spread;
    (
        AttachRow {
            name: name.to_owned(),
            median_us: median,
            q1,
            q3,
            against,
        },
        spread,
    )
}

/// Measures and reports all of it.
pub fn run(ground: &Ground, report: &mut Report, rounds: usize) -> Result<()> {
    println!("\nattach, {rounds} rounds");
    println!("{:<48}{:>12}{:>18}", "", "us", "quartiles");
    let native = native(ground, report, rounds)?;
    switch(ground, report, rounds, native)?;
    let plain = plain(ground, report, rounds)?;
    whole(ground, report, rounds, plain)
}

/// A native cgroup attach with more and more descendants; the spread of the most.
fn native(ground: &Ground, report: &mut Report, rounds: usize) -> Result<Spread> {
    let dir = ground.cgroup("native")?;
    let prog = load_cgroup_device()?;
    let cgroup = File::open(&dir)?;
    let mut made = 0;
    let mut last = Spread::of(Vec::new());
    for descendants in [10, 1000, 10_000] {
        while made < descendants {
            std::fs::create_dir(dir.join(made.to_string()))?;
            made += 1;
        }
        let mut times = Times(Vec::new());
        for _ in 0..rounds {
            times.take(|| Ok(attach_cgroup_device(&prog, cgroup.as_fd())?))?;
            detach_cgroup_device(&prog, cgroup.as_fd())?;
        }
        let name = format!("native cgroup attach, {descendants} descendants");
        let (row, spread) = row(&name, times, None);
        report.add_attach(row);
        last = spread;
    }
    Ok(last)
}

/// Publishing alone, in a cgroup with as many descendants: nobody asks how many.
fn switch(ground: &Ground, report: &mut Report, rounds: usize, native: Spread) -> Result<()> {
    let id = CgroupId(ground::id(&ground.cgroup("native")?)?);
    for configured in [1u64, 100, 10_000] {
        let bare = Bare::new(&format!("publish{configured}"))?;
        let mut sets: BTreeMap<CgroupId, u16> = (0..configured - 1)
            .map(|n| (CgroupId(1 << 40 | n), 1))
            .collect();
        let (mut publish, mut whole) = (Times(Vec::new()), Times(Vec::new()));
        for round in 0..rounds {
            sets.insert(id, 1 + (round % 2) as u16);
            whole.take(|| {
                publish.take(|| Ok(bare.switch.publish(&sets)?))?;
                settle(&bare.switch)
            })?;
        }
        // The first one filled the table.
        publish.0.remove(0);
        let against = Some(("native, 10000 descendants", native));
        report.add_attach(
            row(
                &format!("switch, {configured} configured"),
                publish,
                against,
            )
            .0,
        );
        let name = format!("switch and grace period, {configured} configured");
        report.add_attach(row(&name, whole, against).0);
    }
    Ok(())
}

fn settle(switch: &Switch) -> Result<()> {
    grace_period()?;
    switch.settle();
    Ok(())
}

/// What libbpf does for a program of its own: open, relocate, make the maps, load, attach.
fn load_and_attach(object: &Path) -> Result<(Prog, Link)> {
    let mut object = Object::open(std::fs::read(object)?, "plain")?;
    object.prepare()?;
    let prepared = object.prepared(0).ok_or("the object has no program")?;
    let prog = Prog::load(&ProgSpec {
        name: "plain",
        prog_type: ProgType::RawTracepoint,
        attach_type: AttachType::None,
        flags: 0,
        license: "GPL",
        kern_version: 0,
        insns: &prepared.insns,
        maps: &[],
        btf: None,
        func_info: &[],
        line_info: &[],
        attach_btf_id: 0,
        attach_btf: None,
    })?;
    let link = Link::raw_tracepoint(&prog, Some("sys_enter"))?;
    Ok((prog, link))
}

fn plain(ground: &Ground, report: &mut Report, rounds: usize) -> Result<Spread> {
    let object = ground.compile("count")?;
    let mut times = Times(Vec::new());
    for _ in 0..rounds {
        drop(times.take(|| load_and_attach(&object))?);
        pause();
    }
    let (row, spread) = row("plain load and attach", times, None);
    report.add_attach(row);
    Ok(spread)
}

/// The kernel frees what was attached before in the background: not in the next one's time.
fn pause() {
    std::thread::sleep(Duration::from_millis(30));
}

fn request(ground: &Ground, cgroup: &str, source: ObjectSource) -> Result<AttachRequest> {
    Ok(AttachRequest::new(
        reference(&ground.cgroup(cgroup)?),
        source,
    ))
}

/// The whole attach and detach, in a new state and in one where the hook is there already.
fn whole(ground: &Ground, report: &mut Report, rounds: usize, plain: Spread) -> Result<()> {
    let path = ground.compile("count")?;
    let file = || ObjectSource::File {
        path: path.clone(),
        set: Vec::new(),
    };
    let against = Some(("plain load and attach", plain));
    let mut add = |name: &str, times| report.add_attach(row(name, times, against).0);

    let (engine, _) = ground.engine()?;
    let (mut first, mut last) = (Times(Vec::new()), Times(Vec::new()));
    for _ in 0..rounds {
        let request = request(ground, "attach/a", file())?;
        first.take(|| Ok(engine.attach(request)?))?;
        pause();
        last.take(|| Ok(engine.detach(&Detach::All)?))?;
        pause();
    }
    add("attach, no state yet", first);
    add("detach --all", last);

    let (engine, _) = ground.engine()?;
    for configured in [1, 100] {
        for number in usize::from(configured == 100)..configured {
            engine.attach(request(ground, &format!("containers/{number}"), file())?)?;
        }
        let (on, off) = in_place(ground, &engine, rounds, &file)?;
        add(&format!("attach, {configured} cgroups attached to"), on);
        add(&format!("detach, {configured} cgroups attached to"), off);
    }
    let known = engine
        .attach(request(ground, "attach/known", file())?)?
        .instance;
    let (on, _) = in_place(ground, &engine, rounds, &|| ObjectSource::Instance(known))?;
    add("attach a loaded instance, 100 attached to", on);
    Ok(())
}

fn in_place(
    ground: &Ground,
    engine: &Engine,
    rounds: usize,
    source: &dyn Fn() -> ObjectSource,
) -> Result<(Times, Times)> {
    let (mut on, mut off) = (Times(Vec::new()), Times(Vec::new()));
    for _ in 0..rounds {
        let request = request(ground, "attach/b", source())?;
        let report = on.take(|| Ok(engine.attach(request)?))?;
        let ids = report.attachments.iter().map(|a| a.id).collect();
        pause();
        off.take(|| Ok(engine.detach(&Detach::Ids(ids))?))?;
        pause();
    }
    Ok((on, off))
}
