//! S1 to S10 on a real kernel: lists, modes, and what refuses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use cgtap::attach::Mode;
use cgtap::engine::{CgroupRef, Detach, ErrorKind};
use cgtap::id::AttachmentId;
use cgtap_sys::Errno;
use rules::{Lab, enter, hook, mode, ok, other, refused};

/// S1: each hook has a list of its own, with a mode of its own.
#[test]
fn s01_two_hooks_never_influence_each_other() {
    let lab = Lab::new("s01-hooks");
    lab.put_as("t", "a", mode(Mode::None));
    lab.put_as("t", "x", mode(Mode::Multi));
    let mut both: Vec<char> = lab.letters("t").chars().collect();
    both.sort_unstable();
    assert_eq!(both, ['a', 'x']);
    // Exclusive at one hook forbids nothing at the other.
    lab.put("t/child", "x");
    lab.refuse(Errno::EPERM, "t/child", "b", |_| {});

    let gone = Detach::Cgroup(CgroupRef::Path(lab.dir("t")), Some(hook(enter()).into()));
    ok(lab.engine.detach(&gone));
    assert_eq!(lab.letters("t"), "x");
    assert_eq!(lab.own_ids("t", other()).len(), 1);
}

/// S1: the first attachment sets the mode, and with the last one it goes.
#[test]
fn s01_the_first_attachment_sets_the_mode_and_the_last_resets_it() {
    let lab = Lab::new("s01-mode");
    assert_eq!(lab.mode("kept"), None);
    for wanted in Mode::ALL {
        let id = lab.put_as("t", "a", mode(wanted));
        assert_eq!(lab.mode("t"), Some(wanted));
        assert_eq!(lab.letters("t"), "a");
        lab.detach(id).unwrap();
        assert_eq!(lab.mode("t"), None);
        assert_eq!(lab.letters("t"), "");
    }
}

/// S2: `replace` goes with `multi` only. (`override` together with `multi` cannot be said to the
/// engine, whose mode is one word; who reads flags is told by `attach::Flags`.)
#[test]
fn s02_override_with_multi_and_replace_without_multi_are_einval() {
    let lab = Lab::new("s02");
    let both = cgtap::attach::Flags {
        override_: true,
        multi: true,
        replace: false,
    };
    assert_eq!(both.mode().unwrap_err().errno().name(), "EINVAL");

    let id = lab.put("t", "a");
    for wanted in [Mode::None, Mode::Override] {
        let words = lab.refuse(Errno::EINVAL, "t", "b", |r| {
            r.mode = wanted;
            r.replace = Some(id);
        });
        assert!(words.contains("replace needs mode multi"), "{words}");
    }
    assert_eq!(lab.letters("t"), "a");
}

/// S3: the mode of a list that is not empty cannot change.
#[test]
fn s03_a_mode_that_differs_from_the_lists_is_eperm() {
    let lab = Lab::new("s03");
    for has in Mode::ALL {
        let id = lab.put_as("t", "a", mode(has));
        for wanted in Mode::ALL.into_iter().filter(|m| *m != has) {
            let words = lab.refuse(Errno::EPERM, "t", "b", mode(wanted));
            assert!(words.contains(&lab.path("t")), "{words}");
            assert!(words.contains(&format!("has mode {has}")), "{words}");
        }
        assert_eq!(lab.letters("t"), "a");
        lab.detach(id).unwrap();
    }
}

/// S4: the nearest ancestor with a list decides: exclusive forbids every mode below.
#[test]
fn s04_an_exclusive_ancestor_forbids_and_others_allow() {
    let lab = Lab::new("s04");
    for above in Mode::ALL {
        let top = lab.put_as("t", "a", mode(above));
        // There is an empty one between.
        for below in Mode::ALL {
            if above == Mode::None {
                let words = lab.refuse(Errno::EPERM, "t/mid/leaf", "b", mode(below));
                assert!(
                    words.contains(&format!("cgroup {}", lab.path("t"))),
                    "{words}"
                );
                continue;
            }
            let id = lab.put_as("t/mid/leaf", "b", mode(below));
            let both = above == Mode::Multi;
            assert_eq!(lab.letters("t/mid/leaf"), if both { "ba" } else { "b" });
            lab.detach(id).unwrap();
        }
        // Beside it nothing is forbidden.
        let beside = lab.put("beside", "c");
        lab.detach(beside).unwrap();
        lab.detach(top).unwrap();
    }
}

