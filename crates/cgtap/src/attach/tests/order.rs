//! S16, S17: where on a list a new attachment goes.

use super::*;

/// A hook with the programs 0, 1, 2 on the list of cgroup 3, as attachments 1, 2, 3.
fn three() -> Hook {
    let mut hook = Hook::new();
    for program in 0..3 {
        hook.multi(3, program);
    }
    hook
}

#[test]
fn s16_no_option_appends() {
    let mut hook = three();
    hook.place(3, 9, Place::default()).unwrap();
    hook.assert_own(3, &[0, 1, 2, 9]);
}

#[test]
fn s16_before_without_a_relative_is_first() {
    let mut hook = three();
    hook.place(3, 9, Place::Before(None)).unwrap();
    hook.place(3, 8, Place::Before(None)).unwrap();
    hook.assert_own(3, &[8, 9, 0, 1, 2]);
    hook.assert_runs(3, &[8, 9, 0, 1, 2]);
}

#[test]
fn s16_after_without_a_relative_is_last() {
    let mut hook = three();
    hook.place(3, 9, Place::After(None)).unwrap();
    hook.place(3, 8, Place::After(None)).unwrap();
    hook.assert_own(3, &[0, 1, 2, 9, 8]);
}

#[test]
fn s16_before_a_relative() {
    for (relative, expected) in [(0, [9, 0, 1, 2]), (1, [0, 9, 1, 2]), (2, [0, 1, 9, 2])] {
        for anchor in [by_prog(relative), by_id(relative + 1)] {
            let mut hook = three();
            hook.place(3, 9, Place::Before(anchor)).unwrap();
            hook.assert_own(3, &expected);
        }
    }
}

#[test]
fn s16_after_a_relative() {
    for (relative, expected) in [(0, [0, 9, 1, 2]), (1, [0, 1, 9, 2]), (2, [0, 1, 2, 9])] {
        for anchor in [by_prog(relative), by_id(relative + 1)] {
            let mut hook = three();
            hook.place(3, 9, Place::After(anchor)).unwrap();
            hook.assert_own(3, &expected);
        }
    }
}

#[test]
fn s16_on_an_empty_list_every_place_is_the_same() {
    for place in [Place::Append, Place::Before(None), Place::After(None)] {
        let mut hook = Hook::new();
        hook.place(3, 9, place).unwrap();
        hook.assert_own(3, &[9]);
    }
}

/// First and last of the whole list are first and last of the class too.
#[test]
fn s16_without_a_relative_preorder_does_not_matter() {
    let mut hook = Hook::new();
    hook.preorder(3, 0);
    hook.multi(3, 1);
    hook.attach_with(3, 2, Mode::Multi, |r| {
        r.preorder = true;
        r.place = Place::After(None);
    })
    .unwrap();
    hook.place(3, 3, Place::Before(None)).unwrap();
    hook.assert_own(3, &[3, 0, 1, 2]);
    hook.assert_runs(3, &[0, 2, 3, 1]);
}

#[test]
fn s17_flags_give_the_place_they_ask_for() {
    let some = by_id(4);
    let anchor = Anchor::Id(id(4));
    for (before, after, relative, place) in [
        (false, false, None, Place::Append),
        (true, false, None, Place::Before(None)),
        (true, false, some, Place::Before(some)),
        (false, true, None, Place::After(None)),
        (false, true, some, Place::After(some)),
        (true, true, None, Place::BeforeAndAfter(None)),
        (true, true, some, Place::BeforeAndAfter(some)),
        (false, false, some, Place::Beside(anchor)),
    ] {
        assert_eq!(Place::from_flags(before, after, relative), place);
    }
}

#[test]
fn s17_before_and_after_fit_an_empty_list_without_a_relative() {
    let mut hook = Hook::new();
    hook.place(3, 0, Place::BeforeAndAfter(None)).unwrap();
    hook.assert_own(3, &[0]);
    let refused = hook.place(3, 1, Place::BeforeAndAfter(None));
    assert_refused(refused, "S17", Errno::EINVAL);
}

#[test]
fn s17_before_and_after_with_a_relative_is_invalid() {
    for anchor in [by_id(1), by_prog(0), by_id(77)] {
        let refused = three().place(3, 9, Place::BeforeAndAfter(anchor));
        assert_refused(refused, "S17", Errno::EINVAL);
        let refused = Hook::new().place(3, 9, Place::BeforeAndAfter(anchor));
        assert_refused(refused, "S17", Errno::EINVAL);
    }
}

#[test]
fn s17_a_relative_without_before_or_after_is_invalid() {
    for anchor in [Anchor::Id(id(1)), Anchor::Program(prog(77))] {
        let refused = three().place(3, 9, Place::Beside(anchor));
        assert_refused(refused, "S17", Errno::EINVAL);
    }
}

#[test]
fn s17_a_relative_that_is_not_on_the_list_is_no_entry() {
    let mut hook = three();
    hook.multi(2, 5);
    for anchor in [by_id(4), by_prog(5), by_id(77), by_prog(77), by_prog(9)] {
        for place in [Place::Before(anchor), Place::After(anchor)] {
            assert_refused(hook.place(3, 9, place), "S17", Errno::ENOENT);
            assert_refused(hook.place(4, 9, place), "S17", Errno::ENOENT);
        }
    }
}

#[test]
fn s17_replace_with_before_or_after_is_invalid() {
    for place in [
        Place::Before(None),
        Place::After(None),
        Place::After(by_id(2)),
        Place::BeforeAndAfter(None),
    ] {
        let refused = three().attach_with(3, 9, Mode::Multi, |r| {
            r.place = place;
            r.replace = by_id(1);
        });
        assert_refused(refused, "S17", Errno::EINVAL);
    }
}

/// The kernel never looks for the relative of a replacement, so one alone is no error.
#[test]
fn s17_replace_ignores_a_lone_relative() {
    let mut hook = three();
    hook.attach_with(3, 9, Mode::Multi, |r| {
        r.place = Place::Beside(Anchor::Id(id(77)));
        r.replace = by_id(1);
    })
    .unwrap();
    hook.assert_own(3, &[9, 1, 2]);
}

#[test]
fn s17_a_relative_of_the_other_preorder_class_is_invalid() {
    let mut hook = Hook::new();
    hook.multi(3, 0);
    hook.preorder(3, 1);
    for place in [Place::Before(by_prog(1)), Place::After(by_id(2))] {
        assert_refused(hook.place(3, 9, place), "S17", Errno::EINVAL);
    }
    for place in [Place::Before(by_prog(0)), Place::After(by_id(1))] {
        let refused = hook.attach_with(3, 9, Mode::Multi, |r| {
            r.preorder = true;
            r.place = place;
        });
        assert_refused(refused, "S17", Errno::EINVAL);
    }
    hook.attach_with(3, 9, Mode::Multi, |r| {
        r.preorder = true;
        r.place = Place::Before(by_prog(1));
    })
    .unwrap();
    hook.assert_own(3, &[0, 9, 1]);
    hook.assert_runs(3, &[9, 1, 0]);
}
