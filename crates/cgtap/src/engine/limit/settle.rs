//! The program that settles reservations: at the end of every system call, whoever made it, since a
//! task may be moved out of its cgroup in the middle of one.

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::Session;
use super::plan::{attached, install, put, take_off_instance};
use super::wrong;
use crate::asm::{Builder, EditError, Frame, Insn, Reg};
use crate::budget::emit::{Charger, Maps, Slots};
use crate::budget::reserve::{ROOM_WORDS, Room};
use crate::hook::HookSpec;
use crate::id::ProgramId;
use crate::limit::record::SettlerRecord;
use crate::object::image::ProgramImage;
use crate::store::config::Config;

/// Where system calls end.
const HOOK: &str = "raw_tracepoint:sys_exit";
/// Values that may be reserved at a time.
const VALUES_MAX: usize = 16;

/// The program: the budgets are its first map, then come the reservations of each value.
fn generate(values: usize) -> std::result::Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let mut frame = Frame::default();
    let charger = Charger {
        maps: Maps {
            budgets: 0,
            denials: 0,
        },
        slots: Slots::new(&mut frame),
    };
    let room = Room(frame.take(ROOM_WORDS));
    for map in 1..=values as u32 {
        room.settle(&mut b, &charger, map);
    }
    b.push(Insn::mov_imm(Reg::R0, 0)).push(Insn::exit());
    b.finish()
}

/// Puts the program there if something is reserved, or takes it away.
pub(super) fn reconcile(session: &Session, next: &mut Config) -> Result<()> {
    let chargers = next.limits.reserving();
    let old = next.limits.settler.take();
    if old.as_ref().is_some_and(|old| old.chargers == chargers) {
        next.limits.settler = old;
        return Ok(());
    }
    if chargers.is_empty() {
        return match old {
            Some(old) => take_off_instance(next, old.instance),
            None => Ok(()),
        };
    }
    if chargers.len() > VALUES_MAX {
        return Err(wrong(format!(
            "{} values that are held are limited by denying; there can be {VALUES_MAX}",
            chargers.len()
        )));
    }
    let spec: HookSpec = HOOK
        .parse()
        .map_err(|_| Error::new(ErrorKind::Kernel, format!("{HOOK} is no hook")))?;
    let insns =
        generate(chargers.len()).map_err(|e| Error::new(ErrorKind::Kernel, e.to_string()))?;
    let mut all = vec![("budgets".to_owned(), session.budget_maps()?.0)];
    for (at, charger) in chargers.iter().enumerate() {
        let reserved = super::words::map_of(session, next, *charger, "reserved")?;
        all.push((format!("reserved_{at}"), reserved));
    }
    let programs = vec![ProgramImage::generated("settle", &spec, insns)];
    let names = ("reservations", "cgtap_settle");
    let instance = install(session, next, names, all, programs)?;
    let root = session.hierarchy.by_path(std::path::Path::new("/"))?;
    let stand = old.and_then(|old| attached(next, old.instance).first().map(|a| a.0));
    let program = ProgramId { instance, index: 0 };
    put(session, next, &root, program, &spec, stand)?;
    next.limits.settler = Some(SettlerRecord { instance, chargers });
    Ok(())
}
