//! The rules once more, plainly: one heap of everything that is attached, searched anew for
//! every question. Slow, and written from the text of the rules, not from the code.

use std::collections::HashMap;

use super::*;
use crate::attach::{EffectiveEntry, MAX_ATTACHMENTS};

/// What a rule says: its number and the errno, if it refuses.
pub(super) type Verdict<T> = Result<T, (&'static str, Errno)>;

/// One hook.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    /// Of one cgroup's entries the order is the list's; between cgroups it means nothing.
    entries: Vec<(CgroupId, Attachment)>,
    modes: HashMap<CgroupId, Mode>,
    revisions: HashMap<CgroupId, u64>,
}

fn refuse<T>(rule: &'static str, errno: Errno) -> Verdict<T> {
    Err((rule, errno))
}

fn is(anchor: Anchor, attachment: &Attachment) -> bool {
    anchor == Anchor::Id(attachment.id) || anchor == Anchor::Program(attachment.program)
}

impl Model {
    pub(super) fn own(&self, cgroup: CgroupId) -> Vec<Attachment> {
        self.entries
            .iter()
            .filter(|(at, _)| *at == cgroup)
            .map(|(_, attachment)| *attachment)
            .collect()
    }

    pub(super) fn mode(&self, cgroup: CgroupId) -> Option<Mode> {
        self.modes.get(&cgroup).copied()
    }

    pub(super) fn revision(&self, cgroup: CgroupId) -> u64 {
        self.revisions.get(&cgroup).copied().unwrap_or(1)
    }

    fn changed(&mut self, cgroup: CgroupId) {
        let next = self.revision(cgroup) + 1;
        self.revisions.insert(cgroup, next);
        if self.own(cgroup).is_empty() {
            self.modes.remove(&cgroup);
        }
    }

    /// Where in the heap the first entry of the cgroup is that the anchor names.
    fn seek(&self, cgroup: CgroupId, anchor: Anchor) -> Option<usize> {
        (0..self.entries.len())
            .find(|&i| self.entries[i].0 == cgroup && is(anchor, &self.entries[i].1))
    }

    fn path(tree: &Tree, cgroup: CgroupId) -> Vec<CgroupId> {
        let mut path = vec![cgroup];
        while let Some(parent) = tree.0.get(&path[path.len() - 1]) {
            path.push(*parent);
        }
        path
    }

    pub(super) fn attach(&mut self, tree: &Tree, r: &AttachRequest) -> Verdict<Option<Attachment>> {
        let own = self.own(r.cgroup);
        let (before, after, relative) = match r.place {
            Place::Append => (false, false, None),
            Place::Before(relative) => (true, false, relative),
            Place::After(relative) => (false, true, relative),
            Place::BeforeAndAfter(relative) => (true, true, relative),
            Place::Beside(relative) => (false, false, Some(relative)),
        };
        let new = Attachment {
            id: r.id,
            program: r.program,
            preorder: r.preorder,
            cookie: r.cookie,
        };

        if r.replace.is_some() && r.mode != Mode::Multi {
            return refuse("S2", Errno::EINVAL);
        }
        if r.replace.is_some() && (before || after) {
            return refuse("S17", Errno::EINVAL);
        }
        if r.expect_revision.is_some() && r.expect_revision != Some(self.revision(r.cgroup)) {
            return refuse("S18", Errno::ESTALE);
        }
        for ancestor in &Self::path(tree, r.cgroup)[1..] {
            match self.mode(*ancestor) {
                Some(Mode::Multi | Mode::Override) => break,
                Some(Mode::None) => return refuse("S4", Errno::EPERM),
                None => {}
            }
        }
        if self.entries.iter().any(|(_, a)| a.id == r.id) {
            return refuse("S6", Errno::EINVAL);
        }
        if !own.is_empty() && self.mode(r.cgroup) != Some(r.mode) {
            return refuse("S3", Errno::EPERM);
        }
        if own.len() == MAX_ATTACHMENTS {
            return refuse("S7", Errno::E2BIG);
        }

        let mut takes_place_of = None;
        if r.mode == Mode::Multi {
            let victim = r.replace.map(|anchor| self.seek(r.cgroup, anchor));
            let victims_program = victim.flatten().map(|i| self.entries[i].1.program);
            if own.iter().any(|a| a.program == r.program) && victims_program != Some(r.program) {
                return refuse("S6", Errno::EINVAL);
            }
            if victim == Some(None) {
                return refuse("S9", Errno::ENOENT);
            }
            takes_place_of = victim.flatten();
        } else if !own.is_empty() {
            takes_place_of = self.seek(r.cgroup, Anchor::Id(own[0].id));
        }

        if let Some(i) = takes_place_of {
            let old = std::mem::replace(&mut self.entries[i].1, new);
            self.changed(r.cgroup);
            return Ok(Some(old));
        }

        if relative.is_some() && before == after {
            return refuse("S17", Errno::EINVAL);
        }
        if before && after && !own.is_empty() {
            return refuse("S17", Errno::EINVAL);
        }
        let mut index = if before { 0 } else { self.entries.len() };
        if let Some(relative) = relative {
            let Some(i) = self.seek(r.cgroup, relative) else {
                return refuse("S17", Errno::ENOENT);
            };
            if self.entries[i].1.preorder != r.preorder {
                return refuse("S17", Errno::EINVAL);
            }
            index = if before { i } else { i + 1 };
        }
        self.entries.insert(index, (r.cgroup, new));
        self.modes.insert(r.cgroup, r.mode);
        self.changed(r.cgroup);
        Ok(None)
    }

