//! Cache pressure: thousands of cgroups that are all active. One process with a thread in each;
//! they work in turn on one CPU, some calls each.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};

use super::measure::{Variant, Work};
use crate::Result;
use crate::ground;
use crate::helper::Helper;

/// Calls of each thread in its turn.
const CALLS: usize = 20;
/// No thread's turn.
const NOBODY: usize = usize::MAX;
/// All are to end.
const END: usize = usize::MAX - 1;

/// What the process of the threads is told.
#[derive(clap::Args)]
pub struct Args {
    /// The cgroup to make the threads' cgroups in.
    dir: PathBuf,
    /// How many.
    threads: usize,
    /// On which CPU.
    cpu: usize,
}

/// The threads, and whose turn it is.
struct Ring {
    threads: Vec<JoinHandle<()>>,
    turn: Arc<AtomicUsize>,
}

/// One thread: waits for its turn, works, hands on.
fn work(turn: &AtomicUsize, number: usize, next: &OnceLock<Thread>, main: &Thread, last: bool) {
    loop {
        while turn.load(Ordering::Acquire) != number {
            if turn.load(Ordering::Acquire) == END {
                return;
            }
            std::thread::park();
        }
        for _ in 0..CALLS {
            std::hint::black_box(rustix::process::getppid());
        }
        turn.store(if last { NOBODY } else { number + 1 }, Ordering::Release);
        match next.get() {
            Some(next) if !last => next.unpark(),
            _ => main.unpark(),
        }
    }
}

impl Ring {
    fn start(dir: &Path, count: usize) -> Result<Self> {
        let turn = Arc::new(AtomicUsize::new(NOBODY));
        let nexts: Arc<Vec<OnceLock<Thread>>> =
            Arc::new((0..count).map(|_| OnceLock::new()).collect());
        let mut ring = Self {
            threads: Vec::with_capacity(count),
            turn: Arc::clone(&turn),
        };
        let main = std::thread::current();
        for number in 0..count {
            let cgroup = dir.join(number.to_string());
            std::fs::create_dir(&cgroup)?;
            std::fs::write(cgroup.join("cgroup.type"), "threaded")?;
            let (turn, all, main) = (Arc::clone(&turn), Arc::clone(&nexts), main.clone());
            let (say, hear) = std::sync::mpsc::channel();
            let body = move || {
                let entered = std::fs::write(cgroup.join("cgroup.threads"), "0");
                let is_in = entered.is_ok();
                drop(say.send(entered));
                if is_in {
                    work(&turn, number, &all[number], &main, number + 1 == count);
                }
            };
            let thread = std::thread::Builder::new()
                .stack_size(32 << 10)
                .spawn(body)?;
            hear.recv()?
                .map_err(|e| format!("thread {number} cannot enter its cgroup: {e}"))?;
            if number > 0 {
                drop(nexts[number - 1].set(thread.thread().clone()));
            }
            ring.threads.push(thread);
        }
        Ok(ring)
    }

    /// All threads once; nanoseconds a call.
    fn lap(&self) -> f64 {
        let start = ground::cpu_time();
        self.turn.store(0, Ordering::Release);
        if let Some(first) = self.threads.first() {
            first.thread().unpark();
        }
        while self.turn.load(Ordering::Acquire) != NOBODY {
            std::thread::park();
        }
        (ground::cpu_time() - start).as_nanos() as f64 / (self.threads.len() * CALLS) as f64
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.turn.store(END, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

/// The process of the threads: a lap for each line it reads.
pub fn serve(args: &Args) -> Result<()> {
    ground::pin_to(args.cpu)?;
    ground::enter(&args.dir)?;
    let ring = Ring::start(&args.dir, args.threads)?;
    println!("ready");
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", ring.lap());
    }
    Ok(())
}

/// That process, from outside.
pub struct Pool {
    helper: Helper,
    threads: usize,
}

impl Pool {
    /// Starts it; the threads' cgroups are below `dir`.
    pub fn start(dir: &Path, threads: usize, cpu: usize) -> Result<Self> {
        let helper = Helper::start("pool", dir, &[threads.to_string(), cpu.to_string()])?;
        Ok(Self { helper, threads })
    }
}

impl Work for Pool {
    fn lap(&mut self, _: Option<&Variant>) -> Result<f64> {
        self.helper.say("")?;
        Ok(self.helper.hear()?.parse()?)
    }

    fn warm(&mut self, variant: Option<&Variant>) -> Result<u64> {
        self.lap(variant)?;
        Ok((self.threads * CALLS) as u64)
    }
}
