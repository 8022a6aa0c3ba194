//! What cannot be had at a hook is refused in words that say what is wrong and what to do: places
//! that are not there, and programs that want what a hook or the dispatcher cannot give (S31).
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

use cgtap::engine::{AttachRequest, Error, ErrorKind, ObjectSource};
use cgtap_sys::Errno;
use kinds::is_there;
use rules::{act_as, choose, ok};
use support::event::Event;
use support::{Sandbox, compile_for};

/// Attaches a program of a fixture for a kind of hook, and expects to be refused.
fn refusal(sandbox: &Sandbox, fixture: &str, kind: &str, program: &str, flags: &[&str]) -> Error {
    let name = format!("{fixture}{}", flags.len());
    let source = ObjectSource::File {
        path: compile_for(&Event::of(kind), fixture, &name, flags),
        set: Vec::new(),
    };
    let mut request = AttachRequest::new(sandbox.cgroup("t"), source);
    request.programs = choose(&[program]);
    rules::unchanged(sandbox, || match sandbox.engine.attach(request) {
        Err(error) => error,
        Ok(report) => panic!("{program} was attached: {report:?}"),
    })
}

/// The same for a hook that cannot be had: these words, this errno.
fn no_hook(kind: &str, target: &str, errno: Errno, words: &[&str]) {
    if !is_there(kind) {
        return;
    }
    let sandbox = Sandbox::new("no-hook");
    let program = format!("count@{kind}:{target}");
    let error = refusal(&sandbox, "count", kind, &program, &[]);
    assert_eq!(error.errno(), Some(errno), "{error}");
    assert_eq!(error.kind(), ErrorKind::Hook, "{error}");
    for part in words {
        assert!(error.to_string().contains(part), "{part:?}: {error}");
    }
}

#[test]
fn a_function_that_is_not_there_is_told_with_those_like_it() {
    let words = [
        "this kernel has no function `do_nanosleeep`",
        "did you mean",
        "do_nanosleep",
    ];
    no_hook("kprobe", "do_nanosleeep", Errno::ENOENT, &words);
    let words = ["this kernel has no function `vfs_raed`", "vfs_read"];
    no_hook("fentry", "vfs_raed", Errno::ENOENT, &words);
    let words = ["no function that can be traced like `vfs_raed`"];
    no_hook("kprobe.multi", "vfs_raed", Errno::ENOENT, &words);
    let words = ["no security hook `file_opn`", "did you mean", "file_open"];
    no_hook("lsm", "file_opn", Errno::ENOENT, &words);
}

#[test]
fn a_function_that_may_be_inlined_is_told_so() {
    let words = [
        "this kernel has no function `qqzzqqzzqqzz`",
        "it may be inlined into its callers, which no probe can see",
    ];
    no_hook("kprobe", "qqzzqqzzqqzz", Errno::ENOENT, &words);
}

#[test]
fn a_function_that_cannot_be_probed_is_told_why() {
    let words = [
        "cannot probe do_int3: the kernel keeps probes away from it",
        "probe a function that calls it, or that it calls",
    ];
    no_hook("kprobe", "do_int3", Errno::EINVAL, &words);
    let words = [
        "cannot probe vfs_read+0x1",
        "vfs_read has no instruction that begins at +0x1, or it cannot be probed there",
    ];
    // Inside the first instruction of a function, or of what ftrace makes of it.
    no_hook("kprobe", "vfs_read+0x1", Errno::EILSEQ, &words);
}

#[test]
fn a_binary_without_the_place_is_told_what_it_has() {
    let libc = "libc.so.6";
    let words = ["libc.so.6 has no function getpidd", "getpid"];
    no_hook("uprobe", &format!("{libc}:getpidd"), Errno::ENOENT, &words);
    let words = ["holds no code at 0x1"];
    no_hook("uprobe", &format!("{libc}:0x1"), Errno::EINVAL, &words);
    let words = ["there is no file /no/such/program"];
    no_hook("uprobe", "/no/such/program:main", Errno::ENOENT, &words);
    let words = ["there is no file cgtap-no-such-program in /usr/local/bin, /usr/bin"];
    no_hook(
        "uretprobe",
        "cgtap-no-such-program:main",
        Errno::ENOENT,
        &words,
    );
    let words = ["/etc/passwd is no ELF program or library"];
    no_hook("uprobe", "/etc/passwd:main", Errno::EINVAL, &words);
    let stripped = support::program(
        "stripped",
        "support/worker.c",
        &["-s", support::event::library().to_str().unwrap()],
    );
    let words = [
        "has no function main",
        "it is stripped, so only what it exports has a name: give the place in the file, as in \
         uprobe:BINARY:0x1234",
    ];
    let place = format!("{}:main", stripped.display());
    no_hook("uprobe", &place, Errno::ENOENT, &words);
}

