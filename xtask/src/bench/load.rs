//! Getting at programs: ours from a state, others from their objects.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use cgtap::asm::{Insn, Reg, encode};
use cgtap::engine::Engine;
use cgtap::id::InstanceId;
use cgtap::object::{self, LoadOptions, LoadedObject};
use cgtap_sys::bpf::{AttachType, Map, Prog, ProgSpec, ProgType, get_link, get_map};
use cgtap_sys::memory::Words;

use crate::Result;

/// A raw tracepoint program of these instructions.
pub fn raw_tp(insns: &[Insn], maps: &[&Map]) -> Result<Prog> {
    let maps: Vec<_> = maps.iter().map(|m| m.as_fd()).collect();
    Ok(Prog::load(&ProgSpec {
        name: "cgtap_bench",
        prog_type: ProgType::RawTracepoint,
        attach_type: AttachType::None,
        flags: 0,
        license: "GPL",
        kern_version: 0,
        insns: &encode(insns),
        maps: &maps,
        btf: None,
        func_info: &[],
        line_info: &[],
        attach_btf_id: 0,
        attach_btf: None,
    })
    .map_err(|e| format!("{e}: {}", e.log))?)
}

/// The floor.
pub fn empty() -> Result<Prog> {
    raw_tp(&[Insn::mov_imm(Reg::R0, 0), Insn::exit()], &[])
}

/// An object, relocated, with its maps.
pub struct Plain {
    /// The image.
    pub object: LoadedObject,
    /// Its maps.
    pub maps: Vec<Map>,
}

impl Plain {
    /// Loads an object with these variables set.
    pub fn load(path: &Path, set: &[(&str, String)]) -> Result<Self> {
        let set = set
            .iter()
            .map(|(n, v)| ((*n).to_owned(), v.clone()))
            .collect();
        let options = LoadOptions {
            set,
            ..LoadOptions::default()
        };
        let object = object::load_file(path, &options)?;
        let fds: Vec<OwnedFd> = object
            .maps
            .iter()
            .flatten()
            .map(|fd| fd.as_fd().try_clone_to_owned())
            .collect::<std::io::Result<_>>()?;
        let maps = fds
            .into_iter()
            .map(Map::from_fd)
            .collect::<Result<_, _>>()?;
        Ok(Self { object, maps })
    }

    /// A map by name.
    pub fn map(&self, name: &str) -> Result<Map> {
        let at = self.object.image.maps.iter().position(|m| m.name == name);
        let map = at
            .and_then(|i| self.maps.get(i))
            .ok_or_else(|| format!("no map {name}"))?;
        Ok(map.try_clone()?)
    }

    /// One of its programs, as it stands.
    pub fn prog(&self, index: usize) -> Result<Prog> {
        let image = self
            .object
            .image
            .programs
            .get(index)
            .ok_or("no such program")?;
        raw_tp(&image.insns, &self.maps.iter().collect::<Vec<_>>())
    }
}

/// The directories of a state's hooks, the oldest first.
fn hooks(state: &Path) -> Result<Vec<PathBuf>> {
    let hooks = std::fs::read_dir(state.join("hooks"))?.flatten();
    let number =
        |e: std::fs::DirEntry| Some((e.file_name().to_str()?.parse::<u32>().ok()?, e.path()));
    let mut hooks: Vec<_> = hooks.filter_map(number).collect();
    hooks.sort_unstable();
    Ok(hooks.into_iter().map(|(_, path)| path).collect())
}

/// Takes the dispatcher of the hook that a state had last off the tracepoint and hands it out, with the
/// hook's control words: what is left is a program that can be attached and detached at will, in
/// front of the sets that the engine made.
pub fn dispatcher(state: &Path) -> Result<(Prog, Words)> {
    let hook = hooks(state)?.pop().ok_or("the state has no hook")?;
    let link = hook.join("link");
    let prog = Prog::from_id(get_link(&link)?.info()?.prog_id)?;
    let words = Words::map(&get_map(&hook.join("control"))?)?;
    std::fs::remove_file(&link)?;
    Ok((prog, words))
}

/// The same of a state's hook at a raw tracepoint, after the others' are off too.
pub fn dispatcher_at(state: &Path, name: &str) -> Result<Prog> {
    let mut found = None;
    for hook in hooks(state)? {
        let path = hook.join("link");
        let link = get_link(&path)?;
        let told = format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd());
        let told = std::fs::read_to_string(told)?;
        let mut lines = told.lines().filter_map(|l| l.strip_prefix("tp_name:"));
        if lines.any(|tracepoint| tracepoint.trim() == name) {
            found = Some(Prog::from_id(link.info()?.prog_id)?);
        }
        std::fs::remove_file(&path)?;
    }
    Ok(found.ok_or_else(|| format!("the state has no hook at {name}"))?)
}

/// The `.bss` of an instance.
pub fn bss(engine: &Engine, instance: InstanceId) -> Result<Map> {
    let instances = engine.maps(Some(instance))?;
    let maps = instances.iter().flat_map(|i| &i.maps);
    let pin = maps
        .filter(|m| m.name == ".bss")
        .find_map(|m| m.pin.clone())
        .ok_or("no .bss")?;
    Ok(get_map(&pin)?)
}
