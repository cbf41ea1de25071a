//! A memory map as it stands, and where a layout puts its regions: nothing is run for it.
//!
//! | file | holds |
//! | --- | --- |
//! | `text` | how a person reads it |
//! | `json` | how a program does |

mod json;
mod text;

use std::collections::{BTreeMap, HashMap};

use efibed_guest::Layout;

pub use text::Text;
#[cfg(feature = "cli")]
pub(in crate::report) use text::kernel_lines;

use crate::check::{self, Contract, EntryRefusal, LeafCounts};
use crate::machine::MaxPhyAddr;
use crate::memory_map::{Agreement, KernelList, MemoryMap, MemoryType, PAGE_BYTES, Region, oddities};
use crate::mmu::{USUAL_MAXPHYADDR, Va};

/// A memory map, what is odd about it, and where a layout puts its regions.
///
/// ```
/// use efibed::report::map::MapReport;
/// use efibed::{Layout, MemoryMap};
///
/// let map = MemoryMap::parse("RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F")?;
/// let report = MapReport::new(&map, Layout::Linux, None);
/// assert_eq!(report.regions[0].fate.virt(), Some(0xffff_fffe_ffa3_4000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct MapReport<'a> {
    /// The map.
    pub map: &'a MemoryMap,
    /// The layout that was asked.
    pub layout: Layout,
    /// What it is held to.
    pub(in crate::report) contract: Contract,
    /// How many bits of physical address the CPU has.
    pub maxphyaddr: PhysWidth,
    /// The descriptor at which the layout gives up, and maps nothing at all.
    pub gives_up_at: Option<usize>,
    /// Every descriptor's region, in list order.
    pub regions: Vec<Placed>,
    /// What lies between regions and is none's, by physical address.
    pub holes: Vec<Range>,
    /// What is odd, in list order.
    pub oddities: Vec<Odd>,
    /// For each entry of the Memory Attributes Table, why Linux does not take it, if it does not.
    pub refusals: Vec<Option<EntryRefusal>>,
    /// Where a kernel's list of its memory disagrees, if there is one.
    pub kernel: Option<Agreement>,
}

/// Bits of physical address, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhysWidth {
    /// Somebody asked for so many.
    Asked(MaxPhyAddr),
    /// A guest on this machine has so many.
    Machine(MaxPhyAddr),
    /// Nothing is known: [`USUAL_MAXPHYADDR`].
    Assumed,
}

impl PhysWidth {
    /// Bits of a physical address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Asked(bits) | Self::Machine(bits) => bits.get(),
            Self::Assumed => USUAL_MAXPHYADDR,
        }
    }

    /// Whose, by a name that stays the same.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Asked(_) => "asked",
            Self::Machine(_) => "machine",
            Self::Assumed => "assumed",
        }
    }
}

impl From<Option<MaxPhyAddr>> for PhysWidth {
    fn from(asked: Option<MaxPhyAddr>) -> Self {
        asked.map_or(Self::Assumed, Self::Asked)
    }
}

/// A region, and what a layout does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The region.
    pub region: Region,
    /// What the layout does with it.
    pub fate: Fate,
    /// The first descriptor of those that layout `linux` merges into one with this, if there are several.
    pub merged_from: Option<usize>,
}

impl Placed {
    /// Whether it is merged with a descriptor before it in the list.
    pub fn continues_another(&self) -> bool {
        self.merged_from.is_some_and(|first| first != self.region.index)
    }
}

/// What a layout does with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It leaves the region out, because firmware does not need it.
    LeftOut,
    /// It maps the region here.
    At(u64),
    /// It maps the region here, which is outside of the addresses that it may use.
    Outside(u64),
    /// It finds no address: there is no room, or the map bears none where the layout takes the map's.
    NoAddress,
    /// No page table can hold it: it has physical addresses of more than 52 bits, or wraps.
    Impossible,
}

