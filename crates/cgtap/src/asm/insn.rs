//! One instruction, with an encoder for each form that cgtap generates
//! (Documentation/bpf/standardization/instruction-set.rst).

use serde::{Deserialize, Serialize};

/// `struct bpf_insn`: eight bytes; `ldimm64` takes two of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Insn {
    /// Opcode: class, source and operation.
    pub code: u8,
    /// Destination register in the low nibble, source register in the high one.
    pub regs: u8,
    /// Signed offset: of memory, or of a jump in instructions.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

/// A register. R0 returns, R1-R5 pass arguments and do not survive a call, R6-R9 do, R10 is the
/// read-only frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the architecture's own")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// Width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// Four bytes.
    W = 0x00,
    /// Two bytes.
    H = 0x08,
    /// One byte.
    B = 0x10,
    /// Eight bytes.
    Dw = 0x18,
}

impl Size {
    /// The width of so many bytes: 1, 2, 4 or else 8.
    #[must_use]
    pub const fn of_bytes(bytes: u8) -> Self {
        match bytes {
            1 => Self::B,
            2 => Self::H,
            4 => Self::W,
            _ => Self::Dw,
        }
    }

    /// Bytes that it is.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::B => 1,
            Self::H => 2,
            Self::W => 4,
            Self::Dw => 8,
        }
    }
}

/// Arithmetic on 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the instruction set's own")]
pub enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    /// Unsigned; by 0 it is 0.
    Div = 0x30,
    Or = 0x40,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    /// Unsigned; by 0 it is what is divided.
    Mod = 0x90,
    Xor = 0xa0,
    Mov = 0xb0,
    Arsh = 0xc0,
}

/// Condition of a jump, unsigned unless named signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the instruction set's own")]
pub enum Cond {
    Eq = 0x10,
    Gt = 0x20,
    Ge = 0x30,
    Set = 0x40,
    Ne = 0x50,
    SignedGt = 0x60,
    SignedGe = 0x70,
    Lt = 0xa0,
    Le = 0xb0,
    SignedLt = 0xc0,
    SignedLe = 0xd0,
}

impl Cond {
    /// What holds exactly where this does not; none for `Set`, which no other denies.
    #[must_use]
    pub const fn negated(self) -> Option<Self> {
        Some(match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Gt => Self::Le,
            Self::Le => Self::Gt,
            Self::Ge => Self::Lt,
            Self::Lt => Self::Ge,
            Self::SignedGt => Self::SignedLe,
            Self::SignedLe => Self::SignedGt,
            Self::SignedGe => Self::SignedLt,
            Self::SignedLt => Self::SignedGe,
            Self::Set => return None,
        })
    }
}

const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ALU: u8 = 0x04;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;
const SRC_X: u8 = 0x08;
const MODE_MEM: u8 = 0x60;
const MODE_ATOMIC: u8 = 0xc0;
const OP_JA: u8 = 0x00;
const OP_CALL: u8 = 0x80;
const OP_EXIT: u8 = 0x90;
const LDIMM64: u8 = 0x18;
/// Of an atomic operation: its source register is what was there.
const BPF_FETCH: i32 = 0x01;

/// `src_reg` of a call: a subprogram of the same stream, relative.
const PSEUDO_CALL: u8 = 1;
/// `src_reg` of a call: a function of the kernel, by BTF id.
const PSEUDO_KFUNC_CALL: u8 = 2;
/// `src_reg` of `ldimm64`: a map's descriptor.
pub const PSEUDO_MAP_FD: u8 = 1;
/// `src_reg` of `ldimm64`: the address of a map's value.
pub const PSEUDO_MAP_VALUE: u8 = 2;
/// `src_reg` of `ldimm64`: a variable of the kernel, by BTF id.
pub const PSEUDO_BTF_ID: u8 = 3;
/// `src_reg` of `ldimm64`: the address of a subprogram of the same stream, relative.
pub const PSEUDO_FUNC: u8 = 4;
/// `src_reg` of `ldimm64`: a map by its index in a list.
pub const PSEUDO_MAP_IDX: u8 = 5;
/// `src_reg` of `ldimm64`: the address of a map's value, map by its index in a list.
pub const PSEUDO_MAP_IDX_VALUE: u8 = 6;

