//! Programs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::types::{AttachType, ProgType};
use super::{cstring, object_name, own};
use crate::errno::{Errno, SysError};

/// What to load. Records are the kernel's own layouts, as bytes, so that this crate needs to know
/// nothing of their meaning.
#[derive(Clone, Copy, Debug)]
pub struct ProgSpec<'a> {
    /// Name, for bpftool; cut to 15 characters.
    pub name: &'a str,
    /// Type.
    pub prog_type: ProgType,
    /// Expected attach type.
    pub attach_type: AttachType,
    /// `BPF_F_SLEEPABLE` and its like.
    pub flags: u32,
    /// Declared licence.
    pub license: &'a str,
    /// Declared kernel version, 0 if none.
    pub kern_version: u32,
    /// `struct bpf_insn`s, 8 bytes each. Maps are named by index into `maps`.
    pub insns: &'a [[u8; 8]],
    /// The maps, in the order in which instructions index them.
    pub maps: &'a [BorrowedFd<'a>],
    /// Loaded BTF that `func_info` and `line_info` speak of.
    pub btf: Option<BorrowedFd<'a>>,
    /// `struct bpf_func_info`s, 8 bytes each.
    pub func_info: &'a [[u32; 2]],
    /// `struct bpf_line_info`s, 16 bytes each.
    pub line_info: &'a [[u32; 4]],
    /// BTF id of the attach target in the kernel's BTF, 0 if none.
    pub attach_btf_id: u32,
    /// The BTF that `attach_btf_id` speaks of where that is a kernel module's, since 5.11.
    pub attach_btf: Option<BorrowedFd<'a>>,
}

impl<'a> ProgSpec<'a> {
    /// A program that was generated: it declares GPL, because the helpers that tracing programs
    /// need want it, and has neither BTF nor a target of its own.
    #[must_use]
    pub fn generated(
        name: &'a str,
        prog_type: ProgType,
        insns: &'a [[u8; 8]],
        maps: &'a [BorrowedFd<'a>],
    ) -> Self {
        Self {
            name,
            prog_type,
            attach_type: AttachType::None,
            flags: 0,
            license: "GPL",
            kern_version: 0,
            insns,
            maps,
            btf: None,
            func_info: &[],
            line_info: &[],
            attach_btf_id: 0,
            attach_btf: None,
        }
    }
}

/// A program that the kernel did not take, with the verifier's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BPF_PROG_LOAD: {errno}")]
pub struct LoadError {
    /// The kernel's answer.
    pub errno: Errno,
    /// The verifier's log; empty where it said nothing.
    pub log: String,
}

/// What the kernel tells of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgInfo {
    /// Its id.
    pub id: u32,
    /// Instructions the verifier processed, since 5.16.
    pub verified_insns: u32,
    /// Runs that were refused because the program was already running on that CPU, since 5.12.
    pub recursion_misses: u64,
    /// Id of its BTF, 0 if none.
    pub btf_id: u32,
    /// Bytes of machine code, 0 if it is interpreted.
    pub jited_bytes: u32,
}

/// A descriptor of a loaded program.
#[derive(Debug)]
pub struct Prog {
    fd: OwnedFd,
}

impl Prog {
    /// Loads a program (`BPF_PROG_LOAD`). The log is fetched only for a program that is refused.
    ///
    /// # Errors
    /// [`LoadError`] with the verifier's log: `EACCES` or `EINVAL` for a program it refuses,
    /// `EPERM` without CAP_BPF and CAP_PERFMON, `E2BIG` for one that is too large or too complex.
    pub fn load(spec: &ProgSpec<'_>) -> Result<Self, LoadError> {
        match Self::load_with_log(spec, None) {
            Ok(prog) => Ok(prog),
            Err(errno) => {
                // A second go with a log; a full log gives ENOSPC instead of the true error, so
                // the first answer is the one that counts.
                let mut log = vec![0u8; 1 << 20];
                match Self::load_with_log(spec, Some((1, &mut log))) {
                    Ok(prog) => Ok(prog),
                    Err(_) => Err(LoadError {
                        errno,
                        log: text(&log),
                    }),
                }
            }
        }
    }

