//! The guest image: the bytes that the build made, and what their header says.

use std::io::Cursor;
use std::mem::size_of;
use std::sync::OnceLock;

use efibed_guest::protocol::{ImageHeader, MAGIC, SweepKind, VERSION};
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{self, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::PAGE_BYTES;
use super::descriptor_tables::{self, Handlers};
use super::layout::{IMAGE_BASE, IMAGE_BYTES};

#[cfg(not(docsrs))]
static BUILT_IN: &[u8] = include_bytes!(env!("EFIBED_GUEST_IMAGE"));
#[cfg(docsrs)]
static BUILT_IN: &[u8] = &[];

/// An image, unpacked as it lies in memory.
#[derive(Debug)]
pub struct Image {
    /// The read-only part, and after it as much of the writable part as the file has contents for.
    contents: Vec<u8>,
    header: ImageHeader,
}

/// Why an ELF file is no guest image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The host has no memory to unpack it into.
    #[error("no memory for the guest image: {0}")]
    Memory(String),
    /// It does not load.
    #[error("the guest image is not a loadable ELF file: {0}")]
    Elf(String),
    /// It loads, but has no header where one must be.
    #[error("the guest image has no header of protocol version {VERSION} at its start")]
    Header,
    /// A segment lies where nothing would load it.
    #[error(
        "the guest image has a segment up to {segment_end:#x}, past the end of {image_end:#x} that its header says"
    )]
    Segment {
        /// Where the highest segment ends, from the start of the image.
        segment_end: u64,
        /// Where the image ends by its header.
        image_end: u64,
    },
}

impl Image {
    /// The image.
    pub fn built_in() -> Result<&'static Self, ImageError> {
        static IMAGE: OnceLock<Result<Image, ImageError>> = OnceLock::new();
        IMAGE.get_or_init(|| Self::load(BUILT_IN)).as_ref().map_err(Clone::clone)
    }

    /// The ELF file of the built-in image.
    pub fn built_in_elf() -> &'static [u8] {
        BUILT_IN
    }

    /// Unpacks an ELF file.
    pub fn load(elf: &[u8]) -> Result<Self, ImageError> {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), IMAGE_BYTES as usize)])
            .map_err(|error| ImageError::Memory(error.to_string()))?;
        let loaded = Elf::load(&memory, Some(GuestAddress(0)), &mut Cursor::new(elf), None).map_err(not_loadable)?;
        let mut words = [0u64; size_of::<ImageHeader>() / 8];
        for (word, at) in words.iter_mut().zip((0u64..).step_by(8)) {
            *word = memory.read_obj(GuestAddress(at)).map_err(|_| ImageError::Header)?;
        }
        let header = header_from(words).ok_or(ImageError::Header)?;
        let (segment_end, image_end) = (loaded.kernel_end, offset_of(header.end));
        if segment_end > image_end {
            return Err(ImageError::Segment { segment_end, image_end });
        }
        let mut contents = vec![0; image_end as usize];
        memory.read_slice(&mut contents, GuestAddress(0)).map_err(|_| ImageError::Header)?;
        // What the file has no contents for is zeros, as a guest's memory is.
        let used = contents.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
        contents.truncate(used.max(offset_of(header.read_only_end) as usize));
        let mut image = Self { contents, header };
        image.put_descriptor_tables()?;
        Ok(image)
    }

    /// Fills the page that the file leaves to the host. All addresses in it are virtual: it is the same wherever the image lies.
    fn put_descriptor_tables(&mut self) -> Result<(), ImageError> {
        let ImageHeader { descriptor_tables, ist_top, .. } = self.header;
        let page = descriptor_tables::page(descriptor_tables, &self.handlers(), ist_top);
        let (at, end) = (offset_of(descriptor_tables) as usize, self.read_only_bytes());
        let read_only = self.contents.get_mut(..end).and_then(|bytes| bytes.get_mut(at..)?.get_mut(..page.len()));
        read_only.ok_or(ImageError::Header)?.copy_from_slice(&page);
        Ok(())
    }

    /// Where things are.
    pub fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// The read-only part.
    pub fn read_only(&self) -> &[u8] {
        self.contents.split_at(self.read_only_bytes()).0
    }

    /// What the writable part starts with, from [`ImageHeader::read_only_end`] on. What follows it starts as zeros.
    pub fn initialised(&self) -> &[u8] {
        self.contents.split_at(self.read_only_bytes()).1
    }

    /// The handlers of its exceptions.
    fn handlers(&self) -> Handlers {
        let address = |table, index| self.address_in(table, index);
        let ImageHeader { vectors, trial_vectors, process_vectors, .. } = self.header;
        Handlers {
            usual: std::array::from_fn(|vector| address(vectors, vector)),
            trials: std::array::from_fn(|vector| address(trial_vectors, vector)),
            bare_page_fault: address(trial_vectors, 32),
            process: std::array::from_fn(|vector| address(process_vectors, vector)),
        }
    }

    /// What carries out sweeps of a kind.
    pub fn sweep_code(&self, kind: SweepKind) -> u64 {
        self.address_in(self.header.sweep_codes, kind as usize)
    }

    /// An address in a table of addresses, which is in the image.
    fn address_in(&self, table: u64, index: usize) -> u64 {
        let table = self.contents.get(offset_of(table) as usize..).unwrap_or_default();
        table.as_chunks().0.get(index).map_or(0, |entry| u64::from_le_bytes(*entry))
    }

    /// Pages of the read-only part.
    pub fn read_only_pages(&self) -> u64 {
        self.read_only_bytes() as u64 / PAGE_BYTES
    }

    /// Pages of all of it.
    pub fn pages(&self) -> u64 {
        offset_of(self.header.end) / PAGE_BYTES
    }

    fn read_only_bytes(&self) -> usize {
        offset_of(self.header.read_only_end) as usize
    }
}

/// How far into the image an address of it is.
pub(super) fn offset_of(address: u64) -> u64 {
    address.wrapping_sub(IMAGE_BASE)
}

fn not_loadable(error: loader::Error) -> ImageError {
    ImageError::Elf(error.to_string())
}

/// The header, if the words are one of this version.
fn header_from(words: [u64; size_of::<ImageHeader>() / 8]) -> Option<ImageHeader> {
    // SAFETY: the structure is made of as many u64s and nothing else, in C's layout; any bits are valid for them.
    let header = unsafe { std::mem::transmute::<[u64; size_of::<ImageHeader>() / 8], ImageHeader>(words) };
    let fits = header.magic == MAGIC
        && header.version == u64::from(VERSION)
        && header.read_only_end > IMAGE_BASE
        && header.end >= header.read_only_end
        && offset_of(header.end) <= IMAGE_BYTES
        && [header.read_only_end, header.ist_top, header.end].iter().all(|at| at.is_multiple_of(PAGE_BYTES));
    fits.then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `MAX_SWEEPS` has it.
    #[test]
    fn it_fills_whole_lines_of_a_tables_entries() {
        assert_eq!(Image::built_in().unwrap().pages() % 8, 0);
    }

    #[test]
    fn every_kind_of_sweep_has_its_code() {
        let image = Image::built_in().unwrap();
        let kinds = [SweepKind::Block, SweepKind::Group, SweepKind::Pair, SweepKind::Single, SweepKind::End];
        let codes = kinds.map(|kind| image.sweep_code(kind));
        assert!(codes.is_sorted_by(|one, next| one < next), "{codes:x?}");
        assert!(codes.iter().all(|code| (IMAGE_BASE..image.header().read_only_end).contains(code)), "{codes:x?}");
    }
}
