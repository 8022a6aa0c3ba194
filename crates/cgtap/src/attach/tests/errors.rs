//! What the errors say, and what is kept.

use super::*;
use crate::attach::Role;

/// One of each, with what it says.
fn all() -> Vec<(RuleError, &'static str)> {
    vec![
        (
            RuleError::OverrideAndMulti,
            "override and multi exclude each other; give one of them",
        ),
        (
            RuleError::ReplaceWithoutMulti,
            "replace needs mode multi; leave it out in mode none and override, where an attach \
             replaces what is attached by itself",
        ),
        (
            RuleError::ModeDiffers {
                cgroup: cg(12),
                has: Mode::Multi,
                wanted: Mode::None,
            },
            "the list of cgroup 12 has mode multi, not none; attach with mode multi, or first \
             detach what is attached there",
        ),
        (
            RuleError::AncestorExclusive { ancestor: cg(12) },
            "the list of its ancestor (cgroup 12) is exclusive (mode none); detach what is \
             attached there or attach there with mode multi",
        ),
        (
            RuleError::AttachedTwice {
                cgroup: cg(12),
                program: prog(5),
                id: id(7),
            },
            "program 1 of instance 2 is attached to cgroup 12 already, as attachment 7; detach \
             or replace that one, or load the object again to attach it twice",
        ),
        (
            RuleError::IdTaken {
                id: id(7),
                cgroup: cg(12),
            },
            "attachment 7 is attached to cgroup 12 already; give the new one a fresh id",
        ),
        (
            RuleError::ListFull { cgroup: cg(12) },
            "the list of cgroup 12 is full with 64 attachments; first detach one, or attach to \
             its parent or its children",
        ),
        (
            RuleError::DetachUnnamed { cgroup: cg(12) },
            "cgroup 12 may have several attachments (mode multi); name the one to detach",
        ),
        (
            RuleError::NothingAttached { cgroup: cg(12) },
            "nothing is attached to cgroup 12 itself; what runs there is an ancestor's",
        ),
        (
            RuleError::NotOnList {
                role: Role::Replaced,
                anchor: Anchor::Id(id(7)),
                cgroup: cg(12),
            },
            "attachment 7 is not on the list of cgroup 12; name one of that list to replace, \
             not one of an ancestor's",
        ),
        (
            RuleError::BeforeAndAfter,
            "before and after together fit only an empty list and no relative; give one of them",
        ),
        (
            RuleError::RelativeAlone {
                anchor: Anchor::Program(prog(5)),
            },
            "program 1 of instance 2 is named as a relative without before or after; give one \
             of them",
        ),
        (
            RuleError::ReplaceWithPlace,
            "a replacement keeps the place of what it replaces; leave before and after out",
        ),
        (
            RuleError::OtherClass {
                anchor: Anchor::Id(id(7)),
                preorder: true,
            },
            "attachment 7 is preorder and the new attachment is not, so they never run next to \
             each other; name a relative of the same kind",
        ),
        (
            RuleError::Stale {
                cgroup: cg(12),
                expected: 3,
                actual: 5,
            },
            "the list of cgroup 12 is at revision 5, not 3: it has changed meanwhile; look at it \
             again",
        ),
        (
            RuleError::ProgramDiffers {
                id: id(7),
                expected: prog(1),
                actual: prog(5),
            },
            "attachment 7 runs program 1 of instance 2, not program 1 of instance 1: it was \
             updated meanwhile; look at it again",
        ),
        (
            RuleError::Gone { id: id(7) },
            "attachment 7 is on no list: its cgroup was removed, or it was detached or \
             replaced; attach anew",
        ),
        (
            RuleError::NoRoom { room: 2, count: 4 },
            "there are 4 attachments and room for 2; ask again with room for 4",
        ),
    ]
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    for (error, words) in all() {
        assert_eq!(error.to_string(), words);
        assert!(error.rule().starts_with('S'), "{error:?}");
        // Who prints it adds the errno, once.
        assert!(!words.contains(error.errno().name()), "{words}");
    }
}

#[test]
fn errors_are_told_apart_by_what_the_name_was_for() {
    let rules = [Role::Detached, Role::Replaced, Role::Relative].map(|role| {
        let error = RuleError::NotOnList {
            role,
            anchor: Anchor::Id(id(7)),
            cgroup: cg(12),
        };
        (error.rule(), error.errno())
    });
    assert_eq!(
        rules,
        [
            ("S8", Errno::ENOENT),
            ("S9", Errno::ENOENT),
            ("S17", Errno::ENOENT)
        ]
    );
}

#[test]
fn errnos_have_their_name_and_number() {
    for (errno, name, number) in [
        (Errno::EPERM, "EPERM", 1),
        (Errno::ENOENT, "ENOENT", 2),
        (Errno::E2BIG, "E2BIG", 7),
        (Errno::EBADF, "EBADF", 9),
        (Errno::EINVAL, "EINVAL", 22),
        (Errno::ENOSPC, "ENOSPC", 28),
    ] {
        assert_eq!((errno.name(), errno.number()), (name, number));
        assert_eq!(errno.to_string(), name);
    }
    // These differ between architectures.
    #[cfg(target_arch = "x86_64")]
    assert_eq!((Errno::ENOLINK.number(), Errno::ESTALE.number()), (67, 116));
}

#[test]
fn lists_are_kept_in_both_forms() {
    let mut hook = Hook::new();
    hook.attach_with(2, 1, Mode::Override, |r| r.cookie = u64::MAX)
        .unwrap();
    hook.preorder(3, 5);
    hook.multi(4, 0);
    hook.detach(4, by_prog(0)).unwrap();
    let json = serde_json::to_string(&hook.lists).unwrap();
    assert_eq!(serde_json::from_str::<Lists>(&json).unwrap(), hook.lists);
    let blob = postcard::to_stdvec(&hook.lists).unwrap();
    assert_eq!(postcard::from_bytes::<Lists>(&blob).unwrap(), hook.lists);
    // The emptied list is kept with its revision.
    assert!(json.contains(r#""4":{"mode":"none","revision":3,"attachments":[]}"#));
}