    /// Loads a program without asking why if it is refused: half the time of a refusal goes into
    /// its log.
    ///
    /// # Errors
    /// As [`Prog::load`], with an empty log.
    pub fn load_quietly(spec: &ProgSpec<'_>) -> Result<Self, LoadError> {
        Self::load_with_log(spec, None).map_err(|errno| LoadError {
            errno,
            log: String::new(),
        })
    }

    /// Loads a program and returns the verifier's statistics with it: one line `stack depth
    /// 8+16+...` in bytes for each function in the order of the stream (`BPF_LOG_STATS`, since
    /// 5.2).
    ///
    /// # Errors
    /// As [`Prog::load`].
    pub fn load_with_stats(spec: &ProgSpec<'_>) -> Result<(Self, String), LoadError> {
        const BPF_LOG_STATS: u32 = 4;
        let mut log = vec![0u8; 1 << 16];
        match Self::load_with_log(spec, Some((BPF_LOG_STATS, &mut log))) {
            Ok(prog) => Ok((prog, text(&log))),
            Err(_) => Self::load(spec).map(|prog| (prog, String::new())),
        }
    }

    fn load_with_log(spec: &ProgSpec<'_>, log: Option<(u32, &mut [u8])>) -> Result<Self, Errno> {
        let name = object_name(spec.name);
        let license = cstring("BPF_PROG_LOAD", spec.license.as_bytes()).map_err(|e| e.errno)?;
        let fds: Vec<i32> = spec.maps.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: all-zero is the documented default of this plain C struct.
        let mut opts: libbpf_sys::bpf_prog_load_opts = unsafe { std::mem::zeroed() };
        opts.sz = size_of_val(&opts) as _;
        opts.attempts = 5;
        opts.expected_attach_type = spec.attach_type as u32;
        opts.prog_flags = spec.flags;
        opts.kern_version = spec.kern_version;
        opts.attach_btf_id = spec.attach_btf_id;
        opts.attach_btf_obj_fd = spec.attach_btf.map_or(0, |fd| fd.as_raw_fd() as u32);
        opts.prog_btf_fd = spec.btf.map_or(0, |fd| fd.as_raw_fd() as u32);
        opts.fd_array = fds.as_ptr();
        if spec.btf.is_some() {
            opts.func_info = spec.func_info.as_ptr().cast();
            opts.func_info_cnt = spec.func_info.len() as u32;
            opts.func_info_rec_size = 8;
            opts.line_info = spec.line_info.as_ptr().cast();
            opts.line_info_cnt = spec.line_info.len() as u32;
            opts.line_info_rec_size = 16;
        }
        if let Some((level, log)) = log {
            opts.log_level = level;
            opts.log_size = log.len() as u32;
            opts.log_buf = log.as_mut_ptr().cast();
        }
        // SAFETY: every pointer in the options, and the instructions, name buffers of the stated
        // lengths that outlive the call; `[u8; 8]` has the size of `struct bpf_insn` and the
        // kernel copies it, so its alignment does not matter.
        let ret = unsafe {
            libbpf_sys::bpf_prog_load(
                spec.prog_type as u32,
                name.as_ptr(),
                license.as_ptr(),
                spec.insns.as_ptr().cast(),
                spec.insns.len() as _,
                &raw mut opts,
            )
        };
        own("BPF_PROG_LOAD", ret)
            .map(|fd| Self { fd })
            .map_err(|e| e.errno)
    }