/// Helper functions that generated code calls or that are looked for in members
/// (`___BPF_FUNC_MAPPER`, include/uapi/linux/bpf.h).
pub mod helper {
    /// `bpf_map_lookup_elem`.
    pub const MAP_LOOKUP_ELEM: i32 = 1;
    /// `bpf_map_update_elem`.
    pub const MAP_UPDATE_ELEM: i32 = 2;
    /// `bpf_map_delete_elem`.
    pub const MAP_DELETE_ELEM: i32 = 3;
    /// `bpf_ktime_get_ns`.
    pub const KTIME_GET_NS: i32 = 5;
    /// `bpf_get_smp_processor_id`.
    pub const GET_SMP_PROCESSOR_ID: i32 = 8;
    /// `bpf_tail_call`.
    pub const TAIL_CALL: i32 = 12;
    /// `bpf_get_current_pid_tgid`.
    pub const GET_CURRENT_PID_TGID: i32 = 14;
    /// `bpf_get_current_comm`.
    pub const GET_CURRENT_COMM: i32 = 16;
    /// `bpf_get_current_task`.
    pub const GET_CURRENT_TASK: i32 = 35;
    /// `bpf_perf_event_read_value`, since 4.15.
    pub const PERF_EVENT_READ_VALUE: i32 = 55;
    /// `bpf_get_current_cgroup_id`.
    pub const GET_CURRENT_CGROUP_ID: i32 = 80;
    /// `bpf_get_local_storage`.
    pub const GET_LOCAL_STORAGE: i32 = 81;
    /// `bpf_send_signal`, to the process of the running task, since 5.3.
    pub const SEND_SIGNAL: i32 = 109;
    /// `bpf_probe_read_user`, since 5.5.
    pub const PROBE_READ_USER: i32 = 112;
    /// `bpf_probe_read_kernel`, since 5.5.
    pub const PROBE_READ_KERNEL: i32 = 113;
    /// `bpf_probe_read_kernel_str`, since 5.5.
    pub const PROBE_READ_KERNEL_STR: i32 = 115;
    /// `bpf_get_current_task_btf`, since 5.11.
    pub const GET_CURRENT_TASK_BTF: i32 = 158;
    /// `bpf_override_return`, since 4.16.
    pub const OVERRIDE_RETURN: i32 = 58;
    /// `bpf_get_func_ip`, since 5.15.
    pub const GET_FUNC_IP: i32 = 173;
    /// `bpf_get_attach_cookie`, since 5.15.
    pub const GET_ATTACH_COOKIE: i32 = 174;
    /// `bpf_get_retval`: what the programs before this one made of a cgroup's event, since 5.18.
    pub const GET_RETVAL: i32 = 186;
    /// `bpf_set_retval`: what the caller gets of it, since 5.18.
    pub const SET_RETVAL: i32 = 187;
}

impl Insn {
    const fn new(code: u8, dst: Reg, src: Reg, off: i16, imm: i32) -> Self {
        Self {
            code,
            regs: dst as u8 | ((src as u8) << 4),
            off,
            imm,
        }
    }

    /// `dst OP= src`.
    #[must_use]
    pub const fn alu(op: Alu, dst: Reg, src: Reg) -> Self {
        Self::new(ALU64 | SRC_X | op as u8, dst, src, 0, 0)
    }

    /// `dst OP= imm`, the immediate sign-extended.
    #[must_use]
    pub const fn alu_imm(op: Alu, dst: Reg, imm: i32) -> Self {
        Self::new(ALU64 | op as u8, dst, Reg::R0, 0, imm)
    }

    /// `dst OP= src` on 32 bits; the upper half of `dst` becomes zero.
    #[must_use]
    pub const fn alu32(op: Alu, dst: Reg, src: Reg) -> Self {
        Self::new(ALU | SRC_X | op as u8, dst, src, 0, 0)
    }

    /// `dst OP= imm` on 32 bits; the upper half of `dst` becomes zero.
    #[must_use]
    pub const fn alu32_imm(op: Alu, dst: Reg, imm: i32) -> Self {
        Self::new(ALU | op as u8, dst, Reg::R0, 0, imm)
    }

    /// `dst = src`.
    #[must_use]
    pub const fn mov(dst: Reg, src: Reg) -> Self {
        Self::alu(Alu::Mov, dst, src)
    }

    /// `dst = imm`, sign-extended.
    #[must_use]
    pub const fn mov_imm(dst: Reg, imm: i32) -> Self {
        Self::alu_imm(Alu::Mov, dst, imm)
    }

