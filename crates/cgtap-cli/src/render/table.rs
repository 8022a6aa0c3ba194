//! Tables: columns as wide as their widest cell, two spaces between them.

use std::borrow::Cow;

use unicode_width::UnicodeWidthStr;

use super::{Look, Tone, printable};

/// What is left at least of a cell that is cut.
const SHORTEST: usize = 12;

/// To which side the cells of a column go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    title: Cow<'static, str>,
    align: Align,
    cut: bool,
}

impl Column {
    /// A column of words.
    pub fn words(title: impl Into<Cow<'static, str>>) -> Self {
        Self {
            title: title.into(),
            align: Align::Left,
            cut: false,
        }
    }

    /// A column of paths: on a terminal that is too narrow they lose their beginning.
    pub fn paths(title: impl Into<Cow<'static, str>>) -> Self {
        Self {
            cut: true,
            ..Self::words(title)
        }
    }

    /// A column of numbers.
    pub fn numbers(title: impl Into<Cow<'static, str>>) -> Self {
        Self {
            align: Align::Right,
            ..Self::words(title)
        }
    }
}

/// A cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone.
    pub fn toned(text: impl ToString, tone: Tone) -> Self {
        Self {
            text: printable(&text.to_string()).into_owned(),
            tone,
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
            indent: 0,
        }
    }

    /// The table, so many columns to the right.
    pub fn indented(mut self, indent: usize) -> Self {
        self.indent = indent;
        self
    }

    /// Adds a row: a cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// Adds a row of any number of cells.
    pub fn push(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines of the table, titles first.
    pub fn render(&self, look: &Look) -> String {
        let widths = self.widths(look);
        let titles: Vec<Cell> = self
            .columns
            .iter()
            .map(|column| Cell::toned(&column.title, Tone::Heading))
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            text += &self.line(row, &widths, look);
        }
        text
    }

    fn widths(&self, look: &Look) -> Vec<usize> {
        let cell = |row: &Vec<Cell>, i: usize| row.get(i).map_or(0, |c| c.text.width());
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let widest = self.rows.iter().map(|row| cell(row, i)).max();
                widest.unwrap_or(0).max(self.columns[i].title.width())
            })
            .collect();
        let used = self.indent + widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        let mut over = used.saturating_sub(look.width.unwrap_or(usize::MAX));
        // The widest gives first, as the others have less to lose.
        let mut order: Vec<usize> = (0..widths.len()).filter(|i| self.columns[*i].cut).collect();
        order.sort_by_key(|i| std::cmp::Reverse(widths[*i]));
        for i in order {
            let given = over.min(widths[i].saturating_sub(SHORTEST));
            widths[i] -= given;
            over -= given;
        }
        widths
    }

    fn line(&self, cells: &[Cell], widths: &[usize], look: &Look) -> String {
        let mut line = " ".repeat(self.indent);
        // Blanks that are owed before the next cell: a line does not end in any.
        let mut owed = 0;
        for ((cell, column), width) in cells.iter().zip(&self.columns).zip(widths) {
            let text = shortened(&cell.text, *width, look);
            let blank = width.saturating_sub(text.width());
            let (before, behind) = match column.align {
                Align::Left => (0, blank),
                Align::Right => (blank, 0),
            };
            owed += before;
            if !text.is_empty() {
                line += &" ".repeat(owed);
                line += &look.paint(cell.tone, &text);
                owed = 0;
            }
            owed += behind;
            owed += 2;
        }
        line + "\n"
    }
}

/// The end of `text` that fits into `width` columns, behind a mark where something is missing.
fn shortened(text: &str, width: usize, look: &Look) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mark = if look.unicode { "…" } else { "..." };
    let room = width.saturating_sub(mark.width());
    let mut end = text;
    while end.width() > room {
        let mut rest = end.chars();
        rest.next();
        end = rest.as_str();
    }
    format!("{mark}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::numbers("ID"),
            Column::paths("CGROUP"),
            Column::words("MODE"),
        ]);
        table.row([9.into(), "/a".into(), "multi".into()]);
        table.row([10.into(), "/tenants/größe/日本".into(), "".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            table().render(&Look::PLAIN),
            "\
ID  CGROUP               MODE
 9  /a                   multi
10  /tenants/größe/日本
"
        );
    }

    #[test]
    fn on_a_narrow_terminal_paths_lose_their_beginning() {
        let narrow = Look {
            width: Some(25),
            unicode: true,
            ..Look::PLAIN
        };
        assert_eq!(
            table().indented(1).render(&narrow),
            " ID  CGROUP         MODE
  9  /a             multi
 10  …s/größe/日本
"
        );
    }

    #[test]
    fn a_cell_cannot_command_the_terminal() {
        let mut table = Table::new(vec![Column::words("NAME")]);
        table.row(["\x1b[2J".into()]);
        assert_eq!(table.render(&Look::PLAIN), "NAME\n\\u{1b}[2J\n");
    }
}
