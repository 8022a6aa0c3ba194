//! How a label keeps a text: its first bytes, in words of a key, with a NUL behind them.

/// Words of a text label.
pub const TEXT_WORDS: usize = 2;

/// As much of a text as a label keeps.
#[must_use]
pub fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_WORDS * 8 - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What a label keeps of a text, as it stands in a key.
#[must_use]
pub fn words(text: &str) -> [u64; TEXT_WORDS] {
    let mut words = [0; TEXT_WORDS];
    for (word, bytes) in words.iter_mut().zip(cut(text).as_bytes().chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("eth0"), "eth0");
        assert_eq!(cut("fifteen-bytes-15"), "fifteen-bytes-1");
        assert_eq!(cut("fourteen-bytesä"), "fourteen-bytes");
        let [first, second] = words("fourteen-bytesä").map(u64::to_ne_bytes);
        assert_eq!((&first, &second), (b"fourteen", b"-bytes\0\0"));
        assert_eq!(words(""), [0; TEXT_WORDS]);
    }
}