    /// `dst = *(size *)(src + off)`.
    #[must_use]
    pub const fn load(size: Size, dst: Reg, src: Reg, off: i16) -> Self {
        Self::new(LDX | MODE_MEM | size as u8, dst, src, off, 0)
    }

    /// `*(size *)(dst + off) = src`.
    #[must_use]
    pub const fn store(size: Size, dst: Reg, off: i16, src: Reg) -> Self {
        Self::new(STX | MODE_MEM | size as u8, dst, src, off, 0)
    }

    /// `*(size *)(dst + off) = imm`.
    #[must_use]
    pub const fn store_imm(size: Size, dst: Reg, off: i16, imm: i32) -> Self {
        Self::new(ST | MODE_MEM | size as u8, dst, Reg::R0, off, imm)
    }

    /// `lock *(u64 *)(dst + off) += src`.
    #[must_use]
    pub const fn atomic_add(dst: Reg, off: i16, src: Reg) -> Self {
        Self::atomic(dst, off, src, Alu::Add as i32)
    }

    /// `src = atomic { old = *(u64 *)(dst + off); *(u64 *)(dst + off) += src; old }`, since 5.12.
    #[must_use]
    pub const fn atomic_fetch_add(dst: Reg, off: i16, src: Reg) -> Self {
        Self::atomic(dst, off, src, Alu::Add as i32 | BPF_FETCH)
    }

    /// `if *(u64 *)(dst + off) == R0 { *(u64 *)(dst + off) = src }`, atomically; R0 is what was there,
    /// since 5.12.
    #[must_use]
    pub const fn atomic_compare_exchange(dst: Reg, off: i16, src: Reg) -> Self {
        const BPF_CMPXCHG: i32 = 0xf1;
        Self::atomic(dst, off, src, BPF_CMPXCHG)
    }

    /// An atomic operation on 64 bits.
    const fn atomic(dst: Reg, off: i16, src: Reg, operation: i32) -> Self {
        let code = STX | MODE_ATOMIC | Size::Dw as u8;
        Self::new(code, dst, src, off, operation)
    }

    /// Jump by `off` instructions if `dst COND src`.
    #[must_use]
    pub const fn jump_if(cond: Cond, dst: Reg, src: Reg, off: i16) -> Self {
        Self::new(JMP | SRC_X | cond as u8, dst, src, off, 0)
    }

    /// Jump by `off` instructions if `dst COND imm`, the immediate sign-extended.
    #[must_use]
    pub const fn jump_if_imm(cond: Cond, dst: Reg, imm: i32, off: i16) -> Self {
        Self::new(JMP | cond as u8, dst, Reg::R0, off, imm)
    }

    /// Jump by `off` instructions.
    #[must_use]
    pub const fn jump(off: i16) -> Self {
        Self::new(JMP | OP_JA, Reg::R0, Reg::R0, off, 0)
    }

    /// Call of a helper.
    #[must_use]
    pub const fn call(helper: i32) -> Self {
        Self::new(JMP | OP_CALL, Reg::R0, Reg::R0, 0, helper)
    }

    /// Call of a function of the kernel (kfunc) by its BTF id in the kernel itself.
    #[must_use]
    pub const fn call_kfunc(id: i32) -> Self {
        Self {
            code: JMP | OP_CALL,
            regs: PSEUDO_KFUNC_CALL << 4,
            off: 0,
            imm: id,
        }
    }

    /// Call of a subprogram that starts `off` instructions behind the next one.
    #[must_use]
    pub const fn call_sub(off: i32) -> Self {
        Self {
            code: JMP | OP_CALL,
            regs: PSEUDO_CALL << 4,
            off: 0,
            imm: off,
        }
    }

    /// Return R0.
    #[must_use]
    pub const fn exit() -> Self {
        Self::new(JMP | OP_EXIT, Reg::R0, Reg::R0, 0, 0)
    }

    /// `dst = value`, 64 bits.
    #[must_use]
    pub const fn load_imm64(dst: Reg, value: u64) -> [Self; 2] {
        Self::wide(dst, 0, value as u32 as i32, (value >> 32) as i32)
    }

    /// `dst = ` the map at `index` of the program's list of maps.
    #[must_use]
    pub const fn load_map(dst: Reg, index: u32) -> [Self; 2] {
        Self::wide(dst, PSEUDO_MAP_IDX, index as i32, 0)
    }

