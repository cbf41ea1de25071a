//! Which line of the mapping code set a guilty entry: of two bugs that break the same rule, each is told by its own.

use efibed::check::{Place, Rule};
use efibed::fuzz::keys;
use efibed::mapper::page_table::{LeafRule, Mapping, WRITABLE};
use efibed::mapper::{MemoryDescriptor, attribute};
use efibed::{AddressSpace, EngineName, MapContext, MapError, Mapper, MemoryMap, Report, Scenario};
use efibed_tests::{Need, bed, rules, trial};
use libtest_mimic::Trial;

/// `TWO_BUGS`: name and file of each, in the order of `KNOWN_BY`.
mod compiled {
    include!(concat!(env!("OUT_DIR"), "/two_bugs.rs"));
}

pub fn trials() -> Vec<Trial> {
    vec![
        trial("two_bugs_of_a_rule_have_their_own_lines", Need::Kvm, two_bugs_of_a_rule_have_their_own_lines),
        trial("two_bugs_in_c_have_their_own_lines", Need::Kvm, two_bugs_in_c_have_their_own_lines),
        trial("without_lines_there_is_the_function", Need::Kvm, without_lines_there_is_the_function),
        trial("the_last_write_counts", Need::Kvm, the_last_write_counts),
        trial("what_nobody_wrote_is_told_by_the_entry_above", Need::Kvm, what_nobody_wrote_is_told_by_the_entry_above),
        trial("the_walker_knows_no_lines", Need::Kvm, the_walker_knows_no_lines),
        trial("so_many_writes_are_looked_at_and_no_more", Need::Kvm, so_many_writes_are_looked_at_and_no_more),
    ]
}

const BASE: u64 = 0xffff_ff00_0000_0000;
const PAGE: u64 = 4096;

/// Two regions of data, of four pages and of six, and room for the guest.
fn two_regions() -> MemoryMap {
    let region = |ty: &str, phys: u64, pages: u64, attribute: &str| {
        format!("[[descriptor]]\ntype = '{ty}'\nphys = {phys:#x}\npages = {pages}\nattribute = '{attribute}'\n")
    };
    let text = region("RuntimeServicesData", 0x7e00_0000, 4, "RUNTIME|WB")
        + &region("RuntimeServicesData", 0x7e10_0000, 6, "RUNTIME|WB")
        + &region("ConventionalMemory", 0x100_0000, 0x6000, "WB");
    MemoryMap::parse(&text).unwrap()
}

fn scenario() -> Scenario {
    Scenario::new(two_regions()).firmware_calls(false)
}

/// What a mapper does besides mapping page by page.
type Bug = fn(&mut MapContext<'_>, u64, &MemoryDescriptor) -> Result<(), MapError>;

#[derive(Clone)]
struct Buggy(Bug);

impl Mapper for Buggy {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let mut next = BASE;
        for (index, region) in context.memory_map.iter().enumerate() {
            if region.attribute & attribute::RUNTIME == 0 {
                continue;
            }
            let virt_start = next;
            next += region.page_count * PAGE;
            map(context, virt_start, region.phys_start, region.page_count)?;
            (self.0)(context, virt_start, region)?;
            context.push_mapped(index, &MemoryDescriptor { virt_start, ..*region })?;
        }
        Ok(context.space)
    }
}

#[inline(never)]
fn map(context: &mut MapContext<'_>, virt: u64, phys: u64, pages: u64) -> Result<(), MapError> {
    let mapping = Mapping { flags: WRITABLE, leaf_rule: LeafRule::FourK, gbpages: false };
    context.space.map(&mut context.tables, virt, phys, pages * PAGE, mapping)
}

/// By this test bed's own page-table code: what counts is the line that calls it.
#[inline(never)]
fn one_page_up(context: &mut MapContext<'_>, virt: u64, region: &MemoryDescriptor) -> Result<(), MapError> {
    let mapping = Mapping { flags: WRITABLE, leaf_rule: LeafRule::FourK, gbpages: false };
    let (last, phys) = (virt + 3 * PAGE, region.phys_start + 4 * PAGE);
    context.space.map(&mut context.tables, last, phys, PAGE, mapping)
}
const UP: u32 = line!() - 2;

