//! Generated code, held to the same expressions in plain Rust. The kernel runs it.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Map, MapSpec, MapType, Prog, ProgSpec, ProgType};
use cgtap_sys::libbpf::Btf;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::code::{Emitter, Frame, Slots};
use super::expr::tests::{Event, Fields, event, expression};
use super::expr::{Node, Parser, check_number};
use super::program::{Plan, generate};
use super::resolve::{Do, Job, Owner, Program};
use super::shape::Shape;
use super::usage::Form;
use crate::asm::{Builder, Insn, Reg, Size, encode};
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
            by: vec![super::expr::check_label("b", &label, &Fields, Vec::new()).unwrap()],
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
    };
    let insns = generate(plan, &program, 0).unwrap();
    let names = [
        "usage",
        "zero",
        "control",
        "labels",
        "label_list",
        "graves",
        "gone",
    ];
    let text = crate::asm::text::listing(&insns, &names, &[]);
    assert_eq!(text, include_str!("tests/charge.txt"), "{text}");
}
