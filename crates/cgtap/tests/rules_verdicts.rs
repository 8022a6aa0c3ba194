//! S30 at the kinds of hooks where a program's return decides: security hooks, fmod_ret, probes and
//! sampled events; and what programs at functions are told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/kinds.rs"]
mod kinds;
#[path = "support/rules.rs"]
mod rules;

mod support;

use cgtap::engine::{AttachRequest, ErrorKind, ObjectSource};
use cgtap::id::{AttachmentId, InstanceId};
use cgtap_sys::Errno;
use cgtap_sys::bpf::Map;
use kinds::is_there;
use rules::{act, act_as, choose, ok, refused, word};
use support::event::Event;
use support::{Sandbox, compile_for, ids};

/// Events of each try.
const EVENTS: u64 = 20;
/// What programs of `answers.bpf.c` answer, in the order of their counts.
const ANSWERS: [(&str, i64); 8] = [
    ("zero", 0),
    ("one", 1),
    ("seven", 7),
    ("eperm", -1),
    ("eacces", -13),
    ("least", -4095),
    ("too_low", -5000),
    ("wide", -1),
];

/// A sandbox in which programs of `answers.bpf.c` stand at one kind of hook.
struct Bench {
    sandbox: Sandbox,
    event: Event,
    instance: InstanceId,
    counts: Map,
}

impl Bench {
    fn new(kind: &str, name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let event = Event::of(kind);
        let source = ObjectSource::File {
            path: compile_for(&event, "answers", "answers", &[]),
            set: Vec::new(),
        };
        let mut request = AttachRequest::new(sandbox.cgroup("kept"), source);
        request.programs = choose(&["keep"]);
        let instance = ok(sandbox.engine.attach(request)).instance;
        let counts = sandbox.map(instance, "counts");
        Self {
            sandbox,
            event,
            instance,
            counts,
        }
    }

    fn ask(&self, cgroup: &str, program: &str) -> AttachRequest {
        let source = ObjectSource::Instance(self.instance);
        let mut request = AttachRequest::new(self.sandbox.cgroup(cgroup), source);
        request.programs = choose(&[&format!("{program}@{}", self.event.hook)]);
        request
    }

    fn put(&self, cgroup: &str, program: &str) -> AttachmentId {
        ids(&ok(self.sandbox.engine.attach(self.ask(cgroup, program))))[0]
    }

    /// How often a program has run since the last look.
    fn ran(&self, program: &str) -> u64 {
        let at = ANSWERS.iter().position(|(name, _)| *name == program);
        let key = at.unwrap() as u32;
        let count = word(&self.counts, key);
        self.counts
            .update(&key.to_ne_bytes(), &0u64.to_ne_bytes())
            .unwrap();
        count
    }

    /// What processes of a cgroup are answered: the same each time.
    fn answer(&self, cgroup: &str) -> String {
        let procs = self.sandbox.procs(cgroup).display().to_string();
        let said = act(&["ask", &procs, &EVENTS.to_string()]);
        let mut answers: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(answers.len() as u64, EVENTS);
        answers.dedup();
        assert_eq!(answers.len(), 1, "{said}");
        answers[0].to_owned()
    }

    /// Events of the kind in a cgroup.
    fn make_events(&self, cgroup: &str) {
        let procs = self.sandbox.procs(cgroup).display().to_string();
        act_as(self.event.kind, &["hop", &procs, &EVENTS.to_string()]);
    }
}

