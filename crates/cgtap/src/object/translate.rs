//! From libbpf's instructions, which name maps by descriptors of this process, to the image's,
//! which name them by index.

use std::collections::HashMap;

use cgtap_sys::libbpf::{Prepared, ProgramInfo};

use super::error::Problem;
use super::image::{FuncInfo, LineInfo, ProgramImage};
use crate::asm::Insn;
use crate::asm::{
    PSEUDO_BTF_ID, PSEUDO_MAP_FD, PSEUDO_MAP_IDX, PSEUDO_MAP_IDX_VALUE, PSEUDO_MAP_VALUE,
};

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `src_reg` of a call: a kernel function, by BTF id.
const PSEUDO_KFUNC_CALL: u8 = 2;

/// The image of `program`, whose maps are at `map_of` their descriptor.
pub(super) fn translate(
    program: &ProgramInfo,
    prepared: Prepared,
    map_of: &HashMap<i32, u32>,
    keep_info: bool,
) -> Result<ProgramImage, Problem> {
    let mut insns: Vec<Insn> = prepared.insns.iter().map(decode).collect();
    let mut at = 0;
    while let Some(insn) = insns.get(at).copied() {
        let wide = insn.is_load_imm64();
        let high = insns.get(at + 1).map_or(0, |high| high.imm);
        if let Some(new) = rename(&program.name, insn, high, map_of)?
            && let Some(place) = insns.get_mut(at)
        {
            *place = new;
        }
        at += if wide { 2 } else { 1 };
    }
    let (func_info, line_info) = if keep_info {
        (prepared.func_info, prepared.line_info)
    } else {
        (Vec::new(), Vec::new())
    };
    Ok(ProgramImage {
        name: program.name.clone(),
        section: program.section.clone(),
        sleepable: is_sleepable(program),
        insns,
        func_info: func_info
            .into_iter()
            .map(|[insn_off, type_id]| FuncInfo { insn_off, type_id })
            .collect(),
        line_info: line_info
            .into_iter()
            .map(|[insn_off, file_name_off, line_off, line_col]| LineInfo {
                insn_off,
                file_name_off,
                line_off,
                line_col,
            })
            .collect(),
    })
}

fn decode(raw: &[u8; 8]) -> Insn {
    let [code, regs, off0, off1, imm @ ..] = *raw;
    Insn {
        code,
        regs,
        off: i16::from_ne_bytes([off0, off1]),
        imm: i32::from_ne_bytes(imm),
    }
}

/// libbpf sets the flag at load, from the ending of the section's kind.
fn is_sleepable(program: &ProgramInfo) -> bool {
    const BPF_F_SLEEPABLE: u32 = 1 << 4;
    let kind = program
        .section
        .split_once('/')
        .map_or(program.section.as_str(), |(kind, _)| kind);
    kind.ends_with(".s") || program.flags & BPF_F_SLEEPABLE != 0
}

/// What stands in the place of `insn`, if something else does. `high` is the immediate behind it.
fn rename(
    program: &str,
    insn: Insn,
    high: i32,
    map_of: &HashMap<i32, u32>,
) -> Result<Option<Insn>, Problem> {
    if insn.code == CALL && insn.src() == PSEUDO_KFUNC_CALL && insn.off != 0 {
        return Err(Problem::Unsupported {
            what: format!("program {program} calls a function of a kernel module"),
            remedy: String::new(),
        });
    }
    if !insn.is_load_imm64() {
        return Ok(None);
    }
    let pseudo = match insn.src() {
        PSEUDO_MAP_FD => PSEUDO_MAP_IDX,
        PSEUDO_MAP_VALUE => PSEUDO_MAP_IDX_VALUE,
        // The second half names the BTF of a module by a descriptor of this process.
        PSEUDO_BTF_ID if high != 0 => {
            return Err(Problem::Unsupported {
                what: format!("program {program} reads a variable of a kernel module"),
                remedy: String::new(),
            });
        }
        _ => return Ok(None),
    };
    let Some(index) = map_of.get(&insn.imm) else {
        // libbpf makes one for each `switch` that clang 20 and later turns into a table. Its
        // entries count instructions from the beginning of the program alone.
        return Err(Problem::Unsupported {
            what: format!("program {program} uses a jump table"),
            remedy: "; compile it with `-fno-jump-tables`".to_owned(),
        });
    };
    Ok(Some(Insn {
        regs: insn.dst() | (pseudo << 4),
        imm: index.cast_signed(),
        ..insn
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(section: &str) -> ProgramInfo {
        ProgramInfo {
            name: "p".to_owned(),
            section: section.to_owned(),
            autoload: true,
            flags: 0,
        }
    }

    fn raw(code: u8, regs: u8, off: i16, imm: i32) -> [u8; 8] {
        let mut raw = [code, regs, 0, 0, 0, 0, 0, 0];
        raw[2..4].copy_from_slice(&off.to_ne_bytes());
        raw[4..].copy_from_slice(&imm.to_ne_bytes());
        raw
    }

    fn run(insns: Vec<[u8; 8]>) -> Result<ProgramImage, Problem> {
        let prepared = Prepared {
            insns,
            func_info: vec![[0, 3]],
            line_info: vec![[0, 1, 2, 3]],
        };
        let maps = HashMap::from([(17, 0), (19, 4)]);
        translate(&program("raw_tp/x"), prepared, &maps, true)
    }

    #[test]
    fn descriptors_become_indices_and_offsets_stay() {
        let image = run(vec![
            raw(0x18, 0x11, 0, 19),
            raw(0, 0, 0, 0),
            raw(0x18, 0x23, 0, 17),
            raw(0, 0, 0, 12),
            raw(0x95, 0, 0, 0),
        ])
        .unwrap();
        assert_eq!(image.insns[0].map_index(), Some(4));
        assert_eq!((image.insns[0].src(), image.insns[0].dst()), (5, 1));
        assert_eq!(image.insns[2].map_index(), Some(0));
        assert_eq!((image.insns[2].src(), image.insns[2].dst()), (6, 3));
        assert_eq!(image.insns[3].imm, 12);
        assert!(image.insns[4].is_exit());
        assert_eq!(image.func_info[0].type_id, 3);
    }

    #[test]
    fn a_number_that_looks_like_a_load_is_left_alone() {
        // The second half of a plain 64-bit constant is no instruction.
        let image = run(vec![
            raw(0x18, 0, 0, 17),
            raw(0, 0, 0, 0x18),
            raw(0x95, 0, 0, 0),
        ])
        .unwrap();
        assert_eq!(image.insns[0].imm, 17);
    }

    #[test]
    fn what_belongs_to_this_process_alone_is_refused() {
        for insns in [
            vec![raw(0x18, 0x11, 0, 99), raw(0, 0, 0, 0)],
            vec![raw(0x18, 0x31, 0, 5), raw(0, 0, 0, 8)],
            vec![raw(0x85, 0x20, 1, 5)],
        ] {
            assert!(matches!(run(insns), Err(Problem::Unsupported { .. })));
        }
    }

    #[test]
    fn sleepable_is_read_off_the_section() {
        assert!(is_sleepable(&program("lsm.s/file_open")));
        assert!(!is_sleepable(&program("raw_tp/a.s")));
        assert!(!is_sleepable(&program("raw_tp")));
    }
}
