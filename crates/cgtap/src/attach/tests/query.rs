//! S22: reading lists and effective arrays.

use super::*;
use crate::attach::{Answer, Array};

fn ids(answer: &Answer) -> Vec<u32> {
    answer.entries.iter().map(|e| e.attachment.id.0).collect()
}

#[test]
fn s22_the_own_list_comes_with_mode_and_revision() {
    let mut hook = Hook::new();
    hook.multi(2, 0);
    hook.multi(3, 1);
    hook.preorder(3, 2);
    let own = hook.lists.query(&hook.tree, cg(3), Array::Own, 10);
    assert_eq!(own.mode, Some(Mode::Multi));
    assert_eq!(own.revision, Some(3));
    assert_eq!(own.count, 2);
    // In the order of the list, which the kernel returns too, not in that of running.
    assert_eq!(ids(&own), [2, 3]);
    assert!(own.entries.iter().all(|e| e.cgroup == cg(3)));
    own.complete().unwrap();

    let list = hook.lists.own(cg(3)).unwrap();
    let running: Vec<_> = list.in_run_order().map(|a| a.id).collect();
    assert_eq!(running, [id(3), id(2)]);
}

#[test]
fn s22_an_emptied_list_has_a_revision_and_no_mode() {
    let mut hook = Hook::new();
    let new = hook.lists.query(&hook.tree, cg(3), Array::Own, 10);
    assert_eq!((new.mode, new.revision, new.count), (None, Some(1), 0));
    new.complete().unwrap();
    hook.multi(3, 0);
    hook.detach(3, by_id(1)).unwrap();
    let emptied = hook.lists.query(&hook.tree, cg(3), Array::Own, 10);
    assert_eq!(
        (emptied.mode, emptied.revision, emptied.count),
        (None, Some(3), 0)
    );
}

/// Its members come from many lists, so the kernel gives neither mode nor revision.
#[test]
fn s22_the_effective_array_comes_in_the_order_of_running() {
    let mut hook = Hook::new();
    hook.multi(2, 0);
    hook.multi(3, 1);
    hook.preorder(3, 2);
    let effective = hook.lists.query(&hook.tree, cg(4), Array::Effective, 10);
    assert_eq!((effective.mode, effective.revision), (None, None));
    assert_eq!(effective.count, 3);
    assert_eq!(ids(&effective), [3, 2, 1]);
    assert_eq!(effective.entries, hook.lists.effective(&hook.tree, cg(4)));
}

#[test]
fn s22_too_little_room_gives_the_true_count_and_a_filled_prefix() {
    let mut hook = Hook::new();
    for program in 0..4 {
        hook.multi(3, program);
    }
    for array in [Array::Own, Array::Effective] {
        for room in 1..4 {
            let answer = hook.lists.query(&hook.tree, cg(3), array, room);
            assert_eq!(answer.count, 4);
            assert_eq!(ids(&answer), (1..=room as u32).collect::<Vec<_>>());
            assert_refused(answer.complete(), "S22", Errno::ENOSPC);
        }
        for room in [4, 5, usize::MAX] {
            let answer = hook.lists.query(&hook.tree, cg(3), array, room);
            assert_eq!(ids(&answer), [1, 2, 3, 4]);
            answer.complete().unwrap();
        }
    }
}

#[test]
fn s22_no_room_asks_only_for_the_count() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    for array in [Array::Own, Array::Effective] {
        let answer = hook.lists.query(&hook.tree, cg(3), array, 0);
        assert_eq!((answer.count, ids(&answer)), (1, vec![]));
        answer.complete().unwrap();
    }
}
