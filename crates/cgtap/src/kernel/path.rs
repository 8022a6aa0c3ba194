//! From a path to the loads that follow it, by this kernel's types.
//!
//! Every pointer on the way is followed, members of members are added up, and the end is completed
//! by its type until it is a cgroup (see `COMPLETIONS`).

use cgtap_sys::libbpf::{Btf, BtfKind};
use serde::{Deserialize, Serialize};

use super::arguments::{Argument, word_bytes};
use crate::hook::scope::Path;
use crate::near::hint;

/// How an argument's value becomes a pointer to a cgroup, or a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// Where the argument lies in the context, in bytes.
    pub argument: i16,
    /// What is read behind it, one after the other: each gives the pointer for the next.
    pub loads: Vec<Load>,
    /// Bytes of the value that it ends in: 1, 2, 4 or 8.
    pub bytes: u8,
    /// The cgroup may be of another hierarchy than the default one.
    pub any_hierarchy: bool,
}

/// A load from behind a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Bytes behind the pointer.
    pub offset: i32,
    /// Where the state of the `struct sock` lies that is read from: those that stand for a
    /// connection that is not yet or no more (`sk_fullsock()`, include/net/sock.h) end before it.
    pub sock_state: Option<i32>,
}

/// What a value of such a struct is completed by.
const COMPLETIONS: &[(&str, &[&str])] = &[
    ("cgroup_subsys_state", &["cgroup"]),
    ("css_set", &["dfl_cgrp"]),
    ("task_struct", &["cgroups"]),
    ("request", &["bio"]),
    ("bio", &["bi_blkg"]),
    ("blkcg_gq", &["blkcg"]),
    ("blkcg", &["css"]),
    ("sock", &["sk_cgrp_data", "cgroup"]),
    ("socket", &["sk"]),
    ("sk_buff", &["sk"]),
];

/// A value on the way: of the argument itself, or in memory behind the last pointer.
struct Place<'a> {
    btf: &'a Btf,
    type_id: u32,
    /// Bytes behind the last pointer; none for the argument.
    at: Option<i32>,
    /// Of a bit field: how many, and from which on behind the byte that it begins in.
    bits: Option<(u8, u8)>,
    loads: Vec<Load>,
    /// The member it was reached by.
    member: String,
}

/// Follows a path that ends in a cgroup or in what is completed to one.
///
/// # Errors
/// In words: the type that was met, and what it has near.
pub fn to_cgroup(btf: &Btf, argument: &Argument, path: &Path) -> Result<Walk, String> {
    let mut place = Place::follow(btf, argument, path, None)?;
    loop {
        let pointee = btf.pointee(place.type_id).map(|id| whole(btf, id));
        let named = pointee.unwrap_or_else(|| whole(btf, btf.resolve(place.type_id)));
        let name = match btf.kind(named) {
            Some(BtfKind::Struct) => btf.type_name(named).unwrap_or_default(),
            _ => "",
        };
        if name == "cgroup" && pointee.is_some() {
            let any_hierarchy = place.member != "dfl_cgrp";
            return place.load(argument, 8, any_hierarchy);
        }
        let completion = COMPLETIONS.iter().find(|(of, _)| *of == name);
        let Some((_, members)) = completion else {
            return Err(format!(
                "it ends in {}; a scope ends in a cgroup, task, bio, request or sock",
                describe(btf, place.type_id)
            ));
        };
        for member in *members {
            place.step(member)?;
        }
    }
}

/// Follows a path that ends in an integer or a pointer.
///
/// # Errors
/// In words: the type that was met, and what it has near.
pub fn to_key(btf: &Btf, argument: &Argument, path: &Path) -> Result<Walk, String> {
    let place = Place::follow(btf, argument, path, None)?;
    match word_bytes(btf, place.type_id) {
        Some(bytes) if place.bits.is_none() => place.load(argument, bytes, false),
        _ => Err(format!(
            "it ends in {}{}; a key ends in an integer or a pointer",
            if place.bits.is_some() {
                "a bit field of "
            } else {
                ""
            },
            describe(btf, place.type_id)
        )),
    }
}

