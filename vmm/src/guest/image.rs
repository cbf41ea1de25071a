//! The guest image: the bytes that the build made, and what their header says.

use std::io::Cursor;
use std::mem::size_of;
use std::sync::OnceLock;

use efibed_guest::protocol::{IMAGE_BASE, ImageHeader, MAGIC, VERSION};
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{self, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::PAGE_BYTES;
use super::descriptor_tables::Handlers;

#[cfg(not(docsrs))]
static BUILT_IN: &[u8] = include_bytes!(env!("EFIBED_GUEST_IMAGE"));
#[cfg(docsrs)]
static BUILT_IN: &[u8] = &[];

/// An image, unpacked as it lies in memory.
#[derive(Debug)]
pub struct Image {
    bytes: Vec<u8>,
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
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), LARGEST)])
            .map_err(|error| ImageError::Memory(error.to_string()))?;
        Elf::load(&memory, Some(GuestAddress(0)), &mut Cursor::new(elf), None).map_err(not_loadable)?;
        let mut words = [0u64; size_of::<ImageHeader>() / 8];
        for (word, at) in words.iter_mut().zip((0u64..).step_by(8)) {
            *word = memory.read_obj(GuestAddress(at)).map_err(|_| ImageError::Header)?;
        }
        let header = header_from(words).ok_or(ImageError::Header)?;
        let mut bytes = vec![0; (header.read_only_end - IMAGE_BASE) as usize];
        memory.read_slice(&mut bytes, GuestAddress(0)).map_err(|_| ImageError::Header)?;
        Ok(Self { bytes, header })
    }

    /// Where things are.
    pub fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// The read-only part. What follows it starts as zeros.
    pub fn read_only(&self) -> &[u8] {
        &self.bytes
    }

    /// The handlers of its exceptions.
    pub fn handlers(&self) -> Handlers {
        let address = |table: u64, index: usize| {
            let at = (table - IMAGE_BASE) as usize + 8 * index;
            self.bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let ImageHeader { vectors, trial_vectors, process_vectors, .. } = self.header;
        Handlers {
            usual: std::array::from_fn(|vector| address(vectors, vector)),
            trials: std::array::from_fn(|vector| address(trial_vectors, vector)),
            bare_page_fault: address(trial_vectors, 32),
            process: std::array::from_fn(|vector| address(process_vectors, vector)),
        }
    }

    /// Pages of the read-only part.
    pub fn read_only_pages(&self) -> u64 {
        (self.header.read_only_end - IMAGE_BASE) / PAGE_BYTES
    }

    /// Pages of all of it.
    pub fn pages(&self) -> u64 {
        (self.header.end - IMAGE_BASE) / PAGE_BYTES
    }
}

/// The largest image there may be.
const LARGEST: usize = 16 << 20;

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
        && header.end - IMAGE_BASE <= LARGEST as u64
        && [header.read_only_end, header.end].iter().all(|at| at.is_multiple_of(PAGE_BYTES));
    fits.then_some(header)
}
