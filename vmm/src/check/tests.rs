//! From a contract to its findings, on tables made by hand.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::*;
use crate::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use crate::mmu::bits::{NX, P, PCD, PS, U, W};
use crate::mmu::{Level, Pa, Paging, TableMemory, Va};

const CODE: MemoryType = MemoryType::RUNTIME_SERVICES_CODE;
const DATA: MemoryType = MemoryType::RUNTIME_SERVICES_DATA;
const BOOT: MemoryType = MemoryType::BOOT_SERVICES_DATA;
const RUNTIME: MemoryAttribute = MemoryAttribute::RUNTIME;
const WB: MemoryAttribute = MemoryAttribute::WRITE_BACK;
const UC: MemoryAttribute = MemoryAttribute::UNCACHEABLE;

/// The regions' physical addresses, two pages each but one of the boot services.
const CODE_AT: u64 = 0x7e00_0000;
const DATA_AT: u64 = 0x7e10_0000;
const BOOT_AT: u64 = 0x7d00_0000;
/// Where the mapper puts all: this far from the physical addresses, where no built-in layout would.
const OFFSET: u64 = 0xffff_c000_0000_0000;
/// Leaves' flags.
const X: u64 = P | W;
const D: u64 = P | W | NX;
/// The kernel's own range: a large leaf.
const KERNEL: RangeInclusive<Va> = Va(0xffff_ffff_8000_0000)..=Va(0xffff_ffff_801f_ffff);

/// Page tables.
#[derive(Clone)]
struct Tables {
    entries: BTreeMap<u64, u64>,
    next: u64,
    told: Paging,
}

/// Where the tables lie: no leaf here maps that.
const ROOT: u64 = 0x40_0000_0000;

impl TableMemory for Tables {
    fn entry(&self, at: Pa) -> Option<u64> {
        Some(self.entries.get(&at.0).copied().unwrap_or(0))
    }
}

impl Tables {
    fn empty(told: Paging) -> Self {
        let tables = Self { entries: BTreeMap::new(), next: ROOT + PAGE_BYTES, told };
        tables.leaf(Level::Pde, KERNEL.start().0, 0x200_0000 | X | PS)
    }

    /// All as it should be.
    fn right() -> Self {
        Self::empty(Paging::default()).pages(OFFSET + CODE_AT, CODE_AT | X, 2).pages(OFFSET + DATA_AT, DATA_AT | D, 2)
    }

    /// Pages at consecutive addresses.
    fn pages(self, virt: u64, entry: u64, count: u64) -> Self {
        (0..count).map(|page| page * PAGE_BYTES).fold(self, |all, at| all.leaf(Level::Pte, virt + at, entry + at))
    }

    /// The entry of a level for an address, in place of the one that was there.
    fn leaf(mut self, leaf: Level, virt: u64, entry: u64) -> Self {
        let (mut at, mut level) = (ROOT, self.told.top_level());
        while level != leaf {
            let entry_at = level.entry_addr(Pa(at), Va(virt)).0;
            let table = *self.entries.entry(entry_at).or_insert_with(|| {
                self.next += PAGE_BYTES;
                // Whatever a leaf grants counts.
                (self.next - PAGE_BYTES) | P | W | U
            });
            at = table & !0xfff;
            level = level.below().unwrap();
        }
        self.entries.insert(level.entry_addr(Pa(at), Va(virt)).0, entry);
        self
    }
}

fn descriptor(ty: MemoryType, att: MemoryAttribute, phys_start: u64, page_count: u64) -> MemoryDescriptor {
    MemoryDescriptor { ty, att, phys_start, page_count, ..Default::default() }
}

/// The descriptors of the memory map.
fn regions() -> Vec<MemoryDescriptor> {
    vec![
        descriptor(BOOT, WB, BOOT_AT, 1),
        descriptor(CODE, RUNTIME | WB, CODE_AT, 2),
        descriptor(DATA, RUNTIME | WB | UC, DATA_AT, 2),
    ]
}

