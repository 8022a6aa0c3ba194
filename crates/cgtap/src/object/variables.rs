//! What is set before programs see it (`--set NAME=VALUE`): global variables, and sizes of maps
//! that an object leaves to its own loader.

use cgtap_sys::libbpf::{Btf, BtfKind, IntInfo, LibbpfError, MapShape, Object};

use super::error::Problem;

/// A variable and where its bytes are.
struct Variable {
    map: usize,
    name: String,
    type_id: u32,
    offset_bytes: u32,
    size_bytes: u32,
}

/// Sets each name to its value: `VARIABLE`, or `MAP.max_entries`, `MAP.key_size`,
/// `MAP.value_size`.
pub(super) fn set_all(object: &mut Object, set: &[(String, String)]) -> Result<(), Problem> {
    for (name, value) in set {
        match name.split_once('.') {
            Some((map, attribute)) => set_map(object, map, attribute, value)?,
            None => set_variable(object, name, value)?,
        }
    }
    Ok(())
}

fn refused(name: &str, error: LibbpfError) -> Problem {
    Problem::Libbpf {
        doing: format!("set {name}"),
        summary: error.summary(),
        errno: error.errno.0,
        log: error.log,
    }
}

fn set_map(object: &mut Object, map: &str, attribute: &str, value: &str) -> Result<(), Problem> {
    let name = format!("{map}.{attribute}");
    let maps = object.maps();
    let index = maps.iter().position(|m| m.name == map && !m.internal);
    let mut shape = index.and_then(|i| maps.get(i)).map(|m| MapShape {
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: m.max_entries,
    });
    let field = shape.as_mut().and_then(|shape| match attribute {
        "max_entries" => Some(&mut shape.max_entries),
        "key_size" => Some(&mut shape.key_size),
        "value_size" => Some(&mut shape.value_size),
        _ => None,
    });
    if let Some(field) = field {
        *field = parse(value)
            .and_then(|value| u32::try_from(value).ok())
            .ok_or_else(|| Problem::BadValue {
                variable: name.clone(),
                value: value.to_owned(),
                want: format!("an integer from 0 to {}", u32::MAX),
            })?;
    } else {
        let variables: Vec<String> = maps
            .iter()
            .filter(|m| !m.internal)
            .flat_map(|m| {
                ["max_entries", "key_size", "value_size"].map(|a| format!("{}.{a}", m.name))
            })
            .collect();
        return Err(Problem::UnknownVariable {
            variable: name,
            variables,
        });
    }
    match index.zip(shape) {
        Some((index, shape)) => object
            .set_map_shape(index, shape)
            .map_err(|error| refused(&name, error)),
        None => Ok(()),
    }
}

fn set_variable(object: &mut Object, name: &str, value: &str) -> Result<(), Problem> {
    let Some(variables) = object.with_btf(|btf| variables(object, btf)) else {
        return Err(Problem::NoBtf {
            needs: "setting a variable".to_owned(),
            log: String::new(),
        });
    };
    let Some(variable) = variables.iter().find(|v| v.name == *name) else {
        let variables: Vec<String> = variables.iter().map(|v| v.name.clone()).collect();
        return Err(Problem::UnknownVariable {
            variable: name.to_owned(),
            variables,
        });
    };
    let bytes = object
        .with_btf(|btf| encode(btf, variable.type_id, value))
        .unwrap_or_else(|| Err("not in the BTF".to_owned()))
        .and_then(|bytes| {
            // The section says how long the variable is, its type how long a value is.
            if bytes.len() == variable.size_bytes as usize {
                Ok(bytes)
            } else {
                Err("of a size that its section contradicts".to_owned())
            }
        })
        .map_err(|want| Problem::BadValue {
            variable: name.to_owned(),
            value: value.to_owned(),
            want,
        })?;
    object
        .write_initial(variable.map, variable.offset_bytes as usize, &bytes)
        .map_err(|error| refused(name, error))
}

fn variables(object: &Object, btf: &Btf) -> Vec<Variable> {
    object
        .maps()
        .iter()
        .enumerate()
        // What is in .kconfig comes from the kernel.
        .filter(|(_, map)| map.internal && !map.name.ends_with(".kconfig"))
        .flat_map(|(index, map)| {
            btf.section_vars(map.value_type_id)
                .into_iter()
                // Not a name of C's, and not to be shown on a terminal.
                .filter(|var| !var.name.chars().any(char::is_control))
                .map(move |var| Variable {
                    map: index,
                    name: var.name,
                    type_id: var.type_id,
                    offset_bytes: var.offset_bytes,
                    size_bytes: var.size_bytes,
                })
        })
        .collect()
}

