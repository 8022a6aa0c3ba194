//! Where on a list a new attachment goes (S16, S17). `get_prog_list()` in the kernel.

use super::attachment::{Anchor, Attachment};
use super::error::{Role, RuleError};
use super::request::{AttachRequest, Place};

/// The index at which the attachment of `request` is to be inserted in `list`.
pub(super) fn position(list: &[Attachment], request: &AttachRequest) -> Result<usize, RuleError> {
    match request.place {
        // Without a relative preorder does not matter: the first of the whole list is the first
        // of its class too, and so is the last.
        Place::Before(None) => Ok(0),
        Place::Append | Place::After(None) => Ok(list.len()),
        Place::Before(Some(anchor)) => find_relative(list, anchor, request),
        Place::After(Some(anchor)) => Ok(find_relative(list, anchor, request)? + 1),
        Place::BeforeAndAfter(None) if list.is_empty() => Ok(0),
        Place::BeforeAndAfter(_) => Err(RuleError::BeforeAndAfter),
        Place::Beside(anchor) => Err(RuleError::RelativeAlone { anchor }),
    }
}

/// The index of the relative. It must be of the same preorder class: the two classes run at
/// different times, so that "directly before" one of the other class has no meaning.
fn find_relative(
    list: &[Attachment],
    anchor: Anchor,
    request: &AttachRequest,
) -> Result<usize, RuleError> {
    let (index, relative) = list
        .iter()
        .enumerate()
        .find(|(_, attachment)| anchor.names(attachment))
        .ok_or(RuleError::NotOnList {
            role: Role::Relative,
            anchor,
            cgroup: request.cgroup,
        })?;
    if relative.preorder != request.preorder {
        return Err(RuleError::OtherClass {
            anchor,
            preorder: relative.preorder,
        });
    }
    Ok(index)
}
