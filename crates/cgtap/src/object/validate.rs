//! Whether an image is one: every index in range, every record in order. What the kernel would
//! refuse anyway is not repeated here; what cgtap's own rewriting relies on is.

use cgtap_sys::libbpf::{Btf, BtfKind};
use serde::{Deserialize, Serialize};

use super::image::{MapImage, ObjectImage, ProgramImage};
use crate::asm::Insn;
use crate::asm::{PSEUDO_MAP_FD, PSEUDO_MAP_IDX_VALUE, PSEUDO_MAP_VALUE};

/// The verifier's own limit of a program's length.
const MOST_INSNS: usize = 1_000_000;
/// `BPF_MAP_TYPE_PROG_ARRAY`.
const PROG_ARRAY: u32 = 3;

/// Why an image cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{part}: {why}")]
pub struct Invalid {
    /// Where: `program NAME`, `map NAME`, `BTF`, ...
    pub part: String,
    /// What is wrong.
    pub why: String,
}

fn invalid(part: impl Into<String>, why: impl Into<String>) -> Invalid {
    Invalid {
        part: part.into(),
        why: why.into(),
    }
}

/// Checks an image from an untrusted source (a child process, a pinned blob).
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(image: &ObjectImage) -> Result<(), Invalid> {
    let btf = if image.btf.is_empty() {
        None
    } else {
        Some(Btf::from_bytes(&image.btf).map_err(|e| invalid("BTF", e.to_string()))?)
    };
    if image.programs.is_empty() {
        return Err(invalid("image", "it has no programs"));
    }
    for map in &image.maps {
        check_map(map).map_err(|why| invalid(format!("map {}", map.name), why))?;
    }
    for program in &image.programs {
        check_insns(program, &image.maps)
            .and_then(|()| check_records(program, btf.as_ref()))
            .map_err(|why| invalid(format!("program {}", program.name), why))?;
    }
    for slot in &image.prog_array_slots {
        let fits = image.maps.get(slot.map as usize).is_some_and(|map| {
            map.map_type == PROG_ARRAY && map.storage.is_none() && slot.slot < map.max_entries
        });
        if !fits || slot.program as usize >= image.programs.len() {
            return Err(invalid(
                "initial entry of a PROG_ARRAY",
                "it is out of range",
            ));
        }
    }
    Ok(())
}

fn check_map(map: &MapImage) -> Result<(), String> {
    if map.name.is_empty() {
        return Err("it has no name".to_owned());
    }
    if map.storage.is_some() && (map.value_size == 0 || ![8, 16].contains(&map.key_size)) {
        return Err("it is no cgroup storage".to_owned());
    }
    Ok(())
}

fn check_insns(program: &ProgramImage, maps: &[MapImage]) -> Result<(), String> {
    let insns = &program.insns;
    if insns.is_empty() || insns.len() > MOST_INSNS {
        return Err(format!("it has {} instructions", insns.len()));
    }
    let mut at = 0;
    while let Some(insn) = insns.get(at).copied() {
        // Where control or an address may go, and how far a relative distance counts.
        let distance = if insn.is_call_sub() || insn.is_load_func() || insn.is_long_jump() {
            Some(i64::from(insn.imm))
        } else if insn.is_jump() {
            Some(i64::from(insn.off))
        } else {
            None
        };
        if let Some(distance) = distance {
            let target = at as i64 + 1 + distance;
            if !(0..insns.len() as i64).contains(&target) {
                return Err(format!("instruction {at} leads out of it"));
            }
        }
        if insn.is_load_imm64() {
            check_wide(at, insn, insns.get(at + 1), maps)?;
            at += 2;
        } else {
            at += 1;
        }
    }
    Ok(())
}

fn check_wide(at: usize, insn: Insn, high: Option<&Insn>, maps: &[MapImage]) -> Result<(), String> {
    if !high.is_some_and(|high| high.code == 0 && high.regs == 0 && high.off == 0) {
        return Err(format!("instruction {at} lacks its second half"));
    }
    if insn.src() == PSEUDO_MAP_FD || insn.src() == PSEUDO_MAP_VALUE {
        return Err(format!("instruction {at} names a descriptor"));
    }
    if insn.src() > PSEUDO_MAP_IDX_VALUE {
        return Err(format!("instruction {at} loads something unknown"));
    }
    let Some(index) = insn.map_index() else {
        return Ok(());
    };
    let Some(map) = maps.get(index as usize) else {
        return Err(format!(
            "instruction {at} names map {index} of {}",
            maps.len()
        ));
    };
    if map.storage.is_some() && insn.src() == PSEUDO_MAP_IDX_VALUE {
        return Err(format!("instruction {at} addresses a cgroup storage"));
    }
    Ok(())
}

