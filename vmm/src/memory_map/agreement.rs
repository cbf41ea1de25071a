//! Whether a kernel takes memory for what its firmware says it is.
//!
//! Expected is what Linux's boot stub makes of the map ([`E820Type::of`]); GRUB and a BIOS's compatibility module do the same.

use super::compare::{Joint, Pieces, joined, laid, pieces};
use super::{
    E820Type, KernelList, KernelListKind, KernelUse, ListKind, MemoryMap, MemoryType, PAGE_BYTES, Region, Said,
};

/// Where a map and a kernel's list disagree.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The kernel's list.
    pub list: KernelList,
    /// Every range of which they say different things, by address.
    pub disagreements: Vec<Disagreement>,
    /// Ranges of usable memory that every kernel keeps to itself or cannot use: pages of the first 64 KiB, what lies below 1 MiB
    /// for old devices, and parts of pages. Starts, and ends, which are exclusive.
    pub own_cuts: Vec<(u128, u128)>,
}

/// A range of which they say different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The first address.
    pub start: u128,
    /// The end, exclusive.
    pub end: u128,
    /// What the map says; None: nothing.
    pub map: Option<MapSays>,
    /// What the kernel takes it for; None: it does not know of it.
    pub kernel: Option<KernelUse>,
    /// How bad that is.
    pub weight: Weight,
    /// What it breaks.
    pub breaks: &'static str,
}

impl Disagreement {
    /// Its size in bytes.
    pub fn bytes(&self) -> u128 {
        self.end.saturating_sub(self.start)
    }
}

/// What a map says of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapSays {
    /// The kernel's to use, once it has left boot services.
    Usable,
    /// Something else.
    Other(Said),
}

/// How bad a disagreement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Memory is lost, or something that firmware offers.
    Mild,
    /// Somebody writes to what is another's.
    Dangerous,
}

efibed_stub::names! {
    Weight, "weight of a disagreement":
    Mild "mild",
    Dangerous "dangerous",
}

impl Agreement {
    /// Compares them. What is no whole map says nothing of what it leaves out.
    pub fn new(map: &MemoryMap, list: KernelList) -> Self {
        let is_whole = map.kind() == ListKind::Firmware && map.partial().is_none();
        let (mut disagreements, mut own_cuts) = (Vec::new(), Vec::new());
        for joint in joined(&pieces(map, says), &taken(&list), &LOW) {
            if is_own_cut(joint) {
                own_cuts.push((joint.start, joint.end));
                continue;
            }
            let Joint { start, end, one: map, other } = joint;
            let kernel = match other {
                Some(Held::Rounded) => continue,
                Some(Held::By(takes)) => Some(takes),
                None => None,
            };
            let is_told = map.is_some() || is_whole;
            let found = rule(list.kind, map, kernel).filter(|_| is_told);
            disagreements.extend(found.map(|rule| {
                let Rule { weight, breaks, .. } = *rule;
                Disagreement { start, end, map, kernel, weight, breaks }
            }));
        }
        Self { list, disagreements, own_cuts }
    }

    /// Whether somebody writes to what is another's.
    pub fn is_dangerous(&self) -> bool {
        self.disagreements.iter().any(|range| range.weight == Weight::Dangerous)
    }
}

/// Below 1 MiB: the end of the 64 KiB that Linux keeps from itself, as BIOSes write there (`X86_RESERVE_LOW`), and
/// the borders of what old devices have (`trim_bios_range()` of arch/x86/kernel/setup.c).
const LOW: [u128; 3] = [0x1_0000, BIOS_BEGIN, BIOS_END];
const BIOS_BEGIN: u128 = 0xa_0000;
const BIOS_END: u128 = 0x10_0000;

/// What a kernel holds of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    By(KernelUse),
    /// Usable, and a part of a page of which another part is not.
    Rounded,
}

fn is_own_cut(joint: Joint<MapSays, Held>) -> bool {
    let is_usable = Some(Held::By(KernelUse::E820(E820Type::Usable)));
    let is_lost = joint.one == Some(MapSays::Usable) && joint.other != is_usable;
    let is_rounded = joint.other == Some(Held::Rounded);
    let is_low = joint.end <= LOW[0] || (BIOS_BEGIN <= joint.start && joint.end <= BIOS_END);
    is_lost && (is_low || is_rounded || joint.end.saturating_sub(joint.start) < PAGE_BYTES.into())
}

