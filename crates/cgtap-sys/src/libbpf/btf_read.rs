//! Looking things up in BTF.

use std::ffi::CStr;

use super::btf::{Btf, BtfError, c_name};

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

/// A member of a struct or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name; empty for an anonymous struct or union.
    pub name: String,
    /// Its type.
    pub type_id: u32,
    /// Where it begins, in bits.
    pub bit_offset: u32,
    /// Its width in bits if it is a bit field, otherwise 0.
    pub bitfield_bits: u32,
}

/// A variable of a data section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionVar {
    /// Its name.
    pub name: String,
    /// The type of its value (not the `VAR`).
    pub type_id: u32,
    /// Where it begins in the section, in bytes.
    pub offset_bytes: u32,
    /// Its size in bytes.
    pub size_bytes: u32,
}

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
const LONGEST_CHAIN: usize = 64;

/// The fixed part of `struct btf_type`, copied out.
#[derive(Clone, Copy)]
struct Head {
    name_off: u32,
    info: u32,
    /// Size in bytes, or the id of another type.
    size_or_type: u32,
}

impl Head {
    fn kind(self) -> Option<BtfKind> {
        let number = (self.info >> 24) & 0x1f;
        KINDS.get((number as usize).wrapping_sub(1)).copied()
    }

    fn vlen(self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn kind_flag(self) -> bool {
        self.info >> 31 == 1
    }
}

impl Btf {
    fn pointer(&self, id: u32) -> Option<*const libbpf_sys::btf_type> {
        // SAFETY: live object; an id out of range gives null.
        let ptr = unsafe { libbpf_sys::btf__type_by_id(self.ptr.as_ptr(), id) };
        (!ptr.is_null()).then_some(ptr)
    }

