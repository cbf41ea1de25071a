//! The smallest map that still fails: delta debugging (Zeller, Hildebrandt: "Simplifying and Isolating Failure-Inducing
//! Input", TSE 2002), then simpler fields.
//!
//! Each map that is tried weighs less than the best one so far ([`Weight`](super::weight::Weight)), so it comes to an end:
//! when a whole round has found nothing.

use super::simpler::{List, simpler, simpler_as_a_whole, without};
use crate::memory_map::MemoryMap;

/// The simplest map found that still fails: few descriptors, few pages, round addresses.
///
/// ```
/// use efibed::fuzz::shrink;
/// use efibed::memory_map::synthesize::{Class, synthesize};
///
/// let has_page_zero = |map: &efibed::MemoryMap| map.descriptors().iter().any(|each| each.phys_start == 0);
/// let map = synthesize(2013, Class::Valid);
/// assert!(has_page_zero(&map));
/// assert_eq!(shrink(map, has_page_zero).descriptors().len(), 1);
/// ```
pub fn shrink(map: MemoryMap, mut still_fails: impl FnMut(&MemoryMap) -> bool) -> MemoryMap {
    let mut shrinker = Shrinker::new(map);
    while let Some(simpler) = shrinker.propose() {
        if still_fails(&simpler) {
            shrinker.accept(simpler);
        }
    }
    shrinker.into_best()
}

/// The same, for a caller that has the loop.
#[derive(Clone, Debug)]
pub struct Shrinker {
    best: MemoryMap,
    stage: Stage,
    /// Whether this round has found something.
    has_found: bool,
}

/// What is tried next.
#[derive(Clone, Debug)]
enum Stage {
    /// To leave out so many descriptors from this one on.
    Without { list: List, count: usize, first: usize },
    /// To make the map as a whole simpler, in these ways.
    Whole { ways: std::vec::IntoIter<MemoryMap> },
    /// To make one descriptor simpler, in these ways.
    Fields { list: List, at: usize, ways: std::vec::IntoIter<MemoryMap> },
    /// Nothing: there is none simpler.
    Done,
}

impl Shrinker {
    /// Starts with a map that fails.
    pub fn new(map: MemoryMap) -> Self {
        let stage = first_stage(&map);
        Self { best: map, stage, has_found: false }
    }

    /// A map that is simpler than the best one, and was not proposed in this round; None: there is none left.
    pub fn propose(&mut self) -> Option<MemoryMap> {
        loop {
            match &mut self.stage {
                Stage::Without { list, count, first } if *first < list.len(&self.best) => {
                    let map = without(&self.best, *list, *first, *count);
                    *first += *count;
                    if map.is_some() {
                        return map;
                    }
                }
                Stage::Whole { ways } | Stage::Fields { ways, .. } => match ways.next() {
                    None => self.next_stage(),
                    map => return map,
                },
                Stage::Without { .. } => self.next_stage(),
                Stage::Done => return None,
            }
        }
    }

    /// Takes the map that was proposed last as the best one: it still fails.
    pub fn accept(&mut self, map: MemoryMap) {
        self.best = map;
        self.has_found = true;
        match &mut self.stage {
            // What came after it has moved to its place.
            Stage::Without { count, first, .. } => *first -= *count,
            Stage::Whole { ways } => *ways = simpler_as_a_whole(&self.best).into_iter(),
            Stage::Fields { list, at, ways } => *ways = simpler(&self.best, *list, *at).into_iter(),
            Stage::Done => {}
        }
    }

    /// The best map so far.
    pub fn best(&self) -> &MemoryMap {
        &self.best
    }

    /// The best map.
    pub fn into_best(self) -> MemoryMap {
        self.best
    }

    fn next_stage(&mut self) {
        let map = &self.best;
        let fields = |list, at| Stage::Fields { list, at, ways: simpler(map, list, at).into_iter() };
        self.stage = match &self.stage {
            Stage::Without { list, count, .. } if *count > 1 => {
                Stage::Without { list: *list, count: count / 2, first: 0 }
            }
            Stage::Without { list: List::Attributes, .. } => leave_out(map, List::Descriptors),
            Stage::Without { .. } => Stage::Whole { ways: simpler_as_a_whole(map).into_iter() },
            Stage::Whole { .. } => fields(List::Descriptors, 0),
            Stage::Fields { list, at, .. } if at + 1 < list.len(map) => fields(*list, at + 1),
            Stage::Fields { list: List::Descriptors, .. } => fields(List::Attributes, 0),
            Stage::Fields { .. } if std::mem::take(&mut self.has_found) => first_stage(map),
            Stage::Fields { .. } | Stage::Done => Stage::Done,
        };
    }
}

