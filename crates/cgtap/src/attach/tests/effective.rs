//! S11, S12: what runs, and in which order.

use super::*;

#[test]
fn s11_nothing_attached_runs_nothing() {
    Hook::new().assert_runs(5, &[]);
}

#[test]
fn s11_multi_lists_all_the_way_up_count() {
    let mut hook = Hook::new();
    hook.multi(1, 0);
    hook.multi(3, 1);
    hook.multi(5, 2);
    hook.assert_runs(1, &[0]);
    hook.assert_runs(2, &[0]);
    hook.assert_runs(3, &[1, 0]);
    hook.assert_runs(4, &[1, 0]);
    hook.assert_runs(5, &[2, 1, 0]);
    hook.assert_runs(30, &[0]);
}

#[test]
fn s11_the_nearest_list_counts_whatever_its_mode() {
    for mode in [Mode::None, Mode::Override] {
        let mut hook = Hook::new();
        hook.attach(2, 0, mode).unwrap();
        for below in [2, 3, 4, 5, 30] {
            hook.assert_runs(below, &[0]);
        }
        hook.assert_runs(1, &[]);
    }
}

#[test]
fn s11_a_list_further_up_counts_only_if_it_is_multi() {
    let mut hook = Hook::new();
    hook.multi(1, 0);
    hook.attach(2, 1, Mode::Override).unwrap();
    hook.attach(3, 2, Mode::Override).unwrap();
    hook.assert_runs(2, &[1, 0]);
    hook.assert_runs(3, &[2, 0]);
    hook.multi(4, 3);
    hook.assert_runs(4, &[3, 0]);
    // The override comes back when it is the nearest again.
    hook.detach(4, by_prog(3)).unwrap();
    hook.assert_runs(4, &[2, 0]);
    hook.detach(3, None).unwrap();
    hook.assert_runs(4, &[1, 0]);
}

/// The chain of the kernel's own test of multi attachments: multi, override, multi, override,
/// none from the root down.
#[test]
fn s11_a_chain_of_all_modes() {
    let mut hook = Hook::new();
    hook.multi(1, 0);
    hook.multi(1, 1);
    hook.attach(2, 2, Mode::Override).unwrap();
    hook.multi(3, 3);
    hook.attach(4, 4, Mode::Override).unwrap();
    hook.attach(5, 5, Mode::None).unwrap();
    hook.assert_runs(5, &[5, 3, 0, 1]);
    hook.detach(5, None).unwrap();
    hook.assert_runs(5, &[4, 3, 0, 1]);
    hook.replace(1, 6, by_prog(0)).unwrap();
    hook.replace(1, 6, by_prog(6)).unwrap();
    hook.assert_runs(5, &[4, 3, 6, 1]);
    hook.detach(3, by_prog(3)).unwrap();
    hook.assert_runs(5, &[4, 6, 1]);
    hook.detach(4, None).unwrap();
    hook.assert_runs(5, &[2, 6, 1]);
}

/// An exclusive list may come to stand above others when it is attached after them. It then
/// counts only where it is the nearest.
#[test]
fn s11_an_exclusive_list_above_does_not_count() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.attach(2, 1, Mode::None).unwrap();
    hook.assert_runs(3, &[0]);
    hook.assert_runs(2, &[1]);
    hook.assert_runs(30, &[1]);
}

#[test]
fn s12_one_list_runs_in_its_order() {
    let mut hook = Hook::new();
    for program in [3, 1, 2, 0] {
        hook.multi(2, program);
    }
    hook.assert_runs(2, &[3, 1, 2, 0]);
    hook.assert_runs(5, &[3, 1, 2, 0]);
}

#[test]
fn s12_preorder_runs_before_all_others() {
    let mut hook = Hook::new();
    hook.multi(3, 1);
    hook.preorder(3, 2);
    hook.assert_runs(3, &[2, 1]);
    hook.multi(2, 3);
    hook.preorder(2, 4);
    hook.assert_runs(3, &[4, 2, 1, 3]);
}

#[test]
fn s12_preorder_runs_ancestors_first_and_each_list_in_its_order() {
    let mut hook = Hook::new();
    for (cgroup, program) in [(3, 1), (3, 2), (2, 3), (2, 4), (1, 5), (5, 6)] {
        hook.preorder(cgroup, program);
    }
    hook.assert_runs(3, &[5, 3, 4, 1, 2]);
    hook.assert_runs(5, &[5, 3, 4, 1, 2, 6]);
}

/// Only among what is effective: preorder gives no right to be so.
#[test]
fn s12_preorder_of_an_overridden_list_does_not_run() {
    let mut hook = Hook::new();
    hook.attach_with(2, 0, Mode::Override, |r| r.preorder = true)
        .unwrap();
    hook.assert_runs(3, &[0]);
    hook.multi(3, 1);
    hook.assert_runs(3, &[1]);
}

#[test]
fn s12_each_entry_says_where_it_is_attached() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.multi(2, 1);
    hook.preorder(1, 2);
    let effective = hook.lists.effective(&hook.tree, cg(5));
    let whence: Vec<_> = effective.iter().map(|e| e.cgroup).collect();
    assert_eq!(whence, [cg(1), cg(3), cg(2)]);
    let json = serde_json::to_value(effective[1]).unwrap();
    assert_eq!(json["cgroup"], 3);
    assert_eq!(json["attachment"]["id"], 1);
}
