//! Generated code, held to the same expressions in plain Rust. The kernel runs it.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Map, MapSpec, MapType, Prog, ProgSpec, ProgType};
use cgtap_sys::libbpf::Btf;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::code::{Emitter, Slots};
use super::expr::tests::{Event, Fields, event, expression};
use super::expr::{Builtin, Load, Node, Parser, Record, Root, Shown, TextLoad, check_number};
use super::program::{Plan, generate};
use super::resolve::{ResolveError, resolve_gates};
use super::resolved::{Do, GateProgram, Job, Owner, Program};
use super::shape::{Shape, Sink, maps};
use super::usage::Form;
use crate::asm::{Builder, Frame, Insn, Reg, Size, encode};
use crate::kernel::layout::Layout;
use crate::kernel::read::{Access, Reader};

/// Expressions a program.
const EXPRESSIONS: usize = 16;

fn compiled(layout: &Layout, nodes: &[Node]) -> Vec<Insn> {
    let mut b = Builder::new();
    let mut frame = Frame::default();
    let slots = Slots::new(&mut frame);
    let emit = Emitter {
        reader: Reader::new(layout, Access::Probe, slots.scratch),
        has_typed_arguments: false,
        slots,
    };
    b.push(Insn::mov(Reg::R6, Reg::R1));
    for (at, node) in nodes.iter().enumerate() {
        emit.number(&mut b, node).unwrap();
        b.extend(Insn::load_map_value(Reg::R1, 0, at as u32 * 8))
            .push(Insn::store(Size::Dw, Reg::R1, 0, Reg::R7));
        // As a condition it has to come to the same.
        let no = b.label();
        b.push(Insn::mov_imm(Reg::R9, 0));
        // The verifier takes no code behind a condition that never holds.
        if !matches!(node, Node::Constant(_)) {
            emit.unless(&mut b, node, no).unwrap();
        }
        b.push(Insn::mov_imm(Reg::R9, 1)).place(no);
        let at = (EXPRESSIONS + at) as u32 * 8;
        b.extend(Insn::load_map_value(Reg::R1, 0, at))
            .push(Insn::store(Size::Dw, Reg::R1, 0, Reg::R9));
    }
    b.push(Insn::mov_imm(Reg::R0, 0)).push(Insn::exit());
    b.finish().unwrap()
}

