//! What mapping code is asked to do and what it answers, in the C ABI: the structures of `efibed.h`.

use core::fmt;

use efibed_stub::memory::MemoryDescriptor;

use super::error::{MapError, MapStatus};

/// Changes with any change to this file's structures.
pub const ABI_VERSION: u32 = 1;

/// Kernel ranges that must stay mapped.
pub const MAX_KEEP: usize = 8;

/// What the mapper is to do. Physical addresses are reached at `direct_map` plus themselves.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MapRequest {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Levels of paging: 4, or 5 with LA57.
    pub levels: u32,
    /// Virtual minus physical address (wrapping) of all memory that is named here.
    pub direct_map: u64,
    /// Physical address of the memory map.
    pub memory_map: u64,
    /// Its bytes.
    pub memory_map_bytes: u64,
    /// Bytes from one descriptor to the next (EFI's DescriptorSize).
    pub stride: u64,
    /// EFI's DescriptorVersion.
    pub descriptor_version: u32,
    /// Whether the memory map is a list of Linux's own: already merged, and in the order in which Linux maps.
    pub in_mapping_order: u32,
    /// Physical address of the Memory Attributes Table's entries, of the same stride.
    pub attributes_table: u64,
    /// Their bytes, 0 where there is no such table.
    pub attributes_table_bytes: u64,
    /// Physical address of the room for the virtual map, the one that SetVirtualAddressMap will be given.
    pub virtual_map: u64,
    /// Bytes of that room.
    pub virtual_map_bytes: u64,
    /// Physical address of a root in which the kernel's ranges are mapped already. It is the mapper's own, and so are the
    /// tables below it down to those that hold the kernel's last-level entries.
    pub root: u64,
    /// Physical address of the kernel's own root, which may be read only.
    pub kernel_root: u64,
    /// Physical range of all table memory, first byte and end.
    pub table_reach: [u64; 2],
    /// Physical range of the pages the mapper may use for tables, zeroed, first byte and end. They are taken from its start;
    /// [`MapResult::table_pages`] says how many are.
    pub table_pool: [u64; 2],
    /// Physical address of the log's room.
    pub log: u64,
    /// Bytes of that room.
    pub log_bytes: u64,
    /// What the mapper may use.
    pub cpu: CpuAbilities,
    /// How many of `keep` there are.
    pub keep_count: u64,
    /// The kernel's own virtual ranges, which must stay mapped as they are.
    pub keep: [KeepRange; MAX_KEEP],
}

/// What the mapper may use of the CPU: what CPUID says *and* the machine was found to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct CpuAbilities {
    /// 1 GiB leaves (CPUID.80000001H:EDX\[26\]).
    pub gbpages: u32,
    /// No-execute (CPUID.80000001H:EDX\[20\] and EFER.NXE).
    pub nx: u32,
    /// Five-level paging is on (CR4.LA57).
    pub la57: u32,
    /// Physical-address width in bits.
    pub maxphyaddr: u32,
}

/// Virtual addresses first..=last (inclusive, since a range may end at the top of the address space).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct KeepRange {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
}

/// What the mapper did. It finds here what phase `map` left when it comes to phase `finish`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct MapResult {
    /// A [`MapStatus`].
    pub status: u64,
    /// The descriptor, or other number, that goes with the status; of a panic, where in the log its account begins.
    pub detail: u64,
    /// Physical address of the root to load.
    pub root: u64,
    /// Descriptors in the virtual map.
    pub mapped: u64,
    /// Pages used of the pool. Not 0 at first: the root that was given takes some.
    pub table_pages: u64,
    /// Bytes of text in the log.
    pub log_used: u64,
    /// What is being mapped, for the report if the mapper has to be ended.
    pub region_at_hand: RegionAtHand,
}

/// What the mapper is mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RegionAtHand {
    /// Where it starts, as its descriptor has it.
    pub phys_start: u64,
    /// How many pages it has; 0: nothing is being mapped.
    pub page_count: u64,
}

impl From<&MemoryDescriptor> for RegionAtHand {
    fn from(region: &MemoryDescriptor) -> Self {
        Self { phys_start: region.phys_start, page_count: region.page_count }
    }
}

impl MapResult {
    /// Puts how a phase ended.
    pub(super) fn conclude(&mut self, outcome: Result<u64, MapError>) {
        let (status, detail) = match outcome {
            Ok(root) => {
                self.root = root;
                (MapStatus::Done, 0)
            }
            Err(error) => error.to_status(),
        };
        (self.status, self.detail) = (status as u64, detail);
    }
}

/// The log: text is added until its room is full.
pub struct Log<'a> {
    bytes: &'a mut [u8],
    pub(super) used: &'a mut u64,
}

impl<'a> Log<'a> {
    /// That of a request, of which so many bytes are `used`.
    ///
    /// # Safety
    /// The log's room must be memory which nothing else refers to meanwhile.
    pub unsafe fn of(request: &MapRequest, used: &'a mut u64) -> Self {
        let at = core::ptr::with_exposed_provenance_mut(request.log.wrapping_add(request.direct_map) as usize);
        // SAFETY: as the caller vouches.
        let bytes = unsafe { core::slice::from_raw_parts_mut(at, request.log_bytes as usize) };
        Self { bytes, used }
    }
}

impl fmt::Write for Log<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(*self.used as usize..).unwrap_or_default();
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        *self.used += taken as u64;
        Ok(())
    }
}
