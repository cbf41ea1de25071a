//! The guest side of efibed.
//!
//! - [`mapper`]: the contract that all mapping code is written to: what it is given, what it returns, and helpers for page
//!   tables;
//! - [`layouts`]: the built-in mapping code, one tenant of that door among others: [`Layout`]s that give each region its
//!   virtual address, with [`LeafRule`]s for the size of leaves;
//! - the [`protocol`] in which the guest's kernel speaks with the host: one mailbox, commands in, results out;
//! - that kernel itself (entry, fault handlers, probe loops), which exists only under `cfg(efibed_image)` and is built by
//!   `build` (a feature of the same name) from these very sources.
//!
//! Mapping code runs in ring 3 of the guest, and natively under the walker engine. It shares no translation code with the
//! host's software MMU: they are each other's check.
#![cfg_attr(not(feature = "build"), no_std)]

#[cfg(not(efibed_image))]
pub mod layouts;
#[cfg(not(efibed_image))]
pub mod mapper;
pub mod protocol;

#[cfg(feature = "build")]
pub mod build;

#[cfg(efibed_image)]
pub mod kernel;

/// The same contract for C and C++: `efibed.h`.
#[cfg(not(efibed_image))]
pub const HEADER: &str = include_str!("../include/efibed.h");

/// The options with which rustc makes code that counts what it runs. LLVM's SanitizerCoverage: a byte for each edge, in one
/// section of the program or library, which its constructors announce.
#[cfg(not(efibed_image))]
pub const COUNTED: [&str; 4] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
];

/// What a program needs besides that whose code counts what it runs, in C.
#[cfg(not(efibed_image))]
pub const COVERAGE: &str = include_str!("../include/coverage.c");

#[cfg(not(efibed_image))]
pub use layouts::{Layout, LayoutMapper};
#[cfg(not(efibed_image))]
pub use mapper::{LeafRule, MapContext, MapError, Mapper};
