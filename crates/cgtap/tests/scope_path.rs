//! Events that belong to the cgroup of an argument, not to the running task's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod scope_support;
mod support;

use std::io::Write;

use cgtap::attach::Mode;
use cgtap::engine::{AttachRequest, Detach, ProgramChoice};
use cgtap::id::AttachmentId;
use scope_support::{act, begin, counter, id, lists, request, truth};
use support::{Sandbox, again_without, ids};

const SIGNAL: &str = "tp_btf:signal_generate";
const RAW_SIGNAL: &str = "raw_tracepoint:signal_generate";

fn truth_of(sandbox: &Sandbox, name: &str) -> cgtap::engine::AttachReport {
    let request = AttachRequest {
        programs: vec![ProgramChoice {
            name: name.to_owned(),
            hook: None,
        }],
        cgroup: "/".parse().unwrap(),
        ..sandbox.request("", "scope_truth")
    };
    sandbox
        .engine
        .attach(request)
        .unwrap_or_else(|e| panic!("{e}\n{}", e.log()))
}

/// Sleeps in two cgroups; each scoped counter agrees with the plain program that saw every switch.
fn switches(hook: &str, argument: &str) {
    let sandbox = Sandbox::new("switches");
    let truth_report = truth_of(&sandbox, argument);
    let a = counter(&sandbox, "a", hook, argument);
    let b = counter(&sandbox, "b", hook, argument);
    // Nobody enters these cgroups before the counters stand, and nobody is left at the end.
    act(&sandbox, "a", "sleep", &["200"]);
    act(&sandbox, "b/below", "sleep", &["30"]);
    let seen = truth(&sandbox, &truth_report);
    let by = |cgroup: &str| seen.get(&id(&sandbox, cgroup)).copied().unwrap_or_default();
    // On a loaded machine some are over before the task is switched away from.
    assert!(sandbox.runs(a) >= 100, "{} of 200 sleeps", sandbox.runs(a));
    assert_eq!(sandbox.runs(a), by("a"), "{hook} {argument}");
    assert_eq!(sandbox.runs(b), by("b/below"), "{hook} {argument}");
    for list in lists(&sandbox, hook) {
        assert_eq!((list.lost, list.unowned), (0, 0), "{list:?}");
    }
}

#[test]
fn a_switch_belongs_to_the_task_that_comes_or_goes() {
    for hook in ["tp_btf:sched_switch", "raw_tracepoint:sched_switch"] {
        for argument in ["next", "prev"] {
            switches(hook, argument);
        }
    }
}

#[test]
fn a_signal_belongs_to_whom_it_is_sent() {
    for (hook, scope) in [
        (SIGNAL, "task"),
        (RAW_SIGNAL, "task"),
        (RAW_SIGNAL, "arg2"),
        (SIGNAL, "task->cgroups"),
        (SIGNAL, "task.cgroups->dfl_cgrp"),
        (RAW_SIGNAL, "task->cgroups->subsys.dfl_cgrp"),
    ] {
        if scope.contains("subsys") {
            // An array has no such member: said, not guessed.
            let sandbox = Sandbox::new("array");
            let error = scope_support::refusal(&sandbox, hook, scope).to_string();
            assert!(error.contains("has no members"), "{error}");
            continue;
        }
        let sandbox = Sandbox::new("signal");
        let sender = counter(&sandbox, "from", hook, "current");
        let by_task = counter(&sandbox, "from", hook, scope);
        let receiver = counter(&sandbox, "to", hook, scope);
        let wrong = counter(&sandbox, "to", hook, "current");
        let waiting = begin(&sandbox, "to", "wait", &["0"]);
        act(&sandbox, "from", "signal", &[&waiting.pid(), "500"]);
        let counts = [sender, by_task, receiver, wrong].map(|id| sandbox.runs(id));
        waiting.finish();
        // The end of a child is a signal to its parent, which is outside.
        assert_eq!(counts[1..], [0, 500, 0], "{hook} {scope}");
        assert!((500..=502).contains(&counts[0]), "{counts:?}");
    }
}

