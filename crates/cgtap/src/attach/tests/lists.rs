//! S6-S10, S15, S18, S20: what comes on a list, changes there and goes from it.

use super::*;
use crate::attach::MAX_ATTACHMENTS;

#[test]
fn s06_the_same_program_twice_on_one_list_is_invalid() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.multi(3, 1);
    assert_refused(hook.attach(3, 0, Mode::Multi), "S6", Errno::EINVAL);
    let refused = hook.attach_with(3, 1, Mode::Multi, |r| (r.preorder, r.cookie) = (true, 1));
    assert_refused(refused, "S6", Errno::EINVAL);
    hook.assert_own(3, &[0, 1]);
}

#[test]
fn s06_the_same_program_at_another_level_is_fine() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.multi(2, 0);
    hook.multi(4, 0);
    hook.assert_runs(4, &[0, 0, 0]);
}

#[test]
fn s06_replacing_does_not_bring_a_program_in_twice() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.multi(3, 1);
    assert_refused(hook.replace(3, 1, by_id(1)), "S6", Errno::EINVAL);
    // The kernel looks for the twin first, for the one to replace afterwards.
    assert_refused(hook.replace(3, 1, by_id(77)), "S6", Errno::EINVAL);
}

#[test]
fn s06_an_attachment_is_attached_once() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    for cgroup in [3, 4] {
        let refused = hook.attach_with(cgroup, 1, Mode::Multi, |r| r.id = id(1));
        assert_refused(refused, "S6", Errno::EINVAL);
    }
}

#[test]
fn s07_the_65th_on_a_list_is_too_many() {
    let mut hook = Hook::new();
    for program in 0..64 {
        hook.multi(3, program);
    }
    assert_eq!(MAX_ATTACHMENTS, 64);
    assert_refused(hook.attach(3, 64, Mode::Multi), "S7", Errno::E2BIG);
    hook.detach(3, by_prog(10)).unwrap();
    hook.multi(3, 64);
    assert_eq!(hook.lists.own(cg(3)).unwrap().attachments.len(), 64);
}

/// It would not grow the list, but the kernel counts before it looks what is replaced.
#[test]
fn s07_a_full_list_refuses_a_replacement_too() {
    let mut hook = Hook::new();
    for program in 0..64 {
        hook.multi(3, program);
    }
    assert_refused(hook.replace(3, 64, by_id(1)), "S7", Errno::E2BIG);
    // An update does not count.
    hook.update(1, 64, None).unwrap();
}

#[test]
fn s07_the_limit_is_a_lists_and_not_the_effective_arrays() {
    let mut hook = Hook::new();
    for cgroup in 1..=5 {
        for program in 0..64 {
            hook.multi(cgroup, program);
        }
    }
    assert_eq!(hook.lists.effective(&hook.tree, cg(5)).len(), 320);
}

#[test]
fn s08_detach_in_mode_multi_must_name() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    assert_refused(hook.detach(3, None), "S8", Errno::EINVAL);
    hook.multi(3, 1);
    assert_refused(hook.detach(3, None), "S8", Errno::EINVAL);
    assert_eq!(hook.detach(3, by_prog(0)).unwrap().id, id(1));
    assert_eq!(hook.detach(3, by_id(2)).unwrap().program, prog(1));
    hook.assert_own(3, &[]);
}

#[test]
fn s08_detach_of_the_only_one_need_not_name() {
    for mode in [Mode::None, Mode::Override] {
        for what in [None, by_id(1), by_prog(0)] {
            let mut hook = Hook::new();
            hook.attach(3, 0, mode).unwrap();
            assert_eq!(hook.detach(3, what).unwrap().id, id(1));
            hook.assert_own(3, &[]);
        }
    }
}

/// One would expect ENOENT, but in mode none and override the kernel does not look at which
/// program is named. An id means that attachment and no other, as a link does.
#[test]
fn s08_detach_of_the_only_one_takes_any_program() {
    for mode in [Mode::None, Mode::Override] {
        let mut hook = Hook::new();
        hook.attach(3, 0, mode).unwrap();
        assert_refused(hook.detach(3, by_id(77)), "S8", Errno::ENOENT);
        assert_eq!(hook.detach(3, by_prog(7)).unwrap().program, prog(0));
    }
}