/// Holds that with programs above and below, in this order each, `wanted` is answered below, and
/// that all have run.
fn decide(bench: &Bench, above: &[&str], below: &[&str], wanted: &str) {
    let put = |cgroup: &str, names: &[&str]| -> Vec<AttachmentId> {
        names.iter().map(|n| bench.put(cgroup, n)).collect()
    };
    let mut attached = put("t", above);
    attached.extend(put("t/child", below));
    assert_eq!(bench.answer("t/child"), wanted, "{above:?} {below:?}");
    for name in above.iter().chain(below) {
        assert_eq!(bench.ran(name), EVENTS, "{name} of {above:?} {below:?}");
    }
    // Nobody else is answered anything.
    assert_eq!(bench.answer("beside"), "right");
    assert_eq!(bench.answer("t/child/none/deep"), wanted);
    for name in above.iter().chain(below) {
        assert_eq!(bench.ran(name), EVENTS);
    }
    for id in attached {
        bench.sandbox.detach(id).unwrap();
    }
    assert_eq!(bench.answer("t/child"), "right");
}

/// S30: of what the members of a security hook return the first errno wins, and all of them run.
#[test]
fn s30_the_first_errno_of_a_security_hook_wins_and_all_run() {
    if !is_there("lsm") {
        return;
    }
    let bench = Bench::new("lsm", "s30-lsm");
    assert_eq!(bench.answer("t"), "right");
    for (above, below, wanted) in [
        (&["zero"][..], &[][..], "right"),
        (&[], &["eperm"], "-1"),
        (&["eacces"], &[], "-13"),
        (&["eacces"], &["eperm"], "-1"),
        (&["eperm"], &["eacces"], "-13"),
        (&["eperm"], &["zero"], "-1"),
        (&["zero"], &["eacces"], "-13"),
        (&[], &["zero", "eacces", "eperm"], "-13"),
        (&["eperm", "zero", "eacces"], &[], "-1"),
        (&["least"], &["zero"], "-4095"),
    ] {
        decide(&bench, above, below, wanted);
    }
}

/// S30: a number that is no errno decides nothing, and one that is too low is the lowest. From 6.12
/// on the verifier does not let programs return them.
#[test]
fn s30_what_is_no_errno_decides_nothing_at_a_security_hook() {
    if !is_there("lsm") {
        return;
    }
    let bench = Bench::new("lsm", "s30-lsm-other");
    let asked = bench.sandbox.engine.attach(bench.ask("t", "one"));
    if let Err(error) = &asked {
        assert_eq!(error.kind(), ErrorKind::Verifier, "{error}");
        assert!(
            error.to_string().contains("should have been in [-4095, 0]"),
            "{error}"
        );
        for name in ["seven", "too_low"] {
            let asked = bench.sandbox.engine.attach(bench.ask("t", name));
            refused(asked, Errno::EINVAL);
        }
        assert_eq!(bench.answer("t"), "right");
        decide(&bench, &["wide"], &["zero"], "-1");
        return;
    }
    bench.sandbox.detach(ids(&ok(asked))[0]).unwrap();
    for (above, below, wanted) in [
        (&["one"][..], &[][..], "right"),
        (&["one"], &["seven"], "right"),
        (&["eacces"], &["one"], "-13"),
        (&["seven"], &["eperm"], "-1"),
        (&["too_low"], &[], "-4095"),
        (&["wide"], &["one"], "-1"),
    ] {
        decide(&bench, above, below, wanted);
    }
}

/// S30: a security hook that returns nothing has nothing to decide; all of its programs run.
#[test]
fn s30_a_security_hook_that_returns_nothing_runs_all() {
    if !is_there("lsm") {
        return;
    }
    let bench = Bench::new("lsm", "s30-lsm-void");
    let names = ["nothing", "nothing_too"];
    for cgroup in ["t", "t/child"] {
        let source = ObjectSource::Instance(bench.instance);
        let mut request = AttachRequest::new(bench.sandbox.cgroup(cgroup), source);
        request.programs = choose(&names);
        ok(bench.sandbox.engine.attach(request));
    }
    // Programs that are started, in the child and beside.
    for (cgroup, count) in [("t/child", 3), ("beside", 2), ("t", 1)] {
        let procs = bench.sandbox.procs(cgroup).display().to_string();
        let line = format!("echo $$ >{procs}; for n in $(seq {count}); do env true; done");
        support::run(std::process::Command::new("sh").args(["-c", &line]));
    }
    // `seq` is one, and `env` starts another.
    let started = |count: u64| 1 + 2 * count;
    for key in [8, 9] {
        assert_eq!(word(&bench.counts, key), 2 * started(3) + started(1));
    }
}

