//! Seeded random numbers for the attacks: the sequence of a seed is the same everywhere.

/// The library's generator, and what attacks are drawn by.
#[derive(Clone, Debug)]
pub struct Random(efibed::check::Random);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(efibed::check::Random(seed))
    }

    /// The sequence of one run of many with a seed: a run can be repeated alone.
    pub fn of_run(seed: u64, run: u64) -> Self {
        Self::new(Self::new(seed).number() ^ run.rotate_left(32))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0.number()
    }

    /// One below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
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
