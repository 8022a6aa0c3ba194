//! What a meter or a limit knows of clients, and how what is new is charged to it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use cgtap_sys::bpf::{Map, Prog, ProgSpec, ProgType, get_map};
use cgtap_sys::memory::Words;
use cgtap_sys::{Errno, SysError};

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::{Session, words};
use super::super::usage::now;
use super::sources::Read;
use super::{To, Wanting};
use crate::asm::encode;
use crate::id::CgroupId;
use crate::limit::record::Reads;
use crate::meter::feeder;
use crate::meter::record::MeterRecord;
use crate::meter::shape::{CLIENTS, client, control};
use crate::meter::usage::Form;
use crate::source::Key;
use crate::source::feed::{self, Charge, Fed, Known, Terms};
use crate::store::pins;

/// The maps that are charged.
pub(super) struct Target<'a> {
    name: String,
    meter: &'a MeterRecord,
    to: To<'a>,
    maps: Vec<Map>,
    clients: Map,
    words: Words,
}

impl<'a> Target<'a> {
    pub(super) fn open(session: &Session, wanting: &Wanting<'a>) -> Result<Self> {
        let open = |name: &str| {
            let found = wanting.record.maps.iter().find(|m| m.name == name);
            let pin = found.and_then(|m| m.pin.as_deref()).unwrap_or(name);
            let path = session.path(&pins::map(wanting.id, pin));
            get_map(&path).map_err(|e| Error::sys(format!("open {}", path.display()), &e))
        };
        let names = match wanting.to {
            To::Usage => feeder::MAPS_OF_USAGE,
            To::Limits(..) => feeder::MAPS_OF_BUDGETS,
        };
        let maps = names.iter().map(|name| open(name));
        let maps = maps.collect::<Result<Vec<Map>>>()?;
        Ok(Self {
            name: wanting.name(),
            meter: wanting.meter,
            to: wanting.to,
            maps,
            clients: open("clients")?,
            words: Words::map(&open("control")?)
                .map_err(|e| Error::sys("map the control words of what is read", &e))?,
        })
    }

    /// When it was read last, in nanoseconds since boot; 0 if it never was.
    pub(super) fn read_ns(&self) -> u64 {
        self.words.get(control::READ_NS)
    }

    /// Charges what is new in `read`, to whom `known` is known.
    pub(super) fn feed(
        &self,
        session: &Session,
        known: &BTreeMap<Key, Known>,
        read: Read,
    ) -> Result<()> {
        let forms: Vec<Form> = self.meter.values.iter().map(|v| v.form).collect();
        let terms = Terms {
            label_words: feeder::label_words(self.meter),
            forms: &forms,
            room: CLIENTS as usize,
            now_ns: now().as_nanos() as u64,
            is_first: self.read_ns() == 0,
            is_whole: read.is_whole,
        };
        self.hold(session, known, terms)?;
        let fed = feed::feed(known, read.readings, terms);
        let runs: Vec<Vec<u64>> = fed.charges.iter().filter_map(|c| self.run(c)).collect();
        // Loaded first: where that is not allowed, nothing has changed.
        let program = self.program(&runs)?;
        // Remembered before it is charged: whoever is killed in between leaves something uncharged,
        // and does not let it be charged twice.
        self.remember(&fed)?;
        self.words.set(control::READ_NS, terms.now_ns);
        let lost = self.words.get(control::LOST);
        self.words.set(control::LOST, lost + fed.lost);
        if let Some(program) = program {
            for arguments in &runs {
                debug_assert!(arguments.len() <= feeder::ARGUMENTS_MAX);
                let ran = program.test_run_raw_tp(arguments);
                ran.map_err(|e| self.sys("charge what was read for", &e))?;
            }
        }
        Ok(())
    }

    /// Lets limits on what is held have what is known to be held, also where that has changed by more than
    /// what was charged: a limit that came since, a reader that was killed.
    fn hold(
        &self,
        session: &Session,
        known: &BTreeMap<Key, Known>,
        terms: Terms<'_>,
    ) -> Result<()> {
        let To::Limits(number, reads) = self.to else {
            return Ok(());
        };
        if !matches!(terms.forms.get(reads.value), Some(Form::Gauge)) {
            return Ok(());
        }
        let mut held: BTreeMap<CgroupId, u64> = BTreeMap::new();
        for (key, known) in known {
            if is_of(reads, &feed::labels(key, terms)) {
                let bytes = known.last.get(reads.value).copied().unwrap_or(0);
                let sum = held.entry(known.cgroup).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        session.hold(number, &held)
    }

    /// What the program is run with for a charge; none where it is not charged.
    fn run(&self, charge: &Charge) -> Option<Vec<u64>> {
        let mut arguments = vec![charge.cgroup.0];
        match self.to {
            To::Usage => {
                arguments.extend_from_slice(&charge.labels);
                arguments.extend_from_slice(&charge.amounts);
            }
            To::Limits(_, reads) => {
                let amount = *charge.amounts.get(reads.value)?;
                if amount == 0 || !is_of(reads, &charge.labels) {
                    return None;
                }
                arguments.push(amount);
            }
        }
        Some(arguments)
    }

    fn sys(&self, what: &str, error: &SysError) -> Error {
        Error::sys(format!("{what} {}", self.name), error)
    }

    /// What was known of clients at the reading before.
    pub(super) fn known(&self) -> Result<BTreeMap<Key, Known>> {
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
    fn program(&self, runs: &[Vec<u64>]) -> Result<Option<Prog>> {
        if runs.is_empty() {
            return Ok(None);
        }
        let unloaded = |errno: Errno, why: String| {
            let what = format!("cannot load the program that charges {}: {why}", self.name);
            Error::new(ErrorKind::Kernel, what).with_errno(errno)
        };
        let insns = match self.to {
            To::Usage => feeder::of_usage(self.meter),
            To::Limits(..) => feeder::of_budgets(),
        };
        let insns = insns.map_err(|e| unloaded(Errno::E2BIG, e.to_string()))?;
        let maps: Vec<_> = self.maps.iter().map(AsFd::as_fd).collect();
        let code = encode(&insns);
        let spec = ProgSpec::generated("cgtap_feed", ProgType::RawTracepoint, &code, &maps);
        let loaded = Prog::load(&spec);
        loaded
            .map(Some)
            .map_err(|e| unloaded(e.errno, e.to_string()).with_log(e.log))
    }
}

/// Whether what has these labels is limited.
fn is_of(reads: &Reads, labels: &[u64]) -> bool {
    let mut only = reads.only.iter();
    only.all(|(word, value)| labels.get(*word) == Some(value))
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
