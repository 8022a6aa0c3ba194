//! BTF that is built: types and strings added, other BTF merged in.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_int};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use crate::errno::Errno;

/// Why BTF could not be read or built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The bytes are not BTF of this machine's byte order.
    #[error("not BTF: {why}")]
    Malformed {
        /// What is wrong with them.
        why: &'static str,
    },
    /// libbpf refused.
    #[error("libbpf cannot {what}: {errno}")]
    Libbpf {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// A name that was looked for is not there.
    #[error("the BTF has no {what} `{name}`")]
    Missing {
        /// The kind of thing, e.g. `struct`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A type is of another kind than the call needs.
    #[error("type {id} of the BTF is not {want}")]
    Kind {
        /// The type's id.
        id: u32,
        /// What it should be.
        want: &'static str,
    },
    /// A name with a NUL byte, or one too long for BTF.
    #[error("`{name}` cannot be a name in BTF")]
    Name {
        /// The name.
        name: String,
    },
}

/// What [`Btf::add_btf`] did to the ids of what it added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeShift {
    /// Added to each type id of the source, except 0 (`void`).
    pub type_id_base: u32,
}

impl TypeShift {
    /// The id in the merged BTF of type `id` of the source.
    #[must_use]
    pub fn apply(self, id: u32) -> u32 {
        if id == 0 { 0 } else { id + self.type_id_base }
    }
}

/// `enum btf_func_linkage`, as far as a loaded program has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Linkage {
    /// Verified in the place of each call, with what is known there.
    Static = libbpf_sys::BTF_FUNC_STATIC,
    /// Verified once, alone, from its types.
    Global = libbpf_sys::BTF_FUNC_GLOBAL,
}

/// BTF held by libbpf: read, looked up in, added to.
#[derive(Debug)]
pub struct Btf {
    pub(super) ptr: NonNull<libbpf_sys::btf>,
}

/// A module's BTF with that of the kernel, on which it stands. Derefs to the whole.
#[derive(Debug)]
pub struct ModuleBtf {
    // The order is that of dropping: the user before what it uses.
    btf: Btf,
    _vmlinux: Rc<Btf>,
}

/// The kernel's BTF as this thread has it.
#[derive(Default)]
struct Vmlinux {
    read: Weak<Btf>,
    kept: Option<Rc<Btf>>,
    keepers: u32,
}

thread_local! {
    static VMLINUX: RefCell<Vmlinux> = RefCell::default();
}

/// For as long as it lives, this thread reads the kernel's BTF once at most. They may be nested.
#[derive(Debug)]
#[must_use = "the kernel's BTF is kept for as long as this lives"]
pub struct KeptVmlinux(std::marker::PhantomData<Rc<Btf>>);

impl Drop for KeptVmlinux {
    fn drop(&mut self) {
        VMLINUX.with_borrow_mut(|vmlinux| {
            vmlinux.keepers = vmlinux.keepers.saturating_sub(1);
            if vmlinux.keepers == 0 {
                vmlinux.kept = None;
            }
        });
    }
}

impl std::ops::Deref for ModuleBtf {
    type Target = Btf;

    fn deref(&self) -> &Btf {
        &self.btf
    }
}

// SAFETY: the object is owned by one `Btf` and libbpf keeps no thread-local state for it. It is
// not `Sync`: `btf__raw_data` caches behind a const pointer.
unsafe impl Send for Btf {}

impl Drop for Btf {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from a libbpf constructor and is freed once.
        unsafe { libbpf_sys::btf__free(self.ptr.as_ptr()) }
    }
}

/// The value of a libbpf call that returns an id, or a negative errno.
fn id(what: &'static str, ret: c_int) -> Result<u32, BtfError> {
    u32::try_from(ret).map_err(|_| BtfError::Libbpf {
        what,
        errno: Errno(ret.wrapping_neg()),
    })
}

/// libbpf takes type ids as `int`; an id that does not fit is refused by it as negative.
fn int(id: u32) -> c_int {
    c_int::try_from(id).unwrap_or(-1)
}

pub(super) fn c_name(name: &str) -> Result<CString, BtfError> {
    CString::new(name).map_err(|_| BtfError::Name {
        name: name.replace('\0', "\\0"),
    })
}

