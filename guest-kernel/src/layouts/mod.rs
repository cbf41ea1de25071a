//! Layouts: the rule that gives each region its virtual address.
//!
//! Each is a small state machine over the descriptors in list order. The host computes the same addresses from the
//! layouts' closed forms, independently, and compares. What Linux does besides giving addresses is in `linux.rs`.

#[cfg(efibed_counted)]
mod door;
mod linux;

use efibed_stub::memory::{MemoryDescriptor, attribute, memory_type};

use crate::mapper::page_table::{AddressSpace, LeafRule, Mapping, NX, PAGE_BYTES, PCD, PWT, WRITABLE};
use crate::mapper::{CpuAbilities, MapContext, MapError, Mapper};

/// Top of the EFI window, exclusive: -4 GiB (Linux: `EFI_VA_START`).
const WINDOW_END: u64 = (4u64 << 30).wrapping_neg();
/// Bottom of the EFI window: -68 GiB (Linux: `EFI_VA_END`), so the window is 64 GiB.
const WINDOW_START: u64 = (68u64 << 30).wrapping_neg();

/// What a PDE spans, 2 MiB (Linux: `PMD_SIZE`).
const PMD_BYTES: u64 = 2 << 20;

/// How virtual addresses are given to regions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Layout {
    /// What x86-64 Linux does: adjacent equal descriptors merged; from the last to the first, downwards from -4 GiB, each
    /// at the highest free address that equals its physical one modulo 2 MiB; everything 1:1 as well.
    #[default]
    Linux,
    /// What a kexec'ed x86-64 Linux does: RUNTIME regions at the addresses that their descriptors bear, and 1:1.
    LinuxFixed,
    /// `efi_va = -4G - highest end of the mapped regions`; `VA = efi_va + PA`. VA and PA agree modulo the leaf size
    /// only where that highest end is itself aligned so.
    Window,
    /// In list order, one region right below another from -4 GiB down, regardless of the alignment of PA.
    PackedDown,
    /// In list order, one region right above another from -4 GiB up: 2 GiB of room below the kernel.
    PackedUp,
}

efibed_stub::names! {
    Layout, "layout":
    Linux "linux",
    LinuxFixed "linux-fixed",
    Window "window",
    PackedDown "packed-down",
    PackedUp "packed-up",
}

/// The built-in layouts with a rule for the size of leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayoutMapper {
    /// Where regions go.
    pub layout: Layout,
    /// Which leaves map them.
    pub leaf_rule: LeafRule,
}

impl Mapper for LayoutMapper {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let Self { layout, leaf_rule } = *self;
        match layout {
            Layout::Linux | Layout::LinuxFixed => linux::map(context, layout, leaf_rule),
            Layout::Window | Layout::PackedDown | Layout::PackedUp => map_in_list_order(context, layout, leaf_rule),
        }
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        match self.layout {
            Layout::Linux => linux::finish(context, space),
            _ => Ok(space),
        }
    }
}

fn map_in_list_order(
    context: &mut MapContext<'_>,
    layout: Layout,
    leaf_rule: LeafRule,
) -> Result<AddressSpace, MapError> {
    let mut allocator = Allocator::new(layout, context.memory_map.iter())?;
    let space = context.space;
    for (index, descriptor) in context.memory_map.iter().enumerate().filter(|(_, region)| is_mapped(region)) {
        // Firmware adds `virt_start - phys_start` to its pointers, so an unaligned start keeps its offset.
        let Some(virt_start) = allocator.place(index, descriptor)? else { continue };
        context.take_up(descriptor);
        let [virt, phys] = [virt_start, descriptor.phys_start].map(|start| start & !(PAGE_BYTES - 1));
        let mapping =
            Mapping { flags: leaf_flags(descriptor, context.cpu), leaf_rule, gbpages: context.cpu.gbpages != 0 };
        space.map(&mut context.tables, virt, phys, descriptor.page_count * PAGE_BYTES, mapping)?;
        context.push_mapped(index, &MemoryDescriptor { virt_start, ..*descriptor })?;
    }
    Ok(space)
}

/// Read and write for all, execute for code, and the first cache type of WB, WT, UC- that the region can have;
/// UC- if it names none of them, as in Linux.
fn leaf_flags(descriptor: &MemoryDescriptor, cpu: CpuAbilities) -> u64 {
    let code = matches!(descriptor.ty, memory_type::BOOT_SERVICES_CODE | memory_type::RUNTIME_SERVICES_CODE);
    let execute = if code || cpu.nx == 0 { 0 } else { NX };
    let cache = match descriptor.attribute {
        a if a & attribute::WB != 0 => 0,
        a if a & attribute::WT != 0 && a & attribute::UC == 0 => PWT,
        _ => PCD,
    };
    WRITABLE | execute | cache
}

