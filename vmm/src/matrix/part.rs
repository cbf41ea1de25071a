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
    first_halves: Vec<FirstHalf>,
    legal_entries: [Vec<u32>; 2],
    count: u64,
}

/// A legal first half.
#[derive(Debug)]
struct FirstHalf {
    combination: Combination,
    nxe: bool,
    /// The number of its first combination.
    first: u64,
}

impl Part {
    /// The combinations of `plane` without those that have one of the bits that are `missing`.
    pub fn new(plane: &Plane, request: CpuidRequest, told: Paging, missing: &[Bit]) -> Self {
        let there = |bits: &[Bit], of_run: bool| -> Vec<Bit> {
            bits.iter().copied().filter(|bit| !missing.contains(bit) && bit.is_of_run() == of_run).collect()
        };
        let choices = |of_run| Choices::new(&plane.always, &there(&plane.each, of_run), &there(&plane.one_of, of_run));
        let (runs, entries) = (choices(true), choices(false));
        let impossible = plane.always.iter().any(|bit| missing.contains(bit));
        let legal_entries = [false, true].map(|nxe| {
            let mode = if nxe { Combination::of(&[Bit::Nxe]) } else { Combination::default() };
            entries.legal(&mode, &told)
        });
        let mut part = Self {
            title: plane.title(&request),
            request,
            told,
            entries,
            first_halves: Vec::new(),
            legal_entries,
            count: 0,
        };
        let legal_runs = if impossible { Vec::new() } else { runs.legal(&Combination::default(), &told) };
        let mut of_run: Vec<_> = legal_runs.into_iter().map(|number| runs.get(number)).collect();
        // Those that share their registers come one after another, so that they may share a batch.
        of_run.sort_by_key(Combination::registers);
        for combination in of_run {
            let nxe = combination.has(Bit::Nxe);
            part.first_halves.push(FirstHalf { combination, nxe, first: part.count });
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
        let half = &self.first_halves[self.first_halves.partition_point(|half| half.first <= number).checked_sub(1)?];
        let entries = self.legal_entries[usize::from(half.nxe)].get((number - half.first) as usize)?;
        Some(half.combination.union(&self.entries.get(*entries)))
    }
}

/// Bits that are always set, set or not, or set one at a time; each choice has a number.
#[derive(Debug)]
struct Choices {
    /// What each eight bits of the number choose, the lowest first: those that are set or not.
    eights: Vec<Vec<Combination>>,
    /// What the rest of it chooses, 0 none; with them the bits that are always set.
    one_of: Vec<Combination>,
    each: usize,
}

impl Choices {
    fn new(always: &[Bit], each: &[Bit], one_of: &[Bit]) -> Self {
        let always = Combination::of(always);
        let one_of = [always].into_iter().chain(one_of.iter().map(|bit| always.with(*bit)));
        Self { eights: each.chunks(8).map(every_choice).collect(), one_of: one_of.collect(), each: each.len() }
    }

    fn get(&self, number: u32) -> Combination {
        let one = self.one_of[number as usize >> self.each];
        let chosen = number & ((1 << self.each) - 1);
        let eights = self.eights.iter().enumerate();
        eights.fold(one, |all, (place, eight)| all.union(&eight[(chosen >> (8 * place)) as usize % eight.len()]))
    }

    /// The numbers of those that are legal together with `other`.
    fn legal(&self, other: &Combination, told: &Paging) -> Vec<u32> {
        let all = (self.one_of.len() as u32) << self.each;
        (0..all).filter(|&number| illegal(&self.get(number).union(other), told).is_none()).collect()
    }
}

/// Every choice of these bits, by its number.
fn every_choice(bits: &[Bit]) -> Vec<Combination> {
    let mut choices = vec![Combination::default()];
    for bit in bits {
        let with: Vec<_> = choices.iter().map(|choice| choice.with(*bit)).collect();
        choices.extend(with);
    }
    choices
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::machine::MaxPhyAddr;
    use crate::matrix::Set;

    fn told(request: &CpuidRequest) -> Paging {
        Paging {
            maxphyaddr: request.maxphyaddr.map_or(46, MaxPhyAddr::get),
            gbpages: request.gbpages != Some(false),
            la57: request.la57 == Some(true),
            ..Paging::default()
        }
    }

    fn access(maxphyaddr: u8, missing: &[Bit]) -> Part {
        let request = CpuidRequest::default().maxphyaddr(MaxPhyAddr::new(maxphyaddr).unwrap());
        Part::new(&Set::Access.planes()[0], request, told(&request), missing)
    }

    /// The numbers that kvm-unit-tests' x86/access.c is known to arrive at.
    #[test]
    fn access_has_as_many_combinations_as_access_c() {
        let without_keys = [(36, 2_899_968), (37, 1_916_928), (51, 1_916_928), (52, 933_888)];
        for (maxphyaddr, count) in without_keys {
            assert_eq!(access(maxphyaddr, &Bit::KEYS).count(), count, "MAXPHYADDR {maxphyaddr}");
        }
        assert_eq!(access(40, &[]).count(), 19_169_280);
    }

    fn full() -> impl Iterator<Item = Part> {
        let parts = |plane: Plane| {
            let cpus = plane.cpus.clone();
            cpus.into_iter().map(move |request| Part::new(&plane, request, told(&request), &[]))
        };
        Set::Full.planes().into_iter().flat_map(parts)
    }

    #[test]
    fn every_combination_is_legal_and_there_once() {
        for part in full() {
            assert!(part.count() > 0, "{}", part.title);
            let mut seen = HashSet::new();
            for number in (0..part.count()).step_by((part.count() / 1000).max(1) as usize) {
                let combination = part.get(number).unwrap();
                assert_eq!(illegal(&combination, &part.told), None, "{}: {combination}", part.title);
                let text = combination.to_string();
                assert_eq!(text.parse(), Ok(combination));
                assert!(seen.insert(text), "{}: {combination} twice", part.title);
            }
            assert_eq!(part.get(part.count()), None);
        }
    }

    /// Which bits a plane combines, some combination has and some has not.
    #[test]
    fn every_bit_is_combined() {
        // The first is access.c's, whose bits the counts above know.
        for plane in Set::Full.planes().into_iter().skip(1) {
            let parts = plane.cpus.iter().map(|request| Part::new(&plane, *request, told(request), &[]));
            let parts: Vec<_> = parts.collect();
            for bit in plane.each.iter().chain(&plane.one_of) {
                let has = |part: &Part, wanted: bool| {
                    let step = (part.count() / 20_000).max(1) as usize | 1;
                    (0..part.count()).step_by(step).any(|number| part.get(number).unwrap().has(*bit) == wanted)
                };
                assert!(parts.iter().any(|part| has(part, true)), "{}: {bit} is never set", plane.name);
                assert!(parts.iter().any(|part| has(part, false)), "{}: {bit} is always set", plane.name);
            }
        }
    }

    #[test]
    fn what_a_machine_lacks_is_left_out() {
        let part = access(40, &[Bit::Nxe]);
        assert!(part.count() < access(40, &[]).count());
        assert!((0..part.count()).step_by(101).all(|number| !part.get(number).unwrap().has(Bit::Nxe)));
    }
}
