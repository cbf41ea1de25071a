//! The walker engine: the same mapping code, without a machine.

use std::collections::BTreeSet;

use efibed::check::{Arena, Contract, Phase, Rule, Statement, Term, Witness};
use efibed::mapper::{Elsewhere, MapRequest, MapResult, Step, carry_out};
use efibed::memory_map::synthesize::{Class, Synthesis};
use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};
use efibed::mmu::{ErrorCode, Level, Va};
use efibed::report::map::{Fate, MapReport, Text};
use efibed::report::{Report, RunVerdict};
use efibed::{
    AddressSpace, CpuidRequest, EngineName, Layout, LayoutMapper, LeafRule, MapContext, MapError, Mapper, MaxPhyAddr,
    Moment, Pa, Progress, Scenario, Tamper, TestBed,
};
use efibed_tests::*;

fn run(scenario: &Scenario) -> Report {
    bed().run(&scenario.clone().engine(EngineName::Walker)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn it_says_that_no_mmu_was_asked() {
    let report = run(&scenario(OVMF_2013));
    report.assert_clean();
    assert_eq!((report.engine, report.probes.total, report.probes.pages_verified), (EngineName::Walker, 0, 0));
    assert_eq!(report.translate(0xffff_fffe_8080_0000), Some(Pa(0x80_0000)));
    assert_eq!(report.translate(0xffff_fffe_80ff_ffff), Some(Pa(0xff_ffff)));
    assert_eq!(report.translate(0xffff_fffe_8100_0000), None);
}

#[test]
fn a_translation_past_the_last_address_is_none() {
    let mut report = run(&scenario(OVMF_2013));
    let run = &mut report.runs[0];
    (run.pa, run.bytes) = (Pa(u64::MAX), 0x2000);
    let first = run.va.0;
    assert_eq!(report.translate(first), Some(Pa(u64::MAX)));
    assert_eq!(report.translate(first + 1), None);
    assert_eq!(report.translate(first - 1), None);
}

/// `show` goes by the closed form, the check by what the mapping code says.
#[test]
fn show_and_check_name_the_same_descriptors_without_room() {
    let boot =
        MemoryDescriptor { att: MemoryAttribute::WRITE_BACK, ..runtime(MemoryType::BOOT_SERVICES_DATA, 0, 0x10) };
    let of = |regions: &[(u64, u64)]| {
        let regions = regions.iter().map(|(phys, pages)| runtime(DATA, *phys, *pages));
        MemoryMap::from_descriptors("made", [boot].into_iter().chain(regions).collect())
    };
    let gib = 1 << 18;
    let made = [
        // Ends at 64 GiB, and a page past it; two ends alike.
        of(&[(0x10_0000_0000 - 0x1000, 1)]),
        of(&[(0x10_0000_0000, 1)]),
        of(&[(0x20_0000_0000, 2), (0x20_0000_1000, 1), (0x10_0000_0000, 1)]),
        // 4 GiB above -4 GiB, and a page more; all of the lower addresses.
        of(&[(1 << 32, 4 * gib - 0x10)]),
        of(&[(1 << 32, 4 * gib - 0xf), (1 << 40, 1)]),
        of(&[(1 << 32, 32 * gib), (1 << 40, 32 * gib), (1 << 41, 1)]),
    ];
    let maps = X86_MAPS.iter().chain(&TRUTH).chain(&[OVER_2G, OVER_64G, UBOOT_01, FREEBSD_LX2160A_01, PAST_MAXPHYADDR]);
    let mut gave_up = 0;
    for map in maps.map(|file| map(*file)).chain(made) {
        for layout in [Layout::Window, Layout::PackedDown, Layout::PackedUp, Layout::Linux] {
            let shown = MapReport::new(&map, layout, None);
            let report = run(&Scenario::new(map.clone()).layout(layout));
            let of_rule = report.findings.iter().filter(|finding| finding.rule == Rule::WindowOverflow);
            let found: BTreeSet<_> = of_rule.clone().filter_map(|finding| finding.region).collect();
            let name = format!("{} under {}", map.source(), layout.name());
            let Some(index) = shown.gives_up_at else {
                let without = shown.regions.iter().filter(|placed| placed.fate == Fate::NoAddress);
                assert_eq!(without.map(|placed| placed.region.index).collect::<BTreeSet<_>>(), found, "{name}");
                continue;
            };
            gave_up += 1;
            assert_eq!(found, BTreeSet::from([index]), "{name}");
            assert!(shown.regions.iter().all(|placed| placed.fate.virt().is_none()), "{name}");
            let said = Text::plain(&shown).to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(of_rule.clone().any(|finding| said.contains(&finding.message)), "{name}: {said}");
        }
    }
    assert!(gave_up >= 6, "{gave_up}");
}

#[test]
fn every_real_map_is_clean_under_window() {
    for map in TRUTH {
        run(&scenario(map)).assert_clean();
    }
}

#[test]
fn a_part_of_a_map_says_whose_virtual_addresses_it_has() {
    let says = |map| run(&scenario(map)).notes.iter().any(|note| note.contains("not that machine's own"));
    assert!(says(SUPERMICRO_01_PARTIAL));
    assert!(!says(Q35_2G));
}

#[test]
fn verdicts_are_those_of_the_guest() {
    let va_only = scenario(OVMF_2013).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly);
    let report = run(&va_only);
    assert_eq!(rules(&report), [Rule::ReservedBit]);
    for finding in &report.findings {
        assert_eq!((finding.error_code(), finding.witnesses.as_slice()), (Some(ErrorCode(9)), &[Witness::Walk][..]));
    }
    assert_eq!(rules(&run(&va_only.leaf_rule(LeafRule::VaOnlyMasked))), [Rule::WrongFrame]);
    let off = scenario(OFF_BY_PAGE).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly);
    assert_eq!(rules(&run(&off)), [Rule::WrongFrame, Rule::CacheType]);
    assert_eq!(rules(&run(&scenario(OVER_2G).layout(Layout::PackedUp))), [Rule::KernelOverlap]);
    run(&scenario(OVER_2G).layout(Layout::PackedDown)).assert_clean();
    assert_eq!(rules(&run(&scenario(OVER_64G))), [Rule::WindowOverflow]);
    let smm = run(&scenario(Q35_SMM_2G).leaf_rule(LeafRule::VaOnly));
    assert!(rules(&smm).contains(&Rule::ReservedBit));
}

