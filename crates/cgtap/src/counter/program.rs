//! The programs that charge counters to cgroups.
//!
//! Each CPU has one counter an event, which counts whatever runs there. What it counted between two
//! switches belongs to the cgroup that ran between them. So the programs remember, for each CPU, whose
//! turn it is and what the counters said when it began; when another cgroup's turn begins, the
//! differences are added to the row of the one that ends. A switch within a cgroup is a few loads.
//!
//! They never meet on a CPU: `sched_switch` runs with interrupts off and never within itself, the
//! flush in an interrupt or with preemption off, and the one at `cgroup_attach_task` under a lock
//! that is taken with interrupts off. So plain loads and stores on per-CPU memory will do.

use super::event::AtSwitch;
use super::rows::{OUTSIDE, Place, Plan};
use crate::asm::{Alu, Builder, Cond, EditError, Insn, Reg, Size, helper};
use crate::kernel::emit;
use crate::kernel::layout::Layout;

/// Maps of the programs that charge, by their index.
pub mod charge_map {
    /// PERCPU_ARRAY of one: whose turn it is on this CPU.
    pub const TURN: u32 = 0;
    /// HASH: cgroup id to row.
    pub const CGROUPS: u32 = 1;
    /// PERCPU_ARRAY: the rows.
    pub const ROWS: u32 = 2;
    /// PERF_EVENT_ARRAY: event after event, in each CPU after CPU.
    pub const EVENTS: u32 = 3;
    /// ARRAY of one: the control words.
    pub const CONTROL: u32 = 4;
}

/// Maps of the programs that follow the tree, by their index.
pub mod tree_map {
    /// HASH: cgroup id to row.
    pub const CGROUPS: u32 = 0;
    /// ARRAY of one: the control words.
    pub const CONTROL: u32 = 1;
    /// ARRAY of one: id and parent's row of each row.
    pub const BORN: u32 = 2;
}

/// Control words.
pub mod control {
    /// The next row that is free.
    pub const NEXT_ROW: usize = 0;
    /// Cgroups that were made and found no place in the map of cgroups.
    pub const UNPLACED: usize = 1;
    /// Cgroups that found no row of their own and share that of the one above.
    pub const MERGED: usize = 2;
    /// Counters that could not be read at a switch.
    pub const UNREAD: usize = 3;
    /// Switches that were not seen, so that what another cgroup did was charged to the one before.
    pub const UNSEEN: usize = 4;
    /// Not 0 if a CPU went offline: the counters there stand still from then on, also when it comes again.
    pub const WENT: usize = 5;
    /// Number of words.
    pub const WORDS: usize = 8;
}

/// Words of a turn: the cgroup, its row, whether we count, the task that runs; then what each word of a row's
/// counters said when it began.
pub(super) mod turn {
    pub const ID: i16 = 0;
    pub const ROW: i16 = 8;
    pub const IS_COUNTING: i16 = 16;
    pub const TASK: i16 = 24;
    pub const LAST: usize = 4;
}

/// Bytes of a turn.
#[must_use]
pub fn turn_bytes(plan: &Plan) -> usize {
    (turn::LAST + plan.words) * 8
}

/// What is generated for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The kernel's layout.
    pub layout: &'a Layout,
    /// The rows' layout.
    pub plan: &'a Plan,
    /// Places for CPUs in the map of events.
    pub cpus: u32,
}

/// Stack.
const KEY: i16 = -8;
const INDEX: i16 = -16;
/// `struct bpf_perf_event_value`: counter, enabled, running.
const VALUE: i16 = -40;

const TURN: Reg = Reg::R6;
const ROW: Reg = Reg::R7;
/// The cgroup whose turn begins, and later the number of the CPU.
const ID: Reg = Reg::R8;
const CPU: Reg = Reg::R8;
/// The row whose turn begins.
const NEXT_ROW: Reg = Reg::R9;
/// The tasks of a switch, before there are rows.
const PREV: Reg = Reg::R7;
const NEXT: Reg = Reg::R9;

