//! What stands at a hook: its dispatcher and, where its scope takes notes, the program that makes
//! them.

use std::os::fd::{AsFd, BorrowedFd};

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, Prog, ProgSpec, get_map, pin};

use super::error::{Error, ErrorKind, Result};
use super::session::Session;
use crate::asm::{EditError, Insn, encode};
use crate::dispatch::switch::Switch;
use crate::dispatch::{dispatcher, noter, turn};
use crate::kernel::anchor;
use crate::kernel::read::Access;
use crate::kernel::scope::{OwnerInfo, ScopeInfo};
use crate::kernel::target::{Target, TargetError};
use crate::store::config::{Config, HookId, HookRecord};
use crate::store::pins;

/// Programs of ours that are loaded and not yet attached.
#[derive(Debug)]
pub(super) struct Fresh {
    dispatcher: Prog,
    noter: Option<Prog>,
}

impl Session {
    /// Loads what is to stand at a hook; makes and pins the notes.
    pub(super) fn load_fresh(
        &self,
        next: &Config,
        id: HookId,
        hook: &HookRecord,
        switch: &Switch,
    ) -> Result<Fresh> {
        let sys = |e: SysError| Error::sys(format!("make hook {}", hook.spec), &e);
        let current = if next.current_table {
            Some(get_map(&self.path(pins::CURRENT)).map_err(sys)?)
        } else {
            None
        };
        let turns = match hook.turns {
            true => {
                let turns = turn::make().map_err(sys)?;
                pin(&turns, &self.path(&pins::hook(id, pins::TURNS))).map_err(sys)?;
                Some(turns)
            }
            false => None,
        };
        let first = turns.as_ref().unwrap_or(&switch.progs);
        let Some(owner) = hook.scope.owner() else {
            return Ok(Fresh {
                dispatcher: load_dispatcher(next, hook, (first, switch), None, current.as_ref())?,
                noter: None,
            });
        };
        let notes = noter::make_notes().map_err(sys)?;
        pin(&notes, &self.path(&pins::hook(id, pins::NOTES))).map_err(sys)?;
        let noter = load_noter(
            next,
            hook,
            owner,
            &[&notes, &switch.control],
            current.as_ref(),
        )?;
        Ok(Fresh {
            dispatcher: load_dispatcher(
                next,
                hook,
                (first, switch),
                Some(&notes),
                current.as_ref(),
            )?,
            noter: Some(noter),
        })
    }

    /// Attaches and pins a set that takes turns, behind the dispatcher.
    pub(super) fn attach_set(
        &self,
        id: HookId,
        hook: &HookRecord,
        set: u16,
        prog: &Prog,
    ) -> Result<()> {
        let sys = |e: SysError| Error::sys(format!("attach a set to {}", hook.spec), &e);
        let links = anchor::attach(prog, &hook.target()).map_err(|e| {
            let what = format!("cannot attach what is to run at {}", hook.spec);
            Error::target(&what, &e)
        })?;
        for link in &links {
            pin(link, &self.path(&pins::turn(id, set))).map_err(sys)?;
        }
        Ok(())
    }

    /// Attaches and pins what was loaded, the dispatcher last: with it the hook is live.
    pub(super) fn attach_fresh(&self, id: HookId, hook: &HookRecord, fresh: &Fresh) -> Result<()> {
        let sys = |e: SysError| Error::sys(format!("make hook {}", hook.spec), &e);
        let refused = |spec: &crate::hook::HookSpec, e: &TargetError| {
            Error::target(&format!("cannot attach to {spec}"), e)
        };
        if let (Some(noter), Some(target)) = (&fresh.noter, noter_target(hook)) {
            let links = anchor::attach(noter, &target).map_err(|e| refused(target.spec, &e))?;
            for link in &links {
                pin(link, &self.path(&pins::hook(id, pins::NOTER))).map_err(sys)?;
            }
        }
        let links = anchor::attach(&fresh.dispatcher, &hook.target())
            .map_err(|e| refused(&hook.spec, &e))?;
        for (link, number) in links.iter().zip(hook.links()) {
            pin(link, &self.path(&pins::hook_link(id, number))).map_err(sys)?;
        }
        Ok(())
    }
}

