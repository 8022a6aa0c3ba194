//! Looking a state over, and making anew what it lacks.
//!
//! What a dead process left half done every command mends by itself. Here it is about more: pins
//! that somebody removed, or put there.

use std::collections::BTreeSet;
use std::path::Path;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Prog, get_link, get_map, get_prog, grace_period};

use super::error::{Error, Result};
use super::feed::say_unread;
use super::follow::replaced;
use super::foundation;
use super::session::{self, Session, counter, desired};
use crate::attach::Anchor;
use crate::cgroup::Hierarchy;
use crate::id::InstanceId;
use crate::kernel::cpu;
use crate::kernel::place::Place;
use crate::object::image::ObjectImage;
use crate::store::blob;
use crate::store::config::{Config, HookId, HookRecord};
use crate::store::dir::{Lock, StateDir};
use crate::store::pins;

/// What is wrong with a state that has a record.
#[derive(Debug, Default)]
struct Damage {
    words: Vec<String>,
    /// Something that it stands on is missing.
    foundation: bool,
    /// Hooks of which something is missing.
    hooks: BTreeSet<HookId>,
    /// Instances whose programs cannot be loaded any more.
    instances: BTreeSet<InstanceId>,
}

/// What is wrong with the state, in words.
pub(super) fn examine(path: &Path, hierarchy: Hierarchy) -> Result<Vec<String>> {
    let Some(dir) = StateDir::open(path, Lock::Shared)? else {
        return Ok(Vec::new());
    };
    let Some(config) = session::read_config(&dir)? else {
        return Ok(if dir.walk()?.is_empty() {
            Vec::new()
        } else {
            vec!["the state has no record: its maker died; the next command removes it".to_owned()]
        });
    };
    let mut damage = Damage::of_pins(&dir, &config)?;
    if !damage.foundation {
        let session = Session::attach_maps(dir, config, hierarchy)?;
        damage.look_inside(&session);
        damage
            .words
            .extend(replaced(&session).map(|(_, hook, last)| {
                format!(
                    "another file is at {} than {} stands in: who was started since is not seen; \
                 `cgtap usage` or any attach puts it there, and says why if it cannot stand there",
                    last.path, hook.spec
                )
            }));
    }
    Ok(damage.words)
}

/// Mends the state.
pub(super) fn repair(path: &Path, hierarchy: Hierarchy) -> Result<Vec<String>> {
    let Some(dir) = StateDir::open(path, Lock::Exclusive)? else {
        return Ok(Vec::new());
    };
    let Some(mut config) = session::read_config(&dir)? else {
        let gone = session::remove_half(dir)?;
        return Ok(gone.iter().map(|name| format!("removed {name}")).collect());
    };
    let mut done = Vec::new();
    let mut damage = Damage::of_pins(&dir, &config)?;
    if damage.foundation {
        config = foundation::lay_again(&dir, config)?;
        done.push("made the maps and the programs that watch anew".to_owned());
    }
    for name in [pins::HOOKS, pins::INSTANCES] {
        dir.make_dir(name)?;
    }
    let mut session = Session::attach_maps(dir, config, hierarchy)?;
    damage.look_inside(&session);
    if !damage.hooks.is_empty() {
        done.extend(session.rebuild(&damage)?);
    }
    done.extend(session.repair()?);
    let moved = |session: &Session| -> Vec<HookId> { replaced(session).map(|r| r.0).collect() };
    let before = moved(&session);
    say_unread(&session.follow_paths());
    let left = moved(&session);
    for id in before.iter().filter(|id| !left.contains(id)) {
        if let Some(record) = session.config.hooks.get(id) {
            done.push(format!(
                "put {} into the file that is there now",
                record.spec
            ));
        }
    }
    if done.is_empty() && !damage.words.is_empty() {
        done.push("made what is in force agree with the record".to_owned());
    }
    Ok(done)
}