fn says(region: &Region) -> Option<MapSays> {
    Some(match E820Type::of(region) {
        Some(E820Type::Usable) => MapSays::Usable,
        _ => MapSays::Other(Said { ty: region.ty, attribute: region.attribute }),
    })
}

/// What the kernel takes memory for, from each address on. It uses whole pages only (`memblock_trim_memory()`).
fn taken(list: &KernelList) -> Pieces<Held> {
    const PAGE: u128 = PAGE_BYTES as u128;
    let end = |last: u64| u128::from(last).saturating_add(1);
    let rows = laid(list.rows.iter().map(|row| (row.first.into(), end(row.last), Some(row.takes))));
    let runs = joined(&rows, &Pieces::<()>::new(), &[]).into_iter();
    laid(runs.flat_map(|Joint { start, end, one, .. }| {
        let held = one.map(Held::By);
        let whole = match one {
            Some(KernelUse::E820(E820Type::Usable)) => (start.next_multiple_of(PAGE), end & !(PAGE.saturating_sub(1))),
            _ => (start, end),
        };
        let rounded = (start, end, if (start, end) == whole { held } else { Some(Held::Rounded) });
        [Some(rounded), (whole.0 < whole.1).then_some((whole.0, whole.1, held))].into_iter().flatten()
    }))
}

/// What something is to firmware, by what would come of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Runtime,
    Firmware,
    Device,
    AcpiTables,
    AcpiState,
    Broken,
    Persistent,
    Special,
    Unaccepted,
    Free,
    Nobody,
}

impl Owner {
    fn of(said: Option<MapSays>) -> Self {
        let said = match said {
            None => return Self::Nobody,
            Some(MapSays::Usable) => return Self::Free,
            Some(MapSays::Other(said)) => said,
        };
        match said.ty {
            MemoryType::MMIO | MemoryType::MMIO_PORT_SPACE => Self::Device,
            MemoryType::ACPI_RECLAIM => Self::AcpiTables,
            MemoryType::ACPI_NON_VOLATILE => Self::AcpiState,
            MemoryType::UNUSABLE => Self::Broken,
            MemoryType::PERSISTENT_MEMORY => Self::Persistent,
            MemoryType::UNACCEPTED => Self::Unaccepted,
            MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA => Self::Runtime,
            MemoryType::LOADER_CODE
            | MemoryType::LOADER_DATA
            | MemoryType::BOOT_SERVICES_CODE
            | MemoryType::BOOT_SERVICES_DATA
            | MemoryType::CONVENTIONAL => Self::Special,
            _ if said.is_runtime() => Self::Runtime,
            _ => Self::Firmware,
        }
    }
}

/// What a kernel does with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It hands it out, from boot on.
    Usable,
    /// It hands it out now, maybe not from boot on.
    UsableNow,
    Reserved,
    AcpiTables,
    AcpiState,
    Broken,
    Persistent,
    Special,
    Device,
    /// It knows nothing of it.
    Free,
}

impl Taken {
    fn of(list: KernelListKind, takes: Option<KernelUse>) -> Self {
        match takes {
            None => Self::Free,
            Some(KernelUse::Device) => Self::Device,
            Some(KernelUse::E820(ty)) => match ty {
                E820Type::Usable if list == KernelListKind::Iomem => Self::UsableNow,
                E820Type::Usable => Self::Usable,
                E820Type::Reserved => Self::Reserved,
                E820Type::AcpiData => Self::AcpiTables,
                E820Type::AcpiNvs => Self::AcpiState,
                E820Type::Unusable => Self::Broken,
                E820Type::Persistent => Self::Persistent,
                E820Type::SoftReserved => Self::Special,
            },
        }
    }
}

/// What a disagreement means. What no rule is about is agreement.
struct Rule {
    owners: &'static [Owner],
    taken: &'static [Taken],
    weight: Weight,
    breaks: &'static str,
}

const fn dangerous(owners: &'static [Owner], taken: &'static [Taken], breaks: &'static str) -> Rule {
    Rule { owners, taken, weight: Weight::Dangerous, breaks }
}

