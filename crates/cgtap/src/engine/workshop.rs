//! Where members are made: images and maps of the instances, opened once a change, with the
//! constants of each attachment built in.

use std::collections::HashMap;
use std::rc::Rc;

use cgtap_sys::bpf::{LoadError, Map, MapSpec, MapType, ProgType, get_map, pin};
use cgtap_sys::{Errno, SysError};

use super::error::{Error, ErrorKind, Result, verifier_words};
use super::session::Session;
use crate::asm::Code;
use crate::dispatch::bounds::{self, Candidate, TrialError, Verdict};
use crate::dispatch::pool::{BtfPool, MapPool};
use crate::dispatch::specialise::{Gate, MapUse, Member, PoolIndex, Storage, specialise};
use crate::hook::HookSpec;
use crate::id::InstanceId;
use crate::object::image::{ObjectImage, ProgramImage};
use crate::store::blob;
use crate::store::config::{Config, HookId, HookRecord, MemberRecord, StorageRecord};
use crate::store::pins;

/// See the module.
pub(super) struct Workshop<'a> {
    session: &'a Session,
    pub(super) maps: MapPool,
    pub(super) btfs: BtfPool,
    images: HashMap<InstanceId, Rc<ObjectImage>>,
    opened: HashMap<String, PoolIndex>,
}

/// A program with its constants built in, and where it comes from.
struct Prepared {
    image: Rc<ObjectImage>,
    code: Code,
    /// What its map indices mean.
    maps: Vec<PoolIndex>,
    /// Place of its BTF.
    btf: Option<usize>,
}

impl<'a> Workshop<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self {
            session,
            maps: MapPool::default(),
            btfs: BtfPool::default(),
            images: HashMap::new(),
            opened: HashMap::new(),
        }
    }

    /// The image of an instance.
    pub(super) fn image(&mut self, id: InstanceId) -> Result<Rc<ObjectImage>> {
        if let Some(image) = self.images.get(&id) {
            return Ok(Rc::clone(image));
        }
        let path = self.session.path(&pins::image(id));
        let damaged = |why: String| {
            Error::new(
                ErrorKind::State,
                format!("cannot read the image of instance {id}: {why}"),
            )
        };
        let image: ObjectImage = blob::read(&path)
            .map_err(|e| damaged(e.to_string()))?
            .ok_or_else(|| damaged("it is not pinned any more".to_owned()))?;
        let image = Rc::new(image);
        self.images.insert(id, Rc::clone(&image));
        Ok(image)
    }

    /// A pinned map, opened once.
    pub(super) fn open(&mut self, name: &str) -> Result<PoolIndex> {
        self.open_or(name, |path| {
            Err(Error::new(
                ErrorKind::State,
                format!("{} is gone", path.display()),
            ))
        })
    }

    fn open_or(
        &mut self,
        name: &str,
        make: impl FnOnce(&std::path::Path) -> Result<Map>,
    ) -> Result<PoolIndex> {
        if let Some(index) = self.opened.get(name) {
            return Ok(*index);
        }
        let path = self.session.path(name);
        let map = match get_map(&path) {
            Ok(map) => map,
            Err(e) if e.errno == Errno::ENOENT => make(&path)?,
            Err(e) => return Err(Error::sys(format!("open {}", path.display()), &e)),
        };
        let index = self.maps.add(map);
        self.opened.insert(name.to_owned(), index);
        Ok(index)
    }

    /// Takes a map that is not pinned yet.
    pub(super) fn take(&mut self, name: &str, map: Map) -> PoolIndex {
        let index = self.maps.add(map);
        self.opened.insert(name.to_owned(), index);
        index
    }

    /// Storage of one attachment: found, or made of zeros (S26).
    fn storage(
        &mut self,
        member: &MemberRecord,
        at: usize,
        kind: StorageRecord,
        hook: HookId,
    ) -> Result<Storage> {
        let make = |map_type: MapType| {
            move |path: &std::path::Path| {
                let sys = |e: SysError| Error::sys(format!("make storage {}", path.display()), &e);
                let map = Map::create(&MapSpec {
                    name: "cgtap_storage",
                    map_type,
                    key_size: 4,
                    value_size: kind.value_size.max(4),
                    max_entries: 1,
                    flags: 0,
                })
                .map_err(sys)?;
                pin(&map, path).map_err(sys)?;
                Ok(map)
            }
        };
        let name = pins::storage(member, at, kind.per_hook.then_some(hook));
        if !kind.per_cpu {
            return Ok(Storage::Plain(self.open_or(&name, make(MapType::Array))?));
        }
        let zero = pins::storage_zero(member.program.instance, at);
        Ok(Storage::PerCpu {
            map: self.open_or(&name, make(MapType::PercpuArray))?,
            zero: self.open_or(&zero, make(MapType::Array))?,
        })
    }

    fn prepare(
        &mut self,
        config: &Config,
        hook: HookId,
        record: &MemberRecord,
    ) -> Result<Prepared> {
        let id = record.program.instance;
        let lost = || {
            Error::new(
                ErrorKind::State,
                format!("instance {id} is not in the state"),
            )
        };
        let image = self.image(id)?;
        let maps = config.instances.get(&id).ok_or_else(lost)?.maps.clone();
        let mut uses = Vec::with_capacity(maps.len());
        for (at, map) in maps.iter().enumerate() {
            uses.push(match (&map.pin, map.storage) {
                (_, Some(kind)) => MapUse::Storage(self.storage(record, at, kind, hook)?),
                (Some(name), None) => MapUse::Plain(self.open(&pins::map(id, name))?),
                (None, None) => return Err(lost()),
            });
        }
        let program = image
            .programs
            .get(record.program.index as usize)
            .ok_or_else(lost)?;
        let gate = match (record.gate, config.hooks.get(&hook)) {
            (Some(word), Some(at)) => Some(Gate {
                map: self.open(pins::GATES)?,
                word,
                shut: at.target.returns(at.spec.kind()).neutral(),
            }),
            _ => None,
        };
        let (code, maps) =
            specialise(&image, program, record.cookie, &uses, gate).map_err(|e| {
                let name = &program.name;
                Error::new(ErrorKind::Object, format!("cannot attach {name}: {e}"))
                    .with_errno(Errno::EINVAL)
            })?;
        // Without records of its functions nothing of it speaks of the BTF.
        let btf = match program.func_info.is_empty() {
            true => None,
            false => self.btfs.add(&image.btf),
        };
        Ok(Prepared {
            image,
            code,
            maps,
            btf,
        })
    }

    /// Asks the kernel what it thinks of the program at its hook (S31).
    pub(super) fn try_alone(
        &mut self,
        config: &Config,
        hook: HookId,
        hook_record: &HookRecord,
        record: &MemberRecord,
    ) -> Result<Verdict> {
        let Prepared {
            image,
            code,
            maps,
            btf,
        } = self.prepare(config, hook, record)?;
        let Some(program) = image.programs.get(record.program.index as usize) else {
            return Err(Error::new(
                ErrorKind::State,
                "the program is not in its image",
            ));
        };
        let candidate = Candidate {
            name: &program.name,
            code: &code,
            maps: &maps,
            btf,
            license: &image.license,
            kern_version: image.kern_version,
            flags: 0,
        };
        bounds::check(&hook_record.target(), &candidate, &self.maps, &self.btfs)
            .map_err(|e| refused(program, &hook_record.spec, &e))
    }

    /// The member of a set that `record` names.
    pub(super) fn member(
        &mut self,
        config: &Config,
        hook: HookId,
        spec: &HookSpec,
        record: &MemberRecord,
    ) -> Result<Member> {
        let Prepared {
            code, maps, btf, ..
        } = self.prepare(config, hook, record)?;
        let place = spec.without_scope();
        let verdict = config
            .instances
            .get(&record.program.instance)
            .and_then(|i| i.programs.get(record.program.index as usize))
            .and_then(|p| p.verdicts.iter().find(|(s, _)| *s == place))
            .map(|(_, v)| *v)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::State,
                    format!("a program at {spec} was never checked"),
                )
            })?;
        Ok(Member {
            code,
            maps,
            btf,
            frame_bytes: verdict.frame_bytes,
            chain_bytes: verdict.chain_bytes,
            verified_insns: verdict.verified_insns,
        })
    }
}