impl Damage {
    /// Compares what is pinned with what the record accounts for.
    fn of_pins(dir: &StateDir, config: &Config) -> Result<Self> {
        let mut damage = Self::default();
        let found: BTreeSet<String> = dir.walk()?.into_iter().map(|(name, _)| name).collect();
        let expected = pins::expected(config);
        for name in found.difference(&expected) {
            damage.words.push(format!("{name} belongs to nothing"));
        }
        for name in &expected {
            let path = dir.join(name);
            let why = match is_sound(name, &path) {
                Ok(()) => continue,
                Err(why) => why,
            };
            damage.words.push(format!("{name} {why}"));
            damage.note(name, config);
        }
        if damage.foundation {
            // Members read their gates where the state had them.
            let held = |h: &HookRecord| {
                h.lists
                    .attachments()
                    .any(|(_, a)| config.owners.contains_key(&a.id))
            };
            let hooks = config.hooks.iter().filter(|(_, h)| held(h));
            damage.hooks.extend(hooks.map(|(id, _)| *id));
        }
        Ok(damage)
    }

    /// Notes what the loss of a pin means.
    fn note(&mut self, name: &str, config: &Config) {
        let mut parts = name.split('/');
        let (top, number) = (parts.next(), parts.next().and_then(|n| n.parse().ok()));
        match (top, number, parts.next()) {
            (Some(pins::HOOKS), Some(id), _) => {
                self.hooks.insert(HookId(id));
            }
            (Some(pins::INSTANCES), Some(id), Some("storage")) => {
                let uses = |h: &HookRecord| {
                    h.lists
                        .attachments()
                        .any(|(_, a)| a.program.instance.0 == id)
                };
                let hooks = config.hooks.iter().filter(|(_, h)| uses(h));
                self.hooks.extend(hooks.map(|(id, _)| *id));
            }
            (Some(pins::INSTANCES), Some(id), _) => {
                self.instances.insert(InstanceId(id));
            }
            (Some(pins::HOOKS | pins::INSTANCES | pins::CONFIG), None, _) => {}
            _ => self.foundation = true,
        }
    }

    /// Compares what is in the maps with what the record says.
    fn look_inside(&mut self, session: &Session) {
        if session.is_interrupted() {
            let words = "a change was under way when its process died; the next command mends it";
            self.words.push(words.to_owned());
        }
        if session.is_watch_wrong() {
            self.words
                .push("other cgroups are watched than are recorded".to_owned());
        }
        let hooks = session.config.hooks.iter();
        for (id, record) in hooks.filter(|(_, h)| h.is_active()) {
            if self.hooks.contains(id) {
                continue;
            }
            if let Err(e) = self.look_at_hook(session, *id, record) {
                self.words.push(e.to_string());
                self.hooks.insert(*id);
            }
        }
        for id in session.config.instances.keys() {
            let path = session.path(&pins::image(*id));
            match blob::read::<ObjectImage>(&path) {
                Ok(Some(_)) => {}
                Ok(None) => drop(self.instances.insert(*id)),
                Err(e) => {
                    self.words
                        .push(format!("{} cannot be read: {e}", pins::image(*id)));
                    self.instances.insert(*id);
                }
            }
        }
        for id in &self.instances {
            self.words.push(format!(
                "instance {id} is damaged: what it has attached runs on, but cannot be built into \
                 anything new; `cgtap detach --instance {id}` and attach it again"
            ));
        }
    }

    fn look_at_hook(&mut self, session: &Session, id: HookId, record: &HookRecord) -> Result<()> {
        let sys = |e: SysError| Error::sys(format!("look at hook {}", record.spec), &e);
        let switch = session.switch(id)?;
        for name in pins::all_links(id, record) {
            let link = get_link(&session.path(&name)).map_err(sys)?;
            Prog::from_id(link.info().map_err(sys)?.prog_id).map_err(sys)?;
        }
        let occupied = switch.occupied().map_err(sys)?;
        let recorded: BTreeSet<u16> = record
            .all_sets()
            .flat_map(|s| s.indices.iter().copied())
            .collect();
        for place in recorded.difference(&occupied) {
            self.words.push(format!(
                "a set of {} is not in its place {place}",
                record.spec
            ));
            self.hooks.insert(id);
        }
        // One that went offline and came again is as one that never came, and is not to be told from it.
        let online = cpu::online().unwrap_or_default();
        if !record.target.cpus.is_empty() && record.target.cpus != online {
            self.words.push(format!(
                "{} samples on CPUs {:?}, and {online:?} are online",
                record.spec, record.target.cpus
            ));
            self.hooks.insert(id);
        }
        for place in occupied.difference(&recorded) {
            self.words.push(format!(
                "place {place} of {} holds what no set owns",
                record.spec
            ));
        }
        if switch.in_force().map_err(sys)? != desired(record) {
            self.words.push(format!(
                "other sets of {} are in force than are recorded",
                record.spec
            ));
        }
        Ok(())
    }
}

