//! The names that expressions of a hook may use, on this kernel.
//!
//! Classic tracepoints have the fields of their record, `cgroup:dev` those of its context; hooks with typed arguments have those, and
//! what they lead to; probes without types have `arg0` to `arg5` as numbers, at returns `ret`. All have
//! `current`, the task that runs (`struct task_struct`).

use std::cell::OnceCell;
use std::rc::Rc;

use cgtap_sys::libbpf::{Btf, BtfKind};

use super::expr::{Found, Load, Names, Root, Shown, TextLoad};
use crate::hook::scope::Path;
use crate::hook::{HookKind, HookSpec};
use crate::kernel::arguments::{self, Argument, arguments, named};
use crate::kernel::format::{self, Field, Shape};
use crate::kernel::path::{self, Value};
use crate::kernel::scope::in_types;
use crate::kernel::target::{TargetError, TargetInfo};
use crate::near::lacking;

/// What the running task is called in a path.
const CURRENT: &str = "current";

/// What the paired probe gives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paired<'a> {
    /// There is one.
    pub is_paired: bool,
    /// What it noted, by name.
    pub noted: &'a [String],
}

/// Calls `check` with the names of a hook.
///
/// # Errors
/// [`TargetError`] if this kernel does not say which they are.
pub fn with_names<T>(
    spec: &HookSpec,
    info: &TargetInfo,
    paired: Paired<'_>,
    check: impl Fn(&dyn Names) -> T,
) -> Result<T, TargetError> {
    match spec.kind() {
        HookKind::Tracepoint => Ok(check(&EventNames::new(
            paired,
            Fields::Record(format::fields(spec.target())?),
        ))),
        HookKind::CgroupDevice => Ok(check(&EventNames::new(
            paired,
            Fields::Record(format::of_device_check()),
        ))),
        HookKind::PerfEvent => Ok(check(&EventNames::new(paired, Fields::None))),
        kind if kind.is_return() => Ok(check(&EventNames::new(paired, Fields::Result))),
        HookKind::Uprobe | HookKind::KprobeMulti => {
            Ok(check(&EventNames::new(paired, Fields::Registers)))
        }
        _ => in_types(spec, info, |btf| {
            let fields = match arguments(btf, spec, info) {
                Ok(all) => Fields::Typed(btf, all),
                // Some functions are in no BTF.
                Err(_) if spec.kind() == HookKind::Kprobe => Fields::Registers,
                Err(why) => Fields::Unknown(why),
            };
            check(&EventNames::new(paired, fields))
        }),
    }
}

enum Fields<'a> {
    Record(Vec<Field>),
    Typed(&'a Btf, Vec<Argument>),
    Registers,
    Result,
    None,
    Unknown(String),
}

struct EventNames<'a> {
    fields: Fields<'a>,
    vmlinux: OnceCell<Result<Rc<Btf>, String>>,
    paired: Paired<'a>,
}

impl Names for EventNames<'_> {
    fn find(&self, path: &Path) -> Result<Found, String> {
        match &self.fields {
            Fields::Record(fields) => {
                if let Some(field) = fields.iter().find(|f| f.name == path.argument()) {
                    return of_record(field, path);
                }
                self.elsewhere(path, || {
                    let names: Vec<String> = fields.iter().map(|f| f.name.clone()).collect();
                    lacking("field", path.argument(), &names, "its record has no fields")
                })
            }
            Fields::Typed(btf, all) => match named(all, path.argument()) {
                Ok(argument) => Ok(of_value(
                    Root::Argument,
                    path::to_value(btf, argument, path)?,
                )),
                Err(why) => self.elsewhere(path, || why),
            },
            Fields::Registers => {
                let number = path.argument().strip_prefix("arg");
                match number.and_then(|n| n.parse().ok()) {
                    Some(number @ 0..6) => self.register(Some(number), path),
                    _ => self.elsewhere(path, || {
                        format!(
                            "there is no {}; without types its arguments are arg0 to arg5",
                            path.argument()
                        )
                    }),
                }
            }
            Fields::Result if path.argument() == "ret" => self.register(None, path),
            Fields::Result => self.elsewhere(path, || {
                format!(
                    "there is no {}; a return has `ret`, arguments are gone by then",
                    path.argument()
                )
            }),
            Fields::None => self.elsewhere(path, || {
                format!("there is no {}; an overflow has no fields", path.argument())
            }),
            Fields::Unknown(why) => self.elsewhere(path, || why.clone()),
        }
    }

    fn noted(&self) -> &[String] {
        self.paired.noted
    }

    fn is_paired(&self) -> bool {
        self.paired.is_paired
    }
}

