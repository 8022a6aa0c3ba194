//! Damage to files, the same for the same seed.

/// xorshift64*: enough to choose bytes with, and without a dependency.
pub struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        // 0 would stay 0.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % (end as u64).max(1)) as usize
    }
}

/// Numbers at which programs go wrong.
const AWKWARD: [u64; 10] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Changes `len` bytes at `at` to a number.
fn put(file: &mut [u8], at: usize, len: usize, number: u64) {
    for (place, byte) in file.iter_mut().skip(at).take(len).zip(number.to_le_bytes()) {
        *place = byte;
    }
}

/// Where the section headers lie, as far as the header can be believed.
fn section_headers(file: &[u8]) -> Option<(usize, usize)> {
    let word = |at: usize| -> Option<u64> {
        let bytes = file.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let start = usize::try_from(word(40)?).ok()?;
    let count = (word(56)? >> 32 & 0xffff) as usize;
    (count > 0 && start + 64 * count <= file.len()).then_some((start, count))
}

/// A damaged copy of `file`.
pub fn damaged(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..=random.below(3) {
        let len = file.len();
        let at = random.below(len);
        match random.below(6) {
            // A field of a section header: type, flags, offset, size, link, info, entry size.
            0 | 1 => {
                if let Some((start, count)) = section_headers(&file) {
                    let header = start + 64 * random.below(count);
                    let (field, width) =
                        [(4, 4), (8, 8), (24, 8), (32, 8), (40, 4), (44, 4), (56, 8)]
                            [random.below(7)];
                    // Mostly near the truth: far from it is seen at once.
                    let number = if random.below(2) == 0 {
                        AWKWARD[random.below(AWKWARD.len())]
                    } else {
                        random.next() % 4096
                    };
                    put(&mut file, header + field, width, number);
                }
            }
            2 => {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            3 => put(&mut file, at & !3, 4, AWKWARD[random.below(AWKWARD.len())]),
            4 => put(&mut file, at & !3, 4, random.next() % 256),
            _ => {
                // A piece of the file in another place.
                let from = random.below(len);
                let piece: Vec<u8> = file
                    .iter()
                    .skip(from)
                    .take(1 + random.below(64))
                    .copied()
                    .collect();
                for (place, byte) in file.iter_mut().skip(at).zip(piece) {
                    *place = byte;
                }
            }
        }
    }
    file
}
