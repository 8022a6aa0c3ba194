//! Looking things up in BTF.

use std::ffi::CStr;

use super::btf::{Btf, Linkage, c_name};

/// `BTF_KIND_*` (include/uapi/linux/btf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum BtfKind {
    Int = 1,
    Ptr = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Fwd = 7,
    Typedef = 8,
    Volatile = 9,
    Const = 10,
    Restrict = 11,
    Func = 12,
    FuncProto = 13,
    Var = 14,
    Datasec = 15,
    Float = 16,
    DeclTag = 17,
    TypeTag = 18,
    Enum64 = 19,
}

const KINDS: [BtfKind; 19] = [
    BtfKind::Int,
    BtfKind::Ptr,
    BtfKind::Array,
    BtfKind::Struct,
    BtfKind::Union,
    BtfKind::Enum,
    BtfKind::Fwd,
    BtfKind::Typedef,
    BtfKind::Volatile,
    BtfKind::Const,
    BtfKind::Restrict,
    BtfKind::Func,
    BtfKind::FuncProto,
    BtfKind::Var,
    BtfKind::Datasec,
    BtfKind::Float,
    BtfKind::DeclTag,
    BtfKind::TypeTag,
    BtfKind::Enum64,
];

/// The encoding of an integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntInfo {
    /// Size in bytes.
    pub size_bytes: u32,
    /// Two's complement.
    pub signed: bool,
    /// `_Bool`.
    pub boolean: bool,
}

/// A chain of typedefs and qualifiers longer than this is a circle.
pub(super) const LONGEST_CHAIN: usize = 64;

/// The fixed part of `struct btf_type`, copied out.
#[derive(Clone, Copy)]
pub(super) struct Head {
    name_off: u32,
    info: u32,
    /// Size in bytes, or the id of another type.
    size_or_type: u32,
}

impl Head {
    pub(super) fn kind(self) -> Option<BtfKind> {
        let number = (self.info >> 24) & 0x1f;
        KINDS.get((number as usize).wrapping_sub(1)).copied()
    }

    pub(super) fn vlen(self) -> usize {
        (self.info & 0xffff) as usize
    }

    pub(super) fn kind_flag(self) -> bool {
        self.info >> 31 == 1
    }
}

impl Btf {
    fn pointer(&self, id: u32) -> Option<*const libbpf_sys::btf_type> {
        // SAFETY: live object; an id out of range gives null.
        let ptr = unsafe { libbpf_sys::btf__type_by_id(self.ptr.as_ptr(), id) };
        (!ptr.is_null()).then_some(ptr)
    }

    pub(super) fn head(&self, id: u32) -> Option<Head> {
        let ptr = self.pointer(id)?;
        // SAFETY: `ptr` points at three 32-bit words of a type that libbpf has checked to lie
        // whole in its data; they live until the next change, which `&self` excludes.
        let words = unsafe { ptr.cast::<[u32; 3]>().read_unaligned() };
        Some(Head {
            name_off: words[0],
            info: words[1],
            size_or_type: words[2],
        })
    }

    /// The `index`-th record of `N` words behind the head of type `id`. The caller has checked
    /// that the type's kind has such records and that `index` is below their number.
    pub(super) fn record<const N: usize>(&self, id: u32, index: usize) -> Option<[u32; N]> {
        let ptr = self.pointer(id)?;
        // SAFETY: libbpf has checked at reading (`btf_parse_type_sec`) or kept at adding that the
        // type lies whole in its data, with as many records of its kind as its `vlen` says; all
        // callers bound `index` by that.
        let words = unsafe {
            ptr.cast::<u8>()
                .add(12 + index * N * 4)
                .cast::<[u32; N]>()
                .read_unaligned()
        };
        Some(words)
    }

    /// One more than the largest type id; 1 for empty BTF.
    #[must_use]
    pub fn type_count(&self) -> u32 {
        // SAFETY: live object.
        unsafe { libbpf_sys::btf__type_cnt(self.ptr.as_ptr()) }
    }

    /// The kind of a type; `None` for `void` (0) and ids that are not there.
    #[must_use]
    pub fn kind(&self, id: u32) -> Option<BtfKind> {
        self.head(id)?.kind()
    }

    pub(super) fn c_str_at(&self, offset: u32) -> Option<&CStr> {
        // SAFETY: live object; an offset out of range gives null.
        let ptr = unsafe { libbpf_sys::btf__str_by_offset(self.ptr.as_ptr(), offset) };
        if ptr.is_null() {
            return None;
        }
        // SAFETY: libbpf has checked that its strings end in NUL; they live until the next
        // change, which the borrow of `self` excludes.
        Some(unsafe { CStr::from_ptr(ptr) })
    }

    /// The string at `offset`; `None` where there is none or it is not UTF-8.
    #[must_use]
    pub fn str_at(&self, offset: u32) -> Option<&str> {
        self.c_str_at(offset)?.to_str().ok()
    }

    /// The name of a type; `None` where it has none.
    #[must_use]
    pub fn type_name(&self, id: u32) -> Option<&str> {
        let name = self.str_at(self.head(id)?.name_off)?;
        (!name.is_empty()).then_some(name)
    }

