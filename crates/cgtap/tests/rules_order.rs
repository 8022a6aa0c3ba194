//! S11 to S13 and S16 to S18 on a real kernel: what is effective, in which order, and who decides.
//!
//! The order is what the programs wrote down when an event ran them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use cgtap::attach::{Anchor, Mode, Place};
use cgtap::engine::{AttachRequest, CgroupRef, Detach};
use cgtap::id::AttachmentId;
use cgtap_sys::Errno;
use rules::{Lab, enter, hook, mode, ok, place, refused, word};

/// S11: of the lists on the way up, the nearest counts whatever its mode, those further up only in
/// mode multi.
#[test]
fn s11_the_nearest_list_counts_and_further_up_only_multi() {
    let lab = Lab::new("s11");
    lab.cgroup("t/mid/leaf/below");
    let multi_top = lab.put("t", "a");
    let mid = lab.put_as("t/mid", "b", mode(Mode::Override));
    lab.put("t/mid/leaf", "c");
    // The override in the middle is passed over where something is nearer.
    assert_eq!(lab.letters("t"), "a");
    assert_eq!(lab.letters("t/mid"), "ba");
    assert_eq!(lab.letters("t/mid/leaf"), "ca");
    assert_eq!(lab.letters("t/mid/leaf/below"), "ca");

    // An override on top is overridden by whatever stands below it.
    lab.detach(multi_top).unwrap();
    lab.put_as("t", "d", mode(Mode::Override));
    assert_eq!(lab.letters("t"), "d");
    assert_eq!(lab.letters("t/mid"), "b");
    lab.detach(mid).unwrap();
    assert_eq!(lab.letters("t/mid"), "d");
    assert_eq!(lab.letters("t/mid/leaf"), "c");
}

/// S11: an emptied list is none, and what stands above is the nearest again.
#[test]
fn s11_an_emptied_list_is_passed_over() {
    let lab = Lab::new("s11-empty");
    lab.put_as("t", "a", mode(Mode::Override));
    let id = lab.put_as("t/mid", "b", mode(Mode::Override));
    lab.cgroup("t/mid/leaf");
    assert_eq!(lab.letters("t/mid/leaf"), "b");
    lab.detach(id).unwrap();
    assert_eq!(lab.letters("t/mid/leaf"), "a");
    assert_eq!(lab.letters("t/mid"), "a");
}

/// S11: the root is a cgroup like any other. (Its own events are the whole machine's.)
#[test]
fn s11_the_root_is_inherited_from_too() {
    let lab = Lab::with("s11-root", "verdicts");
    let at_root = |request: &mut AttachRequest| request.cgroup = CgroupRef::Path("/".into());
    let counts = lab.map(lab.instance, "counts");
    let below = lab.put("t/child", "raw_one");
    // What returns 0 keeps nobody else's program from running, whatever the kind of hook.
    let root = lab.put_as("t", "raw_zero", at_root);
    assert_eq!(lab.effective("t/child", enter()), [below, root]);
    assert_eq!(lab.effective("t", enter()), [root]);
    lab.getppid("t", 100);
    lab.getppid("t/child", 10);
    // Others on this machine may call it too.
    assert!(word(&counts, 1) >= 110);
    assert_eq!(word(&counts, 0), 10);
    lab.detach(root).unwrap();
    let then = word(&counts, 1);
    lab.getppid("t", 100);
    assert_eq!(word(&counts, 1), then);
    // Named by its id, a cgroup is the same one.
    let id = lab.own("t/child")[0].cgroup_id;
    let again = lab.put_as("t", "raw_minus", |r| r.cgroup = CgroupRef::Id(id));
    assert_eq!(lab.own_ids("t/child", enter()), [below, again]);
}