/// What is checked, and against what.
struct Case {
    contract: Contract,
    regions: Vec<MemoryDescriptor>,
    attributes: Vec<MemoryDescriptor>,
    /// What SetVirtualAddressMap is handed.
    virtual_map: Vec<MemoryDescriptor>,
    kind: ListKind,
    tables: Tables,
    /// The tables after phase `finish`.
    finished: Option<Tables>,
}

/// A rule, with the region, the address and the pages.
type Found = (Rule, Option<usize>, u64, u64);

impl Default for Case {
    /// RUNTIME alone is listed and mapped.
    fn default() -> Self {
        let listed = |d: &MemoryDescriptor| MemoryDescriptor { virt_start: OFFSET + d.phys_start, ..*d };
        Self {
            contract: Contract::default(),
            regions: regions(),
            attributes: Vec::new(),
            virtual_map: regions()[1..].iter().map(listed).collect(),
            kind: ListKind::Firmware,
            tables: Tables::right(),
            finished: None,
        }
    }
}

impl Case {
    fn of(tables: Tables) -> Self {
        Self { tables, ..Self::default() }
    }

    fn under(contract: Contract, tables: Tables) -> Self {
        Self { contract, tables, ..Self::default() }
    }

    /// Boot services are listed too, with that VirtualStart.
    fn listing_boot_services(self, virt_start: u64) -> Self {
        let boot = MemoryDescriptor { virt_start, ..self.regions[0] };
        Self { virtual_map: [vec![boot], self.virtual_map].concat(), ..self }
    }

    fn found(&self) -> Vec<Found> {
        let map = MemoryMap::from_descriptors("test", self.regions.clone()).with_kind(self.kind);
        let map = map.with_attributes_table(self.attributes.clone());
        let question = Question {
            map: &map,
            contract: &self.contract,
            virtual_map: &self.virtual_map,
            virtual_map_at: &(Pa(0x5000)..Pa(0x5100)),
            told: &self.tables.told,
            nx: true,
            kernel: &[KERNEL],
        };
        let (mut marks, budget) = (Marks::default(), Budget::new(None));
        let expectation = Expectation::new(&question, &mut marks);
        let check = |expectation: Expectation, tables: &Tables, mut marks: Marks, phase| {
            let (memory, root, told): (&dyn TableMemory, _, _) = (tables, Pa(ROOT), &tables.told);
            let expectation = expectation.on(&super::RootedTables { memory, root, told }, &budget);
            let check = TableCheck {
                memory,
                root,
                kernel_root: root,
                reach: &(Pa(0)..Pa(u64::MAX)),
                kernel: &[KERNEL],
                told,
                expectation: &expectation,
                budget: &budget,
            };
            check.run(&mut marks);
            (expectation, marks.into_findings(phase, &map, None))
        };
        let (expectation, mut findings) = check(expectation, &self.tables, marks, Phase::Map);
        if let Some(finished) = &self.finished {
            findings.extend(check(expectation.finished(&question), finished, Marks::default(), Phase::Finish).1);
        }
        let found =
            |finding: &Finding| (finding.rule, finding.region, finding.virt.map_or(0, |virt| virt.0), finding.pages);
        findings.iter().map(found).collect()
    }
}

/// Regions by their places in the map.
const OF_BOOT: Option<usize> = Some(0);
const OF_CODE: Option<usize> = Some(1);
const OF_DATA: Option<usize> = Some(2);

#[test]
fn a_right_mapping_at_any_address_is_clean() {
    assert_eq!(Case::default().found(), []);
    let low = 0x12_3456_7000;
    let mut case = Case::of(Tables::right().pages(OFFSET + DATA_AT, 0, 2).pages(low, DATA_AT | D, 2));
    case.virtual_map[1].virt_start = low;
    assert_eq!(case.found(), []);
}

#[test]
fn a_runtime_region_that_is_not_listed_is_found_and_so_is_one_that_is_not_mapped() {
    let mut case = Case::of(Tables::right().pages(OFFSET + DATA_AT, 0, 2));
    assert_eq!(case.found(), [(Rule::NotPresent, OF_DATA, OFFSET + DATA_AT, 2)]);
    case.virtual_map.pop();
    assert_eq!(case.found(), [(Rule::NotMapped, OF_DATA, 0, 2)]);
}

