//! The software MMU: 4-level and 5-level paging as the manuals state it.
//!
//! [`walk`] follows one access through the tables and says where it arrives or how it faults, with
//! every entry it saw. [`Runs`] lists all that translates in a range, fast. Both judge an entry by
//! the same function. What the answer depends on, beyond the tables, is in [`Paging`].
//!
//! The room knows nothing of guests, KVM or EFI, and shares no code with the mapping code it checks.
//!
//! "SDM" is the Intel Software Developer's Manual volume 3A unless it says otherwise, with paging in
//! its chapter 4. (Recent editions count every chapter one higher; sections and tables keep their
//! numbers within it.) "APM" is AMD's Architecture Programmer's Manual, volume 2.
//!
//! ```
//! use std::collections::BTreeMap;
//! use efibed::mmu::{Access, Outcome, Pa, Paging, TableMemory, Va, walk};
//!
//! struct Tables(BTreeMap<Pa, u64>);
//! impl TableMemory for Tables {
//!     fn entry(&self, at: Pa) -> Option<u64> {
//!         Some(self.0.get(&at).copied().unwrap_or(0))
//!     }
//! }
//!
//! // A 2 MiB leaf whose address is only 1 MiB aligned: bit 20 is reserved.
//! let tables = Tables(BTreeMap::from([
//!     (Pa(0x1000), 0x2003), // PML4E
//!     (Pa(0x2000), 0x3003), // PDPTE
//!     (Pa(0x3000), 0x0010_0083), // PDE: P, W, PS
//! ]));
//! let walk = walk(&tables, Pa(0x1000), Va(0x1234), Access::read(), &Paging::default());
//! assert_eq!(walk.fault().unwrap().to_string(), "#PF 0x9 (P RSVD)");
//! assert_eq!(walk.steps().last().unwrap().reserved, 0x0010_0000);
//! ```

mod access;
mod accessed_dirty;
mod address;
mod crossing;
mod entry;
mod fault;
mod level;
mod listing;
mod paging;
mod permission;
mod rules;
mod runs;
mod walk;

#[cfg(test)]
mod tests;

pub use access::{Access, Kind, Privilege};
pub use accessed_dirty::EntryAfter;
pub use address::{Pa, Va};
pub use crossing::{BytesAccess, Raised, access_bytes};
pub use entry::reserved_reasons;
pub(crate) use entry::{Judgement, frame, judge, table_address};
pub use fault::{ErrorCode, Fault};
pub use level::{Level, bits};
pub use listing::{EntryRun, ListedStep, ListedTable, Listing, step_bytes};
pub use paging::{Cpu, Paging, USUAL_MAXPHYADDR, Vendor};
pub use permission::Rights;
pub use rules::{PagingRule, PagingRules};
pub use runs::{Defect, LimitReached, Run, Runs};
pub use walk::{Outcome, Step, TableMemory, Translation, Walk, each_line, walk};