/// S12: nearest first, within a list as attached; preorder before all, ancestors first.
#[test]
fn s12_nearest_first_preorder_before_all() {
    let lab = Lab::new("s12");
    let preorder = |r: &mut AttachRequest| r.preorder = true;
    lab.put("t", "a");
    lab.put_as("t", "b", preorder);
    lab.put("t/mid", "c");
    lab.put("t/mid", "d");
    lab.put_as("t/mid", "e", preorder);
    lab.put_as("t/mid", "f", preorder);
    lab.cgroup("t/mid/leaf");
    assert_eq!(lab.letters("t"), "ba");
    assert_eq!(lab.letters("t/mid"), "befcda");
    assert_eq!(lab.letters("t/mid/leaf"), "befcda");

    // What is shown is what runs.
    let shown: Vec<AttachmentId> = lab.effective("t/mid/leaf", enter());
    let own = lab.own_ids("t/mid", enter());
    let above = lab.own_ids("t", enter());
    let want = [above[0], own[0], own[1], own[2], own[3], above[1]];
    assert_eq!(shown, want);
}

/// S12 at four levels, each with a program of either class.
#[test]
fn s12_four_levels_run_down_in_preorder_and_up_otherwise() {
    let lab = Lab::with("s12-levels", "hundred");
    let mut path = "t".to_owned();
    for level in 0..4 {
        lab.put(&path, &format!("p1{level}"));
        lab.put_as(&path, &format!("p2{level}"), |r| r.preorder = true);
        path += "/n";
    }
    assert_eq!(lab.numbers("t/n/n/n"), [20, 21, 22, 23, 13, 12, 11, 10]);
    assert_eq!(lab.numbers("t/n"), [20, 21, 11, 10]);
    assert_eq!(lab.numbers(&path), [20, 21, 22, 23, 13, 12, 11, 10]);
}

/// S13: every effective program runs once for every event, whatever the others return.
#[test]
fn s13_every_effective_program_runs_for_every_event() {
    let lab = Lab::with("s13", "verdicts");
    // Returns mean nothing at a raw tracepoint.
    let names = ["raw_one", "raw_zero", "raw_minus", "raw_counts"];
    ok(lab.engine.attach(lab.ask("t", &names[..2])));
    ok(lab.engine.attach(lab.ask("t/child", &names[2..])));
    lab.getppid("t/child", 1000);
    lab.getppid("t", 10);
    let counts = lab.map(lab.instance, "counts");
    assert_eq!(
        (0..4).map(|at| word(&counts, at)).collect::<Vec<u64>>(),
        [1010, 1010, 1000, 1000]
    );
    // They have run alike: a set counts the runs of its members.
    let runs: Vec<u64> = lab
        .own("t")
        .iter()
        .flat_map(|l| &l.attachments)
        .map(|a| a.run_count)
        .collect();
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0] >= 1010);
}

/// S16: before and after, next to a relative or at the ends.
#[test]
fn s16_before_and_after_choose_the_place() {
    let lab = Lab::new("s16");
    let a = lab.put("t", "a");
    // By attachment, by program.
    let b = lab.put_as("t", "b", place(Place::Before(Some(Anchor::Id(a)))));
    let of_b = Anchor::Program(lab.program("b"));
    lab.put_as("t", "c", place(Place::After(Some(of_b))));
    assert_eq!(lab.letters("t"), "bca");
    // At the ends.
    lab.put_as("t", "d", place(Place::Before(None)));
    lab.put_as("t", "e", place(Place::After(None)));
    assert_eq!(lab.letters("t"), "dbcae");
    let f = lab.put_as("t", "f", place(Place::After(Some(Anchor::Id(a)))));
    assert_eq!(lab.letters("t"), "dbcafe");
    // No option appends.
    lab.detach(b).unwrap();
    lab.put("t", "b");
    assert_eq!(lab.letters("t"), "dcafeb");
    lab.detach(f).unwrap();
    assert_eq!(lab.letters("t"), "dcaeb");
}