#[test]
fn a_wrong_frame_is_found() {
    let second = OFFSET + CODE_AT + PAGE_BYTES;
    let found = Case::of(Tables::right().pages(second, 0x7000_0000 | X, 1)).found();
    assert_eq!(found, [(Rule::WrongFrame, OF_CODE, second, 1)]);
}

#[test]
fn a_stray_page_is_found_in_either_half() {
    for virt in [0, 0x1000, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, OFFSET + DATA_AT + 0x2000, !0xfff] {
        let tables = Tables::right().pages(virt, 0x7000_0000 | D, 1);
        assert_eq!(Case::of(tables.clone()).found(), [(Rule::StrayMapping, None, virt, 1)], "{virt:#x}");
        // Outside of the arena nobody looks.
        let arena = Va(OFFSET)..=Va(OFFSET + 0xffff_ffff);
        let contract = Contract::default().arenas([Arena::Range(arena.clone())]);
        assert_eq!(Case::under(contract, tables).found().is_empty(), !arena.contains(&Va(virt)), "{virt:#x}");
    }
}

#[test]
fn the_halves_are_as_wide_as_the_cpus_addresses() {
    let five = Paging { la57: true, ..Paging::default() };
    let right = || {
        let tables = Tables::empty(five).pages(OFFSET + CODE_AT, CODE_AT | X, 2);
        tables.pages(OFFSET + DATA_AT, DATA_AT | D, 2)
    };
    assert_eq!(Case::of(right()).found(), []);
    for virt in [0x00ff_ffff_ffff_f000, 0xff00_0000_0000_0000] {
        let found = Case::of(right().pages(virt, 0x7000_0000 | D, 1)).found();
        assert_eq!(found, [(Rule::StrayMapping, None, virt, 1)]);
    }
}

#[test]
fn the_kernels_own_ranges_are_neither_strays_nor_free() {
    let mut case = Case::of(Tables::right().pages(OFFSET + CODE_AT, 0, 2));
    case.virtual_map[0].virt_start = KERNEL.start().0;
    let rules: Vec<_> = case.found().iter().map(|found| (found.0, found.1)).collect();
    assert!(rules.contains(&(Rule::KernelOverlap, OF_CODE)), "{rules:?}");
    // Off limits by the contract.
    let contract = Contract::default().off_limits([Va(OFFSET)..=Va(OFFSET + CODE_AT)]);
    let found = Case::under(contract, Tables::right()).found();
    assert_eq!(found, [(Rule::KernelOverlap, OF_CODE, OFFSET + CODE_AT, 2)]);
}

#[test]
fn a_region_outside_of_the_arenas_is_found() {
    for (arenas, is_inside) in [
        (vec![Arena::LowHalf], false),
        (vec![Arena::LowHalf, Arena::HighHalf], true),
        (vec![Arena::LowHalf, Arena::Range(Va(OFFSET)..=Va(OFFSET + DATA_AT + 0x1fff))], true),
        (vec![Arena::Range(Va(OFFSET)..=Va(OFFSET + DATA_AT + 0xfff))], false),
    ] {
        let found = Case::under(Contract::default().arenas(arenas.clone()), Tables::right()).found();
        assert_eq!(found.is_empty(), is_inside, "{arenas:?}: {found:?}");
        assert!(found.iter().all(|found| found.0 == Rule::OutsideArena), "{arenas:?}: {found:?}");
    }
}