    pub(super) fn detach(
        &mut self,
        cgroup: CgroupId,
        what: Option<Anchor>,
        expect_revision: Option<u64>,
    ) -> Verdict<Attachment> {
        let own = self.own(cgroup);
        if expect_revision.is_some() && expect_revision != Some(self.revision(cgroup)) {
            return refuse("S18", Errno::ESTALE);
        }
        if own.is_empty() {
            return refuse("S8", Errno::ENOENT);
        }
        let several = self.mode(cgroup) == Some(Mode::Multi);
        if several && what.is_none() {
            return refuse("S8", Errno::EINVAL);
        }
        // The only one need not be named, and no wrong program is noticed.
        let what = match what {
            Some(Anchor::Id(id)) => Anchor::Id(id),
            Some(Anchor::Program(program)) if several => Anchor::Program(program),
            _ => Anchor::Id(own[0].id),
        };
        let Some(i) = self.seek(cgroup, what) else {
            return refuse("S8", Errno::ENOENT);
        };
        let (_, gone) = self.entries.remove(i);
        self.changed(cgroup);
        Ok(gone)
    }

    pub(super) fn update(
        &mut self,
        id: AttachmentId,
        new: ProgramId,
        expected: Option<ProgramId>,
    ) -> Verdict<ProgramId> {
        let Some(i) = self.entries.iter().position(|(_, a)| a.id == id) else {
            return refuse("S20", Errno::ENOLINK);
        };
        let (cgroup, old) = (self.entries[i].0, self.entries[i].1.program);
        if expected.is_some() && expected != Some(old) {
            return refuse("S20", Errno::EPERM);
        }
        self.entries[i].1.program = new;
        self.changed(cgroup);
        Ok(old)
    }

    pub(super) fn remove_cgroup(&mut self, cgroup: CgroupId) -> Vec<Attachment> {
        let gone = self.own(cgroup);
        self.entries.retain(|(at, _)| *at != cgroup);
        self.modes.remove(&cgroup);
        self.revisions.remove(&cgroup);
        gone
    }

    /// S11 says which; S12 is the order of a sort.
    pub(super) fn effective(&self, tree: &Tree, cgroup: CgroupId) -> Vec<EffectiveEntry> {
        let path = Self::path(tree, cgroup);
        let nearest = path.iter().find(|level| !self.own(**level).is_empty());
        let mut sorted = Vec::new();
        for (distance, level) in path.iter().enumerate() {
            if Some(level) != nearest && self.mode(*level) != Some(Mode::Multi) {
                continue;
            }
            for (index, attachment) in self.own(*level).into_iter().enumerate() {
                let distance = distance as i64;
                let key = match attachment.preorder {
                    true => (0, -distance, index),
                    false => (1, distance, index),
                };
                let cgroup = *level;
                sorted.push((key, EffectiveEntry { cgroup, attachment }));
            }
        }
        sorted.sort_by_key(|(key, _)| *key);
        sorted.into_iter().map(|(_, entry)| entry).collect()
    }
}
