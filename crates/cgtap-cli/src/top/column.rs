//! The columns: one for each value of a meter, over all its labels.

use cgtap::meter::usage::{Form, Truth, Unit, UsageReport};

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Meter and value, `block_bytes`.
    pub meter: String,
    /// How true it is: of all that it sums, what is least so.
    pub kind: Truth,
    /// What it is of.
    pub unit: Unit,
    /// What is done with it.
    pub form: Form,
}

impl Column {
    /// What its numbers are of, as they are shown.
    pub fn head(&self) -> &'static str {
        match (self.form.is_counter(), self.unit) {
            (true, Unit::Bytes) => "B/s",
            (true, Unit::Ns) => "% of one",
            (true, Unit::Count) => "/s",
            (false, Unit::Bytes) => "bytes",
            (false, Unit::Ns) => "time",
            (false, Unit::Count) => "now",
        }
    }

    /// The mark of its kind, none where it was measured.
    pub fn mark(&self, unicode: bool) -> &'static str {
        match (self.kind, unicode) {
            (Truth::Measured, _) => "",
            (Truth::Estimate, _) => "~",
            (Truth::Proxy, true) => "≈",
            (Truth::Proxy, false) => "p",
        }
    }
}

/// The columns of `report`, ordered by their names.
pub fn columns(report: &UsageReport) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    let mut guess = 0;
    for value in report.cgroups.iter().flat_map(|row| &row.meters) {
        match find(&columns, guess, &value.meter) {
            Ok(place) => {
                columns[place].kind = columns[place].kind.max(value.kind);
                guess = place;
            }
            Err(place) => {
                let column = Column {
                    meter: value.meter.to_string(),
                    kind: value.kind,
                    unit: value.unit,
                    form: value.form,
                };
                columns.insert(place, column);
                guess = place;
            }
        }
    }
    columns
}

/// Where the column `meter` is, or where it belongs. `guess` is where the one before it was found:
/// in the rows of a report columns repeat in their order, and nearly every guess is right.
pub fn find(columns: &[Column], guess: usize, meter: &str) -> Result<usize, usize> {
    let guesses = [guess, guess + 1, 0];
    let right = guesses
        .into_iter()
        .find(|place| columns.get(*place).is_some_and(|c| c.meter == meter));
    match right {
        Some(place) => Ok(place),
        None => columns.binary_search_by(|c| c.meter.as_str().cmp(meter)),
    }
}