#[test]
fn a_listed_descriptor_of_boot_services_may_be_mapped_and_need_not() {
    let virt = OFFSET + BOOT_AT;
    let mapped = |entry| Tables::right().pages(virt, entry, 1);
    let listed = |tables| Case::of(tables).listing_boot_services(virt);
    assert_eq!(listed(mapped(BOOT_AT | D)).found(), []);
    assert_eq!(listed(mapped(BOOT_AT | P)).found(), [], "not even writable");
    assert_eq!(listed(Tables::right()).found(), [], "not mapped");
    assert_eq!(listed(mapped(0x7000_0000 | D)).found(), [(Rule::WrongFrame, OF_BOOT, virt, 1)]);
    assert_eq!(listed(mapped(BOOT_AT | D | U)).found(), [(Rule::UserAccessible, OF_BOOT, virt, 1)]);
    assert_eq!(listed(mapped(BOOT_AT | D | PCD)).found(), [(Rule::CacheType, OF_BOOT, virt, 1)]);
    assert_eq!(Case::of(mapped(BOOT_AT | D)).found(), [(Rule::StrayMapping, None, virt, 1)], "not listed");
    // A mapper that has to map what it lists.
    let all = Contract::default().regions(Regions::RuntimeAndBootServices);
    let owed = |tables| Case::under(all.clone(), tables).listing_boot_services(virt).found();
    assert_eq!(owed(mapped(BOOT_AT | D)), []);
    assert_eq!(owed(Tables::right()), [(Rule::NotPresent, OF_BOOT, virt, 1)]);
}

#[test]
fn listed_descriptors_that_nobody_gave_an_address_claim_nothing() {
    // Not canonical, on the kernel, on another region, and 0, as firmware leaves it.
    for virt in [1 << 63, KERNEL.start().0, OFFSET + CODE_AT, 0] {
        assert_eq!(Case::default().listing_boot_services(virt).found(), [], "{virt:#x}");
    }
    // A page at 0 must be the one that is listed there, or the one that is there 1:1.
    let case = |entry| Case {
        regions: [regions(), vec![descriptor(BOOT, WB, 0, 1)]].concat(),
        ..Case::under(Contract::default().identity(Term::Allowed), Tables::right().pages(0, entry, 1))
    };
    for (entry, found) in
        [(D, vec![]), (BOOT_AT | D, vec![]), (0x7000_0000 | D, vec![(Rule::WrongFrame, OF_BOOT, 0, 1)])]
    {
        assert_eq!(case(entry).listing_boot_services(0).found(), found, "{entry:#x}");
    }
}

#[test]
fn a_listed_descriptor_without_pages_is_wrong_only_where_all_that_is_listed_is_mapped() {
    let found = |contract| {
        let mut case = Case::under(contract, Tables::right());
        case.regions.push(descriptor(DATA, RUNTIME | WB, 0x7c00_0000, 0));
        case.virtual_map.push(MemoryDescriptor { virt_start: OFFSET, ..case.regions[3] });
        case.found()
    };
    assert_eq!(found(Contract::default()), []);
    assert_eq!(found(Contract::default().regions(Regions::Runtime)), [(Rule::VirtualMap, Some(3), 0, 0)]);
}

#[test]
fn a_cache_type_is_wrong_only_where_the_descriptor_does_not_name_it() {
    let found = |attribute, cache| {
        let mut case = Case::of(Tables::right().pages(OFFSET + DATA_AT, DATA_AT | D | cache, 2));
        case.regions[2].att = RUNTIME | attribute;
        case.virtual_map[1].att = RUNTIME | attribute;
        case.found()
    };
    let wrong = [(Rule::CacheType, OF_DATA, OFFSET + DATA_AT, 2)];
    assert_eq!((found(WB | UC, PCD), found(WB | UC, 0)), (vec![], vec![]));
    assert_eq!((found(UC, PCD), found(UC, 0)), (vec![], wrong.to_vec()));
    assert_eq!((found(WB, 0), found(WB, PCD)), (vec![], wrong.to_vec()));
    assert_eq!((found(MemoryAttribute::empty(), 0), found(MemoryAttribute::empty(), PCD)), (vec![], vec![]));
    // By another rule the same leaf is wrong.
    let strict = Contract::default().cache(CacheRule::WriteBackOrUncached);
    let uncached = Tables::right().pages(OFFSET + DATA_AT, DATA_AT | D | PCD, 2);
    assert_eq!(Case::under(strict, uncached).found(), wrong);
}

