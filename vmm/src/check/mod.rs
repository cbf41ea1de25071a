//! Oracles: what must be, what the tables say, what to ask the guest, and what its answers mean.
//!
//! | file | holds |
//! | --- | --- |
//! | `finding` | rules, witnesses, findings |
//! | `place` | a place in somebody's source, which a finding names
//! | `statement` | what a finding says was to be, or was
//! | `contract` | what must hold of a mapper's result, as a value; the built-in layouts' contracts, in one table |
//! | `words` | its terms in words |
//! | `closed_form` | where a layout puts each region, from the memory map alone |
//! | `merged` | which descriptors Linux makes one of, and in which order it maps them |
//! | `cache` | which cache types the pages of a region may have |
//! | `attributes_table` | which entries of the Memory Attributes Table Linux takes |
//! | `descriptor_size` | what a kernel reads that steps through the memory map with another DescriptorSize |
//! | `given` | the map handed to SetVirtualAddressMap, and whose regions its entries are |
//! | `holders` | which regions hold physical addresses, for many of them at once |
//! | `alias` | a stretch of addresses that must be mapped, or may be |
//! | `expectation` | the first witness: what contract and virtual map say must be |
//! | `allowed` | what may be mapped and need not: it must be right where it is |
//! | `spans` | ranges of addresses that are taken, and what is free |
//! | `tables` | the third witness: the software walk over the finished tables, before the guest loads them |
//! | `table_check` | what those are checked against |
//! | `survey` | each table read once: its entries' flags, and references back |
//! | `strays` | what translates at addresses that are nobody's |
//! | `flags` | the verdict on each flag of an entry that no access shows |
//! | `budget` | what all walks of a run may cost |
//! | `plan` | which accesses the guest is to make |
//! | `observation` | what came of one, as the engines tell it
//! | `judge` | what came of them, against what had to |
//! | `address` | one address: whose it is, and what comes of each access to it |
//! | `marks` | runs of pages, gathered until they become findings |
//!
//! The guest's MMU, the second witness, is asked by the engines; so is KVM_TRANSLATE, the fourth.

mod address;
mod alias;
mod allowed;
mod attributes_table;
mod budget;
mod cache;
mod closed_form;
mod contract;
mod descriptor_size;
mod expectation;
mod finding;
mod flags;
mod frames;
mod given;
mod holders;
mod judge;
mod marks;
mod merged;
mod observation;
mod place;
mod plan;
mod spans;
mod statement;
mod strays;
mod survey;
mod table_check;
mod tables;
mod words;

pub use address::{Accessed, Address, Due, Standing};
pub(crate) use address::{MAX_ADDRESSES, addresses_of};
pub use alias::{Alias, Role};
pub(crate) use attributes_table::entries_in_force;
pub use attributes_table::{EntryRefusal, refusals};
pub(crate) use budget::{Budget, MAX_ENTRIES};
pub(crate) use cache::memory_type;
pub use cache::{CacheRule, PatIndices};
pub use contract::{Arena, Contract, Regions, Term};
pub(crate) use descriptor_size::misread;
pub(crate) use expectation::{Denial, Expectation, Question, judge_map, physical_of};
pub use finding::{Finding, Phase, Rule, Severity, WalkStep, Witness};
pub(crate) use holders::virtual_addresses;
pub use judge::{FaultRecord, ProbeCounts};
pub(crate) use judge::{Judge, Observations};
pub(crate) use marks::{Marks, RootedTables};
pub(crate) use merged::fits_an_entry;
pub(crate) use observation::{Exception, Observation};
pub use place::Place;
#[cfg(test)]
pub(crate) use plan::Purpose;
pub(crate) use plan::{Behind, Depth, Frames, Ground, Plan, PlannedProbe, PlannedSweep};
pub use plan::{SkipKind, Skipped};
pub use statement::Statement;
pub(crate) use table_check::TableCheck;
pub use tables::LeafCounts;
pub(crate) use tables::TableVerdict;
#[cfg(feature = "cli")]
pub(crate) use words::with_terms;
pub(crate) use words::{ContractItem, contract_of};

#[cfg(test)]
mod tests;
