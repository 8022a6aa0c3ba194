//! What works here and what does not.

use cgtap::engine::{DoctorReport, Feature, FeatureState};

use unicode_width::UnicodeWidthStr;

use super::{Look, Tone, printable};

/// How wide a line is where it is no terminal's.
const WIDTH: usize = 80;

/// Text is not wrapped narrower than this, however narrow the terminal.
const NARROWEST: usize = 30;

/// Where the names begin: behind the longest state.
const NAME_COLUMN: usize = 9;

/// A line a feature, with what to do below where it is lacking, and then the state.
pub fn doctor(report: &DoctorReport, look: &Look) -> String {
    let mut text = format!("kernel {}\n", printable(&report.kernel));
    let width = report.features.iter().map(|f| f.name.len()).max();
    for feature in &report.features {
        text += &lines(feature, width.unwrap_or(0), look);
    }
    for problem in &report.state_problems {
        let word = look.paint(Tone::Warn, "state");
        text += &format!("{word}    {}\n", printable(problem));
    }
    for repaired in &report.repaired {
        let word = look.paint(Tone::Good, "repaired");
        text += &format!("{word} {}\n", printable(repaired));
    }
    text
}

fn lines(feature: &Feature, width: usize, look: &Look) -> String {
    // What is only nice to have is no alarm.
    let (word, tone) = match (feature.state, feature.required) {
        (FeatureState::Yes, _) => ("yes    ", Tone::Good),
        (FeatureState::No, true) => ("no     ", Tone::Bad),
        (FeatureState::No, false) => ("no     ", Tone::Warn),
        (FeatureState::Unknown, true) => ("unknown", Tone::Bad),
        (FeatureState::Unknown, false) => ("unknown", Tone::Warn),
    };
    let state = look.paint(tone, word);
    let name = printable(&feature.name);
    let indent = width + NAME_COLUMN + 2;
    let room = look.width.unwrap_or(WIDTH).saturating_sub(indent);
    let remedy = match feature.state {
        FeatureState::Yes => "",
        _ => &feature.remedy,
    };
    let mut words = wrapped(&printable(&feature.why), room);
    let arrow = if look.unicode { "→" } else { "->" };
    let blank = " ".repeat(arrow.width());
    let lines = wrapped(&printable(remedy), room.saturating_sub(arrow.width() + 1));
    for (i, line) in lines.into_iter().enumerate() {
        let mark = if i == 0 { arrow } else { blank.as_str() };
        words.push(format!("{mark} {line}"));
    }
    let first = words.first().map_or("", String::as_str);
    let mut text = format!("{state}  {name:width$}  {first}");
    text.truncate(text.trim_end().len());
    text.push('\n');
    for line in words.iter().skip(1) {
        text += &format!("{}{line}\n", " ".repeat(indent));
    }
    text
}

/// `text` in lines of `width` columns, where its words are not longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width.max(NARROWEST) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_has_its_remedy_below() {
        let feature = |name: &str, state, why: &str, remedy: &str| Feature {
            name: name.to_owned(),
            state,
            why: why.to_owned(),
            remedy: remedy.to_owned(),
            required: true,
        };
        let report = DoctorReport {
            kernel: "6.18.44".to_owned(),
            features: vec![
                feature("bpf", FeatureState::Yes, "a program was loaded", "unused"),
                feature(
                    "kernel btf",
                    FeatureState::No,
                    "no such file",
                    "build it in",
                ),
                feature("pins", FeatureState::Unknown, "", ""),
            ],
            state_problems: vec!["a pin without an owner".to_owned()],
            repaired: vec!["removed it".to_owned()],
        };
        assert_eq!(
            doctor(&report, &Look::PLAIN),
            "\
kernel 6.18.44
yes      bpf         a program was loaded
no       kernel btf  no such file
                     -> build it in
unknown  pins
state    a pin without an owner
repaired removed it
"
        );
    }
    #[test]
    fn long_words_are_wrapped_and_long_lines_are_not_lost() {
        let text = "it is effective; for loading programs";
        assert_eq!(
            wrapped(text, 30),
            ["it is effective; for loading", "programs"]
        );
        assert_eq!(wrapped(text, 80), [text]);
        assert_eq!(wrapped("", 30), [""; 0]);
        let long = "/a/path/that/is/longer/than/the/line/is/wide";
        assert_eq!(wrapped(long, 30), [long]);
    }
}
