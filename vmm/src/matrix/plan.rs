//! What is run of a set on this machine: parts, what of them is left out, and in which pieces.

use std::num::NonZeroU64;
use std::str::FromStr;

use super::Matrix;
use super::bits::{Bit, Combination};
use super::deviations::KnownMachine;
use super::part::Part;
use super::sets::Plane;
use crate::bed::TestBed;
use crate::engine::{Abilities, EngineError};
use crate::machine::CpuidRequest;
use crate::mmu::Paging;
use crate::random::Random;

/// One of several equal shares of the work, for several machines or runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Which, from 1.
    pub number: NonZeroU64,
    /// The number of shares.
    pub of: NonZeroU64,
}

/// All that is to be run.
pub struct Plan {
    /// Each with what its machine can do.
    pub parts: Vec<(Part, KnownMachine)>,
    /// What is not, and why.
    pub skipped: Vec<Skipped>,
    picks: Vec<Picks>,
    pieces: Vec<Piece>,
}

/// What was not run.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// The plane and the CPU that it is tried on.
    pub what: String,
    /// What this machine lacks for it.
    pub reason: String,
    /// How many combinations.
    pub count: u64,
}

/// Some combinations of one part, one after another.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// The part.
    pub part: usize,
    first: u64,
    count: u64,
}

/// Which combinations of a part are taken: all, or one out of each of `taken` equal stretches.
#[derive(Clone, Copy, Debug)]
struct Picks {
    all: u64,
    taken: u64,
    seed: u64,
}

/// Combinations in a piece: enough that the threads seldom meet, few enough that they end together.
const PIECE: u64 = 8192;

impl Default for Shard {
    fn default() -> Self {
        Self { number: NonZeroU64::MIN, of: NonZeroU64::MIN }
    }
}

impl FromStr for Shard {
    type Err = &'static str;

    /// `2/5`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shard = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let shard = shard.map(|(number, of)| Self { number, of }).filter(|shard| shard.number <= shard.of);
        shard.ok_or("expected I/N, the I-th of N equal shares, I from 1 to N")
    }
}

impl Plan {
    /// Finds out what this machine can do, and shares out what is left.
    pub fn new(matrix: &Matrix, bed: &TestBed) -> Result<Self, EngineError> {
        let mut plan = Self { parts: Vec::new(), skipped: Vec::new(), picks: Vec::new(), pieces: Vec::new() };
        for plane in matrix.set.planes() {
            for request in &plane.cpus {
                plan.add(&plane, request, bed)?;
            }
        }
        plan.share_out(matrix);
        Ok(plan)
    }

    /// What is run: each part's title, and how many of its combinations.
    pub fn titles(&self) -> Vec<(String, u64)> {
        let mut titles: Vec<_> = self.parts.iter().map(|(part, _)| (part.title.clone(), 0)).collect();
        for piece in &self.pieces {
            titles[piece.part].1 += piece.count;
        }
        titles
    }

    /// How many combinations are to be run.
    pub fn count(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.count).sum()
    }

    /// The pieces of work.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The combinations of a piece.
    pub fn combinations(&self, piece: Piece) -> impl Iterator<Item = Combination> + '_ {
        let (part, picks) = (&self.parts[piece.part].0, self.picks[piece.part]);
        (piece.first..piece.first + piece.count).filter_map(move |number| part.get(picks.get(number)))
    }

    fn add(&mut self, plane: &Plane, request: &CpuidRequest, bed: &TestBed) -> Result<(), EngineError> {
        let mut request = *request;
        // Keys are tried where KVM offers them, and in the plane that is about them wherever it lets itself be asked.
        let offered = bed.abilities(&request)?;
        if request.pku.is_none() && offered.supported.pku {
            request.pku = Some(true);
        }
        let abilities = bed.abilities(&request)?;
        let la57 = request.la57 == Some(true);
        let told = Paging { la57, ..abilities.taken };
        let (missing, why) = missing(&abilities, &request);
        let part = Part::new(plane, request, told, &missing);
        let refused = refused(&abilities, &request);
        let whole = if missing.is_empty() { part.count() } else { Part::new(plane, request, told, &[]).count() };
        let runs = if refused.is_some() { 0 } else { part.count() };
        if let (true, Some(reason)) = (runs < whole, refused.or(why)) {
            self.skipped.push(Skipped { what: plane.title(&request), reason, count: whole - runs });
        }
        if runs > 0 {
            self.parts.push((part, KnownMachine::new(abilities)));
        }
        Ok(())
    }

    fn share_out(&mut self, matrix: &Matrix) {
        let sizes: Vec<u64> = self.parts.iter().map(|(part, _)| part.count()).collect();
        let taken = even_shares(&sizes, matrix.sample.unwrap_or(u64::MAX));
        for (index, (&all, taken)) in sizes.iter().zip(taken).enumerate() {
            self.picks.push(Picks { all, taken, seed: mix(matrix.seed ^ mix(index as u64)) });
            let pieces = (0..taken).step_by(PIECE as usize);
            let pieces = pieces.map(|first| Piece { part: index, first, count: PIECE.min(taken - first) });
            self.pieces.extend(pieces);
        }
        let mut number = 0;
        self.pieces.retain(|_| {
            number += 1;
            number % matrix.shard.of == matrix.shard.number.get() % matrix.shard.of
        });
    }
}

