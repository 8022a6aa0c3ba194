//! A terminal's screen as SVG: rectangles where there is a background, and words, each stretched to
//! its cells so that any monospaced font will do. Wide characters are taken for narrow ones.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

/// Width and height of a cell, and the empty border, in units of the picture.
const CELL: (u32, u32) = (8, 18);
const BORDER: u32 = 12;

/// What a terminal with a dark background has for its colours without number.
const INK: &str = "#d6d9e0";
const PAPER: &str = "#16181d";

/// The sixteen colours with numbers that terminals have names for.
const COLOURS: [&str; 16] = [
    "#3b4048", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#abb2bf",
    "#5c6370", "#ef7b85", "#a9d48a", "#f0d08c", "#74bdf7", "#d48ae8", "#67c7d3", "#ffffff",
];

/// How a run of cells looks.
#[derive(Clone, PartialEq, Eq)]
struct Look {
    ink: String,
    paper: String,
    bold: bool,
    dim: bool,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let mut look = Self {
            ink: colour(cell.fgcolor(), INK),
            paper: colour(cell.bgcolor(), PAPER),
            bold: cell.bold(),
            dim: cell.dim(),
        };
        if cell.inverse() {
            std::mem::swap(&mut look.ink, &mut look.paper);
        }
        look
    }
}

/// The picture.
pub fn draw(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let (width, height) = (
        u32::from(columns) * CELL.0 + 2 * BORDER,
        u32::from(rows) * CELL.1 + 2 * BORDER,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"13\">\n<rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{PAPER}\"/>\n"
    );
    for row in 0..rows {
        for run in runs(screen, row, columns) {
            run.draw(row, &mut svg);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Neighbours of one look in a row.
struct Run {
    column: u16,
    cells: u16,
    text: String,
    look: Look,
}

fn runs(screen: &Screen, row: u16, columns: u16) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column) else {
            continue;
        };
        let look = Look::of(cell);
        let text = match cell.contents() {
            "" if cell.is_wide_continuation() => "",
            "" => " ",
            text => text,
        };
        match runs.last_mut() {
            Some(last) if last.look == look => {
                last.cells += 1;
                last.text.push_str(text);
            }
            _ => runs.push(Run {
                column,
                cells: 1,
                text: text.to_owned(),
                look,
            }),
        }
    }
    runs
}

impl Run {
    fn draw(&self, row: u16, svg: &mut String) {
        let (x, y) = (
            BORDER + u32::from(self.column) * CELL.0,
            BORDER + u32::from(row) * CELL.1,
        );
        let width = u32::from(self.cells) * CELL.0;
        if self.look.paper != PAPER {
            // Writing to a string does not fail.
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"{}\"/>",
                CELL.1, self.look.paper
            );
        }
        let bold = if self.look.bold {
            " font-weight=\"bold\""
        } else {
            ""
        };
        let dim = if self.look.dim {
            " opacity=\"0.6\""
        } else {
            ""
        };
        for (at, word) in words(&self.text) {
            let width = word.chars().count() * CELL.0 as usize;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" textLength=\"{width}\" \
                 lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\"{bold}{dim}>{}</text>",
                x as usize + at * CELL.0 as usize,
                y + 13,
                self.look.ink,
                escaped(word)
            );
        }
    }
}

/// The words of a text, and how many cells stand before each: what draws SVG does not agree on what
/// spaces are worth.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut at = 0;
    for word in text.split(' ') {
        if !word.is_empty() {
            words.push((at, word));
        }
        at += word.chars().count() + 1;
    }
    words
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A colour in words of SVG; `default` is what a cell without one has.
fn colour(colour: Color, default: &str) -> String {
    match colour {
        Color::Default => default.to_owned(),
        Color::Idx(n) if usize::from(n) < COLOURS.len() => COLOURS[usize::from(n)].to_owned(),
        // The cube of 6x6x6, and 24 greys.
        Color::Idx(n @ 16..=231) => {
            let n = n - 16;
            let level = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
            rgb(level(n / 36), level(n / 6 % 6), level(n % 6))
        }
        Color::Idx(n) => {
            let grey = 8 + 10 * (n.saturating_sub(232));
            rgb(grey, grey, grey)
        }
        Color::Rgb(r, g, b) => rgb(r, g, b),
    }
}

fn rgb(r: u8, g: u8, b: u8) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what surprises a test is to end it")]

    #[test]
    fn a_screen_is_drawn_with_its_text_colours_and_marks() {
        let mut terminal = vt100::Parser::new(2.try_into().unwrap(), 12.try_into().unwrap(), 0);
        terminal.process(b"a<b \x1b[31;1mred\x1b[0m\r\n\x1b[7mback\x1b[0m");
        let svg = super::draw(terminal.screen());
        assert!(svg.contains(">a&lt;b</text>"), "{svg}");
        assert!(
            svg.contains("fill=\"#e06c75\" font-weight=\"bold\">red</text>"),
            "{svg}"
        );
        assert!(svg.contains("fill=\"#16181d\">back</text>"), "{svg}");
        assert!(svg.contains("height=\"18\" fill=\"#d6d9e0\"/>"), "{svg}");
    }
}