/// What is pinned there is there, and of the kind it should be.
fn is_sound(name: &str, path: &Path) -> std::result::Result<(), String> {
    if pins::is_dir(name) {
        return match path.is_dir() {
            true => Ok(()),
            false => Err("is missing".to_owned()),
        };
    }
    let is_link = matches!(name, pins::REAPER | pins::UNDERTAKER) || pins::is_hook_link(name);
    let opened = if is_link {
        get_link(path).map(drop)
    } else {
        get_map(path).map(drop)
    };
    match opened {
        Ok(()) => Ok(()),
        Err(_) if !path.exists() => Err("is missing".to_owned()),
        Err(_) if get_prog(path).is_ok() || get_map(path).is_ok() || get_link(path).is_ok() => {
            Err("is something else than it should be".to_owned())
        }
        Err(e) => Err(format!("cannot be opened: {e}")),
    }
}

/// Looks for the places of a hook in files, and its CPUs, again: those may be others by now, or gone.
fn stand_anew(record: &mut HookRecord) {
    let (spec, places) = (&record.spec, &record.target.places);
    let mut again: Vec<Place> = Vec::new();
    for place in places {
        let found = match place.is_there() {
            true => Some(place.clone()),
            false => place.find_again(spec, place.number).ok(),
        };
        // Once in each, or each call is counted twice.
        let is_new = |found: &Place| again.iter().all(|other| other.file != found.file);
        again.extend(found.filter(is_new));
    }
    if !record.target.cpus.is_empty()
        && let Ok(online) = cpu::online()
    {
        record.target.cpus = online;
    }
    // With none it is the kernel that says what is wrong.
    if !again.is_empty() {
        record.target.places = again;
    }
}

impl Session {
    /// Builds the damaged hooks anew from the images; counts are taken over as far as they can be
    /// read. Between the old dispatcher and the new one nothing runs there.
    fn rebuild(&mut self, damage: &Damage) -> Result<Vec<String>> {
        let mut done = Vec::new();
        self.change(|session| {
            for id in &damage.hooks {
                let links = (session.config.hooks.get(id))
                    .map_or_else(Vec::new, |record| pins::all_links(*id, record));
                for name in links {
                    session.dir.unpin(&name)?;
                }
            }
            grace_period().map_err(|e| Error::sys("wait for running programs", &e))?;
            let mut next = session.config.clone();
            for id in &damage.hooks {
                let Some(record) = next.hooks.get_mut(id) else {
                    continue;
                };
                for set in record.all_sets().cloned().collect::<Vec<_>>() {
                    let path = session.path(&pins::set_counter(*id, set.serial));
                    let runs = counter(&path).unwrap_or_default();
                    for member in &set.members {
                        *record.counted.entry(member.attachment).or_default() += runs;
                    }
                }
                stand_anew(record);
                record.sets.clear();
                record.retired.clear();
                let lost: Vec<_> = record
                    .lists
                    .attachments()
                    .filter(|(_, a)| damage.instances.contains(&a.program.instance))
                    .map(|(cgroup, a)| (cgroup, a.id, a.program.instance))
                    .collect();
                for (cgroup, attachment, instance) in lost {
                    let what = Some(Anchor::Id(attachment));
                    if record.lists.detach(cgroup, what, None).is_ok() {
                        done.push(format!(
                            "attachment {attachment} is lost: its instance {instance} is damaged"
                        ));
                    }
                }
                done.push(format!("built the sets of {} anew", record.spec));
                let below = format!("{}/", pins::hook_dir(*id));
                for (name, is_dir) in session.dir.walk()? {
                    if name.starts_with(&below) && !is_dir {
                        session.dir.unpin(&name)?;
                    }
                }
                session.config.hooks.remove(id);
            }
            session.watch_again()?;
            session.apply(next)
        })?;
        Ok(done)
    }
}
