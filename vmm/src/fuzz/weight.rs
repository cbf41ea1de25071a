//! Which of two maps is the simpler one.

use crate::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};

/// How much there is to understand of a map: first how many descriptors it has, then how many pages, then how rough its
/// numbers are, then how large.
///
/// All parts are whole numbers, so weights that decrease come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight {
    descriptors: usize,
    pages: u128,
    roughness: u64,
    addresses: u128,
}

impl Weight {
    /// That of a map.
    pub fn of(map: &MemoryMap) -> Self {
        let all = || map.descriptors().iter().chain(map.attributes_table());
        let own_list = u64::from(map.kind() != ListKind::Firmware);
        Self {
            descriptors: all().count(),
            pages: all().map(|descriptor| u128::from(descriptor.page_count)).sum(),
            roughness: own_list + all().map(roughness).sum::<u64>(),
            addresses: all().map(|each| u128::from(each.phys_start) + u128::from(each.virt_start)).sum(),
        }
    }
}

/// The fewer bits are set, the rounder is a number. Attributes and types that most descriptors have count for nothing.
fn roughness(descriptor: &MemoryDescriptor) -> u64 {
    let bits = [descriptor.phys_start, descriptor.virt_start, descriptor.page_count].map(u64::count_ones);
    let unusual = (descriptor.att ^ (descriptor.att & USUAL)).bits().count_ones() + missing(descriptor);
    let other_type = u32::from(descriptor.ty != USUAL_TYPE);
    u64::from(bits.iter().sum::<u32>() + unusual + other_type)
}

/// What a descriptor of a plain runtime region has.
pub const USUAL: MemoryAttribute = MemoryAttribute::WRITE_BACK.union(MemoryAttribute::RUNTIME);

/// What most findings are about.
pub const USUAL_TYPE: MemoryType = MemoryType::RUNTIME_SERVICES_DATA;

/// A region that no cache type is said of is noted as odd, which distracts.
fn missing(descriptor: &MemoryDescriptor) -> u32 {
    u32::from(!descriptor.att.contains(MemoryAttribute::WRITE_BACK))
}