impl Fate {
    /// A name that stays the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeftOut => "left-out",
            Self::At(_) => "mapped",
            Self::Outside(_) => "outside-window",
            Self::NoAddress => "no-address",
            Self::Impossible => "impossible",
        }
    }

    /// The virtual address.
    pub fn virt(self) -> Option<u64> {
        match self {
            Self::At(virt) | Self::Outside(virt) => Some(virt),
            Self::LeftOut | Self::NoAddress | Self::Impossible => None,
        }
    }
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub first: u64,
    /// The last byte, in more bits than an address has: regions may wrap.
    pub last: u128,
}

impl Range {
    /// How many bytes it has.
    pub fn bytes(&self) -> u128 {
        self.last - u128::from(self.first) + 1
    }
}

/// One odd thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Odd {
    /// [`OddityKind::name`](crate::memory_map::OddityKind::name), or `past-maxphyaddr`, which depends on the CPU.
    pub kind: &'static str,
    /// The descriptor it is about, by its place in the list.
    pub index: usize,
    /// What an overlap is with, earlier in the list, and what both share.
    pub overlap: Option<(usize, Range)>,
    /// Whether it makes the map wrong: `efibed check` would find it.
    pub is_finding: bool,
    /// Whether it is about the map as a whole, and not about that descriptor.
    pub is_of_map: bool,
    /// One sentence for people.
    pub message: String,
}

/// Sums over a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Descriptors.
    pub descriptors: usize,
    /// Their pages; what several describe counts for each.
    pub pages: u128,
}

impl Sum {
    fn add(&mut self, region: &Region) {
        self.descriptors += 1;
        self.pages += u128::from(region.pages);
    }

    /// The pages in bytes.
    pub fn bytes(&self) -> u128 {
        self.pages * u128::from(PAGE_BYTES)
    }
}

/// What a layout makes of a map as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// What has an address in the layout's window.
    pub mapped: Sum,
    /// The first and the last virtual address.
    pub virt: Option<(u64, u64)>,
    /// The leaves it takes if a large one is used wherever virtual and physical address are both aligned to it.
    pub leaves: LeafCounts,
}

impl<'a> MapReport<'a> {
    /// Looks at a map, for a layout and a CPU.
    pub fn new(map: &'a MemoryMap, layout: Layout, maxphyaddr: impl Into<PhysWidth>) -> Self {
        let maxphyaddr = maxphyaddr.into();
        let contract = Contract::of(layout);
        Self {
            map,
            layout,
            maxphyaddr,
            gives_up_at: contract.gives_up_at(map),
            regions: placed(map, &contract),
            contract,
            holes: holes(map),
            oddities: odd(map, maxphyaddr.bits()),
            refusals: check::refusals(map),
            kernel: None,
        }
    }

    /// The same report, with a kernel's list of its memory beside the map.
    #[must_use]
    pub fn kernel_list(self, list: Option<KernelList>) -> Self {
        Self { kernel: list.map(|list| Agreement::new(self.map, list)), ..self }
    }

    /// The report as JSON, over many lines, with a newline at the end.
    pub fn to_json(&self) -> String {
        json::to_json(self)
    }

    /// The sum of some regions.
    pub fn sum(&self, is_meant: impl Fn(&Region) -> bool) -> Sum {
        let mut sum = Sum::default();
        self.map.regions().filter(is_meant).for_each(|region| sum.add(&region));
        sum
    }

    /// What there is of each type, by the type's number.
    pub fn types(&self) -> Vec<(MemoryType, Sum)> {
        let mut types = BTreeMap::<MemoryType, Sum>::new();
        self.map.regions().for_each(|region| types.entry(region.ty).or_default().add(&region));
        types.into_iter().collect()
    }

    /// The last byte of the highest of the regions that layouts map. One that wraps is none of them: it has no end.
    pub fn highest_mapped(&self) -> Option<u64> {
        self.map.regions().filter(Region::is_mapped).filter_map(|region| region.last()).max()
    }

    /// The regions by physical address, those with the same in list order.
    pub fn by_address(&self) -> Vec<&Placed> {
        let mut regions: Vec<_> = self.regions.iter().collect();
        regions.sort_by_key(|placed| placed.region.phys);
        regions
    }