/// S4: an ancestor in multi allows whatever stands above it. An exclusive list can come above one
/// that is there, as in the kernel: only ancestors are asked.
#[test]
fn s04_a_multi_ancestor_allows_below_an_exclusive_one() {
    let lab = Lab::new("s04-between");
    lab.put("t/mid", "b");
    lab.put_as("t", "a", mode(Mode::None));
    lab.put("t/mid/leaf", "c");
    // The exclusive list is not nearest and not multi: it does not count below.
    assert_eq!(lab.letters("t/mid/leaf"), "cb");
    assert_eq!(lab.letters("t/mid"), "b");
    assert_eq!(lab.letters("t"), "a");
    // The middle itself has the exclusive one as its nearest.
    lab.refuse(Errno::EPERM, "t/mid", "d", |_| {});
    lab.refuse(Errno::EPERM, "t/other", "d", |_| {});
}

/// S5: there is one place in these modes, and the second to come takes it.
#[test]
fn s05_a_second_attach_in_none_or_override_replaces_the_first() {
    let lab = Lab::new("s05");
    for wanted in [Mode::None, Mode::Override] {
        let first = lab.put_as("t", "a", mode(wanted));
        assert_eq!(lab.letters("t"), "a");
        let second = lab.put_as("t", "b", mode(wanted));
        assert_eq!(lab.own_ids("t", enter()), [second]);
        assert_eq!(lab.letters("t"), "b");
        refused(lab.detach(first), Errno::ENOENT);
        // The same program again is no error here.
        let third = lab.put_as("t", "b", mode(wanted));
        assert_eq!(lab.letters("t"), "b");
        lab.detach(third).unwrap();
        assert_eq!(lab.letters("t"), "");
    }
    // What is replaced is unloaded, where nothing else of its object is attached.
    let attach = |sandbox: &support::Sandbox| {
        let mut request = sandbox.request("t", "letters");
        request.programs = rules::choose(&["c"]);
        request.mode = Mode::None;
        ok(sandbox.engine.attach(request)).instance
    };
    let first = attach(&lab);
    let second = attach(&lab);
    refused(lab.engine.maps(Some(first)), Errno::ENOENT);
    let log = lab.map(second, "trace");
    lab.getppid("t", 3);
    assert_eq!(rules::word(&log, 0), 3);
}

/// S6: one loaded program once on a list; at another level and another hook it is welcome, and so
/// is another loading of the same file.
#[test]
fn s06_the_same_program_twice_on_a_list_is_einval() {
    let lab = Lab::new("s06");
    let id = lab.put("t", "a");
    let words = lab.refuse(Errno::EINVAL, "t", "a", |_| {});
    assert!(words.contains(&format!("as attachment {id}")), "{words}");
    lab.refuse(Errno::EINVAL, "t", "a", |r| r.preorder = true);
    // Both in one call: none of them comes.
    let mut twice = lab.ask("u", &["b", "b"]);
    twice.programs.swap(0, 1);
    lab.unchanged(|| refused(lab.engine.attach(twice), Errno::EINVAL));

    lab.put("t/child", "a");
    assert_eq!(lab.letters("t/child"), "aa");
    let mut again = lab.request("t", "letters");
    again.programs = rules::choose(&["a"]);
    let report = ok(lab.engine.attach(again));
    assert_ne!(report.instance, lab.instance);
    // It writes a log of its own.
    let other = lab.map(report.instance, "trace");
    assert_eq!(lab.letters("t/child"), "aa");
    let value = other.lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
    assert_eq!(value[0], 1);
    assert_eq!(value[8], b'a');
}