#[test]
fn two_scopes_of_one_tracepoint_are_two_hooks() {
    let sandbox = Sandbox::new("two");
    let current = counter(&sandbox, "a", SIGNAL, "current");
    let task = counter(&sandbox, "a", SIGNAL, "task");
    let all = lists(&sandbox, SIGNAL);
    let shown: Vec<String> = all.iter().map(|l| l.hook.to_string()).collect();
    assert_eq!(
        shown,
        [SIGNAL, "tp_btf:signal_generate scope=task"],
        "each has a list of its own"
    );
    assert_eq!(all[0].revision, all[1].revision);
    assert_eq!(lists(&sandbox, &format!("{SIGNAL} scope=task")).len(), 1);
    assert_eq!(lists(&sandbox, &format!("{SIGNAL} scope=current")).len(), 1);
    let json = serde_json::to_value(&all[1]).unwrap();
    assert_eq!(
        (&json["hook"], &json["scope"]),
        (&SIGNAL.into(), &"task".into())
    );
    assert_eq!(json["unowned"], 0);
    let json = serde_json::to_value(&all[0]).unwrap();
    assert_eq!(json["scope"], "current");

    let waiting = begin(&sandbox, "a", "wait", &["0"]);
    act(&sandbox, "b", "signal", &[&waiting.pid(), "7"]);
    assert_eq!((sandbox.runs(current), sandbox.runs(task)), (0, 7));
    // One goes, the other stays and counts on.
    let only = format!("{SIGNAL} scope=current").parse().unwrap();
    let cgroup = sandbox.cgroup("a");
    let gone = sandbox.engine.detach(&Detach::Cgroup(cgroup, Some(only)));
    assert_eq!(gone.unwrap().detached, [current]);
    act(&sandbox, "b", "signal", &[&waiting.pid(), "7"]);
    assert_eq!(sandbox.runs(task), 14);
    // Without a scope the filter means them all.
    let every = Detach::Cgroup(sandbox.cgroup("a"), Some(SIGNAL.parse().unwrap()));
    assert_eq!(sandbox.engine.detach(&every).unwrap().detached, [task]);
}

#[test]
fn nested_override_and_young_cgroups_are_found_by_the_path() {
    let sandbox = Sandbox::new("nested");
    let top = counter(&sandbox, "t", SIGNAL, "task");
    let signal = |to: &str, count: &str| {
        let waiting = begin(&sandbox, to, "wait", &["0"]);
        act(&sandbox, "elsewhere", "signal", &[&waiting.pid(), count]);
        waiting.finish();
    };
    // Made after the attach (S14), several levels below.
    signal("t/young/and/deep", "3");
    assert_eq!(sandbox.runs(top), 3);
    // Both of a chain.
    let below = counter(&sandbox, "t/young", SIGNAL, "task");
    signal("t/young/and/deep", "5");
    assert_eq!((sandbox.runs(top), sandbox.runs(below)), (8, 5));

    let mut above = request(&sandbox, "o", SIGNAL, "task");
    above.mode = Mode::Override;
    let above = ids(&sandbox.engine.attach(above).unwrap())[0];
    let mut instead = request(&sandbox, "o/child", SIGNAL, "task");
    instead.mode = Mode::Override;
    let instead = ids(&sandbox.engine.attach(instead).unwrap())[0];
    signal("o", "2");
    signal("o/child", "11");
    assert_eq!((sandbox.runs(above), sandbox.runs(instead)), (2, 11));
}

