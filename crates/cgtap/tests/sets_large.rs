//! Sets that no single program of the kernel could hold, and members that want much of it: each
//! runs once for every event, in order, and counts exactly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use std::collections::BTreeMap;

use cgtap::attach::MAX_ATTACHMENTS;
use cgtap::engine::{AttachRequest, ObjectSource};
use cgtap::id::AttachmentId;
use cgtap_sys::Errno;
use cgtap_sys::bpf::Prog;
use cgtap_sys::libbpf::Btf;
use rules::{Lab, act, choose, choose_as_written, enter, letters, ok, word};
use support::event::Event;
use support::{Sandbox, compile_for, compile_with, ids};

/// `PREFIX00` and so on.
fn names(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{prefix}{n:02}")).collect()
}

fn put_all(lab: &Lab, cgroup: &str, names: &[String]) -> Vec<AttachmentId> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ids(&ok(lab.engine.attach(lab.ask(cgroup, &names))))
}

/// Events that did not run what they should have, at every hook.
fn lost(sandbox: &Sandbox) -> u64 {
    let lists = sandbox.engine.list(&Default::default()).unwrap();
    // It is the hook's, and told with each of its lists.
    let hooks: BTreeMap<_, _> = lists.iter().map(|l| (&l.hook, l.lost)).collect();
    hooks.values().sum()
}

#[test]
fn a_hundred_effective_programs_run_in_order_once_for_every_event() {
    let lab = Lab::with("hundred", "hundred");
    let near = put_all(&lab, "t/child", &names("p", 0..MAX_ATTACHMENTS));
    let mid = put_all(&lab, "t", &names("p", MAX_ATTACHMENTS..90));
    let top = put_all(&lab, "", &names("p", 90..100));
    assert_eq!(lab.numbers("t/child"), (0..100).collect::<Vec<u64>>());
    assert_eq!(lab.numbers("t"), (64..100).collect::<Vec<u64>>());
    let want: Vec<AttachmentId> = near.into_iter().chain(mid).chain(top).collect();
    assert_eq!(lab.effective("t/child", enter()), want);

    lab.getppid("t/child", 1000);
    lab.getppid("", 10);
    let log = lab.map(lab.instance, "trace");
    assert_eq!(word(&log, 0), 100 * 1000 + 10 * 10);
    assert_eq!(lost(&lab), 0);
}

#[test]
fn more_maps_than_a_program_may_have() {
    let lab = Lab::with("maps", "mapful");
    put_all(&lab, "t", &names("p", 0..20));
    assert_eq!(lab.numbers("t"), (0..20).collect::<Vec<u64>>());
    lab.getppid("t", 99);
    for n in 0..20 {
        for letter in ["a", "b", "c", "d"] {
            let map = lab.map(lab.instance, &format!("m{n:02}{letter}"));
            assert_eq!(word(&map, 0), 100);
        }
    }
    assert_eq!(lost(&lab), 0);
}

#[test]
fn a_member_with_61_maps_runs_alone_and_among_others() {
    let lab = Lab::with("maps-61", "mapful");
    lab.put("alone", "sixty_one");
    assert_eq!(lab.numbers("alone"), [61]);
    lab.put("t", "p00");
    lab.put("t", "sixty_one");
    lab.put("t", "p01");
    assert_eq!(lab.numbers("t"), [0, 61, 1]);
}

/// A set counts and jumps by maps of its own: a member that has all 64 is refused, in words.
#[test]
fn a_member_with_64_maps_is_refused_and_changes_nothing() {
    let lab = Lab::with("maps-64", "mapful");
    lab.put("t", "p00");
    let said = lab.refuse(Errno::E2BIG, "t", "sixty_four", |_| {});
    assert!(said.contains("maps"), "{said}");
    lab.put("t", "p01");
    assert_eq!(lab.numbers("t"), [0, 1]);
}