    /// Takes a descriptor, which must be one of a program.
    ///
    /// # Errors
    /// `EINVAL` if it is not.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SysError> {
        let prog = Self { fd };
        prog.info()?;
        Ok(prog)
    }

    /// A descriptor of the program with this id.
    ///
    /// # Errors
    /// `ENOENT` if there is none, `EPERM` without CAP_SYS_ADMIN.
    pub fn from_id(id: u32) -> Result<Self, SysError> {
        // SAFETY: takes a number only.
        let ret = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
        own("BPF_PROG_GET_FD_BY_ID", ret).map(|fd| Self { fd })
    }

    /// What the kernel tells of it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn info(&self) -> Result<ProgInfo, SysError> {
        // SAFETY: all-zero is a valid value of this plain C struct.
        let mut info: libbpf_sys::bpf_prog_info = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&info) as u32;
        // SAFETY: `info` is writable for `len` bytes and asks for no array.
        let ret = unsafe {
            libbpf_sys::bpf_prog_get_info_by_fd(self.fd.as_raw_fd(), &raw mut info, &raw mut len)
        };
        SysError::check("BPF_OBJ_GET_INFO_BY_FD", ret)?;
        Ok(ProgInfo {
            id: info.id,
            verified_insns: info.verified_insns,
            recursion_misses: info.recursion_misses,
            btf_id: info.btf_id,
            jited_bytes: info.jited_prog_len,
        })
    }

    /// The program, as the kernel runs it, still calls `helper`: the verifier has not put
    /// instructions in the call's place.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn calls_helper(&self, helper: i32) -> Result<bool, SysError> {
        let call = "BPF_OBJ_GET_INFO_BY_FD";
        let raw = self.fd.as_raw_fd();
        // SAFETY: all-zero is a valid value of this plain C struct.
        let mut info: libbpf_sys::bpf_prog_info = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&info) as u32;
        // SAFETY: `info` is writable for `len` bytes and asks for no array.
        let ret = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(raw, &raw mut info, &raw mut len) };
        SysError::check(call, ret)?;
        let mut insns = vec![[0u8; 8]; info.xlated_prog_len as usize / 8];
        // SAFETY: as above.
        info = unsafe { std::mem::zeroed() };
        info.xlated_prog_len = (insns.len() * 8) as u32;
        info.xlated_prog_insns = insns.as_mut_ptr() as u64;
        len = size_of_val(&info) as u32;
        // SAFETY: the array that `info` names is writable for the length it states.
        let ret = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(raw, &raw mut info, &raw mut len) };
        SysError::check(call, ret)?;
        // A dump shows helpers by their number again (kernel/bpf/syscall.c, bpf_insn_prepare_dump).
        let number = helper.to_ne_bytes();
        Ok(insns
            .iter()
            .any(|i| i[0] == 0x85 && i[1] == 0 && i[4..] == number))
    }

    /// Runs a raw tracepoint program once on `cpu` with `args` as its context: in an interrupt
    /// there, or at once if that is where we are.
    ///
    /// # Errors
    /// `ENXIO` for a CPU that is not online, `EINVAL` if the program's context is larger than
    /// `args`.
    pub fn test_run_on_cpu(&self, cpu: u32, args: &[u64]) -> Result<u32, SysError> {
        self.test_run(args, libbpf_sys::BPF_F_TEST_RUN_ON_CPU, cpu)
    }

    /// Runs a raw tracepoint program once with `args` as its context (`BPF_PROG_TEST_RUN`, since
    /// 5.10). The kernel refuses a program that may read behind them.
    ///
    /// # Errors
    /// `EINVAL` if the program's context is larger than `args`.
    pub fn test_run_raw_tp(&self, args: &[u64]) -> Result<u32, SysError> {
        self.test_run(args, 0, 0)
    }

    fn test_run(&self, args: &[u64], flags: u32, cpu: u32) -> Result<u32, SysError> {
        // SAFETY: all-zero is the documented default of this plain C struct.
        let mut opts: libbpf_sys::bpf_test_run_opts = unsafe { std::mem::zeroed() };
        opts.sz = size_of_val(&opts) as _;
        opts.flags = flags;
        opts.cpu = cpu;
        if !args.is_empty() {
            opts.ctx_in = args.as_ptr().cast();
            opts.ctx_size_in = size_of_val(args) as u32;
        }
        // SAFETY: the context is readable for the length given and outlives the call.
        let ret = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.fd.as_raw_fd(), &raw mut opts) };
        SysError::check("BPF_PROG_TEST_RUN", ret)?;
        Ok(opts.retval)
    }
}

/// A log up to its NUL.
fn text(log: &[u8]) -> String {
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end]).into_owned()
}

impl AsFd for Prog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