const fn mild(owners: &'static [Owner], taken: &'static [Taken], breaks: &'static str) -> Rule {
    Rule { owners, taken, weight: Weight::Mild, breaks }
}

/// It is handed out.
const HANDED_OUT: &[Taken] = &[Taken::Usable, Taken::UsableNow];

/// The first that holds counts.
const RULES: [Rule; 17] = [
    dangerous(
        &[Owner::Runtime],
        HANDED_OUT,
        "the kernel hands out memory that runtime services go on using: each overwrites what is the other's",
    ),
    dangerous(
        &[Owner::Runtime, Owner::AcpiState, Owner::AcpiTables, Owner::Device],
        &[Taken::Persistent, Taken::Special],
        "the kernel offers it to drivers as memory (pmem, dax), and it is firmware's: each overwrites what is the other's",
    ),
    dangerous(&[Owner::Firmware], HANDED_OUT, "the kernel hands out memory that firmware keeps for itself"),
    dangerous(
        &[Owner::Device],
        HANDED_OUT,
        "the kernel takes a device's registers for memory: what it writes there goes to the device",
    ),
    dangerous(
        &[Owner::AcpiState],
        HANDED_OUT,
        "the kernel hands out memory in which firmware's ACPI code keeps its state: AML and a wake-up read what was written over it",
    ),
    dangerous(
        &[Owner::AcpiTables],
        HANDED_OUT,
        "the kernel hands out memory with ACPI's tables in it, before it is done with them: it reads them as long as it runs",
    ),
    dangerous(&[Owner::Broken], HANDED_OUT, "the kernel hands out memory in which firmware found errors"),
    dangerous(&[Owner::Persistent], HANDED_OUT, "the kernel writes over what is to last when power is off"),
    mild(
        &[Owner::Special],
        HANDED_OUT,
        "memory for a special purpose serves any: Linux before 5.5 does that, and any that is told efi=nosoftreserve",
    ),
    mild(
        &[Owner::Unaccepted],
        HANDED_OUT,
        "right only for a kernel that accepts memory before it touches it (CONFIG_UNACCEPTED_MEMORY); to another it is an exception",
    ),
    dangerous(
        &[Owner::Nobody],
        &[Taken::Usable],
        "by the map there is no memory: what is written there is lost, or reaches a device",
    ),
    mild(
        &[Owner::Nobody],
        &[Taken::UsableNow],
        "by the map there is no memory: it was added after boot, or there is none; the e820 table in the boot log tells",
    ),
    mild(
        &[Owner::Free, Owner::Special, Owner::Unaccepted],
        &[
            Taken::Reserved,
            Taken::AcpiTables,
            Taken::AcpiState,
            Taken::Broken,
            Taken::Persistent,
            Taken::Device,
            Taken::Free,
        ],
        "waste: the kernel does not use it",
    ),
    mild(&[Owner::Free], &[Taken::Special], "waste: it is kept for a special purpose that the map does not name"),
    mild(
        &[Owner::Runtime, Owner::Firmware, Owner::AcpiState, Owner::AcpiTables],
        &[Taken::Free],
        "the kernel takes the addresses for free, and may place a device's registers (a PCI BAR) over it",
    ),
    mild(
        &[Owner::AcpiState],
        &[Taken::Reserved, Taken::AcpiTables, Taken::Broken],
        "hibernation does not keep it: Linux saves what its e820 table calls ACPI NVS (acpi_nvs_register)",
    ),
    mild(
        &[Owner::Persistent],
        &[Taken::Reserved, Taken::AcpiTables, Taken::AcpiState, Taken::Broken, Taken::Special, Taken::Free],
        "the kernel does not offer it as persistent memory, unless ACPI's NFIT does",
    ),
];

fn rule(list: KernelListKind, map: Option<MapSays>, kernel: Option<KernelUse>) -> Option<&'static Rule> {
    let (owner, taken) = (Owner::of(map), Taken::of(list, kernel));
    RULES.iter().find(|rule| rule.owners.contains(&owner) && rule.taken.contains(&taken))
}