/// S16 among preorder programs, which have an order of their own.
#[test]
fn s16_preorder_programs_are_placed_among_themselves() {
    let lab = Lab::new("s16-preorder");
    let preorder = |at: Place| {
        move |r: &mut AttachRequest| {
            r.preorder = true;
            r.place = at;
        }
    };
    lab.put("t", "a");
    let b = lab.put_as("t", "b", preorder(Place::Append));
    lab.put_as("t", "c", preorder(Place::Before(Some(Anchor::Id(b)))));
    lab.put_as("t", "d", preorder(Place::Before(None)));
    lab.put_as("t", "e", preorder(Place::After(Some(Anchor::Id(b)))));
    assert_eq!(lab.letters("t"), "dcbea");
}

/// S17: what makes no sense as a place.
#[test]
fn s17_contradictory_places_are_einval() {
    let lab = Lab::new("s17");
    // Both, into an empty list, and without a relative: "I want to be the only one".
    let a = lab.put_as("t", "a", place(Place::BeforeAndAfter(None)));
    assert_eq!(lab.letters("t"), "a");
    for at in [
        Place::BeforeAndAfter(None),
        Place::BeforeAndAfter(Some(Anchor::Id(a))),
        Place::Beside(Anchor::Id(a)),
    ] {
        lab.refuse(Errno::EINVAL, "t", "b", place(at));
    }
    let nobody = Anchor::Id(AttachmentId(12_345));
    let in_empty = place(Place::BeforeAndAfter(Some(nobody)));
    lab.refuse(Errno::EINVAL, "u", "b", in_empty);
    for at in [
        Place::Before(None),
        Place::After(None),
        Place::Before(Some(Anchor::Id(a))),
        Place::After(Some(Anchor::Id(a))),
        Place::BeforeAndAfter(None),
    ] {
        lab.refuse(Errno::EINVAL, "t", "b", |r| {
            r.replace = Some(a);
            r.place = at;
        });
    }
    assert_eq!(lab.letters("t"), "a");
}

/// S17: a relative has to stand on that very list.
#[test]
fn s17_a_relative_that_is_not_attached_is_enoent() {
    let lab = Lab::new("s17-relative");
    lab.put("t", "a");
    let parent = lab.put("", "b");
    let beside = lab.put("u", "c");
    let other_hook = lab.put("kept", "x");
    let gone = lab.put("t", "d");
    lab.detach(gone).unwrap();
    for id in [parent, beside, other_hook, gone, AttachmentId(12_345)] {
        lab.refuse(
            Errno::ENOENT,
            "t",
            "e",
            place(Place::Before(Some(Anchor::Id(id)))),
        );
        lab.refuse(
            Errno::ENOENT,
            "t",
            "e",
            place(Place::After(Some(Anchor::Id(id)))),
        );
    }
    let not_here = Anchor::Program(lab.program("c"));
    lab.refuse(
        Errno::ENOENT,
        "t",
        "e",
        place(Place::Before(Some(not_here))),
    );
    assert_eq!(lab.letters("t"), "ab");
}

/// S17: the two classes never run next to each other.
#[test]
fn s17_a_relative_of_the_other_preorder_class_is_einval() {
    let lab = Lab::new("s17-class");
    let plain = lab.put("t", "a");
    let pre = lab.put_as("t", "b", |r| r.preorder = true);
    for at in [
        Place::Before(Some(Anchor::Id(pre))),
        Place::After(Some(Anchor::Id(pre))),
    ] {
        lab.refuse(Errno::EINVAL, "t", "c", place(at));
    }
    for at in [
        Place::Before(Some(Anchor::Id(plain))),
        Place::After(Some(Anchor::Id(plain))),
    ] {
        lab.refuse(Errno::EINVAL, "t", "c", |r| {
            r.preorder = true;
            r.place = at;
        });
    }
    assert_eq!(lab.letters("t"), "ba");
}

