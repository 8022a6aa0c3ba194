//! An ELF object held by libbpf.

use std::ffi::{CStr, CString, c_char};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::btf::Btf;
use super::error::{LibbpfError, printable};
use super::log::{Capture, Said};
use crate::errno::Errno;

/// A program as its section declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Name of its function.
    pub name: String,
    /// Section, without the leading `?` of those that are not loaded by default.
    pub section: String,
    /// It is to be prepared.
    pub autoload: bool,
    /// `BPF_F_*` of its load.
    pub flags: u32,
}

/// A map as the object defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDefinition {
    /// Its name; of data sections `OBJECT.SECTION`, cut as libbpf does.
    pub name: String,
    /// It holds a data section (`.rodata`, `.bss`, `.kconfig`, ...).
    pub internal: bool,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes.
    pub value_size: u32,
    /// Number of entries.
    pub max_entries: u32,
    /// Type of its values in the object's BTF, 0 if none; the `DATASEC` of a data section.
    pub value_type_id: u32,
}

/// What a map is to be created as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes.
    pub value_size: u32,
    /// Number of entries.
    pub max_entries: u32,
}

/// An object that libbpf has opened. Programs and maps are named by their place in
/// [`Object::programs`] and [`Object::maps`], which does not change.
#[derive(Debug)]
pub struct Object {
    pub(super) ptr: NonNull<libbpf_sys::bpf_object>,
    pub(super) prepared: bool,
    /// libbpf reads (and in places rewrites) the file where it lies.
    _elf: Vec<u8>,
}

impl Drop for Object {
    fn drop(&mut self) {
        let _quiet = Capture::start();
        // SAFETY: came from `bpf_object__open_mem`, closed once.
        unsafe { libbpf_sys::bpf_object__close(self.ptr.as_ptr()) }
    }
}

fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: libbpf's names are NUL-terminated and live as long as the object; copied at once.
    printable(&unsafe { CStr::from_ptr(text) }.to_string_lossy())
}

impl Object {
    /// Opens an ELF object for BPF. `name` is what its data maps are called by in the kernel.
    ///
    /// A malformed file can crash libbpf: see [`super::run_in_child`].
    ///
    /// # Errors
    /// What libbpf says of the file.
    pub fn open(mut elf: Vec<u8>, name: &str) -> Result<Self, LibbpfError> {
        const DOING: &str = "open the object";
        let log = Capture::start();
        let name = CString::new(name.replace('\0', "_")).unwrap_or_default();
        let mut opts = libbpf_sys::bpf_object_open_opts::default();
        opts.sz = size_of_val(&opts) as _;
        opts.object_name = name.as_ptr();
        // SAFETY: the buffer is ours, writable, and lives in the object as long as libbpf's does;
        // the options outlive the call, which copies the name.
        let ptr = unsafe {
            libbpf_sys::bpf_object__open_mem(
                elf.as_mut_ptr().cast_const().cast(),
                elf.len() as _,
                &raw const opts,
            )
        };
        match NonNull::new(ptr) {
            Some(ptr) => Ok(Self {
                ptr,
                prepared: false,
                _elf: elf,
            }),
            None => Err(LibbpfError::new(DOING, Errno::last().0, &log.said())),
        }
    }

    pub(super) fn program_ptrs(&self) -> Vec<*mut libbpf_sys::bpf_program> {
        let mut all = Vec::new();
        let mut at = std::ptr::null_mut();
        loop {
            // SAFETY: live object; `at` is null or one of its programs.
            at = unsafe { libbpf_sys::bpf_object__next_program(self.ptr.as_ptr(), at) };
            if at.is_null() {
                return all;
            }
            all.push(at);
        }
    }

    pub(super) fn map_ptrs(&self) -> Vec<*mut libbpf_sys::bpf_map> {
        let mut all = Vec::new();
        let mut at = std::ptr::null_mut();
        loop {
            // SAFETY: live object; `at` is null or one of its maps.
            at = unsafe { libbpf_sys::bpf_object__next_map(self.ptr.as_ptr(), at) };
            if at.is_null() {
                return all;
            }
            all.push(at);
        }
    }

    /// Its programs, without subprograms.
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramInfo> {
        self.program_ptrs()
            .into_iter()
            // SAFETY: the pointers are this live object's programs.
            .map(|program| unsafe {
                ProgramInfo {
                    name: owned(libbpf_sys::bpf_program__name(program)),
                    section: owned(libbpf_sys::bpf_program__section_name(program)),
                    autoload: libbpf_sys::bpf_program__autoload(program),
                    flags: libbpf_sys::bpf_program__flags(program),
                }
            })
            .collect()
    }

    /// Chooses whether [`Object::prepare`] relocates a program.
    ///
    /// # Errors
    /// `EINVAL` once the object is prepared, or if there is no such program.
    pub fn set_autoload(&mut self, program: usize, autoload: bool) -> Result<(), LibbpfError> {
        const DOING: &str = "choose a program";
        let Some(ptr) = self.program_ptrs().get(program).copied() else {
            return Err(LibbpfError::new(DOING, libc::EINVAL, &Said::default()));
        };
        // SAFETY: a program of this live object.
        let ret = unsafe { libbpf_sys::bpf_program__set_autoload(ptr, autoload) };
        check(DOING, ret, &Said::default())
    }