fn check_records(program: &ProgramImage, btf: Option<&Btf>) -> Result<(), String> {
    let len = program.insns.len();
    let ascending = |offsets: Vec<u32>| {
        offsets.first().is_none_or(|first| *first == 0)
            && offsets.last().is_none_or(|last| (*last as usize) < len)
            && offsets.is_sorted_by(|a, b| a < b)
    };
    if !ascending(program.func_info.iter().map(|f| f.insn_off).collect()) {
        return Err("its function records are out of order".to_owned());
    }
    if !ascending(program.line_info.iter().map(|l| l.insn_off).collect()) {
        return Err("its line records are out of order".to_owned());
    }
    let Some(btf) = btf else {
        return if program.func_info.is_empty() && program.line_info.is_empty() {
            Ok(())
        } else {
            Err("it has records but no BTF".to_owned())
        };
    };
    for record in &program.func_info {
        if btf.kind(record.type_id) != Some(BtfKind::Func) {
            return Err(format!("type {} is no function", record.type_id));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::image::{FuncInfo, LineInfo, ProgArraySlot, StorageKind};
    use super::*;
    use crate::asm::{Reg, Size};

    fn good() -> ObjectImage {
        let mut insns = Insn::load_map(Reg::R1, 0).to_vec();
        insns.extend(Insn::load_map_value(Reg::R2, 1, 4));
        insns.extend([Insn::call_sub(1), Insn::exit()]);
        insns.extend([Insn::mov_imm(Reg::R0, 0), Insn::exit()]);
        let map = |name: &str, map_type| MapImage {
            name: name.to_owned(),
            map_type,
            key_size: 4,
            value_size: 8,
            max_entries: 2,
            storage: None,
        };
        ObjectImage {
            name: "o".to_owned(),
            license: "GPL".to_owned(),
            kern_version: 0,
            btf: Vec::new(),
            maps: vec![map("jumps", PROG_ARRAY), map(".bss", 2)],
            programs: vec![ProgramImage {
                name: "p".to_owned(),
                section: "raw_tp/x".to_owned(),
                sleepable: false,
                insns,
                func_info: Vec::new(),
                line_info: Vec::new(),
            }],
            prog_array_slots: vec![ProgArraySlot {
                map: 0,
                slot: 1,
                program: 0,
            }],
        }
    }

    #[test]
    fn a_good_image_passes() {
        validate(&good()).unwrap();
    }

    #[test]
    fn each_fault_is_found() {
        type Spoil = fn(&mut ObjectImage);
        let faults: &[(&str, Spoil)] = &[
            ("it has no programs", |o| o.programs.clear()),
            ("0 instructions", |o| o.programs[0].insns.clear()),
            ("second half", |o| o.programs[0].insns.truncate(3)),
            ("second half", |o| o.programs[0].insns[1].code = 7),
            ("names map 2 of 2", |o| o.programs[0].insns[0].imm = 2),
            ("names map 4294967295", |o| o.programs[0].insns[0].imm = -1),
            ("descriptor", |o| o.programs[0].insns[0].regs = 0x11),
            ("unknown", |o| o.programs[0].insns[0].regs = 0x71),
            ("leads out", |o| o.programs[0].insns[4].imm = 3),
            ("leads out", |o| o.programs[0].insns[4].imm = i32::MIN),
            ("leads out", |o| {
                o.programs[0].insns[6] = Insn::jump(1);
            }),
            ("cgroup storage", |o| {
                o.maps[1].key_size = 8;
                o.maps[1].storage = Some(StorageKind {
                    per_cpu: false,
                    per_hook: false,
                });
            }),
            ("no cgroup storage", |o| {
                o.maps[0].storage = Some(StorageKind {
                    per_cpu: true,
                    per_hook: true,
                });
            }),
            ("no name", |o| o.maps[0].name.clear()),
            ("out of range", |o| o.prog_array_slots[0].slot = 2),
            ("out of range", |o| o.prog_array_slots[0].map = 1),
            ("out of range", |o| o.prog_array_slots[0].program = 1),
            ("no BTF", |o| {
                o.programs[0].func_info.push(FuncInfo {
                    insn_off: 0,
                    type_id: 1,
                });
            }),
            ("function records", |o| {
                o.programs[0].func_info.push(FuncInfo {
                    insn_off: 1,
                    type_id: 1,
                });
            }),
            ("line records", |o| {
                let line = |insn_off| LineInfo {
                    insn_off,
                    file_name_off: 0,
                    line_off: 0,
                    line_col: 0,
                };
                o.programs[0].line_info = vec![line(0), line(2), line(2)];
            }),
            ("not BTF", |o| o.btf = vec![1, 2, 3]),
        ];
        for (want, spoil) in faults {
            let mut image = good();
            spoil(&mut image);
            let error = validate(&image).unwrap_err().to_string();
            assert!(error.contains(want), "{error:?} does not say {want:?}");
        }
    }

    #[test]
    fn a_constant_that_looks_like_a_call_is_none() {
        let mut image = good();
        image.programs[0].insns = [
            Insn::load_imm64(Reg::R0, u64::MAX).to_vec(),
            vec![
                Insn::store(Size::Dw, Reg::R10, -8, Reg::R0),
                Insn::call(1),
                Insn::exit(),
            ],
        ]
        .concat();
        validate(&image).unwrap();
    }
}
