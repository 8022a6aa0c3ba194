//! Cgroup storage maps. The kernel ties theirs to its own attachments, of which cgtap makes none:
//! the object gets a stand-in to be relocated against, and the attachment gets the real thing.

use cgtap_sys::libbpf::{MapDefinition, MapShape};

use super::error::Problem;
use super::image::StorageKind;

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_CGROUP_STORAGE`.
const CGROUP_STORAGE: u32 = 19;
/// `BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE`.
const PERCPU_CGROUP_STORAGE: u32 = 21;
/// Size of a bare cgroup id.
const ID_BYTES: u32 = 8;
/// Size of `struct bpf_cgroup_storage_key`: id and attach type, padded.
const KEY_BYTES: u32 = 16;

/// A small map that any program can name.
pub(super) const STAND_IN: MapShape = MapShape {
    map_type: ARRAY,
    key_size: 4,
    value_size: 8,
    max_entries: 1,
};

/// What kind of cgroup storage a map is, if it is one; refused with the kernel's own rules
/// (`cgroup_storage_map_alloc`).
pub(super) fn kind(map: &MapDefinition) -> Result<Option<StorageKind>, Problem> {
    let per_cpu = match map.map_type {
        CGROUP_STORAGE => false,
        PERCPU_CGROUP_STORAGE => true,
        _ => return Ok(None),
    };
    let wrong = |why: &str| {
        Err(Problem::StorageMap {
            map: map.name.clone(),
            why: why.to_owned(),
        })
    };
    if map.max_entries != 0 {
        return wrong("it has max_entries; leave that out, entries come and go with attachments");
    }
    if map.value_size == 0 {
        return wrong("its values have no size; give it a `__type(value, ...)`");
    }
    let per_hook = match map.key_size {
        ID_BYTES => false,
        KEY_BYTES => true,
        _ => {
            return wrong(
                "its key must be `__u64` (shared by the hooks of a cgroup) or \
                 `struct bpf_cgroup_storage_key` (one for each hook)",
            );
        }
    };
    Ok(Some(StorageKind { per_cpu, per_hook }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_says_who_shares() {
        let map = |map_type, key_size, value_size, max_entries| MapDefinition {
            name: "store".to_owned(),
            internal: false,
            map_type,
            key_size,
            value_size,
            max_entries,
            value_type_id: 0,
        };
        for (map_type, key_size, per_cpu, per_hook) in [
            (19, 8, false, false),
            (19, 16, false, true),
            (21, 8, true, false),
            (21, 16, true, true),
        ] {
            assert_eq!(
                kind(&map(map_type, key_size, 8, 0)),
                Ok(Some(StorageKind { per_cpu, per_hook }))
            );
        }
        assert_eq!(kind(&map(1, 4, 8, 16)), Ok(None));
        for bad in [map(19, 4, 8, 0), map(19, 8, 0, 0), map(21, 8, 8, 1)] {
            assert!(matches!(kind(&bad), Err(Problem::StorageMap { .. })));
        }
    }
}