/// A layout's mapper, judged as if nothing were known of it.
fn as_unknown(map: (&str, &str), layout: Layout, change: impl Fn(Contract) -> Contract) -> Report {
    run(&scenario(map).layout(layout).contract(change(Contract::default())))
}

#[test]
fn a_mapper_of_which_nothing_is_known_is_judged_by_what_it_says_itself() {
    for map in TRUTH.into_iter().chain([OVMF_2013]) {
        for layout in [Layout::Window, Layout::PackedDown] {
            as_unknown(map, layout, |unknown| unknown).assert_clean();
        }
        // What Linux maps 1:1 are strays, until they are allowed.
        assert_eq!(rules(&as_unknown(map, Layout::Linux, |unknown| unknown)), [Rule::StrayMapping]);
        let report = as_unknown(map, Layout::Linux, |unknown| {
            unknown.identity(Term::Allowed).page_zero(Term::Allowed).virtual_map(Term::Allowed)
        });
        report.assert_clean();
        let own = run(&scenario(map).layout(Layout::Linux));
        let known = |report: &Report| {
            let regions = report.regions.iter();
            regions
                .map(|region| (region.virt, region.aliases.clone(), region.leaves, region.verdict))
                .collect::<Vec<_>>()
        };
        assert_eq!((known(&report), &report.runs), (known(&own), &own.runs));
    }
}

