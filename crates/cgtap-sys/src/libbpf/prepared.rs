//! What an object is after libbpf has relocated it.

use std::os::fd::BorrowedFd;

use super::error::LibbpfError;
use super::log::Said;
use super::object::{Object, check};

/// A program after [`Object::prepare`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// `struct bpf_insn` each: opcode, registers, offset, immediate in this machine's order.
    pub insns: Vec<[u8; 8]>,
    /// `struct bpf_func_info` each: instruction, type.
    pub func_info: Vec<[u32; 2]>,
    /// `struct bpf_line_info` each: instruction, file name, line, number and column.
    pub line_info: Vec<[u32; 4]>,
}

/// Copies `count` records of `N` 32-bit words.
fn records<T, const N: usize>(data: *const T, count: u32) -> Vec<[u32; N]> {
    const { assert!(size_of::<T>() == N * 4) };
    if data.is_null() {
        return Vec::new();
    }
    (0..count as usize)
        // SAFETY: libbpf's array has `count` records of the size of `T`, which is `N` words;
        // none of them is ever uninitialised: they are copied from the file or counted up.
        .map(|i| unsafe { data.add(i).cast::<[u32; N]>().read_unaligned() })
        .collect()
}

impl Object {
    /// The relocated program; `None` before [`Object::prepare`] or for no such program. Maps are
    /// named by the descriptors of [`Object::map_fd`]. A program that was not chosen is not
    /// relocated.
    #[must_use]
    pub fn prepared(&self, program: usize) -> Option<Prepared> {
        if !self.prepared {
            return None;
        }
        let program = self.program_ptrs().get(program).copied()?;
        // SAFETY: a program of this live object. The three arrays have as many records as the
        // matching call says, of the sizes of these structs (libbpf gives null for others).
        unsafe {
            let insns = records::<_, 2>(
                libbpf_sys::bpf_program__insns(program),
                u32::try_from(libbpf_sys::bpf_program__insn_cnt(program)).ok()?,
            );
            Some(Prepared {
                insns: insns
                    .into_iter()
                    .map(|[low, high]| {
                        let mut insn = [0; 8];
                        insn[..4].copy_from_slice(&low.to_ne_bytes());
                        insn[4..].copy_from_slice(&high.to_ne_bytes());
                        insn
                    })
                    .collect(),
                func_info: records::<_, 2>(
                    libbpf_sys::bpf_program__func_info(program),
                    libbpf_sys::bpf_program__func_info_cnt(program),
                ),
                line_info: records::<_, 4>(
                    libbpf_sys::bpf_program__line_info(program),
                    libbpf_sys::bpf_program__line_info_cnt(program),
                ),
            })
        }
    }

    /// A map's descriptor; `None` before [`Object::prepare`], for no such map, and for one that
    /// is not created.
    #[must_use]
    pub fn map_fd(&self, map: usize) -> Option<BorrowedFd<'_>> {
        if !self.prepared {
            return None;
        }
        let map = self.map_ptrs().get(map).copied()?;
        // SAFETY: a map of this live object.
        let (fd, created) = unsafe {
            (
                libbpf_sys::bpf_map__fd(map),
                libbpf_sys::bpf_map__autocreate(map),
            )
        };
        // SAFETY: libbpf keeps the descriptor open until the object is closed, which the borrow
        // excludes.
        (created && fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// The BTF as the kernel took it, read back from it; `None` where the kernel has none of this
    /// object (then function and line records must not be used either).
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn kernel_btf(&self) -> Result<Option<Vec<u8>>, LibbpfError> {
        const DOING: &str = "read the object's BTF back";
        // SAFETY: live object.
        let fd = unsafe { libbpf_sys::bpf_object__btf_fd(self.ptr.as_ptr()) };
        if !self.prepared || fd < 0 {
            return Ok(None);
        }
        let mut raw = Vec::new();
        // First for the size, then for the bytes.
        for _ in 0..2 {
            let mut info = libbpf_sys::bpf_btf_info {
                btf: raw.as_mut_ptr() as u64,
                btf_size: raw.len() as u32,
                ..Default::default()
            };
            let mut len = size_of_val(&info) as u32;
            // SAFETY: `info` is writable for `len` bytes, and the buffer it names for `btf_size`.
            let ret =
                unsafe { libbpf_sys::bpf_btf_get_info_by_fd(fd, &raw mut info, &raw mut len) };
            check(DOING, ret, &Said::default())?;
            raw.resize(info.btf_size as usize, 0);
        }
        Ok(Some(raw))
    }
}
