//! S23 to S29 on a real kernel: cgroup storage in its four forms, cookies, and storage that is
//! keyed by the event's cgroup.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use std::os::fd::AsRawFd;

use cgtap::engine::{ObjectSource, ProgramChoice, ReplaceRequest};
use cgtap::id::AttachmentId;
use cgtap_sys::Errno;
use cgtap_sys::bpf::{CGRP_STORAGE, has_map_type};
use rules::{Lab, choose, ok, refused, source};
use support::{Sandbox, ids};

/// The four forms: by their maps, and whether they hold one value a CPU.
const FORMS: [(&str, bool); 4] = [
    ("shared", false),
    ("by_hook", false),
    ("shared_percpu", true),
    ("by_hook_percpu", true),
];
/// `struct value` in `stores.bpf.c`.
const VALUE_BYTES: usize = 24;

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    let byte = |d: &[u8]| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// The values of one map of an attachment: one, or one a CPU.
fn values(sandbox: &Sandbox, id: AttachmentId, map: &str) -> Vec<Vec<u8>> {
    let report = ok(sandbox.engine.storage(id));
    assert_eq!(report.attachment, id);
    let map = report.maps.iter().find(|m| m.name == map).unwrap();
    match (&map.value_hex, &map.values_hex) {
        (Some(one), None) => vec![bytes(one)],
        (None, Some(all)) => all.iter().map(|v| bytes(v)).collect(),
        other => panic!("{other:?}"),
    }
}

/// A word of the values, summed over CPUs.
fn word(sandbox: &Sandbox, id: AttachmentId, map: &str, at: usize) -> u64 {
    let all = values(sandbox, id, map);
    let word = |v: &Vec<u8>| u64::from_ne_bytes(v[at * 8..at * 8 + 8].try_into().unwrap());
    all.iter().map(word).sum()
}

/// The counts of the four forms.
fn counts(sandbox: &Sandbox, id: AttachmentId) -> [u64; 4] {
    FORMS.map(|(map, per_cpu)| {
        let cpus = values(sandbox, id, map);
        assert!(cpus.iter().all(|v| v.len() == VALUE_BYTES));
        assert_eq!(
            cpus.len() > 1,
            per_cpu && cgtap_sys::bpf::possible_cpus().unwrap() > 1
        );
        word(sandbox, id, map, 0)
    })
}

/// S23: with the program at the parent only, an event in the child counts in the parent's storage;
/// the child has none.
#[test]
fn s23_storage_is_the_attachments_not_the_events() {
    let lab = Lab::with_keep_only("s23", "stores");
    let parent = lab.put("t", "enter");
    lab.getppid("t/child", 100);
    assert_eq!(counts(&lab, parent), [100; 4]);
    lab.getppid("t", 10);
    lab.getppid("t/child/deep", 1);
    assert_eq!(counts(&lab, parent), [111; 4]);
    // What is not attached has no storage, and neither has a cgroup without attachments.
    let nobody = AttachmentId(12_345);
    refused(lab.engine.storage(nobody), Errno::ENOENT);
    refused(
        lab.engine.set_storage(nobody, "shared", &[0; VALUE_BYTES]),
        Errno::ENOENT,
    );
    let pins = rules::files(&lab.state);
    let stores = pins
        .iter()
        .filter(|p| p.to_string_lossy().contains("_cgroup_"));
    let of_parent = format!("_cgroup_{}_", lab.own("t")[0].cgroup_id);
    let mut seen = 0;
    for path in stores {
        let text = path.to_string_lossy();
        seen += usize::from(text.contains(&of_parent));
        assert!(
            text.contains(&of_parent) || text.contains(&kept(&lab)),
            "{text}"
        );
    }
    assert!(seen >= 4);
}

fn kept(lab: &Lab) -> String {
    format!("_cgroup_{}_", lab.own("kept")[0].cgroup_id)
}

