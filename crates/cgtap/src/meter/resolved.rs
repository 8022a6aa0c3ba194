//! A meter as it is on this kernel: what runs at which hook, with every expression typed. [`resolve`] makes
//! it of one as it is written.
//!
//! [`resolve`]: super::resolve

use cgtap_sys::Errno;

use super::expr::{Label, Node, Shown};
use super::text::TEXT_WORDS;
use crate::hook::HookSpec;
use crate::kernel::arguments;
use crate::kernel::path::Walk;

/// Words of all labels together.
pub const LABEL_WORDS_MAX: usize = 6;

/// What runs at one hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Where, its scope included.
    pub hook: HookSpec,
    /// Arguments are typed pointers.
    pub has_typed_arguments: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Only if this is not 0.
    pub condition: Option<Node>,
    /// What it does.
    pub job: Job,
}

/// Whose an event is.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    /// Of the cgroup of the running task.
    Current,
    /// Of the cgroup that a way leads to.
    Path(Walk),
    /// Of the cgroup of a note.
    Noted(Find),
}

/// How a note is found.
#[derive(Clone, Debug, PartialEq)]
pub struct Find {
    /// Index of the note.
    pub note: usize,
    /// Its key.
    pub key: Vec<Node>,
    /// It has served then.
    pub is_last: bool,
}

/// What goes from an event to the next one with the same key.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// Index of the note that holds it.
    pub note: usize,
    /// The key.
    pub key: Vec<Node>,
    /// What this event leaves.
    pub keep: Vec<Node>,
}

/// What comes to a hook two times in a row for the same task, and is charged at the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Twice {
    /// Index of the note that says that the first has been.
    pub note: usize,
    /// It is so if this is not 0.
    pub when: Node,
}

/// What a program does.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Makes a note.
    Note {
        /// Index of the note.
        note: usize,
        /// Its key.
        key: Vec<Node>,
        /// What is kept.
        keep: Vec<Node>,
    },
    /// Charges.
    Charge {
        /// What the event before left, and this one leaves.
        carried: Option<Carried>,
        /// Which events it sees two times.
        twice: Option<Twice>,
        /// One a label.
        by: Vec<Label>,
        /// What is done with which value.
        updates: Vec<(usize, Do)>,
    },
}

/// What is done with a value: [`What`](super::written::What), typed.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is the case of `What` of its name")]
pub enum Do {
    Count,
    Sum(Node),
    Hist(Node),
    Busy(Node),
    Add(Node),
    Sub(Node),
}

/// A meter on this kernel.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What runs where, notes first.
    pub programs: Vec<Program>,
    /// How each label is shown.
    pub labels: Vec<Shown>,
    /// Number of notes.
    pub notes: usize,
}

impl Resolved {
    /// What it takes to measure one value: the probes that do, and the notes that they need.
    #[must_use]
    pub fn only(&self, value: usize) -> Self {
        let mut known = self.programs.clone();
        let mut programs: Vec<Program> = known.clone();
        programs.retain_mut(|program| match &mut program.job {
            Job::Charge { updates, .. } => {
                updates.retain(|u| u.0 == value);
                !updates.is_empty()
            }
            Job::Note { .. } => false,
        });
        let found = programs.iter_mut().flat_map(Program::notes);
        let mut needed: Vec<usize> = found.map(|note| *note).collect();
        // Notes are made of notes before them.
        for program in known.iter_mut().rev() {
            if program.makes().is_some_and(|note| needed.contains(note)) {
                needed.extend(program.notes().map(|note| *note));
            }
        }
        needed.sort_unstable();
        needed.dedup();
        let place = |note: usize| needed.iter().position(|n| *n == note).unwrap_or(0);
        known.retain_mut(|program| program.makes().is_some_and(|note| needed.contains(note)));
        let mut all = [known, programs].concat();
        for program in &mut all {
            if let Some(note) = program.makes() {
                *note = place(*note);
            }
            for note in program.notes() {
                *note = place(*note);
            }
        }
        Self {
            programs: all,
            labels: self.labels.clone(),
            notes: needed.len(),
        }
    }
}

/// A gate of a value on this kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct GateProgram {
    /// Where, its scope included.
    pub hook: HookSpec,
    /// Arguments are typed pointers.
    pub has_typed_arguments: bool,
    /// Only if this is not 0.
    pub condition: Option<Node>,
    /// One a label; none for a label that cannot be told here.
    pub by: Vec<Option<Label>>,
    /// How much of the value an event asks for; none where that is known only afterwards.
    pub ask: Option<Node>,
    /// How much of it is to be expected, where that is known only afterwards.
    pub expect: Option<Node>,
    /// Its events come here two times if this is not 0.
    pub twice: Option<Node>,
    /// What the caller gets unless it is said otherwise, above 0.
    pub deny: Errno,
    /// What clients try again at, at once and for ever.
    pub retried: Vec<Errno>,
    /// What is stored to refuse, where that is how.
    pub writes: Vec<Write>,
}

/// A store that refuses an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Bytes behind what the first argument points to.
    pub offset: i16,
    /// 1, 2, 4 or 8.
    pub bytes: u8,
    /// What is stored.
    pub value: u64,
}

/// Words that a label takes in a key.
#[must_use]
pub fn words_of(shown: &Shown) -> usize {
    if *shown == Shown::Text { TEXT_WORDS } else { 1 }
}

impl Program {
    /// The running task has nothing to do with whose the event is, so it has to see all of them.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        matches!(self.owner, Owner::Noted(_))
    }

    /// The note that it makes for others.
    fn makes(&mut self) -> Option<&mut usize> {
        match &mut self.job {
            Job::Note { note, .. } => Some(note),
            Job::Charge { .. } => None,
        }
    }

    /// The notes that it reads.
    fn notes(&mut self) -> impl Iterator<Item = &mut usize> {
        let of_others = match &mut self.owner {
            Owner::Noted(find) => Some(&mut find.note),
            _ => None,
        };
        of_others.into_iter().chain(self.job.own_notes())
    }
}

impl Job {
    /// The notes that its events make for the next ones.
    pub(super) fn own_notes(&mut self) -> impl Iterator<Item = &mut usize> {
        let (carried, twice) = match self {
            Self::Charge { carried, twice, .. } => (carried.as_mut(), twice.as_mut()),
            Self::Note { .. } => (None, None),
        };
        let carried = carried.map(|c| &mut c.note);
        carried.into_iter().chain(twice.map(|t| &mut t.note))
    }
}

impl GateProgram {
    /// A gate that every event of a hook comes to, whatever it asks.
    #[must_use]
    pub fn always(hook: HookSpec) -> Self {
        Self {
            has_typed_arguments: arguments::are_typed(hook.kind()),
            hook,
            condition: None,
            by: Vec::new(),
            ask: None,
            expect: None,
            twice: None,
            deny: Errno::EPERM,
            retried: Vec::new(),
            writes: Vec::new(),
        }
    }
}
