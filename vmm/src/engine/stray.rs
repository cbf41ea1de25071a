//! Whether mapping code wrote what it was not given: the kernel's tables, or more of the memory map than VirtualStart.

use std::ops::Range;

use crate::guest::Loaded;
use crate::mmu::bits;

/// What must be the same after the mapper as before.
pub struct Untouchable {
    words: Vec<(u64, u64, u64)>,
}

impl Untouchable {
    /// Takes note of everything.
    pub fn new(loaded: &Loaded) -> Self {
        let tables = words(loaded, loaded.placement.boot_tables(), |_| bits::A | bits::D);
        let map = words(loaded, loaded.placement.memory_map(), |offset| {
            if offset % loaded.strides.firmware as u64 == VIRTUAL_START { u64::MAX } else { 0 }
        });
        let attributes = words(loaded, loaded.placement.attributes(), |_| 0);
        Self { words: tables.chain(map).chain(attributes).collect() }
    }

    /// The first address at which something else is now.
    pub fn first_change(&self, loaded: &Loaded) -> Option<u64> {
        let changed =
            |(at, free, word): &(u64, u64, u64)| loaded.memory.read_u64(*at).is_none_or(|now| now & !free != *word);
        self.words.iter().find(|word| changed(word)).map(|(at, ..)| *at)
    }
}

/// Offset of VirtualStart in a descriptor (UEFI 2.10, 7.2.3).
const VIRTUAL_START: u64 = 16;

/// Address, bits that may change, and the others, of each word. The CPU itself sets A and D in tables.
fn words(loaded: &Loaded, range: Range<u64>, free: impl Fn(u64) -> u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let start = range.start;
    range.step_by(8).map(move |at| {
        let free = free(at - start);
        (at, free, loaded.memory.read_u64(at).unwrap_or(0) & !free)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Image, Placement, Strides};
    use crate::memory_map::MemoryMap;
    use crate::mmu::Paging;

    #[test]
    fn only_what_the_mapper_was_given_may_change() {
        let text = "[[descriptor]]\ntype = 6\nphys = 0x7e729000\npages = 2\nattribute = \"RUNTIME|WB\"";
        let map = MemoryMap::parse(text).unwrap();
        let image = Image::built_in().unwrap();
        let sizes = Loaded::sizes(image, &map, Strides::default(), 0, 8, 0);
        let placement = Placement::find(&map, sizes, 1 << 36, &[]).unwrap();
        let loaded = Loaded::new(image, &map, Strides::default(), placement, &[], &Paging::default()).unwrap();
        let change = |at: u64, flip: u64| {
            let before = Untouchable::new(&loaded);
            let word = loaded.memory.read_u64(at).unwrap();
            assert!(loaded.memory.write_u64(at, word ^ flip));
            before.first_change(&loaded)
        };
        let (table, descriptor) = (loaded.kernel_root + 8 * 511, placement.memory_map().start);
        assert_eq!(change(table, bits::A), None);
        assert_eq!(change(table, bits::W), Some(table));
        assert_eq!(change(loaded.kernel_root, 1), Some(loaded.kernel_root));
        assert_eq!(change(descriptor + VIRTUAL_START, 0x1000), None);
        assert_eq!(change(descriptor + 8, 0x1000), Some(descriptor + 8));
        let attributes = placement.attributes().start;
        assert_eq!(change(attributes, 1), Some(attributes));
        assert_eq!(change(placement.pool().start, 1), None);
        assert_eq!(change(placement.virtual_map().start, 1), None);
    }
}