/// S24: at both, an event in the child runs both, each with its own.
#[test]
fn s24_parent_and_child_have_storage_of_their_own() {
    let lab = Lab::with_keep_only("s24", "stores");
    let parent = lab.put("t", "enter");
    let child = lab.put("t/child", "enter");
    lab.getppid("t/child", 100);
    assert_eq!(counts(&lab, parent), [100; 4]);
    assert_eq!(counts(&lab, child), [100; 4]);
    lab.getppid("t", 10);
    lab.getppid("t/child/deep", 1);
    assert_eq!(counts(&lab, parent), [111; 4]);
    assert_eq!(counts(&lab, child), [101; 4]);
}

/// S25: two hooks of a cgroup share storage by a bare cgroup id, and have each their own by the
/// kernel's struct.
#[test]
fn s25_the_key_chooses_whether_hooks_share() {
    let lab = Lab::with_keep_only("s25", "stores");
    let raw = lab.put("t", "enter");
    let typed = lab.put("t", "typed");
    let third = lab.put("t", "third");
    lab.getppid("t", 100);
    lab.detach(third).unwrap();
    lab.getppid("t", 10);
    for id in [raw, typed] {
        assert_eq!(counts(&lab, id), [320, 110, 320, 110]);
    }
    // Elsewhere it is apart in any case.
    let elsewhere = lab.put("u", "enter");
    lab.getppid("u", 1);
    assert_eq!(counts(&lab, elsewhere), [1; 4]);
    assert_eq!(counts(&lab, raw), [320, 110, 320, 110]);
}

/// S25: two programs at one hook of one cgroup get the same storage, as the kernel keys it by
/// cgroup and attach type, not by program. Another instance has maps of its own.
#[test]
fn s25_programs_of_one_list_share_and_instances_do_not() {
    let lab = Lab::with_keep_only("s25-list", "stores");
    let ones = lab.put("t", "enter");
    let tens = lab.put("t", "tens");
    let mut request = lab.request("t", "stores");
    request.programs = choose(&["enter"]);
    let other = ids(&ok(lab.engine.attach(request)))[0];
    lab.getppid("t", 7);
    assert_eq!(counts(&lab, ones), [77; 4]);
    assert_eq!(counts(&lab, tens), [77; 4]);
    assert_eq!(counts(&lab, other), [7; 4]);
}

/// S26: zero at the first attach and at every attach after it was freed; kept from run to run,
/// through other changes, and through an update in place.
#[test]
fn s26_storage_outlives_runs_and_starts_from_zero() {
    let lab = Lab::with_keep_only("s26", "stores");
    for _ in 0..3 {
        let id = lab.put("t", "enter");
        assert_eq!(counts(&lab, id), [0; 4]);
        lab.getppid("t", 5);
        lab.getppid("t", 5);
        let other = lab.put("t/child", "enter");
        lab.getppid("t/child", 5);
        lab.detach(other).unwrap();
        assert_eq!(counts(&lab, id), [15; 4]);
        ok(lab.engine.replace(lab.update(id, "tens")));
        lab.getppid("t", 1);
        assert_eq!(counts(&lab, id), [25; 4]);
        lab.detach(id).unwrap();
        refused(lab.engine.storage(id), Errno::ENOENT);
    }
    // One of two goes: the storage that both use stays.
    let first = lab.put("t", "enter");
    let second = lab.put("t", "tens");
    lab.getppid("t", 1);
    lab.detach(first).unwrap();
    assert_eq!(counts(&lab, second), [11; 4]);
    // Another instance's program in its place begins with its own.
    let anew = ReplaceRequest {
        source: source("stores"),
        ..lab.update(second, "enter")
    };
    ok(lab.engine.replace(anew));
    assert_eq!(counts(&lab, second), [0; 4]);
    lab.getppid("t", 2);
    assert_eq!(counts(&lab, second), [2; 4]);
}

/// S26: freed with the cgroup.
#[test]
fn s26_storage_goes_with_its_cgroup() {
    let lab = Lab::with_keep_only("s26-gone", "stores");
    let before = rules::files(&lab.state);
    let id = lab.put("t", "enter");
    lab.getppid("t", 5);
    lab.remove("t");
    refused(lab.engine.storage(id), Errno::ENOENT);
    assert_eq!(rules::files(&lab.state), before);
    let anew = lab.put("t", "enter");
    assert_eq!(counts(&lab, anew), [0; 4]);
}