#[test]
fn mistakes_are_found_whether_or_not_the_layout_is_known() {
    let va_only = scenario(OVMF_2013).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly);
    assert_eq!(rules(&run(&va_only.clone().contract(Contract::default()))), [Rule::ReservedBit]);
    let masked = va_only.leaf_rule(LeafRule::VaOnlyMasked).contract(Contract::default());
    assert_eq!(rules(&run(&masked)), [Rule::WrongFrame]);
    let up = as_unknown(OVER_2G, Layout::PackedUp, |unknown| unknown);
    assert!(rules(&up).contains(&Rule::KernelOverlap), "{:?}", rules(&up));
    // Another layout's addresses.
    let window = as_unknown(OVMF_2013, Layout::Window, |unknown| unknown.closed_form(|d| Some(d.phys_start)));
    assert_eq!(rules(&window), [Rule::WrongAddress]);
    let low = as_unknown(OVMF_2013, Layout::Window, |unknown| unknown.arenas([Arena::LowHalf]));
    assert_eq!(rules(&low), [Rule::OutsideArena]);
}

/// What is written where nothing may be written stays there, so it is seen again in phase `finish`.
#[test]
fn a_stray_write_is_found_in_its_own_phase_and_once() {
    let word_of = |request: &MapRequest, in_pool| if in_pool { request.table_pool[1] - 8 } else { request.kernel_root };
    for in_pool in [false, true] {
        for (when, phase) in [(Step::Map, Phase::Map), (Step::Finish, Phase::Finish)] {
            let mapper = Elsewhere(move |step, request: &MapRequest, result: &mut MapResult| {
                // SAFETY: as it was asked for.
                unsafe { carry_out(&mut LayoutMapper::default(), step, request, result) };
                if step == when {
                    let at = request.direct_map.wrapping_add(word_of(request, in_pool));
                    // SAFETY: it is memory, and a fault of the mapping code's to write there.
                    unsafe { std::ptr::with_exposed_provenance_mut::<u64>(at as usize).write(2) };
                }
            });
            let report = run(&Scenario::new(small_map(0x42)).mapper(mapper));
            let strays = report.findings.iter().filter(|finding| finding.rule == Rule::StrayWrite);
            let phases: Vec<_> = strays.map(|finding| finding.phase).collect();
            assert_eq!(phases, [phase], "in the pool: {in_pool}");
        }
    }
}

/// The word that was found in phase `map` is another in phase `finish`: that is no finding of its own, and what it does to the
/// tables is.
#[test]
fn a_stray_write_where_one_was_before_is_judged() {
    let mapper = Elsewhere(|step, request: &MapRequest, result: &mut MapResult| {
        // SAFETY: as it was asked for.
        unsafe { carry_out(&mut LayoutMapper::default(), step, request, result) };
        // The entry that has the kernel's image below it.
        let at = request.direct_map.wrapping_add(request.kernel_root + 511 * 8);
        let entry: *mut u64 = std::ptr::with_exposed_provenance_mut(at as usize);
        let bits = if step == Step::Map { 1 << 9 } else { 1 };
        // SAFETY: it is memory, and a fault of the mapping code's to write there.
        unsafe { entry.write(entry.read() ^ bits) };
    });
    let report = run(&Scenario::new(small_map(0x42)).mapper(mapper));
    let found = |phase, is_stray| {
        let findings = report.findings.iter().filter(move |finding| finding.phase == phase);
        findings.filter(|finding| (finding.rule == Rule::StrayWrite) == is_stray).count()
    };
    assert_eq!((found(Phase::Map, true), found(Phase::Finish, true)), (1, 0), "{report}");
    assert_ne!(found(Phase::Finish, false), 0, "{report}");
}

