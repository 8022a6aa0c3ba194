//! S1-S5, S19: modes, and what they forbid.

use super::*;
use crate::attach::{Flags, UnknownMode};

const MODES: [Mode; 3] = Mode::ALL;

#[test]
fn s01_the_first_attachment_sets_the_mode_and_the_last_resets_it() {
    for mode in MODES {
        let mut hook = Hook::new();
        assert_eq!(hook.mode(3), None);
        hook.attach(3, 0, mode).unwrap();
        assert_eq!(hook.mode(3), Some(mode));
        hook.detach(3, by_id(1)).unwrap();
        assert_eq!(hook.mode(3), None);
        for other in MODES {
            hook.attach(3, 1, other).unwrap();
            assert_eq!(hook.mode(3), Some(other));
            hook.detach(3, by_prog(1)).unwrap();
        }
    }
}

#[test]
fn s01_lists_of_cgroups_are_apart() {
    let mut hook = Hook::new();
    hook.attach(3, 0, Mode::Override).unwrap();
    hook.multi(30, 0);
    hook.assert_own(3, &[0]);
    hook.assert_own(30, &[0]);
    assert_eq!(hook.mode(3), Some(Mode::Override));
    assert_eq!(hook.mode(30), Some(Mode::Multi));
    let configured: Vec<_> = hook.lists.configured().collect();
    assert_eq!(configured, [cg(3), cg(30)]);
}

#[test]
fn s01_modes_read_and_write_their_names() {
    for mode in MODES {
        assert_eq!(mode.to_string().parse(), Ok(mode));
        let json = serde_json::to_string(&mode).unwrap();
        assert_eq!(json, format!("\"{mode}\""));
        assert_eq!(serde_json::from_str::<Mode>(&json).unwrap(), mode);
    }
    assert_eq!(MODES.map(Mode::name), ["none", "override", "multi"]);
    assert_eq!(Mode::default(), Mode::Multi);
    let error = "Multi".parse::<Mode>().unwrap_err();
    assert_eq!(
        error,
        UnknownMode {
            text: "Multi".into()
        }
    );
    assert_eq!(
        error.to_string(),
        "`Multi` is no mode; write none, override or multi"
    );
}

#[test]
fn s02_override_with_multi_is_invalid() {
    for replace in [false, true] {
        let flags = Flags {
            override_: true,
            multi: true,
            replace,
        };
        assert_refused(flags.mode(), "S2", Errno::EINVAL);
    }
}

#[test]
fn s02_replace_without_multi_is_invalid() {
    for mode in [Mode::None, Mode::Override] {
        assert_refused(Flags::for_mode(mode, true).mode(), "S2", Errno::EINVAL);
        // The same of a whole request, even where the list would refuse for another reason.
        let mut hook = Hook::new();
        hook.multi(3, 0);
        let refused = hook.attach_with(3, 1, mode, |r| r.replace = by_id(1));
        assert_refused(refused, "S2", Errno::EINVAL);
    }
}

#[test]
fn s02_all_other_flags_give_a_mode() {
    for mode in MODES {
        assert_eq!(Flags::for_mode(mode, false).mode(), Ok(mode));
    }
    assert_eq!(Flags::for_mode(Mode::Multi, true).mode(), Ok(Mode::Multi));
    assert_eq!(Flags::default().mode(), Ok(Mode::None));
}

#[test]
fn s03_a_mode_that_differs_from_the_list_forbids() {
    for has in MODES {
        for wanted in MODES {
            let mut hook = Hook::new();
            hook.attach(3, 0, has).unwrap();
            let second = hook.attach(3, 1, wanted);
            if has == wanted {
                second.unwrap();
            } else {
                assert_refused(second, "S3", Errno::EPERM);
            }
        }
    }
}

#[test]
fn s04_an_exclusive_ancestor_forbids() {
    for mode in MODES {
        for below in [2, 3, 5] {
            let mut hook = Hook::new();
            hook.attach(1, 0, Mode::None).unwrap();
            assert_refused(hook.attach(below, 1, mode), "S4", Errno::EPERM);
        }
    }
}

#[test]
fn s04_an_override_or_multi_ancestor_allows() {
    for above in [Mode::Override, Mode::Multi] {
        for mode in MODES {
            let mut hook = Hook::new();
            hook.attach(2, 0, above).unwrap();
            hook.attach(5, 1, mode).unwrap();
        }
    }
}

