//! A stream of instructions with what belongs to it, and how it is edited without breaking a
//! jump.

use super::insn::Insn;

/// A function of a stream: where it starts, and what its BTF record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Func {
    /// First instruction.
    pub start: usize,
    /// `FUNC` in the BTF of the object, 0 where it has none.
    pub type_id: u32,
}

/// A line record of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The instruction.
    pub at: usize,
    /// Offset of the file name in the strings of the object's BTF.
    pub file_name_off: u32,
    /// Offset of the source line in the strings of the object's BTF.
    pub line_off: u32,
    /// Line and column as the kernel packs them.
    pub line_col: u32,
}

/// Instructions, function starts and line records of one program, entry first. Map indices in
/// it speak of a list that travels beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Code {
    /// The stream.
    pub insns: Vec<Insn>,
    /// Every function, in the order of the stream; the first starts at 0.
    pub funcs: Vec<Func>,
    /// Line records, in the order of the stream; may be empty.
    pub lines: Vec<Line>,
}

/// An edit that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A jump would have to reach further than its offset can say.
    #[error(
        "instruction {at} would have to jump {distance} instructions, past what its offset holds"
    )]
    JumpTooFar {
        /// The jump.
        at: usize,
        /// Its distance.
        distance: i64,
    },
    /// A jump or call leads out of the stream.
    #[error("instruction {at} leads out of the program")]
    Wild {
        /// The jump or call.
        at: usize,
    },
}

/// One replacement: `width` instructions from `at` on become `with`.
#[derive(Clone, Debug)]
pub struct Edit {
    /// First instruction that is replaced.
    pub at: usize,
    /// Number of instructions that are replaced; 0 inserts before `at`.
    pub width: usize,
    /// What stands there instead. Its own jumps are relative and stay within it.
    pub with: Vec<Insn>,
}

/// Where a relative instruction leads.
fn target(at: usize, insn: Insn) -> Option<i64> {
    let next = at as i64 + 1;
    if insn.is_long_jump() || insn.is_call_sub() || insn.is_load_func() {
        // `ldimm64` of a function is relative to its first half, plus one, as a call is.
        Some(next + i64::from(insn.imm))
    } else if insn.is_jump() {
        Some(next + i64::from(insn.off))
    } else {
        None
    }
}

fn retarget(insn: &mut Insn, at: usize, to: usize) -> Result<(), EditError> {
    let distance = to as i64 - (at as i64 + 1);
    let too_far = || EditError::JumpTooFar { at, distance };
    if insn.is_jump() && !insn.is_long_jump() {
        insn.off = i16::try_from(distance).map_err(|_| too_far())?;
    } else {
        insn.imm = i32::try_from(distance).map_err(|_| too_far())?;
    }
    Ok(())
}