impl<'a> EventNames<'a> {
    fn new(paired: Paired<'a>, fields: Fields<'a>) -> Self {
        Self {
            fields,
            vmlinux: OnceCell::new(),
            paired,
        }
    }

    fn kernel_types(&self) -> Result<&Btf, String> {
        let read = || Btf::vmlinux().map_err(|e| e.to_string());
        self.vmlinux
            .get_or_init(read)
            .as_deref()
            .map_err(Clone::clone)
    }

    /// A name that is not the event's own.
    fn elsewhere(&self, path: &Path, lacks: impl FnOnce() -> String) -> Result<Found, String> {
        if path.argument() != CURRENT {
            return Err(lacks() + "; everywhere there are current->..., now and cpu");
        }
        let btf = match &self.fields {
            Fields::Typed(btf, _) => btf,
            _ => self.kernel_types()?,
        };
        let task = btf
            .find("task_struct", BtfKind::Struct)
            .ok_or("BTF has no struct task_struct")?;
        if path.members().next().is_none() {
            return Err("current is a task; name one of its members, current->tgid".to_owned());
        }
        // A path goes through the pointer to it, which BTF need not have a type for.
        let argument = Argument {
            name: CURRENT.to_owned(),
            type_id: task,
            offset: Ok(0),
        };
        let value = path::to_value_behind(btf, &argument, path)?;
        Ok(of_value(Root::Current, value))
    }

    fn register(&self, at: Option<usize>, path: &Path) -> Result<Found, String> {
        if let Some(member) = path.members().next() {
            return Err(format!(
                "{} has no type here, so no {member}",
                path.argument()
            ));
        }
        let offset = arguments::register(self.kernel_types()?, at)?;
        Ok(Found::Number {
            load: Load::Context {
                offset,
                bytes: 8,
                signed: false,
            },
            fits_signed: false,
            signed: false,
            shown: Shown::Unsigned,
        })
    }
}

fn of_record(field: &Field, path: &Path) -> Result<Found, String> {
    if let Some(member) = path.members().next() {
        return Err(format!(
            "the field {} of a classic tracepoint leads nowhere, so there is no {member}; typed \
             hooks (tp_btf:, raw_tracepoint:) have arguments that do",
            field.name
        ));
    }
    match field.shape {
        Shape::Array | Shape::Dynamic { .. } if !field.is_text() => Err(format!(
            "{} is an array of {}; a value is a number or a text",
            field.name, field.type_name
        )),
        Shape::Array => Ok(Found::Text(TextLoad::Context {
            offset: field.offset,
            bytes: field.bytes.min(u16::from(u8::MAX)) as u8,
        })),
        Shape::Dynamic { relative } => Ok(Found::Text(TextLoad::Data {
            offset: field.offset,
            relative,
        })),
        Shape::Number if field.type_name == "char *" => Err(format!(
            "{} points to a text that may be gone; it is not read",
            field.name
        )),
        Shape::Number => match field.bytes {
            bytes @ (1 | 2 | 4 | 8) => {
                let load = Load::Context {
                    offset: field.offset,
                    bytes: bytes as u8,
                    signed: field.signed,
                };
                Ok(number(load, bytes as u8, field.signed, &field.type_name))
            }
            bytes => Err(format!("{} has {bytes} bytes and is no number", field.name)),
        },
    }
}

fn of_value(root: Root, value: Value) -> Found {
    match value {
        Value::Number {
            walk,
            signed,
            bits,
            type_name,
        } => {
            let bytes = bits.map_or(walk.bytes, |_| 4);
            let load = Load::Walk {
                root,
                walk,
                signed,
                bits,
            };
            number(load, bytes, signed, &type_name)
        }
        Value::Text { walk, offset } => Found::Text(TextLoad::Memory { root, walk, offset }),
    }
}

fn number(load: Load, bytes: u8, signed: bool, type_name: &str) -> Found {
    let shown = match type_name {
        "dev_t" => Shown::Device,
        name if name.ends_with('*') => Shown::Hex,
        _ if signed => Shown::Signed,
        _ => Shown::Unsigned,
    };
    Found::Number {
        load,
        fits_signed: signed || bytes < 8,
        signed,
        shown,
    }
}
