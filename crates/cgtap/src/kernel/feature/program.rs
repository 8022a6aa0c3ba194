//! Hooks: a program that does nothing is loaded and attached, and taken away again.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Link, LoadError, Prog, ProgSpec, ProgType};
use cgtap_sys::perf::{self, Sampling};

use super::Feature;
use crate::asm::{Insn, Reg, encode};
use crate::hook::kind::{KINDS, KindInfo};
use crate::hook::{HookKind, HookSpec};
use crate::kernel::anchor::Lack;
use crate::kernel::caller::Caller;
use crate::kernel::perf_event::PerfEvent;
use crate::kernel::target::{self, Target, TargetError};
use crate::kernel::{anchor, tracepoint, trampoline};

/// Tracepoints that hardly ever fire, so that attaching there disturbs nobody: the first that this
/// kernel has is taken.
const QUIET: [&str; 3] = [
    "task/task_rename",
    "bpf_test_run/bpf_test_finish",
    "sched/sched_process_exec",
];

/// Where a hook of each kind is tried: at places that hardly ever run, so that attaching there
/// disturbs nobody; the first that this kernel has is taken.
fn quiet(kind: HookKind) -> &'static [&'static str] {
    match kind {
        HookKind::Tracepoint => &QUIET,
        HookKind::RawTracepoint | HookKind::RawTracepointWritable | HookKind::TpBtf => {
            &["task_rename", "bpf_test_finish", "sched_process_exec"]
        }
        HookKind::Kprobe | HookKind::Kretprobe | HookKind::Fentry | HookKind::Fexit => {
            &trampoline::QUIET
        }
        HookKind::KprobeMulti | HookKind::KretprobeMulti => &["bpf_fentry_test?", "kernel_halt*"],
        HookKind::Uprobe | HookKind::Uretprobe => &["libc.so.6:abort"],
        HookKind::FmodRet => &["security_quotactl", "bpf_modify_return_test"],
        HookKind::Lsm => &["quotactl", "syslog"],
        HookKind::PerfEvent => &["alignment-faults/1000000000"],
        HookKind::CgroupDevice => &["dev"],
    }
}

fn load(prog_type: ProgType) -> Result<Prog, LoadError> {
    let code = encode(&[Insn::mov_imm(Reg::R0, 1), Insn::exit()]);
    Prog::load(&ProgSpec::generated("cgtap_probe", prog_type, &code, &[]))
}

pub(super) fn probe(caller: &Caller) -> Vec<Feature> {
    let mut features: Vec<Feature> = KINDS.iter().map(|kind| hook(caller, kind)).collect();
    // Any of them is enough; only if none works, nothing does.
    let none_works = features.iter().all(|f| f.state != super::FeatureState::Yes);
    if none_works {
        features.iter_mut().for_each(|f| f.required = true);
    }
    features.extend([link(caller), jit(caller), hardware_counters(caller)]);
    features
}

fn hook(caller: &Caller, kind: &KindInfo) -> Feature {
    let name = format!("hook {}", kind.prefix);
    let (why, errno) = match try_hook(kind) {
        Ok(target) => return Feature::yes(&name, format!("a program was attached to {target}")),
        Err(Lack::Load(e)) => {
            let said = match e.log.trim() {
                "" => String::new(),
                log => format!(
                    "; the kernel said: {}",
                    log.lines().next_back().unwrap_or(log)
                ),
            };
            let why = format!("loading a program gave {}{said}", caller.reason(e.errno));
            (why, Some(e.errno))
        }
        Err(Lack::Target(TargetError::Sys(e))) => (
            format!("{} gave {}", e.call, caller.reason(e.errno)),
            Some(e.errno),
        ),
        // It says so itself.
        Err(Lack::Target(e @ TargetError::Unsupported { .. })) => (e.to_string(), None),
        Err(Lack::Target(e)) => {
            let why = format!("there is nothing to try it at: {e}");
            return Feature::unknown(&name, why, remedy(kind));
        }
    };
    if errno.is_some_and(|e| caller.is_about_us(e)) {
        Feature::no(&name, why, "run as root")
    } else {
        Feature::no(&name, why, remedy(kind))
    }
}

fn remedy(kind: &KindInfo) -> &'static str {
    match kind.kind {
        HookKind::Tracepoint => {
            "it takes CONFIG_BPF_EVENTS, CONFIG_PERF_EVENTS and tracefs; raw_tracepoint hooks see \
             the same events"
        }
        HookKind::TpBtf => {
            "it takes CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS; raw_tracepoint hooks see the \
             same events"
        }
        HookKind::Kprobe | HookKind::Kretprobe => {
            "it takes CONFIG_KPROBES and CONFIG_KPROBE_EVENTS; tracepoint hooks work without"
        }
        HookKind::KprobeMulti | HookKind::KretprobeMulti => {
            "it takes Linux 5.18 and CONFIG_FPROBE; kprobe hooks, one for each function, do the \
             same"
        }
        HookKind::Uprobe | HookKind::Uretprobe => {
            "it takes CONFIG_UPROBES and CONFIG_UPROBE_EVENTS"
        }
        HookKind::Fentry | HookKind::Fexit | HookKind::FmodRet => {
            "it takes CONFIG_FUNCTION_TRACER, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS and \
             CONFIG_DEBUG_INFO_BTF; kprobe and tracepoint hooks do without"
        }
        HookKind::Lsm => {
            "it takes CONFIG_BPF_LSM, `bpf` in the kernel's lsm= list, and what fentry takes; \
             hooks that only look do without"
        }
        HookKind::PerfEvent => "it takes CONFIG_PERF_EVENTS",
        HookKind::CgroupDevice => {
            "it takes Linux 5.7, CONFIG_CGROUP_BPF and a mounted cgroup2, with no program at its root \
             that excludes others; lsm and fmod_ret hooks see opens too"
        }
        _ => "it takes CONFIG_BPF_EVENTS; the other hooks that say `yes` work all the same",
    }
}