#[test]
fn an_alias_at_physical_addresses_is_a_stray_unless_the_contract_allows_it() {
    let with = |entry| Tables::right().pages(CODE_AT, entry, 1);
    let strays = |virt| vec![(Rule::StrayMapping, None, virt, 1)];
    assert_eq!(Case::of(with(CODE_AT | X)).found(), strays(CODE_AT));
    let allowing = |term, tables| Case::under(Contract::default().identity(term), tables).found();
    assert_eq!(allowing(Term::Allowed, Tables::right()), []);
    assert_eq!(allowing(Term::Allowed, with(CODE_AT | X)), []);
    assert_eq!(allowing(Term::Allowed, with(CODE_AT | P | NX)), [], "neither writable nor executable");
    assert_eq!(allowing(Term::Allowed, with(DATA_AT | X)), [(Rule::WrongFrame, OF_CODE, CODE_AT, 1)]);
    assert_eq!(allowing(Term::Allowed, with(CODE_AT | X | U)), [(Rule::UserAccessible, OF_CODE, CODE_AT, 1)]);
    // Boot services' too, listed or not, and nothing else in the lower half.
    let boot = Tables::right().pages(BOOT_AT, BOOT_AT | D, 1);
    assert_eq!(allowing(Term::Allowed, boot.clone()), []);
    assert_eq!(Case::of(boot).found(), strays(BOOT_AT));
    assert_eq!(allowing(Term::Allowed, Tables::right().pages(0x7000_0000, 0x7000_0000 | D, 1)), strays(0x7000_0000));
    // So it is where regions' own addresses are all in the upper half.
    let high = Contract::default().arenas([Arena::HighHalf]);
    let stray = Tables::right().pages(0x7000_0000, 0x7000_0000 | D, 1);
    assert_eq!(Case::under(high.clone(), stray.clone()).found(), []);
    assert_eq!(Case::under(high.identity(Term::Allowed), stray).found(), strays(0x7000_0000));
    // Owed, it is missed where it is not.
    let owing = allowing(Term::Owed, with(CODE_AT | X));
    let missing = [(Rule::NotPresent, OF_CODE, CODE_AT + PAGE_BYTES, 1), (Rule::NotPresent, OF_DATA, DATA_AT, 2)];
    assert_eq!(owing, missing);
    let all = Tables::right().pages(CODE_AT, CODE_AT | X, 2).pages(DATA_AT, DATA_AT | D, 2);
    assert_eq!(allowing(Term::Owed, all), []);
}

#[test]
fn page_zero_and_the_virtual_map_may_be_mapped_where_the_contract_allows_it() {
    let of_page = |virt, change: fn(Contract, Term) -> Contract| {
        for (term, is_mapped, rule) in [
            (Term::Forbidden, false, None),
            (Term::Forbidden, true, Some(Rule::StrayMapping)),
            (Term::Allowed, false, None),
            (Term::Allowed, true, None),
            (Term::Owed, false, Some(Rule::NotPresent)),
            (Term::Owed, true, None),
        ] {
            let tables = Tables::right().pages(virt, if is_mapped { virt | D } else { 0 }, 1);
            let found = Case::under(change(Contract::default(), term), tables).found();
            let expected: Vec<Found> = rule.map(|rule| (rule, None, virt, 1)).into_iter().collect();
            assert_eq!(found, expected, "{virt:#x}, {term:?}, {is_mapped}");
        }
    };
    of_page(0, Contract::page_zero);
    of_page(0x5000, Contract::virtual_map);
}

#[test]
fn firmware_can_write_and_code_can_be_executed_and_ring_3_can_neither() {
    let (code, data) = (OFFSET + CODE_AT, OFFSET + DATA_AT);
    let at = |virt, entry| Case::of(Tables::right().pages(virt, entry, 2)).found();
    assert_eq!(at(code, CODE_AT | D), [(Rule::NotExecutable, OF_CODE, code, 2)]);
    assert_eq!(at(code, CODE_AT | P), [(Rule::NotWritable, OF_CODE, code, 2)]);
    assert_eq!(at(data, DATA_AT | P | NX), [(Rule::NotWritable, OF_DATA, data, 2)]);
    assert_eq!(at(data, DATA_AT | D | U), [(Rule::UserAccessible, OF_DATA, data, 2)]);
    assert_eq!(at(data, DATA_AT | X), [], "data may be executable");
    let executable = Tables::right().pages(data, DATA_AT | X, 2);
    let strict = Contract::default().executable_data(Term::Forbidden);
    assert_eq!(Case::under(strict.clone(), executable).found(), [(Rule::ExecutableData, OF_DATA, data, 2)]);
    assert_eq!(Case::under(strict, Tables::right()).found(), []);
}

