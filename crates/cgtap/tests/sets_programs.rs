//! Objects of several programs, instances of one object, and counts that stay exact while sets
//! are built anew around them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use cgtap::engine::{AttachRequest, Detach, Error, ListRequest, ObjectSource, ReplaceRequest};
use cgtap::id::{AttachmentId, InstanceId};
use cgtap_sys::Errno;
use rules::{Lab, choose, enter, ok, refused, source, word};
use support::{Sandbox, compile, ids};

const CALL: &str = "tracepoint:syscalls/sys_enter_getppid";
const RETURN: &str = "tracepoint:syscalls/sys_exit_getppid";

/// `pair.bpf.c` with values for its variables.
fn with(set: &[(&str, &str)]) -> ObjectSource {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    ObjectSource::File {
        path: compile("pair"),
        set: set.iter().map(own).collect(),
    }
}

fn request(
    sandbox: &Sandbox,
    cgroup: &str,
    source: ObjectSource,
    programs: &[&str],
) -> AttachRequest {
    let mut request = AttachRequest::new(sandbox.cgroup(cgroup), source);
    request.programs = choose(programs);
    request
}

/// Words of `counts`.
fn counts(sandbox: &Sandbox, instance: InstanceId) -> Vec<u64> {
    let map = sandbox.map(instance, "counts");
    (0..5).map(|key| word(&map, key)).collect()
}

