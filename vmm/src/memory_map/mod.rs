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
//! Where things are: one file a format in `formats/`, which also tells them apart; `names` knows how UEFI calls
//! types and attributes; `region` does arithmetic on page ranges.

mod error;
mod file;
mod formats;
mod names;
mod oddity;
mod region;

use std::path::Path;

pub use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};

pub use error::{ParseError, ReadError};
pub(crate) use file::check_size;
pub use file::read_text;
pub use formats::{Format, detect, toml_format};
pub use names::{attribute_names, parse_attribute, parse_type, type_name};
pub use oddity::{Oddity, OddityKind, oddities};
pub use region::Region;

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
}

impl MemoryMap {
    /// Reads a map in any known format, found by content.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_named("<text>", text)
    }

    /// The same, of a text whose name appears in errors and as [`source`](Self::source).
    pub fn parse_named(name: &str, text: &str) -> Result<Self, ParseError> {
        formats::parse(name, text)
    }

    /// Reads a map from a file (or a pipe) of at most [`MAX_INPUT_BYTES`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let text = file::read_text(path)?;
        Ok(Self::parse_named(&path.display().to_string(), &text)?)
    }

    /// A map made by a program. Nothing is checked: maps that no firmware should hand out are wanted too.
    pub fn from_descriptors(source: impl Into<String>, descriptors: Vec<MemoryDescriptor>) -> Self {
        Self { source: source.into(), descriptors, lines: Vec::new(), notes: Vec::new() }
    }

    /// The descriptors, in list order.
    pub fn descriptors(&self) -> &[MemoryDescriptor] {
        &self.descriptors
    }

    /// The name of what the map was read from.
    pub fn source(&self) -> &str {
        &self.source
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
        let mut toml = format!(
            "# EFI memory map of {} descriptors, from {}\n",
            self.descriptors.len(),
            error::printable(&self.source)
        );
        for descriptor in &self.descriptors {
            toml.push('\n');
            toml_format::write(&mut toml, descriptor);
        }
        toml
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_descriptor() -> impl Strategy<Value = MemoryDescriptor> {
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
