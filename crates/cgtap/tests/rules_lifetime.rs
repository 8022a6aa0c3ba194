//! S14, S15, S21 and the ends of S19 on a real kernel: what is covered, from when, and until when.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cgtap::engine::{
    AttachRequest, CgroupRef, Detach, Engine, Lifetime, ListRequest, ObjectSource, Options,
};
use cgtap::id::{AttachmentId, InstanceId};
use cgtap_sys::Errno;
use cgtap_sys::bpf::Prog;
use rules::{Lab, act, enter, files, ok, refused, word};
use support::{Sandbox, compile, ids, whole};

/// S14: a cgroup made after the attach is covered from its first event on; so is one below it.
#[test]
fn s14_a_new_cgroup_is_covered_from_its_first_event() {
    let lab = Lab::with("s14-new", "verdicts");
    lab.put("t", "raw_one");
    let counts = lab.map(lab.instance, "counts");
    lab.put("t/before", "raw_zero");
    let mut hops = vec!["hop".to_owned()];
    for n in 0..40 {
        for cgroup in [
            format!("t/new{n}"),
            format!("t/new{n}/deep/er"),
            format!("u/new{n}"),
        ] {
            hops.push(lab.procs(&cgroup).display().to_string());
            hops.push("3".to_owned());
        }
    }
    let hops: Vec<&str> = hops.iter().map(String::as_str).collect();
    act(&hops);
    assert_eq!(word(&counts, 0), 40 * 2 * 3);
    assert_eq!(word(&counts, 1), 0);
}

/// S14: a task that moves is covered, or not any more, from its first event after the move.
#[test]
fn s14_a_task_that_moves_is_covered_from_its_first_event() {
    let lab = Lab::with("s14-move", "verdicts");
    lab.put("t", "raw_one");
    lab.put("t/child", "raw_zero");
    lab.put("beside", "raw_minus");
    let counts = lab.map(lab.instance, "counts");
    let at = |cgroup: &str| lab.procs(cgroup).display().to_string();
    let (t, child, beside, free) = (at("t"), at("t/child"), at("beside"), at("free"));
    let mut hops = vec!["hop"];
    for _ in 0..50 {
        hops.extend([
            &*free, "1", &*t, "2", &*child, "3", &*beside, "5", &*free, "7", &*child, "1",
        ]);
    }
    act(&hops);
    // In t: 2, and what is below it: 3 + 1.
    assert_eq!(word(&counts, 0), 50 * 6);
    assert_eq!(word(&counts, 1), 50 * 4);
    assert_eq!(word(&counts, 2), 50 * 5);
}

/// S14: cgroups that were seen before, with nothing to run, are covered when the attach returns.
#[test]
fn s14_cgroups_that_had_events_before_are_covered_too() {
    let lab = Lab::with("s14-seen", "verdicts");
    // The hook is live, and looks these up.
    lab.put("beside", "raw_counts");
    for cgroup in ["t", "t/a", "t/a/b"] {
        lab.getppid(cgroup, 5);
    }
    let id = lab.put("t", "raw_one");
    let counts = lab.map(lab.instance, "counts");
    for cgroup in ["t", "t/a", "t/a/b"] {
        lab.getppid(cgroup, 7);
    }
    assert_eq!(word(&counts, 0), 21);
    lab.detach(id).unwrap();
    for cgroup in ["t", "t/a", "t/a/b"] {
        lab.getppid(cgroup, 11);
    }
    assert_eq!(word(&counts, 0), 21);
}

/// S14: however deep. The dispatcher climbs 128 levels; what is below is told as lost.
#[test]
fn s14_a_deep_cgroup_is_covered() {
    let lab = Lab::with("s14-deep", "verdicts");
    lab.put("t", "raw_one");
    let counts = lab.map(lab.instance, "counts");
    let deep = |levels: usize| format!("t{}", "/n".repeat(levels));
    for levels in [1, 20, 127] {
        lab.getppid(&deep(levels), 3);
    }
    assert_eq!(word(&counts, 0), 9);
    assert_eq!(lab.own("t")[0].lost, 0);
    lab.getppid(&deep(130), 3);
    assert_eq!(word(&counts, 0), 9);
    // Every call of that worker is lost, not only these.
    assert!(lab.own("t")[0].lost >= 3);
}

