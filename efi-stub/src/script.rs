//! Scripts: what a stub does between its trap and its return.
//!
//! The host plays the services, but firmware must *run*. So the host lists, in firmware's own data, what memory the service
//! has to touch. The stub touches it through whatever tables are loaded. A service that runs at its virtual address
//! therefore depends on the mapping of its code, of firmware's data and of the caller's memory, as real ones do.
//!
//! RuntimeServicesData holds the stubs' [`State`], followed by the script: an array of [`Step`]s. The last one is
//! [`Op::Return`] or [`Op::More`]. The stub compares the state's [`MAGIC`] with its own constant, so that both code and data
//! are read, and counts, so that data is written.

/// What the stubs know; as large as a step, and followed by the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// [`MAGIC`].
    pub magic: u64,
    /// How many scripts they have begun. The host sets it to 0 once, and only reads it then.
    pub scripts: u64,
    /// Nothing.
    pub padding: [u64; 2],
}

const _: () = assert!(size_of::<State>() == size_of::<Step>());

/// One step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Step {
    /// An [`Op`].
    pub op: u64,
    /// Where; for [`Op::Return`] the EFI_STATUS.
    pub at: u64,
    /// How many bytes; for [`Op::Jump`] the EFI_STATUS.
    pub bytes: u64,
    /// For [`Op::Write`]: where the bytes are, in firmware's data. For [`Op::Return`] and [`Op::Jump`]: what the stubs' own
    /// pointer is to be from now on, or 0.
    pub from: u64,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Op {
    /// Returns to the caller with a status.
    Return = 0,
    /// Reads the first and the last of the bytes, which are in one page or in two.
    Read = 1,
    /// Copies the bytes from firmware's data.
    Write = 2,
    /// Traps again, as number [`crate::image::RESUME`]: there is more to do than one script holds.
    More = 3,
    /// Jumps to the address, with the number in `bytes` as the status: for firmware that misbehaves.
    Jump = 4,
    /// Never ends: the same.
    Hang = 5,
}

impl Op {
    /// The step's kind by its number.
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Return),
            1 => Some(Self::Read),
            2 => Some(Self::Write),
            3 => Some(Self::More),
            4 => Some(Self::Jump),
            5 => Some(Self::Hang),
            _ => None,
        }
    }
}

/// "EFISTEPS", little-endian: what the state holds, and the stubs' code.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EFISTEPS");

/// What a stub returns if firmware's data is not where it should be, so that there is no script: EFI_DEVICE_ERROR
/// (UEFI 2.10, appendix D).
pub const NO_SCRIPT: u64 = 1 << 63 | 7;
