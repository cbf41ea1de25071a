//! The guest side of efibed.
//!
//! Three things live here, each of which also compiles natively on the host:
//!
//! - the mapping code: [`Layout`]s that give each region its virtual address, and the page-table builder
//!   ([`page_table`]) with its [`LeafRule`]s, all behind one door, the [`Mapper`] trait;
//! - the [`protocol`] the guest speaks with the host: one mailbox, commands in, results out;
//! - the guest image itself (entry, fault handlers, probe loops), which exists only under `cfg(efibed_image)` and is
//!   built by `build` (a feature of the same name) from these very sources.
//!
//! The mapping code shares no translation code with the host's software MMU: they are each other's check.
#![cfg_attr(not(feature = "build"), no_std)]

mod error;
pub mod layout;
mod linux;
pub mod mapper;
pub mod page_table;
pub mod protocol;

#[cfg(feature = "build")]
pub mod build;

#[cfg(efibed_image)]
pub mod image;

pub use error::MapError;
pub use layout::Layout;
pub use mapper::{LayoutMapper, MapContext, Mapper};
pub use page_table::LeafRule;