#[test]
fn members_of_130_functions_each() {
    let lab = Lab::with("functions", "wide");
    put_all(&lab, "t", &names("w", 0..8));
    assert_eq!(lab.numbers("t"), (0..8).collect::<Vec<u64>>());
    lab.getppid("t", 1000);
    let log = lab.map(lab.instance, "trace");
    assert_eq!(word(&log, 0), 8 * 1000);
    assert_eq!(lost(&lab), 0);
}

/// S30 where the members of an array are in several programs, or are functions that the verifier
/// checks alone: the running verdict is carried from each to the next.
#[test]
fn verdicts_are_anded_over_segments_and_functions() {
    let id = std::fs::read_to_string("/sys/kernel/tracing/events/syscalls/sys_enter_getppid/id");
    let id = id.expect("these tests need tracefs at /sys/kernel/tracing");
    // Those with an even number return 0.
    let flags = ["-DCLASSIC", "-DEVEN=0"];
    for (fixture, programs) in [
        ("wide", ["w01", "w03", "w05"]),
        ("wide", ["w00", "w01", "w03"]),
        ("wide", ["w01", "w02", "w03"]),
        ("wide", ["w01", "w03", "w04"]),
        ("heavy", ["forked1", "forked3", "forked5"]),
        ("heavy", ["forked0", "forked1", "forked3"]),
        ("heavy", ["forked1", "forked3", "forked2"]),
    ] {
        let sandbox = Sandbox::new(&format!("and-{}", programs.join("-")));
        // At this hook whatever kind is tested: not every kind may return what it likes.
        let any = Event::of("raw_tracepoint");
        let source = ObjectSource::File {
            path: compile_for(&any, fixture, &format!("{fixture}-classic"), &flags),
            set: Vec::new(),
        };
        let mut request = AttachRequest::new(sandbox.cgroup("t"), source);
        request.programs = choose_as_written(&programs);
        let report = ok(sandbox.engine.attach(request));
        let procs = sandbox.procs("t").display().to_string();
        let told = act(&["perf", &procs, id.trim(), "100"]);
        // All have run, but for events the kernel says it missed.
        let missed = sandbox.own("t")[0].recursion_misses;
        let ran = word(&sandbox.map(report.instance, "trace"), 0);
        assert!(
            ran <= 300 && ran + 3 * missed >= 300,
            "{ran} runs, {missed} missed"
        );
        let counted: u64 = told.split(' ').next().unwrap().parse().unwrap();
        let odd = |name: &&str| name.ends_with(['1', '3', '5']);
        if programs.iter().all(odd) {
            assert!(
                counted <= 100 && counted + missed >= 100,
                "{programs:?}: {told}, {missed} missed"
            );
        } else {
            assert_eq!(told, "0 0", "{programs:?}");
        }
        assert_eq!(lost(&sandbox), 0);
    }
}

/// Ten programs of some 150,000 verified instructions each: one program may have a million.
#[test]
fn more_verified_instructions_than_a_program_may_have() {
    let lab = Lab::with("verified", "heavy");
    let all: Vec<String> = (0..10).map(|n| format!("long{n}")).collect();
    let before = lab.set_programs();
    put_all(&lab, "t", &all);
    let verified = |id: &u32| Prog::from_id(*id).unwrap().info().unwrap().verified_insns;
    let sets = lab.set_programs();
    let new = sets.iter().filter(|id| !before.contains(id));
    let sum: u32 = new.map(verified).sum();
    assert!(sum > 1_200_000, "{sum}");
    assert_eq!(lab.numbers("t"), (0..10).collect::<Vec<u64>>());
    lab.getppid("t", 20);
    assert_eq!(lab.logged().len(), 200);
    assert_eq!(lost(&lab), 0);
}

/// Loops that fork at every turn: each loads alone, several exceed what the verifier remembers.
#[test]
fn members_that_the_verifier_refuses_together() {
    let lab = Lab::with("forked", "heavy");
    let all: Vec<String> = (0..6).map(|n| format!("forked{n}")).collect();
    put_all(&lab, "t", &all);
    assert_eq!(lab.numbers("t"), (100..106).collect::<Vec<u64>>());
    lab.getppid("t", 20);
    assert_eq!(lab.logged().len(), 120);
    assert_eq!(lost(&lab), 0);
}

