//! JSON documents. Each one says first which schema it follows.

use serde::Serialize;

/// The name of the schema. A change that scripts would notice gives it another number.
pub const SCHEMA: &str = "cgtap/1";

/// A document: the schema, and then the fields of `body`.
#[derive(Clone, Debug, Serialize)]
pub struct Document<T> {
    schema: &'static str,
    #[serde(flatten)]
    body: T,
}

impl<T: Serialize> Document<T> {
    /// A document with the fields of `body`.
    pub fn new(body: T) -> Self {
        Self {
            schema: SCHEMA,
            body,
        }
    }
}

/// The body of an error document.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorDocument {
    /// The error.
    pub error: ErrorBody,
}

/// An error.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    /// What went wrong, in a word.
    pub kind: &'static str,
    /// The kernel's answer by its name, where there was one.
    pub errno: Option<String>,
    /// What was asked, what the kernel said, what to do.
    pub message: String,
    /// The verifier's whole log, where it was asked for and there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}
