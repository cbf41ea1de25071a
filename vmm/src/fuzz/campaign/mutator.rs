//! The next map: of one that showed something new, of two, or of nothing.

use std::borrow::Cow;

use libafl::Error;
use libafl::corpus::{Corpus as _, CorpusId};
use libafl::mutators::{MutationResult, Mutator};
use libafl::state::{HasCorpus, HasRand};
use libafl_bolts::Named;
use libafl_bolts::rands::Rand as _;

use super::input::MapInput;
use crate::memory_map::MemoryMap;
use crate::memory_map::mutate::{cross, mutate};
use crate::memory_map::synthesize::{Class, Synthesis};
use crate::random::Random;

/// Descriptors of a map at most: one that runs larger takes long, and shows nothing that a part of it would not.
const MAX_DESCRIPTORS: usize = 256;
/// One in so many maps is made from nothing, so that the search does not end where it began.
const FRESH: u64 = 16;
/// One in so many is crossed with another one that showed something.
const CROSSED: u64 = 8;
/// How often a change is made again if what comes of it does not conform to UEFI. Then it is run as it is: mapping code must
/// survive what firmware gets wrong.
const TRIES: u64 = 8;

/// Makes maps of maps.
pub struct Mutate {
    synthesis: [Synthesis; 2],
}

impl Mutate {
    /// Whose new maps have at most so many pages to map.
    pub fn new(max_mapped_pages: u64) -> Self {
        let synthesis = [Class::Odd, Class::Valid].map(Synthesis::new);
        Self { synthesis: synthesis.map(|each| each.max_descriptors(32).max_mapped_pages(max_mapped_pages)) }
    }

    /// A map made from nothing. Three in four are odd: those find more.
    pub fn fresh(&self, random: &mut Random) -> MemoryMap {
        let [odd, valid] = &self.synthesis;
        let synthesis = if random.once_in(4) { valid } else { odd };
        synthesis.draw(random)
    }
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
        let changed = conforming(&map, random);
        if changed.descriptors().len().max(changed.attributes_table().len()) > MAX_DESCRIPTORS {
            return Ok(MutationResult::Skipped);
        }
        *input = (&changed).into();
        Ok(MutationResult::Mutated)
    }

    fn post_exec(&mut self, _: &mut S, _: Option<CorpusId>) -> Result<(), Error> {
        Ok(())
    }
}

/// The map with one to four changes, which conforms to UEFI if a few tries come to such a one.
fn conforming(map: &MemoryMap, random: &mut Random) -> MemoryMap {
    let changed = |random: &mut Random| (0..=random.below(4)).fold(map.clone(), |map, _| mutate(&map, random.number()));
    let mut tries = (0..TRIES).map(|_| changed(random));
    let conforming = tries.find(|map| Class::Odd.holds_of(map));
    conforming.unwrap_or_else(|| changed(random))
}

/// Any map of the corpus.
fn other<S: HasCorpus<MapInput>>(state: &S, random: &mut Random) -> Result<MemoryMap, Error> {
    let corpus = state.corpus();
    let id = corpus.nth(random.index(corpus.count()));
    Ok(corpus.cloned_input_for_id(id)?.to_map())
}