/// What a path ends in that can be counted or compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An integer, enumerator, truth value or pointer.
    Number {
        /// The way to it.
        walk: Walk,
        /// It has a sign.
        signed: bool,
        /// Bits that it has, and from which on, if it is no whole number of bytes.
        bits: Option<(u8, u8)>,
        /// Its outermost name: `dev_t`, `u32`, `struct request *`.
        type_name: String,
    },
    /// Characters up to a NUL.
    Text {
        /// The way to a pointer.
        walk: Walk,
        /// Bytes from there to the first character.
        offset: i32,
    },
}

/// Follows a path that ends in a number or a text.
///
/// # Errors
/// In words: the type that was met, and what it has near.
pub fn to_value(btf: &Btf, argument: &Argument, path: &Path) -> Result<Value, String> {
    Place::follow(btf, argument, path, None)?.value(argument)
}

/// The same where the argument is a struct, and its value will be a pointer to it.
///
/// # Errors
/// As [`to_value`].
pub fn to_value_behind(btf: &Btf, argument: &Argument, path: &Path) -> Result<Value, String> {
    Place::follow(btf, argument, path, Some(0))?.value(argument)
}

impl<'a> Place<'a> {
    /// Begins at the argument, or `at` bytes behind the pointer that it is.
    fn follow(
        btf: &'a Btf,
        argument: &Argument,
        path: &Path,
        at: Option<i32>,
    ) -> Result<Self, String> {
        let mut place = Self {
            btf,
            type_id: argument.type_id,
            at,
            bits: None,
            loads: Vec::new(),
            member: String::new(),
        };
        path.members().try_for_each(|member| place.step(member))?;
        Ok(place)
    }

    /// Goes into a member, through the pointer if the value is one.
    fn step(&mut self, name: &str) -> Result<(), String> {
        let btf = self.btf;
        if let Some(pointee) = btf.pointee(self.type_id) {
            if let Some(offset) = self.at {
                self.loads.push(Load {
                    offset,
                    sock_state: None,
                });
            }
            self.type_id = pointee;
            self.at = Some(0);
        }
        let id = whole(btf, btf.resolve(self.type_id));
        match btf.kind(id) {
            Some(BtfKind::Struct | BtfKind::Union) => {}
            Some(BtfKind::Fwd) => {
                return Err(format!("no BTF says what {} has", describe(btf, id)));
            }
            _ => {
                return Err(format!(
                    "{} has no members, so no {name}",
                    describe(btf, self.type_id)
                ));
            }
        }
        let Some(base) = self.at else {
            return Err(format!("{} is passed by value", describe(btf, id)));
        };
        let member = btf.member_named(id, name).ok_or_else(|| {
            format!(
                "{} has no member {name}{}",
                describe(btf, id),
                hint(name, btf.member_names(id))
            )
        })?;
        if btf.type_name(id) == Some("sock") && name == "sk_cgrp_data" {
            self.note_sock_state(base)?;
        }
        let offset = i32::try_from(member.bit_offset / 8).ok();
        self.at = offset.and_then(|offset| base.checked_add(offset));
        if self.at.is_none() {
            return Err(format!("{name} lies too far behind its struct"));
        }
        self.type_id = member.type_id;
        self.bits = (member.bitfield_bits != 0).then_some((
            member.bitfield_bits.min(56) as u8,
            (member.bit_offset % 8) as u8,
        ));
        name.clone_into(&mut self.member);
        Ok(())
    }

    /// What is read next lies in a `struct sock` at `base`, if that is a whole one.
    fn note_sock_state(&mut self, base: i32) -> Result<(), String> {
        let state = self.btf.field_offset("sock", "__sk_common.skc_state");
        let state = state.map_err(|e| e.to_string())?;
        // As a load of its own, of nothing, in front of the member's.
        self.loads.push(Load {
            offset: base,
            sock_state: i32::try_from(state).ok(),
        });
        Ok(())
    }