    /// What the layout makes of the map as a whole.
    pub fn totals(&self) -> Use {
        let mut totals = Use::default();
        for Placed { region, fate, .. } in &self.regions {
            let Fate::At(virt) = *fate else { continue };
            totals.mapped.add(region);
            let (start, end) = page_range(virt, region);
            let (first, last) = totals.virt.unwrap_or((start, end));
            totals.virt = Some((first.min(start), last.max(end)));
        }
        for (virt, region) in self.pieces() {
            let leaves = leaves(virt, &region);
            totals.leaves.of_4k += leaves.of_4k;
            totals.leaves.of_2m += leaves.of_2m;
            totals.leaves.of_1g += leaves.of_1g;
        }
        totals
    }

    /// What is mapped, each piece at its address: a region, or as one those that are merged.
    fn pieces(&self) -> impl Iterator<Item = (u64, Region)> {
        let mut pieces = BTreeMap::<usize, (u64, Region)>::new();
        for Placed { region, fate, merged_from } in &self.regions {
            let Fate::At(virt) = *fate else { continue };
            let piece = pieces.entry(merged_from.unwrap_or(region.index));
            piece
                .and_modify(|(_, first)| first.pages = first.pages.saturating_add(region.pages))
                .or_insert((virt, *region));
        }
        pieces.into_values()
    }

    /// The virtual addresses that the map itself bears for what the layout maps.
    pub fn given(&self) -> Given {
        let has_one = |placed: &&Placed| placed.region.virt != 0 && placed.fate != Fate::LeftOut;
        let mut given = Given::default();
        for Placed { region, fate, .. } in self.regions.iter().filter(has_one) {
            given.count += 1;
            given.physical += usize::from(region.virt == region.phys);
            if fate.virt() != Some(region.virt) {
                given.others.push(region.index);
            }
        }
        given
    }
}

/// The virtual addresses that a map bears for what a layout maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Regions that have one.
    pub count: usize,
    /// How many are the physical ones.
    pub physical: usize,
    /// The descriptors for which the layout has another.
    pub others: Vec<usize>,
}

/// Types that are memory of some kind: not reserved, unusable, input/output or persistent.
pub fn is_memory(ty: MemoryType) -> bool {
    matches!(
        ty,
        MemoryType::LOADER_CODE
            | MemoryType::LOADER_DATA
            | MemoryType::BOOT_SERVICES_CODE
            | MemoryType::BOOT_SERVICES_DATA
            | MemoryType::RUNTIME_SERVICES_CODE
            | MemoryType::RUNTIME_SERVICES_DATA
            | MemoryType::CONVENTIONAL
            | MemoryType::ACPI_RECLAIM
            | MemoryType::ACPI_NON_VOLATILE
            | MemoryType::UNACCEPTED
    )
}

fn placed(map: &MemoryMap, contract: &Contract) -> Vec<Placed> {
    let addresses = contract.addresses(map);
    let window = contract.window();
    let merged = merged(map, contract);
    let gives_up = contract.gives_up_at(map).is_some();
    let fate = |region: &Region| match addresses.get(&region.index) {
        Some(_) if gives_up => Fate::NoAddress,
        Some(Some(virt)) => {
            let (first, last) = page_range(virt.0, region);
            let is_inside = first <= last && window.contains(&Va(first)) && window.contains(&Va(last));
            if is_inside { Fate::At(virt.0) } else { Fate::Outside(virt.0) }
        }
        Some(None) => Fate::NoAddress,
        None if contract.wants(region) => Fate::Impossible,
        None => Fate::LeftOut,
    };
    let placed =
        |region: Region| Placed { fate: fate(&region), merged_from: merged.get(&region.index).copied(), region };
    map.regions().map(placed).collect()
}

/// Descriptors that are merged with others, and the first of those.
fn merged(map: &MemoryMap, contract: &Contract) -> HashMap<usize, usize> {
    let groups = contract.merged(map).into_iter().filter(|merged| merged.parts.len() > 1);
    let indices = |parts: Vec<Region>| {
        let first = parts[0].index;
        parts.into_iter().map(move |part| (part.index, first))
    };
    groups.flat_map(|merged| indices(merged.parts)).collect()
}