/// Why turns change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// At the tracepoint of a switch.
    Switch,
    /// Anywhere else.
    Now,
}

/// Appends `dst = id of the cgroup of the task in dst`.
fn cgroup_id(b: &mut Builder, layout: &Layout, dst: Reg, task: Reg) {
    emit::cgroup_of_task(b, layout, dst, task);
    b.push(Insn::load(Size::Dw, dst, dst, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, dst, dst, layout.kn_id));
}

/// Appends a lookup of the key at `key` on the stack.
fn lookup(b: &mut Builder, map: u32, key: i16) {
    b.call_map(map, key, helper::MAP_LOOKUP_ELEM);
}

/// Appends `[ROW + word] += R1 - [TURN last word]; [TURN last word] = R1`.
fn charge_word(b: &mut Builder, word: usize) {
    let last = ((turn::LAST + word) * 8) as i16;
    let sum = (word * 8) as i16;
    b.push(Insn::load(Size::Dw, Reg::R2, TURN, last))
        .push(Insn::store(Size::Dw, TURN, last, Reg::R1))
        .push(Insn::alu(Alu::Sub, Reg::R1, Reg::R2))
        .push(Insn::load(Size::Dw, Reg::R2, ROW, sum))
        .push(Insn::alu(Alu::Add, Reg::R2, Reg::R1))
        .push(Insn::store(Size::Dw, ROW, sum, Reg::R2));
}

/// Appends `[ROW + word] += 1`.
fn count_word(b: &mut Builder, word: usize) {
    let sum = (word * 8) as i16;
    b.push(Insn::load(Size::Dw, Reg::R1, ROW, sum))
        .push(Insn::alu_imm(Alu::Add, Reg::R1, 1))
        .push(Insn::store(Size::Dw, ROW, sum, Reg::R1));
}

/// Appends what ends the turn of the row whose number is in R1: reads every counter and adds what
/// it has counted since the turn began. Clobbers [`ID`].
fn charge(b: &mut Builder, target: &Target<'_>, when: When, out: crate::asm::Label) {
    b.push(Insn::store(Size::W, Reg::R10, INDEX, Reg::R1));
    lookup(b, charge_map::ROWS, INDEX);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .push(Insn::mov(ROW, Reg::R0))
        .push(Insn::call(helper::GET_SMP_PROCESSOR_ID))
        .push(Insn::mov(CPU, Reg::R0));
    let mut at = 0;
    for place in &target.plan.places {
        if place.at_switch == AtSwitch::Itself {
            if when == When::Switch {
                count_word(b, place.word);
            }
            continue;
        }
        read(b, target, at);
        at += 1;
        let (unread, next) = (b.label(), b.label());
        b.jump_if_imm(Cond::Ne, Reg::R0, 0, unread);
        charge_value(b, place, when);
        b.jump(next);
        b.place(unread);
        b.increment(charge_map::CONTROL, control::UNREAD);
        b.place(next);
    }
}

/// Appends a read of perf event `at` on this CPU into the stack; R0 is 0 if it went well.
fn read(b: &mut Builder, target: &Target<'_>, at: u32) {
    b.extend(Insn::load_map(Reg::R1, charge_map::EVENTS))
        .push(Insn::mov(Reg::R2, CPU))
        .push(Insn::alu_imm(Alu::Add, Reg::R2, (at * target.cpus) as i32))
        .stack_address(Reg::R3, VALUE)
        .push(Insn::mov_imm(Reg::R4, 24))
        .push(Insn::call(helper::PERF_EVENT_READ_VALUE));
}

fn charge_value(b: &mut Builder, place: &Place, when: When) {
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, VALUE));
    if place.at_switch == AtSwitch::OneMore && when == When::Switch {
        b.push(Insn::alu_imm(Alu::Add, Reg::R1, 1));
    }
    charge_word(b, place.word);
    if place.has_times {
        for time in 1..=2 {
            b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, VALUE + 8 * time));
            charge_word(b, place.word + time as usize);
        }
    }
}

