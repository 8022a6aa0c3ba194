//! S22 on a real kernel: what a query tells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use cgtap::attach::{Answer, Array, Mode};
use cgtap::engine::{CgroupRef, ListRequest};
use cgtap::id::AttachmentId;
use cgtap_sys::Errno;
use rules::{Lab, enter, hook, mode, other, refused};

fn query(lab: &Lab, cgroup: &str, array: Array, room: usize) -> Answer {
    let cgroup = CgroupRef::Path(lab.dir(cgroup));
    lab.engine
        .query(&cgroup, &hook(enter()), array, room)
        .unwrap()
}

fn ids(answer: &Answer) -> Vec<AttachmentId> {
    answer.entries.iter().map(|e| e.attachment.id).collect()
}

/// S22: own list and effective array, with mode, revision and ids in order.
#[test]
fn s22_a_query_tells_the_own_list_and_the_effective_array() {
    let lab = Lab::new("s22");
    let a = lab.put("t", "a");
    let b = lab.put("t/child", "b");
    let c = lab.put("t/child", "c");
    lab.cgroup("t/child/leaf");

    let own = query(&lab, "t/child", Array::Own, 64);
    assert_eq!(
        (own.mode, own.revision, own.count),
        (Some(Mode::Multi), Some(3), 2)
    );
    assert_eq!(ids(&own), [b, c]);
    own.complete().unwrap();
    for cgroup in ["t/child", "t/child/leaf"] {
        let effective = query(&lab, cgroup, Array::Effective, 64);
        assert_eq!(effective.count, 3);
        assert_eq!(ids(&effective), [b, c, a]);
        effective.complete().unwrap();
    }
    // It tells where each is attached.
    let effective = query(&lab, "t/child/leaf", Array::Effective, 64);
    let child = lab.own("t/child")[0].cgroup_id;
    let top = lab.own("t")[0].cgroup_id;
    let from: Vec<_> = effective.entries.iter().map(|e| e.cgroup).collect();
    assert_eq!(from, [child, child, top]);
    // An empty list has no mode.
    let none = query(&lab, "t/child/leaf", Array::Own, 64);
    assert_eq!((none.mode, none.revision, none.count), (None, Some(1), 0));
}

/// S22: a buffer too short is filled, told the true count, and ENOSPC.
#[test]
fn s22_a_buffer_too_short_is_enospc_with_the_count_and_a_prefix() {
    let lab = Lab::new("s22-short");
    let all = [lab.put("t", "a"), lab.put("t", "b"), lab.put("t", "c")];
    for array in [Array::Own, Array::Effective] {
        for room in 1..3 {
            let answer = query(&lab, "t", array, room);
            assert_eq!(answer.count, 3);
            assert_eq!(ids(&answer), all[..room]);
            assert_eq!(answer.complete().unwrap_err().errno().name(), "ENOSPC");
        }
        // Room for none asks how many there are.
        let answer = query(&lab, "t", array, 0);
        assert_eq!((answer.count, answer.entries.len()), (3, 0));
        answer.complete().unwrap();
        query(&lab, "t", array, 3).complete().unwrap();
    }
}

/// S22: what the lists show is what runs, whoever asks and for whichever cgroup.
#[test]
fn s22_lists_show_mode_revision_and_run_order() {
    let lab = Lab::new("s22-list");
    let a = lab.put("t", "a");
    let b = lab.put_as("t", "b", |r| {
        r.preorder = true;
        r.cookie = 0x1234_5678_9abc_def0;
    });
    lab.put("t", "x");
    lab.put_as("o", "c", mode(Mode::Override));
    assert_eq!(lab.letters("t").replace('x', ""), "ba");

    let lists = lab.own("t");
    let at: Vec<_> = lists.iter().map(|l| l.hook.clone()).collect();
    let mut both = [hook(enter()), hook(other())];
    both.sort_unstable();
    assert_eq!(at, both);
    let lists: Vec<_> = lists.iter().filter(|l| l.hook == hook(enter())).collect();
    assert_eq!((lists[0].mode, lists[0].revision), (Mode::Multi, 3));
    assert!(!lists[0].effective);
    assert_eq!(lists[0].cgroup, lab.path("t"));
    let shown: Vec<_> = lists[0]
        .attachments
        .iter()
        .map(|e| (e.id, e.preorder))
        .collect();
    assert_eq!(shown, [(b, true), (a, false)]);
    assert_eq!(lists[0].attachments[0].cookie, 0x1234_5678_9abc_def0);
    assert_eq!(lab.own("o")[0].mode, Mode::Override);

    // A cgroup without a list of its own has an effective array.
    lab.cgroup("t/leaf");
    assert!(lab.own("t/leaf").is_empty());
    assert_eq!(lab.effective("t/leaf", enter()), [b, a]);
    let recursive = ListRequest {
        cgroup: Some(CgroupRef::Path(lab.dir(""))),
        recursive: true,
        ..ListRequest::default()
    };
    let cgroups: Vec<String> = lab
        .engine
        .list(&recursive)
        .unwrap()
        .into_iter()
        .map(|l| l.cgroup)
        .collect();
    let want = ["kept", "o", "t", "t"].map(|c| lab.path(c));
    assert_eq!(cgroups, want);
}

/// S22: asking about a cgroup that is not there is an error, not an empty list.
#[test]
fn s22_a_cgroup_that_is_not_there_is_enoent() {
    let lab = Lab::new("s22-missing");
    let missing = CgroupRef::Path(lab.dir("nowhere"));
    let answer = lab.engine.query(&missing, &hook(enter()), Array::Own, 1);
    refused(answer, Errno::ENOENT);
    let request = ListRequest {
        cgroup: Some(missing),
        ..ListRequest::default()
    };
    refused(lab.engine.list(&request), Errno::ENOENT);
}
