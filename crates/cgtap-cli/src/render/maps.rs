//! Maps of instances, and the storage of attachments.

use cgtap::engine::{InstanceReport, StorageReport};

use super::{Cell, Column, Look, Table, Tone, printable};

/// The maps of each instance, below a line that names it.
pub fn maps(instances: &[InstanceReport], look: &Look) -> String {
    let mut text = String::new();
    for instance in instances {
        let name = look.paint(Tone::Heading, &format!("instance {}", instance.id));
        let object = printable(&instance.object);
        let programs = instance.programs.join(", ");
        text += &format!("{name}  {object}  {}\n", printable(&programs));
        if instance.maps.is_empty() {
            text += "  no maps\n";
            continue;
        }
        let mut table = Table::new(vec![
            Column::words("MAP"),
            Column::words("TYPE"),
            Column::words("PIN"),
        ])
        .indented(2);
        for map in &instance.maps {
            let pin = match &map.pin {
                Some(pin) => pin.to_string_lossy().into_owned().into(),
                None => Cell::toned("one for each attachment: cgtap storage ID", Tone::Dim),
            };
            table.row([map.name.as_str().into(), map.map_type.as_str().into(), pin]);
        }
        text += &table.render(look);
    }
    text
}

/// The storage of an attachment: values as bytes, and as a number where they have the size of one.
pub fn storage(report: &StorageReport, look: &Look) -> String {
    let per_cpu = report.maps.iter().any(|m| m.values_hex.is_some());
    let mut columns = vec![Column::words("MAP")];
    if per_cpu {
        columns.push(Column::numbers("CPU"));
    }
    columns.extend([Column::words("VALUE"), Column::numbers("DECIMAL")]);
    let mut table = Table::new(columns);
    for map in &report.maps {
        let mut row = |cpu: Option<usize>, hex: &str| {
            let mut cells: Vec<Cell> = vec![map.name.as_str().into()];
            if per_cpu {
                cells.push(cpu.map_or_else(Cell::default, Cell::from));
            }
            cells.push(spaced(hex).into());
            cells.push(decimal(hex).unwrap_or_default().into());
            table.push(cells);
        };
        if let Some(hex) = &map.value_hex {
            row(None, hex);
        }
        for (cpu, hex) in map.values_hex.iter().flatten().enumerate() {
            row(Some(cpu), hex);
        }
    }
    table.render(look)
}

/// Bytes apart, as a dump has them.
fn spaced(hex: &str) -> String {
    let mut text = String::with_capacity(hex.len() * 3 / 2);
    for (i, digit) in hex.chars().enumerate() {
        if i > 0 && i % 2 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The value as this machine reads it, where it is as long as an `int` or a `long`.
fn decimal(hex: &str) -> Option<String> {
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok())
        .collect::<Option<_>>()?;
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(u32::from_ne_bytes(bytes).to_string());
    }
    let bytes = <[u8; 8]>::try_from(bytes.as_slice()).ok()?;
    Some(u64::from_ne_bytes(bytes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::engine::{MapReport, StorageMap};
    use cgtap::id::{AttachmentId, InstanceId};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn maps_stand_below_their_instance() {
        let map = |name: &str, kind: &str, pin: Option<&str>| MapReport {
            name: name.to_owned(),
            map_type: kind.to_owned(),
            pin: pin.map(Into::into),
        };
        let instance = InstanceReport {
            id: InstanceId(3),
            object: "./io.bpf.o".to_owned(),
            programs: vec!["begin".to_owned(), "end".to_owned()],
            maps: vec![
                map("counts", "hash", Some("/sys/fs/bpf/cgtap/maps/3/counts")),
                map("own", "cgroup_storage", None),
            ],
        };
        assert_eq!(
            maps(&[instance], &Look::PLAIN),
            "\
instance 3  ./io.bpf.o  begin, end
  MAP     TYPE            PIN
  counts  hash            /sys/fs/bpf/cgtap/maps/3/counts
  own     cgroup_storage  one for each attachment: cgtap storage ID
"
        );
    }

    #[test]
    fn a_value_is_told_in_bytes_and_as_a_number() {
        let report = StorageReport {
            attachment: AttachmentId(1),
            maps: vec![
                StorageMap {
                    name: "count".to_owned(),
                    value_hex: Some(hex(&500_u64.to_ne_bytes())),
                    values_hex: None,
                },
                StorageMap {
                    name: "pair".to_owned(),
                    value_hex: Some("0a0b0c".to_owned()),
                    values_hex: None,
                },
            ],
        };
        let want = format!(
            "\
MAP    VALUE                    DECIMAL
count  {}      500
pair   0a 0b 0c
",
            spaced(&hex(&500_u64.to_ne_bytes()))
        );
        assert_eq!(storage(&report, &Look::PLAIN), want);
    }

    #[test]
    fn per_cpu_values_have_a_row_a_cpu() {
        let report = StorageReport {
            attachment: AttachmentId(1),
            maps: vec![StorageMap {
                name: "count".to_owned(),
                value_hex: None,
                values_hex: Some(vec![hex(&[7, 7, 7, 7]), hex(&[0, 0, 0, 0])]),
            }],
        };
        assert_eq!(
            storage(&report, &Look::PLAIN),
            "\
MAP    CPU  VALUE          DECIMAL
count    0  07 07 07 07  117901063
count    1  00 00 00 00          0
"
        );
    }
}