/// Appends `TURN = this CPU's turn`.
fn find_turn(b: &mut Builder, out: crate::asm::Label) {
    b.push(Insn::store_imm(Size::W, Reg::R10, INDEX, 0));
    lookup(b, charge_map::TURN, INDEX);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .push(Insn::mov(TURN, Reg::R0));
}

/// Appends `NEXT_ROW = row of the cgroup ID`, which is the one outside for one that is not counted.
fn find_row(b: &mut Builder) {
    let unknown = b.label();
    b.push(Insn::store(Size::Dw, Reg::R10, KEY, ID));
    lookup(b, charge_map::CGROUPS, KEY);
    b.push(Insn::mov_imm(NEXT_ROW, OUTSIDE as i32))
        .jump_if_imm(Cond::Eq, Reg::R0, 0, unknown)
        .push(Insn::load(Size::Dw, NEXT_ROW, Reg::R0, 0));
    b.place(unknown);
}

/// Appends the change of the turn in [`TURN`] to the cgroup whose id is in [`ID`], and the end.
fn change(b: &mut Builder, target: &Target<'_>, when: When, out: crate::asm::Label) {
    let same_row = b.label();
    b.push(Insn::load(Size::Dw, Reg::R1, TURN, turn::ID))
        .jump_if(Cond::Eq, Reg::R1, ID, out)
        .push(Insn::load(Size::Dw, Reg::R1, TURN, turn::IS_COUNTING))
        .jump_if_imm(Cond::Eq, Reg::R1, 0, out);
    find_row(b);
    b.push(Insn::store(Size::Dw, TURN, turn::ID, ID))
        .push(Insn::load(Size::Dw, Reg::R1, TURN, turn::ROW))
        // Two cgroups that are counted in one row, or not at all, go on with one turn.
        .jump_if(Cond::Eq, Reg::R1, NEXT_ROW, same_row)
        .push(Insn::store(Size::Dw, TURN, turn::ROW, NEXT_ROW));
    charge(b, target, when, out);
    b.jump(out);
    b.place(same_row);
    let itself = target
        .plan
        .places
        .iter()
        .find(|p| p.at_switch == AtSwitch::Itself);
    if let (Some(place), When::Switch) = (itself, when) {
        b.push(Insn::store(Size::W, Reg::R10, INDEX, Reg::R1));
        lookup(b, charge_map::ROWS, INDEX);
        b.jump_if_imm(Cond::Eq, Reg::R0, 0, out)
            .push(Insn::mov(ROW, Reg::R0));
        count_word(b, place.word);
    }
    end(b, out);
}

fn end(b: &mut Builder, out: crate::asm::Label) {
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
}

/// Generates the program at `tp_btf/sched_switch`, whose arguments are `preempt`, `prev`, `next`.
/// Its maps are those of [`charge_map`], as are those of the two below.
///
/// The cgroup that ends its turn is the remembered one, not that of `prev`: a task that was moved
/// by another while it ran here has worked for the old one until now.
///
/// # Errors
/// [`EditError`] if a jump became too long; it cannot.
pub fn at_switch(target: &Target<'_>) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let out = b.label();
    b.push(Insn::load(Size::Dw, PREV, Reg::R1, 8))
        .push(Insn::load(Size::Dw, NEXT, Reg::R1, 16));
    find_turn(&mut b, out);
    notice_unseen(&mut b, PREV, NEXT, |b, seen| {
        cgroup_id(b, target.layout, ID, PREV);
        unless_in_turn(b, seen);
    });
    cgroup_id(&mut b, target.layout, ID, NEXT);
    change(&mut b, target, When::Switch, out);
    b.finish()
}