#[test]
fn members_behind_one_that_tail_calls_still_run() {
    let lab = Lab::with("jumps", "jumps");
    for name in ["a", "jumps", "b", "stays", "again", "c"] {
        lab.put("t", name);
    }
    // `again` goes round five times and notes once.
    let order = "aj12bsrc";
    assert_eq!(lab.letters("t"), order);
    for _ in 0..20 {
        assert_eq!(lab.letters("t"), order);
    }
    let turns = lab.map(lab.instance, "turns");
    assert_eq!(word(&turns, 0), 21 * 5);
    // Over levels, first and last.
    lab.put("t/child", "jumps");
    lab.put("", "again");
    assert_eq!(lab.letters("t/child"), format!("j12{order}r"));
    assert_eq!(lost(&lab), 0);
}

#[test]
fn a_member_that_tail_calls_runs_alone() {
    let lab = Lab::with("jumps-alone", "jumps");
    lab.put("t", "jumps");
    assert_eq!(lab.letters("t"), "j12");
    lab.put("u", "again");
    assert_eq!(lab.letters("u"), "r");
}

/// The kernel lets 33 tail calls follow one another. A member may use up what is left of them, and
/// those behind it in the same program still run; where a jump to the next one has to follow, it
/// fails, and that is counted. Older kernels (6.1) do not hold a member's jumps against those that
/// follow it, and there all run.
#[test]
fn a_member_that_uses_up_all_tail_calls_takes_nobody_along_unseen() {
    let lab = Lab::new("jumps-all");
    let set = vec![("rounds".to_owned(), (1u64 << 60).to_string())];
    let path = support::compile("jumps");
    let endless = |cgroup: &str| {
        let source = ObjectSource::File {
            path: path.clone(),
            set: set.clone(),
        };
        let mut request = AttachRequest::new(lab.cgroup(cgroup), source);
        request.programs = choose(&["a", "again", "b", "c"]);
        let report = ok(lab.engine.attach(request));
        ["trace", "turns"].map(|m| lab.map(report.instance, m))
    };
    let [trace, turns] = endless("t");
    lab.put("t", "d");
    assert_eq!(lab.letters("t"), "d");
    assert_eq!(word(&trace, 0), 4);
    let alone = word(&turns, 0);
    assert!((30..=34).contains(&alone), "{alone}");
    assert_eq!(lost(&lab), 0);

    // With segments behind it.
    let [trace, turns] = endless("u");
    let mut request = lab.request("u", "wide");
    request.programs = choose(&["w00", "w01", "w02"]);
    let wide = ok(lab.engine.attach(request));
    let wide = lab.map(wide.instance, "trace");
    lab.getppid("u", 100);
    assert_eq!(word(&trace, 0), 4 * 100);
    assert!(word(&turns, 0) >= 30 * 100);
    // The first of them is in the same program.
    let found = (word(&wide, 0), lost(&lab));
    assert!([(100, 100), (300, 0)].contains(&found), "{found:?}");
}

#[test]
fn members_with_much_stack_run_among_others() {
    let lab = Lab::with("stack", "deep");
    let all = ["deep480", "deep200", "chained", "deep480", "deep200"];
    let levels = ["t", "t/n", "t/n/n", "t/n/n/n", "t/n/n/n/n"];
    for (cgroup, name) in levels.into_iter().zip(all) {
        lab.put(cgroup, name);
    }
    assert_eq!(lab.numbers("t"), [60]);
    assert_eq!(lab.numbers("t/n"), [25, 60]);
    assert_eq!(lab.numbers("t/n/n"), [240, 25, 60]);
    assert_eq!(lab.numbers("t/n/n/n/n"), [25, 60, 240, 25, 60]);
    lab.getppid("t/n/n/n/n", 40);
    assert_eq!(lab.logged().len(), 200);
    assert_eq!(lost(&lab), 0);
}

