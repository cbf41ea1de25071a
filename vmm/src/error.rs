//! The one error that a test needs, and what it is made of.

use std::fmt;

use efibed_stub::UnknownName;

use crate::bounded::OutOfRange;
pub use crate::engine::EngineError;
use crate::firmware::ServiceMisbehaviourError;
#[cfg(feature = "fuzz")]
pub use crate::fuzz::FuzzError;
pub use crate::guest::process::ProcessError;
pub use crate::guest::{BootError, ImageError, LoadError, OutOfPages};
pub use crate::machine::{BackingError, CreateError, Internals, NotWorking, OpenError, RegistersError, SlotError};
#[cfg(feature = "unstable")]
use crate::matrix::CaseError;
use crate::memory_map::{ParseError, ReadError, WriteError};

/// Why there is no report: any error of this library. A test can return it, and `?` makes it of all the others.
///
/// A test that fails with it prints its `Debug`, which is what the command says: what is wrong, where, and what to do about it.
/// The other errors of this library do the same.
///
/// ```
/// use efibed::{DescriptorSize, EngineName, FirmwareOptions, MemoryMap, Scenario, TestBed};
///
/// # /*
/// #[test]
/// # */
/// fn descriptors_are_as_far_apart_as_firmware_says() -> Result<(), efibed::Error> {
///     let firmware = FirmwareOptions::default().descriptor_size(DescriptorSize::try_from(56)?);
///     let map = MemoryMap::parse(MY_MACHINE)?;
///     let scenario = Scenario::new(map).layout("window".parse()?).firmware(firmware).engine(EngineName::Walker);
///     TestBed::without_kvm().run(&scenario)?.assert_clean();
///     Ok(())
/// }
/// # const MY_MACHINE: &str = "RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F";
/// # descriptors_are_as_far_apart_as_firmware_says().unwrap();
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is no memory map and no scenario.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A file could not be read as one.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A map cannot be written in a format.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A scenario could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A combination of paging's bits could not be tried.
    #[cfg(feature = "unstable")]
    #[error(transparent)]
    Case(#[from] CaseError),
    /// A number is not one of those allowed.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// A list has no such name.
    #[error(transparent)]
    UnknownName(#[from] UnknownName),
    /// A campaign could not begin, or go on.
    #[cfg(feature = "fuzz")]
    #[error(transparent)]
    Fuzz(#[from] FuzzError),
    /// Firmware cannot misbehave so.
    #[error(transparent)]
    Misbehaviour(#[from] ServiceMisbehaviourError),
}

/// What the command prints of the same error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(error) => fmt::Debug::fmt(error, f),
            Self::Read(error) => fmt::Debug::fmt(error, f),
            Self::Write(error) => fmt::Debug::fmt(error, f),
            Self::Engine(error) => fmt::Debug::fmt(error, f),
            #[cfg(feature = "unstable")]
            Self::Case(error) => fmt::Debug::fmt(error, f),
            Self::OutOfRange(error) => fmt::Debug::fmt(error, f),
            Self::UnknownName(error) => fmt::Debug::fmt(error, f),
            #[cfg(feature = "fuzz")]
            Self::Fuzz(error) => fmt::Debug::fmt(error, f),
            Self::Misbehaviour(error) => fmt::Debug::fmt(error, f),
        }
    }
}