/// Waits until the kernel has freed a program; it does so a moment after the last reference.
fn freed(id: u32) -> bool {
    let start = Instant::now();
    while Prog::from_id(id).is_ok() {
        if start.elapsed() > Duration::from_secs(60) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// S15: a removed cgroup's list empties by itself; its programs, maps and pins are freed.
#[test]
fn s15_a_removed_cgroup_loses_its_attachments_and_frees_its_programs() {
    let lab = Lab::new("s15");
    let kept = lab.programs();
    let before = files(&lab.state);
    lab.put("t/child", "a");
    lab.put("t/child", "b");
    let own = ids(&ok(lab.engine.attach(lab.request("t/child", "count"))))[0];
    lab.getppid("t/child", 3);
    let all = lab.programs();
    let new: Vec<u32> = all.into_iter().filter(|id| !kept.contains(id)).collect();
    // A set and its dispatcher, at least.
    assert!(new.len() >= 2, "{new:?}");
    assert!(new.iter().all(|id| Prog::from_id(*id).is_ok()));

    lab.remove("t/child");
    // The next command, whichever it is.
    let lists = lab.engine.list(&ListRequest::default()).unwrap();
    assert_eq!(lists.len(), 1, "{lists:?}");
    assert_eq!(lists[0].cgroup, lab.path("kept"));
    for id in new {
        assert!(freed(id), "program {id} is still there");
    }
    assert_eq!(files(&lab.state), before);
    refused(lab.detach(own), Errno::ENOENT);
    refused(lab.engine.replace(lab.update(own, "c")), Errno::ENOLINK);
}

/// S15: what stands above and beside a removed cgroup stays as it is, with its counts.
#[test]
fn s15_only_the_removed_cgroups_own_attachments_go() {
    let lab = Lab::with("s15-others", "verdicts");
    let above = lab.put("t", "raw_one");
    lab.put("t/child", "raw_zero");
    let beside = lab.put("t/beside", "raw_minus");
    let counts = lab.map(lab.instance, "counts");
    for cgroup in ["t", "t/child", "t/beside"] {
        lab.getppid(cgroup, 10);
    }
    let ran = (lab.runs(above), lab.runs(beside));
    lab.remove("t/child");
    assert_eq!(lab.own_ids("t", enter()), [above]);
    assert_eq!(lab.own_ids("t/beside", enter()), [beside]);
    assert_eq!((lab.runs(above), lab.runs(beside)), ran);
    lab.getppid("t/beside", 1);
    assert_eq!(word(&counts, 0), 31);
    assert_eq!(word(&counts, 2), 11);
}

/// S15: a cgroup of the same name is another one, from its first event on, though no command of
/// ours has run since the old one went.
#[test]
fn s15_a_new_cgroup_of_the_same_name_is_not_taken_for_the_old_one() {
    let lab = Lab::with("s15-name", "verdicts");
    lab.put("t", "raw_one");
    let counts = lab.map(lab.instance, "counts");
    let mut seen = Vec::new();
    for _ in 0..20 {
        lab.getppid("t", 2);
        let id = lab.own("t").first().map(|l| l.cgroup_id);
        seen.push(id);
        lab.remove("t");
    }
    assert_eq!(word(&counts, 0), 2);
    assert!(seen[0].is_some() && seen[1..].iter().all(Option::is_none));
    assert!(lab.lists().iter().all(|l| l.cgroup == lab.path("kept")));
    // What is attached to the new one is its own.
    let id = lab.put("t", "raw_zero");
    lab.getppid("t", 4);
    assert_eq!((word(&counts, 0), word(&counts, 1)), (2, 4));
    assert_eq!(lab.own_ids("t", enter()), [id]);
}

/// S15: a tree goes from its leaves up, with attachments at every level, and no command between.
#[test]
fn s15_a_whole_tree_goes() {
    let lab = Lab::new("s15-tree");
    let mut path = "t".to_owned();
    let mut paths = Vec::new();
    for letter in ["a", "b", "c", "d"] {
        lab.put(&path, letter);
        paths.push(path.clone());
        path += "/n";
    }
    assert_eq!(lab.letters(&paths[3]), "dcba");
    for path in paths.iter().rev() {
        lab.remove(path);
    }
    assert_eq!(lab.lists().len(), 1);
    let gone = CgroupRef::Path(lab.dir("t"));
    refused(
        lab.engine.detach(&Detach::Cgroup(gone, None)),
        Errno::ENOENT,
    );
}

/// Not a test of its own: what the tests below run as another process.
#[test]
fn child_process() {
    let Ok(order) = std::env::var("CGTAP_TEST_CHILD") else {
        return;
    };
    let words: Vec<&str> = order.split(' ').collect();
    let engine = Engine::open(Options {
        state: PathBuf::from(words[0]),
        cgroup_root: None,
    });
    let source = ObjectSource::File {
        path: PathBuf::from(words[2]),
        set: Vec::new(),
    };
    let mut request = AttachRequest::new(CgroupRef::Path(PathBuf::from(words[1])), source);
    request.programs = whole("count");
    if words[3] == "process" {
        request.lifetime = Lifetime::Process;
    }
    let report = ok(engine.unwrap().attach(request));
    println!(
        "\nattached {} {}",
        report.instance, report.attachments[0].id
    );
    // Until it is told to go, or killed.
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0);
}

/// This test binary as another process that attaches `count.bpf.c` to a cgroup.
fn other_process(
    sandbox: &Sandbox,
    cgroup: &str,
    lifetime: &str,
) -> (Child, InstanceId, AttachmentId) {
    sandbox.cgroup(cgroup);
    let (state, dir) = (sandbox.state.display(), sandbox.dir(cgroup));
    let object: PathBuf = compile("count");
    let order = format!("{state} {} {} {lifetime}", dir.display(), object.display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("CGTAP_TEST_CHILD", order)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.find_map(|line| {
        let line = line.unwrap();
        let (instance, id) = line.strip_prefix("attached ")?.split_once(' ')?;
        Some((instance.parse().unwrap(), id.parse().unwrap()))
    });
    let Some((instance, id)) = told else {
        panic!("the other process did not attach");
    };
    (child, InstanceId(instance), AttachmentId(id))
}

/// S21: what a process pinned stays when it ends, and when it is killed.
#[test]
fn s21_a_pinned_link_survives_the_process_that_made_it() {
    let sandbox = Sandbox::new("s21");
    let (mut ends, first, _) = other_process(&sandbox, "t", "pinned");
    let (mut killed, second, _) = other_process(&sandbox, "t", "pinned");
    drop(ends.stdin.take());
    assert!(ends.wait().unwrap().success());
    killed.kill().unwrap();
    killed.wait().unwrap();

    let maps = [first, second].map(|i| sandbox.map(i, "counts"));
    for round in 1..=2 {
        sandbox.getppid("t", 100);
        for map in &maps {
            assert_eq!(word(map, 0), round * 100);
        }
        // After a command of another process too.
        assert_eq!(sandbox.own("t")[0].attachments.len(), 2);
    }
}

fn gone_with_its_process(name: &str, end: impl FnOnce(&mut Child)) {
    let sandbox = Sandbox::new(name);
    let stays = sandbox.attach("t", "count")[0];
    let before = files(&sandbox.state);
    let (mut child, instance, id) = other_process(&sandbox, "t", "process");
    let map = sandbox.map(instance, "counts");
    sandbox.getppid("t", 100);
    assert_eq!(word(&map, 0), 100);
    let list = sandbox.own("t");
    assert_eq!(list[0].attachments[1].owner_pid, Some(child.id()));

    end(&mut child);
    child.wait().unwrap();
    // Nothing of it runs any more, though no command of ours has run yet.
    sandbox.getppid("t", 10);
    assert_eq!(word(&map, 0), 100);
    assert_eq!(sandbox.own_ids("t", enter()), [stays]);
    refused(sandbox.detach(id), Errno::ENOENT);
    refused(sandbox.engine.maps(Some(instance)), Errno::ENOENT);
    let left: Vec<_> = files(&sandbox.state)
        .into_iter()
        .filter(|path| is_of_instance(path, instance))
        .collect();
    assert!(
        left.is_empty(),
        "{left:?} were not there before: {before:?}"
    );
    assert!(sandbox.runs(stays) >= 110);
}

fn is_of_instance(path: &Path, instance: InstanceId) -> bool {
    path.to_string_lossy()
        .contains(&format!("/instances/{instance}/"))
}

/// S19: an attachment that is not to stay goes when its process ends.
#[test]
fn s19_a_link_held_by_a_process_goes_when_it_ends() {
    gone_with_its_process("s19-ends", |child| drop(child.stdin.take()));
}

/// S19: it is the process that counts, not the thread that attached.
#[test]
fn s19_a_link_outlives_the_thread_that_made_it() {
    let lab = Lab::with("s19-thread", "verdicts");
    let counts = lab.map(lab.instance, "counts");
    let id = std::thread::scope(|scope| {
        let attach = || lab.put_as("t", "raw_one", |r| r.lifetime = Lifetime::Process);
        scope.spawn(attach).join().unwrap()
    });
    lab.getppid("t", 5);
    assert_eq!(word(&counts, 0), 5);
    assert_eq!(lab.own_ids("t", enter()), [id]);
}

/// S19 and S20: whoever updates it, it goes with the process that made it.
#[test]
fn s19_an_updated_link_goes_with_the_process_that_made_it() {
    let lab = Lab::with("s19-updated", "verdicts");
    let counts = lab.map(lab.instance, "counts");
    let (mut child, _, id) = other_process(&lab.sandbox, "t", "process");
    ok(lab.engine.replace(lab.update(id, "raw_one")));
    // Its set is built anew with others beside it.
    lab.put("t", "raw_zero");
    lab.getppid("t/child", 10);
    assert_eq!((word(&counts, 0), word(&counts, 1)), (10, 10));
    child.kill().unwrap();
    child.wait().unwrap();
    lab.getppid("t/child", 10);
    assert_eq!((word(&counts, 0), word(&counts, 1)), (10, 20));
    assert_eq!(lab.own_ids("t", enter()).len(), 1);
}

/// S19: also when it is killed and can do nothing about it.
#[test]
fn s19_a_link_held_by_a_process_goes_when_it_is_killed() {
    gone_with_its_process("s19-killed", |child| child.kill().unwrap());
}
