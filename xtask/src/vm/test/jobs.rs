//! Boots of guests, several at a time: each has one thread of the emulator, whatever its CPUs are.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Args;
use super::plan::{Boot, Machine, Plan};
use super::report::Run;
use crate::Result;
use crate::vm::cache::Cache;
use crate::vm::guest::{End, Guest, Out};
use crate::vm::kernels::Unpacked;
use crate::vm::{Options, simgpu};

/// What a guest takes of the host's memory besides its own, in MiB.
const OVERHEAD_MIB: u64 = 512;

/// What a guest takes to come up and to end, in seconds, on a busy machine.
const BOOT_S: u64 = 120;

/// Tests for one boot of a guest.
pub struct Job {
    kernel: Unpacked,
    name: String,
    options: Options,
    plan: Plan,
    out: Out,
}

impl Job {
    /// Makes all that the guest is given.
    pub fn prepare(cache: &Cache, args: &Args, kernel: Unpacked, boot: Boot) -> Result<Self> {
        let plan = boot.plan;
        let mut options = args.options.clone();
        let mut name = kernel.name.clone();
        if boot.is_named {
            name.push_str(" only");
        }
        if boot.machine == Machine::Virgl {
            options.virgl = true;
            name.push_str(" with virgl");
        }
        // One that hangs is ended by its own time; what is here is for a kernel that does.
        let all = BOOT_S + plan.binaries.len() as u64 * plan.timeout_s;
        options.timeout_s.get_or_insert(all);
        if ["guest_gpu", "guest_limit"]
            .iter()
            .any(|name| plan.has(name))
        {
            let module = simgpu::build(cache, &kernel)?;
            let path = module.map_or_else(String::new, |m| m.display().to_string());
            options.env.push(format!("{}={path}", simgpu::VARIABLE));
        }
        let out = Out::new(cache, None)?;
        plan.write(out.dir())?;
        Ok(Self {
            kernel,
            name,
            options,
            plan,
            out,
        })
    }

    /// Runs it; nothing if it was interrupted.
    fn run(&self, cache: &Cache, is_alone: bool) -> Result<Option<Run>> {
        eprintln!(
            "vm: {} test binaries on {} ({})",
            self.plan.binaries.len(),
            self.kernel.release,
            self.name
        );
        let guest = Guest {
            label: (!is_alone).then_some(&self.name),
            kernel: &self.kernel,
            options: &self.options,
            out: self.out.dir(),
        };
        let end = guest.run(cache, &agent_command()?)?;
        let fault = match end {
            End::Interrupted => return Ok(None),
            End::Exited(0) => None,
            End::Exited(code) => Some(format!("the test agent ended with status {code}")),
            End::TimedOut => Some(format!(
                "the guest was killed after {} s; --timeout gives it more",
                self.options.timeout_s()
            )),
            End::Died(words) => Some(words),
        };
        Ok(Some(Run::read(
            &self.name,
            self.out.dir(),
            &self.plan,
            fault,
        )))
    }

    /// The same; what kept it from being run is the fault of a run without results.
    fn run_or_fault(&self, cache: &Cache, is_alone: bool) -> Option<Run> {
        self.run(cache, is_alone).unwrap_or_else(|error| {
            let fault = Some(error.to_string());
            Some(Run::read(&self.name, self.out.dir(), &self.plan, fault))
        })
    }
}

/// Runs them, so many at once; their results in the same order, or nothing if one was interrupted.
pub fn run(
    cache: &Cache,
    at_once: Option<NonZero<usize>>,
    jobs: &[Job],
) -> Result<Option<Vec<Run>>> {
    let workers = match at_once {
        Some(number) => number.get(),
        None => fitting(jobs)?,
    };
    let workers = workers.min(jobs.len());
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Run>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed))
                    && let (Some(job), Some(result)) = (jobs.get(at), results.get(at))
                {
                    let Some(run) = job.run_or_fault(cache, workers == 1) else {
                        // Whoever interrupted one wants all to end.
                        next.store(jobs.len(), Ordering::Relaxed);
                        return;
                    };
                    if let Ok(mut result) = result.lock() {
                        *result = Some(run);
                    }
                }
            });
        }
    });
    Ok(results
        .into_iter()
        .map(|result| result.into_inner().unwrap_or_default())
        .collect())
}

/// How many of them the host has CPUs and memory for, one at least.
fn fitting(jobs: &[Job]) -> Result<usize> {
    let cpus = std::thread::available_parallelism()?.get();
    let memory_mib = jobs.iter().map(|j| u64::from(j.options.memory_mib)).max();
    let one_mib = memory_mib.unwrap_or(0) + OVERHEAD_MIB;
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let available_kib: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .ok_or("/proc/meminfo has no MemAvailable")?;
    let by_memory = usize::try_from(available_kib / 1024 / one_mib)?;
    Ok(cpus.min(by_memory).max(1))
}

/// This program, as it is called in the guest.
fn agent_command() -> Result<Vec<String>> {
    let own: PathBuf = std::env::current_exe()?;
    let own = own.to_str().ok_or("this program's path is not UTF-8")?;
    Ok([own, "vm", "test-agent", cgtap_guest_init::OUT_DIR]
        .map(str::to_owned)
        .into())
}