/// The bytes of `text` as a value of the type, or what the type takes.
fn encode(btf: &Btf, type_id: u32, text: &str) -> Result<Vec<u8>, String> {
    let id = btf.resolve(type_id);
    if let Some(info) = btf.int_info(id).or_else(|| btf.enum_info(id)) {
        return number(info, text);
    }
    if let Some((element, count)) = btf.array_info(id) {
        let element = btf.int_info(btf.resolve(element));
        if element.is_some_and(|e| e.size_bytes == 1 && !e.boolean) {
            return characters(count as usize, text);
        }
    }
    let kind = match btf.kind(id) {
        Some(BtfKind::Struct) => "a struct",
        Some(BtfKind::Union) => "a union",
        Some(BtfKind::Array) => "an array",
        Some(BtfKind::Ptr) => "a pointer",
        Some(BtfKind::Float) => "a floating-point number",
        _ => "of an unknown type",
    };
    Err(format!(
        "{kind}; only integers, booleans and arrays of characters can be set"
    ))
}

fn number(info: IntInfo, text: &str) -> Result<Vec<u8>, String> {
    if info.boolean && info.size_bytes == 1 {
        return match text {
            "true" | "1" => Ok(vec![1]),
            "false" | "0" => Ok(vec![0]),
            _ => Err("true or false".to_owned()),
        };
    }
    let size = info.size_bytes as usize;
    if ![1, 2, 4, 8].contains(&size) {
        return Err(format!("an integer of {size} bytes, which cannot be set"));
    }
    let bits = 8 * size as u32;
    let (low, high) = if info.signed {
        (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
    } else {
        (0, (1_i128 << bits) - 1)
    };
    let value = parse(text)
        .filter(|value| (low..=high).contains(value))
        .ok_or_else(|| format!("an integer from {low} to {high}"))?;
    let bytes = value.to_le_bytes();
    let mut bytes = bytes.get(..size).unwrap_or_default().to_vec();
    if cfg!(target_endian = "big") {
        bytes.reverse();
    }
    Ok(bytes)
}

/// Decimal, or hexadecimal with `0x`; a sign before it.
fn parse(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // The number parsers take a sign of their own.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hex) if hex.starts_with(['+', '-']) => return None,
        Some(hex) => i128::from_str_radix(hex, 16).ok()?,
        None => digits.parse::<i128>().ok()?,
    };
    Some(if negative { -value } else { value })
}

fn characters(size: usize, text: &str) -> Result<Vec<u8>, String> {
    // The last byte stays NUL: programs read it as a C string.
    if text.len() >= size || text.contains('\0') {
        return Err(format!(
            "a text of at most {} bytes",
            size.saturating_sub(1)
        ));
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(size, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn int(size_bytes: u32, signed: bool) -> IntInfo {
        IntInfo {
            size_bytes,
            signed,
            boolean: false,
        }
    }

    #[test]
    fn integers_keep_to_their_range() {
        for (info, text, want) in [
            (int(1, false), "255", Some(vec![255])),
            (int(1, false), "256", None),
            (int(1, false), "-1", None),
            (int(1, true), "-128", Some(vec![128])),
            (int(1, true), "128", None),
            (
                int(2, false),
                "0xabcd",
                Some(0xabcd_u16.to_ne_bytes().to_vec()),
            ),
            (int(4, true), "-2", Some((-2_i32).to_ne_bytes().to_vec())),
            (int(4, true), "2147483648", None),
            (int(8, false), "18446744073709551615", Some(vec![255; 8])),
            (int(8, false), "18446744073709551616", None),
            (
                int(8, true),
                "-9223372036854775808",
                Some(i64::MIN.to_ne_bytes().to_vec()),
            ),
            (int(16, true), "1", None),
            (int(4, true), "", None),
            (int(4, true), "0x", None),
            (int(4, true), "--1", None),
            (int(4, true), "+1", None),
            (int(4, true), "0x-1", None),
            (int(4, true), "1 ", None),
            (int(4, true), "ten", None),
        ] {
            assert_eq!(number(info, text).ok(), want, "{text} as {info:?}");
        }
        assert_eq!(
            number(int(2, true), "40000").unwrap_err(),
            "an integer from -32768 to 32767"
        );
    }

    #[test]
    fn booleans_and_texts() {
        let boolean = IntInfo {
            size_bytes: 1,
            signed: false,
            boolean: true,
        };
        assert_eq!(number(boolean, "true"), Ok(vec![1]));
        assert_eq!(number(boolean, "0"), Ok(vec![0]));
        assert_eq!(number(boolean, "2"), Err("true or false".to_owned()));
        assert_eq!(characters(4, "abc"), Ok(b"abc\0".to_vec()));
        assert_eq!(characters(4, ""), Ok(vec![0; 4]));
        assert_eq!(
            characters(4, "abcd"),
            Err("a text of at most 3 bytes".to_owned())
        );
        assert!(characters(0, "").is_err());
    }
}