/// By code of its own.
#[inline(never)]
fn one_page_down(context: &mut MapContext<'_>, virt: u64, region: &MemoryDescriptor) -> Result<(), MapError> {
    let entry = entry(context, virt)?;
    *entry = (region.phys_start - PAGE) | 3;
    Ok(())
}
const DOWN: u32 = line!() - 3;

fn entry<'a>(context: &'a mut MapContext<'_>, virt: u64) -> Result<&'a mut u64, MapError> {
    let mut table = context.space.root();
    for shift in [39, 30, 21] {
        table = context.tables.table(table)?[(virt >> shift) as usize % 512] & 0xf_ffff_ffff_f000;
    }
    Ok(&mut context.tables.table(table)?[(virt >> 12) as usize % 512])
}

fn both(context: &mut MapContext<'_>, virt: u64, region: &MemoryDescriptor) -> Result<(), MapError> {
    if region.page_count == 4 { one_page_up(context, virt, region) } else { one_page_down(context, virt, region) }
}

fn run(scenario: &Scenario) -> Report {
    let report = bed().run(scenario).unwrap();
    efibed_tests::tell!("{report}");
    report
}

/// The places of the findings, none of which may lack one.
fn places(report: &Report) -> Vec<&Place> {
    report.findings.iter().map(|finding| finding.set_by.as_ref().unwrap_or_else(|| panic!("{report}"))).collect()
}

fn texts(report: &Report) -> Vec<String> {
    places(report).iter().map(ToString::to_string).collect()
}

const HERE: &str = "tests/kvm/writers.rs";

fn two_bugs_of_a_rule_have_their_own_lines() {
    let report = run(&scenario().mapper(Buggy(both)));
    assert_eq!(rules(&report), [Rule::WrongFrame]);
    assert_eq!(
        texts(&report),
        [format!("kvm::writers::one_page_up at {HERE}:{UP}"), format!("kvm::writers::one_page_down at {HERE}:{DOWN}")]
    );
    assert!(report.to_string().contains(&format!("set by     kvm::writers::one_page_up at {HERE}:{UP}\n")), "{report}");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["findings"][1]["set_by"]["line"], DOWN);
    // One without the other has its own line alone.
    let up = run(&scenario().mapper(Buggy(|context, virt, region| {
        if region.page_count == 4 { one_page_up(context, virt, region) } else { Ok(()) }
    })));
    assert_eq!(texts(&up), texts(&report)[..1]);
    run(&scenario().mapper(Buggy(|_, _, _| Ok(())))).assert_clean();
}

fn program(name: &str) -> Report {
    let (_, elf) = compiled::TWO_BUGS.iter().find(|(known, _)| *known == name).unwrap();
    run(&scenario().mapper_elf(elf))
}

/// The line of a comment in the program.
fn line(comment: &str) -> u32 {
    let text = include_str!("../programs/two_bugs.c");
    1 + text.lines().position(|line| line.ends_with(&format!("/* {comment} */"))).unwrap() as u32
}

fn two_bugs_in_c_have_their_own_lines() {
    let report = program("LINES");
    assert_eq!(rules(&report), [Rule::WrongFrame]);
    let told: Vec<_> = places(&report).iter().map(|place| (place.function.as_deref(), place.line)).collect();
    // The innermost place is that of the function that was inlined.
    let [first, second] = [line("the first bug"), line("the second bug's store")];
    assert_eq!(told, [(Some("one_page_up"), Some(first)), (Some("set"), Some(second))]);
    assert!(places(&report).iter().all(|place| place.file.as_ref().unwrap().ends_with("programs/two_bugs.c")));
}

fn without_lines_there_is_the_function() {
    let report = program("NAMES");
    assert_eq!(texts(&report), ["one_page_up", "one_page_down"]);
    let report = program("NOTHING");
    assert_eq!(rules(&report), [Rule::WrongFrame]);
    assert!(report.findings.iter().all(|finding| finding.set_by.is_none()), "{report}");
}