/// Gives out addresses, one region after another.
enum Allocator {
    Linear { efi_va: u64 },
    Down { next: u64 },
    Up { next: u64 },
    Congruent { next: u64 },
    Fixed,
}

impl Allocator {
    /// Starts `layout` over the whole list, which `window` must see before it can place the first region.
    fn new<'a>(layout: Layout, descriptors: impl Iterator<Item = &'a MemoryDescriptor>) -> Result<Self, MapError> {
        Ok(match layout {
            Layout::Window => Self::Linear { efi_va: window_base(descriptors)? },
            Layout::PackedDown => Self::Down { next: WINDOW_END },
            Layout::PackedUp => Self::Up { next: WINDOW_END },
            Layout::Linux => Self::Congruent { next: WINDOW_END },
            Layout::LinuxFixed => Self::Fixed,
        })
    }

    /// The virtual address of the next mapped region, `index` in the list; None: it gets none, and stays unmapped.
    fn place(&mut self, index: usize, descriptor: &MemoryDescriptor) -> Result<Option<u64>, MapError> {
        let phys = descriptor.phys_start;
        let bytes = descriptor.page_count * PAGE_BYTES;
        match self {
            Self::Linear { efi_va } => Ok(Some(efi_va.wrapping_add(phys))),
            Self::Down { next } => {
                *next = next.checked_sub(bytes).ok_or(MapError::AddressSpaceFull { index })?;
                Ok(Some(*next + phys % PAGE_BYTES))
            }
            // Runs on over the kernel, as such an allocator would: that is the mistake this layout exists to show.
            Self::Up { next } => {
                let virt = *next;
                let last = virt.checked_add(bytes - 1).ok_or(MapError::AddressSpaceFull { index })?;
                *next = last.wrapping_add(1);
                if *next == 0 {
                    *next = u64::MAX;
                }
                Ok(Some(virt + phys % PAGE_BYTES))
            }
            Self::Congruent { next } => {
                let below = next.saturating_sub(bytes);
                let offset = phys % PMD_BYTES;
                let virt = (below & !(PMD_BYTES - 1)) + offset;
                *next = if virt > below { virt.saturating_sub(PMD_BYTES) } else { virt };
                // As in Linux, `next` stays where it is: once a region does not fit, no later one does.
                Ok((*next >= WINDOW_START).then_some(*next))
            }
            Self::Fixed => Ok((descriptor.virt_start != 0 || phys == 0).then_some(descriptor.virt_start)),
        }
    }
}

/// `-4G - highest end`, if everything fits the 64 GiB of the window.
fn window_base<'a>(descriptors: impl Iterator<Item = &'a MemoryDescriptor>) -> Result<u64, MapError> {
    let mut highest = 0;
    let mut at = 0;
    for (index, descriptor) in descriptors.enumerate() {
        if !is_mapped(descriptor) {
            continue;
        }
        let end = (descriptor.phys_start & !(PAGE_BYTES - 1)) + descriptor.page_count * PAGE_BYTES;
        if end > highest {
            (highest, at) = (end, index);
        }
    }
    if highest > WINDOW_END - WINDOW_START {
        return Err(MapError::WindowOverflow { index: at });
    }
    Ok(WINDOW_END - highest)
}

/// RUNTIME regions and, as Linux does, boot services, which real firmware still touches in SetVirtualAddressMap.
/// What has no pages, or does not end within the 52 bits of an entry's address, cannot be mapped.
fn is_mapped(descriptor: &MemoryDescriptor) -> bool {
    let wanted = descriptor.attribute & attribute::RUNTIME != 0
        || matches!(descriptor.ty, memory_type::BOOT_SERVICES_CODE | memory_type::BOOT_SERVICES_DATA);
    let end_page = (descriptor.phys_start / PAGE_BYTES).checked_add(descriptor.page_count);
    wanted && descriptor.page_count > 0 && end_page.is_some_and(|end| end <= MAX_PHYS_PAGES)
}

/// Pages that 52 bits of physical address reach, the most an entry can hold (SDM vol. 3A, 4.1.4).
const MAX_PHYS_PAGES: u64 = 1 << 40;
