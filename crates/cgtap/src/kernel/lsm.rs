//! Security hooks: their names, and what programs may return there.

use cgtap_sys::bpf::{AttachType, Prog, ProgSpec, ProgType};
use cgtap_sys::libbpf::{Btf, BtfKind};

use super::pretend::{self, Pretended};
use super::target::{Returned, TargetError, TargetInfo, traced};
use crate::asm::{Insn, Reg, encode};
use crate::near::hint;

/// What this kernel knows of a security hook.
///
/// # Errors
/// [`TargetError::Unsupported`] where no program would be called, [`TargetError::Unknown`] with near
/// names.
pub(super) fn resolve(hook: &str) -> Result<TargetInfo, TargetError> {
    const PREFIX: &str = "bpf_lsm_";
    let active = std::fs::read_to_string("/sys/kernel/security/lsm");
    let lacks = |list: String| !list.trim().split(',').any(|name| name == "bpf");
    if pretend::is_missing(Pretended::BpfLsm) || active.is_ok_and(lacks) {
        return Err(TargetError::Unsupported {
            what: "lsm hooks",
            why: "`bpf` is not in its list of security modules, so no program would ever be \
                  called; boot with `lsm=...,bpf` (/sys/kernel/security/lsm shows the list)"
                .to_owned(),
        });
    }
    let mut info =
        traced(&format!("{PREFIX}{hook}"), "security hook", hook).map_err(|e| match e {
            TargetError::Unknown { what, name, .. } => {
                let vmlinux = Btf::vmlinux();
                let names: Vec<String> = vmlinux
                    .iter()
                    .flat_map(|btf| (1..btf.type_count()).map(move |id| (btf, id)))
                    .filter(|(btf, id)| btf.kind(*id) == Some(BtfKind::Func))
                    .filter_map(|(btf, id)| {
                        Some(btf.type_name(id)?.strip_prefix(PREFIX)?.to_owned())
                    })
                    .collect();
                if names.is_empty() {
                    return TargetError::Unsupported {
                        what: "lsm hooks",
                        why: "it was built without CONFIG_BPF_LSM".to_owned(),
                    };
                }
                TargetError::Unknown {
                    what,
                    hint: hint(&name, &names),
                    name,
                }
            }
            other => other,
        })?;
    if info.returned == Returned::Usual {
        info.returned = asked_for(info.attach_btf_id);
    }
    Ok(info)
}

/// What programs at a security hook may return: the verifier is asked, because BTF says `int` of
/// all of them. Kernels before 6.12 take anything; what they make of it is the same.
fn asked_for(hook: u32) -> Returned {
    let takes = |value: i32| {
        let insns = encode(&[Insn::mov_imm(Reg::R0, value), Insn::exit()]);
        Prog::load_quietly(&ProgSpec {
            attach_type: AttachType::LsmMac,
            attach_btf_id: hook,
            ..ProgSpec::generated("cgtap_probe", ProgType::Lsm, &insns, &[])
        })
        .is_ok()
    };
    match (takes(-1), takes(1)) {
        (true, false) => Returned::Errno,
        (false, true) => Returned::Flag,
        _ => Returned::Usual,
    }
}
