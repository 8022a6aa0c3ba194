//! The maps of a meter: what stands where.

use super::code::NOTED_MAX;
use super::resolved::{LABEL_WORDS_MAX, Resolved, words_of};
use super::usage::{BUCKETS, Form};
use super::written::{KEYS_MAX, Meter};

/// Places of the maps in the programs' lists.
pub mod maps {
    /// One entry: [`super::control`].
    pub const CONTROL: u32 = 0;
    /// LRU hash: a cgroup that is gone -> the one above it.
    pub const GONE: u32 = 1;
    /// Hash: resource -> when it was last done.
    pub const BUSY: u32 = 2;
    /// One entry: where each CPU keeps `current`; empty where the helper is called.
    pub const CURRENT: u32 = 3;

    /// Usage. Hash: cgroup and label words -> values.
    pub const USAGE: u32 = 4;
    /// Usage. One entry: values that are all 0, which a new entry begins as.
    pub const ZERO: u32 = 5;
    /// Usage. Hash: label words -> 1, for those that were seen.
    pub const LABELS: u32 = 6;
    /// Usage. Array: label words, in the order in which they were seen.
    pub const LABEL_LIST: u32 = 7;
    /// Usage. Array, used as a ring: cgroups that are gone.
    pub const GRAVES: u32 = 8;
    /// Usage. LRU hashes: what was noted, one a note.
    pub const NOTES_OF_USAGE: u32 = 9;
    /// Usage that is read. Hash: what is read of, and its labels -> what was read last. Such a meter has no
    /// notes.
    pub const CLIENTS: u32 = 9;

    /// Budgets. Hash: cgroup -> index of the budget that it is charged to first.
    pub const CHAINS: u32 = 4;
    /// Budgets. One entry: [`crate::budget::words`].
    pub const BUDGETS: u32 = 5;
    /// Budgets. One entry: [`crate::budget::denial`].
    pub const DENIALS: u32 = 6;
    /// Budgets. Hash: task -> what it has reserved ([`crate::budget::reserve`]).
    pub const RESERVED: u32 = 7;
    /// Budgets. LRU hashes: what was noted, one a note.
    pub const NOTES_OF_BUDGETS: u32 = 8;

    /// What those of usage are called, by their places.
    pub const NAMES_OF_USAGE: [&str; 9] = [
        "control",
        "gone",
        "busy",
        "current",
        "usage",
        "zero",
        "labels",
        "label_list",
        "graves",
    ];
    /// What those of budgets are called, by their places.
    pub const NAMES_OF_BUDGETS: [&str; 8] = [
        "control", "gone", "busy", "current", "chains", "budgets", "denials", "reserved",
    ];
}

/// Where a meter's programs put what they measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// All of it, by cgroup and labels.
    Usage,
    /// One value, to the budgets of the cgroup and of those above it; only of events whose labels are
    /// these: number of the word and what stands there.
    Budgets(Vec<(usize, u64)>),
}

impl Sink {
    /// Place of the first note's map.
    #[must_use]
    pub const fn first_note(&self) -> u32 {
        match self {
            Self::Usage => maps::NOTES_OF_USAGE,
            Self::Budgets(_) => maps::NOTES_OF_BUDGETS,
        }
    }
}

/// Words of the control map.
pub mod control {
    /// Events that found no room.
    pub const LOST: usize = 0;
    /// Events charged to `other` labels.
    pub const OTHER: usize = 1;
    /// Label words that were seen, the first of them `other`.
    pub const LABELS: usize = 2;
    /// Graves that were ever dug.
    pub const DUG: usize = 3;
    /// Graves that were ever filled.
    pub const FILLED: usize = 4;
    /// One more before and after each move of usage to another cgroup: odd while it is under way.
    pub const MOVES: usize = 5;
    /// Nothing is moved before this moment: somebody reads.
    pub const HOLD_UNTIL_NS: usize = 6;
    /// Labels of the oldest grave that are dealt with.
    pub const CURSOR: usize = 7;
    /// Events whose note was not found.
    pub const UNPAIRED: usize = 8;
    /// Notes that could not be made.
    pub const NOTES_LOST: usize = 9;
    /// Cgroups that went while the ring was full, and entries that found no room above: they are
    /// added up by whoever reads.
    pub const STRANDED: usize = 10;
    /// Events that were nobody's.
    pub const UNOWNED: usize = 11;
    /// Of usage that is read: when it was read last, in nanoseconds since boot; 0 if it never was.
    pub const READ_NS: usize = 12;
    /// Number of words.
    pub const WORDS: usize = 16;
}

