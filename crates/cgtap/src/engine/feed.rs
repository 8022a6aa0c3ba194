//! Meters that read: what is new is charged, before anybody is told what was used.
//!
//! It is done under the state's exclusive lock, since two that read at a time would both charge what is
//! new to either.

mod sources;

use std::collections::BTreeMap;

use cgtap_sys::bpf::{Map, Prog, ProgSpec, ProgType, get_map};
use cgtap_sys::memory::Words;
use cgtap_sys::{Errno, SysError};

use super::error::{Error, ErrorKind, Result};
use super::session::{Session, words};
use super::{Engine, Lock};
use crate::asm::encode;
use crate::id::{CgroupId, InstanceId};
use crate::meter::feeder;
use crate::meter::record::MeterRecord;
use crate::meter::shape::{CLIENTS, client, control};
use crate::meter::source::Source;
use crate::meter::usage::Form;
use crate::source::feed::{self, Charge, Fed, Known, Terms};
use crate::source::{Key, Reading, nvml};
use crate::store::config::InstanceRecord;
use crate::store::pins;

use self::sources::{Before, Cgroups, Sources};

impl Engine {
    /// Whether a meter is enabled whose figures are read from processes, whenever usage is.
    ///
    /// # Errors
    /// A state that cannot be read.
    pub fn is_reading(&self) -> Result<bool> {
        let session = Session::open(self.state(), Lock::Shared, self.hierarchy()?)?;
        Ok(session.is_some_and(|session| is_wanted(&session)))
    }

    /// Reads what meters read, and charges what is new. What could not be read comes with it in words;
    /// none where there is no state.
    pub(super) fn feed(&self) -> Result<Option<(Session, Vec<String>)>> {
        let session = Session::open(self.state(), Lock::Exclusive, self.hierarchy()?)?;
        Ok(session.map(|session| {
            let unread = feed(&session);
            (session, unread)
        }))
    }
}

/// Whether anything has to be read before usage is told.
pub(super) fn is_wanted(session: &Session) -> bool {
    readers(session).next().is_some()
}

