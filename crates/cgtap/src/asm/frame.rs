//! Stack of generated programs.

/// Stack of a program, given out from the frame pointer down.
#[derive(Debug, Default)]
pub struct Frame {
    used: i16,
}

impl Frame {
    /// Room for `words` words: the offset of the first from the frame pointer.
    pub fn take(&mut self, words: usize) -> i16 {
        self.used += words as i16 * 8;
        -self.used
    }
}