    fn head(&self, id: u32) -> Option<Head> {
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
    fn record<const N: usize>(&self, id: u32, index: usize) -> Option<[u32; N]> {
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

    /// The members of a struct or union; none for any other type.
    #[must_use]
    pub fn members(&self, id: u32) -> Vec<Member> {
        let Some(head) = self.head(id) else {
            return Vec::new();
        };
        if !matches!(head.kind(), Some(BtfKind::Struct | BtfKind::Union)) {
            return Vec::new();
        }
        (0..head.vlen())
            .filter_map(|index| {
                let [name, type_id, offset] = self.record::<3>(id, index)?;
                // With the flag, the upper byte is the width of a bit field.
                let (bit_offset, bitfield_bits) = if head.kind_flag() {
                    (offset & 0x00ff_ffff, offset >> 24)
                } else {
                    (offset, 0)
                };
                Some(Member {
                    name: self.str_at(name).unwrap_or_default().to_owned(),
                    type_id,
                    bit_offset,
                    bitfield_bits,
                })
            })
            .collect()
    }

    /// The variables of a data section; none for any other type.
    #[must_use]
    pub fn section_vars(&self, id: u32) -> Vec<SectionVar> {
        let Some(head) = self.head(id) else {
            return Vec::new();
        };
        if head.kind() != Some(BtfKind::Datasec) {
            return Vec::new();
        }
        (0..head.vlen())
            .filter_map(|index| {
                let [var, offset_bytes, size_bytes] = self.record::<3>(id, index)?;
                Some(SectionVar {
                    name: self.type_name(var)?.to_owned(),
                    type_id: self.target(var)?,
                    offset_bytes,
                    size_bytes,
                })
            })
            .collect()
    }

    /// Finds a member by name in a struct or union, also inside its anonymous members.
    fn member(&self, id: u32, name: &str, depth: usize) -> Option<Member> {
        let members = self.members(id);
        if let Some(found) = members.iter().find(|m| m.name == name) {
            return Some(found.clone());
        }
        if depth == LONGEST_CHAIN {
            return None;
        }
        members.iter().filter(|m| m.name.is_empty()).find_map(|m| {
            let mut found = self.member(self.resolve(m.type_id), name, depth + 1)?;
            found.bit_offset = found.bit_offset.checked_add(m.bit_offset)?;
            Some(found)
        })
    }

    /// The member that `path` (`kn`, or `a.b.c` through embedded structs) names in the struct
    /// `struct_name`, with its offset from the beginning of that struct.
    ///
    /// # Errors
    /// [`BtfError::Missing`] for a struct or member that is not there.
    pub fn field(&self, struct_name: &str, path: &str) -> Result<Member, BtfError> {
        let mut id = self
            .find(struct_name, BtfKind::Struct)
            .or_else(|| self.find(struct_name, BtfKind::Union))
            .ok_or_else(|| BtfError::Missing {
                what: "struct",
                name: struct_name.to_owned(),
            })?;
        let missing = || BtfError::Missing {
            what: "member",
            name: format!("{struct_name}.{path}"),
        };
        let mut offset = 0_u32;
        let mut last = None;
        for name in path.split('.') {
            let member = self.member(id, name, 0).ok_or_else(missing)?;
            offset = offset.checked_add(member.bit_offset).ok_or_else(missing)?;
            id = self.resolve(member.type_id);
            last = Some(member);
        }
        let mut member = last.ok_or_else(missing)?;
        member.bit_offset = offset;
        Ok(member)
    }

    /// Where the member that `path` names begins in the struct `struct_name`, in bytes.
    ///
    /// # Errors
    /// [`BtfError::Missing`] for a struct or member that is not there, [`BtfError::Kind`] for a
    /// bit field, which has no address.
    pub fn field_offset(&self, struct_name: &str, path: &str) -> Result<u32, BtfError> {
        let member = self.field(struct_name, path)?;
        if member.bitfield_bits != 0 || member.bit_offset % 8 != 0 {
            return Err(BtfError::Kind {
                id: member.type_id,
                want: "a whole member (it is a bit field)",
            });
        }
        Ok(member.bit_offset / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Btf, Linkage};
    use super::*;

    #[test]
    fn what_is_built_can_be_read_back() {
        let mut btf = Btf::new_empty().unwrap();
        let int = btf.add_int("int", 4, true).unwrap();
        let ctx = btf.add_ptr(0).unwrap();
        let proto = btf.add_func_proto(int, &[("ctx", ctx)]).unwrap();
        let func = btf.add_func("entry", Linkage::Global, proto).unwrap();
        let text = btf.add_str("line").unwrap();
        assert_eq!(btf.type_name(func), Some("entry"));
        assert_eq!(btf.target(func), Some(proto));
        assert_eq!(btf.func_proto_param_count(proto), Some(1));
        assert_eq!(
            btf.func_proto_params(proto).unwrap()[0],
            ("ctx".to_owned(), ctx)
        );
        assert_eq!(btf.str_at(text), Some("line"));
        assert_eq!(btf.find("entry", BtfKind::Func), Some(func));
        assert_eq!(btf.find("entry", BtfKind::Struct), None);
        assert!(btf.int_info(int).unwrap().signed);

        // The flip must reach bytes that were already asked for once.
        let before = btf.raw();
        btf.set_func_static(func).unwrap();
        let after = btf.raw();
        assert_ne!(before, after);
        let again = Btf::from_bytes(&after).unwrap();
        assert_eq!(again.kind(func), Some(BtfKind::Func));
        assert!(btf.set_func_static(int).is_err());
        assert!(btf.set_func_static(999).is_err());
    }

    #[test]
    fn merging_shifts_types_and_renews_strings() {
        let mut a = Btf::new_empty().unwrap();
        a.add_int("int", 4, true).unwrap();
        a.add_str("first").unwrap();
        let mut b = Btf::new_empty().unwrap();
        let long = b.add_int("long", 8, true).unwrap();
        let line = b.add_str("return 0;").unwrap();
        let b = Btf::from_bytes(&b.raw()).unwrap();
        let shift = a.add_btf(&b).unwrap();
        assert_eq!(a.type_name(shift.apply(long)), Some("long"));
        assert_eq!(shift.apply(0), 0);
        let moved = a.copy_str(&b, line).unwrap();
        assert_ne!(moved, line);
        assert_eq!(a.str_at(moved), Some("return 0;"));
        assert_eq!(a.copy_str(&b, 0xffff).unwrap(), 0);
        let again = Btf::from_bytes(&a.raw()).unwrap();
        assert_eq!(again.type_count(), 3);
    }

    #[test]
    fn the_kernels_own_layout_is_found() {
        let btf = Btf::vmlinux().unwrap();
        assert_eq!(btf.field_offset("cgroup", "self").unwrap(), 0);
        let kn = btf.field("cgroup", "kn").unwrap();
        let pointee = btf.pointee(kn.type_id).unwrap();
        assert_eq!(btf.type_name(pointee), Some("kernfs_node"));
        assert!(btf.field_offset("kernfs_node", "id").unwrap() > 0);
        assert_eq!(
            btf.field_offset("cgroup", "self.id").unwrap(),
            btf.field_offset("cgroup_subsys_state", "id").unwrap()
        );
        assert!(matches!(
            btf.field_offset("cgroup", "nothing"),
            Err(BtfError::Missing { what: "member", .. })
        ));
        assert!(matches!(
            btf.field_offset("no_such_struct", "x"),
            Err(BtfError::Missing { what: "struct", .. })
        ));
    }

    #[test]
    fn bytes_that_are_no_btf_are_refused() {
        let mut btf = Btf::new_empty().unwrap();
        btf.add_int("int", 4, true).unwrap();
        let good = btf.raw();
        for len in 0..good.len() {
            assert!(Btf::from_bytes(&good[..len]).is_err(), "{len} bytes");
        }
        let mut short_header = good.clone();
        short_header[4] = 8;
        assert!(Btf::from_bytes(&short_header).is_err());
        let mut swapped = good;
        swapped.swap(0, 1);
        assert!(matches!(
            Btf::from_bytes(&swapped),
            Err(BtfError::Malformed { .. })
        ));
    }
}
