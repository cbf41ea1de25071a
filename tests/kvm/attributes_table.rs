//! Firmware under its own Memory Attributes Table: it lies where the table leaves it room, and where the table leaves none,
//! that is firmware's fault.

use efibed::check::{Phase, Rule, Witness};
use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use efibed::mmu::ErrorCode;
use efibed::report::{Culprit, Report};
use efibed::{EngineName, Layout, Misbehaviour, Scenario};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    [
        ("firmware_lies_in_pages_that_its_table_permits", firmware_lies_where_it_may as fn()),
        ("misbehaviours_are_found_under_a_table_as_without_one", misbehaviours_under_a_table),
        ("a_table_that_leaves_no_code_executable_is_firmwares_fault", no_code_executable),
        ("a_table_that_makes_all_data_read_only_is_firmwares_fault", all_data_read_only),
        ("a_table_that_is_not_taken_denies_nothing", a_table_that_is_not_taken),
    ]
    .into_iter()
    .map(|(name, run)| trial(name, Need::Kvm, run))
    .collect()
}

const RO: MemoryAttribute = MemoryAttribute::READ_ONLY;
const XP: MemoryAttribute = MemoryAttribute::EXECUTE_PROTECT;

/// Data, and one image of code behind it, as ordinary firmware's table has it: the headers, the text, the image's data.
const ORDINARY: &str = "\
efi: mem00: [Runtime Data|RUN|  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000079400000-0x000000007951bfff] (1MB)
efi: mem01: [Runtime Code|RUN|  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x000000007951c000-0x0000000079520fff] (0MB)
efi: memattr: Processing EFI Memory Attributes table:
efi: memattr:  0x00007951c000-0x00007951cfff [Runtime Code|RUN|  |  |XP|  |  |  |  |   |  |  |  |  ]
efi: memattr:  0x00007951d000-0x00007951efff [Runtime Code|RUN|  |  |  |  |  |RO|  |   |  |  |  |  ]
efi: memattr:  0x00007951f000-0x000079520fff [Runtime Code|RUN|  |  |XP|  |  |  |  |   |  |  |  |  ]
";
const TEXT: u64 = 0x7951_d000;
const ORDINARY_DATA: u64 = 0x7940_0000;

fn ordinary() -> MemoryMap {
    MemoryMap::parse(ORDINARY).unwrap()
}

fn run(scenario: Scenario) -> Report {
    let report = bed().run(&scenario).unwrap();
    assert_rows_agree(&report);
    report
}

/// The physical page that a service ran in before the switch, and the pages of its script's answers after it.
fn page_of(report: &Report, phase: Phase, service: &str) -> u64 {
    let call = report.calls.iter().find(|call| (call.phase, call.service) == (phase, service)).unwrap();
    call.rip.unwrap() & !(PAGE_BYTES - 1)
}

fn firmware_lies_where_it_may() {
    let report = run(Scenario::new(ordinary()));
    report.assert_clean();
    assert_all_called(&report, "mapper", true);
    assert_eq!(page_of(&report, Phase::Map, "GetTime"), TEXT);
    let virt = page_of(&report, Phase::Finish, "GetTime");
    assert_eq!(report.translate(virt).map(|pa| pa.0), Some(TEXT));

    // Of two regions of code the table leaves only the second one's last page; of the data all but two pages are RO.
    let regions = vec![runtime(CODE, 0x7e00_0000, 4), runtime(CODE, 0x7e40_0000, 4), runtime(DATA, 0x7e80_0000, 8)];
    let table = vec![
        attributes(CODE, 0x7e00_0000, 4, XP),
        attributes(CODE, 0x7e40_0000, 3, XP | RO),
        attributes(DATA, 0x7e80_0000, 3, RO | XP),
        attributes(DATA, 0x7e80_5000, 3, RO | XP),
    ];
    let map = MemoryMap::from_descriptors("corners", regions).with_attributes_table(table);
    let report = run(Scenario::new(map));
    report.assert_clean();
    assert_all_called(&report, "mapper", true);
    assert_eq!(page_of(&report, Phase::Map, "GetTime"), 0x7e40_3000);
}

