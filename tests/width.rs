//! Reports on a terminal of 80 columns: no line is longer, and nothing that a wide page says is lost.

use std::collections::BTreeMap;
use std::path::Path;

use efibed::check::Rule;
use efibed::mmu::{Level, Paging};
use efibed::report::explain::{
    Ground, explain_address, explain_entry, explain_error_code, explain_physical, explain_rule, list_rules,
    read_error_code,
};
use efibed::report::map::{self, MapReport};
use efibed::report::text::Text;
use efibed::{EngineName, Layout, LeafRule, MemoryMap, Scenario, TestBed};

const COLUMNS: usize = 80;

/// What is wrong with a text for 80 columns, against the same without a terminal.
fn faults_of(narrow: &str, wide: &str) -> Vec<String> {
    let mut faults: Vec<String> =
        narrow.lines().filter(|line| is_too_long(line)).map(|line| format!("too long: {line}")).collect();
    let (narrow, wide) = (words(narrow), words(wide));
    for (word, count) in &wide {
        let found = narrow.get(word).copied().unwrap_or(0);
        if found < *count {
            faults.push(format!("lost: {word}, {found} of {count}"));
        }
    }
    faults
}

/// Longer than the terminal is wide, and not because of one word that takes most of it.
fn is_too_long(line: &str) -> bool {
    let longest = line.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
    line.chars().count() > COLUMNS && longest <= COLUMNS * 3 / 4
}

/// Each word, and how often it is there. Cells that stand on a line below are set apart by `;`, and empty ones (`-`) are
/// left out there. Of an entry's bits a narrow page shows the half that matters, its value stands above them.
fn words(text: &str) -> BTreeMap<&str, usize> {
    let is_bits = |word: &str| word.chars().all(|c| "01^".contains(c)) && (word.len() == 4 || word.contains('^'));
    let mut words = BTreeMap::new();
    for word in text.split_whitespace().map(|word| word.trim_end_matches(';')) {
        if !matches!(word, "-" | "" | "63:0" | "63:32" | "31:0") && !is_bits(word) {
            *words.entry(word).or_default() += 1;
        }
    }
    words
}

#[track_caller]
fn assert_fits(what: &str, text: impl Fn(Option<usize>) -> String) {
    let (narrow, wide) = (text(Some(COLUMNS)), text(None));
    let faults = faults_of(&narrow, &wide);
    assert!(faults.is_empty(), "{what}: {faults:#?}\n{narrow}");
}

/// All maps of these tests that are maps, those that make no sense too.
fn maps() -> Vec<MemoryMap> {
    let mut maps = Vec::new();
    for folder in ["maps", "maps/bad", "truth"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.is_file()) {
            let name = file.file_name().unwrap().to_string_lossy();
            let text = std::fs::read(file).unwrap();
            maps.extend(MemoryMap::parse_named(&name, &String::from_utf8_lossy(&text)).ok());
        }
    }
    assert!(maps.len() > 35, "{}", maps.len());
    maps
}

/// What is right, and what has findings with walks in them.
const WAYS: [(Layout, LeafRule); 3] = [
    (Layout::Linux, LeafRule::CoAligned),
    (Layout::Window, LeafRule::CoAligned),
    (Layout::PackedDown, LeafRule::VaOnly),
];

#[test]
fn reports_of_all_maps_fit() {
    for map in maps() {
        for (layout, leaf_rule) in WAYS {
            let what = format!("{} {} {}", map.source(), layout.name(), leaf_rule.name());
            let scenario = Scenario::new(map.clone()).layout(layout).leaf_rule(leaf_rule).engine(EngineName::Walker);
            let report = TestBed::without_kvm().run(&scenario).unwrap();
            assert_fits(&format!("check {what}"), |columns| Text::plain(&report).columns(columns).to_string());
            let shown = MapReport::new(&map, layout, None);
            assert_fits(&format!("show {what}"), |columns| map::Text::plain(&shown).columns(columns).to_string());
        }
    }
}

/// The first byte of each kind of descriptor, at its virtual and at its physical address.
#[test]
fn explanations_of_addresses_fit() {
    for map in maps() {
        for (layout, leaf_rule) in WAYS {
            let what = format!("{} {} {}", map.source(), layout.name(), leaf_rule.name());
            let scenario = Scenario::new(map.clone()).layout(layout).leaf_rule(leaf_rule);
            let (report, _) = scenario.explain(&[]).unwrap();
            let shown = MapReport::new(&map, layout, None);
            let mut kinds = BTreeMap::new();
            for region in &report.regions {
                kinds.entry((region.region.ty.0, region.verdict.name())).or_insert(region);
            }
            let of_regions = kinds.values().flat_map(|region| [Some(region.region.phys), region.virt]).flatten();
            for virt in of_regions.chain([0, 0xffff_fffe_0000_0000, 1 << 63]) {
                let (report, addresses) = scenario.explain(&[virt]).unwrap();
                let phases: Vec<_> = addresses.iter().collect();
                assert_fits(&format!("explain {virt:#x} {what}"), |columns| {
                    explain_address(&phases, Ground { map: &shown, report: &report, finishes: true, columns })
                });
            }
            for region in kinds.values() {
                let phys = region.region.phys;
                let (report, addresses) = scenario.explain(&scenario.virtual_addresses(phys).unwrap()).unwrap();
                assert_fits(&format!("explain --phys {phys:#x} {what}"), |columns| {
                    explain_physical(
                        efibed::Pa(phys),
                        &addresses,
                        Ground { map: &shown, report: &report, finishes: false, columns },
                    )
                });
            }
        }
    }
}

#[test]
fn explanations_without_a_map_fit() {
    assert_fits("rules", list_rules);
    for rule in Rule::ALL {
        assert_fits(rule.name(), |columns| explain_rule(*rule, columns));
    }
    for code in ["0x0", "19", "0xffffffff", "Oops: 0011 [#1] PREEMPT SMP"] {
        let printed = read_error_code(code).unwrap();
        assert_fits(code, |columns| explain_error_code(&printed, columns));
    }
    for level in [Level::Pte, Level::Pde, Level::Pdpte, Level::Pml4e, Level::Pml5e] {
        for entry in [0, 0x3860_00e1, 0x7e10_70e3, u64::MAX] {
            let paging = Paging { nxe: false, ..Paging::default() };
            assert_fits(&format!("{level} {entry:#x}"), |columns| explain_entry(level, entry, &paging, columns));
        }
    }
}

/// The negative control: a report for no terminal is too long for one, and one without a word has lost it.
#[test]
fn what_does_not_fit_is_found() {
    let map = maps().into_iter().find(|map| map.source() == "lenovo-07.txt").unwrap();
    let shown = MapReport::new(&map, Layout::Linux, None);
    let (narrow, wide) =
        (map::Text::plain(&shown).columns(Some(COLUMNS)).to_string(), map::Text::plain(&shown).to_string());
    assert!(faults_of(&wide, &wide).iter().all(|fault| fault.starts_with("too long: ")));
    assert!(faults_of(&wide, &wide).len() > 10);
    let without = narrow.replacen("RuntimeServicesData", "", 1);
    let faults = faults_of(&without, &wide);
    assert!(faults.len() == 1 && faults[0].starts_with("lost: RuntimeServicesData, "), "{faults:?}");
}
