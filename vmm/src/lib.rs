//! A test bed for EFI runtime-services mapping code.

pub mod check;
pub mod engine;
pub mod firmware;
pub mod guest;
pub mod machine;
pub mod memory_map;
pub mod mmu;
pub mod report;