#[test]
fn a_task_that_moves_takes_its_events_along() {
    let sandbox = Sandbox::new("moves");
    let [a, b] = ["a", "b"].map(|cgroup| counter(&sandbox, cgroup, RAW_SIGNAL, "task"));
    let waiting = begin(&sandbox, "a", "wait", &["0"]);
    act(&sandbox, "from", "signal", &[&waiting.pid(), "10"]);
    let mut procs = std::fs::File::create(sandbox.dir("b/cgroup.procs")).unwrap();
    write!(procs, "{}", waiting.pid()).unwrap();
    act(&sandbox, "from", "signal", &[&waiting.pid(), "20"]);
    assert_eq!((sandbox.runs(a), sandbox.runs(b)), (10, 20));
}

#[test]
fn a_cgroup_of_the_same_name_is_another_one() {
    let sandbox = Sandbox::new("again");
    let top = counter(&sandbox, "t", SIGNAL, "task");
    for round in 1..=3 {
        let inner = counter(&sandbox, "t/inner", SIGNAL, "task");
        let waiting = begin(&sandbox, "t/inner", "wait", &["0"]);
        act(&sandbox, "from", "signal", &[&waiting.pid(), "4"]);
        assert_eq!(sandbox.runs(inner), 4);
        waiting.finish();
        sandbox.remove("t/inner");
        assert_eq!(sandbox.runs(top), round * 4);
    }
}

#[test]
fn attaching_more_while_events_come_loses_none() {
    let sandbox = Sandbox::new("generation");
    let first = counter(&sandbox, "to", SIGNAL, "task");
    let waiting = begin(&sandbox, "to", "wait", &["0"]);
    let pid = waiting.pid();
    let others: Vec<AttachmentId> = std::thread::scope(|scope| {
        let sending = scope.spawn(|| act(&sandbox, "from", "signal", &[&pid, "20000"]));
        let others = (0..6)
            .map(|at| counter(&sandbox, &format!("other{at}"), SIGNAL, "task"))
            .collect();
        sending.join().unwrap();
        others
    });
    assert_eq!(sandbox.runs(first), 20_000);
    assert!(others.iter().all(|id| sandbox.runs(*id) == 0));
    let list = &lists(&sandbox, SIGNAL)[0];
    assert_eq!((list.lost, list.unowned), (0, 0));
}

#[test]
fn a_connection_belongs_to_the_socket_and_not_to_who_runs() {
    // A closed listener, or a connection before it is whole, has no events of its own here.
    for hook in [
        "tp_btf:inet_sock_set_state",
        "raw_tracepoint:inet_sock_set_state",
    ] {
        for scope in ["sk", "sk->sk_cgrp_data.cgroup", "sk.__sk_common.skc_net"] {
            if scope.ends_with("skc_net") {
                let sandbox = Sandbox::new("net");
                let error = scope_support::refusal(&sandbox, hook, scope).to_string();
                assert!(error.contains("a scope ends in a cgroup"), "{error}");
                continue;
            }
            let sandbox = Sandbox::new("tcp");
            let server = counter(&sandbox, "server", hook, scope);
            let client = counter(&sandbox, "client", hook, scope);
            let idle = counter(&sandbox, "idle", hook, scope);
            let above = counter(&sandbox, "", hook, scope);
            let serving = begin(&sandbox, "server", "serve", &["50"]);
            let port = serving.line.clone();
            act(&sandbox, "client", "connect", &[&port, "50"]);
            serving.finish();
            let (server, client) = (sandbox.runs(server), sandbox.runs(client));
            assert_eq!(sandbox.runs(above), server + client);
            assert_eq!(sandbox.runs(idle), 0);
            // The server's: listen and the end of the listener; of each connection at least
            // established, close-wait and last-ack, some of them while the client runs.
            assert!(server >= 2 + 3 * 50, "{hook} {scope}: {server}");
            // The client's: syn-sent, established, fin-wait-1 and what follows.
            assert!(client >= 4 * 50, "{hook} {scope}: {client}");
        }
    }
}

#[test]
fn what_is_scoped_by_a_path_works_without_casts() {
    again_without(
        "rdonly_cast,current_table,arg_ctx_tag",
        "what_is_scoped_by_a_path_works_without_casts",
    );
}