/// The kernel looks no further than the nearest list that is not empty: an exclusive one above it
/// may even come later.
#[test]
fn s04_the_nearest_ancestor_decides() {
    for nearest in [Mode::Override, Mode::Multi] {
        let mut hook = Hook::new();
        hook.attach(3, 0, nearest).unwrap();
        hook.attach(1, 1, Mode::None).unwrap();
        hook.attach(4, 2, Mode::Multi).unwrap();
        // Not below the nearest one, the exclusive root is the nearest.
        assert_refused(hook.attach(2, 3, Mode::Multi), "S4", Errno::EPERM);
        assert_refused(hook.attach(30, 3, Mode::Multi), "S4", Errno::EPERM);
        // Nor below it any more, once it is empty.
        hook.detach(3, by_prog(0)).unwrap();
        assert_refused(hook.attach(3, 0, nearest), "S4", Errno::EPERM);
    }
}

#[test]
fn s04_descendants_and_the_cgroup_itself_do_not_forbid() {
    let mut hook = Hook::new();
    hook.attach(4, 0, Mode::None).unwrap();
    hook.attach(2, 1, Mode::None).unwrap();
    hook.attach(2, 2, Mode::None).unwrap();
    // Now 2 forbids a second attach to 4, which is there already.
    assert_refused(hook.attach(4, 3, Mode::None), "S4", Errno::EPERM);
    hook.assert_own(4, &[0]);
}

#[test]
fn s05_a_second_attach_replaces_the_first() {
    for mode in [Mode::None, Mode::Override] {
        let mut hook = Hook::new();
        hook.attach(3, 0, mode).unwrap();
        let second = hook
            .attach_with(3, 1, mode, |r| (r.preorder, r.cookie) = (true, 9))
            .unwrap();
        assert_eq!(second.id, id(2));
        let old = second.replaced.expect("the first attachment");
        assert_eq!((old.id, old.program), (id(1), prog(0)));
        let own = &hook.lists.own(cg(3)).unwrap().attachments;
        let new = Attachment {
            id: id(2),
            program: prog(1),
            preorder: true,
            cookie: 9,
        };
        assert_eq!(own, &[new]);
    }
}

#[test]
fn s05_the_same_program_may_replace_itself() {
    for mode in [Mode::None, Mode::Override] {
        let mut hook = Hook::new();
        hook.attach(3, 0, mode).unwrap();
        let again = hook.attach(3, 0, mode).unwrap();
        assert_eq!(again.replaced.map(|a| a.id), Some(id(1)));
        hook.assert_own(3, &[0]);
    }
}

/// The kernel asks for the place on the list only where it makes one: a relative that nobody
/// knows is ENOENT on an empty list, and goes unseen where the first attachment is replaced.
#[test]
fn s05_the_order_is_not_looked_at_when_replacing() {
    let places = [
        Place::Before(by_id(77)),
        Place::BeforeAndAfter(None),
        Place::Beside(Anchor::Program(prog(7))),
    ];
    for place in places {
        let mut hook = Hook::new();
        hook.attach(3, 0, Mode::None).unwrap();
        hook.attach_with(3, 1, Mode::None, |r| r.place = place)
            .unwrap();
        hook.assert_own(3, &[1]);
    }
    let mut hook = Hook::new();
    let refused = hook.attach_with(3, 0, Mode::None, |r| r.place = Place::Before(by_id(77)));
    assert_refused(refused, "S17", Errno::ENOENT);
}

#[test]
fn s19_links_mean_multi_and_never_stand_beside_exclusive_ones() {
    for mode in MODES {
        let mut hook = Hook::new();
        hook.attach(3, 0, mode).unwrap();
        let link = AttachRequest::link(cg(3), prog(1), id(2));
        assert_eq!(link.mode, Mode::Multi);
        let result = hook.guarded(|lists, tree| lists.attach(tree, link));
        match mode {
            Mode::Multi => assert_eq!(result.unwrap().replaced, None),
            _ => assert_refused(result, "S3", Errno::EPERM),
        }
        // The other way round.
        let mut hook = Hook::new();
        let link = AttachRequest::link(cg(3), prog(0), id(50));
        hook.lists.attach(&hook.tree, link).unwrap();
        let result = hook.attach(3, 1, mode);
        match mode {
            Mode::Multi => assert_eq!(result.unwrap().replaced, None),
            _ => assert_refused(result, "S3", Errno::EPERM),
        }
    }
}