/// Where the notes of a hook are made.
fn noter_target(hook: &HookRecord) -> Option<Target<'_>> {
    match (hook.spec.scope(), &hook.scope) {
        (crate::hook::Scope::Owner(written), ScopeInfo::Owner(owner)) => Some(Target {
            spec: written.noted_at(),
            info: &owner.noted_at,
        }),
        _ => None,
    }
}

/// Loads the dispatcher; its first map, and the rest.
fn load_dispatcher(
    next: &Config,
    hook: &HookRecord,
    (first, switch): (&Map, &Switch),
    notes: Option<&Map>,
    current: Option<&Map>,
) -> Result<Prog> {
    let target = hook.target();
    let (ways, last) = match hook.scope {
        ScopeInfo::Current => (vec![Access::Typed], current),
        ScopeInfo::Path(_) => (Access::ways(&next.layout, hook.spec.kind()), None),
        ScopeInfo::Owner(_) => (Access::ways(&next.layout, hook.spec.kind()), notes),
    };
    let mut maps = vec![
        first.as_fd(),
        switch.cache.as_fd(),
        switch.control.as_fd(),
        switch.tables[0].as_fd(),
        switch.tables[1].as_fd(),
    ];
    maps.extend(last.iter().map(|map| map.as_fd()));
    let generate = |access| {
        dispatcher::generate(&dispatcher::Plan {
            layout: &next.layout,
            returns: target.returns(),
            has_func_ip: hook.spec.kind().info().has_func_ip,
            scope: &hook.scope,
            access,
            with_current_table: current.is_some(),
            decides: hook.turns,
        })
    };
    load_first("cgtap_dispatch", &target, &ways, generate, &maps)
}

fn load_noter(
    next: &Config,
    hook: &HookRecord,
    owner: &OwnerInfo,
    maps: &[&Map],
    current: Option<&Map>,
) -> Result<Prog> {
    let Some(target) = noter_target(hook) else {
        return Err(Error::new(
            ErrorKind::State,
            format!("the record does not say where {} takes notes", hook.spec),
        ));
    };
    let ways = Access::ways(&next.layout, target.spec.kind());
    let maps: Vec<_> = maps
        .iter()
        .copied()
        .chain(current)
        .map(AsFd::as_fd)
        .collect();
    let generate = |access| noter::generate(&next.layout, owner, access, current.is_some());
    load_first("cgtap_note", &target, &ways, generate, &maps)
}

/// Loads a program in the first of several ways in which the kernel takes it.
fn load_first(
    name: &str,
    target: &Target<'_>,
    ways: &[Access],
    generate: impl Fn(Access) -> std::result::Result<Vec<Insn>, EditError>,
    maps: &[BorrowedFd<'_>],
) -> Result<Prog> {
    let asked = || format!("load {name} for {}", target.spec);
    let sys = |e: SysError| Error::sys(asked(), &e);
    let info = target.spec.kind().info();
    let attach_btf = target.load_btf().map_err(sys)?;
    let mut refused = None;
    for way in ways {
        let insns = generate(*way)
            .map_err(|e| Error::new(ErrorKind::Kernel, format!("cannot generate {name}: {e}")))?;
        let loaded = Prog::load(&ProgSpec {
            attach_type: info.attach_type,
            attach_btf_id: target.load_btf_id(),
            attach_btf: attach_btf.as_ref().map(AsFd::as_fd),
            ..ProgSpec::generated(name, info.prog_type, &encode(&insns), maps)
        });
        match loaded {
            Ok(prog) => {
                tracing::debug!("{name} for {} reads {way:?}", target.spec);
                return Ok(prog);
            }
            Err(e) => {
                tracing::debug!("{name} for {} by {way:?}: {e}: {}", target.spec, e.log);
                let error = SysError {
                    call: "BPF_PROG_LOAD",
                    errno: e.errno,
                };
                refused = Some(sys(error).with_log(e.log));
            }
        }
    }
    Err(refused.unwrap_or_else(|| Error::new(ErrorKind::Kernel, format!("cannot {}", asked()))))
}