/// Appends what counts a switch before this one that was not seen: to the task in `ran`, whatever its turn was.
/// What it did was charged to the turn's cgroup, so none is counted where `unless` finds it to be its own and
/// jumps. Remembers the task in `runs`.
fn notice_unseen(
    b: &mut Builder,
    ran: Reg,
    runs: Reg,
    unless: impl FnOnce(&mut Builder, crate::asm::Label),
) {
    let seen = b.label();
    b.push(Insn::load(Size::Dw, Reg::R1, TURN, turn::TASK))
        .push(Insn::store(Size::Dw, TURN, turn::TASK, runs))
        .jump_if(Cond::Eq, Reg::R1, ran, seen)
        .push(Insn::load(Size::Dw, Reg::R1, TURN, turn::IS_COUNTING))
        .jump_if_imm(Cond::Eq, Reg::R1, 0, seen);
    unless(b, seen);
    b.increment(charge_map::CONTROL, control::UNSEEN);
    b.place(seen);
}

/// Appends a jump if the turn is that of the cgroup whose id is in [`ID`].
fn unless_in_turn(b: &mut Builder, seen: crate::asm::Label) {
    b.push(Insn::load(Size::Dw, Reg::R1, TURN, turn::ID))
        .jump_if(Cond::Eq, Reg::R1, ID, seen);
}

/// Generates the program at `tp_btf/cgroup_attach_task`: a task that moves itself, which is what
/// `echo $$ >cgroup.procs` does, works for the new cgroup from here on.
///
/// Of one that was not seen to begin nobody knows which cgroup it worked for until now, and the turn is
/// right again from here on, so the next switch would not show it.
///
/// # Errors
/// As [`at_switch`].
pub fn at_move(target: &Target<'_>) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let out = b.label();
    find_turn(&mut b, out);
    b.push(Insn::call(helper::GET_CURRENT_TASK_BTF))
        .push(Insn::mov(NEXT, Reg::R0));
    notice_unseen(&mut b, NEXT, NEXT, |_, _| {});
    cgroup_id(&mut b, target.layout, ID, NEXT);
    change(&mut b, target, When::Now, out);
    b.finish()
}

/// Generates the raw tracepoint program that ends the turn on the CPU it is run on and begins that
/// of whoever runs there. Its one argument says whether we count from now on.
///
/// # Errors
/// As [`at_switch`].
pub fn flush(target: &Target<'_>) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let (out, was_off) = (b.label(), b.label());
    b.push(Insn::load(Size::Dw, ROW, Reg::R1, 0));
    find_turn(&mut b, out);
    b.push(Insn::call(helper::GET_CURRENT_TASK_BTF))
        .push(Insn::mov(NEXT, Reg::R0));
    cgroup_id(&mut b, target.layout, ID, NEXT);
    notice_unseen(&mut b, NEXT, NEXT, unless_in_turn);
    b.push(Insn::load(Size::Dw, NEXT_ROW, TURN, turn::IS_COUNTING))
        .push(Insn::store(Size::Dw, TURN, turn::IS_COUNTING, ROW))
        .jump_if_imm(Cond::Ne, NEXT_ROW, 0, was_off)
        // What was counted before the start is nobody's.
        .push(Insn::mov_imm(Reg::R1, OUTSIDE as i32))
        .push(Insn::store(Size::Dw, TURN, turn::ROW, Reg::R1));
    b.place(was_off);
    find_row(&mut b);
    b.push(Insn::store(Size::Dw, TURN, turn::ID, ID))
        .push(Insn::load(Size::Dw, Reg::R1, TURN, turn::ROW))
        .push(Insn::store(Size::Dw, TURN, turn::ROW, NEXT_ROW));
    charge(&mut b, target, When::Now, out);
    end(&mut b, out);
    b.finish()
}

