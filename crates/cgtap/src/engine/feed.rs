//! Meters that read, and limits on what they read: what is new is charged, before anybody is told what was
//! used, and as often as whoever holds limits reads.
//!
//! It is done under the state's exclusive lock, since two that read at a time would both charge what is
//! new to either.

mod reader;
mod sources;
mod target;

use std::collections::BTreeSet;

use cgtap_sys::Errno;

use super::error::{Error, ErrorKind, Result};
use super::follow;
use super::session::Session;
use super::{Engine, Lock};
use crate::id::InstanceId;
use crate::limit::record::Reads;
use crate::meter::record::MeterRecord;
use crate::meter::source::Source;
use crate::source::nvml;
use crate::store::config::InstanceRecord;

pub use self::reader::Reader;

use self::sources::{Before, Cgroups, Sources};
use self::target::Target;

/// Whom what is read is charged to.
#[derive(Clone, Copy)]
enum To<'a> {
    /// A meter that is enabled.
    Usage,
    /// The limits of a group.
    Limits(u32, &'a Reads),
}

/// Something that is fed by readings.
struct Wanting<'a> {
    id: InstanceId,
    record: &'a InstanceRecord,
    meter: &'a MeterRecord,
    source: Source,
    to: To<'a>,
}

impl Wanting<'_> {
    /// What it is, for messages.
    fn name(&self) -> String {
        match self.to {
            To::Usage => self.meter.name.clone(),
            To::Limits(_, reads) => {
                let value = self.meter.values.get(reads.value);
                let value = value.map_or("", |v| v.name.as_str());
                format!("limits on {}_{value}", self.meter.name)
            }
        }
    }
}

impl Engine {
    /// Whether processes are looked at to tell what was used: for the figures of a meter or of a limit, or for
    /// the files that a hook stands in.
    ///
    /// # Errors
    /// A state that cannot be read.
    pub fn is_reading(&self) -> Result<bool> {
        let session = Session::open(self.state(), Lock::Shared, self.hierarchy()?)?;
        Ok(session
            .is_some_and(|s| is_wanted(&s) || limits(&s).next().is_some() || follow::is_wanted(&s)))
    }

    /// Reads what meters read, and charges what is new. What could not be read comes with it in words;
    /// none where there is no state.
    pub(super) fn feed(&self) -> Result<Option<(Session, Vec<String>)>> {
        let session = Session::open(self.state(), Lock::Exclusive, self.hierarchy()?)?;
        Ok(session.map(|session| {
            let unread = feed(&session, &Source::ALL.into());
            (session, unread)
        }))
    }
}

impl Session {
    /// Reads what limits are on, and charges what is new; that of meters that read the same, too. What could
    /// not be read comes back in words.
    pub(super) fn feed_limits(&self) -> Vec<String> {
        let sources: BTreeSet<Source> = limits(self).map(|l| l.source).collect();
        feed(self, &sources)
    }
}

/// Whether anything has to be read before usage is told.
pub(super) fn is_wanted(session: &Session) -> bool {
    meters(session).next().is_some()
}

fn meters(session: &Session) -> impl Iterator<Item = Wanting<'_>> {
    session.config.instances.iter().filter_map(|(id, record)| {
        let meter = record.meter.as_ref()?;
        Some(Wanting {
            id: *id,
            record,
            meter,
            source: meter.source?,
            to: To::Usage,
        })
    })
}

fn limits(session: &Session) -> impl Iterator<Item = Wanting<'_>> {
    let config = &session.config;
    config.limits.groups.iter().filter_map(|(number, group)| {
        let id = group.charger.as_ref()?.instance;
        let reads = group.reads()?;
        Some(Wanting {
            id,
            record: config.instances.get(&id)?,
            meter: &reads.meter,
            source: reads.source,
            to: To::Limits(*number, reads),
        })
    })
}

/// Whether a source can be read here.
pub(super) fn check(source: Source) -> Result<()> {
    match source {
        Source::FdinfoEngines | Source::FdinfoMemory => Ok(()),
        Source::Nvml => nvml::check()
            .map_err(|why| Error::new(ErrorKind::Unsupported, why).with_errno(Errno::ENODEV)),
    }
}

/// Reads these sources, and charges what is new to every meter and limit that reads them. What could not be
/// read comes back in words, each once: the rest was.
fn feed(session: &Session, from: &BTreeSet<Source>) -> Vec<String> {
    let mut unread = Vec::new();
    let mut sources = Sources::default();
    let all = meters(session).chain(limits(session));
    for wanting in all.filter(|w| from.contains(&w.source)) {
        let fed = Target::open(session, &wanting).and_then(|target| {
            let known = target.known()?;
            let mut cgroups = Cgroups::new(session, wanting.meter.cgroup);
            let before = Before {
                known: &known,
                at_ns: target.read_ns(),
            };
            let (source, meter) = (wanting.source, wanting.meter);
            let read = sources.read(source, meter, before, &mut cgroups, &mut unread)?;
            target.feed(session, &known, read)
        });
        if let Err(e) = fed {
            unread.push(format!("{} not read: {e}", was(&wanting)));
        }
    }
    let mut seen = BTreeSet::new();
    unread.retain(|why| seen.insert(why.clone()));
    unread
}

/// Says what was not read, where nobody is given it.
pub(super) fn say_unread(unread: &[String]) {
    for why in unread {
        tracing::warn!("{why}");
    }
}

fn was(wanting: &Wanting<'_>) -> String {
    let verb = match wanting.to {
        To::Usage => "was",
        To::Limits(..) => "were",
    };
    format!("{} {verb}", wanting.name())
}
