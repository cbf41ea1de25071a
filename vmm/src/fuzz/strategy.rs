//! Maps for property tests with the crate `proptest`, which shrink as maps and not as numbers.

use proptest::arbitrary::Arbitrary;
use proptest::prelude::{Rng as _, Strategy};
use proptest::strategy::{NewTree, ValueTree};
use proptest::test_runner::TestRunner;

use super::shrink::Shrinker;
use crate::machine::MaxPhyAddr;
use crate::memory_map::MemoryMap;
use crate::memory_map::mutate::mutate;
use crate::memory_map::synthesize::{Class, Synthesis};
use crate::random::Random;

/// Maps of all classes, some of them with a few mutations. Nothing is promised of them.
pub fn any_map() -> MapStrategy {
    MapStrategy::of(Class::ALL, MAX_MUTATIONS)
}

/// Maps that conform to UEFI and look like those of real machines. What they shrink to conforms too.
pub fn valid_map() -> MapStrategy {
    MapStrategy::of(&[Class::Valid], 0)
}

/// Maps that are legal and hard to map. What they shrink to is legal too.
pub fn odd_map() -> MapStrategy {
    MapStrategy::of(&[Class::Odd], 0)
}

/// A few changes make a map that no class has; with more, one map is as good as another.
const MAX_MUTATIONS: u64 = 4;

/// Maps, within limits.
///
/// A map is drawn by a seed. A failing one shrinks as [`shrink`](super::shrink) does: to fewer descriptors, then to fewer
/// pages and rounder addresses.
#[derive(Clone, Debug)]
pub struct MapStrategy {
    classes: Vec<Synthesis>,
    mutations: u64,
}

impl MapStrategy {
    fn of(classes: &[Class], mutations: u64) -> Self {
        Self { classes: classes.iter().map(|class| Synthesis::new(*class)).collect(), mutations }
    }

    /// Maps of at most so many descriptors, before they are mutated.
    #[must_use]
    pub fn max_descriptors(self, most: usize) -> Self {
        self.each(|synthesis| synthesis.max_descriptors(most))
    }

    /// Maps of which layouts map at most so many pages; hostile and mutated ones may have more.
    #[must_use]
    pub fn max_mapped_pages(self, most: u64) -> Self {
        self.each(|synthesis| synthesis.max_mapped_pages(most))
    }

    /// Maps for a CPU with so many bits of physical address; hostile and mutated ones may lie anywhere.
    #[must_use]
    pub fn maxphyaddr(self, bits: MaxPhyAddr) -> Self {
        self.each(|synthesis| synthesis.maxphyaddr(bits))
    }

    fn each(mut self, change: impl Fn(Synthesis) -> Synthesis) -> Self {
        self.classes.iter_mut().for_each(|synthesis| *synthesis = change(*synthesis));
        self
    }
}

impl Strategy for MapStrategy {
    type Tree = MapTree;
    type Value = MemoryMap;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let random = &mut Random::new(runner.rng().next_u64());
        let synthesis = *random.one_of(&self.classes);
        let synthesized = synthesis.map(random.number());
        let mutations = random.below(self.mutations + 1);
        let map = (0..mutations).fold(synthesized, |map, _| mutate(&map, random.number()));
        let promise = if mutations == 0 { synthesis.class() } else { Class::Hostile };
        Ok(MapTree { shrinker: Shrinker::new(map), promise, proposed: None })
    }
}

/// A map, and what it shrinks to.
#[derive(Clone, Debug)]
pub struct MapTree {
    shrinker: Shrinker,
    /// What the map promises, and what it shrinks to must.
    promise: Class,
    proposed: Option<MemoryMap>,
}

impl MapTree {
    fn propose(&mut self) -> bool {
        let proposals = std::iter::from_fn(|| self.shrinker.propose());
        self.proposed = proposals.into_iter().find(|map| self.promise.holds_of(map));
        self.proposed.is_some()
    }
}

impl ValueTree for MapTree {
    type Value = MemoryMap;

    fn current(&self) -> MemoryMap {
        self.proposed.as_ref().unwrap_or(self.shrinker.best()).clone()
    }

    /// The current map fails.
    fn simplify(&mut self) -> bool {
        if let Some(map) = self.proposed.take() {
            self.shrinker.accept(map);
        }
        self.propose()
    }

    /// The current map passes.
    fn complicate(&mut self) -> bool {
        self.propose()
    }
}

/// [`any_map`].
impl Arbitrary for MemoryMap {
    type Parameters = ();
    type Strategy = MapStrategy;

    fn arbitrary_with((): ()) -> MapStrategy {
        any_map()
    }
}

#[cfg(test)]
mod tests {
    use proptest::test_runner::{Config, TestCaseError, TestError};

    use super::*;
    use crate::memory_map::{MemoryAttribute, MemoryDescriptor};

    /// What a property shrinks the first map to that breaks it.
    fn smallest(strategy: &MapStrategy, holds: impl Fn(&MemoryMap) -> bool) -> MemoryMap {
        let config = Config { failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new_with_rng(config, fixed()).run(strategy, |map| match holds(&map) {
            true => Ok(()),
            false => Err(TestCaseError::fail("it does not")),
        });
        match outcome {
            Err(TestError::Fail(_, map)) => map,
            other => panic!("{other:?}"),
        }
    }

    /// The same maps in each run of these tests.
    fn fixed() -> proptest::test_runner::TestRng {
        proptest::test_runner::TestRng::deterministic_rng(Config::default().rng_algorithm)
    }

    fn is_runtime(descriptor: &MemoryDescriptor) -> bool {
        descriptor.att.contains(MemoryAttribute::RUNTIME)
    }

    #[test]
    fn a_failing_map_shrinks_to_what_it_fails_for() {
        let is_small =
            |map: &MemoryMap| map.descriptors().iter().filter(|each| is_runtime(each)).all(|d| d.page_count < 9);
        for strategy in [any_map(), valid_map(), odd_map()] {
            let map = smallest(&strategy, is_small);
            assert_eq!(map.descriptors().len(), 1, "{}", map.to_toml());
            assert_eq!((map.descriptors()[0].page_count, map.descriptors()[0].phys_start), (9, 0), "{}", map.to_toml());
        }
    }

    #[test]
    fn valid_maps_stay_valid() {
        // Breaks for each map; the simplest map of all would have no pages.
        let map = smallest(&valid_map(), |_| false);
        assert!(Class::Valid.holds_of(&map) && map.descriptors().len() == 1, "{}", map.to_toml());
        assert_eq!(map.descriptors()[0].page_count, 1);
        // The negative control: an odd map may be empty.
        assert_eq!(smallest(&odd_map(), |_| false).descriptors()[0].page_count, 0);
    }

    #[test]
    fn a_property_that_holds_is_tried_with_many_maps() {
        let tried = std::cell::Cell::new(0);
        let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, fixed());
        let small = any_map().max_descriptors(4).max_mapped_pages(64).maxphyaddr(MaxPhyAddr::MIN);
        let outcome = runner.run(&small, |map| {
            tried.set(tried.get() + 1);
            assert!(map.descriptors().len() <= 4 + MAX_MUTATIONS as usize);
            Ok(())
        });
        assert!(outcome.is_ok() && tried.get() == Config::default().cases, "{outcome:?}");
    }
}