/// Attaches a program that changes nothing, and takes it away again; where.
fn try_hook(kind: &KindInfo) -> Result<String, Lack> {
    if kind.prog_type != ProgType::Tracing && kind.prog_type != ProgType::Lsm {
        // Who may not load may not look for targets either, and should be told of the first.
        let insns = encode(&[Insn::mov_imm(Reg::R0, kind.returns.neutral()), Insn::exit()]);
        Prog::load(&ProgSpec {
            attach_type: kind.attach_type,
            ..ProgSpec::generated("cgtap_probe", kind.prog_type, &insns, &[])
        })
        .map_err(Lack::Load)?;
    }
    let mut lacking = None;
    for target in quiet(kind.kind) {
        let Ok(spec) = HookSpec::new(kind.kind, target) else {
            continue;
        };
        match target::resolve(&spec) {
            Ok((spec, info)) => {
                anchor::try_at(&Target {
                    spec: &spec,
                    info: &info,
                })?;
                return Ok(spec.target().to_owned());
            }
            Err(e) => lacking = lacking.or(Some(e)),
        }
    }
    Err(Lack::Target(lacking.unwrap_or(TargetError::Unsupported {
        what: "such hooks",
        why: "there is nothing to try them at".to_owned(),
    })))
}

/// Links of perf events, which pin classic tracepoints.
fn link(caller: &Caller) -> Feature {
    let name = "link of a perf event";
    let event = QUIET
        .into_iter()
        .find_map(|t| tracepoint::classic_id(t).ok())
        .map(perf::open_tracepoint);
    let remedy = "it takes Linux 5.15; the hooks that are no classic tracepoints work without";
    let event = match event {
        Some(Ok(event)) => event,
        Some(Err(e)) if caller.is_about_us(e.errno) => {
            let why = format!("perf_event_open gave {}", caller.reason(e.errno));
            return Feature::no(name, why, "run as root");
        }
        Some(Err(e)) => return Feature::unknown(name, e.to_string(), remedy),
        None => {
            return Feature::unknown(name, "no tracepoint to try it on", "mount tracefs");
        }
    };
    let prog = match load(ProgType::Tracepoint) {
        Ok(prog) => prog,
        Err(e) => {
            let why = format!("loading a program gave {}", caller.reason(e.errno));
            return Feature::no(name, why, "see `hook tracepoint`");
        }
    };
    match Link::perf_event(&prog, event.as_fd()) {
        Ok(_) => Feature::yes(name, "a link was made and dropped"),
        Err(e) => Feature::no(name, caller.reason(e.errno), remedy),
    }
}

fn jit(caller: &Caller) -> Feature {
    let name = "JIT";
    let remedy = "set /proc/sys/net/core/bpf_jit_enable to 1; interpreted programs run all the \
                  same, but slower, and sets of several programs may be refused";
    let bytes = load(ProgType::RawTracepoint)
        .map_err(|e| e.errno)
        .and_then(|prog| prog.info().map_err(|e| e.errno))
        .map(|info| info.jited_bytes);
    match bytes {
        Ok(0) => Feature::no(name, "a program was loaded and is interpreted", remedy),
        Ok(bytes) => Feature::yes(
            name,
            format!("a program of two instructions became {bytes} bytes of machine code"),
        ),
        Err(errno) => Feature::unknown(
            name,
            format!("no program could be looked at: {}", caller.reason(errno)),
            remedy,
        ),
    }
}

/// Whether the processor counts.
fn hardware_counters(caller: &Caller) -> Feature {
    let name = "hardware counters";
    let remedy = "virtual machines have none unless their host gives them one; counters of the \
                  kernel (task-clock, context-switches, page-faults) work without";
    let Some(cycles) = PerfEvent::find("cycles") else {
        return Feature::unknown(name, "there is no event to try", remedy);
    };
    let period = Sampling::Period(u64::MAX >> 1);
    match perf::open_sampling(cycles.perf_type as u32, cycles.config, period, 0) {
        Ok(_) => Feature::yes(name, "one that counts cycles was opened"),
        Err(e) if caller.is_about_us(e.errno) => {
            let why = format!("{} gave {}", e.call, caller.reason(e.errno));
            Feature::no(name, why, "run as root")
        }
        Err(e) => Feature::no(name, format!("{} gave {}", e.call, e.errno), remedy),
    }
}
