//! Random trees and random calls.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// How an anchor is chosen when its turn comes.
#[derive(Clone, Debug)]
pub(super) enum Pick {
    /// One that stands on the cgroup's own list, by id or by program.
    Own(Index, bool),
    /// An id that was given once, wherever.
    Given(Index),
    /// A program, attached or not.
    Program(u32),
}

/// How the mode of an attach is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) enum PickMode {
    /// That of the list, `multi` if it is empty.
    Fitting,
    This(Mode),
}

#[derive(Clone, Debug)]
pub(super) struct Attach {
    pub(super) cgroup: Index,
    pub(super) program: u32,
    pub(super) mode: PickMode,
    pub(super) preorder: bool,
    pub(super) cookie: u64,
    pub(super) before: bool,
    pub(super) after: bool,
    pub(super) relative: Option<Pick>,
    pub(super) replace: Option<Pick>,
    /// Off the true revision by this much.
    pub(super) revision: Option<i8>,
    /// Take an id that was given already.
    pub(super) stale_id: Option<Index>,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Attach(Attach),
    Detach(Index, Option<Pick>, Option<i8>),
    Update(Index, u32, Option<u32>),
    Remove(Index),
}

fn pick(programs: u32) -> impl Strategy<Value = Pick> {
    prop_oneof![
        6 => (any::<Index>(), any::<bool>()).prop_map(|(i, by_id)| Pick::Own(i, by_id)),
        1 => any::<Index>().prop_map(Pick::Given),
        1 => (0..programs).prop_map(Pick::Program),
    ]
}

fn revision() -> impl Strategy<Value = Option<i8>> {
    prop_oneof![
        8 => Just(None),
        3 => Just(Some(0)),
        1 => (-2i8..=2).prop_map(Some),
    ]
}

fn attach(programs: u32) -> impl Strategy<Value = Attach> {
    let mode = prop_oneof![
        4 => Just(PickMode::Fitting),
        2 => prop::sample::select(&Mode::ALL[..]).prop_map(PickMode::This),
    ];
    let options = (
        prop::bool::weighted(0.3),
        any::<u64>(),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.25),
    );
    (
        (any::<Index>(), 0..programs, mode, options),
        prop::option::weighted(0.3, pick(programs)),
        prop::option::weighted(0.15, pick(programs)),
        revision(),
        prop::option::weighted(0.02, any::<Index>()),
    )
        .prop_map(|(what, relative, replace, revision, stale_id)| {
            let (cgroup, program, mode, (preorder, cookie, before, after)) = what;
            Attach {
                cgroup,
                program,
                mode,
                preorder,
                cookie,
                before,
                after,
                relative,
                replace,
                revision,
                stale_id,
            }
        })
}

fn detach(programs: u32) -> impl Strategy<Value = Op> {
    let what = prop::option::weighted(0.8, pick(programs));
    (any::<Index>(), what, revision()).prop_map(|(c, what, revision)| Op::Detach(c, what, revision))
}

fn op(programs: u32) -> impl Strategy<Value = Op> {
    let update = (
        any::<Index>(),
        0..programs,
        prop::option::weighted(0.4, 0..programs),
    );
    prop_oneof![
        12 => attach(programs).prop_map(Op::Attach),
        3 => detach(programs),
        2 => update.prop_map(|(i, new, old)| Op::Update(i, new, old)),
        1 => any::<Index>().prop_map(Op::Remove),
    ]
}

/// Calls that fill a list.
pub(super) fn filling_op() -> impl Strategy<Value = Op> {
    let programs = 400;
    let plain = attach(programs).prop_map(|attach| {
        Op::Attach(Attach {
            mode: PickMode::This(Mode::Multi),
            before: false,
            relative: None,
            replace: None,
            revision: None,
            stale_id: None,
            ..attach
        })
    });
    prop_oneof![
        8 => plain,
        1 => attach(programs).prop_map(Op::Attach),
        1 => detach(programs),
    ]
}

/// A tree of the cgroups `100, 101, ...`, each of which hangs on an earlier one; now and then a
/// second root.
fn tree(most: usize) -> impl Strategy<Value = (Vec<CgroupId>, Tree)> {
    let parents = prop::collection::vec((any::<Index>(), prop::bool::weighted(0.95)), 0..most);
    parents.prop_map(|parents| {
        let mut cgroups = vec![cg(100)];
        let mut tree = BTreeMap::new();
        for (parent, hangs) in parents {
            let new = cg(100 + cgroups.len() as u64);
            if hangs {
                tree.insert(new, *parent.get(&cgroups));
            }
            cgroups.push(new);
        }
        (cgroups, Tree(tree))
    })
}

pub(super) fn scene(
    cgroups: usize,
    ops: usize,
) -> impl Strategy<Value = ((Vec<CgroupId>, Tree), Vec<Op>)> {
    (tree(cgroups), prop::collection::vec(op(12), 0..ops))
}
