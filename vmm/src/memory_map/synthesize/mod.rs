//! Memory maps from a seed: what firmware may hand out, what it hands out rarely, and what it never should.
//!
//! ```
//! use efibed::memory_map::synthesize::{Class, Synthesis, synthesize};
//!
//! let map = synthesize(2013, Class::Odd);
//! assert_eq!(map.to_toml(), synthesize(2013, Class::Odd).to_toml());
//! let small = Synthesis::new(Class::Valid).max_descriptors(8).max_mapped_pages(64).map(2013);
//! assert!(small.descriptors().len() <= 8);
//! ```
//!
//! Seed, class and limits give the same map on every machine.
//!
//! | file | holds |
//! | --- | --- |
//! | `valid` | maps as real firmware makes them |
//! | `real` | the numbers that those are drawn by, and where they come from |
//! | `odd` | legal maps that are hard to map |
//! | `hostile` | maps that no firmware should hand out |
//! | `attributes` | Memory Attributes Tables |
//! | `promise` | whether a map keeps what its class promises |
//! | `borders` | addresses at which something ends |
//! | `draft` | a map in the making, within its limits |

mod attributes;
pub(super) mod borders;
#[deny(clippy::arithmetic_side_effects)]
mod draft;
pub(super) mod hostile;
mod odd;
mod promise;
mod real;
#[cfg(test)]
mod tests;
mod valid;

use super::{MAX_DESCRIPTORS, MemoryMap};
use crate::machine::MaxPhyAddr;
use crate::mmu::USUAL_MAXPHYADDR;
use crate::random::Random;
use draft::Limits;

/// What a map promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It conforms to UEFI, and looks like maps of real machines: their sizes, alignments and interleavings.
    Valid,
    /// It conforms to UEFI, except that regions may have no pages. Its regions lie at borders, or are interleaved, large, far up.
    Odd,
    /// It promises nothing: regions overlap, wrap, are empty, unaligned or huge, and have types and bits that nobody knows.
    Hostile,
}

efibed_stub::names! {
    Class, "class of memory maps":
    Valid "valid",
    Odd "odd",
    Hostile "hostile",
}

/// The map of a seed and a class, within the usual limits.
pub fn synthesize(seed: u64, class: Class) -> MemoryMap {
    Synthesis::new(class).map(seed)
}

/// A class of maps, and how large they may be.
#[derive(Clone, Copy, Debug)]
pub struct Synthesis {
    class: Class,
    limits: Limits,
}

/// The largest map of a real machine in `tests/maps` has 163 descriptors.
const USUAL_DESCRIPTORS: usize = 192;
/// An odd map packs what it has into few: more would only hide one thing behind another.
const ODD_DESCRIPTORS: usize = 32;
/// 128 GiB: twice what the layouts have room for.
const USUAL_MAPPED_PAGES: u64 = 128 << 18;

impl Synthesis {
    /// Maps of a class, within the usual limits.
    pub fn new(class: Class) -> Self {
        let descriptors = if class == Class::Valid { USUAL_DESCRIPTORS } else { ODD_DESCRIPTORS };
        Self { class, limits: Limits { descriptors, mapped_pages: USUAL_MAPPED_PAGES, end: 1 << USUAL_MAXPHYADDR } }
    }

    /// Maps of at most so many descriptors; of one at least.
    #[must_use]
    pub fn max_descriptors(mut self, most: usize) -> Self {
        self.limits.descriptors = most.clamp(1, MAX_DESCRIPTORS);
        self
    }

    /// Maps of which layouts map at most so many pages. A hostile map keeps to no such limit.
    #[must_use]
    pub fn max_mapped_pages(mut self, most: u64) -> Self {
        self.limits.mapped_pages = most;
        self
    }

    /// Maps for a CPU with so many bits of physical address; the default is 46. A hostile map keeps to none.
    #[must_use]
    pub fn maxphyaddr(mut self, bits: MaxPhyAddr) -> Self {
        self.limits.end = 1 << bits.get();
        self
    }

    /// The class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The map of a seed.
    pub fn map(&self, seed: u64) -> MemoryMap {
        // Classes share seeds, and nothing else.
        let map = self.draw(&mut Random::of_run(seed, self.class as u64));
        map.with_source(format!("{} map of seed {seed}", self.class))
    }

    /// A map of such numbers: a fuzzer's bytes are some.
    #[doc(hidden)]
    pub fn draw(&self, random: &mut Random) -> MemoryMap {
        let map = match self.class {
            Class::Valid => valid::map(self.limits, random),
            Class::Odd => odd::map(self.limits, random),
            Class::Hostile => hostile::map(self.limits, random),
        };
        map.with_source(format!("{} map", self.class))
    }
}