fn readers(
    session: &Session,
) -> impl Iterator<Item = (InstanceId, &InstanceRecord, &MeterRecord, Source)> {
    session.config.instances.iter().filter_map(|(id, record)| {
        let meter = record.meter.as_ref()?;
        Some((*id, record, meter, meter.source?))
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

/// Reads what every meter reads that does, and charges what is new. What could not be read comes back in
/// words: the rest was.
fn feed(session: &Session) -> Vec<String> {
    let mut unread = Vec::new();
    let mut sources = Sources::default();
    for (id, record, meter, source) in readers(session) {
        let fed = Target::open(session, id, record, meter).and_then(|target| {
            let known = target.known()?;
            let mut cgroups = Cgroups::new(session, meter.cgroup);
            let before = Before {
                known: &known,
                at_ns: target.words.get(control::READ_NS),
            };
            let readings = sources.read(source, meter, before, &mut cgroups, &mut unread)?;
            target.feed(&known, readings)
        });
        if let Err(e) = fed {
            unread.push(format!("{} was not read: {e}", meter.name));
        }
    }
    unread
}

/// The maps of a meter that are charged.
struct Target<'a> {
    meter: &'a MeterRecord,
    maps: Vec<Map>,
    clients: Map,
    words: Words,
}

impl<'a> Target<'a> {
    fn open(
        session: &Session,
        id: InstanceId,
        record: &InstanceRecord,
        meter: &'a MeterRecord,
    ) -> Result<Self> {
        let open = |name: &str| {
            let found = record.maps.iter().find(|m| m.name == name);
            let pin = found.and_then(|m| m.pin.as_deref()).unwrap_or(name);
            let path = session.path(&pins::map(id, pin));
            get_map(&path).map_err(|e| Error::sys(format!("open {}", path.display()), &e))
        };
        let maps = feeder::MAPS.iter().map(|name| open(name));
        let maps = maps.collect::<Result<Vec<Map>>>()?;
        Ok(Self {
            meter,
            maps,
            clients: open("clients")?,
            words: Words::map(&open("control")?)
                .map_err(|e| Error::sys("map the control words of a meter", &e))?,
        })
    }

    fn feed(&self, known: &BTreeMap<Key, Known>, readings: Vec<Reading>) -> Result<()> {
        let forms: Vec<Form> = self.meter.values.iter().map(|v| v.form).collect();
        let terms = Terms {
            label_words: feeder::label_words(self.meter),
            forms: &forms,
            room: CLIENTS as usize,
            now_ns: super::usage::now().as_nanos() as u64,
            is_first: self.words.get(control::READ_NS) == 0,
        };
        let fed = feed::feed(known, readings, terms);
        // Loaded first: where that is not allowed, nothing has changed.
        let program = self.program(&fed)?;
        // Remembered before it is charged: whoever is killed in between leaves something uncharged,
        // and does not let it be charged twice.
        self.remember(&fed)?;
        self.words.set(control::READ_NS, terms.now_ns);
        let lost = self.words.get(control::LOST);
        self.words.set(control::LOST, lost + fed.lost);
        if let Some(program) = program {
            for charge in &fed.charges {
                run(&program, charge).map_err(|e| self.sys("charge what was read for", &e))?;
            }
        }
        Ok(())
    }

    fn sys(&self, what: &str, error: &SysError) -> Error {
        Error::sys(format!("{what} {}", self.meter.name), error)
    }

    fn known(&self) -> Result<BTreeMap<Key, Known>> {
        let entries = self.clients.entries();
        let entries = entries.map_err(|e| self.sys("read what is known of the clients of", &e))?;
        let known = entries.iter().filter_map(|(key, value)| {
            let key: Vec<u64> = words(key).collect();
            let value: Vec<u64> = words(value).collect();
            let known = Known {
                cgroup: CgroupId(*value.get(client::CGROUP)?),
                seen_ns: *value.get(client::SEEN_NS)?,
                last: value.get(client::LAST..)?.to_vec(),
            };
            Some((key.try_into().ok()?, known))
        });
        Ok(known.collect())
    }

    fn remember(&self, fed: &Fed) -> Result<()> {
        let sys = |e: SysError| self.sys("remember the clients of", &e);
        for key in &fed.forgotten {
            self.clients.delete(&bytes(key)).map_err(sys)?;
        }
        for (key, known) in &fed.known {
            let mut value = vec![0; client::LAST];
            value[client::CGROUP] = known.cgroup.0;
            value[client::SEEN_NS] = known.seen_ns;
            value.extend_from_slice(&known.last);
            self.clients
                .update(&bytes(key), &bytes(&value))
                .map_err(sys)?;
        }
        Ok(())
    }

    /// The program that charges, if there is anything to be charged.
    fn program(&self, fed: &Fed) -> Result<Option<Prog>> {
        if fed.charges.is_empty() {
            return Ok(None);
        }
        let name = &self.meter.name;
        let unloaded = |errno: Errno, why: String| {
            let what = format!("cannot load the program that charges {name}: {why}");
            Error::new(ErrorKind::Kernel, what).with_errno(errno)
        };
        let insns = feeder::generate(self.meter);
        let insns = insns.map_err(|e| unloaded(Errno::E2BIG, e.to_string()))?;
        let maps: Vec<_> = self.maps.iter().map(std::os::fd::AsFd::as_fd).collect();
        let code = encode(&insns);
        let spec = ProgSpec::generated("cgtap_feed", ProgType::RawTracepoint, &code, &maps);
        let loaded = Prog::load(&spec);
        loaded
            .map(Some)
            .map_err(|e| unloaded(e.errno, e.to_string()).with_log(e.log))
    }
}

fn run(program: &Prog, charge: &Charge) -> std::result::Result<(), SysError> {
    let mut arguments = vec![charge.cgroup.0];
    arguments.extend_from_slice(&charge.labels);
    arguments.extend_from_slice(&charge.amounts);
    debug_assert!(arguments.len() <= feeder::ARGUMENTS_MAX);
    program.test_run_raw_tp(&arguments).map(drop)
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
