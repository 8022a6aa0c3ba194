//! What is attached where.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cgtap_sys::Errno;
use cgtap_sys::bpf::{Prog, get_link, get_map, map_type_name};

use super::error::{Error, ErrorKind, Result};
use super::report::{
    AttachmentReport, InstanceReport, ListReport, MapReport, StorageMap, StorageReport,
    TreeAttachment, TreeHook, TreeReport,
};
use super::request::{CgroupRef, ListRequest};
use super::session::{Session, counter};
use super::{Engine, Lock};
use crate::attach::{self, Answer, Array, EffectiveEntry, Mode};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::hook::HookSpec;
use crate::id::{AttachmentId, CgroupId, InstanceId};
use crate::kernel::place;
use crate::store::config::{Config, HookId, HookRecord};
use crate::store::pins;

/// The recorded hierarchy, and the way up from one cgroup that is not recorded.
struct WayUp<'a> {
    config: &'a Config,
    chain: BTreeMap<CgroupId, CgroupId>,
}

impl<'a> WayUp<'a> {
    fn new(config: &'a Config, from: &Cgroup) -> Self {
        let mut chain = BTreeMap::new();
        let mut below = from.id;
        for above in &from.ancestors {
            chain.insert(below, *above);
            below = *above;
        }
        Self { config, chain }
    }
}

impl attach::Hierarchy for WayUp<'_> {
    fn parent(&self, cgroup: CgroupId) -> Option<CgroupId> {
        self.chain
            .get(&cgroup)
            .copied()
            .or_else(|| self.config.cgroups.parent(cgroup))
    }
}

/// What was counted and lost at a hook.
#[derive(Debug, Default)]
pub(super) struct Counts {
    runs: HashMap<AttachmentId, u64>,
    pub(super) recursion_misses: u64,
    pub(super) lost: u64,
    unowned: u64,
    notes_lost: u64,
}

impl Counts {
    /// Reads the counters of a hook.
    pub(super) fn read(session: &Session, id: HookId, hook: &HookRecord) -> Result<Self> {
        let mut counts = Self::default();
        if !hook.is_active() {
            return Ok(counts);
        }
        counts
            .runs
            .extend(hook.counted.iter().map(|(id, n)| (*id, *n)));
        for set in hook.all_sets() {
            let runs = counter(&session.path(&pins::set_counter(id, set.serial)))?;
            for member in &set.members {
                *counts.runs.entry(member.attachment).or_default() += runs;
            }
        }
        let switch = session.switch(id)?;
        counts.lost = switch.lost();
        counts.unowned = switch.unowned();
        counts.notes_lost = switch.notes_lost();
        counts.recursion_misses = dispatcher_misses(session, id, hook)?;
        if hook.scope.owner().is_some() {
            counts.notes_lost += misses(session, hook, &pins::hook(id, pins::NOTER))?;
        }
        Ok(counts)
    }

    /// Runs of an attachment.
    pub(super) fn of(&self, id: AttachmentId) -> u64 {
        self.runs.get(&id).copied().unwrap_or_default()
    }
}

/// Events for which the kernel did not run the program behind a link.
fn misses(session: &Session, hook: &HookRecord, link: &str) -> Result<u64> {
    let ask = || {
        let link = get_link(&session.path(link))?.info()?;
        let prog = Prog::from_id(link.prog_id)?;
        Ok(prog.info()?.recursion_misses + link.missed)
    };
    ask().map_err(|e| Error::sys(format!("look at the dispatcher of {}", hook.spec), &e))
}

fn dispatcher_misses(session: &Session, id: HookId, hook: &HookRecord) -> Result<u64> {
    // One program stands behind all links.
    let first = pins::hook_link(id, hook.links().first().copied().unwrap_or(0));
    misses(session, hook, &first)
}

/// Events for which the kernel ran no dispatcher, at each of these hooks.
pub(super) fn missed_at<'s>(
    session: &'s Session,
    hooks: &BTreeSet<&HookSpec>,
) -> Result<BTreeMap<&'s HookSpec, u64>> {
    let records = session.config.hooks.iter();
    records
        .filter(|(_, hook)| hooks.contains(&hook.spec))
        .map(|(id, hook)| Ok((&hook.spec, dispatcher_misses(session, *id, hook)?)))
        .collect()
}

