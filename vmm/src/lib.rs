//! A test bed for EFI runtime-services **mapping code**: the code with which an operating system maps firmware's memory
//! regions at virtual addresses before it calls SetVirtualAddressMap.
//!
//! A tiny KVM virtual machine gets an EFI memory map and a fake firmware. Your mapping code runs in it and builds page
//! tables. The guest loads them, calls the runtime services through them, and reaches every page of every region with its
//! own MMU. What went wrong comes back as a [`Report`]: which translation, permission or error code, why, and in which
//! page-table entry. It needs Linux on x86-64 and access to `/dev/kvm`. It needs no root, no firmware image and no QEMU.
//!
//! # A test
//!
//! Implement [`Mapper`] for what you want to test, and run it in a [`Scenario`]:
//!
//! ```
//! use efibed::mapper::page_table::{Mapping, WRITABLE};
//! use efibed::mapper::{LeafRule, MemoryDescriptor, attribute};
//! use efibed::{AddressSpace, MapContext, MapError, Mapper, MemoryMap, Pa, Scenario};
//!
//! /// Each runtime region at its physical address plus a constant.
//! #[derive(Clone)]
//! struct Linear(u64);
//!
//! impl Mapper for Linear {
//!     fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
//!         for (index, region) in context.memory_map.iter().enumerate() {
//!             if region.attribute & attribute::RUNTIME != 0 {
//!                 let (virt_start, bytes) = (self.0 + region.phys_start, region.page_count * 4096);
//!                 let mapping = Mapping { flags: WRITABLE, leaf_rule: LeafRule::CoAligned, gbpages: false };
//!                 context.space.map(&mut context.tables, virt_start, region.phys_start, bytes, mapping)?;
//!                 context.push_mapped(index, &MemoryDescriptor { virt_start, ..*region })?;
//!             }
//!         }
//!         Ok(context.space)
//!     }
//! }
//!
//! # /*
//! #[test]
//! # */
//! fn every_runtime_region_is_mapped() -> Result<(), efibed::Error> {
//!     let bed = efibed::require_kvm!(Ok(()));
//!     // A boot log, what a UEFI shell printed, TOML: the format is found out from the text.
//!     let map = MemoryMap::parse(MY_MACHINE)?;
//!     let report = bed.run(&Scenario::new(map).mapper(Linear(0xffff_ff00_0000_0000)))?;
//!     report.assert_clean();
//!     assert_eq!(report.translate(0xffff_ff00_7e72_9000), Some(Pa(0x7e72_9000)));
//!     Ok(())
//! }
//! # const MY_MACHINE: &str = r#"
//! #     [[descriptor]]
//! #     type = "RuntimeServicesCode"
//! #     phys = 0x7e000000
//! #     pages = 0x20
//! #     attribute = "RUNTIME|WB"
//! #     [[descriptor]]
//! #     type = "RuntimeServicesData"
//! #     phys = 0x7e729000
//! #     pages = 0x242
//! #     attribute = "RUNTIME|WB"
//! #     "#;
//! # every_runtime_region_is_mapped().unwrap();
//! ```
//!
//! This mapper builds its tables with efibed's own [`AddressSpace::map`]. Yours has page-table code of its own.
//!
//! # What is asked of a mapper
//!
//! A mapper is held to a [`Contract`]. [`Contract::default`] says what every mapper owes. Every page of every RUNTIME region
//! translates to its own frame, at the address that SetVirtualAddressMap is told, for the supervisor alone. Nothing else is
//! mapped. Where your kernel promises more, or needs more freedom, say so with [`Scenario::contract`]: arenas, 1:1 aliases,
//! boot services, permissions, cache types, a closed form of the addresses.
//!
//! A mapper runs in ring 3 of the guest, on copies of the test process's own pages. So it may be any Rust code that makes no
//! system calls. What it must not touch it cannot touch: an attempt is a finding, with the address and the instruction.
//!
//! # Where to go
//!
//! - [Testing a mapper in Rust](https://github.com/efibed/efibed/blob/main/docs/rust-mapper.md): a crate with page-table code
//!   of its own, a bug in it, and how the bug shows.
//! - [Mapping code on the crate `x86_64`](https://github.com/efibed/efibed/blob/main/docs/x86_64-crate.md), with the feature
//!   of that name.
//! - [Mapping code in C](https://github.com/efibed/efibed/blob/main/docs/c-mapper.md), linked into a test or as a program.
//! - [Fuzzing memory maps](https://github.com/efibed/efibed/blob/main/docs/fuzz.md): maps for property tests, with the
//!   features `proptest` and `arbitrary`, and the smallest map that still fails.
//! - [Mapping code under gdb](https://github.com/efibed/efibed/blob/main/docs/gdb.md), by the command or in a test.
//! - [Tests on CI machines](https://github.com/efibed/efibed/blob/main/docs/ci.md), and [`require_kvm!`] for machines that
//!   may have no KVM.
//! - [`MapContext`] is what a mapper is given. [`check::Rule`] lists what can be found. [`report`] is what is reported, for
//!   people and for programs.
//! - [`MemoryMap`] reads memory maps, and [`Scenario::read`] what else a file says of a run. [`Layout`] names the built-in
//!   mapping code, to compare with.
//! - [`Error`] is what a test can return: any other error becomes it with `?`, and its `Debug` says what to do.
//! - [`Scenario`] has the rest: other CPUs, firmware that misbehaves, the walk alone without a guest.
//!
//! # Features
//!
//! - `cli`, on by default: the command `efibed`. A library that only tests needs none of it: `default-features = false`.
//! - `x86_64`: mapping code on the crate of that name.
//! - `unstable`: what efibed is made of, for its own tests. No version promises any of it to the next one.

