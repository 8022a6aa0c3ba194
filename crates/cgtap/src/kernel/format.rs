//! The fields of classic tracepoints, from tracefs' `format` files.

use std::fs;

use super::tracepoint::{TracepointError, tracefs};

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type as C writes it, without the length of an array.
    pub type_name: String,
    /// Bytes from the beginning of the record.
    pub offset: i16,
    /// Its size in bytes.
    pub bytes: u16,
    /// It has a sign.
    pub signed: bool,
    /// What it is.
    pub shape: Shape,
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One number.
    Number,
    /// Several of the same.
    Array,
    /// A word that says where in the record it is; `relative` counts from behind that word.
    Dynamic {
        /// `__rel_loc`.
        relative: bool,
    },
}

impl Field {
    /// It is made of characters.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.shape != Shape::Number && self.type_name == "char"
    }
}

/// What the device controller tells its programs: `struct bpf_cgroup_dev_ctx` (include/uapi/linux/bpf.h).
/// `access_type` is the type (1 block, 2 character) and, shifted by 16, what for (1 mknod, 2 read, 4
/// write).
#[must_use]
pub fn of_device_check() -> Vec<Field> {
    let field = |(at, name): (i16, &str)| Field {
        name: name.to_owned(),
        type_name: "__u32".to_owned(),
        offset: at * 4,
        bytes: 4,
        signed: false,
        shape: Shape::Number,
    };
    (0..)
        .zip(["access_type", "major", "minor"])
        .map(field)
        .collect()
}

/// The fields that a `format` file describes, without those that every record has
/// (`common_...`). Lines that are no field are passed over.
#[must_use]
pub fn parse(text: &str) -> Vec<Field> {
    text.lines()
        .filter_map(|line| parse_line(line.trim()))
        .filter(|field| !field.name.starts_with("common_"))
        .collect()
}

fn parse_line(line: &str) -> Option<Field> {
    let mut parts = line.strip_prefix("field:")?.split(';').map(str::trim);
    let declaration = parts.next()?;
    let number = |part: Option<&str>, name: &str| part?.strip_prefix(name)?.parse::<i64>().ok();
    let offset = number(parts.next(), "offset:")?;
    let bytes = number(parts.next(), "size:")?;
    let signed = number(parts.next(), "signed:")? != 0;

    let dynamic = [("__data_loc ", false), ("__rel_loc ", true)]
        .into_iter()
        .find_map(|(prefix, relative)| Some((declaration.strip_prefix(prefix)?, relative)));
    // Dynamic arrays are `char[] name`, others `char name[16]`.
    let (declaration, shape) = match dynamic {
        Some((rest, relative)) => (rest.replacen("[]", "", 1), Shape::Dynamic { relative }),
        None => match declaration.split_once('[') {
            Some((before, _)) => (before.to_owned(), Shape::Array),
            None => (declaration.to_owned(), Shape::Number),
        },
    };
    let (type_name, name) = declaration.trim().rsplit_once([' ', '*'])?;
    let pointer = declaration.contains('*');
    let type_name = type_name.trim().trim_start_matches("const ").trim();
    Some(Field {
        name: name.to_owned(),
        type_name: if pointer {
            format!("{} *", type_name.trim_end_matches('*').trim())
        } else {
            type_name.to_owned()
        },
        offset: i16::try_from(offset).ok()?,
        bytes: u16::try_from(bytes).ok()?,
        signed,
        shape,
    })
}

/// The fields of tracepoint `CATEGORY/NAME` on this kernel.
///
/// # Errors
/// [`TracepointError`]: tracefs is not mounted, or what reading said.
pub fn fields(target: &str) -> Result<Vec<Field>, TracepointError> {
    let path = tracefs()?.join("events").join(target).join("format");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse(&text)),
        Err(source) => Err(TracepointError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a GPU's scheduler as 6.12 has it.
    const DRM_SCHED_JOB: &str = "name: drm_sched_job
ID: 1000
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:struct drm_sched_entity * entity;\toffset:8;\tsize:8;\tsigned:0;
\tfield:const char * label;\toffset:16;\tsize:8;\tsigned:0;
\tfield:__data_loc char[] name;\toffset:24;\tsize:4;\tsigned:0;
\tfield:u64 id;\toffset:32;\tsize:8;\tsigned:0;
\tfield:unsigned long args[6];\toffset:40;\tsize:48;\tsigned:0;
\tfield:char rwbs[10];\toffset:88;\tsize:10;\tsigned:0;
\tfield:int hw_job_count;\toffset:100;\tsize:4;\tsigned:1;

print fmt: \"entity=%p, field: none; offset:1\", REC->entity
";

    #[test]
    fn fields_are_read_as_the_kernel_writes_them() {
        let fields = parse(DRM_SCHED_JOB);
        let seen: Vec<_> = fields
            .iter()
            .map(|f| (f.name.as_str(), f.type_name.as_str(), f.offset, f.shape))
            .collect();
        assert_eq!(
            seen,
            [
                ("entity", "struct drm_sched_entity *", 8, Shape::Number),
                ("label", "char *", 16, Shape::Number),
                ("name", "char", 24, Shape::Dynamic { relative: false }),
                ("id", "u64", 32, Shape::Number),
                ("args", "unsigned long", 40, Shape::Array),
                ("rwbs", "char", 88, Shape::Array),
                ("hw_job_count", "int", 100, Shape::Number),
            ]
        );
        let texts: Vec<_> = fields.iter().filter(|f| f.is_text()).collect();
        assert_eq!(texts.len(), 2);
        assert!(fields[6].signed && !fields[3].signed);
    }
}
