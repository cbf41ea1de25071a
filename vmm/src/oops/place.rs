//! Whose an address is: which descriptor of the map holds it, and whether it is physical or virtual.

use efibed_guest::Layout;

use super::fault::{Fault, Printer};
use crate::memory_map::{ListKind, MemoryAttribute, MemoryMap, PAGE_BYTES, Region};
use crate::mmu::{Pa, Paging, Va};
use crate::report::map::MapReport;

/// A part of the address space, as x86-64 Linux has it (Documentation/arch/x86/x86_64/mm.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The first page.
    PageZero,
    /// The lower half: physical addresses, where they are mapped 1:1, and user programs.
    Low,
    /// From -68 GiB to -4 GiB: where Linux maps firmware's regions (EFI_VA_END and EFI_VA_START).
    Window,
    /// The rest of the upper half, the kernel's.
    Kernel,
}

impl Area {
    /// The area of an address.
    pub fn of(address: u64) -> Self {
        const WINDOW: std::ops::Range<u64> = 0xffff_ffef_0000_0000..0xffff_ffff_0000_0000;
        match address {
            0..PAGE_BYTES => Self::PageZero,
            address if WINDOW.contains(&address) => Self::Window,
            address if address >> 63 == 0 => Self::Low,
            _ => Self::Kernel,
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::PageZero => "in page 0",
            Self::Low => "in the lower half, where addresses are physical ones mapped 1:1, or a user program's",
            Self::Window => "in Linux's window for EFI (-68 GiB to -4 GiB)",
            Self::Kernel => "in the upper half, outside of Linux's window for EFI",
        }
    }

    /// A name that stays the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PageZero => "page-zero",
            Self::Low => "low",
            Self::Window => "efi-window",
            Self::Kernel => "kernel",
        }
    }
}

/// How the physical address of an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The table entries of the log map it.
    Entries,
    /// It is in the lower half: mapped 1:1, if it is mapped.
    Identity,
    /// The map bears virtual addresses.
    VirtualStart,
    /// Layout `linux` puts a region there.
    Layout,
}

impl Source {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Entries => "by the log's own table entries",
            Self::Identity => "taken as a physical address",
            Self::VirtualStart => "by the VirtualStart of the map",
            Self::Layout => "by Linux's layout of this map",
        }
    }
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: u64,
    /// The part of the address space.
    pub area: Area,
    /// The physical address, and how it is known.
    pub phys: Option<(Pa, Source)>,
    /// The descriptor that holds it.
    pub region: Option<Region>,
    /// What the Memory Attributes Table of the map says of it.
    pub attributes: Option<MemoryAttribute>,
}

impl Place {
    /// Whether the address is virtual, and not its own physical address.
    pub fn is_virtual(&self) -> bool {
        self.phys.map_or(self.area == Area::Window, |(phys, _)| phys.0 != self.address)
    }
}

/// A map, and where its regions are mapped.
pub struct Ground<'a> {
    /// The map.
    pub map: &'a MemoryMap,
    /// Where layout `linux` puts its regions.
    pub layout: MapReport<'a>,
}

impl<'a> Ground<'a> {
    /// Of this map.
    pub fn new(map: &'a MemoryMap) -> Self {
        Self { map, layout: MapReport::new(map, Layout::Linux, None) }
    }

    /// Whether a layout's addresses are those that the machine had: they depend on the whole of firmware's map.
    pub fn is_whole(&self) -> bool {
        self.map.partial().is_none() && self.map.kind() == ListKind::Firmware
    }

    /// Where layout `linux` maps a region, or where the map itself says that it is.
    pub fn virt_of(&self, index: usize) -> Option<(u64, Source)> {
        let placed = self.layout.regions.get(index)?;
        let given = (placed.region.virt != 0).then_some((placed.region.virt, Source::VirtualStart));
        given.or_else(|| placed.fate.virt().filter(|_| self.is_whole()).map(|virt| (virt, Source::Layout)))
    }

    fn physical_in(&self, address: u64) -> Option<(Pa, Source)> {
        self.layout.regions.iter().find_map(|placed| {
            let (virt, source) = self.virt_of(placed.region.index)?;
            let offset = address.checked_sub(virt)?;
            let is_within = offset < placed.region.bytes()?;
            Some((Pa(placed.region.phys.checked_add(offset)?), source)).filter(|_| is_within)
        })
    }

    fn region_of(&self, phys: Pa) -> Option<Region> {
        let holds = |region: &Region| region.phys <= phys.0 && u128::from(phys.0) < region.end();
        self.map.regions().find(holds)
    }

    fn attributes_of(&self, phys: Pa) -> Option<MemoryAttribute> {
        let holds = |entry: &&crate::memory_map::MemoryDescriptor| {
            let offset = phys.0.checked_sub(entry.phys_start);
            offset.is_some_and(|offset| offset / PAGE_BYTES < entry.page_count)
        };
        self.map.attributes_table().iter().find(holds).map(|entry| entry.att)
    }
}

/// Where the address that was accessed is. None: the log does not tell it.
pub fn of_access(fault: &Fault, ground: Option<&Ground<'_>>) -> Option<Place> {
    let address = fault.address?;
    let by_entries = fault.translated().map(|phys| (phys, Source::Entries));
    Some(place(address, by_entries, fault.printer, ground))
}

/// Where the instruction is. None: the log does not tell it.
pub fn of_instruction(fault: &Fault, ground: Option<&Ground<'_>>) -> Option<Place> {
    let rip = fault.rip?;
    let by_entries = fault.translated().filter(|_| fault.rip == fault.address).map(|phys| (phys, Source::Entries));
    Some(place(rip, by_entries, fault.printer, ground))
}

fn place(address: u64, known: Option<(Pa, Source)>, printer: Printer, ground: Option<&Ground<'_>>) -> Place {
    let area = Area::of(address);
    let is_low = matches!(area, Area::Low | Area::PageZero);
    let identity = || (is_low && is_canonical(address)).then_some((Pa(address), Source::Identity));
    // Only Linux has Linux's layout.
    let by_map = || ground.filter(|_| printer == Printer::Linux)?.physical_in(address);
    let phys = known.or_else(identity).or_else(by_map);
    let held = phys.zip(ground);
    Place {
        address,
        area,
        phys,
        region: held.and_then(|((phys, _), ground)| ground.region_of(phys)),
        attributes: held.and_then(|((phys, _), ground)| ground.attributes_of(phys)),
    }
}

fn is_canonical(address: u64) -> bool {
    Paging { la57: true, ..Paging::default() }.is_canonical(Va(address))
}
