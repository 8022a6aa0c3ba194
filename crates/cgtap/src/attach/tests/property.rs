//! All rules together: random trees and random calls, the same answers and the same state as in
//! the plain [`Model`], and nothing changed by what is refused (S10).

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::calls::{Attach, Op, Pick, PickMode, filling_op, scene};
use super::model::{Model, Verdict};
use super::*;
use crate::attach::Array;

/// Code and model, side by side.
struct Pair {
    cgroups: Vec<CgroupId>,
    tree: Tree,
    lists: Lists,
    model: Model,
    given: u32,
    /// How often each answer was given.
    seen: BTreeMap<String, usize>,
}

impl Pair {
    fn new((cgroups, tree): (Vec<CgroupId>, Tree)) -> Self {
        Self {
            cgroups,
            tree,
            lists: Lists::new(),
            model: Model::default(),
            given: 0,
            seen: BTreeMap::new(),
        }
    }

    fn any_given(&self, index: &Index) -> AttachmentId {
        // One more than were given: an id that never was.
        id(1 + index.index(self.given as usize + 1) as u32)
    }

    fn anchor(&self, cgroup: CgroupId, pick: &Pick) -> Anchor {
        match pick {
            Pick::Own(index, by_id) => {
                let own = self.model.own(cgroup);
                if own.is_empty() {
                    return Anchor::Program(prog(0));
                }
                let one = index.get(&own);
                match by_id {
                    true => Anchor::Id(one.id),
                    false => Anchor::Program(one.program),
                }
            }
            Pick::Given(index) => Anchor::Id(self.any_given(index)),
            Pick::Program(program) => Anchor::Program(prog(*program)),
        }
    }

    fn expected(&self, cgroup: CgroupId, off: Option<i8>) -> Option<u64> {
        off.map(|off| {
            self.model
                .revision(cgroup)
                .saturating_add_signed(off.into())
        })
    }

    fn request(&mut self, attach: &Attach) -> AttachRequest {
        let cgroup = *attach.cgroup.get(&self.cgroups);
        let anchor = |pick: &Option<Pick>| pick.as_ref().map(|p| self.anchor(cgroup, p));
        let relative = anchor(&attach.relative);
        let replace = anchor(&attach.replace);
        let id = match &attach.stale_id {
            Some(index) => self.any_given(index),
            None => id(self.given + 1),
        };
        self.given = self.given.max(id.0);
        AttachRequest {
            cgroup,
            program: prog(attach.program),
            id,
            mode: match attach.mode {
                PickMode::Fitting => self.model.mode(cgroup).unwrap_or_default(),
                PickMode::This(mode) => mode,
            },
            preorder: attach.preorder,
            cookie: attach.cookie,
            place: Place::from_flags(attach.before, attach.after, relative),
            replace,
            expect_revision: self.expected(cgroup, attach.revision),
        }
    }

    /// Does `op` to both; they must agree.
    fn step(&mut self, op: &Op) {
        match op {
            Op::Attach(attach) => {
                let request = self.request(attach);
                let got = self.guarded(|lists, tree| {
                    let attached = lists.attach(tree, request)?;
                    assert_eq!(attached.id, request.id);
                    Ok(attached.replaced)
                });
                let want = self.model.attach(&self.tree, &request);
                self.agree("attach", got, want, op);
            }
            Op::Detach(cgroup, what, revision) => {
                let cgroup = *cgroup.get(&self.cgroups);
                let what = what.as_ref().map(|pick| self.anchor(cgroup, pick));
                let expected = self.expected(cgroup, *revision);
                let got = self.guarded(|lists, _| lists.detach(cgroup, what, expected));
                let want = self.model.detach(cgroup, what, expected);
                self.agree("detach", got, want, op);
            }
            Op::Update(index, new, old) => {
                let (id, new) = (self.any_given(index), prog(*new));
                let old = old.map(prog);
                let at = self.lists.find(id).map(|(cgroup, _)| cgroup);
                let got = self.guarded(|lists, _| {
                    let updated = lists.update(id, new, old)?;
                    assert_eq!(Some(updated.cgroup), at);
                    Ok(updated.old)
                });
                let want = self.model.update(id, new, old);
                self.agree("update", got, want, op);
            }
            Op::Remove(cgroup) => {
                let cgroup = *cgroup.get(&self.cgroups);
                let got = self.lists.remove_cgroup(cgroup);
                let want = self.model.remove_cgroup(cgroup);
                self.agree("remove", Ok(got), Ok(want), op);
            }
        }
        self.compare();
    }

    /// S10: a refusal leaves everything as it was.
    fn guarded<T>(
        &mut self,
        change: impl FnOnce(&mut Lists, &Tree) -> Result<T, RuleError>,
    ) -> Result<T, RuleError> {
        let before = self.lists.clone();
        let result = change(&mut self.lists, &self.tree);
        if let Err(error) = &result {
            assert_eq!(self.lists, before, "changed though refused: {error}");
        }
        result
    }