#[test]
fn the_cpu_model_is_what_is_asked_for() {
    // All of this map lies below 2^31.
    let small = CpuidRequest::default().maxphyaddr(MaxPhyAddr::new(36).unwrap());
    run(&scenario(OVMF_2013).cpu(small)).assert_clean();
    let past = scenario(PAST_MAXPHYADDR).layout(Layout::PackedDown);
    assert_eq!(rules(&run(&past)), [Rule::PastMaxphyaddr, Rule::ReservedBit]);
    let wide = CpuidRequest::default().maxphyaddr(MaxPhyAddr::MAX);
    run(&past.cpu(wide)).assert_clean();
    let five = CpuidRequest::default().la57(true);
    let report = run(&scenario(OVMF_2013).cpu(five).leaf_rule(LeafRule::VaOnly).layout(Layout::PackedDown));
    assert_eq!(report.findings[0].walk.first().unwrap().level, Level::Pml5e);
}

#[test]
fn no_limit_of_time_makes_a_finding() {
    use std::time::Duration;
    let run = |limit| run(&scenario(OVMF_2013).limit(limit).stretch_limit(limit).sweep_limit(u64::MAX));
    let (without, endless) = (run(Duration::ZERO), run(Duration::MAX));
    assert_eq!((without.verdict(), rules(&without).len()), (RunVerdict::Incomplete, 0));
    endless.assert_clean();
}

/// Not even what is wrong with the map itself is lost where there is no time for the rest.
#[test]
fn what_is_known_when_time_is_over_is_found() {
    let map = "
        [[descriptor]]\ntype = 6\nphys = 0x7e700000\npages = 0x20\nattribute = \"RUNTIME|WB\"
        [[descriptor]]\ntype = 5\nphys = 0x7e710000\npages = 0x20\nattribute = \"RUNTIME|WB\"";
    let report = run(&scenario(("made", map)).limit(std::time::Duration::ZERO));
    assert_eq!(rules(&report), [Rule::MapOverlap]);
}

/// Such a range is empty: nothing may lie there, and nothing is forbidden there.
#[test]
fn a_range_that_ends_before_it_starts_is_empty() {
    let of = |change: fn(Contract) -> Contract| as_unknown(OVMF_2013, Layout::Window, change);
    of(|contract| contract.off_limits([Va(u64::MAX)..=Va(0)])).assert_clean();
    // Both ends are in one region.
    of(|contract| contract.off_limits([Va(0xffff_fffe_fdc5_d000)..=Va(0xffff_fffe_fdc5_c000)])).assert_clean();
    of(|contract| contract.arenas([Arena::HighHalf, Arena::Range(Va(u64::MAX)..=Va(0)), Arena::LowHalf]))
        .assert_clean();
    assert_eq!(rules(&of(|contract| contract.arenas([Arena::Range(Va(u64::MAX)..=Va(0))]))), [Rule::OutsideArena]);
    assert_eq!(rules(&of(|contract| contract.arenas([]))), [Rule::OutsideArena]);
}

#[test]
fn strays_and_holes_are_found() {
    // The first PTE of a table in which nothing is mapped, next to a region: below 0xfffffffefc000000.
    let flip = |virt, flip| Tamper { virt, level: Level::Pte, flip, moment: Moment::BeforeWalk };
    let hole = run(&scenario(OVMF_2013).tamper(flip(0xffff_fffe_fc00_3000, 1)));
    assert_eq!(rules(&hole), [Rule::NotPresent]);
    assert_eq!((hole.findings[0].virt, hole.findings[0].pages), (Some(Va(0xffff_fffe_fc00_3000)), 1));
    let stray = run(&scenario(OVMF_2013).tamper(flip(0xffff_fffe_fc02_0000, 0x1234_5003)));
    assert_eq!(rules(&stray), [Rule::StrayMapping]);
    assert_eq!(stray.findings[0].observed, Some(Statement::Physical(Pa(0x1234_5000))));
}

