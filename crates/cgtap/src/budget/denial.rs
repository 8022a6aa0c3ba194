//! The ring of denials: what was denied last, for whoever wants to read it. It is one entry of an
//! ARRAY that user space maps: no reader takes anything from it, and what is overwritten is counted.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::id::CgroupId;

/// Words of one denial.
pub mod word {
    /// Its number, from 1; 0 while it is written.
    pub const SEQ: usize = 0;
    /// When, in nanoseconds since boot.
    pub const WHEN_NS: usize = 1;
    /// Process and thread, as `bpf_get_current_pid_tgid()` has them.
    pub const PID_TGID: usize = 2;
    /// Cgroup of the task that ran.
    pub const CGROUP: usize = 3;
    /// Id of the limit.
    pub const LIMIT: usize = 4;
    /// What was asked.
    pub const ASKED: usize = 5;
    /// What was left; below 0 is debt.
    pub const LEFT: usize = 6;
    /// What became of it: the errno, 0 if it was only observed, a signal from [`super::SIGNAL`] on.
    pub const VERDICT: usize = 7;
    /// Name of the task, 16 bytes.
    pub const COMM: usize = 8;
}

/// Denials that are kept.
pub const DENIALS: usize = 4_096;
/// Words of a denial, as a power of two.
const WORDS: usize = 16;
/// Bytes of a denial as a shift.
pub const SHIFT: i32 = 7;
/// Words in front of the ring.
pub const HEADER_WORDS: usize = 16;
/// Word in front: denials there ever were.
pub const HEAD: usize = 0;
/// Bytes of a task's name.
pub const COMM_BYTES: usize = 16;
/// Bytes of the whole.
pub const BYTES: usize = (HEADER_WORDS + DENIALS * WORDS) * 8;
/// Verdicts from here on are signals.
pub const SIGNAL: i32 = 0x1_0000;

/// What became of an event that a limit denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It failed with this error.
    Errno(i32),
    /// Its process got this signal.
    Signal(i32),
    /// Nothing: the limit is only observed.
    Observed,
}

/// One denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Its number, from 1.
    pub number: u64,
    /// When, in nanoseconds since boot.
    pub when_ns: u64,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Name of the thread.
    pub comm: String,
    /// Cgroup of the task that ran.
    pub cgroup: CgroupId,
    /// Id of the limit.
    pub limit: u32,
    /// What was asked, in the meter's unit.
    pub asked: u64,
    /// What was left; below 0 is debt.
    pub left: i64,
    /// What became of it.
    pub verdict: Verdict,
}

/// The denials that are kept, oldest first, and how many were overwritten.
#[must_use]
pub fn read(words: &[AtomicU64]) -> (Vec<Denial>, u64) {
    let head = words.get(HEAD).map_or(0, |w| w.load(Ordering::Acquire));
    let first = head.saturating_sub(DENIALS as u64);
    let all = (first..head).filter_map(|number| one(words, number));
    (all.collect(), first)
}

/// Denial `number`, counted from 0; none while it is written, or if it is overwritten meanwhile.
fn one(words: &[AtomicU64], number: u64) -> Option<Denial> {
    let place = (number % DENIALS as u64) as usize;
    let at = HEADER_WORDS + place * WORDS;
    let entry = words.get(at..at + WORDS)?;
    let get = |word: usize| entry[word].load(Ordering::Acquire);
    if get(word::SEQ) != number + 1 {
        return None;
    }
    let comm: Vec<u8> = (0..COMM_BYTES / 8)
        .flat_map(|n| get(word::COMM + n).to_ne_bytes())
        .take_while(|b| *b != 0)
        .collect();
    let denial = Denial {
        number: number + 1,
        when_ns: get(word::WHEN_NS),
        pid: (get(word::PID_TGID) >> 32) as u32,
        tid: get(word::PID_TGID) as u32,
        comm: String::from_utf8_lossy(&comm).into_owned(),
        cgroup: CgroupId(get(word::CGROUP)),
        limit: get(word::LIMIT) as u32,
        asked: get(word::ASKED),
        left: get(word::LEFT).cast_signed(),
        verdict: match i32::try_from(get(word::VERDICT)).unwrap_or(0) {
            0 => Verdict::Observed,
            signal if signal >= SIGNAL => Verdict::Signal(signal - SIGNAL),
            errno => Verdict::Errno(errno),
        },
    };
    (get(word::SEQ) == number + 1).then_some(denial)
}