/// Events that ran no program, or not all, at the hooks that are meant.
pub(super) fn lost_at(session: &Session, is_meant: impl Fn(&HookRecord) -> bool) -> Result<u64> {
    let lost = lost_by_hook(session, is_meant)?;
    Ok(lost.into_iter().map(|(_, lost)| lost).sum())
}

/// The same of each hook that is meant.
pub(super) fn lost_by_hook(
    session: &Session,
    is_meant: impl Fn(&HookRecord) -> bool,
) -> Result<Vec<(HookId, u64)>> {
    let meant = session.config.hooks.iter().filter(|(_, h)| is_meant(h));
    meant
        .map(|(id, hook)| {
            let counts = Counts::read(session, *id, hook)?;
            Ok((*id, counts.lost + counts.recursion_misses))
        })
        .collect()
}

fn entry(config: &Config, entry: &EffectiveEntry, counts: &Counts) -> AttachmentReport {
    let attachment = entry.attachment;
    AttachmentReport {
        id: attachment.id,
        program: config.program_name(attachment.program),
        instance: attachment.program.instance,
        cgroup: config.path(entry.cgroup),
        preorder: attachment.preorder,
        cookie: attachment.cookie,
        run_count: counts.of(attachment.id),
        owner_pid: config.owners.get(&attachment.id).map(|o| o.pid),
    }
}

impl Engine {
    fn read(&self) -> Result<(Option<Session>, Option<Hierarchy>)> {
        let session = Session::open(self.state(), Lock::Shared, self.hierarchy()?)?;
        let spare = if session.is_none() {
            Some(self.hierarchy()?)
        } else {
            None
        };
        Ok((session, spare))
    }

    /// The lists, or the effective arrays, in the order in which they run.
    ///
    /// # Errors
    /// [`Error`]: a cgroup that is not there, a state that cannot be read.
    pub fn list(&self, request: &ListRequest) -> Result<Vec<ListReport>> {
        let (session, spare) = self.read()?;
        let Some(session) = session else {
            // Nothing is attached, but what is asked for is still looked at.
            if let (Some(reference), Some(hierarchy)) = (&request.cgroup, spare) {
                super::find_cgroup(&hierarchy, reference)?;
            }
            return Ok(Vec::new());
        };
        let config = &session.config;
        let cgroups = which(&session, request)?;
        let filter = request.hook.clone().map(|h| h.map(place::one_name));
        let mut reports = Vec::new();
        for (id, hook) in &config.hooks {
            if filter.as_ref().is_some_and(|h| !h.matches(&hook.spec)) || !hook.is_active() {
                continue;
            }
            let counts = Counts::read(&session, *id, hook)?;
            for cgroup in &cgroups {
                let own = hook.lists.own(cgroup.id);
                let entries = if request.effective {
                    config.effective(hook, &WayUp::new(config, cgroup), cgroup.id)
                } else {
                    let own = own.map(|l| l.in_run_order().copied().collect::<Vec<_>>());
                    own.unwrap_or_default()
                        .into_iter()
                        .map(|attachment| EffectiveEntry {
                            cgroup: cgroup.id,
                            attachment,
                        })
                        .collect()
                };
                if entries.is_empty() {
                    continue;
                }
                reports.push(ListReport {
                    cgroup: cgroup.path.clone(),
                    cgroup_id: cgroup.id,
                    hook: hook.spec.clone(),
                    files: hook.files(),
                    mode: own.map_or(Mode::None, |l| l.mode),
                    revision: hook.lists.revision(cgroup.id),
                    effective: request.effective,
                    attachments: entries.iter().map(|e| entry(config, e, &counts)).collect(),
                    recursion_misses: counts.recursion_misses,
                    lost: counts.lost,
                    unowned: counts.unowned,
                    notes_lost: counts.notes_lost,
                });
            }
        }
        reports.sort_by(|a, b| (&a.cgroup, &a.hook).cmp(&(&b.cgroup, &b.hook)));
        Ok(reports)
    }

