//! What has to be known of the words before they are parsed, so that a parse error can be told in
//! the form that was asked for.

use std::ffi::OsString;

use clap::ValueEnum;

use super::Color;

/// How to tell what is wrong with the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// As JSON.
    pub json: bool,
    /// In colour.
    pub color: Color,
}

impl Early {
    /// Looks for `--json` and `--color` in `words`, up to `--`: what comes behind belongs to
    /// another command.
    pub fn scan(words: &[OsString]) -> Self {
        let mut early = Self::default();
        let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
        while let Some(word) = words.next() {
            let color = match word.as_ref() {
                "--" => break,
                "--json" => {
                    early.json = true;
                    None
                }
                "--color" => words.next(),
                other => other.strip_prefix("--color=").map(|w| w.to_owned().into()),
            };
            if let Some(color) = color.and_then(|w| Color::from_str(&w, false).ok()) {
                early.color = color;
            }
        }
        early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(words: &str) -> Early {
        Early::scan(&words.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn json_and_colour_are_found_anywhere_before_the_command_of_stat() {
        assert!(scan("cgtap --json nonsense").json);
        assert!(scan("cgtap attach --json").json);
        assert!(!scan("cgtap stat -e x -- other --json").json);
        assert_eq!(scan("cgtap --color never x").color, Color::Never);
        assert_eq!(scan("cgtap x --color=always").color, Color::Always);
        assert_eq!(scan("cgtap x --color").color, Color::Auto);
        assert_eq!(scan("cgtap x --color=red").color, Color::Auto);
    }
}
