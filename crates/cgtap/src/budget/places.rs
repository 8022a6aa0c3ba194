//! Places: budgets that cgroups are given as they are made, because a pattern matches them, and that
//! come back when they go. One entry of an ARRAY that user space maps.
//!
//! Programs at `cgroup_mkdir` and `cgroup_rmdir` alone give places out and take them back, both under
//! `cgroup_mutex`: so plain loads and stores do. Free places stand in a ring; one that came back is
//! given out again only after [`REST_NS`], when no program that found it before can charge it still.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::words::NAMED;
use crate::id::CgroupId;

/// Places of a state.
pub const PLACES: usize = 4_096;
/// How long a place rests before another cgroup has it.
pub const REST_NS: u64 = 1_000_000_000;
/// Ids of limits that are born with cgroups begin here; those that commands give are below.
pub const LIMIT_IDS: u32 = 2_000_000_000;
/// Bytes of a cgroup's name, with its end.
pub const NAME_BYTES: usize = 256;

/// Words in front.
pub mod header {
    /// Places that were ever given out.
    pub const GIVEN: usize = 0;
    /// Places that ever came back, and those there were at first.
    pub const BACK: usize = 1;
    /// Number of the last birth.
    pub const BORN: usize = 2;
    /// Cgroups that found no place and share a budget.
    pub const SHARING: usize = 3;
    /// Cgroups whose budget could not be noted: they are held by what is above them alone.
    pub const LOST: usize = 4;
    /// How many there are.
    pub const WORDS: usize = 16;
}

/// Words of a place.
pub mod word {
    /// The cgroup that has it; 0 for none.
    pub const CGROUP: usize = 0;
    /// Number of the pattern that matched.
    pub const PATTERN: usize = 1;
    /// Another place of the same cgroup, and 1 more; 0 for none.
    pub const NEXT: usize = 2;
    /// Number of the birth, from 1.
    pub const BIRTH: usize = 3;
    /// When it came back; 0 if it never was given out.
    pub const BACK_NS: usize = 4;
}

/// First word of the ring of free places.
pub const RING: usize = header::WORDS;
/// First word of the places.
pub const FIRST: usize = RING + PLACES;
/// Words of a place, as a shift.
pub const WORDS_SHIFT: usize = 3;
/// First byte of the names that a program compares.
pub const NAMES_AT: usize = (FIRST + (PLACES << WORDS_SHIFT)) * 8;
/// Bytes of the whole.
pub const BYTES: usize = NAMES_AT + crate::cgroup::pattern::LEVELS_MAX * NAME_BYTES;

/// A cgroup that was given a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The cgroup.
    pub cgroup: CgroupId,
    /// The pattern.
    pub pattern: u32,
    /// Its number, from 1.
    pub number: u64,
    /// Index of its budget.
    pub slot: u32,
}

impl Birth {
    /// Id of the limit that was born.
    #[must_use]
    pub fn limit(&self) -> u32 {
        LIMIT_IDS.wrapping_add((self.number % u64::from(LIMIT_IDS)) as u32)
    }
}

fn get(words: &[AtomicU64], at: usize) -> u64 {
    words.get(at).map_or(0, |w| w.load(Ordering::Acquire))
}

/// All places are free: the words, for a new map. `born` is the number of the last birth.
#[must_use]
pub fn at_first(born: u64) -> Vec<u8> {
    let mut words = vec![0u64; BYTES / 8];
    words[header::BORN] = born;
    words[header::BACK] = PLACES as u64;
    for place in 0..PLACES {
        words[RING + place] = place as u64;
    }
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// Number of the last birth.
#[must_use]
pub fn born(words: &[AtomicU64]) -> u64 {
    get(words, header::BORN)
}

/// Places that are free.
#[must_use]
pub fn free(words: &[AtomicU64]) -> u64 {
    get(words, header::BACK).saturating_sub(get(words, header::GIVEN))
}

/// Who has the place of a budget; none if nobody, or if it is of those that commands give.
#[must_use]
pub fn owner(words: &[AtomicU64], slot: u32) -> Option<CgroupId> {
    let place = (slot as usize).checked_sub(NAMED)?;
    let id = get(words, FIRST + (place << WORDS_SHIFT) + word::CGROUP);
    (id != 0).then_some(CgroupId(id))
}

/// Those that have a place, by their number.
#[must_use]
pub fn births(words: &[AtomicU64]) -> BTreeMap<u64, Birth> {
    let of = |place: usize| {
        let at = FIRST + (place << WORDS_SHIFT);
        let birth = Birth {
            cgroup: CgroupId(get(words, at + word::CGROUP)),
            pattern: get(words, at + word::PATTERN) as u32,
            number: get(words, at + word::BIRTH),
            slot: (NAMED + place) as u32,
        };
        (birth.cgroup.0 != 0).then_some((birth.number, birth))
    };
    (0..PLACES).filter_map(of).collect()
}