// What is public has a public name.
#![cfg_attr(not(feature = "unstable"), deny(unnameable_types))]

mod bed;
mod bounded;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod check;
// For the command, which is a crate of its own.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cli")]
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod debugger;
#[cfg_attr(not(feature = "unstable"), allow(dead_code, unused_imports))]
mod engine;
pub mod error;
#[cfg_attr(not(feature = "unstable"), allow(dead_code, unused_imports))]
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod firmware;
pub mod fuzz;
#[cfg_attr(not(feature = "unstable"), allow(dead_code, unused_imports))]
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod guest;
#[cfg_attr(not(feature = "unstable"), allow(dead_code, unused_imports))]
mod machine;
#[cfg_attr(not(feature = "unstable"), allow(dead_code, unused_imports))]
mod matrix;
pub mod memory_map;
pub mod mmu;
#[cfg(feature = "cli")]
mod museum;
#[cfg(feature = "cli")]
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod oops;
mod random;
pub mod report;
#[cfg(feature = "x86_64")]
pub mod x86_64;

#[doc(hidden)]
pub use bed::bed_or_skip;
pub use bed::{Scenario, TestBed};
pub use bounded::OutOfRange;
pub use check::Contract;
pub use efibed_guest::mapper;
pub use efibed_guest::mapper::AddressSpace;
pub use efibed_guest::{Layout, LayoutMapper, LeafRule, MapContext, MapError, Mapper};
pub use efibed_stub::{Service, UnknownName};
pub use engine::{
    Abilities, DescriptorSize, EngineError, FirmwareOptions, KernelOptions, Miscall, Moment, Progress, Tamper,
    TrialResult, VariableBytes,
};
pub use error::Error;
pub use firmware::{Misbehaviour, ServiceMisbehaviour, ServiceMisbehaviourError, WildAccess};
pub use machine::{CpuVendor, CpuidRequest, CpuidSeen, MaxPhyAddr};
pub use memory_map::MemoryMap;
pub use mmu::{Pa, Va};
#[doc(hidden)]
pub use random::Random;
pub use report::{EngineName, Report};

/// What efibed is made of: for its own tests, benches and fuzz targets, which turn the feature `unstable` on.
///
/// Any of it may change or go in any version. It tells nothing that a [`Report`] does not.
#[cfg(feature = "unstable")]
pub mod unstable {
    /// What runs mapping code and observes what it made.
    pub mod engine {
        pub use crate::engine::*;
    }

    /// Runs as campaigns make them.
    #[cfg(feature = "fuzz")]
    pub mod fuzz {
        pub use crate::fuzz::in_guest;
    }

    /// The fake firmware.
    pub mod firmware {
        pub use crate::firmware::*;
    }

    /// What is booted.
    pub mod guest {
        pub use crate::guest::*;
    }

    /// KVM alone.
    pub mod machine {
        pub use crate::machine::*;
    }

    /// Every combination of paging's bits.
    pub mod matrix {
        pub use crate::matrix::*;
    }

    /// What the command's child processes give up.
    #[cfg(feature = "cli")]
    pub mod sandbox {
        pub use crate::cli::{PIPE, confine};
    }
}