#[test]
fn generated_code_computes_what_plain_rust_does() {
    let layout = Layout::read(&Btf::vmlinux().unwrap()).unwrap();
    let results = Map::create(&MapSpec {
        name: "results",
        map_type: MapType::Array,
        key_size: 4,
        value_size: EXPRESSIONS as u32 * 16,
        max_entries: 1,
        flags: 0,
    })
    .unwrap();
    let mut runner = TestRunner::default();
    let mut compared = 0;
    for _ in 0..40 {
        let texts: Vec<String> = (0..EXPRESSIONS)
            .map(|_| expression().new_tree(&mut runner).unwrap().current())
            .collect();
        let nodes: Vec<Node> = texts
            .iter()
            .filter_map(|text| {
                let ast = Parser::whole(text).ok()?;
                check_number(text, &ast, &Fields).ok()
            })
            .collect();
        let insns = compiled(&layout, &nodes);
        let prog = Prog::load(&ProgSpec::generated(
            "expressions",
            ProgType::RawTracepoint,
            &encode(&insns),
            &[results.as_fd()],
        ))
        .unwrap_or_else(|e| panic!("{e}: {texts:#?}\n{}", e.log));
        for _ in 0..12 {
            let event: Event = event().new_tree(&mut runner).unwrap().current();
            let args: Vec<u64> = event
                .0
                .chunks_exact(8)
                .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
                .collect();
            prog.test_run_raw_tp(&args).unwrap();
            let found = results.lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
            let word =
                |at: usize| u64::from_ne_bytes(found[at * 8..at * 8 + 8].try_into().unwrap());
            for (at, node) in nodes.iter().enumerate() {
                let wanted = node.evaluate(&event);
                assert_eq!(word(at), wanted, "{node:?} of {event:?}");
                let truth = word(EXPRESSIONS + at);
                let holds = wanted != 0 || matches!(node, Node::Constant(_));
                assert_eq!(truth, u64::from(holds), "{node:?} of {event:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 5_000, "only {compared} were compared");
}

/// Offsets that no kernel changes.
fn fixed_layout() -> Layout {
    Layout {
        task_cgroups: 100,
        task_tgid: 104,
        task_signal: 108,
        signal_live: 4,
        css_set_dfl_cgrp: 16,
        cgroup_kn: 24,
        cgroup_parent: 32,
        cgroup_root: 40,
        root_hierarchy_id: 4,
        css_cgroup: 8,
        kn_id: 48,
        kn_name: 16,
        cast: None,
        current: None,
    }
}

/// What is generated for a meter with a condition, a label, a sum and a histogram, as it is read. A
/// change here is meant, or it is a mistake: the new text is what the assertion shows.
#[test]
fn the_code_of_a_meter_is_what_it_was() {
    let number = |text: &str| check_number(text, &Parser::whole(text).unwrap(), &Fields).unwrap();
    let label = Parser::whole("b").unwrap();
    let program = Program {
        hook: "raw_tracepoint:sys_enter".parse().unwrap(),
        has_typed_arguments: false,
        owner: Owner::Current,
        condition: Some(number("h > 5 && text == \"R\"")),
        job: Job::Charge {
            carried: None,
            twice: None,
            by: vec![super::expr::check_label("b", &label, &Fields, None).unwrap()],
            updates: vec![(0, Do::Sum(number("h * 8 + d"))), (1, Do::Count)],
        },
    };
    let shape = Shape {
        offsets: vec![0, 8],
        forms: vec![Form::Sum, Form::Count],
        bytes: 16,
        label_words: 1,
        notes: 0,
    };
    let layout = fixed_layout();
    let plan = Plan {
        layout: &layout,
        access: Access::Probe,
        with_current_table: false,
        shape: &shape,
        sink: &Sink::Usage,
    };
    let insns = generate(plan, &program, 0).unwrap();
    let text = crate::asm::text::listing(&insns, &maps::NAMES_OF_USAGE, &[]);
    assert_eq!(text, include_str!("tests/charge.txt"), "{text}");
}

/// An ioctl as a security hook sees it.
struct Ioctl {
    device: u64,
    cmd: u64,
}

impl Record for Ioctl {
    fn number(&self, load: &Load) -> u64 {
        match load {
            Load::Walk {
                root: Root::Argument,
                walk,
                ..
            } => match (walk.argument, walk.loads.len()) {
                (0, 2) => self.device,
                (8, 0) => self.cmd,
                _ => panic!("{walk:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn text(&self, load: &TextLoad) -> Vec<u8> {
        panic!("{load:?}")
    }

    fn noted(&self, number: u8) -> u64 {
        panic!("{number}")
    }

    fn builtin(&self, builtin: Builtin) -> u64 {
        panic!("{builtin:?}")
    }
}

fn gates(text: &str, value: &str, labels: &[Shown]) -> Result<Vec<Vec<GateProgram>>, ResolveError> {
    let meter = super::file::parse("x.toml", text).unwrap();
    let value = meter.values.iter().position(|v| v.name == value).unwrap();
    resolve_gates(&meter, value, labels)
}

/// What is refused, of devices and calls. Where the kernel calls no lsm programs the other way is left.
#[test]
fn gates_of_ioctls_tell_their_devices_and_calls() {
    const DRM: u64 = 226 << 20 | 128;
    const NVIDIA: u64 = 195 << 20 | 255;
    let none: &[Shown] = &[];
    let nr = &[Shown::Unsigned];
    let ring = &[Shown::Text, Shown::Text];
    for (meter, value, labels, held, passed) in [
        (
            "drm_ioctl",
            "calls",
            &nr[..],
            &[(DRM, 0x6400), (DRM, 0xc0a0_64b2)][..],
            &[(DRM, 0x4600), (NVIDIA, 0x6400)][..],
        ),
        (
            "virtio_gpu",
            "submissions",
            none,
            &[(DRM, 0xc028_6442)],
            &[(DRM, 0x6443), (8 << 20, 0x6442)],
        ),
        (
            "drm",
            "busy",
            ring,
            &[(DRM, 0x6440), (DRM, 0x649f)],
            &[(DRM, 0x6409), (DRM, 0x64a0), (NVIDIA, 0x6440)],
        ),
        (
            "drm_memory",
            "bytes",
            none,
            &[(DRM, 0x64b2), (DRM, 0x6440)],
            &[(DRM, 0x6409), (DRM, 0x64b4)],
        ),
        (
            "nvidia_ioctl",
            "calls",
            nr,
            &[(NVIDIA, 0x462a)],
            &[(NVIDIA, 0x6d2a), (DRM, 0x462a)],
        ),
    ] {
        let (_, text) = super::library::BUILTIN
            .iter()
            .find(|(name, _)| *name == meter)
            .unwrap();
        let mut found = gates(text, value, labels).unwrap();
        // Where only opening can be refused there is no call to look at.
        for ways in &mut found {
            ways.retain(|way| !way.hook.to_string().starts_with("cgroup:"));
        }
        // Kernels with a hook of its own for 32-bit callers have a gate there too.
        let hooks = found
            .iter()
            .map(|ways| ways.last().unwrap().hook.to_string());
        let both = ["", "_compat"].map(|end| format!("fmod_ret:security_file_ioctl{end}"));
        assert!(hooks.eq(both[..found.len()].iter().cloned()), "{meter}");
        for way in found.iter().flatten() {
            assert!(way.has_typed_arguments && way.writes.is_empty(), "{way:?}");
            let condition = way.condition.as_ref().unwrap();
            for (calls, is_held) in [(held, 1), (passed, 0)] {
                for &(device, cmd) in calls {
                    let is = condition.evaluate(&Ioctl { device, cmd });
                    assert_eq!(is, is_held, "{meter}: {device:#x} {cmd:#x}");
                }
            }
        }
    }
}

#[test]
fn a_gate_asks_for_what_the_file_says() {
    let (_, tasks) = super::library::BUILTIN
        .iter()
        .find(|(name, _)| *name == "tasks")
        .unwrap();
    let found = gates(tasks, "born", &[]).unwrap();
    let last = found[0].last().unwrap();
    assert_eq!(last.hook.to_string(), "fmod_ret:security_task_alloc");
    assert_eq!(
        (&last.condition, &last.ask),
        (&None, &Some(Node::Constant(1)))
    );
    assert_eq!(gates(tasks, "ended", &[]).unwrap(), Vec::<Vec<_>>::new());
}

/// A meter with a gate at a tracepoint that every kernel has; that it is none that can be written is
/// found when it is loaded.
fn at_exit(gate: &str) -> String {
    format!(
        "name = \"x\"\nhelp = \"x\"\n[values.v]\nhelp = \"v\"\n[labels.l]\nhelp = \"l\"\n\
         [[probes]]\nhook = \"tp_btf:sched_process_exit\"\nby.l = \"1\"\ndo.v = \"count()\"\n\
         [[gates]]\nhook = \"raw_tracepoint.w:sched_process_exit\"\ndeny = \"EIO\"\n{gate}\n"
    )
}

#[test]
fn writes_and_labels_of_gates_are_held_to_the_kernel_and_the_probes() {
    let words = || Shown::Names(vec!["no".to_owned(), "yes".to_owned()]);
    let label = "by.l = 'p->pid == 1 ? \"yes\" : \"no\"'\nask.v = \"p->pid\"\nof = \"p\"";
    let good = at_exit(&format!("{label}\nwrite.\"p->exit_code\" = \"0xffffffff\""));
    let found = gates(&good, "v", &[words()]).unwrap();
    let way = &found[0][0];
    assert_eq!(
        way.hook.to_string(),
        "raw_tracepoint.w:sched_process_exit scope=p"
    );
    assert!(!way.has_typed_arguments);
    assert!(matches!(way.ask, Some(Node::Load(Load::Walk { .. }))));
    // Words have the numbers that they have at probes.
    let Some(super::expr::Label::Number(Node::Choose(_, yes, no), shown)) = &way.by[0] else {
        panic!("{:?}", way.by);
    };
    assert_eq!((&**yes, &**no), (&Node::Constant(1), &Node::Constant(0)));
    assert_eq!(*shown, words());
    let btf = Btf::vmlinux().unwrap();
    let write = &way.writes[0];
    let offset = btf.field_offset("task_struct", "exit_code").unwrap();
    assert_eq!(
        (i64::from(write.offset), write.bytes, write.value),
        (i64::from(offset), 4, 0xffff_ffff)
    );

    let write = "write.\"p->exit_code\" = \"1\"\nask.v = \"1\"\n";
    for (gate, labels, why) in [
        (
            "write.\"p->exit_code\" = \"0x100000000\"\nask.v = \"1\"".to_owned(),
            words(),
            "more than its 4 bytes",
        ),
        (
            "write.\"p->signal->flags\" = \"1\"\nask.v = \"1\"".to_owned(),
            words(),
            "only whole fields",
        ),
        (
            "write.\"current->pid\" = \"1\"\nask.v = \"1\"".to_owned(),
            words(),
            "only whole fields",
        ),
        (
            "write.\"p->exit_cod\" = \"1\"\nask.v = \"1\"".to_owned(),
            words(),
            "no member exit_cod",
        ),
        (format!("{write}if = \"0\""), words(), "never true"),
        (format!("{write}if = \"elapsed\""), words(), "paired probe"),
        (
            format!("{write}by.l = '\"maybe\"'"),
            words(),
            "never \"maybe\" at a probe",
        ),
        (
            format!("{write}by.l = \"p->pid\""),
            words(),
            "a text at a probe",
        ),
        (
            format!("{write}by.l = \"p->comm\""),
            Shown::Unsigned,
            "a text at a probe",
        ),
    ] {
        let error = gates(&at_exit(&gate), "v", &[labels])
            .expect_err(&gate)
            .to_string();
        assert!(error.contains(why), "{gate}: {error}");
    }
}

#[test]
fn a_gate_that_cannot_be_had_in_any_way_is_told_with_all() {
    let text = at_exit(
        "ask.v = \"p->pids\"\nwrite.\"p->pid\" = \"1\"\n[[gates.else]]\nhook = \"fmod_ret:no_such_function\"",
    );
    let error = gates(&text, "v", &[Shown::Unsigned]).expect_err("neither");
    assert!(
        matches!(&error, ResolveError::None(ways) if ways.len() == 2),
        "{error}"
    );
}