/// A round starts with what makes a map much smaller at once.
fn first_stage(map: &MemoryMap) -> Stage {
    leave_out(map, List::Attributes)
}

fn leave_out(map: &MemoryMap, list: List) -> Stage {
    Stage::Without { list, count: list.len(map).max(1), first: 0 }
}

#[cfg(test)]
mod tests {
    use super::super::weight::Weight;
    use super::*;
    use crate::fuzz::keys;
    use crate::memory_map::synthesize::{Class, Synthesis, synthesize};
    use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};
    use crate::{EngineName, Layout, LeafRule, Scenario, TestBed};

    /// How many maps are tried, and the result.
    fn counted(map: MemoryMap, fails: impl Fn(&MemoryMap) -> bool) -> (u32, MemoryMap) {
        let mut tried = 0;
        let smallest = shrink(map, |map| {
            tried += 1;
            fails(map)
        });
        (tried, smallest)
    }

    #[test]
    fn each_map_that_is_tried_weighs_less_than_the_best_one() {
        for seed in 0..60 {
            let mut shrinker = Shrinker::new(synthesize(seed, Class::ALL[seed as usize % 3]));
            for round in 0..20_000 {
                let Some(map) = shrinker.propose() else { break };
                assert!(Weight::of(&map) < Weight::of(shrinker.best()), "seed {seed}");
                assert!(!map.descriptors().is_empty(), "seed {seed}");
                if (seed + round) % 3 == 0 {
                    shrinker.accept(map);
                }
            }
        }
    }

    #[test]
    fn what_always_fails_comes_to_one_empty_descriptor_and_what_no_other_map_does_stays() {
        let (tried, smallest) = counted(synthesize(1, Class::Valid), |_| true);
        assert_eq!((smallest.descriptors().len(), smallest.attributes_table().len()), (1, 0));
        let only = smallest.descriptors()[0];
        assert_eq!((only.page_count, only.phys_start, only.ty), (0, 0, MemoryType::RUNTIME_SERVICES_DATA));
        assert!(tried < 100, "{tried}");
        let map = synthesize(1, Class::Odd);
        let (_, same) = counted(map.clone(), |_| false);
        assert_eq!(same.descriptors(), map.descriptors());
    }

    #[test]
    fn the_smallest_numbers_that_fail_are_found() {
        let end = |d: &MemoryDescriptor| u128::from(d.phys_start) + u128::from(d.page_count) * u128::from(PAGE_BYTES);
        let is_high_and_large =
            |d: &MemoryDescriptor| d.att.contains(MemoryAttribute::RUNTIME) && end(d) > 1 << 31 && d.page_count >= 700;
        let both = |map: &MemoryMap| map.descriptors().iter().any(is_high_and_large);
        for seed in (0..200).filter(|seed| both(&synthesize(*seed, Class::Valid))) {
            let (tried, smallest) = counted(synthesize(seed, Class::Valid), both);
            assert_eq!(smallest.descriptors().len(), 1, "seed {seed}");
            assert_eq!(smallest.descriptors()[0].page_count, 700, "seed {seed}");
            assert_eq!(smallest.descriptors()[0].phys_start, 1 << 31, "seed {seed}");
            assert!(tried < 3000, "seed {seed}: {tried}");
        }
    }

    /// The bugs that the layouts can be told to have, on maps in which they were found.
    #[test]
    fn findings_keep_their_key_and_shrink_to_a_region_or_two() {
        let bed = TestBed::without_kvm();
        let mut shrunk = 0;
        for (layout, leaf_rule) in
            [(Layout::PackedDown, LeafRule::VaOnly), (Layout::PackedDown, LeafRule::VaOnlyMasked)]
        {
            let keys_of = |map: &MemoryMap| {
                let scenario = Scenario::new(map.clone()).layout(layout).leaf_rule(leaf_rule);
                keys(&bed.run(&scenario.engine(EngineName::Walker)).unwrap())
            };
            for seed in 0..24 {
                let map = Synthesis::new(Class::Odd).max_mapped_pages(4096).map(seed);
                let Some(key) = keys_of(&map).first().cloned() else { continue };
                let (tried, smallest) = counted(map, |map| keys_of(map).contains(&key));
                assert!(keys_of(&smallest).contains(&key), "seed {seed}");
                assert!(smallest.descriptors().len() <= 2, "seed {seed}, {key}:\n{}", smallest.to_toml());
                println!("seed {seed}: {key} in {tried} runs");
                shrunk += 1;
            }
        }
        assert!(shrunk > 10, "{shrunk}");
    }
}