#[test]
fn a_full_window_of_4k_leaves_is_walked_to_its_last_entry() {
    let text = "[[descriptor]]\ntype = \"MemoryMappedIO\"\nphys = 0\npages = 0x1000000\nattribute = \"RUNTIME|UC\"";
    let full = Scenario::parse("64 GiB", text).unwrap().leaf_rule(LeafRule::FourK);
    // From -68 GiB to -4 GiB, all of it: R/W of the first entry, P of one in the middle, bit 36 of the last one's frame.
    let (first, middle, last) = (0xffff_ffef_0000_0000, 0xffff_fff7_1234_5000, 0xffff_fffe_ffff_f000);
    let flip = |virt, flip| Tamper { virt, level: Level::Pte, flip, moment: Moment::BeforeWalk };
    let report = run(&full.tamper(flip(first, 2)).tamper(flip(middle, 1)).tamper(flip(last, 1 << 36)));
    let mut found: Vec<_> = report.findings.iter().map(|f| (f.virt, f.rule, f.pages, f.error_code())).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            (Some(Va(first)), Rule::NotWritable, 1, None),
            // A supervisor's read of what is not present: no bit is set (SDM 3A 4.7).
            (Some(Va(middle)), Rule::NotPresent, 1, Some(ErrorCode(0))),
            (Some(Va(last)), Rule::WrongFrame, 1, None),
        ]
    );
    assert_eq!(report.regions[0].leaves.of_4k, (64 << 30) / 4096 - 1);
    assert_eq!(report.translate(last), Some(Pa(0x1f_ffff_f000)));
    assert_eq!(report.translate(middle - 1), Some(Pa(0x8_1234_4fff)));
    assert_eq!(report.translate(middle), None);
    assert_eq!(report.translate(middle + 0x1000), Some(Pa(0x8_1234_6000)));
}

/// Mapping code that leaves its memory in a state of every kind.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// Tables of its own, all of them full.
    FullTables,
    /// A word where it must not write: so far behind what it has used.
    Stray(u64),
    /// A panic, with tables that it does not account for.
    Panic,
    /// Much of its log.
    Log,
    /// An error, with tables that nobody looks at.
    Error,
}

impl Mapper for Leaves {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let pages: Vec<u64> = (0..8).map_while(|_| context.tables.allocate().ok()).collect();
        for page in &pages {
            context.tables.table(*page)?.fill(0x0010_0000_0000_0067);
        }
        let last = *pages.last().ok_or(MapError::OutOfTablePages)?;
        match self {
            Self::FullTables => Ok(AddressSpace::existing(last, 4)),
            Self::Stray(pages) => {
                let table = context.tables.reach().pointer(last + *pages * 4096).ok_or(MapError::OutOfTablePages)?;
                // SAFETY: a page of the pool, which is this mapper's.
                unsafe { (*table)[77] = 0x1007 };
                Ok(context.space)
            }
            Self::Panic => panic!("with tables that it does not account for"),
            Self::Log => {
                (0..200).for_each(|line| context.log(format_args!("line {line}: a log that is nearly full")));
                Ok(context.space)
            }
            Self::Error => Err(context.fail("it does not want to")),
        }
    }
}

/// One bed keeps memory from run to run; a new one has none.
#[test]
fn no_report_depends_on_the_runs_before_it() {
    let told = |bed: &TestBed, scenario: &Scenario| {
        let mut report = bed.run(scenario).unwrap();
        report.timing = Default::default();
        format!("{report:?}")
    };
    let mut scenarios = Vec::new();
    for seed in 0..25 {
        for class in [Class::Hostile, Class::Odd, Class::Valid] {
            let map = Synthesis::new(class).max_mapped_pages(4096).map(seed);
            let layout = Layout::ALL[seed as usize % Layout::ALL.len()];
            let rule = LeafRule::ALL[seed as usize % LeafRule::ALL.len()];
            let scenario = Scenario::new(map).engine(EngineName::Walker);
            scenarios.push(scenario.clone().layout(layout).leaf_rule(rule));
            let mapper = match seed % 5 {
                0 => Leaves::FullTables,
                1 => Leaves::Stray(1 + seed / 5),
                2 => Leaves::Panic,
                3 => Leaves::Log,
                _ => Leaves::Error,
            };
            scenarios.push(scenario.mapper(mapper));
        }
    }
    let bed = TestBed::without_kvm();
    for _ in 0..2 {
        for scenario in &scenarios {
            let (again, new) = (told(&bed, scenario), told(&TestBed::without_kvm(), scenario));
            assert!(again == new, "{scenario:?}\nagain: {again}\nnew: {new}");
        }
    }
}