    /// `dst = ` the address `offset` bytes into the value of the one-entry ARRAY at `index` of
    /// the program's list of maps.
    #[must_use]
    pub const fn load_map_value(dst: Reg, index: u32, offset: u32) -> [Self; 2] {
        Self::wide(dst, PSEUDO_MAP_IDX_VALUE, index as i32, offset as i32)
    }

    const fn wide(dst: Reg, pseudo: u8, low: i32, high: i32) -> [Self; 2] {
        [
            Self {
                code: LDIMM64,
                regs: dst as u8 | (pseudo << 4),
                off: 0,
                imm: low,
            },
            Self {
                code: 0,
                regs: 0,
                off: 0,
                imm: high,
            },
        ]
    }

    /// Number of the destination register.
    #[must_use]
    pub const fn dst(self) -> u8 {
        self.regs & 0x0f
    }

    /// Number of the source register, or the `src_reg` marker of calls and `ldimm64`.
    #[must_use]
    pub const fn src(self) -> u8 {
        self.regs >> 4
    }

    /// The first half of a `ldimm64`; the next slot is its second half.
    #[must_use]
    pub const fn is_load_imm64(self) -> bool {
        self.code == LDIMM64
    }

    /// The `src_reg` marker and the index, if this loads a map or the address of its value.
    #[must_use]
    pub const fn map_index(self) -> Option<u32> {
        if self.is_load_imm64()
            && (self.src() == PSEUDO_MAP_IDX || self.src() == PSEUDO_MAP_IDX_VALUE)
        {
            Some(self.imm as u32)
        } else {
            None
        }
    }

    /// Calls `helper`.
    #[must_use]
    pub const fn is_call_of(self, helper: i32) -> bool {
        self.is_call() && self.src() == 0 && self.imm == helper
    }

    /// Calls a helper, a function of the kernel or a subprogram.
    #[must_use]
    pub const fn is_call(self) -> bool {
        self.code == JMP | OP_CALL
    }

    /// Writes to that register, other than by a call.
    #[must_use]
    pub const fn writes(self, reg: Reg) -> bool {
        let written = match self.code & 0x07 {
            LDX | ALU | ALU64 => self.dst(),
            STX if self.code & 0xe0 == MODE_ATOMIC && self.imm & BPF_FETCH != 0 => self.src(),
            _ if self.is_load_imm64() => self.dst(),
            _ => return false,
        };
        written == reg as u8
    }

    /// How many bytes below the frame pointer it writes memory by that register, if it does.
    #[must_use]
    pub const fn writes_frame(self) -> Option<u32> {
        let class = self.code & 0x07;
        if (class == ST || class == STX) && self.dst() == Reg::R10 as u8 && self.off < 0 {
            Some((self.off as i32).unsigned_abs())
        } else {
            None
        }
    }

    /// The BTF id of the function that it calls, if that is one of the kernel itself (kfunc).
    #[must_use]
    pub const fn kfunc(self) -> Option<i32> {
        if self.is_call() && self.src() == PSEUDO_KFUNC_CALL && self.off == 0 {
            Some(self.imm)
        } else {
            None
        }
    }

    /// Calls a subprogram of the same stream.
    #[must_use]
    pub const fn is_call_sub(self) -> bool {
        self.is_call() && self.src() == PSEUDO_CALL
    }

    /// Takes the address of a subprogram of the same stream.
    #[must_use]
    pub const fn is_load_func(self) -> bool {
        self.is_load_imm64() && self.src() == PSEUDO_FUNC
    }

    /// Returns from the function.
    #[must_use]
    pub const fn is_exit(self) -> bool {
        self.code == JMP | OP_EXIT
    }

    /// Jumps by a number of instructions in `off` (or, for the 32-bit form of `ja`, in `imm`):
    /// neither a call nor an exit.
    #[must_use]
    pub const fn is_jump(self) -> bool {
        let class = self.code & 0x07;
        let op = self.code & 0xf0;
        (class == JMP || class == JMP32) && op != OP_CALL && op != OP_EXIT
    }

    /// `ja` with its distance in `imm` (`gotol`, since 6.6).
    #[must_use]
    pub const fn is_long_jump(self) -> bool {
        self.code == JMP32 | OP_JA
    }
}