/// S7: 64 on a list; the 65th is E2BIG, and a list full like this refuses a replacement too, as
/// the kernel does. Other lists are not full.
#[test]
fn s07_the_65th_attachment_of_a_list_is_e2big() {
    let lab = Lab::with("s07", "hundred");
    let names: Vec<String> = (0..100).map(|n| format!("p{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = lab.ask("t", &names[..65]);
    lab.unchanged(|| refused(lab.engine.attach(all), Errno::E2BIG));
    assert!(lab.own_ids("t", enter()).is_empty());

    let report = ok(lab.engine.attach(lab.ask("t", &names[..64])));
    let words = lab.refuse(Errno::E2BIG, "t", "p64", |_| {});
    assert!(words.contains("full with 64 attachments"), "{words}");
    let first = report.attachments[0].id;
    lab.refuse(Errno::E2BIG, "t", "p64", |r| r.replace = Some(first));
    assert_eq!(lab.numbers("t"), (0..64).collect::<Vec<u64>>());

    lab.put("t/child", "p64");
    assert_eq!(lab.numbers("t/child").len(), 65);
    lab.detach(first).unwrap();
    lab.put("t", "p65");
    let now = lab.numbers("t");
    assert_eq!((now.len(), now[0], now[63]), (64, 1, 65));
}

/// S8: a detach names what it means; what is not there is ENOENT.
#[test]
fn s08_detach_must_name_what_is_attached() {
    let lab = Lab::new("s08");
    let ids = [lab.put("t", "a"), lab.put("t", "b")];
    let none = Detach::Ids(Vec::new());
    lab.unchanged(|| refused(lab.engine.detach(&none), Errno::EINVAL));
    let unknown = AttachmentId(12_345);
    lab.unchanged(|| refused(lab.detach(unknown), Errno::ENOENT));
    // One that is there beside one that is not: neither goes.
    let mixed = Detach::Ids(vec![ids[0], unknown]);
    lab.unchanged(|| refused(lab.engine.detach(&mixed), Errno::ENOENT));
    assert_eq!(lab.letters("t"), "ab");

    // What runs in a child through its parent is not the child's to detach.
    lab.cgroup("t/child");
    let child = Detach::Cgroup(CgroupRef::Path(lab.dir("t/child")), None);
    lab.unchanged(|| refused(lab.engine.detach(&child), Errno::ENOENT));
    let elsewhere = Detach::Cgroup(CgroupRef::Path(lab.dir("t")), Some(hook(other()).into()));
    lab.unchanged(|| refused(lab.engine.detach(&elsewhere), Errno::ENOENT));

    lab.detach(ids[0]).unwrap();
    assert_eq!(lab.letters("t"), "b");
    lab.unchanged(|| refused(lab.detach(ids[0]), Errno::ENOENT));
    let list = Detach::Cgroup(CgroupRef::Path(lab.dir("t")), Some(hook(enter()).into()));
    let report = ok(lab.engine.detach(&list));
    assert_eq!(report.detached, [ids[1]]);
    assert_eq!(lab.letters("t"), "");
}

/// S8: in the exclusive modes there is one, and naming the list is enough.
#[test]
fn s08_the_only_one_of_an_exclusive_list_goes_with_its_list() {
    let lab = Lab::new("s08-one");
    for wanted in [Mode::None, Mode::Override] {
        let id = lab.put_as("t", "a", mode(wanted));
        let list = Detach::Cgroup(CgroupRef::Path(lab.dir("t")), Some(hook(enter()).into()));
        assert_eq!(ok(lab.engine.detach(&list)).detached, [id]);
        lab.unchanged(|| refused(lab.engine.detach(&list), Errno::ENOENT));
    }
}

/// S9: a replacement stands where the replaced one stood.
#[test]
fn s09_replace_keeps_the_place() {
    let lab = Lab::new("s09");
    let ids = [lab.put("t", "a"), lab.put("t", "b"), lab.put("t", "c")];
    let new = lab.put_as("t", "d", |r| r.replace = Some(ids[1]));
    assert_ne!(new, ids[1]);
    assert_eq!(lab.own_ids("t", enter()), [ids[0], new, ids[2]]);
    assert_eq!(lab.letters("t"), "adc");
    // By itself.
    let same = lab.put_as("t", "d", |r| r.replace = Some(new));
    assert_eq!(lab.own_ids("t", enter()), [ids[0], same, ids[2]]);
    assert_eq!(lab.letters("t"), "adc");
    // In place: even the id stays.
    ok(lab.engine.replace(lab.update(ids[0], "e")));
    ok(lab.engine.replace(lab.update(ids[0], "e")));
    assert_eq!(lab.own_ids("t", enter()), [ids[0], same, ids[2]]);
    assert_eq!(lab.letters("t"), "edc");
}

/// S9: what is to be replaced has to be on that list.
#[test]
fn s09_replacing_what_is_not_attached_is_enoent() {
    let lab = Lab::new("s09-not");
    lab.put("t", "a");
    let elsewhere = lab.put("u", "b");
    let other_hook = lab.put("t", "x");
    for id in [elsewhere, other_hook, AttachmentId(12_345)] {
        let words = lab.refuse(Errno::ENOENT, "t", "c", |r| r.replace = Some(id));
        assert!(words.contains(&format!("attachment {id}")), "{words}");
    }
    // A program that stands elsewhere on the list cannot stand there twice.
    let second = lab.put("t", "b");
    lab.refuse(Errno::EINVAL, "t", "a", |r| r.replace = Some(second));
    // Neither is an attachment nor an instance that never was.
    let never = lab.update(AttachmentId(12_345), "c");
    lab.unchanged(|| refused(lab.engine.replace(never), Errno::ENOENT));
    let mut wrong = lab.update(second, "c");
    wrong.source = cgtap::engine::ObjectSource::Instance(cgtap::id::InstanceId(999));
    lab.unchanged(|| refused(lab.engine.replace(wrong), Errno::ENOENT));
    lab.detach(other_hook).unwrap();
    assert_eq!(lab.letters("t"), "ab");
}

/// S10: of an object whose last program is refused, none is attached.
#[test]
fn s10_a_refused_program_takes_the_others_of_the_call_with_it() {
    let lab = Lab::new("s10");
    lab.put("t", "a");
    let request = lab.request("t", "half");
    let words = lab.unchanged(|| refused(lab.engine.attach(request), Errno::EINVAL));
    assert!(words.contains("cannot attach bad"), "{words}");
    assert_eq!(lab.letters("t"), "a");
    // A hook that this kernel does not have is found as late.
    let request = lab.ask("t", &["b", "c@raw_tracepoint:no_such_thing"]);
    let words = lab.unchanged(|| refused(lab.engine.attach(request), Errno::ENOENT));
    assert!(words.contains("no_such_thing"), "{words}");
    assert_eq!(lab.letters("t"), "a");
    // In a state that is not there yet, nothing is made either.
    let fresh = support::Sandbox::new("s10-fresh");
    refused(
        fresh.engine.attach(fresh.request("t", "half")),
        Errno::EINVAL,
    );
    assert!(fresh.lists().is_empty());
}

/// S10: a change that one effective array does not survive changes nothing, for anybody. 29 wide
/// programs at a child leave room for one above them, for a set has 30 segments.
#[test]
fn s10_an_effective_array_that_cannot_be_built_undoes_the_whole_change() {
    let lab = Lab::with("s10-array", "wide");
    let names: Vec<String> = (0..31).map(|n| format!("w{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ok(lab.engine.attach(lab.ask("t/child", &names[..29])));
    let above = lab.put("t", names[29]);
    assert_eq!(lab.numbers("t/child"), (0..30).collect::<Vec<u64>>());

    let request = lab.ask("t", &names[30..]);
    let error = lab.unchanged(|| lab.engine.attach(request).unwrap_err());
    assert_eq!(error.errno(), Some(Errno::E2BIG), "{error}");
    assert_eq!(error.kind(), ErrorKind::Full);
    let words = error.to_string();
    // It names the limit, and where.
    for part in [
        "31 programs",
        "30",
        "MAX_TAIL_CALL_CNT",
        &lab.path("t/child"),
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(lab.numbers("t"), [29]);
    assert_eq!(lab.numbers("t/child"), (0..30).collect::<Vec<u64>>());
    assert_eq!(lab.own_ids("t", enter()), [above]);
}