/// S30: programs at a security hook that are not ours. The kernel asks them one after the other, the
/// newest first, until one denies: the answer is the same, but those behind it are not asked.
#[test]
fn s30_other_programs_at_a_security_hook() {
    if !is_there("lsm") {
        return;
    }
    // Another state is another user of the hook.
    let older = Bench::new("lsm", "s30-lsm-older");
    older.put("", "zero");
    let bench = Bench::new("lsm", "s30-lsm-ours");
    let newer = Bench::new("lsm", "s30-lsm-newer");
    let ours = |answer: &str| {
        let id = bench.put("t", answer);
        let procs = bench.sandbox.procs("t").display().to_string();
        newer.put_at(&bench, "zero");
        let said = act(&["ask", &procs, "1"]);
        (id, said)
    };
    let (id, said) = ours("eperm");
    assert_eq!(said, "-1");
    assert_eq!(bench.ran("eperm"), 1);
    assert_eq!(newer.ran("zero"), 1);
    bench.sandbox.detach(id).unwrap();
    assert_eq!(bench.answer("t"), "right");
    // Nothing of ours is left there: others are asked as ever.
    assert_eq!(newer.ran("zero"), EVENTS);
}

impl Bench {
    /// Attaches to a cgroup of another bench.
    fn put_at(&self, other: &Bench, program: &str) {
        let mut request = self.ask("kept", program);
        request.cgroup = other.sandbox.cgroup("t");
        ok(self.sandbox.engine.attach(request));
    }
}