/// S26: user space reads and writes at any time; the programs see what it wrote.
#[test]
fn s26_user_space_reads_and_writes_storage() {
    let lab = Lab::with_keep_only("s26-write", "stores");
    let id = lab.put("t", "enter");
    let mut value = [0xa5; VALUE_BYTES];
    value[..8].copy_from_slice(&1000u64.to_ne_bytes());
    for (map, per_cpu) in FORMS {
        ok(lab.engine.set_storage(id, map, &value));
        let written = values(&lab, id, map);
        // The kernel writes per-CPU storage on every CPU.
        assert!(written.iter().all(|v| *v == value), "{map}: {written:?}");
        let cpus = if per_cpu { written.len() as u64 } else { 1 };
        lab.getppid("t", 3);
        assert_eq!(word(&lab, id, map, 0), 1000 * cpus + 3);
        // A value of another size, a map of another name.
        for size in [0, 8, VALUE_BYTES - 1, VALUE_BYTES + 1] {
            refused(
                lab.engine.set_storage(id, map, &vec![0; size]),
                Errno::EINVAL,
            );
        }
        ok(lab.engine.set_storage(id, map, &[0; VALUE_BYTES]));
        assert_eq!(word(&lab, id, map, 0), 0);
    }
    for map in ["no_such", "keep", ""] {
        refused(lab.engine.set_storage(id, map, &value), Errno::ENOENT);
    }
}

/// S26: storage of any size, also one byte.
#[test]
fn s26_storage_of_one_byte() {
    let lab = Lab::with_keep_only("s26-tiny", "stores");
    let id = lab.put("t", "small");
    lab.getppid("t", 3);
    assert_eq!(values(&lab, id, "tiny"), [[3]]);
    let sum = |v: Vec<Vec<u8>>| v.iter().map(|b| u32::from(b[0])).sum::<u32>();
    let all = values(&lab, id, "tiny_percpu");
    assert!(all.iter().all(|v| v.len() == 1));
    assert_eq!(sum(all), 3);
    ok(lab.engine.set_storage(id, "tiny", &[255]));
    ok(lab.engine.set_storage(id, "tiny_percpu", &[100]));
    lab.getppid("t", 1);
    assert_eq!(values(&lab, id, "tiny"), [[0]]);
    let cpus = cgtap_sys::bpf::possible_cpus().unwrap() as u32;
    assert_eq!(sum(values(&lab, id, "tiny_percpu")), 100 * cpus + 1);
}

/// S27: per-CPU storage has one value a CPU, and each counts what ran there.
#[test]
fn s27_per_cpu_storage_has_a_value_for_each_cpu() {
    let lab = Lab::with_keep_only("s27", "stores");
    let id = lab.put("t", "enter");
    let cpus = cgtap_sys::bpf::possible_cpus().unwrap();
    for cpu in 0..cpus {
        let status = std::process::Command::new("taskset")
            .args(["-c", &cpu.to_string(), "sh", "-c"])
            .arg("true")
            .status();
        if !status.is_ok_and(|s| s.success()) {
            // Not online, or not ours.
            continue;
        }
        let before: Vec<u64> = per_cpu(&lab, id, "by_hook_percpu");
        rules::act_on(cpu, &["hop", &lab.procs("t").display().to_string(), "10"]);
        let after = per_cpu(&lab, id, "by_hook_percpu");
        for (at, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(after - before, if at == cpu { 10 } else { 0 });
        }
    }
    assert_eq!(per_cpu(&lab, id, "shared_percpu").len(), cpus);
    assert_eq!(
        per_cpu(&lab, id, "shared_percpu"),
        per_cpu(&lab, id, "by_hook_percpu")
    );
}

fn per_cpu(sandbox: &Sandbox, id: AttachmentId, map: &str) -> Vec<u64> {
    let all = values(sandbox, id, map);
    all.iter()
        .map(|v| u64::from_ne_bytes(v[..8].try_into().unwrap()))
        .collect()
}