impl Btf {
    fn owned(what: &'static str, ptr: *mut libbpf_sys::btf) -> Result<Self, BtfError> {
        match NonNull::new(ptr) {
            Some(ptr) => Ok(Self { ptr }),
            None => Err(BtfError::Libbpf {
                what,
                errno: Errno::last(),
            }),
        }
    }

    /// Reads raw BTF, as in a `.BTF` section. All its ids and string offsets are checked.
    ///
    /// # Errors
    /// [`BtfError::Malformed`] where the header is not that of BTF in this machine's byte order,
    /// [`BtfError::Libbpf`] where libbpf's checks refuse the rest.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, BtfError> {
        let malformed = |why| Err(BtfError::Malformed { why });
        let Some(header) = raw.first_chunk::<8>() else {
            return malformed("it is shorter than a header");
        };
        let magic = u16::from_ne_bytes([header[0], header[1]]);
        if magic == 0xeb9f_u16.swap_bytes() {
            return malformed("it has the other byte order");
        }
        if magic != 0xeb9f {
            return malformed("it does not begin with BTF's magic number");
        }
        // libbpf copies `hdr_len` bytes of header and then reads all fields of the copy: a
        // shorter one makes it read past its end.
        let header_len = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let full = size_of::<libbpf_sys::btf_header>();
        if (header_len as usize) < full || raw.len() < full || header_len % 4 != 0 {
            return malformed("its header has a wrong length");
        }
        let Ok(len) = u32::try_from(raw.len()) else {
            return malformed("it is larger than 4 GiB");
        };
        // SAFETY: `raw` is readable for `len` bytes; libbpf copies it.
        let ptr = unsafe { libbpf_sys::btf__new(raw.as_ptr().cast(), len) };
        Self::owned("read the BTF", ptr)
    }

    /// BTF without a type.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new_empty() -> Result<Self, BtfError> {
        // SAFETY: takes nothing.
        let ptr = unsafe { libbpf_sys::btf__new_empty() };
        Self::owned("make empty BTF", ptr)
    }

    /// The BTF of the running kernel, without its modules'. Reads about 5 MB, unless this thread
    /// has it already ([`Btf::keep_vmlinux`]).
    ///
    /// # Errors
    /// [`BtfError::Libbpf`] with `ENOENT` or `ESRCH` on a kernel without
    /// `CONFIG_DEBUG_INFO_BTF`.
    pub fn vmlinux() -> Result<Rc<Self>, BtfError> {
        VMLINUX.with_borrow_mut(|vmlinux| {
            if let Some(read) = vmlinux.read.upgrade() {
                return Ok(read);
            }
            let _quiet = super::log::Capture::start();
            // SAFETY: takes nothing.
            let ptr = unsafe { libbpf_sys::btf__load_vmlinux_btf() };
            let what = "read the kernel's BTF (/sys/kernel/btf/vmlinux)";
            let read = Rc::new(Self::owned(what, ptr)?);
            vmlinux.read = Rc::downgrade(&read);
            vmlinux.kept = (vmlinux.keepers > 0).then(|| read.clone());
            Ok(read)
        })
    }

    /// Lets this thread keep the kernel's BTF once it was read: for work that asks for it in
    /// several places.
    pub fn keep_vmlinux() -> KeptVmlinux {
        VMLINUX.with_borrow_mut(|vmlinux| {
            vmlinux.keepers += 1;
            vmlinux.kept = vmlinux.read.upgrade();
        });
        KeptVmlinux(std::marker::PhantomData)
    }

    /// The types that a module adds to those of `vmlinux`, which is needed to read them: ids go on
    /// where its end.
    ///
    /// # Errors
    /// [`BtfError::Libbpf`] with `ENOENT` for a module that is not loaded or has no BTF.
    pub fn module(name: &str, vmlinux: &Rc<Self>) -> Result<ModuleBtf, BtfError> {
        let _quiet = super::log::Capture::start();
        let c_name = c_name(name)?;
        // SAFETY: NUL-terminated name, live base, which `ModuleBtf` keeps as long as its user.
        let ptr =
            unsafe { libbpf_sys::btf__load_module_btf(c_name.as_ptr(), vmlinux.ptr.as_ptr()) };
        Ok(ModuleBtf {
            btf: Self::owned("read a module's BTF", ptr)?,
            _vmlinux: Rc::clone(vmlinux),
        })
    }

    /// Appends every type of `other`. String offsets change too: whoever holds some (line
    /// records) copies them with [`Btf::copy_str`].
    ///
    /// # Errors
    /// Out of memory, or more strings than BTF can hold.
    pub fn add_btf(&mut self, other: &Btf) -> Result<TypeShift, BtfError> {
        // SAFETY: both are live and distinct: one is borrowed mutably.
        let first =
            unsafe { libbpf_sys::btf__add_btf(self.ptr.as_ptr(), other.ptr.as_ptr().cast_const()) };
        let first = id("merge BTF", first)?;
        Ok(TypeShift {
            type_id_base: first.saturating_sub(1),
        })
    }

    /// Adds a string if it is not there yet; its offset.
    ///
    /// # Errors
    /// [`BtfError::Name`] for a NUL inside, otherwise out of memory.
    pub fn add_str(&mut self, text: &str) -> Result<u32, BtfError> {
        let text = c_name(text)?;
        self.add_c_str(&text)
    }

    fn add_c_str(&mut self, text: &CStr) -> Result<u32, BtfError> {
        // SAFETY: live object, NUL-terminated string that libbpf copies.
        let ret = unsafe { libbpf_sys::btf__add_str(self.ptr.as_ptr(), text.as_ptr()) };
        id("add a string to the BTF", ret)
    }

    /// Adds the string at `offset` of `other`, whatever its encoding; its offset here. An offset
    /// that `other` does not have becomes 0, the empty string.
    ///
    /// # Errors
    /// Out of memory.
    pub fn copy_str(&mut self, other: &Btf, offset: u32) -> Result<u32, BtfError> {
        match other.c_str_at(offset) {
            Some(text) if !text.is_empty() => self.add_c_str(text),
            _ => Ok(0),
        }
    }

    /// Adds an integer type of `size_bytes`.
    ///
    /// # Errors
    /// `EINVAL` for a size that is not a power of two up to 16, or an empty name.
    pub fn add_int(
        &mut self,
        name: &str,
        size_bytes: usize,
        signed: bool,
    ) -> Result<u32, BtfError> {
        let name = c_name(name)?;
        let encoding = if signed {
            libbpf_sys::BTF_INT_SIGNED
        } else {
            0
        };
        // SAFETY: live object, NUL-terminated string that libbpf copies.
        let ret = unsafe {
            libbpf_sys::btf__add_int(
                self.ptr.as_ptr(),
                name.as_ptr(),
                size_bytes as _,
                encoding as c_int,
            )
        };
        id("add an integer type", ret)
    }

    /// Adds a pointer to `target` (0: `void *`).
    ///
    /// # Errors
    /// `EINVAL` for an id no BTF can have.
    pub fn add_ptr(&mut self, target: u32) -> Result<u32, BtfError> {
        // SAFETY: live object.
        let ret = unsafe { libbpf_sys::btf__add_ptr(self.ptr.as_ptr(), int(target)) };
        id("add a pointer type", ret)
    }

    /// Adds a struct without members; enough for a pointer to be one to a named struct.
    ///
    /// # Errors
    /// Out of memory.
    pub fn add_struct(&mut self, name: &str, size_bytes: u32) -> Result<u32, BtfError> {
        let name = c_name(name)?;
        // SAFETY: live object, NUL-terminated string that libbpf copies.
        let ret =
            unsafe { libbpf_sys::btf__add_struct(self.ptr.as_ptr(), name.as_ptr(), size_bytes) };
        id("add a struct type", ret)
    }

    /// Adds a typedef of `target`.
    ///
    /// # Errors
    /// `EINVAL` for an empty name or an id no BTF can have.
    pub fn add_typedef(&mut self, name: &str, target: u32) -> Result<u32, BtfError> {
        let name = c_name(name)?;
        // SAFETY: live object, NUL-terminated string that libbpf copies.
        let ret =
            unsafe { libbpf_sys::btf__add_typedef(self.ptr.as_ptr(), name.as_ptr(), int(target)) };
        id("add a typedef", ret)
    }

    /// Adds a function prototype: type of the return (0: `void`), name and type of each
    /// parameter.
    ///
    /// # Errors
    /// `EINVAL` for an id no BTF can have.
    pub fn add_func_proto(&mut self, ret: u32, params: &[(&str, u32)]) -> Result<u32, BtfError> {
        // SAFETY: live object.
        let proto = unsafe { libbpf_sys::btf__add_func_proto(self.ptr.as_ptr(), int(ret)) };
        let proto = id("add a function prototype", proto)?;
        for (name, type_id) in params {
            let name = c_name(name)?;
            // SAFETY: live object whose last type is the prototype; libbpf copies the name.
            let ret = unsafe {
                libbpf_sys::btf__add_func_param(self.ptr.as_ptr(), name.as_ptr(), int(*type_id))
            };
            id("add a parameter", ret)?;
        }
        Ok(proto)
    }

    /// Adds a function of prototype `proto`.
    ///
    /// # Errors
    /// `EINVAL` for an empty name or an id no BTF can have.
    pub fn add_func(&mut self, name: &str, linkage: Linkage, proto: u32) -> Result<u32, BtfError> {
        let name = c_name(name)?;
        // SAFETY: live object, NUL-terminated string that libbpf copies.
        let ret = unsafe {
            libbpf_sys::btf__add_func(
                self.ptr.as_ptr(),
                name.as_ptr(),
                linkage as libbpf_sys::btf_func_linkage,
                int(proto),
            )
        };
        id("add a function", ret)
    }

    /// Adds a declaration tag (`__attribute__((btf_decl_tag(tag)))`) to `target`, or to its
    /// parameter or member `component`. Kernels since 5.16 take them.
    ///
    /// # Errors
    /// `EINVAL` for an empty tag or an id no BTF can have.
    pub fn add_decl_tag(
        &mut self,
        tag: &str,
        target: u32,
        component: Option<u32>,
    ) -> Result<u32, BtfError> {
        let tag = c_name(tag)?;
        // SAFETY: live object, NUL-terminated string that libbpf copies.
        let ret = unsafe {
            libbpf_sys::btf__add_decl_tag(
                self.ptr.as_ptr(),
                tag.as_ptr(),
                int(target),
                component.map_or(-1, int),
            )
        };
        id("add a declaration tag", ret)
    }

    /// Makes the existing function `func` static. A fused member's entry has to be: a global one
    /// is verified alone, where its context is an unknown pointer.
    ///
    /// # Errors
    /// [`BtfError::Kind`] if `func` is no function, otherwise out of memory.
    pub fn set_func_static(&mut self, func: u32) -> Result<(), BtfError> {
        self.set_func_linkage(func, Linkage::Static)
    }

    /// Sets the linkage of the existing function `func`.
    ///
    /// # Errors
    /// [`BtfError::Kind`] if `func` is no function, otherwise out of memory.
    pub fn set_func_linkage(&mut self, func: u32, linkage: Linkage) -> Result<(), BtfError> {
        if self.kind(func) != Some(super::BtfKind::Func) {
            return Err(BtfError::Kind {
                id: func,
                want: "a function",
            });
        }
        // Adding a string makes libbpf drop its cached raw form, which a write behind its back
        // would not reach; and it moves types that still lie in a read-only mapping.
        self.add_c_str(c"")?;
        // SAFETY: live object; an id out of range gives null.
        let ptr = unsafe { libbpf_sys::btf__type_by_id(self.ptr.as_ptr(), func) };
        let ptr = ptr.cast_mut();
        if ptr.is_null() {
            return Err(BtfError::Kind {
                id: func,
                want: "a function",
            });
        }
        let info = (libbpf_sys::BTF_KIND_FUNC << 24) | linkage as u32;
        // SAFETY: non-null, so it points at a whole `btf_type` in memory that libbpf allocated
        // (it is modifiable since the string was added) and that `&mut self` makes ours alone.
        unsafe { (&raw mut (*ptr).info).write_unaligned(info) };
        Ok(())
    }

    /// The raw form, as the kernel takes it. Empty only where memory is out.
    #[must_use]
    pub fn raw(&self) -> Vec<u8> {
        let mut len = 0;
        // SAFETY: live object; the result is null or readable for `len` bytes until the next
        // change, and is copied at once.
        let data = unsafe { libbpf_sys::btf__raw_data(self.ptr.as_ptr(), &raw mut len) };
        if data.is_null() {
            return Vec::new();
        }
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len as usize) }.to_vec()
    }
}