    /// The id of the type of this name and kind.
    #[must_use]
    pub fn find(&self, name: &str, kind: BtfKind) -> Option<u32> {
        let name = c_name(name).ok()?;
        // SAFETY: live object, NUL-terminated string.
        let id = unsafe {
            libbpf_sys::btf__find_by_name_kind(self.ptr.as_ptr(), name.as_ptr(), kind as u32)
        };
        u32::try_from(id).ok().filter(|id| *id != 0)
    }

    /// The type that a pointer, typedef, qualifier, variable or function refers to (0: `void`).
    #[must_use]
    pub fn target(&self, id: u32) -> Option<u32> {
        let head = self.head(id)?;
        match head.kind()? {
            BtfKind::Ptr
            | BtfKind::Typedef
            | BtfKind::Volatile
            | BtfKind::Const
            | BtfKind::Restrict
            | BtfKind::TypeTag
            | BtfKind::DeclTag
            | BtfKind::Var
            | BtfKind::Func
            | BtfKind::FuncProto => Some(head.size_or_type),
            _ => None,
        }
    }

    /// Follows typedefs, qualifiers and type tags to the type itself.
    #[must_use]
    pub fn resolve(&self, mut id: u32) -> u32 {
        for _ in 0..LONGEST_CHAIN {
            match self.kind(id) {
                Some(
                    BtfKind::Typedef
                    | BtfKind::Volatile
                    | BtfKind::Const
                    | BtfKind::Restrict
                    | BtfKind::TypeTag,
                ) => id = self.target(id).unwrap_or(0),
                _ => return id,
            }
        }
        0
    }

    /// What a pointer points to, both seen through typedefs and qualifiers; `None` if `id` is no
    /// pointer.
    #[must_use]
    pub fn pointee(&self, id: u32) -> Option<u32> {
        let id = self.resolve(id);
        if self.kind(id)? == BtfKind::Ptr {
            self.target(id).map(|target| self.resolve(target))
        } else {
            None
        }
    }

    /// Size of a value of this type in bytes, seen through typedefs and arrays.
    #[must_use]
    pub fn size_bytes(&self, id: u32) -> Option<u64> {
        // SAFETY: live object; ids out of range and circles give a negative number.
        let size = unsafe { libbpf_sys::btf__resolve_size(self.ptr.as_ptr(), id) };
        u64::try_from(size).ok()
    }

    /// The encoding of an integer type; `None` for any other.
    #[must_use]
    pub fn int_info(&self, id: u32) -> Option<IntInfo> {
        let head = self.head(id)?;
        if head.kind()? != BtfKind::Int {
            return None;
        }
        let [encoding] = self.record::<1>(id, 0)?;
        let flags = (encoding >> 24) & 0xf;
        Some(IntInfo {
            size_bytes: head.size_or_type,
            signed: flags & libbpf_sys::BTF_INT_SIGNED != 0,
            boolean: flags & libbpf_sys::BTF_INT_BOOL != 0,
        })
    }

    /// Element type and number of elements of an array; `None` for any other type.
    #[must_use]
    pub fn array_info(&self, id: u32) -> Option<(u32, u32)> {
        if self.kind(id)? != BtfKind::Array {
            return None;
        }
        let [element, _index, count] = self.record::<3>(id, 0)?;
        Some((element, count))
    }

    /// Size and signedness of an `enum`; `None` for any other type.
    #[must_use]
    pub fn enum_info(&self, id: u32) -> Option<IntInfo> {
        let head = self.head(id)?;
        matches!(head.kind()?, BtfKind::Enum | BtfKind::Enum64).then_some(IntInfo {
            size_bytes: head.size_or_type,
            signed: head.kind_flag(),
            boolean: false,
        })
    }

    /// The linkage of a function; `None` for any other type, and for functions that are only
    /// declared.
    #[must_use]
    pub fn func_linkage(&self, func: u32) -> Option<Linkage> {
        let head = self.head(func)?;
        match (head.kind()?, head.vlen() as u32) {
            (BtfKind::Func, libbpf_sys::BTF_FUNC_STATIC) => Some(Linkage::Static),
            (BtfKind::Func, libbpf_sys::BTF_FUNC_GLOBAL) => Some(Linkage::Global),
            _ => None,
        }
    }

    /// Number of parameters of a function prototype; `None` for any other type.
    #[must_use]
    pub fn func_proto_param_count(&self, proto: u32) -> Option<usize> {
        let head = self.head(proto)?;
        (head.kind()? == BtfKind::FuncProto).then(|| head.vlen())
    }

    /// Name and type of each parameter of a function prototype; `None` for any other type. A
    /// last one of type 0 stands for `...`.
    #[must_use]
    pub fn func_proto_params(&self, proto: u32) -> Option<Vec<(String, u32)>> {
        (0..self.func_proto_param_count(proto)?)
            .map(|index| {
                let [name, type_id] = self.record::<2>(proto, index)?;
                Some((self.str_at(name).unwrap_or_default().to_owned(), type_id))
            })
            .collect()
    }
}