/// Sets of label words that are told apart; what comes after goes to `other`, whose words are all
/// ones.
pub const LABEL_SETS: u32 = 64;
/// Word of the labels `other`.
pub const OTHER_WORD: u64 = u64::MAX;
/// Cgroups that may be gone and not yet dealt with.
pub const GRAVES: u32 = 4_096;
/// Bytes of a grave: cgroup, the one above it, when.
pub const GRAVE_BYTES: u32 = 24;
/// What is gone so long ago gets no more charges from programs that looked its entry up before.
pub const GRACE_NS: u64 = 1_000_000_000;
/// Resources whose busy time is told apart.
pub const RESOURCES: u32 = 1_024;
/// Cgroups above one that is gone that are gone too: further up is not looked.
pub const CLIMB_MAX: i32 = 16;
/// Cgroups below limited ones that are charged to budgets.
pub const CHAINS: u32 = 65_536;
/// What is read of, each with its labels: engines of open files, processes on GPUs.
pub const CLIENTS: u32 = 16_384;
/// Notes of each kind.
pub const NOTES: u32 = 16_384;

/// Words of what is read: who it is of, its labels; whose it was, when it was seen, what was read last.
pub mod client {
    use super::LABEL_WORDS_MAX;
    /// Words that tell clients apart.
    pub const IDENTITY: usize = 2;
    /// Words of a key.
    pub const KEY_WORDS: usize = IDENTITY + LABEL_WORDS_MAX;
    /// Bytes of a key.
    pub const KEY_BYTES: u32 = KEY_WORDS as u32 * 8;
    /// The cgroup's id, 0 for nobody that is counted.
    pub const CGROUP: usize = 0;
    /// When it was last seen, in nanoseconds since boot.
    pub const SEEN_NS: usize = 1;
    /// What was read last, a word a value of the source.
    pub const LAST: usize = 2;

    /// Bytes of a value, of a meter that reads so many values.
    #[must_use]
    pub const fn value_bytes(values: usize) -> u32 {
        (LAST + values) as u32 * 8
    }
}

/// Words of a note: its key, its cgroup, when, and what is kept.
pub mod note {
    use super::{KEYS_MAX, NOTED_MAX};
    /// The cgroup's id.
    pub const CGROUP: usize = KEYS_MAX;
    /// When, in nanoseconds since boot.
    pub const AT_NS: usize = KEYS_MAX + 1;
    /// What is kept.
    pub const KEPT: usize = KEYS_MAX + 2;
    /// All of them.
    pub const WORDS: usize = KEPT + NOTED_MAX;
}

/// Where the values of an entry lie, and how long its key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// First byte of each value.
    pub offsets: Vec<u32>,
    /// Form of each value.
    pub forms: Vec<Form>,
    /// Bytes of an entry.
    pub bytes: u32,
    /// Words of the labels.
    pub label_words: usize,
    /// Number of notes.
    pub notes: usize,
}

/// Words that a value takes: a histogram has its sum in front, a gauge its peak behind it.
#[must_use]
pub fn words_of_form(form: Form) -> usize {
    match form {
        Form::Count | Form::Sum | Form::Busy => 1,
        Form::Gauge => 2,
        Form::Hist => 1 + BUCKETS,
    }
}

/// Words of a value that go to the cgroup above: what a cgroup held at a time, those above it did not.
#[must_use]
pub fn words_that_move(form: Form) -> usize {
    match form {
        Form::Gauge => 1,
        other => words_of_form(other),
    }
}

impl Shape {
    /// The shape of a meter's maps.
    #[must_use]
    pub fn new(meter: &Meter, resolved: &Resolved) -> Self {
        let mut bytes = 0;
        let forms: Vec<Form> = meter.values.iter().map(|v| v.form).collect();
        let offsets = forms
            .iter()
            .map(|form| {
                let at = bytes;
                bytes += words_of_form(*form) as u32 * 8;
                at
            })
            .collect();
        let label_words = resolved.labels.iter().map(words_of).sum();
        debug_assert!(label_words <= LABEL_WORDS_MAX);
        Self {
            offsets,
            forms,
            bytes,
            label_words,
            notes: resolved.notes,
        }
    }

    /// Bytes of a key: the cgroup and the labels.
    #[must_use]
    pub fn key_bytes(&self) -> u32 {
        8 + self.label_words as u32 * 8
    }

    /// Bytes of the labels in a key; never 0, since no map has keys of nothing.
    #[must_use]
    pub fn label_bytes(&self) -> u32 {
        (self.label_words as u32 * 8).max(8)
    }
}
