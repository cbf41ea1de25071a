//! EFI memory maps: their descriptors, and reading and writing them in the formats they are found in.
//!
//! ```
//! use efibed::memory_map::MemoryMap;
//!
//! let map = MemoryMap::parse(
//!     "efi: mem00: [Runtime Code|RUN|  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] \
//!      range=[0x000000008db6f000-0x000000008dc3efff] (0MB)",
//! )?;
//! assert_eq!(map.descriptors()[0].page_count, 0xd0);
//! # Ok::<(), efibed::memory_map::ParseError>(())
//! ```
//!
//! Syntax errors, and fields that cannot exist, are errors: [`ParseError`], with file, line and column. A map that
//! reads well but describes memory that cannot be as described is not: such a map is what a mapper must survive.
//! [`oddities`] lists what is odd about it.
//!
//! A text may hold more than one list: a whole boot log has firmware's map and Linux's own list of what it mapped.
//! [`MemoryMap::parse`] gives firmware's, [`MemoryMap::parse_all`] every one of them, and [`MemoryMap::kind`] says which
//! is which.
//!
//! Rows are read through what texts have around them (JSON, records of loggers, mail, markup): `formats/dress` takes it off.
//!
//! Where things are: one file a format in `formats/`, which also tells them apart; `names` knows how UEFI calls
//! types and attributes; `region` does arithmetic on page ranges; `contents` tells text from binary; `write` writes;
//! [`synthesize`] makes maps from a seed, [`mutate`](mod@mutate) from others.

#[deny(clippy::arithmetic_side_effects)]
mod agreement;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod compare;
mod contents;
mod e820;
mod error;
mod file;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod formats;
#[deny(clippy::arithmetic_side_effects)]
mod kernel_list;
pub mod mutate;
#[deny(clippy::arithmetic_side_effects)]
mod names;
#[deny(clippy::arithmetic_side_effects)]
mod oddity;
#[deny(clippy::arithmetic_side_effects)]
mod region;
pub mod synthesize;
mod write;

use std::path::Path;
use std::sync::Arc;

pub use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};

pub use agreement::{Agreement, Disagreement, MapSays, Weight};
pub use compare::{Change, E820Change, Said, compare, compare_e820};
pub use contents::{Contents, decode};
pub use e820::E820Type;
pub(crate) use error::drives_terminal;
pub use error::{ParseError, ReadError};
pub(crate) use file::check_size;
pub use file::read_bytes;
pub(crate) use formats::choose;
#[cfg(feature = "cli")]
pub(crate) use formats::each_undressed_line;
pub use formats::{Format, detect, toml_format};
pub use kernel_list::{KernelList, KernelListKind, KernelRow, KernelUse, OtherList};
pub use names::{attribute_names, parse_attribute, parse_type, type_name};
pub(crate) use oddity::oddities_but;
pub use oddity::{Oddity, OddityKind, oddities};
pub use region::Region;
pub(crate) use region::{end_of_pages, page_of};
pub use write::{WriteError, WriteFormat, WriteOptions, write};

/// The size of an EFI page, whatever the processor's (UEFI 2.10, section 7.2.1, "EFI_BOOT_SERVICES.AllocatePages").
pub const PAGE_BYTES: u64 = 4096;

/// The largest input that is read. The largest real map known takes 25 KiB; a whole boot log around it, a few MiB.
pub const MAX_INPUT_BYTES: usize = 64 << 20;

/// The most descriptors a map is read with. Real maps have some hundreds.
pub const MAX_DESCRIPTORS: usize = 65_536;

/// An EFI memory map: descriptors in list order, and where they were read.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    source: String,
    descriptors: Vec<MemoryDescriptor>,
    /// The line each descriptor starts at. Empty for a map that was not read from text.
    lines: Vec<usize>,
    /// What the reader of the format noticed.
    notes: Vec<Oddity>,
    kind: ListKind,
    format: Option<Format>,
    /// Shared by the maps of one log.
    attributes_table: Arc<[MemoryDescriptor]>,
    partial: Option<String>,
}

