//! Meters: enabled and disabled.

use std::collections::BTreeMap;

use cgtap_sys::Errno;
use cgtap_sys::bpf::Map;
use cgtap_sys::libbpf::Btf;

use super::error::{Error, ErrorKind, Result};
use super::instance::Loaded;
use super::report::{EnabledMeter, MeterCode};
use super::session::Session;
use super::{
    AttachRequest, CgroupRef, Detach, Engine, Lifetime, Lock, ObjectSource, ProgramChoice, limit,
};
use crate::cgroup::Cgroup;
use crate::id::InstanceId;
use crate::kernel::layout::Layout;
use crate::kernel::read::Access;
use crate::kernel::{self, current};
use crate::meter::image::{self, Placed};
use crate::meter::record::{MeterRecord, PRIVATE};
use crate::meter::resolve::{ResolveError, resolve};
use crate::meter::resolved::Resolved;
use crate::meter::shape::{Shape, Sink};
use crate::meter::written::Meter;
use crate::store::config::Config;

/// A meter on this kernel, ready to be loaded.
pub(super) struct Compiled<'a> {
    meter: &'a Meter,
    resolved: Resolved,
    shape: Shape,
    layout: Layout,
    /// The addresses of `current`, where that is quicker than the helper.
    current: Option<Map>,
}

impl<'a> Compiled<'a> {
    /// Finds the meter's hooks on this kernel and types its expressions.
    pub(super) fn new(meter: &'a Meter) -> Result<Self> {
        if let Some(source) = meter.source {
            super::feed::check(source)?;
        }
        Self::of(meter, resolve(meter).map_err(|e| refused(meter, &e))?)
    }

    /// A meter whose hooks are found.
    pub(super) fn of(meter: &'a Meter, resolved: Resolved) -> Result<Self> {
        let shape = Shape::new(meter, &resolved);
        let unsupported = |why: String| {
            Error::new(
                ErrorKind::Unsupported,
                format!("cannot read this kernel's BTF: {why}; cgtap needs CONFIG_DEBUG_INFO_BTF"),
            )
        };
        let btf = Btf::vmlinux().map_err(|e| unsupported(e.to_string()))?;
        let layout = Layout::read(&btf).map_err(|e| unsupported(e.to_string()))?;
        Ok(Self {
            meter,
            resolved,
            shape,
            layout,
            current: None,
        })
    }

    /// The same, with what the programs find `current` by where they are loaded.
    pub(super) fn for_loading(self) -> Self {
        Self {
            current: current::find(&self.layout),
            ..self
        }
    }

    /// The ways in which memory may be read, the best one first.
    pub(super) fn ways(&self) -> &'static [Access] {
        if self.layout.cast.is_some() {
            &[Access::Cast, Access::Probe]
        } else {
            &[Access::Probe]
        }
    }

    /// What the programs find `current` by.
    pub(super) fn current(&self) -> Option<&Map> {
        self.current.as_ref()
    }

    /// The programs.
    pub(super) fn programs(&self, access: Access) -> Result<Vec<Placed>> {
        self.programs_of(access, &self.resolved, &self.shape, &Sink::Usage)
    }

    /// The programs that take part of it to `sink`.
    pub(super) fn programs_of(
        &self,
        access: Access,
        resolved: &Resolved,
        shape: &Shape,
        sink: &Sink,
    ) -> Result<Vec<Placed>> {
        let (layout, table) = (&self.layout, self.current.is_some());
        let made = image::programs(layout, access, table, resolved, shape, sink);
        made.map_err(|e| {
            let name = &self.meter.name;
            Error::new(
                ErrorKind::Unsupported,
                format!("cannot compile the meter {name}: {e}"),
            )
            .with_errno(Errno::E2BIG)
        })
    }

    fn loaded(&self, placed: &[Placed], cgroup: &Cgroup) -> Result<Loaded> {
        let name = &self.meter.name;
        let shared = image::Shared {
            current: self.current(),
            budgets: None,
        };
        let made = image::make_maps(self.meter, &self.shape, &Sink::Usage, shared)
            .map_err(|e| Error::sys(format!("make the maps of the meter {name}"), &e))?;
        let (maps, fds) = made.into_iter().map(|(map, fd)| (map, Some(fd))).unzip();
        Ok(Loaded {
            name: format!("meter:{name}"),
            image: image::object(placed, maps),
            maps: fds,
            chosen: (0..placed.len() as u32).collect(),
            meter: Some(MeterRecord::new(
                self.meter,
                &self.resolved,
                &self.shape,
                cgroup.id,
            )),
        })
    }
}