#[test]
fn pages_may_be_as_strict_as_the_attributes_table_and_no_stricter() {
    let att = |ty, phys, att| descriptor(ty, RUNTIME | att, phys, 1);
    let (ro, xp) = (MemoryAttribute::READ_ONLY, MemoryAttribute::EXECUTE_PROTECT);
    let attributes = vec![att(CODE, CODE_AT, ro), att(CODE, CODE_AT + PAGE_BYTES, xp)];
    let [first, second] = [OFFSET + CODE_AT, OFFSET + CODE_AT + PAGE_BYTES];
    let strict = |tables: Tables| tables.pages(first, CODE_AT | P, 1).pages(second, (CODE_AT + PAGE_BYTES) | D, 1);
    let under = |contract, attributes: &[MemoryDescriptor], tables, finished| {
        let attributes = attributes.to_vec();
        Case { attributes, finished, ..Case::under(contract, tables) }.found()
    };
    let default = Contract::default;
    assert_eq!(under(default(), &attributes, Tables::right(), None), []);
    assert_eq!(under(default(), &attributes, strict(Tables::right()), Some(strict(Tables::right()))), []);
    let swapped = Tables::right().pages(first, CODE_AT | D, 1).pages(second, (CODE_AT + PAGE_BYTES) | P, 1);
    let too_strict = [(Rule::NotWritable, OF_CODE, second, 1), (Rule::NotExecutable, OF_CODE, first, 1)];
    assert_eq!(under(default(), &attributes, swapped, None), too_strict);
    assert_eq!(under(default(), &[], strict(Tables::right()), None).len(), 2, "no table says so");
    let ignored = default().attributes_table(Term::Forbidden);
    assert_eq!(under(ignored, &attributes, strict(Tables::right()), None).len(), 2, "the table is not to be applied");
    // Owed: not before the call, and in full after it.
    let owed = || default().attributes_table(Term::Owed);
    assert_eq!(under(owed(), &attributes, Tables::right(), Some(strict(Tables::right()))), []);
    assert_eq!(under(owed(), &attributes, strict(Tables::right()), None).len(), 2);
    let not_applied = [(Rule::NotReadOnly, OF_CODE, first, 1), (Rule::ExecutableData, OF_CODE, second, 1)];
    assert_eq!(under(owed(), &attributes, Tables::right(), Some(Tables::right())), not_applied);
}

#[test]
fn boot_services_stay_or_go_as_the_contract_says() {
    let virt = OFFSET + BOOT_AT;
    let with = || Tables::right().pages(virt, BOOT_AT | D, 1);
    let found = |term, finished| {
        let contract = Contract::default().regions(Regions::RuntimeAndBootServices).boot_services(term);
        let case = Case { finished: Some(finished), ..Case::under(contract, with()) };
        case.listing_boot_services(virt).found()
    };
    let (gone, kept) = (Tables::right, with);
    assert_eq!((found(Term::Owed, kept()), found(Term::Allowed, kept())), (vec![], vec![]));
    assert_eq!(found(Term::Forbidden, kept()), [(Rule::StrayMapping, OF_BOOT, virt, 1)]);
    assert_eq!((found(Term::Forbidden, gone()), found(Term::Allowed, gone())), (vec![], vec![]));
    assert_eq!(found(Term::Owed, gone()), [(Rule::NotPresent, OF_BOOT, virt, 1)]);
    // Nobody has to be able to write to what nobody has to map.
    let read_only = Tables::right().pages(virt, BOOT_AT | P, 1);
    assert_eq!(found(Term::Allowed, read_only.clone()), []);
    assert_eq!(found(Term::Owed, read_only), [(Rule::NotWritable, OF_BOOT, virt, 1)]);
    // What was only allowed may come and go, until it has to.
    let found = |contract, finished| {
        let case = Case { finished: Some(finished), ..Case::under(contract, with()) };
        case.listing_boot_services(virt).found()
    };
    assert_eq!((found(Contract::default(), gone()), found(Contract::default(), kept())), (vec![], vec![]));
    let retired = Contract::default().boot_services(Term::Forbidden);
    assert_eq!(found(retired.clone(), gone()), []);
    assert_eq!(found(retired, kept()), [(Rule::StrayMapping, OF_BOOT, virt, 1)]);
    let elsewhere = Tables::right().pages(virt, 0x7000_0000 | D, 1);
    assert_eq!(found(Contract::default(), elsewhere), [(Rule::WrongFrame, OF_BOOT, virt, 1)]);
}

