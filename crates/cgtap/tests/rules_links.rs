//! S19 and S20 on a real kernel: attachments are links, and a link's program can be updated.
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
use cgtap::engine::{Lifetime, ReplaceRequest};
use cgtap_sys::Errno;
use rules::{Lab, enter, mode, ok, refused, source, word};
use support::ids;

/// S19: a link that goes with its process stands beside those that stay, in one order.
#[test]
fn s19_links_of_either_lifetime_share_a_list() {
    let lab = Lab::new("s19");
    lab.put("t", "a");
    let held = lab.put_as("t", "b", |r| r.lifetime = Lifetime::Process);
    lab.put("t", "c");
    assert_eq!(lab.letters("t"), "abc");
    let list = &lab.own("t")[0];
    assert_eq!(list.mode, Mode::Multi);
    let owners: Vec<Option<u32>> = list.attachments.iter().map(|a| a.owner_pid).collect();
    assert_eq!(owners, [None, Some(std::process::id()), None]);
    // As long as the process lives it is like any other: it is detached, replaced, stood next to.
    ok(lab.engine.replace(lab.update(held, "d")));
    assert_eq!(lab.letters("t"), "adc");
    lab.detach(held).unwrap();
    assert_eq!(lab.letters("t"), "ac");
}

/// S19: links mean multi, and multi never mixes with the exclusive modes, either way round.
#[test]
fn s19_links_never_mix_with_exclusive_attachments() {
    let lab = Lab::new("s19-mix");
    for exclusive in [Mode::None, Mode::Override] {
        for lifetime in [Lifetime::Pinned, Lifetime::Process] {
            let id = lab.put_as("t", "a", mode(exclusive));
            lab.refuse(Errno::EPERM, "t", "b", |r| r.lifetime = lifetime);
            assert_eq!(lab.letters("t"), "a");
            lab.detach(id).unwrap();

            let link = lab.put_as("t", "b", |r| r.lifetime = lifetime);
            lab.refuse(Errno::EPERM, "t", "a", mode(exclusive));
            assert_eq!(lab.letters("t"), "b");
            lab.detach(link).unwrap();
        }
    }
}

/// S19: a link lives until it is detached.
#[test]
fn s19_a_link_lives_until_it_is_detached() {
    let lab = Lab::with("s19-lives", "verdicts");
    let id = lab.put("t", "raw_one");
    let counts = lab.map(lab.instance, "counts");
    lab.getppid("t", 100);
    lab.detach(id).unwrap();
    // Detached means detached when the call returns.
    lab.getppid("t", 100);
    assert_eq!(word(&counts, 0), 100);
    refused(lab.detach(id), Errno::ENOENT);
}

/// S20: the program changes; id, place, cookie, preorder and everything else stay.
#[test]
fn s20_an_update_keeps_place_id_and_cookie() {
    let lab = Lab::new("s20");
    let a = lab.put("t", "a");
    let b = lab.put_as("t", "b", |r| r.cookie = u64::from(b'!'));
    let c = lab.put("t", "c");
    let p = lab.put_as("t", "d", |r| r.preorder = true);
    let report = ok(lab.engine.replace(lab.update(b, "cookie")));
    assert_eq!(ids(&report), [b]);
    assert_eq!(report.attachments[0].program, "cookie");
    assert_eq!(lab.letters("t"), "da!c");
    ok(lab.engine.replace(lab.update(p, "e")));
    assert_eq!(lab.letters("t"), "ea!c");
    assert_eq!(lab.own_ids("t", enter()), [p, a, b, c]);

    // By a new loading of the object: the old instance stays, others use it.
    let from_file = ReplaceRequest {
        source: source("letters"),
        ..lab.update(c, "f")
    };
    let report = ok(lab.engine.replace(from_file));
    assert_ne!(report.instance, lab.instance);
    assert_eq!(lab.letters("t"), "ea!");
    let other = lab.map(report.instance, "trace");
    assert_eq!(word(&other, 0), 1);
    // And back: what nothing runs any more is unloaded.
    ok(lab.engine.replace(lab.update(c, "f")));
    assert_eq!(lab.letters("t"), "ea!f");
    refused(lab.engine.maps(Some(report.instance)), Errno::ENOENT);
}

