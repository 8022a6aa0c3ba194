//! Maps of every kind come out created, named and in order, and programs find them by index.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod object_support;

use cgtap::object::{LoadOptions, load_file};
use cgtap_sys::bpf::map_type_name;
use object_support::{compile, has_cgrp_storage, load_all, map, must_load, try_load};

#[test]
fn every_kind_of_map_is_created_and_found_by_its_index() {
    let object = load_all("maps");
    let mut want = vec![
        ("hash", "hash"),
        ("array", "array"),
        ("percpu_hash", "percpu_hash"),
        ("percpu_array", "percpu_array"),
        ("lru_hash", "lru_hash"),
        ("lru_percpu_hash", "lru_percpu_hash"),
        ("ringbuf", "ringbuf"),
        ("events", "perf_event_array"),
        ("stacks", "stack_trace"),
        ("queue", "queue"),
        ("stack", "stack"),
        ("bloom", "bloom_filter"),
        ("inner_a", "array"),
        ("inner_b", "array"),
        ("outer_hash", "hash_of_maps"),
        ("outer_array", "array_of_maps"),
        ("task_storage", "task_storage"),
        ("unused", "hash"),
    ];
    if has_cgrp_storage() {
        want.insert(17, ("cgrp_storage", "cgrp_storage"));
    }
    let mut have: Vec<(&str, String)> = object
        .image
        .maps
        .iter()
        .map(|m| (m.name.as_str(), map_type_name(m.map_type)))
        .collect();
    have.sort();
    let mut want: Vec<(&str, String)> = want.iter().map(|(n, t)| (*n, (*t).to_owned())).collect();
    want.sort();
    assert_eq!(have, want);
    assert!(object.maps.iter().all(Option::is_some));
    for (image, fd) in object.image.maps.iter().zip(&object.maps) {
        let map = cgtap_sys::bpf::Map::from_fd(fd.as_ref().unwrap().try_clone().unwrap()).unwrap();
        let info = map.info().unwrap();
        assert_eq!(info.map_type, image.map_type, "{}", image.name);
        assert_eq!(info.max_entries, image.max_entries, "{}", image.name);
    }
    must_load(&object, "use_them");
}

#[test]
fn maps_of_maps_hold_what_the_object_put_in() {
    let object = load_all("maps");
    let inner_a = map(&object, "inner_a").info().unwrap().id;
    let inner_b = map(&object, "inner_b").info().unwrap().id;
    let entry = |outer: &str, key: u32| {
        map(&object, outer)
            .lookup(&key.to_ne_bytes())
            .unwrap()
            .map(|id| u32::from_ne_bytes(id[..4].try_into().unwrap()))
    };
    assert_eq!(entry("outer_hash", 1), Some(inner_a));
    assert_eq!(entry("outer_hash", 3), Some(inner_b));
    assert_eq!(entry("outer_hash", 2), None);
    assert_eq!(entry("outer_array", 0), Some(inner_b));
}

#[test]
fn each_load_has_maps_of_its_own() {
    let (a, b) = (load_all("maps"), load_all("maps"));
    let id = |object| map(object, "hash").info().unwrap().id;
    assert_ne!(id(&a), id(&b));
}

#[test]
fn nothing_is_pinned_or_taken_from_pins() {
    let pin = std::path::Path::new("/sys/fs/bpf/cgtap_object_test_pinned");
    assert!(!pin.exists());
    let object = load_all("pinned");
    assert!(!pin.exists());
    let first = map(&object, "cgtap_object_test_pinned").info().unwrap().id;
    let again = load_all("pinned");
    assert_ne!(
        map(&again, "cgtap_object_test_pinned").info().unwrap().id,
        first
    );
    must_load(&object, "look");
}

#[test]
fn loading_leaks_no_descriptor() {
    let path = compile("variables");
    let load = || drop(load_file(&path, &LoadOptions::default()).unwrap());
    load();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests of this file open some at the same time: take the lowest of some tries.
    let lowest = |f: &dyn Fn()| {
        (0..5)
            .map(|_| {
                f();
                open()
            })
            .min()
            .unwrap()
    };
    let before = lowest(&|| {});
    for _ in 0..50 {
        load();
    }
    let after = lowest(&load);
    assert!(after < before + 40, "{before} descriptors became {after}");
}

#[test]
fn a_map_without_a_size_can_be_given_one() {
    let error = try_load("unsized", &[], &[]).unwrap_err();
    // Which of the two comes first is the compiler's choice.
    let text = error.to_string().replace("stacks", "starts");
    assert_eq!(
        text,
        "cannot load unsized.bpf.o: map starts has no max_entries: it is left to whoever loads \
         the object; give it one with `--set starts.max_entries=N`"
    );
    assert_eq!((error.kind(), error.errno()), ("unsized-map", Some(22)));
    let set = [
        ("starts.max_entries", "100"),
        ("stacks.max_entries", "16"),
        ("stacks.value_size", "1016"),
    ];
    let error = try_load("unsized", &[], &set[..2]).unwrap_err();
    assert!(error.to_string().contains("stacks.value_size=N"), "{error}");
    let object = try_load("unsized", &[], &set).unwrap();
    assert_eq!(map(&object, "starts").info().unwrap().max_entries, 100);
    must_load(&object, "look");

    let error = try_load("unsized", &[], &[("start.max_entries", "1")]).unwrap_err();
    assert_eq!(error.kind(), "unknown-variable");
    assert!(
        error
            .to_string()
            .contains("did you mean starts.max_entries or "),
        "{error}"
    );
    let error = try_load("unsized", &[], &[("starts.max_entries", "-1")]).unwrap_err();
    assert_eq!(error.kind(), "bad-value");
}