/// All the stack there is: alone, and as the last of others.
#[test]
fn a_member_with_all_the_stack_runs() {
    let lab = Lab::with("stack-512", "deep");
    lab.put("alone", "deep512");
    assert_eq!(lab.numbers("alone"), [512]);
    lab.put("t", "deep200");
    lab.put("t", "deep512");
    assert_eq!(lab.numbers("t"), [25, 512]);
}

/// The same in front of others, where a jump still has to follow it. A kernel without private stacks
/// (before 6.13) has no room for main beside more than 480 bytes: it says so, and nothing changes.
#[test]
fn members_with_all_the_stack_run_in_any_place() {
    let lab = Lab::with("stack-order", "deep");
    lab.put("beside", "deep512");
    let refused = lab.unchanged_if_refused("beside", "deep200").err();
    let has_room = refused.is_none();
    let btf = Btf::vmlinux().unwrap();
    let has_private_stacks = btf.field("bpf_prog_aux", "priv_stack_ptr").is_ok();
    assert_eq!(has_room, has_private_stacks, "{refused:?}");
    if let Some(words) = refused {
        assert!(words.contains("combined stack size of 2 calls"), "{words}");
        assert_eq!(lab.numbers("beside"), [512]);
    }
    let (largest, logs) = if has_room {
        ("deep512", 512)
    } else {
        ("deep480", 60)
    };
    lab.put("t", largest);
    lab.put("t", "deep200");
    let mut above = vec![logs, 25];
    if has_room {
        lab.put("t", "deep488");
        above.push(61);
    }
    assert_eq!(lab.numbers("t"), above);
    lab.put("t/child", largest);
    lab.put("t/child", "chained");
    let below = [&[logs, 240], above.as_slice()].concat();
    assert_eq!(lab.numbers("t/child"), below);
    let leaf = if has_room {
        lab.put("t/child/leaf", "deep488");
        lab.put("t/child/leaf", "deep480");
        [61, 60]
    } else {
        lab.put("t/child/leaf", "deep480");
        lab.put("t/child/leaf", "deep200");
        [60, 25]
    };
    let all = [leaf.as_slice(), below.as_slice()].concat();
    assert_eq!(lab.numbers("t/child/leaf"), all);
    assert_eq!(lost(&lab), 0);
}

#[test]
fn callbacks_globals_locks_ring_buffers_and_kernel_functions_in_one_set() {
    let sandbox = Sandbox::new("features");
    // Two instances of all, so that each thing is there twice.
    let reports = [0, 1].map(|_| ok(sandbox.engine.attach(sandbox.request("t", "features"))));
    assert_eq!(sandbox.effective("t", "tp_btf:sys_enter").len(), 10);
    sandbox.getppid("t", 1000);
    for report in &reports {
        let map = |name: &str| sandbox.map(report.instance, name);
        let counts = map("counts");
        assert_eq!(word(&counts, 0), 45 * 1000);
        assert_eq!(word(&counts, 1), 1000);
        assert_eq!(word(&counts, 2), 1000);
        assert_eq!(word(&counts, 3), 1000);
        let locked = map("locked").lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
        assert_eq!(locked[8..16], 1000u64.to_ne_bytes());
        assert_eq!(word(&map("bss"), 0), 1000);
    }
    assert_eq!(lost(&sandbox), 0);
}

#[test]
fn objects_without_btf_among_objects_with_btf() {
    let lab = Lab::new("bare");
    let bare = compile_with("bare", "bare", &["-g0"]);
    let put_bare = |cgroup: &str| {
        let set = Vec::new();
        let source = ObjectSource::File {
            path: bare.clone(),
            set,
        };
        let request = AttachRequest::new(lab.cgroup(cgroup), source);
        ok(lab.engine.attach(request))
    };
    let alone = put_bare("alone");
    lab.getppid("alone", 7);
    assert_eq!(word(&lab.map(alone.instance, "bss"), 0), 7 * 1_000_001);

    lab.put("t", "a");
    let first = put_bare("t");
    lab.put("t", "b");
    let second = put_bare("t");
    lab.put("t/child", "c");
    assert_eq!(lab.letters("t/child"), "cab");
    lab.getppid("t", 99);
    for report in [first, second] {
        assert_eq!(word(&lab.map(report.instance, "bss"), 0), 100 * 1_000_001);
        assert_eq!(report.attachments.len(), 2);
    }
    assert_eq!(lost(&lab), 0);
}