#[cfg(test)]
mod tests {
    use super::super::{KernelRow, MemoryAttribute, MemoryDescriptor};
    use super::*;

    const RAM: MemoryType = MemoryType::CONVENTIONAL;
    const WB: MemoryAttribute = MemoryAttribute::WRITE_BACK;

    /// A map of one descriptor of 16 pages at 1 MiB.
    fn map(ty: MemoryType, att: MemoryAttribute) -> MemoryMap {
        let descriptor = MemoryDescriptor { ty, att, phys_start: 0x10_0000, page_count: 16, ..Default::default() };
        MemoryMap::from_descriptors("", vec![descriptor])
    }

    fn list(kind: KernelListKind, rows: &[(u64, u64, KernelUse)]) -> KernelList {
        let rows = rows.iter().map(|&(first, last, takes)| KernelRow { first, last, takes }).collect();
        KernelList { source: String::new(), kind, line: 1, rows, has_beginning: true, others: Vec::new() }
    }

    fn weights(map: &MemoryMap, list: KernelList) -> Vec<(u128, u128, Weight)> {
        let agreement = Agreement::new(map, list);
        agreement.disagreements.iter().map(|range| (range.start, range.end, range.weight)).collect()
    }

    /// Of the whole region.
    fn weight(ty: MemoryType, att: MemoryAttribute, takes: Option<KernelUse>) -> Option<Weight> {
        let rows = takes.map(|takes| (0x10_0000, 0x10_ffff, takes));
        let found = weights(&map(ty, att), list(KernelListKind::Bios, rows.as_slice()));
        assert!(found.iter().all(|&(start, end, _)| (start, end) == (0x10_0000, 0x11_0000)), "{found:x?}");
        found.first().map(|(_, _, weight)| *weight)
    }

    /// By UEFI 2.10, table 7-10 (memory type usage after ExitBootServices()), and `setup_e820()` of Linux.
    #[test]
    fn each_type_has_the_use_that_the_stub_gives_it_and_others_are_weighed() {
        use E820Type::{AcpiData, AcpiNvs, Persistent, Reserved, SoftReserved, Unusable, Usable};
        const BAD: Option<Weight> = Some(Weight::Dangerous);
        const MILD: Option<Weight> = Some(Weight::Mild);
        let runtime = MemoryAttribute::RUNTIME;
        let special = WB | MemoryAttribute::SPECIAL_PURPOSE;
        let types = [Usable, Reserved, AcpiData, AcpiNvs, Unusable, Persistent, SoftReserved];
        for (ty, att, expected, absent) in [
            (RAM, WB, [None, MILD, MILD, MILD, MILD, MILD, MILD], MILD),
            (MemoryType::BOOT_SERVICES_CODE, WB, [None, MILD, MILD, MILD, MILD, MILD, MILD], MILD),
            (RAM, special, [MILD, MILD, MILD, MILD, MILD, MILD, None], MILD),
            (MemoryType::RUNTIME_SERVICES_DATA, runtime, [BAD, None, None, None, None, BAD, BAD], MILD),
            (MemoryType::RESERVED, WB, [BAD, None, None, None, None, None, None], MILD),
            (MemoryType::RESERVED, runtime, [BAD, None, None, None, None, BAD, BAD], MILD),
            (MemoryType(0x7000_0001), WB, [BAD, None, None, None, None, None, None], MILD),
            (MemoryType::MMIO, runtime, [BAD, None, None, None, None, BAD, BAD], None),
            (MemoryType::ACPI_RECLAIM, WB, [BAD, None, None, None, None, BAD, BAD], MILD),
            (MemoryType::ACPI_NON_VOLATILE, WB, [BAD, MILD, MILD, None, MILD, BAD, BAD], MILD),
            (MemoryType::UNUSABLE, WB, [BAD, None, None, None, None, None, None], None),
            (MemoryType::PERSISTENT_MEMORY, WB, [BAD, MILD, MILD, MILD, MILD, None, MILD], MILD),
            (MemoryType::UNACCEPTED, WB, [MILD, MILD, MILD, MILD, MILD, MILD, None], MILD),
        ] {
            let found = types.map(|takes| weight(ty, att, Some(KernelUse::E820(takes))));
            assert_eq!((found, weight(ty, att, None)), (expected, absent), "{ty:?} {att:?}");
        }
    }