fn refused(meter: &Meter, error: &ResolveError) -> Error {
    let (kind, errno) = match error {
        ResolveError::Target(e) => (ErrorKind::Hook, e.errno()),
        ResolveError::None(_) => (ErrorKind::Hook, Errno::ENOENT),
        ResolveError::Expr { .. } | ResolveError::Hook { .. } => (ErrorKind::Hook, Errno::EINVAL),
    };
    let what = if meter.name == PRIVATE {
        "count".to_owned()
    } else {
        format!("have the meter {}", meter.name)
    };
    Error::new(kind, format!("cannot {what}: {error}")).with_errno(errno)
}

fn enabled_already(name: &str, cgroup: &str) -> Error {
    Error::new(
        ErrorKind::Rule,
        format!("the meter {name} is enabled already, at {cgroup}"),
    )
    .with_errno(Errno::EEXIST)
}

/// Makes room for a meter of this name in `next`: one whose cgroup is gone goes, with what it counted.
///
/// # Errors
/// EEXIST: one counts.
pub(super) fn make_way(session: &Session, next: &mut Config, name: &str) -> Result<()> {
    let same = next.instances.iter().find_map(|(id, record)| {
        let meter = record.meter.as_ref()?;
        (!meter.is_private() && meter.name == name).then_some((*id, meter.cgroup))
    });
    match same {
        None => Ok(()),
        Some((id, cgroup)) if session.hierarchy.exists(cgroup) == Some(false) => {
            limit::take_off_instance(next, id)
        }
        Some((_, cgroup)) => {
            let found = session.hierarchy.by_id(cgroup);
            let path = found.map_or_else(|_| next.path(cgroup), |c| c.path);
            Err(enabled_already(name, &path))
        }
    }
}

impl Engine {
    /// Lets a meter count for a cgroup and all below it, from now on. One of the same name whose cgroup is
    /// gone gives way to it.
    ///
    /// # Errors
    /// [`Error`]: EEXIST if a meter of that name counts already, ENOENT if this kernel lacks its
    /// hooks, EINVAL if its expressions do not fit them; otherwise as [`Engine::attach`]. Nothing has
    /// changed then.
    pub fn enable_meter(
        &self,
        meter: &Meter,
        cgroup: &CgroupRef,
        lifetime: Lifetime,
    ) -> Result<EnabledMeter> {
        let _kept = kernel::keep();
        // Told before anything is compiled; what counts is what the change itself finds.
        let taken = |e: &EnabledMeter| e.name == meter.name && !e.is_gone;
        if lifetime == Lifetime::Pinned
            && let Some(enabled) = self.meters()?.into_iter().find(taken)
        {
            return Err(enabled_already(&meter.name, &enabled.cgroup));
        }
        let compiled = Compiled::new(meter)?.for_loading();
        let enabled = self.enable_compiled(&compiled, cgroup, lifetime)?;
        if meter.source.is_some() {
            // What was used before now is not charged to anybody: it has to be known.
            self.feed()?;
        }
        Ok(enabled)
    }

    /// The same with a meter that is compiled: once, for however many cgroups.
    pub(super) fn enable_compiled(
        &self,
        compiled: &Compiled<'_>,
        cgroup: &CgroupRef,
        lifetime: Lifetime,
    ) -> Result<EnabledMeter> {
        let cgroup = super::find_cgroup(&self.hierarchy()?, cgroup)?;
        let mut last = None;
        for access in compiled.ways() {
            match self.attach_meter(compiled, *access, &cgroup, lifetime) {
                Err(e) if e.kind() == ErrorKind::Verifier => {
                    let name = &compiled.meter.name;
                    tracing::debug!("{name} by {access:?}: {e}: {}", e.log());
                    last = Some(e);
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Kernel, "there is no way to read memory")))
    }