    /// One list or effective array, with room for `room` attachments: a buffer too short is
    /// filled as far as it goes, and [`Answer::complete`] says ENOSPC (S22).
    ///
    /// # Errors
    /// [`Error`]: a cgroup that is not there, a state that cannot be read.
    pub fn query(
        &self,
        cgroup: &CgroupRef,
        hook: &HookSpec,
        array: Array,
        room: usize,
    ) -> Result<Answer> {
        let (session, spare) = self.read()?;
        let empty = attach::Lists::new();
        if let Some(session) = &session {
            let cgroup = super::find_cgroup(&session.hierarchy, cgroup)?;
            let config = &session.config;
            let way = WayUp::new(config, &cgroup);
            return Ok(match (config.hook(&place::one_name(hook)), array) {
                (Some((_, hook)), Array::Effective) => {
                    Answer::effective(config.effective(hook, &way, cgroup.id), room)
                }
                (found, _) => {
                    let lists = found.map_or(&empty, |(_, h)| &h.lists);
                    lists.query(&way, cgroup.id, array, room)
                }
            });
        }
        let hierarchy = spare.ok_or_else(|| Error::new(ErrorKind::State, "no hierarchy"))?;
        let cgroup = super::find_cgroup(&hierarchy, cgroup)?;
        Ok(empty.query(&BTreeMap::new(), cgroup.id, array, room))
    }

    /// The cgroup tree below `root` with what is effective at each cgroup.
    ///
    /// # Errors
    /// [`Error`]: a cgroup that is not there, a state that cannot be read.
    pub fn tree(&self, root: Option<&CgroupRef>) -> Result<TreeReport> {
        let (session, spare) = self.read()?;
        let all = CgroupRef::Path("/".into());
        let root = root.unwrap_or(&all);
        let mut counts = BTreeMap::new();
        if let Some(session) = &session {
            for (id, hook) in session.config.hooks.iter().filter(|(_, h)| h.is_active()) {
                counts.insert(*id, Counts::read(session, *id, hook)?);
            }
        }
        let hierarchy = match (&session, &spare) {
            (Some(session), _) => &session.hierarchy,
            (None, Some(spare)) => spare,
            (None, None) => return Err(Error::new(ErrorKind::State, "no hierarchy")),
        };
        let root = super::find_cgroup(hierarchy, root)?;
        Ok(branch(
            hierarchy,
            session.as_ref().map(|s| &s.config),
            &counts,
            root,
        ))
    }

    /// The loaded objects and where their maps are pinned.
    ///
    /// # Errors
    /// [`Error`]: ENOENT for an instance that is not there.
    pub fn maps(&self, instance: Option<InstanceId>) -> Result<Vec<InstanceReport>> {
        let missing = |id: InstanceId| {
            Error::new(ErrorKind::NotFound, format!("there is no instance {id}"))
                .with_errno(Errno::ENOENT)
        };
        let Some(session) = self.read()?.0 else {
            return instance.map_or(Ok(Vec::new()), |id| Err(missing(id)));
        };
        let all = &session.config.instances;
        if let Some(id) = instance.filter(|id| !all.contains_key(id)) {
            return Err(missing(id));
        }
        Ok(all
            .iter()
            .filter(|(id, _)| instance.is_none_or(|i| i == **id))
            .map(|(id, record)| InstanceReport {
                id: *id,
                object: record.object.clone(),
                programs: record.programs.iter().map(|p| p.name.clone()).collect(),
                maps: record
                    .maps
                    .iter()
                    .map(|map| MapReport {
                        name: map.name.clone(),
                        map_type: map_type_name(map.map_type),
                        pin: map
                            .pin
                            .as_ref()
                            .map(|pin| session.path(&pins::map(*id, pin))),
                    })
                    .collect(),
            })
            .collect())
    }

    /// The cgroup storage of an attachment (S23-S27).
    ///
    /// # Errors
    /// [`Error`]: ENOENT for an attachment that is not there.
    pub fn storage(&self, attachment: AttachmentId) -> Result<StorageReport> {
        let mut maps = Vec::new();
        self.each_storage(attachment, |name, per_cpu, size, map| {
            let value = map
                .lookup(&0u32.to_ne_bytes())
                .map_err(|e| Error::sys(format!("read storage {name}"), &e))?
                .unwrap_or_default();
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let size = size as usize;
            maps.push(StorageMap {
                name: name.to_owned(),
                value_hex: (!per_cpu).then(|| hex(&value[..size.min(value.len())])),
                values_hex: per_cpu.then(|| {
                    let step = size.next_multiple_of(8).max(8);
                    value.chunks_exact(step).map(|c| hex(&c[..size])).collect()
                }),
            });
            Ok(())
        })?;
        Ok(StorageReport { attachment, maps })
    }

