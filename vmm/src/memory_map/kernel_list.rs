//! What a kernel says of its memory: the e820 table in its log, or /proc/iomem.

use super::e820::E820Type;

/// One list of what a kernel takes memory for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelList {
    /// The name of what it was read from.
    pub source: String,
    /// Which list it is.
    pub kind: KernelListKind,
    /// The line of the text at which it starts, from 1.
    pub line: usize,
    /// Its rows, in the order of the text. Where rows overlap the last one counts: in /proc/iomem it is nested in the others.
    pub rows: Vec<KernelRow>,
    /// Whether the text has its beginning: the line that heads it, which a log that has lost its first lines lacks.
    pub has_beginning: bool,
    /// What other lists the text has.
    pub others: Vec<OtherList>,
}

/// A list that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherList {
    /// Which list it is.
    pub kind: KernelListKind,
    /// The line at which it starts, from 1.
    pub line: usize,
    /// How many rows it has.
    pub rows: usize,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelRow {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
    /// What the kernel takes it for.
    pub takes: KernelUse,
}

/// What a kernel takes some memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelUse {
    /// A type of its e820 table. One that Linux has no name for is as good as reserved.
    E820(E820Type),
    /// A device's, or a bus's window: only /proc/iomem tells.
    Device,
}

/// Which list it is. Of the tables of one boot, a later one is made of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelListKind {
    /// `reserve setup_data:`, under the heading "extended physical RAM map": the same table, cut where the boot loader left data.
    SetupData,
    /// `BIOS-e820:`, the table as the boot stub, the boot loader or a BIOS handed it over.
    Bios,
    /// `user:`, after `mem=` and `memmap=` on the kernel's command line.
    User,
    /// `modified:`, after what the kernel itself changed.
    Modified,
    /// /proc/iomem.
    Iomem,
}

efibed_stub::names! {
    KernelListKind, "list of a kernel's memory":
    SetupData "setup-data",
    Bios "bios-e820",
    User "user",
    Modified "modified",
    Iomem "iomem",
}
