//! A memory map as the engine keeps it and sends it: numbers, and no more.

use libafl::inputs::Input;
use libafl_bolts::HasLen;
use serde::{Deserialize, Serialize};

use crate::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};

/// A map that can be hashed, sent to other processes, and read back from the slate of one that died.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MapInput {
    descriptors: Vec<Words>,
    attributes_table: Vec<Words>,
    is_runtime_list: bool,
}

/// Type, physical start, virtual start, page count and attribute.
type Words = (u32, u64, u64, u64, u64);

impl Input for MapInput {}

impl HasLen for MapInput {
    fn len(&self) -> usize {
        self.descriptors.len().saturating_add(self.attributes_table.len())
    }
}

impl MapInput {
    /// The map.
    pub fn to_map(&self) -> MemoryMap {
        let descriptors = |words: &[Words]| words.iter().map(descriptor).collect();
        let kind = if self.is_runtime_list { ListKind::Runtime } else { ListKind::Firmware };
        MemoryMap::from_descriptors("fuzzed map", descriptors(&self.descriptors))
            .with_kind(kind)
            .with_attributes_table(descriptors(&self.attributes_table))
    }
}

impl From<&MemoryMap> for MapInput {
    fn from(map: &MemoryMap) -> Self {
        let words = |descriptors: &[MemoryDescriptor]| descriptors.iter().map(words).collect();
        Self {
            descriptors: words(map.descriptors()),
            attributes_table: words(map.attributes_table()),
            is_runtime_list: map.kind() == ListKind::Runtime,
        }
    }
}

fn words(descriptor: &MemoryDescriptor) -> Words {
    let MemoryDescriptor { ty, phys_start, virt_start, page_count, att, .. } = *descriptor;
    (ty.0, phys_start, virt_start, page_count, att.bits())
}

fn descriptor(&(ty, phys_start, virt_start, page_count, attribute): &Words) -> MemoryDescriptor {
    MemoryDescriptor {
        ty: MemoryType(ty),
        padding: 0,
        phys_start,
        virt_start,
        page_count,
        att: MemoryAttribute::from_bits_retain(attribute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::synthesize::{Class, synthesize};

    #[test]
    fn a_map_stays_as_it_is() {
        for seed in 0..300 {
            let map = synthesize(seed, Class::ALL[seed as usize % 3]);
            let again = MapInput::from(&map).to_map();
            assert_eq!(again.descriptors(), map.descriptors());
            assert_eq!(again.attributes_table(), map.attributes_table());
            assert_eq!(again.kind(), map.kind());
        }
    }
}