#[test]
fn a_large_leaf_is_right_only_where_both_addresses_agree_modulo_its_size() {
    let pages = 512;
    let found = |virt: u64, phys, entry| {
        let region = descriptor(DATA, RUNTIME | WB, phys, pages);
        let virtual_map = vec![MemoryDescriptor { virt_start: virt, ..region }];
        let tables = Tables::empty(Paging::default()).leaf(Level::Pde, virt, entry | D | PS);
        Case { regions: vec![region], virtual_map, ..Case::of(tables) }.found()
    };
    assert_eq!(found(OFFSET, 0x7e20_0000, 0x7e20_0000), []);
    assert_eq!(found(OFFSET, 0x7e29_0000, 0x7e29_0000), [(Rule::ReservedBit, Some(0), OFFSET, pages)]);
    assert_eq!(found(OFFSET, 0x7e29_0000, 0x7e20_0000), [(Rule::WrongFrame, Some(0), OFFSET, pages)]);
}

#[test]
fn a_closed_form_is_one_more_witness() {
    let offset_by = |offset: u64| Contract::default().closed_form(move |d| Some(d.phys_start + offset));
    assert_eq!(Case::under(offset_by(OFFSET), Tables::right()).found(), []);
    let [code, data] = [OFFSET + CODE_AT, OFFSET + DATA_AT];
    let wrong = [(Rule::WrongAddress, OF_CODE, code, 2), (Rule::WrongAddress, OF_DATA, data, 2)];
    assert_eq!(Case::under(offset_by(OFFSET + 0x1000), Tables::right()).found(), wrong);
    // It need not speak of all.
    let of_code = Contract::default().closed_form(|d| (d.ty == CODE).then_some(d.phys_start));
    assert_eq!(Case::under(of_code.clone(), Tables::right()).found(), wrong[..1]);
    assert!(format!("{of_code:?}").contains("closed_form: Some(of each descriptor)"));
}

#[test]
fn order_is_free_unless_the_contract_has_one() {
    let (code, data) = (OFFSET + 0x10_0000, OFFSET);
    let case_of = |contract, is_between: bool| {
        let tables =
            Tables::empty(Paging::default()).pages(code, CODE_AT | X, 2).pages(data, (CODE_AT + 0x2000) | D, 2);
        let mut case = Case::under(contract, tables);
        case.regions[2].phys_start = CODE_AT + 0x2000;
        case.virtual_map = vec![
            MemoryDescriptor { virt_start: code, ..case.regions[1] },
            MemoryDescriptor { virt_start: data, ..case.regions[2] },
        ];
        if is_between {
            case.regions.swap(0, 1);
        }
        case.found()
    };
    let case = |contract| case_of(contract, false);
    assert_eq!(case(Contract::default()), []);
    assert_eq!(case(Contract::default().rising(true)), [(Rule::WindowOrder, OF_DATA, data, 2)]);
    assert_eq!(case(Contract::default().contiguous_images(true)), [(Rule::NotContiguous, OF_DATA, data, 2)]);
    // Boot services lie between them in the list.
    assert_eq!(case_of(Contract::default().contiguous_images(true), true), []);
}