/// A wrong entry is set, mended, and set again elsewhere: that is where it was set.
fn the_last_write_counts() {
    let report = run(&scenario().mapper(Buggy(|context, virt, region| {
        if region.page_count == 6 {
            one_page_down(context, virt, region)?;
            map(context, virt, region.phys_start, 1)?;
            again(context, virt, region)?;
        }
        Ok(())
    })));
    assert_eq!(texts(&report), [format!("kvm::writers::again at {HERE}:{AGAIN}")]);
    // And the same value once more sets nothing.
    let report = run(&scenario().mapper(Buggy(|context, virt, region| {
        if region.page_count == 6 {
            one_page_down(context, virt, region)?;
            again(context, virt, region)?;
        }
        Ok(())
    })));
    assert_eq!(texts(&report), [format!("kvm::writers::one_page_down at {HERE}:{DOWN}")]);
}

#[inline(never)]
fn again(context: &mut MapContext<'_>, virt: u64, region: &MemoryDescriptor) -> Result<(), MapError> {
    let entry = entry(context, virt)?;
    *std::hint::black_box(entry) = (region.phys_start - PAGE) | 3;
    Ok(())
}
const AGAIN: u32 = line!() - 3;

/// Regions in a table that nobody wrote to have their place where that table was put in.
fn what_nobody_wrote_is_told_by_the_entry_above() {
    #[derive(Clone)]
    struct Forgets;
    impl Mapper for Forgets {
        fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
            let regions: Vec<_> = context.memory_map.iter().enumerate().collect();
            let mut next = BASE;
            for (index, region) in regions {
                if region.attribute & attribute::RUNTIME != 0 {
                    let virt_start = next;
                    next += region.page_count * PAGE;
                    if region.page_count == 4 {
                        map(context, virt_start, region.phys_start, region.page_count)?;
                    }
                    context.push_mapped(index, &MemoryDescriptor { virt_start, ..*region })?;
                }
            }
            Ok(context.space)
        }
    }
    let report = run(&scenario().mapper(Forgets));
    assert_eq!(rules(&report), [Rule::NotPresent]);
    assert!(texts(&report)[0].starts_with("kvm::writers::map at"), "{report}");
}

/// Natively nobody watches. No line is told then, and none guessed.
fn the_walker_knows_no_lines() {
    let report = run(&scenario().mapper(Buggy(both)).engine(EngineName::Walker));
    assert_eq!(rules(&report), [Rule::WrongFrame]);
    assert!(report.findings.iter().all(|finding| finding.set_by.is_none()), "{report}");
    assert!(!report.to_string().contains("set by"), "{report}");
}

fn so_many_writes_are_looked_at_and_no_more() {
    fn writes(context: &mut MapContext<'_>, virt: u64, count: u64) -> Result<(), MapError> {
        for number in 0..count {
            let entry = std::hint::black_box(entry(context, virt)?);
            // SAFETY: it is a reference.
            unsafe { std::ptr::from_mut(entry).write_volatile(number << 12 | 3) };
        }
        Ok(())
    }
    let run = |bug: Bug| {
        let start = std::time::Instant::now();
        let report = run(&scenario().mapper(Buggy(bug)));
        efibed_tests::tell!("{:?}", start.elapsed());
        report
    };
    let few = run(|context, virt, region| if region.page_count == 4 { writes(context, virt, 100) } else { Ok(()) });
    assert!(texts(&few)[0].starts_with("kvm::writers::"), "{few}");
    let many =
        run(|context, virt, region| if region.page_count == 4 { writes(context, virt, 100_000) } else { Ok(()) });
    assert!(many.findings.iter().all(|finding| finding.set_by.is_none()), "{many}");
    assert!(many.notes.iter().any(|note| note.contains("too many to look at")), "{many}");
    assert_eq!(keys(&few).len(), keys(&many).len());
}