#[test]
fn s08_nothing_to_detach_is_no_entry() {
    let mut hook = Hook::new();
    for what in [None, by_id(1), by_prog(0)] {
        assert_refused(hook.detach(3, what), "S8", Errno::ENOENT);
    }
    hook.multi(2, 0);
    hook.multi(3, 1);
    // What is attached to the parent runs here, but does not stand on this list.
    for what in [by_id(1), by_prog(0), by_id(77), by_prog(7)] {
        assert_refused(hook.detach(3, what), "S8", Errno::ENOENT);
    }
    hook.detach(3, by_id(2)).unwrap();
    assert_refused(hook.detach(3, by_id(2)), "S8", Errno::ENOENT);
    // With its last attachment the list has lost its mode: nobody has to be named any more.
    assert_refused(hook.detach(3, None), "S8", Errno::ENOENT);
}

#[test]
fn s09_replace_keeps_the_position() {
    let mut hook = Hook::new();
    for program in 0..3 {
        hook.multi(3, program);
    }
    let replaced = hook.replace(3, 5, by_prog(1)).unwrap();
    assert_eq!(replaced.replaced.map(|a| a.id), Some(id(2)));
    hook.assert_own(3, &[0, 5, 2]);
    hook.replace(3, 6, by_id(1)).unwrap();
    hook.assert_own(3, &[6, 5, 2]);
    let own = &hook.lists.own(cg(3)).unwrap().attachments;
    assert_eq!(own[0].id, id(5));
}

#[test]
fn s09_replace_takes_everything_else_from_the_new_one() {
    let mut hook = Hook::new();
    hook.preorder(3, 0);
    hook.multi(3, 1);
    hook.attach_with(3, 2, Mode::Multi, |r| {
        r.replace = by_id(1);
        r.cookie = 7;
    })
    .unwrap();
    let own = &hook.lists.own(cg(3)).unwrap().attachments;
    assert_eq!((own[0].preorder, own[0].cookie), (false, 7));
}

#[test]
fn s09_replace_of_what_is_not_attached_is_no_entry() {
    let mut hook = Hook::new();
    hook.multi(2, 0);
    hook.multi(3, 1);
    for what in [by_id(1), by_prog(0), by_id(77), by_prog(7)] {
        assert_refused(hook.replace(3, 2, what), "S9", Errno::ENOENT);
        assert_refused(hook.replace(4, 2, what), "S9", Errno::ENOENT);
    }
}

#[test]
fn s09_a_program_may_replace_itself() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.multi(3, 1);
    hook.replace(3, 0, by_prog(0)).unwrap();
    hook.assert_own(3, &[0, 1]);
    let own = &hook.lists.own(cg(3)).unwrap().attachments;
    assert_eq!(own[0].id, id(3));
    hook.replace(3, 0, by_id(3)).unwrap();
    hook.assert_own(3, &[0, 1]);
}

#[test]
fn s10_a_refused_attach_leaves_no_empty_list_behind() {
    let mut hook = Hook::new();
    assert_refused(hook.replace(3, 0, by_id(9)), "S9", Errno::ENOENT);
    assert_eq!(hook.lists, Lists::new());
    assert_eq!(hook.lists.known().count(), 0);
}

#[test]
fn s15_a_removed_cgroup_loses_all_of_its_own() {
    let mut hook = Hook::new();
    hook.multi(2, 0);
    hook.multi(3, 1);
    hook.multi(3, 2);
    let gone: Vec<_> = hook.lists.remove_cgroup(cg(3));
    assert_eq!(
        gone.iter().map(|a| a.id).collect::<Vec<_>>(),
        [id(2), id(3)]
    );
    assert_eq!(hook.lists.find(id(2)), None);
    assert_eq!(hook.lists.configured().collect::<Vec<_>>(), [cg(2)]);
    assert_eq!(hook.revision(3), 1);
    assert!(hook.lists.remove_cgroup(cg(3)).is_empty());
    hook.assert_own(2, &[0]);
}

#[test]
fn s18_the_revision_counts_every_change() {
    let mut hook = Hook::new();
    assert_eq!(hook.revision(3), 1);
    hook.multi(3, 0);
    hook.multi(3, 1);
    assert_eq!(hook.revision(3), 3);
    hook.replace(3, 2, by_prog(0)).unwrap();
    assert_eq!(hook.revision(3), 4);
    hook.update(2, 3, None).unwrap();
    assert_eq!(hook.revision(3), 5);
    // To the same program: the kernel counts that too.
    hook.update(2, 3, None).unwrap();
    assert_eq!(hook.revision(3), 6);
    hook.detach(3, by_id(2)).unwrap();
    assert_eq!(hook.revision(3), 7);
    // What is refused does not count, nor do changes of other lists.
    assert_refused(hook.detach(3, None), "S8", Errno::EINVAL);
    hook.multi(2, 0);
    assert_eq!((hook.revision(3), hook.revision(2)), (7, 2));
}