    /// Writes the cgroup storage `map` of an attachment (S26). A per-CPU value is written to
    /// every CPU.
    ///
    /// # Errors
    /// [`Error`]: ENOENT for an attachment or map that is not there, EINVAL for a value of
    /// another size.
    pub fn set_storage(&self, attachment: AttachmentId, map: &str, value: &[u8]) -> Result<()> {
        let mut found = false;
        self.each_storage(attachment, |name, per_cpu, size, storage| {
            if name != map {
                return Ok(());
            }
            found = true;
            if value.len() != size as usize {
                return Err(Error::new(
                    ErrorKind::Kernel,
                    format!("a value of {name} has {size} bytes, not {}", value.len()),
                )
                .with_errno(Errno::EINVAL));
            }
            let mut one = value.to_vec();
            let whole = storage.value_size();
            let bytes = if per_cpu {
                one.resize(one.len().next_multiple_of(8), 0);
                one.repeat(whole / one.len().max(1))
            } else {
                one.resize(whole, 0);
                one
            };
            storage
                .update(&0u32.to_ne_bytes(), &bytes)
                .map_err(|e| Error::sys(format!("write storage {name}"), &e))
        })?;
        if found {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("attachment {attachment} has no storage map {map}"),
        )
        .with_errno(Errno::ENOENT))
    }

    fn each_storage(
        &self,
        attachment: AttachmentId,
        mut f: impl FnMut(&str, bool, u32, &cgtap_sys::bpf::Map) -> Result<()>,
    ) -> Result<()> {
        let missing = || {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no attachment {attachment}"),
            )
            .with_errno(Errno::ENOENT)
        };
        let session = self.read()?.0.ok_or_else(missing)?;
        let config = &session.config;
        let (hook, cgroup, found) = config.find(attachment).ok_or_else(missing)?;
        let member = config.member(cgroup, found);
        let maps = config
            .instances
            .get(&found.program.instance)
            .map_or(&[][..], |i| &i.maps);
        for (at, map) in maps.iter().enumerate() {
            let Some(kind) = map.storage else { continue };
            let path = session.path(&pins::storage(&member, at, kind.per_hook.then_some(hook)));
            let storage =
                get_map(&path).map_err(|e| Error::sys(format!("open {}", path.display()), &e))?;
            f(&map.name, kind.per_cpu, kind.value_size, &storage)?;
        }
        Ok(())
    }
}

/// The cgroups that a request is about.
fn which(session: &Session, request: &ListRequest) -> Result<Vec<Cgroup>> {
    let hierarchy = &session.hierarchy;
    let Some(reference) = &request.cgroup else {
        let mut known: Vec<CgroupId> = session
            .config
            .hooks
            .values()
            .flat_map(|h| h.lists.configured().collect::<Vec<_>>())
            .collect();
        known.sort_unstable();
        known.dedup();
        return Ok(known
            .into_iter()
            .filter_map(|id| hierarchy.by_id(id).ok())
            .collect());
    };
    let top = super::find_cgroup(hierarchy, reference)?;
    if !request.recursive {
        return Ok(vec![top]);
    }
    let mut found = Vec::new();
    let mut open = vec![top];
    while let Some(next) = open.pop() {
        open.extend(hierarchy.children(&next.path));
        found.push(next);
    }
    Ok(found)
}

fn branch(
    hierarchy: &Hierarchy,
    config: Option<&Config>,
    counts: &BTreeMap<HookId, Counts>,
    cgroup: Cgroup,
) -> TreeReport {
    let mut hooks = Vec::new();
    if let Some(config) = config {
        for (id, counts) in counts {
            let Some(hook) = config.hooks.get(id) else {
                continue;
            };
            let entries = config.effective(hook, &WayUp::new(config, &cgroup), cgroup.id);
            if entries.is_empty() {
                continue;
            }
            let attachments = entries.iter().map(|e| TreeAttachment {
                id: e.attachment.id,
                program: config.program_name(e.attachment.program),
                from: config.path(e.cgroup),
                inherited: e.cgroup != cgroup.id,
                run_count: counts.of(e.attachment.id),
            });
            hooks.push(TreeHook {
                hook: hook.spec.clone(),
                attachments: attachments.collect(),
            });
        }
    }
    hooks.sort_by(|a, b| a.hook.cmp(&b.hook));
    let children = hierarchy
        .children(&cgroup.path)
        .into_iter()
        .map(|child| branch(hierarchy, config, counts, child))
        .collect();
    TreeReport {
        cgroup: cgroup.path,
        cgroup_id: cgroup.id,
        hooks,
        children,
    }
}