/// What a list of descriptors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListKind {
    /// The memory map as firmware handed it out.
    Firmware,
    /// Linux's own list of what it mapped for runtime services, in the order in which it mapped them: firmware's
    /// reversed. Neighbours are merged, other regions left out, and boot services that Linux keeps have RUNTIME set.
    Runtime,
}

efibed_stub::names! {
    ListKind, "kind of list":
    Firmware "firmware",
    Runtime "runtime",
}

/// How a text is read. The default: strictly, in whatever format it is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Whether a row that cannot be read is skipped, with a note ([`OddityKind::SkippedLine`]), where it would be an
    /// error otherwise.
    pub lenient: bool,
    /// The only format to read, for a text whose format cannot be told by its content, or is mistaken.
    pub format: Option<Format>,
    /// The size of a descriptor in a binary dump, which does not tell it (firmware's DescriptorSize).
    pub stride: Option<usize>,
}

impl MemoryMap {
    /// Reads a map in any known format, found by content: the first list as firmware handed it out or, if the text has
    /// none, the first list; a whole one rather than a part ([`partial`](Self::partial)), and of parts the largest. What
    /// else it has is noted ([`OddityKind::ExtraList`]).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_named("<text>", text)
    }

    /// The same, of a text whose name appears in errors and as [`source`](Self::source).
    pub fn parse_named(name: &str, text: &str) -> Result<Self, ParseError> {
        Ok(formats::choose(Self::parse_all(name, text, &ReadOptions::default())?))
    }

    /// Reads every list of a text, in the order of the text. There is at least one.
    pub fn parse_all(name: &str, text: &str, options: &ReadOptions) -> Result<Vec<Self>, ParseError> {
        formats::parse_all(name, text, options)
    }

    /// Reads a map from a file (or a pipe) of at most [`MAX_INPUT_BYTES`], as [`parse`](Self::parse) does.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        Ok(formats::choose(Self::read_all(path, &ReadOptions::default())?))
    }

    /// Reads every list of a file, in the order of the file. There is at least one. Of folders, Linux's
    /// `/sys/firmware/efi/runtime-map` is read.
    pub fn read_all(path: &Path, options: &ReadOptions) -> Result<Vec<Self>, ReadError> {
        if path.is_dir() {
            return Ok(vec![formats::runtime_map::read_folder(path)?]);
        }
        Self::parse_bytes(&path.display().to_string(), file::read_bytes(path)?, options)
    }

    /// A map made by a program. Nothing is checked: maps that no firmware should hand out are wanted too.
    pub fn from_descriptors(source: impl Into<String>, descriptors: Vec<MemoryDescriptor>) -> Self {
        Self {
            source: source.into(),
            descriptors,
            lines: Vec::new(),
            notes: Vec::new(),
            kind: ListKind::Firmware,
            format: None,
            attributes_table: Arc::default(),
            partial: None,
        }
    }

    /// The same map with other descriptors, which are in no text.
    #[must_use]
    pub fn with_descriptors(self, descriptors: Vec<MemoryDescriptor>) -> Self {
        let Self { source, kind, attributes_table, .. } = self;
        Self { kind, attributes_table, ..Self::from_descriptors(source, descriptors) }
    }

    /// The same map under another name.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// The same map as a list of another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ListKind) -> Self {
        self.kind = kind;
        self
    }

    /// The same map with entries of a Memory Attributes Table.
    #[must_use]
    pub fn with_attributes_table(mut self, entries: Vec<MemoryDescriptor>) -> Self {
        self.attributes_table = entries.into();
        self
    }

    /// The same map with virtual addresses for its physical ones: `virtual_of` gives those of all descriptors, 0 for none.
    #[must_use]
    pub fn with_virtual_starts(mut self, virtual_of: impl FnOnce(&[u64]) -> Vec<Option<u64>>) -> Self {
        let starts: Vec<u64> = self.descriptors.iter().map(|descriptor| descriptor.phys_start).collect();
        for (descriptor, virt) in self.descriptors.iter_mut().zip(virtual_of(&starts)) {
            descriptor.virt_start = virt.unwrap_or_default();
        }
        self
    }

    /// The descriptors, in list order.
    pub fn descriptors(&self) -> &[MemoryDescriptor] {
        &self.descriptors
    }

    /// The name of what the map was read from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether this is firmware's list or Linux's own.
    pub fn kind(&self) -> ListKind {
        self.kind
    }

    /// The format that the map was read in; `None` for a map made by a program.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// The entries of the Memory Attributes Table (UEFI 2.10, section 4.6.4), if the text has one with this map.
    pub fn attributes_table(&self) -> &[MemoryDescriptor] {
        &self.attributes_table
    }

    /// Why this is not the whole map, if it is not. It is noted too ([`OddityKind::Partial`]).
    pub fn partial(&self) -> Option<&str> {
        self.partial.as_deref()
    }

    /// Says of the map that it is not the whole.
    pub(crate) fn marked_partial(mut self, why: Option<String>) -> Self {
        if let Some(why) = why {
            self.mark_partial(why);
        }
        self
    }

    /// Says of the map why it is not the whole.
    fn mark_partial(&mut self, why: String) {
        let message = format!(
            "not the whole map: {why}. A layout's virtual addresses depend on the whole map: those here are not that \
             machine's own"
        );
        self.notes.push(Oddity { kind: OddityKind::Partial, index: 0, other: None, message });
        self.partial = Some(why);
    }

    /// The line (from 1) at which a descriptor starts in the text it was read from.
    pub fn line(&self, index: usize) -> Option<usize> {
        self.lines.get(index).copied()
    }

    /// The page ranges of the descriptors, in list order.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        self.descriptors.iter().enumerate().map(|(index, descriptor)| Region::new(index, descriptor))
    }

    /// The map as TOML, the format of this project. Reading it back gives the same descriptors; a map without any
    /// is written too, but no reader accepts it.
    pub fn to_toml(&self) -> String {
        toml_format::write(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any descriptor at all, for the tests of formats.
    pub(super) fn any_descriptor() -> impl Strategy<Value = MemoryDescriptor> {
        let ty = prop_oneof![0_u32..17, any::<u32>()];
        // Addresses around the sign bit, where TOML's integers end, deserve more than their share.
        let number = || prop_oneof![any::<u64>(), (1_u64 << 63) - 2..(1 << 63) + 2, Just(0)];
        (ty, number(), number(), number(), any::<u64>()).prop_map(|(ty, phys, virt, pages, attribute)| {
            MemoryDescriptor {
                ty: MemoryType(ty),
                padding: 0,
                phys_start: phys,
                virt_start: virt,
                page_count: pages,
                att: MemoryAttribute::from_bits_retain(attribute),
            }
        })
    }

    proptest! {
        #[test]
        fn toml_read_back_gives_the_same_map(descriptors in prop::collection::vec(any_descriptor(), 1..20)) {
            let map = MemoryMap::from_descriptors("a\nname\u{1b}", descriptors);
            let again = MemoryMap::parse(&map.to_toml()).unwrap();
            prop_assert_eq!(map.descriptors(), again.descriptors());
        }

        #[test]
        fn no_text_panics(text in "\\PC*|(\\PC|\n|=|\\[)*|efi: mem.*") {
            if let Err(error) = MemoryMap::parse(&text) {
                let _ = format!("{:?}", miette::Report::new(error));
            }
        }

        #[test]
        fn no_map_makes_its_oddities_panic(descriptors in prop::collection::vec(any_descriptor(), 0..20)) {
            let map = MemoryMap::from_descriptors("", descriptors);
            oddities(&map);
        }
    }

    #[test]
    fn a_map_of_a_program_has_no_lines() {
        let map = MemoryMap::from_descriptors("program", vec![MemoryDescriptor::default()]);
        assert_eq!((map.source(), map.line(0)), ("program", None));
    }

    #[test]
    fn an_input_beyond_the_limit_is_refused() {
        let error = MemoryMap::parse(&"#".repeat(MAX_INPUT_BYTES + 1)).unwrap_err();
        assert_eq!(error.to_string(), "<text>:1:1: the text is larger than 64 MiB");
    }
}
