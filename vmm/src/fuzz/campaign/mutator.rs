//! The next map: of one that showed something new, of two, or of nothing.

use std::borrow::Cow;

use libafl::Error;
use libafl::corpus::{Corpus as _, CorpusId};
use libafl::mutators::{MutationResult, Mutator};
use libafl::state::{HasCorpus, HasRand};
use libafl_bolts::Named;
use libafl_bolts::rands::Rand as _;

use super::input::MapInput;
use crate::memory_map::mutate::{cross, mutate};
use crate::memory_map::synthesize::{Class, Synthesis};
use crate::memory_map::{MemoryMap, Region};
use crate::random::Random;

/// Descriptors of a map at most: one that runs larger takes long, and shows nothing that a part of it would not.
const MAX_DESCRIPTORS: u64 = 256;
/// One in so many maps is made from nothing, so that the search does not end where it began.
const FRESH: u64 = 16;
/// One in so many is crossed with another one that showed something.
const CROSSED: u64 = 8;
/// How often changes are made again if what comes of them does not conform to UEFI, or is too large to be run fast.
const TRIES: u64 = 8;
/// One in so many that do neither is run as it is: mapping code must survive what firmware gets wrong.
const WRONG: u64 = 16;

/// Makes maps of maps.
pub struct Mutate {
    synthesis: [Synthesis; 2],
    max_mapped_pages: u64,
}

impl Mutate {
    /// Whose new maps have at most so many pages to map.
    pub fn new(max_mapped_pages: u64) -> Self {
        let synthesis = [Class::Odd, Class::Valid].map(Synthesis::new);
        let synthesis = synthesis.map(|each| each.max_descriptors(32).max_mapped_pages(max_mapped_pages));
        Self { synthesis, max_mapped_pages }
    }

    /// A map made from nothing. Three in four are odd: those find more.
    pub fn fresh(&self, random: &mut Random) -> MemoryMap {
        let [odd, valid] = &self.synthesis;
        let synthesis = if random.once_in(4) { valid } else { odd };
        synthesis.draw(random)
    }

    /// The map with one to four changes, the first of a few tries that comes to a map worth running.
    fn changed(&self, map: &MemoryMap, random: &mut Random) -> Option<MemoryMap> {
        let takes_any = random.once_in(WRONG);
        let change = |random: &mut Random| {
            let changes = 1 + random.below(4);
            (0..changes).fold(map.clone(), |map, _| mutate(&map, random.number()))
        };
        // A map that was given may be larger than those made here, and what comes of it as large.
        let most =
            [self.max_mapped_pages, MAX_DESCRIPTORS].into_iter().zip(sizes(map)).map(|(most, now)| most.max(now));
        let most: Vec<u64> = most.collect();
        let is_small = |map: &MemoryMap| sizes(map).iter().zip(&most).all(|(size, most)| size <= most);
        (0..TRIES).map(|_| change(random)).find(|map| is_small(map) && (takes_any || Class::Odd.holds_of(map)))
    }
}

/// Pages to map, and descriptors of the longer list.
fn sizes(map: &MemoryMap) -> [u64; 2] {
    let pages = map.regions().filter(Region::is_mapped).map(|region| region.pages).fold(0, u64::saturating_add);
    [pages, map.descriptors().len().max(map.attributes_table().len()) as u64]
}

impl Named for Mutate {
    fn name(&self) -> &Cow<'static, str> {
        &Cow::Borrowed("maps of maps")
    }
}

impl<S: HasRand + HasCorpus<MapInput>> Mutator<MapInput, S> for Mutate {
    fn mutate(&mut self, state: &mut S, input: &mut MapInput) -> Result<MutationResult, Error> {
        let random = &mut Random::new(state.rand_mut().next());
        if random.once_in(FRESH) {
            *input = (&self.fresh(random)).into();
            return Ok(MutationResult::Mutated);
        }
        let mut map = input.to_map();
        if random.once_in(CROSSED) {
            map = cross(&map, &other(state, random)?, random.number());
        }
        let Some(changed) = self.changed(&map, random) else { return Ok(MutationResult::Skipped) };
        *input = (&changed).into();
        Ok(MutationResult::Mutated)
    }

    fn post_exec(&mut self, _: &mut S, _: Option<CorpusId>) -> Result<(), Error> {
        Ok(())
    }
}

/// Any map of the corpus.
fn other<S: HasCorpus<MapInput>>(state: &S, random: &mut Random) -> Result<MemoryMap, Error> {
    let corpus = state.corpus();
    let id = corpus.nth(random.index(corpus.count()));
    Ok(corpus.cloned_input_for_id(id)?.to_map())
}
