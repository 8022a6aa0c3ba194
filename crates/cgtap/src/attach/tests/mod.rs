//! One test for each rule, named by its number; and all rules together against a plain model.

mod calls;
mod effective;
mod errors;
mod lists;
mod model;
mod modes;
mod order;
mod property;
mod query;

use std::collections::BTreeMap;

use super::{
    Anchor, AttachRequest, Attached, Attachment, Errno, Hierarchy, Lists, Mode, Place, RuleError,
    Updated,
};
use crate::id::{AttachmentId, CgroupId, InstanceId, ProgramId};

fn cg(n: u64) -> CgroupId {
    CgroupId(n)
}

fn id(n: u32) -> AttachmentId {
    AttachmentId(n)
}

fn prog(n: u32) -> ProgramId {
    ProgramId {
        instance: InstanceId(n / 4 + 1),
        index: n % 4,
    }
}

fn by_id(n: u32) -> Option<Anchor> {
    Some(Anchor::Id(id(n)))
}

fn by_prog(n: u32) -> Option<Anchor> {
    Some(Anchor::Program(prog(n)))
}

/// A cgroup tree, child to parent.
#[derive(Clone, Debug, Default)]
struct Tree(BTreeMap<CgroupId, CgroupId>);

impl Hierarchy for Tree {
    fn parent(&self, cgroup: CgroupId) -> Option<CgroupId> {
        self.0.get(&cgroup).copied()
    }
}

/// A hook over the tree `1 - 2 - 3 - 4 - 5`, with `30` beside `3`. Attachments get the ids 1, 2,
/// ... in the order in which they are tried. What is refused must have changed nothing: every
/// test checks S10 by going through here.
struct Hook {
    lists: Lists,
    tree: Tree,
    next_id: u32,
}

impl Hook {
    fn new() -> Self {
        let tree = [(2, 1), (3, 2), (4, 3), (5, 4), (30, 2)];
        Self {
            lists: Lists::new(),
            tree: Tree(tree.into_iter().map(|(c, p)| (cg(c), cg(p))).collect()),
            next_id: 1,
        }
    }

    fn guarded<T>(
        &mut self,
        change: impl FnOnce(&mut Lists, &Tree) -> Result<T, RuleError>,
    ) -> Result<T, RuleError> {
        let before = self.lists.clone();
        let result = change(&mut self.lists, &self.tree);
        if result.is_err() {
            assert_eq!(self.lists, before, "a refused call has changed something");
        } else {
            assert_ne!(self.lists, before, "a granted call has changed nothing");
        }
        result
    }

    fn attach_with(
        &mut self,
        cgroup: u64,
        program: u32,
        mode: Mode,
        options: impl FnOnce(&mut AttachRequest),
    ) -> Result<Attached, RuleError> {
        let mut request = AttachRequest::new(cg(cgroup), prog(program), id(self.next_id), mode);
        self.next_id += 1;
        options(&mut request);
        self.guarded(|lists, tree| lists.attach(tree, request))
    }

    fn attach(&mut self, cgroup: u64, program: u32, mode: Mode) -> Result<Attached, RuleError> {
        self.attach_with(cgroup, program, mode, |_| ())
    }

    fn multi(&mut self, cgroup: u64, program: u32) {
        self.attach(cgroup, program, Mode::Multi).unwrap();
    }

    fn preorder(&mut self, cgroup: u64, program: u32) {
        self.attach_with(cgroup, program, Mode::Multi, |r| r.preorder = true)
            .unwrap();
    }

    fn place(&mut self, cgroup: u64, program: u32, place: Place) -> Result<Attached, RuleError> {
        self.attach_with(cgroup, program, Mode::Multi, |r| r.place = place)
    }

    fn replace(
        &mut self,
        cgroup: u64,
        program: u32,
        replaced: Option<Anchor>,
    ) -> Result<Attached, RuleError> {
        self.attach_with(cgroup, program, Mode::Multi, |r| r.replace = replaced)
    }

    fn detach(&mut self, cgroup: u64, what: Option<Anchor>) -> Result<Attachment, RuleError> {
        self.guarded(|lists, _| lists.detach(cg(cgroup), what, None))
    }

    fn update(
        &mut self,
        attachment: u32,
        new: u32,
        expected: Option<u32>,
    ) -> Result<Updated, RuleError> {
        self.guarded(|lists, _| lists.update(id(attachment), prog(new), expected.map(prog)))
    }

    /// The programs on the cgroup's own list, in its order.
    #[track_caller]
    fn assert_own(&self, cgroup: u64, programs: &[u32]) {
        let own = self.lists.own(cg(cgroup));
        let own: Vec<_> = own
            .iter()
            .flat_map(|list| list.attachments.iter().map(|a| a.program))
            .collect();
        let expected: Vec<_> = programs.iter().copied().map(prog).collect();
        assert_eq!(own, expected, "list of cgroup {cgroup}");
    }

    /// The programs that run for the cgroup, in their order.
    #[track_caller]
    fn assert_runs(&self, cgroup: u64, programs: &[u32]) {
        let runs: Vec<_> = self
            .lists
            .effective(&self.tree, cg(cgroup))
            .iter()
            .map(|e| e.attachment.program)
            .collect();
        let expected: Vec<_> = programs.iter().copied().map(prog).collect();
        assert_eq!(runs, expected, "what runs for cgroup {cgroup}");
    }

    fn mode(&self, cgroup: u64) -> Option<Mode> {
        self.lists.own(cg(cgroup)).map(|list| list.mode)
    }

    fn revision(&self, cgroup: u64) -> u64 {
        self.lists.revision(cg(cgroup))
    }
}

/// Asserts that a rule refused, which one, and with which errno.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, RuleError>, rule: &str, errno: Errno) {
    let error = result.expect_err("should be refused");
    assert_eq!((error.rule(), error.errno()), (rule, errno), "{error}");
}