#[test]
fn a_perf_event_that_is_not_there_is_told() {
    let words = ["this kernel has no perf event `cykles`; did you mean cycles"];
    no_hook("perf_event", "cykles", Errno::ENOENT, &words);
    let words = [
        "the kernel does not sample 99999999 times a second",
        "/proc/sys/kernel/perf_event_max_sample_rate is the limit",
    ];
    no_hook("perf_event", "cpu-clock/99999999hz", Errno::EINVAL, &words);
    let never = "perf_event:cpu-clock/0".parse::<cgtap::hook::HookSpec>();
    let said = never.unwrap_err().to_string();
    assert!(said.contains("perf_event wants NAME[/PERIOD]"), "{said}");
    // Machines that count cycles take it.
    let sandbox = Sandbox::new("cycles");
    let doctor = sandbox.engine.doctor(false).unwrap();
    let counts = doctor.features.iter().any(|f| {
        f.name == "hardware counters" && f.state == cgtap::kernel::feature::FeatureState::Yes
    });
    if !counts {
        let error = refusal(
            &sandbox,
            "count",
            "perf_event",
            "count@perf_event:cycles",
            &[],
        );
        assert_eq!(error.errno(), Some(Errno::ENOENT), "{error}");
        for words in ["no such hardware counter", "cpu-clock and page-faults"] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

/// Kinds of hooks at which programs are tried.
const KINDS: [&str; 9] = [
    "kprobe",
    "kretprobe",
    "kprobe.multi",
    "uprobe",
    "fentry",
    "fexit",
    "fmod_ret",
    "lsm",
    "perf_event",
];

/// S31: a helper that programs of the type may not call.
#[test]
fn s31_a_helper_of_another_type_is_refused_at_every_kind() {
    for kind in KINDS.into_iter().filter(|k| is_there(k)) {
        let sandbox = Sandbox::new(&format!("s31-helper-{kind}"));
        let program = format!("foreign@{}", Event::of(kind).hook);
        let error = refusal(&sandbox, "wants", kind, &program, &[]);
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{kind}: {error}");
        assert_eq!(error.kind(), ErrorKind::Verifier, "{kind}: {error}");
        let said = format!("{error}\n{}", error.log());
        assert!(said.contains("bpf_skb_load_bytes#26"), "{kind}: {said}");
    }
}

/// S31: past the registers, or the arguments.
#[test]
fn s31_reading_past_what_a_hook_gives_is_refused_at_every_kind() {
    for kind in KINDS.into_iter().filter(|k| is_there(k)) {
        let sandbox = Sandbox::new(&format!("s31-over-{kind}"));
        let program = format!("over@{}", Event::of(kind).hook);
        let error = refusal(&sandbox, "wants", kind, &program, &[]);
        assert_eq!(error.errno(), Some(Errno::EACCES), "{kind}: {error}");
        assert_eq!(error.kind(), ErrorKind::Verifier, "{kind}: {error}");
        let said = format!("{error}\n{}", error.log());
        assert!(
            said.contains("invalid bpf_context access off=512"),
            "{kind}: {said}"
        );
    }
}

/// S31: what the kernel would refuse without a word is refused with words.
#[test]
fn s31_a_program_that_overrides_a_return_is_refused() {
    for kind in ["kprobe", "uprobe"] {
        if !is_there(kind) {
            continue;
        }
        let sandbox = Sandbox::new(&format!("s31-override-{kind}"));
        let program = format!("overrides@{}", Event::of(kind).hook);
        let error = refusal(&sandbox, "wants", kind, &program, &[]);
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
        let words = "it calls bpf_override_return(), and the kernel lets no program that does be \
                     reached by a tail call; fmod_ret and lsm hooks can set a return";
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// S31: a program that may sleep is attached if it does not, and told why not if it does.
#[test]
fn s31_a_program_that_sleeps_is_refused_and_one_that_only_may_is_not() {
    for kind in ["uprobe", "fentry", "lsm"] {
        if !is_there(kind) {
            continue;
        }
        let event = Event::of(kind);
        let flag = format!(
            "-DSLEEPABLE_SECTION=\"{}\"",
            event.section.replacen(kind, &format!("{kind}.s"), 1)
        );
        let sandbox = Sandbox::new(&format!("s31-sleep-{kind}"));
        let program = format!("sleeps@{}", event.hook);
        let error = refusal(&sandbox, "wants", kind, &program, &[&flag]);
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
        let words = "it is written to sleep (its section ends in `.s`), and a program that sleeps \
                     cannot be reached by the dispatcher's tail call";
        assert!(error.to_string().contains(words), "{error}");

        let source = ObjectSource::File {
            path: compile_for(&event, "wants", "wants1", &[&flag]),
            set: Vec::new(),
        };
        let mut request = AttachRequest::new(sandbox.cgroup("t"), source);
        request.programs = choose(&[&format!("naps@{}", event.hook)]);
        let report = ok(sandbox.engine.attach(request));
        let procs = sandbox.procs("t/child").display().to_string();
        act_as(kind, &["hop", &procs, "12"]);
        assert_eq!(sandbox.map_word(&report, ".bss", 0), 12, "{kind}");
    }
}

/// S31: security hooks take programs under the GPL only, whatever they call.
#[test]
fn s31_security_hooks_take_the_gpl_only() {
    if !is_there("lsm") {
        return;
    }
    let sandbox = Sandbox::new("s31-lsm-licence");
    let error = refusal(&sandbox, "unfree", "lsm", "modest@lsm:task_getsid", &[]);
    assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
    let words = "LSM programs must have a GPL compatible license";
    assert!(error.to_string().contains(words), "{error}");
}
