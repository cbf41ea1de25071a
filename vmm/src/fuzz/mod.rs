//! Fuzzing with memory maps: what a finding is known by, and the smallest map that still has it.
//!
//! | file | holds |
//! | --- | --- |
//! | `key` | what makes two findings the same |
//! | `shrink` | the smallest map that still fails |
//! | `simpler` | maps that are a step simpler than one |
//! | `weight` | which of two maps is the simpler one |
//! | `saved` | a finding as a scenario file |
//! | `campaign` | feature `fuzz`: many maps, steered by what they show |
//! | `strategy` | feature `proptest`: maps for its tests, which it shrinks |
//! | `arbitrary` | feature `arbitrary`: maps of any bytes |
//!
//! The maps come from [`synthesize`](crate::memory_map::synthesize) and [`mutate`](mod@crate::memory_map::mutate).

#[cfg(feature = "arbitrary")]
mod arbitrary;
#[cfg(feature = "fuzz")]
mod campaign;
mod key;
#[cfg(any(feature = "cli", feature = "fuzz"))]
pub(crate) mod saved;
mod shrink;
mod simpler;
#[cfg(feature = "proptest")]
mod strategy;
mod weight;

#[cfg(all(feature = "cli", feature = "fuzz"))]
pub(crate) use campaign::CLIENT_FAILED;
#[cfg(all(feature = "fuzz", feature = "unstable"))]
pub use campaign::in_guest;
#[cfg(feature = "fuzz")]
pub use campaign::{Fuzz, FuzzEngine, FuzzError, Status, Summary};
#[cfg(any(feature = "cli", feature = "fuzz"))]
pub(crate) use key::as_built_in;
pub use key::{FindingKey, SetBy, Site, keys, keys_beyond};
pub use shrink::{Shrinker, shrink};
#[cfg(feature = "proptest")]
pub use strategy::{MapStrategy, MapTree, any_map, odd_map, valid_map};
