//! EFI structures, and the guest code of efibed's fake runtime services.
//!
//! The crate is compiled for the host, which lays the tables and the stubs out in guest memory and answers the calls, and
//! (with `--cfg efibed_image`, by a bare `rustc`) into the guest image, which reads the tables and calls the stubs. With
//! `--cfg efibed_counted` it goes into the layouts with coverage, which need its lists alone. Everything that host and guest
//! must agree on is here, and only here:
//!
//! - [`memory`]: the memory map's descriptors (UEFI 2.10, 7.2.3)
//! - [`table`]: the system table and the runtime-services table (UEFI 2.10, chapter 4)
//! - [`service`]: the fourteen runtime services, in the order of the table
//! - [`rflags`]: bits of RFLAGS
//! - [`stamp`]: the bytes of a firmware page that belong to the test bed
//! - `names` (host only): lists whose rows have names
//! - `image` (host only): the stubs' machine code, and the protocol between a stub and the host
//! - `script` (host only): what a stub is told to touch, step by step
#![no_std]
#![deny(unsafe_code)]

#[cfg(not(any(efibed_image, efibed_counted)))]
pub mod image;
pub mod memory;
#[cfg(not(efibed_image))]
mod names;
pub mod rflags;
#[cfg(not(efibed_image))]
pub mod script;
pub mod service;
pub mod stamp;
pub mod table;

#[cfg(not(any(efibed_image, efibed_counted)))]
pub use image::{TRAP_PORT, image};
pub use memory::{DESCRIPTOR_STRIDE, DESCRIPTOR_VERSION, MemoryDescriptor};
#[cfg(not(efibed_image))]
pub use names::UnknownName;
pub use service::Service;
pub use stamp::{PAGE_BYTES, STAMP_HEAD_BYTES, STAMP_TAIL_BYTES};
pub use table::{RuntimeServices, SystemTable, TableHeader};

/// Where this crate's sources are: the builder of the guest image compiles them a second time.
#[cfg(not(efibed_image))]
pub const SOURCE_DIR: &str = env!("CARGO_MANIFEST_DIR");