/// S28: a program is told the cookie of its attachment, all 64 bits, wherever it asks.
#[test]
fn s28_a_program_gets_its_attachments_cookie() {
    let lab = Lab::new("s28");
    const WIDE: u64 = 0xfedc_ba98_7654_3210;
    lab.put_as("t", "cookie", |r| r.cookie = WIDE);
    assert_eq!(lab.numbers("t"), [WIDE]);
    // The same program at two levels, each with its own.
    lab.put_as("t/child", "cookie", |r| r.cookie = u64::MAX);
    assert_eq!(lab.numbers("t/child"), [u64::MAX, WIDE]);
    // None given is 0; replaced is another attachment's.
    let none = lab.put("t/child/leaf", "cookie");
    assert_eq!(lab.numbers("t/child/leaf"), [0, u64::MAX, WIDE]);
    lab.put_as("t/child/leaf", "cookie", |r| {
        r.replace = Some(none);
        r.cookie = 1 << 63;
    });
    assert_eq!(lab.numbers("t/child/leaf"), [1 << 63, u64::MAX, WIDE]);
}

/// S28 at every kind of hook, and in a function that is called.
#[test]
fn s28_cookies_at_every_kind_of_hook_and_in_functions() {
    let lab = Lab::with_keep_only("s28-kinds", "stores");
    for (n, program) in ["enter", "typed", "third"].into_iter().enumerate() {
        let cookie = 0x1_0000_0001 * (n as u64 + 1);
        let id = lab.put_as(&format!("t{n}"), program, |r| r.cookie = cookie);
        lab.getppid(&format!("t{n}"), 1);
        // `by_hook` is written in a function.
        for map in ["shared", "by_hook"] {
            assert_eq!(word(&lab, id, map, 1), cookie);
        }
    }
}

/// S29: CGRP_STORAGE is the kernel's own, keyed by the event's cgroup, and user space reaches it
/// by a descriptor of the cgroup. A kernel without it is named as such, and nothing is left.
#[test]
fn s29_cgrp_storage_is_keyed_by_the_events_cgroup() {
    let sandbox = Sandbox::new("s29");
    let attached = sandbox.engine.attach(sandbox.request("t", "keyed"));
    if !has_map_type(CGRP_STORAGE).unwrap() {
        let words = refused(attached, Errno::EINVAL);
        let kind = "map by_cgroup is of the kind cgrp_storage, which this kernel does not have";
        assert!(words.contains(kind), "{words}");
        assert!(words.contains("Linux 6.2"), "{words}");
        assert_eq!(ok(sandbox.engine.list(&Default::default())), []);
        return;
    }
    let report = ok(attached);
    let map = sandbox.map(report.instance, "by_cgroup");
    for (cgroup, count) in [("t", 3), ("t/child", 5), ("beside", 7)] {
        sandbox.getppid(cgroup, count);
    }
    let read = |cgroup: &str| {
        let dir = std::fs::File::open(sandbox.dir(cgroup)).unwrap();
        let value = map.lookup(&dir.as_raw_fd().to_ne_bytes()).unwrap();
        value.map(|v| u64::from_ne_bytes(v.try_into().unwrap()))
    };
    assert_eq!(read("t"), Some(3));
    assert_eq!(read("t/child"), Some(5));
    assert_eq!(read("beside"), None);
    assert_eq!(read(""), None);
    // Written from outside, read by the program.
    let dir = std::fs::File::open(sandbox.dir("t")).unwrap();
    let key = dir.as_raw_fd().to_ne_bytes();
    map.update(&key, &100u64.to_ne_bytes()).unwrap();
    sandbox.getppid("t", 1);
    assert_eq!(read("t"), Some(101));
    // The same program elsewhere, with the same map.
    let mut request = cgtap::engine::AttachRequest::new(
        sandbox.cgroup("beside"),
        ObjectSource::Instance(report.instance),
    );
    request.programs = vec![ProgramChoice {
        name: "count".to_owned(),
        hook: None,
    }];
    ok(sandbox.engine.attach(request));
    sandbox.getppid("beside", 2);
    assert_eq!((read("beside"), read("t")), (Some(2), Some(101)));
}