    fn attach_meter(
        &self,
        compiled: &Compiled<'_>,
        access: Access,
        cgroup: &Cgroup,
        lifetime: Lifetime,
    ) -> Result<EnabledMeter> {
        let placed = compiled.programs(access)?;
        let loaded = compiled.loaded(&placed, cgroup)?;
        let request = |at: CgroupRef, at_root: bool| AttachRequest {
            programs: (placed.iter().filter(|p| p.at_root == at_root))
                .map(|p| ProgramChoice {
                    name: p.name.clone(),
                    hook: Some(p.hook.clone()),
                })
                .collect(),
            lifetime,
            ..AttachRequest::new(at, ObjectSource::Instance(InstanceId(0)))
        };
        let mut requests = vec![
            request(CgroupRef::Path("/".into()), true),
            request(CgroupRef::Id(cgroup.id), false),
        ];
        requests.retain(|r| !r.programs.is_empty());
        let instance = self.attach_loaded(&requests, loaded)?.instance;
        Ok(EnabledMeter {
            name: compiled.meter.name.clone(),
            cgroup: cgroup.path.clone(),
            instance,
            is_gone: false,
        })
    }

    /// Whether a meter can be had on this kernel; nothing is loaded.
    ///
    /// # Errors
    /// [`Error`] as [`Engine::enable_meter`], as far as it can be told before.
    pub fn check_meter(&self, meter: &Meter) -> Result<()> {
        let _kept = kernel::keep();
        Compiled::new(meter).map(drop)
    }

    /// The programs of a meter on this kernel, as they would be loaded.
    ///
    /// # Errors
    /// As [`Engine::check_meter`].
    pub fn meter_code(&self, meter: &Meter) -> Result<Vec<MeterCode>> {
        let _kept = kernel::keep();
        let compiled = Compiled::new(meter)?.for_loading();
        let access = compiled.ways().first().copied().unwrap_or(Access::Probe);
        let programs = compiled.programs(access)?;
        let maps = image::map_names(meter, &compiled.shape);
        Ok(programs
            .iter()
            .map(|p| MeterCode {
                program: p.name.clone(),
                hook: p.hook.clone(),
                code: image::listing(&compiled.layout, &maps, p),
            })
            .collect())
    }

    /// Lets a meter count no more; what it counted is gone.
    ///
    /// # Errors
    /// [`Error`]: ENOENT if no meter of that name counts.
    pub fn disable_meter(&self, name: &str) -> Result<EnabledMeter> {
        let all = self.meters()?;
        let found = all.iter().find(|m| m.name == name).cloned();
        let Some(found) = found else {
            let names: Vec<&str> = all.iter().map(|m| m.name.as_str()).collect();
            let there = if names.is_empty() {
                "none is".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no meter {name} is enabled; {there}"),
            )
            .with_errno(Errno::ENOENT));
        };
        self.detach(&Detach::Instance(found.instance))?;
        Ok(found)
    }

    /// The meters that count, by name.
    ///
    /// # Errors
    /// [`Error`]: a state that cannot be read.
    pub fn meters(&self) -> Result<Vec<EnabledMeter>> {
        let Some(session) = Session::open(self.state(), Lock::Shared, self.hierarchy()?)? else {
            return Ok(Vec::new());
        };
        let config = &session.config;
        let mut places: BTreeMap<_, (String, bool)> = BTreeMap::new();
        let mut all: Vec<EnabledMeter> = config
            .instances
            .iter()
            .filter_map(|(id, record)| {
                let meter = record.meter.as_ref().filter(|m| !m.is_private())?;
                let place = places.entry(meter.cgroup).or_insert_with(|| {
                    let is_gone = session.hierarchy.exists(meter.cgroup) == Some(false);
                    let found = session.hierarchy.by_id(meter.cgroup);
                    let path = found.map_or_else(|_| config.path(meter.cgroup), |c| c.path);
                    (path, is_gone)
                });
                let (cgroup, is_gone) = place.clone();
                Some(EnabledMeter {
                    name: meter.name.clone(),
                    cgroup,
                    instance: *id,
                    is_gone,
                })
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}