/// The first and the last byte of a region's pages, where its first byte is at `virt`. A region that has an address has
/// pages, of physical addresses of 52 bits; at the end of all addresses it may wrap.
fn page_range(virt: u64, region: &Region) -> (u64, u64) {
    let first = virt.wrapping_sub(region.phys % PAGE_BYTES);
    (first, first.wrapping_add(region.pages.wrapping_mul(PAGE_BYTES).wrapping_sub(1)))
}

/// Aligned leaves of a region; a large one wherever both addresses are aligned to its size.
fn leaves(virt: u64, region: &Region) -> LeafCounts {
    let (first, _) = page_range(virt, region);
    let phys = region.phys - region.phys % PAGE_BYTES;
    let pages_of = |leaf_pages: u64| {
        let bytes = leaf_pages * PAGE_BYTES;
        let (start, end) = (phys / PAGE_BYTES, phys / PAGE_BYTES + region.pages);
        let whole = (end / leaf_pages).saturating_sub(start.div_ceil(leaf_pages));
        if first.wrapping_sub(phys).is_multiple_of(bytes) { whole } else { 0 }
    };
    let (of_1g, of_2m) = (pages_of(1 << 18), pages_of(1 << 9));
    LeafCounts { of_4k: region.pages - (of_2m << 9), of_2m: of_2m - (of_1g << 9), of_1g }
}

/// What no region has. Regions without pages have none of it.
fn holes(map: &MemoryMap) -> Vec<Range> {
    let mut regions: Vec<Region> = map.regions().filter(|region| region.pages > 0).collect();
    regions.sort_by_key(|region| region.phys);
    let mut holes = Vec::new();
    let mut reached: Option<u128> = None;
    for region in regions {
        let start = u128::from(region.phys);
        if let Some(end) = reached.filter(|end| *end < start)
            && let Ok(first) = u64::try_from(end)
        {
            holes.push(Range { first, last: start - 1 });
        }
        reached = Some(reached.unwrap_or(0).max(region.end()));
    }
    holes
}

fn odd(map: &MemoryMap, maxphyaddr: u8) -> Vec<Odd> {
    let regions: Vec<Region> = map.regions().collect();
    let of_map = oddities(map).into_iter().map(|oddity| Odd {
        kind: oddity.kind.name(),
        index: oddity.index,
        overlap: oddity.other.and_then(|other| Some((other, shared(regions.get(other)?, regions.get(oddity.index)?)?))),
        is_finding: oddity.kind.is_finding(),
        is_of_map: oddity.kind.is_of_map(),
        message: oddity.message,
    });
    let mut all: Vec<Odd> =
        of_map.chain(regions.iter().filter_map(|region| past_maxphyaddr(region, maxphyaddr))).collect();
    // Stable: what is wrong with one descriptor stays in the order in which it was found.
    all.sort_by_key(|odd| odd.index);
    all
}

/// What two regions share.
fn shared(one: &Region, other: &Region) -> Option<Range> {
    let (first, end) = (one.phys.max(other.phys), one.end().min(other.end()));
    (u128::from(first) < end).then(|| Range { first, last: end - 1 })
}

/// Whether the CPU can address a region. What it cannot and somebody maps is a finding.
fn past_maxphyaddr(region: &Region, maxphyaddr: u8) -> Option<Odd> {
    let is_past = region.pages > 0 && !region.wraps() && region.end() > 1_u128 << maxphyaddr.min(64);
    is_past.then(|| Odd {
        kind: PAST_MAXPHYADDR,
        index: region.index,
        overlap: None,
        is_finding: region.is_mapped(),
        is_of_map: false,
        message: format!(
            "descriptor {} ({}) ends at {:#x}, past the CPU's {maxphyaddr} bits of physical address",
            region.index,
            crate::memory_map::type_name(region.ty),
            region.end() - 1
        ),
    })
}

/// The kind of oddity that depends on the CPU.
pub const PAST_MAXPHYADDR: &str = "past-maxphyaddr";

#[cfg(test)]
mod tests;