#[test]
fn progress_is_told_of_each_phase() {
    let told = std::cell::RefCell::new(Vec::new());
    let scenario = scenario(OVMF_2013).engine(EngineName::Walker);
    bed().run_telling(&scenario, &|progress| told.borrow_mut().push(progress)).unwrap();
    assert_eq!(*told.borrow(), [Progress::Mapping { tables: 0 }, Progress::Walking]);
}

/// Where the walk to an address finds its entry of a level, and what is there.
fn entry_at(scenario: &Scenario, virt: u64, level: Level) -> (u64, u64) {
    let (_, addresses) = scenario.explain(&[virt]).unwrap();
    let step = *addresses[0].steps().iter().find(|step| step.level == level).unwrap();
    (step.entry_addr.0, step.entry)
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

#[test]
fn tables_that_refer_to_themselves_end() {
    // The PDPTE of the window points to its own table: 512^2 PDEs that look like the PDPT's entries.
    let virt = 0xffff_fffe_fc00_0000;
    let (entry_addr, entry) = entry_at(&scenario(OVMF_2013), virt, Level::Pdpte);
    let flip = (entry & ADDRESS) ^ (entry_addr & !0xfff);
    let tamper = Tamper { virt, level: Level::Pdpte, flip, moment: Moment::BeforeWalk };
    let report = run(&scenario(OVMF_2013).tamper(tamper));
    let found = rules(&report);
    assert!(found.contains(&Rule::SelfMapping) && !found.contains(&Rule::TableLimit), "{found:?}");
    // What it hides of the regions is found too.
    assert!(found.contains(&Rule::NotPresent) || found.contains(&Rule::WrongFrame), "{found:?}");
}

#[test]
fn a_recursive_entry_is_found_wherever_it_is() {
    // Slot 510 is in no arena; slot 9 is in the low half, which `linux` may map regions in.
    for (layout, virt) in [(Layout::Window, 510 << 39 | 0xffff << 48), (Layout::Linux, 9 << 39)] {
        let scenario = scenario(OVMF_2013).layout(layout);
        let (entry_addr, entry) = entry_at(&scenario, virt, Level::Pml4e);
        assert_eq!(entry, 0);
        let tamper = Tamper { virt, level: Level::Pml4e, flip: (entry_addr & !0xfff) | 3, moment: Moment::BeforeWalk };
        let report = run(&scenario.tamper(tamper));
        // Layout `linux` has a phase `finish`, and the entry is there still.
        for finding in &report.findings {
            assert_eq!((finding.rule, finding.virt, finding.pages), (Rule::SelfMapping, Some(Va(virt)), 1 << 27));
        }
        assert!(!report.is_clean());
    }
}

/// 200 entries of the root refer to the table of the first one, which maps regions at their physical addresses.
#[test]
fn tables_that_many_entries_share_are_read_once() {
    let (_, first) = entry_at(&scenario(OVMF_2013).layout(Layout::Linux), 0, Level::Pml4e);
    let tampers = (1..201).map(|slot: u64| Tamper {
        virt: slot << 39,
        level: Level::Pml4e,
        flip: first,
        moment: Moment::BeforeWalk,
    });
    let report = run(&tampers.fold(scenario(OVMF_2013).layout(Layout::Linux), Scenario::tamper));
    assert_eq!(rules(&report), [Rule::StrayMapping]);
    let of_map = report.findings.iter().filter(|finding| finding.phase == efibed::check::Phase::Map);
    let stretches: Vec<_> = of_map.map(|finding| (finding.virt, finding.pages)).collect();
    // What the first of them maps is listed, and each further one is a stretch of 2^27 pages.
    assert!(stretches.contains(&(Some(Va(2 << 39)), 199 << 27)), "{stretches:x?}");
}

/// Flags that no access shows: each in a leaf of runtime code, and in the entries above it.
#[test]
fn flags_that_no_access_shows_have_their_verdicts() {
    let virt = 0xffff_fffe_fc02_0000 - 0x1000;
    let (leaf, table) = (Level::Pte, Level::Pdpte);
    let cases = [
        ("G of a leaf", leaf, 1 << 8, Some(Rule::GlobalLeaf)),
        ("G of a table entry", table, 1 << 8, None),
        ("a protection key of a leaf", leaf, 5 << 59, Some(Rule::ProtectionKey)),
        ("bits 62:59 of a table entry", table, 5 << 59, None),
        ("PWT of a table entry", table, 1 << 3, Some(Rule::TableCache)),
        ("PCD of a table entry", table, 1 << 4, Some(Rule::TableCache)),
        ("PCD of the root's entry", Level::Pml4e, 1 << 4, Some(Rule::TableCache)),
        ("A and D of a leaf", leaf, 3 << 5, None),
        ("A and D of a table entry", table, 3 << 5, None),
        ("U/S of a leaf", leaf, 1 << 2, None),
        ("U/S of a table entry", table, 1 << 2, None),
        ("software's bits", leaf, 7 << 9 | 0x7f << 52, None),
    ];
    for (name, level, flip, rule) in cases {
        let tamper = Tamper { virt, level, flip, moment: Moment::BeforeWalk };
        let report = run(&scenario(OVMF_2013).tamper(tamper));
        let found: Vec<_> = report.findings.iter().map(|finding| finding.rule).collect();
        assert_eq!(found, Vec::from_iter(rule), "{name}");
        let notes = report.notes.iter().filter(|note| note.contains("U/S set")).count();
        assert_eq!(notes, usize::from(name == "U/S of a leaf"), "{name}: {:?}", report.notes);
    }
}

mod any_map {
    use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType};
    use efibed::{EngineName, Layout, LeafRule, MemoryMap, Scenario};
    use efibed_tests::bed;
    use proptest::prelude::*;

    /// Addresses and lengths near all the edges there are, and small regions that overlap.
    fn descriptor() -> impl Strategy<Value = MemoryDescriptor> {
        let edge = prop_oneof![
            Just(0u64),
            Just(1 << 20),
            Just(1 << 32),
            Just(1 << 36),
            Just(1 << 46),
            Just(1 << 52),
            Just(1 << 63),
            Just(0)
        ];
        let phys = prop_oneof![
            (edge, -0x40_0000i64..0x40_0000).prop_map(|(edge, by)| edge.wrapping_add_signed(by) & !0xfff),
            0u64..0x1000_0000,
            any::<u64>(),
        ];
        let pages = prop_oneof![0u64..0x800, Just(0x4_0000), (0u32..64).prop_map(|bit| 1 << bit), any::<u64>()];
        let att = prop_oneof![Just(1 << 63 | 8), Just(1 << 63), Just(8), any::<u64>()];
        (0u32..16, phys, pages, att).prop_map(|(ty, phys_start, page_count, att)| MemoryDescriptor {
            ty: MemoryType(ty),
            padding: 0,
            phys_start,
            virt_start: 0,
            page_count,
            att: MemoryAttribute::from_bits_retain(att),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_map_panics_or_hangs(
            descriptors in prop::collection::vec(descriptor(), 1..12),
            layout in prop::sample::select(Layout::ALL.to_vec()),
            leaf_rule in prop::sample::select(LeafRule::ALL.to_vec()),
        ) {
            let map = MemoryMap::from_descriptors("any", descriptors);
            let scenario = Scenario::new(map).layout(layout).leaf_rule(leaf_rule).engine(EngineName::Walker);
            let report = bed().run(&scenario).unwrap();
            prop_assert_eq!(report.regions.len(), report.regions.iter().map(|r| r.region.index).max().unwrap() + 1);
        }
    }
}
