//! `gpu-check`: what the meters of NVIDIA's GPUs tell of work whose amount is known, in two cgroups: figure,
//! truth and error of each.
//!
//! The work (`gpu/work.c`) says itself what it asked for, and by CUDA's own events how long its kernels
//! ran. It is done in one cgroup after the other: kernels of two processes that take turns on a GPU last
//! longer by those events than they work.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use cgtap::meter::library::BUILTIN;
use serde::Deserialize;

use crate::Result;
use crate::ground::Ground;

/// Arguments of `gpu-check`.
#[derive(clap::Args)]
pub struct Args {
    /// Try the check itself, with libraries of our own making in place of NVIDIA's: it says nothing of
    /// any GPU
    #[arg(long)]
    stand_in: bool,
}

/// How often usage is read while work is done: as often as `top` does.
const READING: Duration = Duration::from_secs(1);
/// How long a sample of the library may be late.
const SETTLING: Duration = Duration::from_millis(1_500);
/// What the work exits with where there is no GPU.
const NOTHING_HERE: i32 = 77;
/// Memory that a context takes beside what is allocated.
const CONTEXT_BYTES: u64 = 2 << 30;

/// What is done in a cgroup.
struct Work {
    cgroup: &'static str,
    bytes: u64,
    launches: u64,
    length_us: u64,
    pause_us: u64,
}

const WORK: [Work; 2] = [
    // All of the time, and a third of it.
    Work {
        cgroup: "a",
        bytes: 512 << 20,
        launches: 200,
        length_us: 50_000,
        pause_us: 0,
    },
    Work {
        cgroup: "b",
        bytes: 128 << 20,
        launches: 100,
        length_us: 30_000,
        pause_us: 60_000,
    },
];

/// What the work says that it did.
#[derive(Debug, Deserialize)]
struct Truth {
    busy_ns: u64,
    launches: u64,
    copied_bytes: u64,
    allocated_bytes: u64,
}

/// How near a figure has to be.
#[derive(Clone, Copy)]
enum Bound {
    /// The same.
    Exact,
    /// So many parts of a hundred more or less.
    Percent(u64),
    /// Not less, and so much more at the most.
    Above(u64),
}

impl Bound {
    fn holds(self, figure: u64, truth: u64) -> bool {
        match self {
            Self::Exact => figure == truth,
            Self::Percent(most) => {
                u128::from(figure.abs_diff(truth)) * 100 <= u128::from(truth) * u128::from(most)
            }
            Self::Above(most) => figure >= truth && figure - truth <= most,
        }
    }
}

struct Row {
    cgroup: &'static str,
    value: &'static str,
    figure: u64,
    truth: u64,
    bound: Bound,
}

/// Checks, and prints what came of it.
pub fn run(args: &Args) -> Result<()> {
    let ground = Ground::new()?;
    let (_, state) = ground.engine()?;
    let bench = Bench {
        stand_in: args.stand_in.then(|| StandIn::make(&ground)).transpose()?,
        work: compile(&ground, "work", &["-ldl"])?,
        state,
        ground,
    };
    let rows = bench.run()?;
    if args.stand_in {
        println!(
            "with stand-ins of our own making for NVIDIA's libraries: this says nothing of any GPU"
        );
    }
    println!(
        "{:<8}{:<24}{:>16}{:>16}{:>10}",
        "cgroup", "value", "figure", "truth", "error"
    );
    let mut wrong = Vec::new();
    for row in &rows {
        let error = (row.figure as f64 - row.truth as f64) / (row.truth as f64).max(1.0) * 100.0;
        let holds = row.bound.holds(row.figure, row.truth);
        let mark = if holds { "" } else { "  WRONG" };
        println!(
            "{:<8}{:<24}{:>16}{:>16}{:>9.2}%{mark}",
            row.cgroup, row.value, row.figure, row.truth, error
        );
        if !holds {
            wrong.push(format!("{} of {}", row.value, row.cgroup));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("wrong: {}", wrong.join(", ")).into())
    }
}

/// A C file of `gpu/`, compiled.
fn compile(ground: &Ground, name: &str, flags: &[&str]) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("gpu")
        .join(format!("{name}.c"));
    let binary = ground.scratch().join(name);
    build(&source, &binary, flags)?;
    Ok(binary)
}