/// S20: compare-and-update.
#[test]
fn s20_an_update_that_expects_another_program_is_eperm() {
    let lab = Lab::new("s20-expect");
    let id = lab.put("t", "a");
    for wrong in ["b", "c"] {
        let mut request = lab.update(id, "b");
        request.expect = Some(lab.program(wrong));
        let words = lab.unchanged(|| refused(lab.engine.replace(request), Errno::EPERM));
        assert!(words.contains(&format!("attachment {id}")), "{words}");
        assert_eq!(lab.letters("t"), "a");
    }
    let mut request = lab.update(id, "b");
    request.expect = Some(lab.program("a"));
    ok(lab.engine.replace(request.clone()));
    assert_eq!(lab.letters("t"), "b");
    // The second of two who saw the same is told.
    lab.unchanged(|| refused(lab.engine.replace(request), Errno::EPERM));
}

/// S20: every event runs the old program or the new one: none runs both, none is lost.
#[test]
fn s20_an_update_is_atomic_for_every_event() {
    let lab = Lab::with("s20-atomic", "verdicts");
    let counts = lab.map(lab.instance, "counts");
    let id = lab.put("t", "raw_one");
    let beside = lab.put("t", "raw_counts");
    let (mut events, mut updates) = (0, 0);
    while updates < 20 {
        let mut worker = lab.worker("t", "getppid", 1_000_000).go();
        while worker.child.try_wait().unwrap().is_none() {
            let program = ["raw_zero", "raw_one"][updates % 2];
            ok(lab.engine.replace(lab.update(id, program)));
            updates += 1;
        }
        events += worker.finish();
    }
    // Kernels that preempt programs miss some, of any cgroup, and say how many.
    let missed = lab.own("t")[0].recursion_misses;
    let ran = word(&counts, 3);
    assert!(
        (ran..=ran + missed).contains(&events),
        "{ran} of {events}, {missed} missed"
    );
    assert_eq!(word(&counts, 0) + word(&counts, 1), ran);
    assert!(word(&counts, 0) > 0 && word(&counts, 1) > 0);
    assert_eq!(lab.runs(id), lab.runs(beside));
    assert_eq!(lab.own("t")[0].lost, 0);
}

/// S20: a link whose cgroup is gone, or that was detached, is ENOLINK.
#[test]
fn s20_updating_what_is_gone_is_enolink() {
    let lab = Lab::new("s20-gone");
    let id = lab.put("t", "a");
    let detached = lab.put("u", "a");
    lab.remove("t");
    refused(lab.engine.replace(lab.update(id, "b")), Errno::ENOLINK);
    lab.detach(detached).unwrap();
    lab.unchanged(|| {
        refused(
            lab.engine.replace(lab.update(detached, "b")),
            Errno::ENOLINK,
        )
    });
}

/// S20: an update that the kernel refuses leaves the old program at work.
#[test]
fn s20_a_refused_update_leaves_the_old_program() {
    let lab = Lab::new("s20-refused");
    let id = lab.put("t", "a");
    let bad = ReplaceRequest {
        source: source("half"),
        ..lab.update(id, "bad")
    };
    let words = lab.unchanged(|| refused(lab.engine.replace(bad), Errno::EINVAL));
    assert!(words.contains("bad"), "{words}");
    // A program of another hook does not fit.
    let other = ReplaceRequest {
        program: None,
        ..lab.update(lab.put("u", "x"), "b")
    };
    ok(lab.engine.replace(other));
    let typed = lab.update(id, "x");
    lab.unchanged(|| refused(lab.engine.replace(typed), Errno::EINVAL));
    assert_eq!(lab.letters("t"), "a");
}