    #[test]
    fn a_part_of_a_runtime_region_that_is_handed_out_is_that_part() {
        let usable = KernelUse::E820(E820Type::Usable);
        let map = map(MemoryType::RUNTIME_SERVICES_CODE, MemoryAttribute::RUNTIME);
        let dangerous = |first, last| weights(&map, list(KernelListKind::Bios, &[(first, last, usable)]));
        let rest = |ranges: Vec<(u128, u128, Weight)>| {
            ranges.into_iter().filter(|range| range.2 == Weight::Dangerous).collect::<Vec<_>>()
        };
        assert_eq!(rest(dangerous(0x10_4000, 0x10_7fff)), [(0x10_4000, 0x10_8000, Weight::Dangerous)]);
        // Linux uses whole pages: of what begins and ends within a page, the part between.
        assert_eq!(rest(dangerous(0x10_4001, 0x10_7ffe)), [(0x10_5000, 0x10_7000, Weight::Dangerous)]);
        assert_eq!(rest(dangerous(0x10_4001, 0x10_5ffe)), []);
        // And of rows that meet within one, all.
        let meeting =
            list(KernelListKind::SetupData, &[(0x10_4000, 0x10_480f, usable), (0x10_4810, 0x10_4fff, usable)]);
        assert_eq!(rest(weights(&map, meeting)), [(0x10_4000, 0x10_5000, Weight::Dangerous)]);
    }

    #[test]
    fn what_every_kernel_cuts_off_is_no_disagreement() {
        let low = MemoryDescriptor { ty: RAM, att: WB, page_count: 0x200, ..Default::default() };
        let map = MemoryMap::from_descriptors("", vec![low]);
        let usable = KernelUse::E820(E820Type::Usable);
        let rows = [(0x1000, 0x9_fbff, usable), (0x10_0000, 0x1f_ffff, usable)];
        let agreement = Agreement::new(&map, list(KernelListKind::Bios, &rows));
        assert_eq!(
            (&agreement.disagreements[..], &agreement.own_cuts[..]),
            (&[][..], &[(0, 0x1000), (0x9_f000, 0x9_fc00), (0x9_fc00, 0xa_0000), (0xa_0000, 0x10_0000)][..])
        );
        // One page more is none of theirs.
        let found =
            weights(&map, list(KernelListKind::Bios, &[(0x1_1000, 0x9_dfff, usable), (0x10_1000, 0x1f_ffff, usable)]));
        assert_eq!(
            found,
            [
                (0x1_0000, 0x1_1000, Weight::Mild),
                (0x9_e000, 0xa_0000, Weight::Mild),
                (0x10_0000, 0x10_1000, Weight::Mild)
            ]
        );
    }

    #[test]
    fn memory_that_no_map_knows_is_dangerous_unless_it_may_have_come_after_boot() {
        let rows = [(0x10_0000, 0x1f_ffff, KernelUse::E820(E820Type::Usable))];
        let of = |kind, map: &MemoryMap| weights(map, list(kind, &rows));
        let whole = map(RAM, WB);
        assert_eq!(of(KernelListKind::Bios, &whole), [(0x11_0000, 0x20_0000, Weight::Dangerous)]);
        assert_eq!(of(KernelListKind::Iomem, &whole), [(0x11_0000, 0x20_0000, Weight::Mild)]);
        assert_eq!(of(KernelListKind::Bios, &whole.clone().marked_partial(Some("cut".into()))), []);
        assert_eq!(of(KernelListKind::Bios, &whole.with_kind(ListKind::Runtime)), []);
    }

    #[test]
    fn a_bus_may_have_what_no_memory_is_and_no_more() {
        let bus = [(0x10_0000, 0x10_ffff, KernelUse::Device)];
        let of = |ty, att| weights(&map(ty, att), list(KernelListKind::Iomem, &bus));
        assert_eq!(of(MemoryType::MMIO, MemoryAttribute::RUNTIME), []);
        assert_eq!(of(MemoryType::RESERVED, WB), []);
        assert_eq!(of(RAM, WB), [(0x10_0000, 0x11_0000, Weight::Mild)]);
    }
}