/// Generates the program at `tp_btf/cgroup_mkdir`: a cgroup below a counted one is counted before
/// any task can enter it. With `rows` it gets a row of its own if there is one of so many left;
/// otherwise it is counted in the row of the one above. Its maps are those of [`tree_map`].
///
/// # Errors
/// As [`at_switch`].
pub fn at_mkdir(layout: &Layout, rows: Option<u32>) -> Result<Vec<Insn>, EditError> {
    const PARENT_ROW: Reg = Reg::R7;
    let mut b = Builder::new();
    let (out, full, have_row) = (b.label(), b.label(), b.label());
    emit::cgroup_argument(&mut b, layout, out);
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_parent))
        .jump_if_imm(Cond::Eq, Reg::R1, 0, out)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.css_cgroup))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, KEY, Reg::R1));
    lookup(&mut b, tree_map::CGROUPS, KEY);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .push(Insn::load(Size::Dw, PARENT_ROW, Reg::R0, 0))
        .push(Insn::load(Size::Dw, ID, Reg::R6, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, ID, ID, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, KEY, ID))
        .push(Insn::mov(NEXT_ROW, PARENT_ROW));
    if let Some(rows) = rows {
        let merged = b.label();
        b.extend(Insn::load_map_value(
            Reg::R1,
            tree_map::CONTROL,
            (control::NEXT_ROW * 8) as u32,
        ))
        .push(Insn::mov_imm(Reg::R2, 1))
        .push(Insn::atomic_fetch_add(Reg::R1, 0, Reg::R2))
        .jump_if_imm(Cond::Ge, Reg::R2, rows as i32, merged)
        .push(Insn::mov(NEXT_ROW, Reg::R2))
        .push(Insn::alu_imm(Alu::Lsh, Reg::R2, 4))
        .extend(Insn::load_map_value(Reg::R1, tree_map::BORN, 0))
        .push(Insn::alu(Alu::Add, Reg::R1, Reg::R2))
        .push(Insn::store(Size::Dw, Reg::R1, 8, PARENT_ROW))
        .push(Insn::store(Size::Dw, Reg::R1, 0, ID))
        .jump(have_row);
        b.place(merged);
        b.increment(tree_map::CONTROL, control::MERGED);
    }
    b.place(have_row)
        .push(Insn::store(Size::Dw, Reg::R10, INDEX, NEXT_ROW))
        .stack_address(Reg::R2, KEY)
        .stack_address(Reg::R3, INDEX)
        .push(Insn::mov_imm(Reg::R4, 0))
        .extend(Insn::load_map(Reg::R1, tree_map::CGROUPS))
        .push(Insn::call(helper::MAP_UPDATE_ELEM))
        .jump_if_imm(Cond::Ne, Reg::R0, 0, full)
        .jump(out);
    b.place(full);
    b.increment(tree_map::CONTROL, control::UNPLACED);
    end(&mut b, out);
    b.finish()
}

/// Generates the program at `tp_btf/cpuhp_enter`, whose arguments are `cpu`, `target`, `idx`, `fun`: notes that
/// a CPU goes. Its map is that of [`tree_map::CONTROL`].
///
/// # Errors
/// As [`at_switch`].
pub fn at_hotplug() -> Result<Vec<Insn>, EditError> {
    const TARGET: i16 = 8;
    /// `enum cpuhp_state`, include/linux/cpuhotplug.h.
    const CPUHP_OFFLINE: i32 = 0;
    let mut b = Builder::new();
    let out = b.label();
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R1, TARGET))
        .jump_if_imm(Cond::Ne, Reg::R1, CPUHP_OFFLINE, out)
        .extend(Insn::load_map_value(Reg::R1, 0, (control::WENT * 8) as u32))
        .push(Insn::store_imm(Size::Dw, Reg::R1, 0, 1));
    end(&mut b, out);
    b.finish()
}

/// Generates the program at `tp_btf/cgroup_release`: no task is left that could run in it, not even
/// one on its way out, so its place in the map of cgroups is free. Its row stays. Its map is that
/// of [`tree_map::CGROUPS`].
///
/// # Errors
/// As [`at_switch`].
pub fn at_release(layout: &Layout) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let out = b.label();
    emit::cgroup_argument(&mut b, layout, out);
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, KEY, Reg::R1))
        .call_map(tree_map::CGROUPS, KEY, helper::MAP_DELETE_ELEM);
    end(&mut b, out);
    b.finish()
}