    fn agree<T>(&mut self, what: &str, got: Result<T, RuleError>, want: Verdict<T>, op: &Op)
    where
        T: std::fmt::Debug + PartialEq,
    {
        let answer = match &want {
            Ok(_) => format!("{what} ok"),
            Err((rule, errno)) => format!("{what} {rule} {errno}"),
        };
        *self.seen.entry(answer).or_default() += 1;
        let got = got.map_err(|error| (error.rule(), error.errno()));
        assert_eq!(got, want, "{op:?}\n{:#?}", self.lists);
    }

    /// The same lists, modes, revisions and effective arrays everywhere.
    fn compare(&self) {
        for &cgroup in &self.cgroups {
            let want = self.model.own(cgroup);
            let own = self.lists.own(cgroup);
            let got = own.map_or(&[][..], |list| &list.attachments);
            assert_eq!(got, want, "list of {cgroup}");
            assert_eq!(own.map(|list| list.mode), self.model.mode(cgroup));
            assert_eq!(self.lists.revision(cgroup), self.model.revision(cgroup));
            for attachment in &want {
                assert_eq!(self.lists.find(attachment.id), Some((cgroup, attachment)));
            }
            let effective = self.lists.effective(&self.tree, cgroup);
            let want = self.model.effective(&self.tree, cgroup);
            assert_eq!(effective, want, "effective array of {cgroup}");

            let room = want.len() / 2;
            let answer = self.lists.query(&self.tree, cgroup, Array::Effective, room);
            assert_eq!(answer.count, want.len());
            assert_eq!(answer.entries, want[..room]);
            assert_eq!(answer.complete().is_err(), room > 0);
        }
        let configured: Vec<_> = self.lists.configured().collect();
        let mut want = self.cgroups.clone();
        want.retain(|cgroup| !self.model.own(*cgroup).is_empty());
        assert_eq!(configured, want);
    }

    fn run(mut self, ops: &[Op]) -> Self {
        self.compare();
        for op in ops {
            self.step(op);
        }
        let blob = postcard::to_stdvec(&self.lists).unwrap();
        let read: Lists = postcard::from_bytes(&blob).unwrap();
        assert_eq!(read, self.lists);
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn code_and_model_agree((tree, ops) in scene(12, 80)) {
        Pair::new(tree).run(&ops);
    }

    /// Few cgroups, so that lists grow long and orders get intricate.
    #[test]
    fn code_and_model_agree_on_long_lists((tree, ops) in scene(3, 160)) {
        Pair::new(tree).run(&ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// So many programs and so few cgroups that lists fill up (S7).
    #[test]
    fn code_and_model_agree_on_full_lists(ops in prop::collection::vec(filling_op(), 120..200)) {
        Pair::new((vec![cg(100)], Tree::default())).run(&ops);
    }
}

/// The tests above are worth something only if the random calls reach every rule, and if enough
/// of them are granted.
#[test]
fn random_calls_reach_every_rule() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = |pair: Pair| {
        for (answer, times) in pair.seen {
            *seen.entry(answer).or_default() += times;
        }
    };
    for _ in 0..128 {
        let (tree, ops) = scene(12, 80).new_tree(&mut runner).unwrap().current();
        count(Pair::new(tree).run(&ops));
    }
    let full = prop::collection::vec(filling_op(), 150);
    for _ in 0..4 {
        let ops = full.new_tree(&mut runner).unwrap().current();
        count(Pair::new((vec![cg(100)], Tree::default())).run(&ops));
    }

    for answer in [
        "attach S2 EINVAL",
        "attach S3 EPERM",
        "attach S4 EPERM",
        "attach S6 EINVAL",
        "attach S7 E2BIG",
        "attach S9 ENOENT",
        "attach S17 EINVAL",
        "attach S17 ENOENT",
        "attach S18 ESTALE",
        "detach S8 EINVAL",
        "detach S8 ENOENT",
        "detach S18 ESTALE",
        "update S20 EPERM",
        "update S20 ENOLINK",
    ] {
        let times = seen.get(answer).copied().unwrap_or_default();
        assert!(times >= 10, "`{answer}` only {times} times in {seen:#?}");
    }
    for (what, least) in [("attach", 0.25), ("detach", 0.25), ("update", 0.1)] {
        let of_it = seen.iter().filter(|(answer, _)| answer.starts_with(what));
        let all: usize = of_it.map(|(_, times)| times).sum();
        let granted = seen[&format!("{what} ok")];
        assert!(
            granted as f64 >= least * all as f64,
            "of {all} times {what} only {granted} granted: {seen:#?}"
        );
    }
}
