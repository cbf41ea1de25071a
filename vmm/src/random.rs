//! Numbers that look like chance: of a seed, with which they come again everywhere, or of a fuzzer's bytes.

/// Where the next number comes from.
#[derive(Clone, Debug)]
pub struct Random(Source);

#[derive(Clone, Debug)]
enum Source {
    /// SplitMix64, whose sequence is stated (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators",
    /// OOPSLA 2014).
    Seed(u64),
    Bytes(std::vec::IntoIter<u8>),
}

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Source::Seed(seed))
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

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number_up_to(end.saturating_sub(1)).checked_rem(end).unwrap_or(0)
    }

    /// A place in a list of so many; 0 in an empty one.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len.max(1) as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.index(all.len())]
    }

    /// One that may be as large as `most`, and larger.
    fn number_up_to(&mut self, most: u64) -> u64 {
        match &mut self.0 {
            Source::Seed(state) => split_mix(state),
            Source::Bytes(bytes) => {
                let mut word = [0; 8];
                let needed = most.checked_ilog2().map_or(0, |highest| highest as usize / 8 + 1);
                word.iter_mut().take(needed).zip(bytes).for_each(|(to, from)| *to = from);
                u64::from_le_bytes(word)
            }
        }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
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

    /// The first numbers of seed 0, as SplitMix64's authors' program prints them.
    #[test]
    fn a_seed_has_the_stated_sequence() {
        let mut random = Random::new(0);
        let first = [random.number(), random.number(), random.number()];
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}
