//! A test bed for EFI runtime-services mapping code.

mod bed;
pub mod check;
#[cfg(feature = "cli")]
pub mod cli;
pub mod engine;
pub mod firmware;
pub mod guest;
pub mod machine;
pub mod matrix;
pub mod memory_map;
pub mod mmu;
pub mod report;

pub use bed::{Scenario, TestBed};
pub use check::Contract;
pub use efibed_guest::mapper;
pub use efibed_guest::{Layout, LayoutMapper, LeafRule, MapContext, MapError, Mapper};
pub use engine::{EngineError, FirmwareOptions, KernelOptions, Miscall, Moment, Progress, Tamper};
pub use firmware::{Misbehaviour, Offence};
pub use machine::CpuidRequest;
pub use memory_map::MemoryMap;
pub use mmu::{Pa, Va};
pub use report::{EngineName, Report};
