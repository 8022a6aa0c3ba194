//! The words that a dispatcher and user space share.
//!
//! A cache word is `tag << 40 | generation << 16 | set`. The cache is indexed by the cgroup's id
//! folded onto [`CACHE_BITS`] bits; the tag is the rest of the id, so index and tag together are
//! the whole id and a hit is never another cgroup's (S15). An id that needs more bits than both
//! have is resolved anew each time.

/// Slots of the cache, as a power of two: 128 KiB a hook.
pub const CACHE_BITS: u32 = 14;
/// Slots of the cache.
pub const CACHE_SLOTS: usize = 1 << CACHE_BITS;
/// Width of the tag.
pub const TAG_BITS: u32 = 24;
/// Where the generation starts in a word.
pub const GENERATION_SHIFT: u32 = 16;
/// The last generation: the next publication starts anew with a cleared cache.
pub const GENERATION_MAX: u64 = (1 << 24) - 1;
/// Highest set number; 0 is the empty set. PROG_ARRAYs have one entry more.
pub const SET_MAX: u16 = 0x3fff;
/// Sets with a number up to this one are reached by a direct jump, which the kernel patches into
/// the dispatcher; those above by an indirect one (0.12 of an empty program dearer where indirect
/// jumps are mitigated).
pub const DIRECT_SETS: u16 = 127;
/// Levels of the hierarchy that a dispatcher climbs.
pub const DEPTH_MAX: i32 = 128;

/// Index of the generation among the control words, shifted as it stands in a cache word.
pub const CONTROL_GENERATION: usize = 0;
/// Index of the counter of events whose set was not in its place.
pub const CONTROL_LOST_SET: usize = 1;
/// Index of the counter of events in cgroups deeper than [`DEPTH_MAX`].
pub const CONTROL_LOST_DEPTH: usize = 2;
/// Index of the generation, as a number, after whose publication a grace period has passed.
pub const CONTROL_SETTLED: usize = 3;
/// Index of the counter of events that belong to nobody. It may be written at every event, so it
/// lies two cache lines away from the generation, which every event reads.
pub const CONTROL_UNOWNED: usize = 16;
/// Index of the counter of notes that could not be stored.
pub const CONTROL_NOTES_LOST: usize = 17;
/// Number of control words.
pub const CONTROL_WORDS: usize = 24;
/// Levels of the hierarchy that a note holds, the root's included.
pub const NOTE_LEVELS: i16 = 16;

/// Where a cgroup's word lies in the cache, and its tag; `None` for an id that is too wide.
/// What the dispatcher computes, for tests and for reading the cache.
#[must_use]
pub fn slot(id: u64) -> Option<(usize, u64)> {
    let tag = id >> CACHE_BITS;
    (tag >> TAG_BITS == 0).then_some((((id ^ tag) & (CACHE_SLOTS as u64 - 1)) as usize, tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Slot and tag together give the id back: no two ids share both.
        #[test]
        fn a_slot_and_a_tag_name_one_id(id in 0u64..1 << (CACHE_BITS + TAG_BITS)) {
            let (index, tag) = slot(id).unwrap();
            let low = (index as u64 ^ tag) & (CACHE_SLOTS as u64 - 1);
            prop_assert_eq!(tag << CACHE_BITS | low, id);
        }
    }

    #[test]
    fn an_id_that_is_too_wide_has_no_slot() {
        assert_eq!(slot(1 << (CACHE_BITS + TAG_BITS)), None);
    }
}