/// Under layout linux and this table. What depends on permissions that the table changes is told by hand.
fn misbehaviours_under_a_table() {
    let boot = MemoryDescriptor {
        att: MemoryAttribute::WRITE_BACK,
        ..runtime(MemoryType::BOOT_SERVICES_DATA, 0x7900_0000, 0x400)
    };
    let regions: Vec<_> = [boot].into_iter().chain(ordinary().descriptors().iter().copied()).collect();
    let bare = MemoryMap::from_descriptors("no table", regions);
    let with_table = bare.clone().with_attributes_table(ordinary().attributes_table().to_vec());
    for what in Misbehaviour::ALL.iter().copied() {
        let [without, with] = [&bare, &with_table].map(|map| {
            let report =
                run(Scenario::new(map.clone()).stretch_limit(std::time::Duration::from_secs(2)).misbehave(what));
            assert_eq!(report.not_done().count(), 0, "{what:?}");
            report
        });
        let rules = |report: &Report| report.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>();
        let expected = match what {
            // Its code is read-only then.
            Misbehaviour::WritesCode => vec![Rule::FirmwareFault],
            _ => rules(&without),
        };
        assert_eq!(rules(&with), expected, "{what:?}");
        let codes = |report: &Report| report.faults.iter().map(|it| it.record.fault.error_code.0).collect::<Vec<_>>();
        match what {
            Misbehaviour::WritesCode => assert_eq!(codes(&with), [0x3]),
            _ => assert_eq!(codes(&with), codes(&without), "{what:?}"),
        }
    }
}

/// A table of these entries is firmware's fault: the finding, and the fault that the first call meets.
fn assert_denied(entries: &[MemoryDescriptor], access: &str, error_code: u32, virt_of: u64, pages: u64) {
    let map = ordinary().with_attributes_table(entries.to_vec());
    let report = run(Scenario::new(map.clone()));
    let [finding] = report.findings.as_slice() else { panic!("{:#?}", report.findings) };
    assert_eq!((finding.rule, finding.phase, finding.region), (Rule::AttributesTable, Phase::Finish, None));
    assert_eq!((finding.error_code(), finding.pages), (Some(ErrorCode(error_code)), pages));
    assert_eq!(report.translate(finding.virt.unwrap().0).map(|pa| pa.0), Some(virt_of));
    assert_eq!(finding.witnesses, [Witness::Expectation, Witness::Mmu, Witness::Walk]);
    let [fault] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
    assert_eq!((fault.record.access.to_string().as_str(), fault.record.fault.error_code.0), (access, error_code));
    assert_eq!((fault.service, fault.culprit), (Some("GetTime"), Culprit::AttributesTable));
    // Before the switch nothing is tightened yet.
    let before: Vec<_> = CALLS_BEFORE.iter().map(|(service, status)| ("mapper", *service, *status)).collect();
    assert_eq!(calls(&report, Phase::Map), before);

    // Without a guest, the fault that a call would meet; and a mapping code that does not believe the table meets none.
    let walked = run(Scenario::new(map.clone()).engine(EngineName::Walker));
    let found: Vec<_> = walked.findings.iter().map(|it| (it.rule, it.error_code(), it.witnesses.clone())).collect();
    assert_eq!(
        found,
        [(Rule::AttributesTable, Some(ErrorCode(error_code)), vec![Witness::Expectation, Witness::Walk])]
    );
    run(Scenario::new(map).layout(Layout::Window)).assert_clean();
}

fn no_code_executable() {
    // Entry by entry: no single one covers the region.
    let entries = [attributes(CODE, 0x7951_c000, 2, XP), attributes(CODE, 0x7951_e000, 3, XP | RO)];
    assert_denied(&entries, "supervisor fetch", 0x11, 0x7951_c000, 5);
    // One page that is left, and all is well.
    let map = ordinary().with_attributes_table(vec![attributes(CODE, 0x7951_c000, 4, XP)]);
    run(Scenario::new(map)).assert_clean();
}

fn all_data_read_only() {
    let entries = [attributes(DATA, ORDINARY_DATA, 0x11c, RO | XP)];
    assert_denied(&entries, "supervisor write", 0x3, ORDINARY_DATA, 0x11c);
    let map = ordinary().with_attributes_table(vec![attributes(DATA, ORDINARY_DATA, 0x11b, RO | XP)]);
    run(Scenario::new(map)).assert_clean();
}

/// Linux takes no table with more than three entries for each descriptor, and none of its entries then.
fn a_table_that_is_not_taken() {
    let entries = vec![attributes(CODE, 0x7951_c000, 5, XP); 7];
    let report = run(Scenario::new(ordinary().with_attributes_table(entries)));
    report.assert_clean();
    assert_all_called(&report, "mapper", true);
}