#[test]
fn s18_the_revision_goes_on_when_the_list_empties() {
    let mut hook = Hook::new();
    hook.attach(3, 0, Mode::None).unwrap();
    hook.attach(3, 1, Mode::None).unwrap();
    hook.detach(3, None).unwrap();
    assert_eq!(hook.revision(3), 4);
    assert_eq!(hook.lists.own(cg(3)), None);
    assert_eq!(hook.lists.configured().count(), 0);
    assert_eq!(hook.lists.known().collect::<Vec<_>>(), [cg(3)]);
    hook.multi(3, 1);
    assert_eq!(hook.revision(3), 5);
}

#[test]
fn s18_an_expected_revision_that_differs_is_stale() {
    let mut hook = Hook::new();
    for (program, revision) in [(0, 1), (1, 2), (2, 3)] {
        // To the kernel 0 stands for none expected. Here that is `None`, and 0 never matches.
        for wrong in [0, revision - 1, revision + 1] {
            let refused = hook.attach_with(3, program, Mode::Multi, |r| {
                r.expect_revision = Some(wrong);
            });
            assert_refused(refused, "S18", Errno::ESTALE);
            let refused =
                hook.guarded(|lists, _| lists.detach(cg(3), by_prog(program), Some(wrong)));
            assert_refused(refused, "S18", Errno::ESTALE);
        }
        hook.attach_with(3, program, Mode::Multi, |r| {
            r.expect_revision = Some(revision);
        })
        .unwrap();
    }
    hook.guarded(|lists, _| lists.detach(cg(3), by_prog(1), Some(4)))
        .unwrap();
    hook.assert_own(3, &[0, 2]);
}

/// Who sees an old state is told so, and not what else is wrong with the call by now.
#[test]
fn s18_stale_comes_before_what_the_lists_say() {
    let mut hook = Hook::new();
    hook.attach(2, 0, Mode::None).unwrap();
    let refused = hook.attach_with(3, 1, Mode::Multi, |r| r.expect_revision = Some(5));
    assert_refused(refused, "S18", Errno::ESTALE);
    let refused = hook.guarded(|lists, _| lists.detach(cg(3), None, Some(5)));
    assert_refused(refused, "S18", Errno::ESTALE);
}

#[test]
fn s20_update_keeps_the_place_and_the_identity() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.attach_with(3, 1, Mode::Multi, |r| (r.preorder, r.cookie) = (true, 5))
        .unwrap();
    hook.multi(3, 2);
    let updated = hook.update(2, 7, None).unwrap();
    assert_eq!((updated.cgroup, updated.old), (cg(3), prog(1)));
    hook.assert_own(3, &[0, 7, 2]);
    hook.assert_runs(3, &[7, 0, 2]);
    let expected = Attachment {
        id: id(2),
        program: prog(7),
        preorder: true,
        cookie: 5,
    };
    assert_eq!(hook.lists.find(id(2)), Some((cg(3), &expected)));
}

#[test]
fn s20_update_runs_in_every_mode() {
    for mode in Mode::ALL {
        let mut hook = Hook::new();
        hook.attach(3, 0, mode).unwrap();
        hook.update(1, 1, Some(0)).unwrap();
        hook.assert_own(3, &[1]);
        assert_eq!(hook.mode(3), Some(mode));
    }
}

#[test]
fn s20_compare_and_update_with_the_wrong_program_is_forbidden() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    assert_refused(hook.update(1, 2, Some(1)), "S20", Errno::EPERM);
    // The new program is not what is compared.
    assert_refused(hook.update(1, 2, Some(2)), "S20", Errno::EPERM);
    hook.update(1, 2, Some(0)).unwrap();
    hook.assert_own(3, &[2]);
}

/// One might expect S6 to refuse, but the kernel does not ask it of a link.
#[test]
fn s20_update_may_bring_a_program_in_twice() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.multi(3, 1);
    hook.update(2, 0, None).unwrap();
    hook.assert_own(3, &[0, 0]);
    // Named by its program it is the first; and S6 forbids a third.
    assert_refused(hook.attach(3, 0, Mode::Multi), "S6", Errno::EINVAL);
    assert_eq!(hook.detach(3, by_prog(0)).unwrap().id, id(1));
}

#[test]
fn s20_update_of_what_is_gone_is_no_link() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.multi(4, 0);
    hook.detach(4, by_id(2)).unwrap();
    hook.lists.remove_cgroup(cg(3));
    for gone in [1, 2] {
        assert_refused(hook.update(gone, 1, None), "S20", Errno::ENOLINK);
        // Even where the comparison would fail.
        assert_refused(hook.update(gone, 1, Some(3)), "S20", Errno::ENOLINK);
    }
}