    /// A number or a text.
    fn value(self, argument: &Argument) -> Result<Value, String> {
        let btf = self.btf;
        let id = btf.resolve(self.type_id);
        let is_char = |id: u32| {
            let id = btf.resolve(id);
            btf.type_name(id) == Some("char") && btf.size_bytes(id) == Some(1)
        };
        if let (Some((element, _)), Some(offset)) = (btf.array_info(id), self.at) {
            if !is_char(element) {
                return Err(format!(
                    "it ends in {}; a value is a number or a text",
                    describe(btf, self.type_id)
                ));
            }
            let walk = self.before(argument)?;
            return Ok(Value::Text { walk, offset });
        }
        if btf.pointee(id).is_some_and(is_char) {
            let walk = self.load(argument, 8, false)?;
            return Ok(Value::Text { walk, offset: 0 });
        }
        let bytes = word_bytes(btf, self.type_id).ok_or_else(|| {
            format!(
                "it ends in {}; a value is a number or a text",
                describe(btf, self.type_id)
            )
        })?;
        let signed = btf
            .int_info(id)
            .or_else(|| btf.enum_info(id))
            .is_some_and(|info| info.signed);
        let type_name = match btf.type_name(self.type_id) {
            Some(name) if btf.kind(id) != Some(BtfKind::Ptr) => name.to_owned(),
            _ => describe(btf, self.type_id),
        };
        let bits = self.bits;
        Ok(Value::Number {
            // The bits of a field may reach over several bytes.
            walk: self.load(argument, if bits.is_some() { 8 } else { bytes }, false)?,
            signed,
            bits,
            type_name,
        })
    }

    /// Ends at the last pointer, before what lies behind it.
    fn before(mut self, argument: &Argument) -> Result<Walk, String> {
        self.at = None;
        self.load(argument, 8, false)
    }

    /// Ends here.
    fn load(mut self, argument: &Argument, bytes: u8, any_hierarchy: bool) -> Result<Walk, String> {
        if let Some(offset) = self.at {
            self.loads.push(Load {
                offset,
                sock_state: None,
            });
        }
        // A check of a sock goes with the load behind it.
        let mut loads: Vec<Load> = Vec::new();
        let mut check = None;
        for load in self.loads {
            if load.sock_state.is_some() {
                check = load.sock_state.map(|state| load.offset + state);
                continue;
            }
            loads.push(Load {
                offset: load.offset,
                sock_state: check.take(),
            });
        }
        Ok(Walk {
            argument: argument.offset.clone()?,
            loads,
            bytes,
            any_hierarchy,
        })
    }
}

/// The struct itself where a module only declares one of the kernel's.
fn whole(btf: &Btf, id: u32) -> u32 {
    match (btf.kind(id), btf.type_name(id)) {
        (Some(BtfKind::Fwd), Some(name)) => btf
            .find(name, BtfKind::Struct)
            .or_else(|| btf.find(name, BtfKind::Union))
            .unwrap_or(id),
        _ => id,
    }
}

/// A type as C writes it.
#[must_use]
pub fn describe(btf: &Btf, id: u32) -> String {
    let name = || btf.type_name(id).unwrap_or("(anonymous)").to_owned();
    let target = || btf.target(id).unwrap_or(0);
    match btf.kind(id) {
        None => "void".to_owned(),
        Some(BtfKind::Struct | BtfKind::Fwd) => format!("struct {}", name()),
        Some(BtfKind::Union) => format!("union {}", name()),
        Some(BtfKind::Enum | BtfKind::Enum64) => format!("enum {}", name()),
        Some(BtfKind::Ptr) => format!("{} *", describe(btf, target())).replace("* *", "**"),
        Some(BtfKind::Const | BtfKind::Volatile | BtfKind::Restrict | BtfKind::TypeTag) => {
            describe(btf, target())
        }
        Some(BtfKind::Array) => match btf.array_info(id) {
            Some((element, count)) => format!("{}[{count}]", describe(btf, element)),
            None => "an array".to_owned(),
        },
        Some(BtfKind::FuncProto) => "a function".to_owned(),
        _ => name(),
    }
}
