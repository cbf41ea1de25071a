//! The guest's own ring-0 part: made once, and kept from run to run.
//!
//! That is the read-only part of its image: text, constants, and the page of descriptor tables. All addresses in it are virtual,
//! so a kernel is the same wherever the memory map leaves room: it is moved, and not made anew. Everything else in a guest's
//! memory belongs to a [`Case`](super::Case), the kernel's data and stacks too, and is zeros before that is laid out.
//!
//! Nothing that a case does reaches the read-only part. The guest has it in a READONLY slot, which holds for ring 0, and so for
//! firmware, by whatever tables it writes; and for the MMU, which sets no bits there, if tables lead into it. Ring 3 has it under
//! no address that it may use. The host writes to parts of the case, and for a debugger to where ring 3 has a page.

use std::ops::Range;
use std::sync::Arc;

use super::{Image, OwnMemory, PAGE_BYTES, Placement};
use crate::machine::Backing;

/// Pages at the start of the pool that the host brings into a memory that is new: the tables of a real machine's map take half of it.
const POOL_PAGES: u64 = 64;

/// A kernel in memory, with room behind it for a case.
#[derive(Debug)]
pub struct Kernel {
    image: &'static Image,
    memory: OwnMemory,
    placement: Placement,
}

impl Kernel {
    /// Puts it into memory that is all zeros, and has as many bytes as the placement at least.
    pub fn new(image: &'static Image, backing: Arc<Backing>, placement: Placement) -> Self {
        if !backing.tells_touched() {
            // It is new in each run, or as new. KVM looks ahead to pages that are there, eight at a time; the guest's first write to each of
            // the others is a fault of its own.
            let offset = |phys: u64| phys.saturating_sub(placement.base);
            let Range { start, end } = placement.pool();
            backing.populate(offset(start)..offset(end.min(start.saturating_add(POOL_PAGES * PAGE_BYTES))));
        }
        let memory = OwnMemory::on(backing, placement.base, placement.sizes.total());
        // The image comes first in every placement, and has room there.
        let _ = memory.write(placement.base, image.read_only());
        Self::left_out(image, memory, placement)
    }

    /// The room of one that nobody boots, and that is not there: a case is laid behind it as behind any.
    pub fn left_out(image: &'static Image, memory: OwnMemory, placement: Placement) -> Self {
        Self { image, memory, placement }
    }

    /// The kernel of an earlier case, with zeros behind it, for another placement. None: its memory has no room for that.
    pub fn again(self, placement: Placement) -> Option<Self> {
        let Self { image, memory, .. } = self;
        let backing = memory.into_backing();
        if backing.bytes() < placement.sizes.total() {
            return None;
        }
        if !backing.tells_touched() {
            // What was touched is not known, and to give all pages back costs less than to zero them. The kernel's go too.
            return backing.clear().is_ok().then(|| Self::new(image, backing, placement));
        }
        let behind = image.read_only().len() as u64..backing.bytes();
        backing.touched(behind).into_iter().for_each(|part| backing.zero(part));
        let memory = OwnMemory::on(backing, placement.base, placement.sizes.total());
        Some(Self { image, memory, placement })
    }

    /// What it was made of.
    pub fn image(&self) -> &'static Image {
        self.image
    }

    /// Where it lies, and what has which room behind it.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Its memory, and the room behind it.
    pub fn memory(&self) -> &OwnMemory {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Case, Strides};
    use crate::memory_map::MemoryMap;
    use crate::mmu::Paging;

    fn placement(image: &Image, pool_pages: u64) -> Placement {
        let map = MemoryMap::from_descriptors("test", Vec::new());
        let sizes = Case::sizes(image, &map, Strides::default(), 0, pool_pages, 0);
        Placement::find(&map, sizes, 1 << 36, &[]).unwrap()
    }

    #[test]
    fn a_kernel_is_the_same_for_another_case_and_all_behind_it_is_zeros() {
        let image = Image::built_in().unwrap();
        let first = placement(image, 16);
        let elsewhere = Placement { base: first.base + 0x1000_0000, ..placement(image, 8) };
        let (bytes, kept) = (first.sizes.total(), image.read_only().len());
        for backing in [Backing::that_tells_touched(bytes).unwrap(), Backing::new(bytes).unwrap()] {
            let kernel = Kernel::new(image, backing, first);
            let map = MemoryMap::from_descriptors("test", Vec::new());
            Case::beside(&kernel, &map, Strides::default(), &[], &Paging::default()).unwrap().restore_data();
            for at in [first.writable().start, first.desk().end - 1, first.pool().end - 1] {
                assert!(kernel.memory().write(at, &[1]));
            }
            let again = kernel.again(elsewhere).unwrap();
            assert_eq!((again.memory().base(), again.memory().end()), (elsewhere.base, elsewhere.all().end));
            let mut bytes = vec![0; again.memory().backing().bytes() as usize];
            assert!(again.memory().backing().read(0, &mut bytes));
            let (read_only, behind) = bytes.split_at(kept);
            assert!(read_only == image.read_only() && behind.iter().all(|byte| *byte == 0));
            // More than there is room for.
            assert!(again.again(placement(image, 17)).is_none());
        }
    }
}
