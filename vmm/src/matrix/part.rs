//! A plane on one CPU, numbered: which combination is the thousandth.
//!
//! A combination has two halves: what is of the run (modes of the CPU, kind of the access), and what is of the single
//! access (entries, address). Which entries are legal depends on EFER.NXE and nothing else of the first half, so all
//! there is to a part is the list of legal first halves, and two lists of legal second halves.

use super::bits::{Bit, Combination};
use super::legal::illegal;
use super::sets::Plane;
use crate::machine::CpuidRequest;
use crate::mmu::Paging;

/// A plane on one CPU.
#[derive(Debug)]
pub struct Part {
    /// The plane's name, and the CPU if that is not the usual one.
    pub title: String,
    /// What CPUID is to say.
    pub request: CpuidRequest,
    /// What the CPU is told, with the modes as they are for combinations that have all their bits.
    pub told: Paging,
    entries: Choices,
    runs: Vec<Run>,
    legal_entries: [Vec<u32>; 2],
    count: u64,
}

/// A legal first half.
#[derive(Debug)]
struct Run {
    combination: Combination,
    nxe: bool,
    /// The number of its first combination.
    first: u64,
}

impl Part {
    /// The combinations of `plane` without those that have one of the bits that are `missing`.
    pub fn new(plane: &Plane, request: CpuidRequest, told: Paging, missing: &[Bit]) -> Self {
        let there = |bits: &[Bit], of_run: bool| -> Vec<Combination> {
            let there = bits.iter().filter(|bit| !missing.contains(bit) && bit.is_of_run() == of_run);
            there.map(|bit| Combination::of(&[*bit])).collect()
        };
        let always = Combination::of(&plane.always);
        let choices =
            |of_run| Choices { always, each: there(&plane.each, of_run), one_of: there(&plane.one_of, of_run) };
        let (runs, entries) = (choices(true), choices(false));
        let impossible = plane.always.iter().any(|bit| missing.contains(bit));
        let legal_entries = [false, true].map(|nxe| {
            let mode = if nxe { Combination::of(&[Bit::Nxe]) } else { Combination::default() };
            entries.legal(&mode, &told)
        });
        let mut part =
            Self { title: plane.title(&request), request, told, entries, runs: Vec::new(), legal_entries, count: 0 };
        let legal_runs = if impossible { Vec::new() } else { runs.legal(&Combination::default(), &told) };
        let mut of_run: Vec<_> = legal_runs.into_iter().map(|number| runs.get(number)).collect();
        // Those that share their registers come one after another, so that they may share a batch.
        of_run.sort_by_key(Combination::registers);
        for combination in of_run {
            let nxe = combination.has(Bit::Nxe);
            part.runs.push(Run { combination, nxe, first: part.count });
            part.count += part.legal_entries[usize::from(nxe)].len() as u64;
        }
        part
    }

    /// How many combinations there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The one of this number, from 0.
    pub fn get(&self, number: u64) -> Option<Combination> {
        let run = &self.runs[self.runs.partition_point(|run| run.first <= number).checked_sub(1)?];
        let entries = self.legal_entries[usize::from(run.nxe)].get((number - run.first) as usize)?;
        Some(run.combination.union(&self.entries.get(*entries)))
    }
}

/// Bits that are always set, set or not, or set one at a time; each choice has a number.
#[derive(Debug)]
struct Choices {
    always: Combination,
    each: Vec<Combination>,
    one_of: Vec<Combination>,
}

impl Choices {
    fn get(&self, number: u32) -> Combination {
        let chosen = self.each.iter().enumerate().filter(|(place, _)| number >> place & 1 != 0).map(|(_, bit)| bit);
        let one = (number >> self.each.len()).checked_sub(1).and_then(|index| self.one_of.get(index as usize));
        chosen.chain(one).fold(self.always, |all, bit| all.union(bit))
    }

    /// The numbers of those that are legal together with `other`.
    fn legal(&self, other: &Combination, told: &Paging) -> Vec<u32> {
        let all = (self.one_of.len() as u32 + 1) << self.each.len();
        (0..all).filter(|&number| illegal(&self.get(number).union(other), told).is_none()).collect()
    }
}
