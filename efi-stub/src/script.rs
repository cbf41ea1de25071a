//! Scripts: what a stub does between its trap and its return.
//!
//! The host plays the services, but firmware must *run*. So the host lists, in firmware's own data, what memory the service
//! has to touch. The stub touches it through whatever tables are loaded. A service that runs at its virtual address
//! therefore depends on the mapping of its code, of firmware's data and of the caller's memory, as real ones do.
//!
//! RuntimeServicesData holds the stubs' [`State`], followed by the script: an array of [`Step`]s. The last one is
//! [`Op::Return`], [`Op::More`], [`Op::Jump`] or [`Op::Hang`]. The stub compares the state's [`MAGIC`] with its own constant,
//! so that both code and data are read, and counts, so that data is written.

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
    /// The address of the code that carries it out, as the stub sees it: that of an [`Op`], which
    /// [`crate::image::code_offset`] knows. Where ring 0 is emulated every instruction takes its time, so a step costs no
    /// comparisons.
    pub code: u64,
    /// What the op wants to know.
    pub words: [u64; 3],
}

/// What a step does, and with which words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Returns to the caller with a status.
    Return,
    /// Jumps to an address, with a status: for firmware that misbehaves.
    Jump,
    /// Never ends: the same.
    Hang,
    /// Traps again, as number [`crate::image::RESUME`]: there is more to do than one script holds.
    More,
    /// Converts the stubs' own pointer: it is this from now on.
    Move,
    /// Reads a byte at an address, and one at another.
    Read,
    /// Writes to an address: one byte,
    Write1,
    /// two bytes,
    Write2,
    /// four bytes,
    Write4,
    /// eight bytes,
    Write8,
    /// or two words of eight.
    Write16,
    /// Copies to an address so many bytes, at least eight, from firmware's data, where the third word says.
    Copy,
}

impl Op {
    /// All of them, in the order of the table that [`crate::image::code_offset`] has.
    pub const ALL: [Self; 12] = [
        Self::Return,
        Self::Jump,
        Self::Hang,
        Self::More,
        Self::Move,
        Self::Read,
        Self::Write1,
        Self::Write2,
        Self::Write4,
        Self::Write8,
        Self::Write16,
        Self::Copy,
    ];
}

/// "EFISTEPS", little-endian: what the state holds, and the stubs' code.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EFISTEPS");

/// What a stub returns if firmware's data is not where it should be, so that there is no script: EFI_DEVICE_ERROR
/// (UEFI 2.10, appendix D).
pub const NO_SCRIPT: u64 = 1 << 63 | 7;
