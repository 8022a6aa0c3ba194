//! The processes that work inside the demo's cgroups, and how much each of them does.
//!
//! A worker is this program again, under a name that no help shows. It says when it is ready,
//! waits for a word on its standard input, a socket, works, says that it is done, and waits again.
//! Between the two waits it makes no system call but those that are promised here: what was
//! counted can so be held against what was done, to the last one. For the same reason it looks at
//! no clock there, which on some machines is a system call.

use std::ffi::OsString;
use std::fs::File;
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::net::SendFlags;

/// The command of a worker.
pub const WORD: &str = "demo-worker";

/// What the workers that only are to have been born are told.
const NOTHING: &str = "nothing";

/// What a worker writes when it is ready, and when it is done; what it is told to start.
pub const READY: u8 = b'r';
/// It is done.
pub const DONE: u8 = b'd';
/// It may start.
pub const GO: u8 = b'g';

/// How much is written at once.
const BLOCK: [u8; 4096] = [b'c'; 4096];

/// How long a spinner spins at a stretch.
const STRETCH: Duration = Duration::from_millis(60);

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Writes a file and syncs it.
    Files,
    /// Starts processes.
    Forks,
    /// Computes.
    Spin,
    /// Sleeps.
    Sleep,
    /// Makes system calls, one after the other.
    Calls,
}

/// What a worker does, in numbers. Nothing where it cannot be said beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// System calls of every kind.
    pub calls: Option<u64>,
    /// Of these, writes.
    pub writes: u64,
    /// Processes started.
    pub forks: u64,
}

/// Saying that it is done, and beginning to wait.
const CALLS_AT_END: u64 = 2;

impl Work {
    const ALL: [Self; 5] = [
        Self::Files,
        Self::Forks,
        Self::Spin,
        Self::Sleep,
        Self::Calls,
    ];

    /// Its name on the worker's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Forks => "forks",
            Self::Spin => "spin",
            Self::Sleep => "sleep",
            Self::Calls => "calls",
        }
    }

    /// What it does, in words.
    pub fn description(self) -> &'static str {
        match self {
            Self::Files => "writes a file and syncs it",
            Self::Forks => "starts processes",
            Self::Spin => "computes",
            Self::Sleep => "sleeps",
            Self::Calls => "makes system calls",
        }
    }

    /// How often it does it.
    fn rounds(self) -> u64 {
        match self {
            Self::Files | Self::Sleep => 80,
            Self::Forks => 60,
            Self::Spin => 60,
            Self::Calls => 10_000,
        }
    }

    /// How long it rests after each time.
    fn rest(self) -> Duration {
        match self {
            Self::Files => Duration::from_millis(60),
            Self::Forks | Self::Sleep => Duration::from_millis(70),
            Self::Spin | Self::Calls => Duration::ZERO,
        }
    }

    /// What it promises to do between its two waits.
    pub fn promise(self) -> Promise {
        let rounds = self.rounds();
        let (calls, writes, forks) = match self {
            // Four writes, a sync, a rest.
            Self::Files => (Some(6 * rounds), 4 * rounds, 0),
            // What starting a process takes is for the standard library to say.
            Self::Forks => (None, 0, rounds),
            Self::Spin | Self::Sleep | Self::Calls => (Some(rounds), 0, 0),
        };
        Promise {
            calls: calls.map(|calls| calls + CALLS_AT_END),
            writes,
            forks,
        }
    }
}

/// Is this process a worker? If so it works, and this is its exit status.
pub fn run_if_asked(words: &[OsString]) -> Option<ExitCode> {
    if words.get(1)? != WORD {
        return None;
    }
    let name = words.get(2)?;
    if name == NOTHING {
        return Some(ExitCode::SUCCESS);
    }
    let work = Work::ALL.into_iter().find(|work| name == work.name())?;
    Some(match run(work, words.get(3)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn run(work: Work, file: Option<&OsString>) -> std::io::Result<()> {
    let file = file.map(File::create).transpose()?;
    let steps = match work {
        Work::Spin => steps_in(STRETCH),
        _ => 0,
    };
    // A demo that is killed cannot end its workers.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    say(READY)?;
    hear()?;
    for _ in 0..work.rounds() {
        match work {
            Work::Files => write_and_sync(file.as_ref())?,
            Work::Forks => start_a_process()?,
            Work::Spin => {
                spin(steps);
                call();
            }
            Work::Sleep => {}
            Work::Calls => call(),
        }
        rest(work.rest());
    }
    say(DONE)?;
    hear()
}

fn say(word: u8) -> rustix::io::Result<()> {
    // Not `write`: that is what others promise a number of.
    rustix::net::send(std::io::stdin(), &[word], SendFlags::NOSIGNAL).map(drop)
}

/// Waits for a word, or for the end of whoever would say it.
fn hear() -> std::io::Result<()> {
    rustix::io::read(std::io::stdin(), &mut [0; 1])?;
    Ok(())
}

fn write_and_sync(file: Option<&File>) -> std::io::Result<()> {
    let file = file.ok_or(std::io::ErrorKind::NotFound)?;
    for _ in 0..4 {
        rustix::io::write(file, &BLOCK)?;
    }
    rustix::fs::fdatasync(file)?;
    Ok(())
}

fn start_a_process() -> std::io::Result<()> {
    let ended = Command::new("/proc/self/exe")
        .args([WORD, NOTHING])
        .stdin(Stdio::null())
        .status()?;
    if ended.success() {
        Ok(())
    } else {
        Err(std::io::ErrorKind::Other.into())
    }
}

/// A system call that does nothing.
fn call() {
    black_box(rustix::process::getppid());
}

fn rest(time: Duration) {
    if time.is_zero() {
        return;
    }
    // A signal may end it early, and then it is not begun again: that would be one more call.
    let _ = rustix::thread::nanosleep(&Timespec {
        tv_sec: 0,
        tv_nsec: time.subsec_nanos().into(),
    });
}

fn spin(steps: u64) {
    let mut value = steps;
    for _ in 0..steps {
        value = black_box(
            value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1),
        );
    }
}

/// How many steps of [`spin`] take `time` on this machine.
fn steps_in(time: Duration) -> u64 {
    let sample = 1_000_000;
    let start = Instant::now();
    spin(sample);
    let took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    sample.saturating_mul(time_ns) / took_ns.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_count_the_words_at_the_end() {
        assert_eq!(
            Work::Files.promise(),
            Promise {
                calls: Some(482),
                writes: 320,
                forks: 0
            }
        );
        assert_eq!(Work::Calls.promise().calls, Some(10_002));
        assert_eq!(Work::Forks.promise().calls, None);
        assert_eq!(Work::Forks.promise().forks, 60);
    }

    #[test]
    fn only_a_workers_words_make_a_worker() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(run_if_asked(&words("cgtap demo")).is_none());
        assert!(run_if_asked(&words("cgtap demo-worker")).is_none());
        assert!(run_if_asked(&words("cgtap demo-worker dance")).is_none());
        assert!(run_if_asked(&words("cgtap demo-worker nothing")).is_some());
    }
}