#[test]
fn programs_of_an_object_share_its_maps() {
    let sandbox = Sandbox::new("pair");
    let report = ok(sandbox
        .engine
        .attach(request(&sandbox, "t", with(&[]), &["begin", "end"])));
    let hooks: Vec<String> = report
        .attachments
        .iter()
        .map(|a| a.hook.to_string())
        .collect();
    assert_eq!(hooks, [enter(), "tp_btf:sys_exit"]);
    sandbox.getppid("t", 1000);
    sandbox.getppid("beside", 10);
    sandbox.getppid("t/child", 1);
    assert_eq!(counts(&sandbox, report.instance)[..2], [1001, 5 * 1001]);
    assert_eq!(word(&sandbox.map(report.instance, "bss"), 0), 1001);
    assert!(
        sandbox
            .map(report.instance, "begun")
            .keys()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn variables_are_set_for_one_instance() {
    let sandbox = Sandbox::new("set");
    let ask = |set: &[(&str, &str)]| {
        ok(sandbox
            .engine
            .attach(request(&sandbox, "t", with(set), &[])))
    };
    let plain = ask(&[]);
    let tens = ask(&[("step", "10"), ("start", "0x100")]);
    let wide = ask(&[("step", "0x100000000")]);
    sandbox.getppid("t", 100);
    assert_eq!(counts(&sandbox, plain.instance)[..2], [100, 500]);
    assert_eq!(counts(&sandbox, tens.instance)[..2], [1000, 25_600]);
    assert_eq!(counts(&sandbox, wide.instance)[..2], [100 << 32, 500]);
    // What is not there, or does not fit, is refused, and nothing has changed.
    for wrong in [
        ("stop", "1"),
        ("step", "much"),
        ("step", "0x10000000000000000"),
    ] {
        let asked = request(&sandbox, "t", with(&[wrong]), &[]);
        let error: Error = rules::unchanged(&sandbox, || sandbox.engine.attach(asked).unwrap_err());
        assert!(error.to_string().contains(wrong.0), "{error}");
    }
    sandbox.getppid("t", 1);
    assert_eq!(counts(&sandbox, plain.instance)[0], 101);
}

#[test]
fn an_instance_is_attached_elsewhere_with_its_maps() {
    let sandbox = Sandbox::new("instance");
    let report = ok(sandbox
        .engine
        .attach(request(&sandbox, "t", with(&[]), &["begin"])));
    let instance = ObjectSource::Instance(report.instance);
    sandbox.getppid("t", 10);
    sandbox.getppid("u", 10);
    assert_eq!(counts(&sandbox, report.instance)[0], 10);
    let again = ok(sandbox
        .engine
        .attach(request(&sandbox, "u", instance.clone(), &["begin"])));
    assert_eq!(again.instance, report.instance);
    sandbox.getppid("u", 10);
    assert_eq!(counts(&sandbox, report.instance)[0], 20);
    // Another of its programs, later.
    ok(sandbox
        .engine
        .attach(request(&sandbox, "", instance.clone(), &["end"])));
    sandbox.getppid("t", 1);
    sandbox.getppid("u", 1);
    // In u, the first call of each worker has nothing begun.
    assert_eq!(counts(&sandbox, report.instance)[..2], [22, 10]);

    // It is unloaded with the last attachment, and not before.
    let id = report.attachments[0].id;
    assert!(
        ok(sandbox.engine.detach(&Detach::Ids(vec![id])))
            .instances_unloaded
            .is_empty()
    );
    let gone = ok(sandbox.engine.detach(&Detach::Instance(report.instance)));
    assert_eq!(gone.detached.len(), 2);
    assert_eq!(gone.instances_unloaded, [report.instance]);
    let asked = request(&sandbox, "t", instance, &["begin"]);
    rules::unchanged(&sandbox, || {
        refused(sandbox.engine.attach(asked), Errno::ENOENT)
    });
}

#[test]
fn a_program_runs_at_the_hook_that_is_named() {
    let sandbox = Sandbox::new("at");
    let both = [&*format!("anywhere@{CALL}"), &*format!("anywhere@{RETURN}")];
    let report = ok(sandbox
        .engine
        .attach(request(&sandbox, "t", with(&[]), &both)));
    let hooks: Vec<String> = report
        .attachments
        .iter()
        .map(|a| a.hook.to_string())
        .collect();
    assert_eq!(hooks, [CALL, RETURN]);
    sandbox.getppid("t", 1000);
    sandbox.getppid("beside", 10);
    let lists = sandbox.own("t");
    let missed: u64 = lists.iter().map(|l| l.recursion_misses).sum();
    let seen = counts(&sandbox, report.instance)[2];
    assert!(
        seen <= 2000 && seen + missed >= 2000,
        "{seen} of 2000, {missed} missed"
    );
    // Each attachment has run as often as its hook was passed.
    let runs: u64 = ids(&report).into_iter().map(|id| sandbox.runs(id)).sum();
    assert_eq!(runs, seen);

    // Its section names no hook, so one has to.
    let asked = request(&sandbox, "t", with(&[]), &["anywhere"]);
    let said = rules::unchanged(&sandbox, || {
        refused(sandbox.engine.attach(asked), Errno::EINVAL)
    });
    assert!(said.contains("anywhere@HOOK"), "{said}");
    // And not one of another type.
    let asked = request(
        &sandbox,
        "t",
        with(&[]),
        &[&format!("anywhere@{}", enter())],
    );
    rules::unchanged(&sandbox, || {
        refused(sandbox.engine.attach(asked), Errno::EINVAL)
    });
    let asked = request(
        &sandbox,
        "t",
        with(&[]),
        &["anywhere@tracepoint:syscalls/no_such"],
    );
    rules::unchanged(&sandbox, || {
        refused(sandbox.engine.attach(asked), Errno::ENOENT)
    });
    let asked = request(&sandbox, "t", with(&[]), &["begun"]);
    rules::unchanged(&sandbox, || sandbox.engine.attach(asked).unwrap_err());
}

#[test]
fn a_replacement_from_a_file_keeps_its_place_among_several() {
    let lab = Lab::new("replace");
    let (a, b) = (lab.put("t", "a"), lab.put("t", "b"));
    let c = lab.put("t", "c");
    let update = |id: AttachmentId, program: &str| ReplaceRequest {
        source: source("letters"),
        ..lab.update(id, program)
    };
    let report = ok(lab.engine.replace(update(b, "d")));
    assert_eq!(lab.own_ids("t", enter()), [a, b, c]);
    assert_eq!(lab.letters("t"), "ac");
    let log = lab.map(report.instance, "trace");
    assert_eq!(word(&log, 0), 1);
    // An object of several programs for the hook needs a name.
    let unnamed = ReplaceRequest {
        program: None,
        ..update(b, "d")
    };
    lab.unchanged(|| refused(lab.engine.replace(unnamed), Errno::EINVAL));
    // One program for the hook is enough.
    let single = ReplaceRequest {
        program: None,
        source: source("count"),
        ..update(b, "d")
    };
    let report = ok(lab.engine.replace(single));
    assert_eq!(lab.own_ids("t", enter()), [a, b, c]);
    assert_eq!(lab.letters("t"), "ac");
    assert_eq!(word(&lab.map(report.instance, "counts"), 0), 1);
}

/// While a worker runs, everything around an attachment changes: its set is built anew each time,
/// and its count goes from set to set. Not one run is lost or counted twice.
#[test]
fn run_counts_are_exact_while_sets_are_built_anew() {
    let sandbox = Sandbox::new("rebuild");
    let report = ok(sandbox
        .engine
        .attach(request(&sandbox, "t", with(&[]), &["every"])));
    let every = report.attachments[0].id;
    let beside = ok(sandbox
        .engine
        .attach(request(&sandbox, "", with(&[]), &["every_too"])));
    let above = beside.attachments[0].id;
    sandbox.cgroup("t/child");
    let (mut events, mut changes) = (0, 0);
    while changes < 9 {
        let mut in_t = sandbox.worker("t", "getppid", 200_000).go();
        let mut in_child = sandbox.worker("t/child", "getppid", 200_000).go();
        while in_t.child.try_wait().unwrap().is_none()
            || in_child.child.try_wait().unwrap().is_none()
        {
            let cgroup = ["t", "t/child", ""][changes % 3];
            let passing =
                ok(sandbox
                    .engine
                    .attach(request(&sandbox, cgroup, with(&[]), &["begin"])));
            // Counts can be read meanwhile; they never fall.
            let seen = sandbox.runs(every);
            sandbox.detach(passing.attachments[0].id).unwrap();
            assert!(sandbox.runs(every) >= seen);
            changes += 1;
        }
        events += in_t.finish() + in_child.finish();
    }
    // Each call of a worker has run it but those that a kernel that preempts programs missed and told, and each run
    // is counted.
    let counted = counts(&sandbox, report.instance)[3];
    let missed = sandbox.own("t")[0].recursion_misses;
    assert!(
        counted + missed >= events,
        "{counted} of {events}, {missed} missed"
    );
    assert_eq!(sandbox.runs(every), counted);
    let counted_above = counts(&sandbox, beside.instance)[4];
    assert_eq!(sandbox.runs(above), counted_above);
    assert!(counted_above >= counted);
    assert_eq!(sandbox.own("t")[0].lost, 0);
    // What is attached again begins at 0.
    let instance = ObjectSource::Instance(report.instance);
    ok(sandbox
        .engine
        .attach(request(&sandbox, "kept", instance.clone(), &["every_too"])));
    sandbox.detach(every).unwrap();
    let anew = ok(sandbox
        .engine
        .attach(request(&sandbox, "t", instance, &["every"])));
    assert_eq!(sandbox.runs(anew.attachments[0].id), 0);
}

/// The same for the events of one call, which are known to the last one.
#[test]
fn a_known_number_of_events_is_counted_exactly_over_changes() {
    let sandbox = Sandbox::new("exact");
    let report = ok(sandbox
        .engine
        .attach(request(&sandbox, "t", with(&[]), &["begin"])));
    let (mut events, mut changes) = (0, 0);
    while changes < 9 {
        let mut worker = sandbox.worker("t/child", "getppid", 1_000_000).go();
        while worker.child.try_wait().unwrap().is_none() {
            let cgroup = ["t/child", "t", ""][changes % 3];
            let other = sandbox.attach(cgroup, "count")[0];
            sandbox.detach(other).unwrap();
            changes += 1;
        }
        events += worker.finish();
    }
    assert_eq!(counts(&sandbox, report.instance)[0], events);
}

/// An attachment that is updated in place counts on; one that takes another's place begins anew.
#[test]
fn a_count_belongs_to_the_attachment() {
    let sandbox = Sandbox::new("belongs");
    let report = ok(sandbox
        .engine
        .attach(request(&sandbox, "t", with(&[]), &["every"])));
    let id = report.attachments[0].id;
    sandbox.getppid("t", 100);
    let first = sandbox.runs(id);
    assert_eq!(first, counts(&sandbox, report.instance)[3]);
    let update = ReplaceRequest {
        id,
        source: ObjectSource::Instance(report.instance),
        program: Some("every_too".to_owned()),
        expect: None,
    };
    ok(sandbox.engine.replace(update));
    assert_eq!(sandbox.runs(id), first);
    sandbox.getppid("t", 100);
    let second = counts(&sandbox, report.instance)[4];
    assert_eq!(sandbox.runs(id), first + second);

    let mut taking = request(
        &sandbox,
        "t",
        ObjectSource::Instance(report.instance),
        &["every"],
    );
    taking.replace = Some(id);
    let new = ids(&ok(sandbox.engine.attach(taking)))[0];
    assert_eq!(sandbox.runs(new), 0);
    let lists = sandbox.engine.list(&ListRequest::default()).unwrap();
    assert!(
        lists
            .iter()
            .flat_map(|l| &l.attachments)
            .all(|a| a.id != id)
    );
    sandbox.getppid("t", 10);
    assert_eq!(
        sandbox.runs(new) + first,
        counts(&sandbox, report.instance)[3]
    );
}
