//! Links that a process holds: dropped, pinned, and killed with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use cgtap::engine::ObjectSource;
use cgtap::id::CgroupId;
use cgtap_sys::Errno;
use support::{Sandbox, compile};

#[test]
fn s19_a_link_is_shut_the_moment_its_process_is_killed() {
    let sandbox = Sandbox::new("held");
    sandbox.cgroup("a");
    let report = sandbox
        .engine
        .attach(sandbox.request("a", "count"))
        .unwrap();
    let mut holder = Command::new(support::example("hold"))
        .arg(&sandbox.state)
        .arg(sandbox.dir("a"))
        .arg(compile("count"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    lines
        .find(|l| l.starts_with("held "))
        .expect("the holder attaches");
    sandbox.getppid("a", 500);
    // The other process's own map, as its reader would find it.
    let maps = sandbox.engine.maps(None).unwrap();
    let theirs = maps.iter().find(|i| i.id != report.instance).unwrap();
    let pin = theirs
        .maps
        .iter()
        .find(|m| m.name == "counts")
        .unwrap()
        .pin
        .clone()
        .unwrap();
    let map = cgtap_sys::bpf::get_map(&pin).unwrap();
    let count = || u64::from_ne_bytes(map.lookup(&[0; 4]).unwrap().unwrap().try_into().unwrap());
    assert_eq!(count(), 500);

    holder.kill().unwrap();
    holder.wait().unwrap();
    // No command of ours runs between the kill and these events.
    sandbox.getppid("a", 300);
    assert_eq!(count(), 500);
    assert_eq!(sandbox.map_word(&report, "counts", 0), 800);
    // The next command cleans up.
    assert_eq!(sandbox.own("a")[0].attachments.len(), 1);
}

#[test]
fn s19_a_link_goes_when_it_is_dropped_and_s21_stays_when_it_is_pinned() {
    let sandbox = Sandbox::new("links");
    let link = sandbox.engine.link(sandbox.request("a", "count")).unwrap();
    assert_ne!(link.cgroup_id().unwrap(), CgroupId(0));
    drop(link);
    assert!(sandbox.own("a").is_empty());

    let mut link = sandbox.engine.link(sandbox.request("a", "count")).unwrap();
    // What cannot be made to stay is held as before.
    let mut elsewhere = sandbox.state.clone().into_os_string();
    elsewhere.push("_away");
    std::fs::rename(&sandbox.state, &elsewhere).unwrap();
    assert_eq!(link.pin().unwrap_err().errno(), Some(Errno::ENOLINK));
    std::fs::rename(&elsewhere, &sandbox.state).unwrap();
    assert!(sandbox.own("a")[0].attachments[0].owner_pid.is_some());
    let id = link.pin().unwrap();
    drop(link);
    sandbox.getppid("a", 7);
    assert_eq!(sandbox.own("a")[0].attachments[0].id, id);
    assert_eq!(sandbox.own("a")[0].attachments[0].owner_pid, None);
}

#[test]
fn s15_a_link_whose_cgroup_is_removed_reads_0_and_cannot_be_updated() {
    let sandbox = Sandbox::new("gone");
    let link = sandbox.engine.link(sandbox.request("a", "count")).unwrap();
    sandbox.remove("a");
    assert_eq!(link.cgroup_id().unwrap(), CgroupId(0));
    let source = ObjectSource::File {
        path: compile("count"),
        set: Vec::new(),
    };
    let error = link.update(source, None, None).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOLINK));
}
