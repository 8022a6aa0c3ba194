//! Cgroup storage maps: noted in the image, not created.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod object_support;

use cgtap::object::image::StorageKind;
use object_support::{load_all, map, program, try_load};

#[test]
fn the_four_forms_are_told_apart() {
    let object = load_all("storage");
    for (name, per_cpu, per_hook, key_size) in [
        ("shared", false, false, 8),
        ("by_hook", false, true, 16),
        ("shared_percpu", true, false, 8),
        ("by_hook_percpu", true, true, 16),
    ] {
        let index = object.image.maps.iter().position(|m| m.name == name);
        let index = index.unwrap();
        let image = &object.image.maps[index];
        assert_eq!(image.storage, Some(StorageKind { per_cpu, per_hook }));
        assert_eq!(image.map_type, if per_cpu { 21 } else { 19 });
        assert_eq!(
            (image.key_size, image.value_size, image.max_entries),
            (key_size, 16, 0)
        );
        assert!(object.maps[index].is_none());
    }
    // The others are there as ever.
    map(&object, ".bss");
}

#[test]
fn programs_name_storage_by_its_index() {
    let object = load_all("storage");
    let used = |name: &str| -> Vec<&str> {
        program(&object.image, name)
            .insns
            .iter()
            .filter_map(|i| i.map_index())
            .map(|i| object.image.maps[i as usize].name.as_str())
            .collect()
    };
    assert!(used("count").contains(&"shared"));
    assert!(used("count").contains(&"shared_percpu"));
    assert!(used("count_by_hook").contains(&"by_hook"));
    assert!(used("count_by_hook").contains(&"by_hook_percpu"));
}

#[test]
fn a_key_the_kernel_would_refuse_is_refused() {
    let error = try_load("bad_storage", &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot load bad_storage.bpf.o: cgroup storage map wrong_key: its key must be `__u64` \
         (shared by the hooks of a cgroup) or `struct bpf_cgroup_storage_key` (one for each hook)"
    );
    assert_eq!(error.kind(), "unsupported");
}
