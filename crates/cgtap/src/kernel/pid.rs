//! Processes as the kernel numbers them, which is what programs see: in a container /proc and getpid(2) tell other
//! numbers (pid_namespaces(7)).

use std::path::Path;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Prog, ProgSpec, ProgType};

use crate::asm::{Alu, Insn, Reg, encode, helper};

/// The first namespace, in which all processes are (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST: &str = "pid:[4026531836]";

/// Whether numbers of processes are the kernel's own here, and all of them are in /proc.
#[must_use]
pub fn are_the_kernels() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new(FIRST))
}

/// The kernel's number of this process.
///
/// # Errors
/// [`SysError`]: outside of the first namespace a program is run to tell, which takes CAP_BPF and Linux 5.10.
pub fn own() -> Result<u32, SysError> {
    if are_the_kernels() {
        return Ok(std::process::id());
    }
    asked()
}

/// The same, told by a program.
fn asked() -> Result<u32, SysError> {
    let insns = encode(&[
        Insn::call(helper::GET_CURRENT_PID_TGID),
        Insn::alu_imm(Alu::Rsh, Reg::R0, 32),
        Insn::exit(),
    ]);
    let spec = ProgSpec::generated("cgtap_pid", ProgType::RawTracepoint, &insns, &[]);
    let prog = Prog::load(&spec).map_err(|e| SysError {
        call: "BPF_PROG_LOAD",
        errno: e.errno,
    })?;
    prog.test_run_raw_tp(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_the_number_of_the_first_namespace() {
        if are_the_kernels() {
            assert_eq!(asked().unwrap(), std::process::id());
        }
        assert_eq!(own().unwrap(), asked().unwrap());
    }
}