/// The bits that this machine lacks, and why.
fn missing(abilities: &Abilities, request: &CpuidRequest) -> (Vec<Bit>, Option<String>) {
    let Abilities { told, taken, .. } = abilities;
    let no_keys = if request.pku == Some(true) { "KVM refuses CR4.PKE" } else { "KVM offers no protection keys" };
    let abilities: [(bool, &[Bit], &str); 4] = [
        (taken.pke, &Bit::KEYS, no_keys),
        (told.nxe, &[Bit::Nxe], "KVM offers no execute-disable"),
        (told.smep, &[Bit::Smep], "KVM offers no SMEP"),
        (told.smap, &[Bit::Smap, Bit::Ac], "KVM offers no SMAP"),
    ];
    let lacking = || abilities.iter().filter(|(has, ..)| !has);
    let bits = lacking().flat_map(|(_, bits, _)| bits.iter().copied()).collect();
    let reasons: Vec<&str> = lacking().map(|(.., reason)| *reason).collect();
    (bits, (!reasons.is_empty()).then(|| reasons.join("; ")))
}

/// Why this machine cannot run a combination on this CPU, if it cannot.
pub fn lacks(abilities: &Abilities, request: &CpuidRequest, combination: &Combination) -> Option<String> {
    let (bits, why) = missing(abilities, request);
    let missing = bits.into_iter().any(|bit| combination.has(bit));
    refused(abilities, request).or(why.filter(|_| missing))
}

/// Why this CPU is not available at all.
fn refused(abilities: &Abilities, request: &CpuidRequest) -> Option<String> {
    let Abilities { told, taken, supported, .. } = abilities;
    let differs = |asked: Option<bool>, has: bool| asked.is_some_and(|asked| asked != has);
    match () {
        () if request.la57 == Some(true) && !taken.la57 => Some("KVM refuses CR4.LA57".into()),
        () if request.maxphyaddr.is_some_and(|bits| bits.get() != told.maxphyaddr) => {
            Some(format!("KVM does not let CPUID say so; it says {}", told.maxphyaddr))
        }
        () if differs(request.gbpages, told.gbpages) => {
            let has = if supported.gbpages { "has" } else { "has no" };
            Some(format!("KVM only lets CPUID say that it {has} 1 GiB pages"))
        }
        () => None,
    }
}

/// At most `limit` of all, as many of each as there are or as of any other.
fn even_shares(sizes: &[u64], limit: u64) -> Vec<u64> {
    let mut shares = vec![0; sizes.len()];
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&index| sizes[index]);
    let mut left = limit;
    for (place, &index) in order.iter().enumerate() {
        shares[index] = sizes[index].min(left.div_ceil((order.len() - place) as u64));
        left -= shares[index];
    }
    shares
}

impl Picks {
    fn get(&self, number: u64) -> u64 {
        let start = |number: u64| (u128::from(number) * u128::from(self.all) / u128::from(self.taken.max(1))) as u64;
        let (first, end) = (start(number), start(number + 1));
        first + mix(self.seed ^ number) % (end - first).max(1)
    }
}

/// A number that looks like chance.
fn mix(number: u64) -> u64 {
    Random::new(number).number()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_never_too_many() {
        assert_eq!(even_shares(&[10, 1000, 100], 90), [10, 40, 40]);
        assert_eq!(even_shares(&[10, 1000, 100], u64::MAX), [10, 1000, 100]);
        assert_eq!(even_shares(&[5, 5], 3).iter().sum::<u64>(), 3);
    }

    #[test]
    fn a_sample_takes_each_once_and_in_order() {
        let picks = Picks { all: 1000, taken: 300, seed: 7 };
        let taken: Vec<_> = (0..300).map(|number| picks.get(number)).collect();
        assert!(taken.is_sorted_by(|a, b| a < b) && taken[299] < 1000);
        let all = Picks { all: 1000, taken: 1000, seed: 7 };
        assert!((0..1000).all(|number| all.get(number) == number));
    }

    #[test]
    fn shards_are_read() {
        let shard: Shard = "2/5".parse().unwrap();
        assert_eq!((shard.number.get(), shard.of.get()), (2, 5));
        for bad in ["0/5", "6/5", "1/0", "1", "a/b", ""] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
