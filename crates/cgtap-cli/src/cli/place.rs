//! `--before` and `--after`: where on its list a new attachment is to stand.

use std::str::FromStr;

use cgtap::attach::{Anchor, Place};
use cgtap::id::AttachmentId;

use super::value;

/// The value of `--before`: an attachment, or `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before(pub Option<AttachmentId>);

/// The value of `--after`: an attachment, or `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After(pub Option<AttachmentId>);

impl FromStr for Before {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "first" => Ok(Self(None)),
            "last" => Err("nothing stands behind the last; write --after last".to_owned()),
            id => value::attachment(id).map(|id| Self(Some(id))),
        }
    }
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last" => Ok(Self(None)),
            "first" => Err("nothing stands before the first; write --before first".to_owned()),
            id => value::attachment(id).map(|id| Self(Some(id))),
        }
    }
}

/// The place that the two words ask for together. Whether a list grants it is for the rules to
/// say; only what cannot even be asked is refused here.
pub fn place(before: Option<Before>, after: Option<After>) -> Result<Place, String> {
    let relative = match (before, after) {
        (Some(Before(Some(before))), Some(After(Some(after)))) if before != after => {
            return Err(format!(
                "--before {before} and --after {after} name two attachments; a place is told by \
                 one"
            ));
        }
        (before, after) => before.and_then(|b| b.0).or(after.and_then(|a| a.0)),
    };
    Ok(Place::from_flags(
        before.is_some(),
        after.is_some(),
        relative.map(Anchor::Id),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: Option<&str>, after: Option<&str>) -> Result<Place, String> {
        let before = before.map(str::parse).transpose()?;
        place(before, after.map(str::parse).transpose()?)
    }

    #[test]
    fn each_pair_of_words_is_a_place() {
        let nine = Some(Anchor::Id(AttachmentId(9)));
        for (before, after, want) in [
            (None, None, Place::Append),
            (Some("first"), None, Place::Before(None)),
            (Some("9"), None, Place::Before(nine)),
            (None, Some("last"), Place::After(None)),
            (None, Some("0x9"), Place::After(nine)),
            (Some("first"), Some("last"), Place::BeforeAndAfter(None)),
            (Some("9"), Some("last"), Place::BeforeAndAfter(nine)),
            (Some("9"), Some("9"), Place::BeforeAndAfter(nine)),
        ] {
            assert_eq!(told(before, after), Ok(want), "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert!(told(Some("8"), Some("9")).is_err());
        assert!(told(Some("last"), None).is_err());
        assert!(told(None, Some("first")).is_err());
        assert!(told(Some("x"), None).is_err());
    }
}