    /// Its maps, data sections included.
    #[must_use]
    pub fn maps(&self) -> Vec<MapDefinition> {
        self.map_ptrs()
            .into_iter()
            // SAFETY: the pointers are this live object's maps.
            .map(|map| unsafe {
                MapDefinition {
                    name: owned(libbpf_sys::bpf_map__name(map)),
                    internal: libbpf_sys::bpf_map__is_internal(map),
                    map_type: libbpf_sys::bpf_map__type(map),
                    key_size: libbpf_sys::bpf_map__key_size(map),
                    value_size: libbpf_sys::bpf_map__value_size(map),
                    max_entries: libbpf_sys::bpf_map__max_entries(map),
                    value_type_id: libbpf_sys::bpf_map__btf_value_type_id(map),
                }
            })
            .collect()
    }

    /// Has a map created as something else than it is defined as, so that programs can be
    /// relocated against its descriptor.
    ///
    /// # Errors
    /// `EBUSY` once the object is prepared, `EINVAL` if there is no such map.
    pub fn set_map_shape(&mut self, map: usize, shape: MapShape) -> Result<(), LibbpfError> {
        const DOING: &str = "change a map";
        let Some(ptr) = self.map_ptrs().get(map).copied() else {
            return Err(LibbpfError::new(DOING, libc::EINVAL, &Said::default()));
        };
        let log = Capture::start();
        // SAFETY: a map of this live object.
        let rets = unsafe {
            [
                libbpf_sys::bpf_map__set_type(ptr, shape.map_type),
                libbpf_sys::bpf_map__set_key_size(ptr, shape.key_size),
                libbpf_sys::bpf_map__set_value_size(ptr, shape.value_size),
                libbpf_sys::bpf_map__set_max_entries(ptr, shape.max_entries),
            ]
        };
        rets.into_iter()
            .try_for_each(|ret| check(DOING, ret, &log.said()))
    }

    /// Undoes `LIBBPF_PIN_BY_NAME`: no map is taken from, or pinned to, /sys/fs/bpf.
    pub fn forget_pins(&mut self) {
        for map in self.map_ptrs() {
            // SAFETY: a map of this live object; null means "no path", which cannot fail.
            unsafe { libbpf_sys::bpf_map__set_pin_path(map, std::ptr::null()) };
        }
    }

    /// Writes `bytes` into the initial value of a data section's map, at `offset`.
    ///
    /// # Errors
    /// `EINVAL` where the map has no initial value that long, `EBUSY` once it is created.
    pub fn write_initial(
        &mut self,
        map: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), LibbpfError> {
        const DOING: &str = "set a variable";
        if self.prepared {
            // The value may be mapped from the kernel, and read-only.
            return Err(LibbpfError::new(DOING, libc::EBUSY, &Said::default()));
        }
        let invalid = || LibbpfError::new(DOING, libc::EINVAL, &Said::default());
        let ptr = self.map_ptrs().get(map).copied().ok_or_else(invalid)?;
        let mut size: libbpf_sys::size_t = 0;
        // SAFETY: a map of this live object; the result is null or writable for `size` bytes
        // until the object is prepared.
        let data = unsafe { libbpf_sys::bpf_map__initial_value(ptr, &raw mut size) };
        let end = offset.checked_add(bytes.len()).ok_or_else(invalid)?;
        if data.is_null() || end > size as usize {
            return Err(invalid());
        }
        // SAFETY: `offset + bytes.len() <= size`; the source is borrowed from elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                data.cast::<u8>().add(offset),
                bytes.len(),
            );
        }
        Ok(())
    }

    /// Shows the object's BTF as libbpf has it in hand: data sections have their sizes and
    /// offsets, which the file lacks. `None` if there is none. Ask it for no [`Btf::raw`] before
    /// [`Object::prepare`]: libbpf would load those bytes and miss its own later changes.
    pub fn with_btf<R>(&self, look: impl FnOnce(&Btf) -> R) -> Option<R> {
        // SAFETY: live object.
        let ptr = unsafe { libbpf_sys::bpf_object__btf(self.ptr.as_ptr()) };
        // The BTF stays the object's: it must not be freed here.
        let btf = ManuallyDrop::new(Btf {
            ptr: NonNull::new(ptr)?,
        });
        Some(look(&btf))
    }

    /// Relocates the chosen programs for this kernel (CO-RE, externs, maps), loads the BTF and
    /// creates the maps; loads no program.
    ///
    /// # Errors
    /// What libbpf says, with the number of the kernel or of libbpf: `EPERM` without CAP_BPF,
    /// `ESRCH` for an extern that this kernel lacks.
    pub fn prepare(&mut self) -> Result<(), LibbpfError> {
        let log = Capture::start();
        // SAFETY: live object, borrowed mutably.
        let ret = unsafe { libbpf_sys::bpf_object__prepare(self.ptr.as_ptr()) };
        check("prepare the object", ret, &log.said())?;
        self.prepared = true;
        Ok(())
    }

    /// The kernel version it declares, 0 if none.
    #[must_use]
    pub fn kern_version(&self) -> u32 {
        // SAFETY: live object.
        unsafe { libbpf_sys::bpf_object__kversion(self.ptr.as_ptr()) }
    }
}

pub(super) fn check(doing: &'static str, ret: i32, said: &Said) -> Result<(), LibbpfError> {
    if ret < 0 {
        Err(LibbpfError::new(doing, ret, said))
    } else {
        Ok(())
    }
}