impl Code {
    /// Iterates over the instructions that start one: the second half of `ldimm64` is passed
    /// over.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Insn)> + '_ {
        let mut skip = false;
        self.insns
            .iter()
            .copied()
            .enumerate()
            .filter(move |(_, insn)| {
                let second = skip;
                skip = !second && insn.is_load_imm64();
                !second
            })
    }

    /// Whether any of it calls `helper`.
    #[must_use]
    pub fn calls(&self, helper: i32) -> bool {
        self.iter().any(|(_, insn)| insn.is_call_of(helper))
    }

    /// Where its jumps lead to.
    pub fn jump_targets(&self) -> impl Iterator<Item = i64> + '_ {
        let jumps = self.iter().filter(|(_, insn)| insn.is_jump());
        jumps.filter_map(|(at, insn)| target(at, insn))
    }

    /// Makes all `edits`, which are in the order of the stream and do not overlap. Jumps, calls,
    /// addresses of functions, function starts and line records follow. What led to a replaced
    /// instruction leads to what replaces it.
    ///
    /// # Errors
    /// [`EditError`]; the code is as it was.
    pub fn edit(&mut self, edits: &[Edit]) -> Result<(), EditError> {
        if edits.is_empty() {
            return Ok(());
        }
        let old_len = self.insns.len();
        // Old place -> new place, for every place and the end.
        let mut moved = vec![0usize; old_len + 1];
        // New place of what was kept -> its old place.
        let mut kept: Vec<(usize, usize)> = Vec::with_capacity(old_len);
        let mut insns =
            Vec::with_capacity(old_len + edits.iter().map(|e| e.with.len()).sum::<usize>());
        let mut edits = edits.iter().peekable();
        let mut at = 0;
        while at < old_len {
            if let Some(edit) = edits.next_if(|e| e.at == at) {
                for place in &mut moved[at..at + edit.width] {
                    *place = insns.len();
                }
                if edit.width == 0 {
                    moved[at] = insns.len();
                }
                insns.extend_from_slice(&edit.with);
                at += edit.width;
                if edit.width == 0 {
                    kept.push((insns.len(), at));
                    insns.push(self.insns[at]);
                    at += 1;
                }
                continue;
            }
            moved[at] = insns.len();
            kept.push((insns.len(), at));
            insns.push(self.insns[at]);
            at += 1;
        }
        moved[old_len] = insns.len();

        let starts: std::collections::HashSet<usize> = self.iter().map(|(at, _)| at).collect();
        for (new_at, old_at) in kept {
            if !starts.contains(&old_at) {
                continue;
            }
            if let Some(to) = target(old_at, self.insns[old_at]) {
                let to = usize::try_from(to)
                    .ok()
                    .and_then(|to| moved.get(to))
                    .ok_or(EditError::Wild { at: old_at })?;
                retarget(&mut insns[new_at], new_at, *to)?;
            }
        }
        self.insns = insns;
        for func in &mut self.funcs {
            func.start = moved.get(func.start).copied().unwrap_or_default();
        }
        for line in &mut self.lines {
            line.at = moved.get(line.at).copied().unwrap_or_default();
        }
        // Two records for one instruction are refused by the kernel; the first one stays.
        self.lines.dedup_by_key(|line| line.at);
        Ok(())
    }

    /// Puts instructions in front of the entry function. What led to its first instruction, a
    /// loop, still leads there and not to what was put in front.
    pub fn prepend(&mut self, front: &[Insn]) {
        self.insns.splice(0..0, front.iter().copied());
        // The entry, and its first line, begin with what was put in front.
        for func in self.funcs.iter_mut().filter(|f| f.start > 0) {
            func.start += front.len();
        }
        for line in self.lines.iter_mut().filter(|l| l.at > 0) {
            line.at += front.len();
        }
    }

    /// Length of the entry function: up to the start of the next one.
    #[must_use]
    pub fn entry_len(&self) -> usize {
        self.funcs.get(1).map_or(self.insns.len(), |f| f.start)
    }

    /// The entry function calls, jumps and falls only where it may: every relative instruction
    /// leads to a place in the stream.
    ///
    /// # Errors
    /// [`EditError::Wild`] for the first one that does not.
    pub fn check(&self) -> Result<(), EditError> {
        for (at, insn) in self.iter() {
            if let Some(to) = target(at, insn)
                && !usize::try_from(to).is_ok_and(|to| to < self.insns.len())
            {
                return Err(EditError::Wild { at });
            }
        }
        Ok(())
    }

    /// Starts of the functions that the stream calls or takes the address of.
    #[must_use]
    pub fn called_starts(&self) -> Vec<usize> {
        let mut starts: Vec<usize> = self
            .iter()
            .filter(|(_, insn)| insn.is_call_sub() || insn.is_load_func())
            .filter_map(|(at, insn)| target(at, insn))
            .filter_map(|to| usize::try_from(to).ok())
            .collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::super::insn::{Cond, Reg};
    use super::*;

    fn code(insns: Vec<Insn>) -> Code {
        Code {
            insns,
            funcs: vec![Func {
                start: 0,
                type_id: 0,
            }],
            lines: Vec::new(),
        }
    }

    #[test]
    fn a_jump_over_a_longer_replacement_is_stretched() {
        let mut c = code(vec![
            Insn::jump_if_imm(Cond::Eq, Reg::R1, 0, 1),
            Insn::mov_imm(Reg::R0, 1),
            Insn::exit(),
        ]);
        let with = vec![Insn::mov_imm(Reg::R0, 2); 5];
        c.edit(&[Edit {
            at: 1,
            width: 1,
            with,
        }])
        .unwrap();
        assert_eq!(c.insns.len(), 7);
        assert_eq!(c.insns[0].off, 5);
    }

    #[test]
    fn a_backward_jump_and_an_insert_at_its_target() {
        let mut c = code(vec![
            Insn::mov_imm(Reg::R0, 0),
            Insn::mov_imm(Reg::R1, 0),
            Insn::jump(-2),
            Insn::exit(),
        ]);
        c.edit(&[Edit {
            at: 1,
            width: 0,
            with: vec![Insn::mov_imm(Reg::R3, 3)],
        }])
        .unwrap();
        // The insert belongs to what led to its place.
        assert_eq!(c.insns[3].off, -3);
    }

    #[test]
    fn a_loop_to_the_first_instruction_passes_over_what_is_put_in_front() {
        let mut c = code(vec![
            Insn::mov_imm(Reg::R1, 0),
            Insn::jump(-2),
            Insn::exit(),
        ]);
        c.prepend(&[Insn::mov_imm(Reg::R2, 2), Insn::mov_imm(Reg::R3, 3)]);
        assert_eq!((c.insns.len(), c.insns[3].off), (5, -2));
    }

    #[test]
    fn calls_functions_and_lines_follow() {
        let mut c = code(vec![
            Insn::call_sub(1),
            Insn::exit(),
            Insn::mov_imm(Reg::R0, 7),
            Insn::exit(),
        ]);
        c.funcs.push(Func {
            start: 2,
            type_id: 9,
        });
        c.lines.push(Line {
            at: 2,
            file_name_off: 0,
            line_off: 0,
            line_col: 0,
        });
        c.edit(&[Edit {
            at: 1,
            width: 1,
            with: vec![Insn::mov_imm(Reg::R0, 0), Insn::exit()],
        }])
        .unwrap();
        assert_eq!(c.insns[0].imm, 2);
        assert_eq!(c.funcs[1].start, 3);
        assert_eq!(c.lines[0].at, 3);
        assert_eq!(c.called_starts(), [3]);
        c.check().unwrap();
    }

    #[test]
    fn the_second_half_of_a_wide_load_is_no_jump() {
        let mut wide = Insn::load_imm64(Reg::R1, 0).to_vec();
        wide.push(Insn::exit());
        let mut c = code(wide);
        c.edit(&[Edit {
            at: 2,
            width: 0,
            with: vec![Insn::mov_imm(Reg::R0, 0)],
        }])
        .unwrap();
        assert_eq!(c.insns.len(), 4);
        assert_eq!(c.iter().count(), 3);
    }

    #[test]
    fn a_wild_jump_is_refused() {
        assert_eq!(
            code(vec![Insn::jump(5)]).check(),
            Err(EditError::Wild { at: 0 })
        );
    }
}
