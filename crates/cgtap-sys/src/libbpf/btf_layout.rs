//! Where things lie: members of structs, variables of data sections.

use super::btf::{Btf, BtfError};
use super::btf_read::{BtfKind, LONGEST_CHAIN};

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

impl Btf {
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

    /// The member of this name in a struct or union, also inside its anonymous members, with its
    /// offset from the beginning of the whole.
    #[must_use]
    pub fn member_named(&self, id: u32, name: &str) -> Option<Member> {
        self.member(id, name, 0)
    }

    /// The names that [`Btf::member_named`] finds.
    #[must_use]
    pub fn member_names(&self, id: u32) -> Vec<String> {
        let mut names = Vec::new();
        let mut open = vec![(id, 0)];
        while let Some((id, depth)) = open.pop() {
            for member in self.members(id) {
                if !member.name.is_empty() {
                    names.push(member.name);
                } else if depth < LONGEST_CHAIN {
                    open.push((self.resolve(member.type_id), depth + 1));
                }
            }
        }
        names
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