/// A list that a first kernel left is the last first. Two alike that follow one another in memory are one to Linux.
#[test]
fn a_list_of_a_first_kernels_is_read_backwards_but_for_what_linux_merges() {
    let low = OFFSET;
    let case_of = |physical: [u64; 2], virtual_starts: [u64; 2], is_between: bool| {
        let tables = [0, 1]
            .into_iter()
            .fold(Tables::empty(Paging::default()), |tables, at| tables.pages(virtual_starts[at], physical[at] | D, 1));
        let contract = Contract::default().rising(true).contiguous_images(true);
        let mut case = Case { kind: ListKind::Runtime, ..Case::under(contract, tables) };
        case.regions = physical.map(|phys| descriptor(DATA, RUNTIME | WB, phys, 1)).to_vec();
        case.virtual_map =
            [0, 1].map(|at| MemoryDescriptor { virt_start: virtual_starts[at], ..case.regions[at] }).to_vec();
        if is_between {
            case.regions.insert(1, descriptor(MemoryType::LOADER_DATA, WB, 0x100_0000, 1));
        }
        case.found().into_iter().map(|(rule, ..)| rule).collect::<Vec<_>>()
    };
    let case = |physical, virtual_starts| case_of(physical, virtual_starts, false);
    let [neighbours, strangers] = [[DATA_AT, DATA_AT + PAGE_BYTES], [DATA_AT, DATA_AT + 2 * PAGE_BYTES]];
    let [up, down] = [[low, low + PAGE_BYTES], [low + PAGE_BYTES, low]];
    assert_eq!(case(neighbours, up), []);
    assert_eq!(case(neighbours, down), [Rule::WindowOrder, Rule::NotContiguous]);
    assert_eq!(case(strangers, down), []);
    assert_eq!(case(strangers, up), [Rule::WindowOrder]);
    // To Linux what lies between them in the list keeps them apart, mapped or not.
    assert_eq!(case_of(neighbours, down, true), []);
    assert_eq!(case_of(neighbours, up, true), [Rule::WindowOrder]);
}

#[test]
fn regions_that_overlap_are_found() {
    let mut case = Case::of(Tables::right());
    case.virtual_map[1].virt_start = OFFSET + CODE_AT + PAGE_BYTES;
    let rules: Vec<_> = case.found().iter().map(|found| (found.0, found.1)).collect();
    assert!(rules.contains(&(Rule::RegionOverlap, OF_DATA)), "{rules:?}");
}

/// One whole 1:1 alias is allowed, and the tables have it in pieces of different rights: it is one alias in the report.
#[test]
fn what_is_allowed_is_expected_as_far_as_the_tables_have_it() {
    let told = Paging::default();
    let map = MemoryMap::from_descriptors("test", vec![descriptor(DATA, RUNTIME | WB, DATA_AT, 8)]);
    let virtual_map = [MemoryDescriptor { virt_start: OFFSET + DATA_AT, ..map.descriptors()[0] }];
    let contract = Contract::default().identity(Term::Allowed);
    let question = Question {
        map: &map,
        contract: &contract,
        virtual_map: &virtual_map,
        virtual_map_at: &(Pa(0)..Pa(0)),
        told: &told,
        nx: true,
        kernel: &[],
    };
    let expectation = Expectation::new(&question, &mut Marks::default());
    let on = |tables: &Tables, budget: &Budget| {
        let tables = super::RootedTables { memory: tables, root: Pa(ROOT), told: &told };
        let Expectation { placed, aliases, .. } = expectation.clone().on(&tables, budget);
        let part = |alias: &Alias| (alias.role == Role::Physical).then_some((alias.virt, alias.pages));
        (placed.len(), aliases.iter().filter_map(part).collect::<Vec<_>>())
    };
    let pieces = Tables::right().pages(DATA_AT, DATA_AT | D, 2).pages(DATA_AT + 0x2000, (DATA_AT + 0x2000) | X, 2);
    let pieces = pieces.pages(DATA_AT + 0x6000, (DATA_AT + 0x6000) | D, 2);
    assert_eq!(on(&Tables::right(), &Budget::new(None)), (1, vec![]));
    assert_eq!(on(&pieces, &Budget::new(None)), (2, vec![(Va(DATA_AT), 4), (Va(DATA_AT + 0x6000), 2)]));
    // The search has its share of the run's budget, and a cut shows in it.
    let budget = Budget::of(1 << 20, 1, None);
    assert_eq!(on(&pieces, &budget), (2, vec![(Va(DATA_AT), 2)]));
    assert!(budget.cut().is_some());
}