#[test]
fn thirty_instances_of_one_object_count_apart() {
    let sandbox = Sandbox::new("thirty");
    let reports: Vec<_> = (0..30)
        .map(|n| {
            // Half of them a level up: all are effective below.
            let cgroup = if n % 2 == 0 { "t/child" } else { "t" };
            ok(sandbox.engine.attach(sandbox.request(cgroup, "count")))
        })
        .collect();
    sandbox.getppid("t/child", 1000);
    sandbox.getppid("t", 10);
    let count = |n: usize| word(&sandbox.map(reports[n].instance, "counts"), 0);
    for n in 0..30 {
        assert_eq!(count(n), if n % 2 == 0 { 1000 } else { 1010 });
    }
    // Every third goes; the others count on.
    for n in (0..30).step_by(3) {
        sandbox.detach(reports[n].attachments[0].id).unwrap();
    }
    sandbox.getppid("t/child", 5);
    for n in (0..30).filter(|n| n % 3 != 0) {
        assert_eq!(count(n), if n % 2 == 0 { 1005 } else { 1015 });
    }
    assert_eq!(lost(&sandbox), 0);
}

/// More sets than the dispatcher jumps to directly: 128 by a constant, the others through the array.
#[test]
fn more_sets_than_there_are_direct_jumps() {
    let lab = Lab::new("many");
    for n in 0..140 {
        let cookie = 1000 + n;
        lab.put_as(&format!("t{n}"), "cookie", |r| r.cookie = cookie);
    }
    assert!(lab.set_programs().len() >= 141);
    let mut hops = vec!["hop".to_owned()];
    for n in 0..140 {
        hops.extend([
            lab.procs(&format!("t{n}")).display().to_string(),
            "1".to_owned(),
        ]);
    }
    let hops: Vec<&str> = hops.iter().map(String::as_str).collect();
    for _ in 0..2 {
        act(&hops);
        assert_eq!(lab.logged(), (1000..1140).collect::<Vec<u64>>());
    }
    assert_eq!(lost(&lab), 0);
}

/// Members of every kind in one array, over four levels, with segments between them.
#[test]
fn all_of_it_at_once() {
    let lab = Lab::with("all", "hundred");
    let other = |cgroup: &str, fixture: &str, programs: &[&str]| {
        let mut request = lab.request(cgroup, fixture);
        request.programs = choose(programs);
        let report = ok(lab.engine.attach(request));
        lab.map(report.instance, "trace")
    };
    let wide = other("t", "wide", &["w00", "w01", "w02"]);
    let jumps = other("t/n", "jumps", &["jumps", "again", "a"]);
    let deep = other("t/n", "deep", &["deep480", "deep200", "chained"]);
    let heavy = other(
        "t/n/n",
        "heavy",
        &["forked0", "long0", "forked1", "forked2"],
    );
    put_all(&lab, "t/n/n/n", &names("p", 0..50));
    assert_eq!(lab.numbers("t/n/n/n"), (0..50).collect::<Vec<u64>>());
    let log = lab.map(lab.instance, "trace");
    lab.getppid("t/n/n/n", 9);
    assert_eq!(word(&log, 0), 450);
    assert_eq!(word(&wide, 0), 10 * 3);
    assert_eq!(word(&jumps, 0), 10 * 5);
    assert_eq!(word(&deep, 0), 10 * 3);
    assert_eq!(word(&heavy, 0), 10 * 4);
    assert_eq!(lost(&lab), 0);
    let logged = jumps.lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
    let first: Vec<u64> = (1..6).map(|n| u64::from(logged[n * 8])).collect();
    assert_eq!(letters(&first), "j12ra");
}