/// S30: of what the members at a function return the first number that is not 0 is what the
/// function returns; it is not called then. All of them run.
#[test]
fn s30_the_first_number_of_fmod_ret_wins_and_all_run() {
    if !is_there("fmod_ret") {
        return;
    }
    let bench = Bench::new("fmod_ret", "s30-fmod-ret");
    for (above, below, wanted) in [
        (&["zero"][..], &[][..], "right"),
        (&["eperm"], &[], "-1"),
        (&["seven"], &["zero"], "7"),
        (&["eperm"], &["seven"], "7"),
        (&["seven"], &["eacces"], "-13"),
        (&[], &["zero", "zero_too", "one"], "1"),
        (&["wide"], &["zero"], "-1"),
    ] {
        let only = |names: &[&'static str]| -> Vec<&'static str> {
            names.iter().copied().filter(|n| *n != "zero_too").collect()
        };
        decide(&bench, &only(above), &only(below), wanted);
    }
}

/// S30: at probes and sampled events a return decides about a record that nobody else sees: all
/// programs run, and others at the same place see every event.
#[test]
fn s30_probes_run_all_members_and_leave_others_alone() {
    for kind in ["kprobe", "kretprobe", "uprobe", "uretprobe", "perf_event"] {
        if !is_there(kind) {
            continue;
        }
        let bench = Bench::new(kind, &format!("s30-{kind}"));
        let other = Bench::new(kind, &format!("s30-{kind}-other"));
        other.put_at(&bench, "one");
        for names in [&["zero"][..], &["one", "zero"], &["zero", "seven", "one"]] {
            let attached: Vec<AttachmentId> = names.iter().map(|n| bench.put("t", n)).collect();
            bench.make_events("t/child");
            bench.make_events("beside");
            for name in names {
                assert_eq!(bench.ran(name), EVENTS, "{name} of {names:?} at {kind}");
            }
            assert_eq!(other.ran("one"), EVENTS, "{names:?} at {kind}");
            for id in attached {
                bench.sandbox.detach(id).unwrap();
            }
        }
    }
}

/// The address of a function, as the kernel tells it.
fn address(function: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let line = text.lines().find(|l| {
        let mut words = l.split_whitespace().skip(1);
        matches!(words.next(), Some("t" | "T")) && words.next() == Some(function)
    });
    let first = line.unwrap().split(' ').next().unwrap();
    u64::from_str_radix(first, 16).unwrap()
}

/// What a member asks of the place it stands at is told to every member of a set.
#[test]
fn members_are_told_where_their_function_is() {
    for (kind, function) in [
        ("kprobe", "__x64_sys_getppid"),
        ("kprobe.multi", "__x64_sys_getppid"),
        ("fentry", "security_task_getsid"),
        ("fexit", "security_task_getsid"),
        ("fmod_ret", "security_task_getsid"),
    ] {
        if !is_there(kind) {
            continue;
        }
        let bench = Bench::new(kind, &format!("where-{kind}"));
        for cgroup in ["t", "t/child", "t/child/n"] {
            bench.put(cgroup, "where");
        }
        let procs = bench.sandbox.procs("t/child/n").display().to_string();
        act_as(kind, &["hop", &procs, "2"]);
        let log = bench.sandbox.map(bench.instance, "trace");
        let value = log.lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
        let words: Vec<u64> = value
            .chunks_exact(8)
            .map(|w| u64::from_ne_bytes(w.try_into().unwrap()))
            .collect();
        assert_eq!(words[0], 6, "{kind}");
        for told in &words[1..7] {
            assert_eq!(*told, address(function), "{kind}");
        }
    }
}

/// fexit sees what the function returned, and what was put in its place.
#[test]
fn fexit_sees_what_was_returned() {
    if !is_there("fexit") || !is_there("fmod_ret") {
        return;
    }
    let bench = Bench::new("fexit", "fexit");
    bench.put("t", "returned");
    bench.put("t/child", "zero");
    let log = bench.sandbox.map(bench.instance, "trace");
    let last = || {
        let value = log.lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
        let word = |at: usize| u64::from_ne_bytes(value[at * 8..at * 8 + 8].try_into().unwrap());
        (word(0), word(word(0) as usize) as i32)
    };
    assert_eq!(bench.answer("t/child"), "right");
    assert_eq!(last(), (EVENTS, 0));
    let deny = Bench::new("fmod_ret", "fexit-deny");
    deny.put_at(&bench, "eacces");
    assert_eq!(bench.answer("t/child"), "-13");
    assert_eq!(last(), (2 * EVENTS, -13));
}

/// A set whose verdict is combined in one program has no segments: what does not fit is refused,
/// with the number and the kernel's word, and changes nothing.
#[test]
fn a_set_that_does_not_fit_one_program_changes_nothing() {
    for kind in ["lsm", "fmod_ret"] {
        if !is_there(kind) {
            continue;
        }
        let sandbox = Sandbox::new(&format!("one-program-{kind}"));
        let event = Event::of(kind);
        let source = ObjectSource::File {
            path: compile_for(&event, "wide", "wide", &[]),
            set: Vec::new(),
        };
        let mut request = AttachRequest::new(sandbox.cgroup("t"), source);
        let at = |n: usize| format!("w{n:02}@{}", event.hook);
        request.programs = choose(&[&at(0)]);
        let first = ok(sandbox.engine.attach(request));
        let log = sandbox.map(first.instance, "trace");
        let mut more =
            AttachRequest::new(sandbox.cgroup("t"), ObjectSource::Instance(first.instance));
        more.programs = choose(&[&at(1)]);
        let said = rules::unchanged(&sandbox, || {
            let error = sandbox.engine.attach(more).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::E2BIG), "{error}");
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
            error.to_string()
        });
        for words in [
            "combined in one BPF program",
            "2 attachments",
            "nothing has changed",
        ] {
            assert!(said.contains(words), "{said}");
        }
        let procs = sandbox.procs("t").display().to_string();
        act_as(kind, &["hop", &procs, "5"]);
        assert_eq!(word(&log, 0), 5);
    }
}
