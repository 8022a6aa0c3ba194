//! What the parts cost: dispatchers and sets put together by hand, one choice apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cgtap::dispatch::dispatcher;
use cgtap::dispatch::fuse::fuse;
use cgtap::dispatch::plan::{Plan, Style};
use cgtap::dispatch::specialise::{Member, code_of};
use cgtap::dispatch::switch::Switch;
use cgtap::hook::kind::Returns;
use cgtap::id::CgroupId;
use cgtap::kernel::read::Access;
use cgtap::kernel::{current, layout::Layout, scope::ScopeInfo};
use cgtap_sys::bpf::{Map, MapSpec, MapType, Prog};
use cgtap_sys::libbpf::Btf;

use super::Offer;
use super::load::{Plain, raw_tp};
use super::measure::Variant;
use crate::Result;
use crate::ground::{self, Ground};

/// The maps of a hook without a state around them.
pub struct Bare {
    dir: PathBuf,
    /// The maps.
    pub switch: Switch,
}

impl Bare {
    /// Makes them.
    pub fn new(name: &str) -> Result<Self> {
        let clean: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let dir = format!("/sys/fs/bpf/cgtap-bench-{}-{clean}", std::process::id());
        let dir = PathBuf::from(dir);
        std::fs::create_dir(&dir)?;
        let switch = Switch::create(&dir)?;
        Ok(Self { dir, switch })
    }

    /// A dispatcher on these maps.
    fn dispatcher(&self, by_table: bool) -> Result<Prog> {
        let layout = Layout::read(Btf::vmlinux()?.as_ref())?;
        let table = if by_table {
            Some(current::find(&layout).ok_or("this kernel has no table of current")?)
        } else {
            None
        };
        let insns = dispatcher::generate(&dispatcher::Plan {
            layout: &layout,
            returns: Returns::Ignored,
            has_func_ip: false,
            scope: &ScopeInfo::Current,
            access: Access::Typed,
            with_current_table: by_table,
            decides: false,
        })?;
        let switch = &self.switch;
        let mut maps = vec![&switch.progs, &switch.cache, &switch.control];
        maps.extend(&switch.tables);
        maps.extend(table.as_ref());
        raw_tp(&insns, &maps)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// One choice each.
#[derive(Clone, Copy)]
struct Choice {
    table: bool,
    /// Place of the set; none: nothing is configured.
    index: Option<u16>,
    counter: bool,
    members: usize,
    style: Style,
}

const USUAL: Choice = Choice {
    table: true,
    index: Some(1),
    counter: true,
    members: 1,
    style: Style::Inline,
};

/// The fused program of the first members of `many`.
fn set(plain: &Plain, choice: Choice) -> Result<Prog> {
    let programs = &plain.object.image.programs;
    let member = |p| Member {
        code: code_of(p),
        maps: (0..plain.maps.len()).collect(),
        btf: None,
        frame_bytes: 0,
        chain_bytes: 0,
        verified_insns: 10,
    };
    let members: Vec<Member> = programs.iter().take(choice.members).map(member).collect();
    let counter = Map::create(&MapSpec {
        name: "cgtap_runs",
        map_type: MapType::PercpuArray,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    })?;
    let pool: Vec<&Map> = plain.maps.iter().chain([&counter]).collect();
    let plan = Plan {
        returns: Returns::Ignored,
        verdict: 1,
        counter: choice.counter.then_some(plain.maps.len()),
        nests: false,
        turn: None,
        next: None,
        style: choice.style,
    };
    let fused = fuse(&members, &plan)?;
    let maps: Vec<&Map> = fused
        .maps
        .iter()
        .filter_map(|i| pool.get(*i).copied())
        .collect();
    raw_tp(&fused.insns, &maps)
}

fn make(ground: &Ground, hot: &Path, name: &str, choice: Choice) -> Result<Variant> {
    let bare = Bare::new(name)?;
    let prog = bare.dispatcher(choice.table)?;
    let Some(index) = choice.index else {
        return Ok(Variant::new(name, prog));
    };
    let plain = Plain::load(&ground.compile("many")?, &[])?;
    bare.switch.place(index, &set(&plain, choice)?)?;
    bare.switch
        .publish(&BTreeMap::from([(CgroupId(ground::id(hot)?), index)]))?;
    let counts = plain.map(".bss")?;
    let mut variant = Variant::new(name, prog).counted(counts, choice.members as u64);
    // The array of sets loses its entries with its last descriptor or pin.
    variant.keep.push(bare.switch.progs.try_clone()?);
    Ok(variant)
}

/// The variants for a process in `hot`.
pub fn offers<'a>(ground: &'a Ground, hot: &'a Path) -> Vec<Offer<'a>> {
    let offer =
        |name: &str, choice: Choice| Offer::new(name, move |name| make(ground, hot, name, choice));
    let none = Choice {
        index: None,
        ..USUAL
    };
    let many = Choice {
        members: 64,
        ..USUAL
    };
    vec![
        offer("part: nothing configured", none),
        offer(
            "part: nothing configured, current by helper",
            Choice {
                table: false,
                ..none
            },
        ),
        offer("part: 1 program", USUAL),
        offer(
            "part: 1 program, runs not counted",
            Choice {
                counter: false,
                ..USUAL
            },
        ),
        offer(
            "part: 1 program, indirect jump",
            Choice {
                index: Some(1000),
                ..USUAL
            },
        ),
        offer("part: 64 programs inlined", many),
        offer(
            "part: 64 programs called",
            Choice {
                style: Style::Call,
                ..many
            },
        ),
    ]
}
