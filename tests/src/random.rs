//! Numbers that attacks are drawn by: of a seed, whose sequence is the same everywhere, or of a fuzzer's bytes.

/// Where the next number comes from.
#[derive(Clone, Debug)]
pub struct Random(Source);

#[derive(Clone, Debug)]
enum Source {
    /// The library's generator.
    Seed(efibed::check::Random),
    Bytes(std::vec::IntoIter<u8>),
}

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Source::Seed(efibed::check::Random(seed)))
    }

    /// What bytes say, each choice in as few of them as it needs: so a fuzzer's changes are small ones. After the last one
    /// all numbers are 0.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Source::Bytes(Vec::from(bytes).into_iter()))
    }

    /// The sequence of one run of many with a seed: a run can be repeated alone.
    pub fn of_run(seed: u64, run: u64) -> Self {
        Self::new(Self::new(seed).number() ^ run.rotate_left(32))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.number_up_to(u64::MAX)
    }

    /// One below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let end = end.max(1) as u64;
        (self.number_up_to(end - 1) % end) as usize
    }

    /// One that may be as large as `most`, and larger.
    fn number_up_to(&mut self, most: u64) -> u64 {
        match &mut self.0 {
            Source::Seed(random) => random.number(),
            Source::Bytes(bytes) => {
                let mut word = [0; 8];
                let needed = most.checked_ilog2().map_or(0, |highest| highest as usize / 8 + 1);
                word.iter_mut().take(needed).zip(bytes).for_each(|(to, from)| *to = from);
                u64::from_le_bytes(word)
            }
        }
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A number that a variable of the environment gives, such as a seed; another one without it.
pub fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_as_they_are_needed() {
        let mut random = Random::of_bytes(&[7, 1, 2, 0x34, 0x12, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((random.below(5), random.once_in(1), random.below(256)), (2, true, 1));
        assert_eq!((random.below(257), random.below(1 << 16)), (0x3402 % 257, 0x0112));
        assert_eq!((random.number(), random.number(), random.below(9)), (0x0908_0706_0504_0302, 0, 0));
    }
}