/// S18: 1 when empty and new, one more for each attach, detach and replace.
#[test]
fn s18_every_change_of_a_list_is_one_more_revision() {
    let lab = Lab::new("s18");
    lab.cgroup("t");
    assert_eq!(lab.revision("t"), 1);
    let a = lab.put("t", "a");
    assert_eq!(lab.revision("t"), 2);
    let b = lab.put("t", "b");
    assert_eq!(lab.revision("t"), 3);
    let a = lab.put_as("t", "c", |r| r.replace = Some(a));
    assert_eq!(lab.revision("t"), 4);
    ok(lab.engine.replace(lab.update(b, "d")));
    assert_eq!(lab.revision("t"), 5);
    // What is refused, and what happens elsewhere, does not count.
    lab.refuse(Errno::EINVAL, "t", "c", |_| {});
    lab.put("t/child", "a");
    lab.put("", "a");
    lab.put("t", "x");
    assert_eq!(lab.revision("t"), 5);
    lab.detach(a).unwrap();
    assert_eq!(lab.revision("t"), 6);
    // Both in one call are two changes.
    ok(lab.engine.attach(lab.ask("t", &["e", "f"])));
    assert_eq!(lab.revision("t"), 8);
}

/// S18: who expects another revision is told so, and nothing changes.
#[test]
fn s18_an_expected_revision_that_differs_is_estale() {
    let lab = Lab::new("s18-stale");
    let expect = |n: u64| move |r: &mut AttachRequest| r.expect_revision = Some(n);
    lab.refuse(Errno::ESTALE, "t", "a", expect(0));
    lab.refuse(Errno::ESTALE, "t", "a", expect(2));
    let a = lab.put_as("t", "a", expect(1));
    let words = lab.refuse(Errno::ESTALE, "t", "b", expect(1));
    assert!(words.contains("at revision 2, not 1"), "{words}");
    lab.put_as("t", "b", expect(2));
    lab.refuse(Errno::ESTALE, "t", "c", |r| {
        r.replace = Some(a);
        r.expect_revision = Some(2);
    });
    lab.put_as("t", "c", |r| {
        r.replace = Some(a);
        r.expect_revision = Some(3);
    });
    assert_eq!(lab.letters("t"), "cb");
    assert_eq!(lab.revision("t"), 4);
}

/// S18: a call that attaches several programs expects what the list is before the call.
#[test]
fn s18_a_call_of_several_programs_expects_the_revision_before_it() {
    let lab = Lab::new("s18-several");
    let mut request = lab.ask("t", &["a", "b", "x"]);
    request.expect_revision = Some(1);
    ok(lab.engine.attach(request));
    let mut request = lab.ask("t", &["c", "d"]);
    request.expect_revision = Some(2);
    lab.unchanged(|| refused(lab.engine.attach(request.clone()), Errno::ESTALE));
    request.expect_revision = Some(3);
    ok(lab.engine.attach(request));
    assert_eq!(lab.letters("t").replace('x', ""), "abcd");
}

/// S18: the count goes on when the list empties, for as long as the cgroup lives; even when
/// nothing is attached at that hook any more, nor by that object.
#[test]
fn s18_the_revision_goes_on_over_an_emptied_list() {
    let lab = Lab::new("s18-empty");
    lab.cgroup("t");
    for round in 0..3 {
        assert_eq!(lab.revision("t"), 1 + 2 * round);
        let id = lab.put("t", "a");
        lab.detach(id).unwrap();
        assert!(lab.own_ids("t", enter()).is_empty());
    }
    lab.refuse(Errno::ESTALE, "t", "a", |r| r.expect_revision = Some(1));
    ok(lab.engine.detach(&Detach::Instance(lab.instance)));
    assert!(lab.lists().is_empty());
    assert_eq!(lab.revision("t"), 7);
    // A cgroup of the same name is another one, with a list of its own.
    lab.remove("t");
    lab.cgroup("t");
    assert_eq!(lab.revision("t"), 1);
    let cgroup = CgroupRef::Path(lab.dir("t"));
    let nothing = Detach::Cgroup(cgroup, Some(hook(enter()).into()));
    refused(lab.engine.detach(&nothing), Errno::ENOENT);
}