fn build(source: &Path, binary: &Path, flags: &[&str]) -> Result<()> {
    let mut cc = Command::new("cc");
    let output = cc
        .arg("-O1")
        .arg("-w")
        .arg("-o")
        .arg(binary)
        .arg(source)
        .args(flags)
        .output();
    let output = output.map_err(|e| format!("cannot run cc: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("cc cannot compile {}: {words}", source.display()).into())
}

/// Libraries in place of NVIDIA's.
struct StandIn {
    dir: PathBuf,
    told: PathBuf,
}

impl StandIn {
    fn make(ground: &Ground) -> Result<Self> {
        let dir = ground.scratch().to_owned();
        let told = dir.join("told");
        std::fs::create_dir(&told)?;
        let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
        let nvml = ours.join("../crates/cgtap-cli/tests/nvidia/nvml.c");
        let library = ["-shared", "-fPIC"];
        build(&nvml, &dir.join("libnvidia-ml.so.1"), &library)?;
        build(
            &ours.join("gpu/cuda.c"),
            &dir.join("libcuda.so.1"),
            &library,
        )?;
        Ok(Self { dir, told })
    }
}

struct Bench {
    stand_in: Option<StandIn>,
    work: PathBuf,
    state: PathBuf,
    // Last: what stands on it goes first.
    ground: Ground,
}

impl Bench {
    fn run(&self) -> Result<Vec<Row>> {
        self.enable()?;
        let mut rows = Vec::new();
        for work in &WORK {
            let (truth, mut child) = self.work(work)?;
            std::thread::sleep(SETTLING);
            let usage = self.usage()?;
            rows.extend(self.rows(work, &truth, &usage)?);
            drop(child.stdin.take());
            child.wait()?;
        }
        Ok(rows)
    }

    /// A program that finds the libraries that are looked at.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(stand_in) = &self.stand_in {
            command.env("LD_LIBRARY_PATH", &stand_in.dir);
            command.env("CGTAP_STAND_IN", &stand_in.told);
        }
        command
    }

    /// What `cgtap` prints; it stands beside us.
    fn cgtap(&self, words: &[&str]) -> Result<serde_json::Value> {
        let ours = std::env::current_exe()?;
        let mut command = self.command(&ours.with_file_name("cgtap"));
        command
            .arg("--json")
            .arg("--state")
            .arg(&self.state)
            .args(words);
        let output = command
            .output()
            .map_err(|e| format!("cannot run cgtap: {e}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("cgtap {}: {said}", words.join(" ")).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn enable(&self) -> Result<()> {
        let shown = self.cgtap(&["meter", "show", "nvidia"])?;
        if let Some(why) = shown["meters"][0]["why"].as_str() {
            return Err(format!("no NVIDIA GPU here, nothing was checked: {why}").into());
        }
        let Some(stand_in) = &self.stand_in else {
            return self.cgtap(&["meter", "enable", "nvidia", "cuda"]).map(drop);
        };
        let text = BUILTIN
            .iter()
            .find(|(name, _)| *name == "cuda")
            .map(|(_, text)| *text);
        let library = stand_in.dir.join("libcuda.so.1");
        let hook = format!("uprobe:{}:", library.display());
        let text = text
            .unwrap_or_default()
            .replace("uprobe:*/libcuda.so.1:", &hook);
        let path = self.ground.scratch().join("cuda.toml");
        std::fs::write(&path, text)?;
        let path = path.display().to_string();
        self.cgtap(&["meter", "enable", "nvidia", &path]).map(drop)
    }

    fn usage(&self) -> Result<serde_json::Value> {
        self.cgtap(&["usage", "--recursive"])
    }

    /// Has work done, while usage is read; what it says it was, and the process, which has not ended.
    fn work(&self, work: &Work) -> Result<(Truth, Child)> {
        let procs = self.ground.cgroup(work.cgroup)?.join("cgroup.procs");
        let mut command = self.command(&self.work);
        let numbers = [work.bytes, work.launches, work.length_us, work.pause_us];
        command.arg(procs).args(numbers.map(|n| n.to_string()));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (said, line) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut text = String::new();
                let read = BufReader::new(out).read_line(&mut text);
                // Nobody waits any more if it fails.
                drop(said.send(read.map(|_| text)));
            });
        }
        let text = loop {
            match line.recv_timeout(READING) {
                Ok(text) => break text?,
                Err(RecvTimeoutError::Timeout) => drop(self.usage()?),
                Err(e) => return Err(e.into()),
            }
        };
        if text.is_empty() {
            let status = child.wait()?;
            let why = if status.code() == Some(NOTHING_HERE) {
                "no NVIDIA GPU here, nothing was checked: CUDA's library finds none".to_owned()
            } else {
                format!("the work in {} failed: {status}", work.cgroup)
            };
            return Err(why.into());
        }
        Ok((serde_json::from_str(&text)?, child))
    }

    fn rows(&self, work: &Work, truth: &Truth, usage: &serde_json::Value) -> Result<Vec<Row>> {
        let dir = self.ground.cgroup(work.cgroup)?;
        let id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(dir)?);
        let cgroups = usage["cgroups"].as_array().map_or(&[][..], Vec::as_slice);
        let row = cgroups.iter().find(|c| c["cgroup_id"] == id);
        let row = row.ok_or_else(|| format!("usage has no cgroup {}", work.cgroup))?;
        let figure = |value: &str| {
            let meters = row["meters"].as_array().map_or(&[][..], Vec::as_slice);
            let own = meters.iter().filter(|m| m["meter"] == value);
            own.filter_map(|m| m["own"].as_u64()).sum()
        };
        let memory = match self.stand_in {
            Some(_) => Bound::Exact,
            None => Bound::Above(CONTEXT_BYTES),
        };
        let all = [
            ("cuda_launches", truth.launches, Bound::Exact),
            ("cuda_copied_bytes", truth.copied_bytes, Bound::Exact),
            ("cuda_allocated_bytes", truth.allocated_bytes, Bound::Exact),
            ("nvidia_memory", truth.allocated_bytes, memory),
            ("nvidia_busy", truth.busy_ns, Bound::Percent(25)),
        ];
        let row = |(value, truth, bound): (&'static str, u64, Bound)| Row {
            cgroup: work.cgroup,
            value,
            figure: figure(value),
            truth,
            bound,
        };
        Ok(all.into_iter().map(row).collect())
    }
}
