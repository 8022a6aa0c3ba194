//! What an object puts into its PROG_ARRAYs (`.values = { [0] = &program }`). libbpf keeps that
//! to itself until it has loaded the programs, so it is read from the file, as libbpf does
//! (`bpf_object__collect_map_relos`).

use cgtap_sys::libbpf::{Btf, BtfKind, SectionVar};

use super::elf::{Elf, SYMBOL_FUNC};

/// Size of a pointer in an object for BPF.
const POINTER_BYTES: u64 = 8;

/// A slot by the names in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedSlot {
    pub(super) map: String,
    pub(super) slot: u32,
    pub(super) program: String,
}

/// The slots that the object fills. `btf` must have its sections' offsets filled in.
pub(super) fn slots(elf: &Elf<'_>, btf: &Btf) -> Vec<NamedSlot> {
    let relocations = elf.relocations(".maps");
    if relocations.is_empty() {
        return Vec::new();
    }
    let maps = btf
        .find(".maps", BtfKind::Datasec)
        .map(|id| btf.section_vars(id))
        .unwrap_or_default();
    relocations
        .into_iter()
        // The others are maps, inside maps of maps, which libbpf fills itself.
        .filter(|(_, symbol)| symbol.kind == SYMBOL_FUNC)
        .filter_map(|(at, symbol)| {
            let map = maps.iter().find(|map| {
                let start = u64::from(map.offset_bytes);
                (start..start + u64::from(map.size_bytes)).contains(&at)
            })?;
            let values = values_offset(btf, map)?;
            let offset = at.checked_sub(u64::from(map.offset_bytes) + values)?;
            Some(NamedSlot {
                map: map.name.clone(),
                slot: u32::try_from(offset / POINTER_BYTES).ok()?,
                program: symbol.name.to_owned(),
            })
        })
        .collect()
}

/// Where `values`, the last member of a map's definition, begins in it, in bytes.
fn values_offset(btf: &Btf, map: &SectionVar) -> Option<u64> {
    let members = btf.members(btf.resolve(map.type_id));
    let last = members.last().filter(|member| member.name == "values")?;
    Some(u64::from(last.bit_offset / 8))
}
