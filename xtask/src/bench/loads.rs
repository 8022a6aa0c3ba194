//! What the meters that people leave enabled cost whole loads: the CPU time of a cgroup that does the
//! same work with them and without, in turn. Beside them, what empty programs at the same hooks cost:
//! nothing that counts there can cost less.

use std::path::Path;
use std::process::Stdio;

use cgtap::engine::{CgroupRef, Engine, Lifetime, UsageRequest};
use cgtap::meter::library::Library;
use cgtap_sys::bpf::{Link, Prog};

use super::Bench;
use super::load;
use super::measure::Spread;
use super::report::LoadRow;
use crate::Result;
use crate::ground::{Ground, reference, shell};

/// What every machine has a use for.
const DEFAULT: [&str; 5] = ["cpu", "memory", "tasks", "block", "net"];

/// Where those are, on a kernel with the newer names.
const HOOKS: [&str; 9] = [
    "sched_stat_runtime",
    "page_fault_user",
    "sched_process_fork",
    "sched_process_exit",
    "block_rq_insert",
    "block_rq_issue",
    "block_rq_complete",
    "sock_send_length",
    "sock_recv_length",
];

/// A load: its name, what it is, and a shell's words for it. `$files` is a directory on a disk, with
/// `unit.c` in it.
struct Load {
    name: &'static str,
    script: &'static str,
}

const LOADS: [Load; 4] = [
    Load {
        name: "a build: compiles, links, runs, writes",
        script: "for i in 1 2 3 4 5 6; do cc -pipe -O1 -c $files/unit.c -o $files/$i.o; done; \
                 cc -o $files/unit $files/1.o; for i in 1 2 3 4 5 6 7 8 9 10; do $files/unit; done; \
                 tar -c -C $files . | gzip -1 >$files/out.gz; \
                 dd if=/dev/zero of=$files/direct bs=4k count=500 oflag=direct conv=notrunc 2>$files/said",
    },
    Load {
        name: "processes: 300 made and ended",
        script: "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done",
    },
    Load {
        name: "I/O: 4,000 direct writes of 4 KiB",
        script: "dd if=/dev/zero of=$files/direct bs=4k count=4000 oflag=direct conv=notrunc 2>$files/said",
    },
    Load {
        name: "nothing but switches (perf bench sched pipe)",
        script: "perf bench sched pipe -l 60000 >$files/said",
    },
];

/// A program that a compiler has something to do with.
const UNIT: &str = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n\
    #include <signal.h>\n#include <sys/socket.h>\n\
    static int order(const void *a, const void *b) { return *(int *)a - *(int *)b; }\n\
    int main(void) { int v[512]; for (int i = 0; i < 512; i++) v[i] = rand() % 1000;\n\
    qsort(v, 512, sizeof *v, order); char s[64]; snprintf(s, sizeof s, \"%d\", v[9]);\n\
    return strlen(s) == 0; }\n";

/// What is there while a load runs.
#[derive(Clone, Copy)]
enum With {
    /// Empty programs.
    Empty,
    /// Meters.
    Meters(&'static [&'static str]),
}

const VARIANTS: [(&str, With); 3] = [
    ("empty programs at their hooks", With::Empty),
    ("cpu memory tasks block net", With::Meters(&DEFAULT)),
    (
        "those, and runqueue",
        With::Meters(&["cpu", "memory", "tasks", "block", "net", "runqueue"]),
    ),
];

/// Who is at the hooks, until it is dropped.
enum There<'a> {
    Programs { _links: Vec<Link> },
    Meters(&'a Engine, &'static [&'static str]),
}

impl<'a> There<'a> {
    fn new(with: With, engine: &'a Engine, library: &Library, empty: &Prog) -> Result<Self> {
        match with {
            With::Empty => {
                let mut links = Vec::new();
                for hook in HOOKS {
                    links.push(Link::raw_tracepoint(empty, Some(hook))?);
                }
                Ok(Self::Programs { _links: links })
            }
            With::Meters(meters) => {
                let there = Self::Meters(engine, meters);
                for name in meters {
                    let known = library
                        .find(name)
                        .ok_or_else(|| format!("no meter {name}"))?;
                    engine.enable_meter(
                        &known.meter,
                        &CgroupRef::Path("/".into()),
                        Lifetime::Pinned,
                    )?;
                }
                Ok(there)
            }
        }
    }

    /// Whether meters saw the load: what counts nothing costs nothing.
    fn saw(&self, cgroup: &Path) -> Result<bool> {
        let Self::Meters(engine, _) = self else {
            return Ok(true);
        };
        let usage = engine.usage(&UsageRequest {
            cgroup: Some(reference(cgroup)),
            ..UsageRequest::default()
        })?;
        let mut values = usage.cgroups.iter().flat_map(|row| &row.meters);
        Ok(values.any(|v| &*v.meter == "cpu_time" && v.own > 0))
    }
}

impl Drop for There<'_> {
    fn drop(&mut self) {
        if let Self::Meters(engine, meters) = self {
            for name in *meters {
                // One that was not enabled, after an error, is none.
                drop(engine.disable_meter(name));
            }
        }
    }
}

/// Measures and reports it.
pub(super) fn run(bench: &mut Bench<'_>, ground: &Ground) -> Result<()> {
    let rounds = bench.rounds().div_ceil(5);
    let wanted: Vec<_> = LOADS
        .iter()
        .filter(|l| bench.wants("loads", l.name))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let (engine, _) = ground.engine()?;
    let library = Library::builtin();
    let empty = load::empty()?;
    let files = tempfile::tempdir_in(".")?;
    std::fs::write(files.path().join("unit.c"), UNIT)?;
    println!("\nloads, {rounds} rounds: CPU time with, by CPU time without right before");
    println!("{:<48}{:>8}{:>17}{:>10}", "", "ratio", "quartiles", "ms");
    for load in wanted {
        let cgroup = ground.cgroup("load")?;
        once(load, &cgroup, files.path())?;
        let mut ratios = VARIANTS.map(|_| Vec::new());
        let mut without_ms = Vec::new();
        for round in 0..rounds {
            for at in 0..VARIANTS.len() {
                let at = (at + round) % VARIANTS.len();
                let without = once(load, &cgroup, files.path())?;
                let there = There::new(VARIANTS[at].1, &engine, &library, &empty)?;
                let with = once(load, &cgroup, files.path())?;
                if !there.saw(&cgroup)? {
                    return Err(format!("{}: nothing was counted", VARIANTS[at].0).into());
                }
                drop(there);
                ratios[at].push(with / without);
                without_ms.push(without / 1e3);
            }
        }
        let without_ms = Spread::of(without_ms).median;
        println!("{}", load.name);
        for ((name, _), ratios) in VARIANTS.iter().zip(ratios) {
            bench.report.add_load(LoadRow {
                load: load.name.to_owned(),
                name: (*name).to_owned(),
                ratio: Spread::of(ratios),
                without_ms,
            });
        }
    }
    Ok(())
}

/// Runs it in the cgroup; the microseconds of CPU time that took, by the kernel's own account.
fn once(load: &Load, cgroup: &Path, files: &Path) -> Result<f64> {
    let before = used_us(cgroup)?;
    let status = shell(cgroup, &format!("{{ {}; }}", load.script))
        .env("files", files)
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("{}: {status}", load.name).into());
    }
    Ok(used_us(cgroup)? - before)
}

fn used_us(cgroup: &Path) -> Result<f64> {
    let path = cgroup.join("cpu.stat");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let used = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
    Ok(used.ok_or("cpu.stat has no usage_usec")?.parse()?)
}