/// A refusal in words.
fn refused(program: &ProgramImage, spec: &HookSpec, error: &TrialError) -> Error {
    let asked = format!("cannot attach {} to {spec}", program.name);
    match error {
        TrialError::Load(e) => load_refused(&asked, program, spec, e),
        TrialError::Bounds { errno, .. } => {
            Error::new(ErrorKind::Verifier, format!("{asked}: {error}")).with_errno(*errno)
        }
        TrialError::Target(e) => Error::target(&asked, e),
        TrialError::Sys(e) => Error::sys(format!("try {} at {spec}", program.name), e),
    }
}

fn load_refused(asked: &str, program: &ProgramImage, spec: &HookSpec, e: &LoadError) -> Error {
    let kind = spec.kind().info();
    let is_trampoline = kind.has_func_ip || kind.prog_type == ProgType::Lsm;
    let words = verifier_words(&e.log);
    let (error_kind, mut what) = match (e.errno, words) {
        (Errno::EPERM | Errno::EOPNOTSUPP, "") if is_trampoline => (
            ErrorKind::Unsupported,
            format!(
                "the kernel loads no program for {} hooks and does not say why; they take BPF \
                 trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS), and root. `cgtap doctor` \
                 tells which hooks work here; tracepoint hooks do without",
                kind.prefix
            ),
        ),
        (Errno::EPERM, "") => (
            ErrorKind::Permission,
            "loading programs needs CAP_BPF and CAP_PERFMON (root), and a kernel that is not \
             locked down"
                .to_owned(),
        ),
        // 6.1 has no words for more than `MAX_USED_MAPS` (kernel/bpf/verifier.c).
        (Errno::E2BIG, "") => (
            ErrorKind::Verifier,
            "it is too large for the kernel, which says no more: a program may have 64 maps, of which the \
             dispatcher's own are some, and a million instructions"
                .to_owned(),
        ),
        (_, "") => (
            ErrorKind::Verifier,
            "the kernel does not take it and says no more; is the program of the type that this \
             hook runs?"
                .to_owned(),
        ),
        (_, words) => (ErrorKind::Verifier, format!("the verifier says: {words}")),
    };
    if program.sleepable {
        what += "; it is written to sleep (its section ends in `.s`), and a program that sleeps \
                 cannot be reached by the dispatcher's tail call";
    }
    Error::new(error_kind, format!("{asked}: {what} ({})", e.errno))
        .with_errno(e.errno)
        .with_log(e.log.clone())
}
