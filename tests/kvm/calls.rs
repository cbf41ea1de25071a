//! Every runtime service is called on either side of the switch, on real maps, at the address and on the tables that are
//! due; and calls that are not as they should be are found.

use efibed::check::Phase;
use efibed::memory_map::MemoryMap;
use efibed::report::{CallReport, RegionReport, Report};
use efibed::{KernelOptions, Layout, Moment, Scenario, Tamper, VariableBytes};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("without_calls_there_are_none", Need::Kvm, without_calls_there_are_none),
        trial("firmware_that_lost_its_data_is_not_called", Need::Kvm, firmware_that_lost_its_data_is_not_called),
        trial("a_variable_of_64_kib_is_read_after_the_switch", Need::Kvm, a_variable_of_64_kib),
        trial("services_without_an_alias_say_why_they_are_not_called", Need::Kvm, without_an_alias),
    ];
    let maps = [OVMF_2013].into_iter().chain(TRUTH).chain(X86_MAPS);
    for (map, layout) in maps.flat_map(|map| [(map, Layout::Window), (map, Layout::Linux)]) {
        let name = format!("all_services_of_{}_under_{}", map.0, layout.name());
        trials.push(trial(name, Need::Kvm, move || all_are_called(map, layout)));
    }
    trials
}

fn run(scenario: &Scenario) -> Report {
    bed().run(scenario).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether firmware has anywhere to be: a page of code and one of data, RUNTIME both.
fn has_firmware(map: &MemoryMap) -> bool {
    let has = |ty| map.regions().any(|region| region.ty == ty && region.is_runtime() && region.pages > 0);
    has(CODE) && has(DATA)
}

/// Highest end of what is mapped: past 64 GiB `window` cannot serve.
fn fits_the_window(map: &MemoryMap) -> bool {
    map.regions().filter(|region| region.is_mapped()).all(|region| region.phys + region.pages * 4096 <= 64 << 30)
}

fn all_are_called(map: (&str, &str), layout: Layout) {
    let scenario = scenario(map).layout(layout).sweep_limit(0x100);
    let report = run(&scenario);
    if !has_firmware(scenario.map()) || layout == Layout::Window && !fits_the_window(scenario.map()) {
        let after: Vec<_> = report.calls.iter().filter(|call| call.phase == Phase::Finish).collect();
        assert!(after.is_empty(), "{after:?}");
        return;
    }
    let is_linux = layout == Layout::Linux;
    assert_all_called(&report, if is_linux { "mapper" } else { "boot" }, is_linux);
    for call in report.calls.iter().filter(|call| call.rip.is_some()) {
        assert_is_where_it_should_be(&report, call);
    }
    let about_calls = |finding: &&efibed::check::Finding| finding.rule.name().starts_with("call-");
    let findings: Vec<_> = report.findings.iter().filter(about_calls).map(|finding| &finding.message).collect();
    assert!(findings.is_empty(), "{findings:?}");
}

/// By the report's own regions: the physical address before the switch, the virtual one after it, and on one root each.
fn assert_is_where_it_should_be(report: &Report, call: &CallReport) {
    let (rip, cr3) = (call.rip.unwrap(), call.cr3.unwrap());
    let within = |region: &&RegionReport, start: Option<u64>| {
        start.is_some_and(|start| (start..start + region.region.pages * 4096).contains(&rip))
            && region.region.ty == CODE
    };
    let stays = matches!(call.service, "ConvertPointer" | "SetVirtualAddressMap");
    let is_physical = call.phase == Phase::Map || stays;
    let found = report.regions.iter().find(|it| within(it, if is_physical { Some(it.region.phys) } else { it.virt }));
    assert!(found.is_some(), "{call:x?}");
    let of_phase = |other: &&CallReport| other.phase == call.phase && other.cr3.is_some();
    assert!(report.calls.iter().filter(of_phase).all(|other| other.cr3 == Some(cr3)), "{call:x?}");
    if call.tables == "mapper" {
        let on_mapper: Vec<_> =
            report.calls.iter().filter(|it| it.tables == "mapper").filter_map(|it| it.cr3).collect();
        assert!(on_mapper.iter().all(|root| *root == cr3), "{on_mapper:x?}");
    }
}

fn without_calls_there_are_none() {
    let report = run(&scenario(OVMF_2013).firmware_calls(false));
    report.assert_clean();
    assert!(report.calls.is_empty());
}

/// Written in the guest before the switch, read in the guest after it, each byte compared.
fn a_variable_of_64_kib() {
    for layout in [Layout::Linux, Layout::Window] {
        let kernel = KernelOptions::default().variable_bytes(VariableBytes::MAX);
        let report = run(&scenario(OVMF_2013).layout(layout).kernel(kernel));
        report.assert_clean();
        let set = report.calls.iter().find(|call| call.service == "SetVariable").unwrap();
        assert_eq!((set.args[3], set.status), (64 << 10, Some(0)));
        let gets: Vec<_> = report.calls.iter().filter(|call| call.service == "GetVariable").collect();
        assert_eq!(gets.len(), 2);
        assert!(gets.iter().all(|call| call.status == Some(0)));
    }
}

/// The leaf of firmware's data, read-only for the calls after phase `finish` alone.
fn firmware_that_lost_its_data_is_not_called() {
    let map = MemoryMap::from_descriptors("image", image());
    let data = map.regions().find(|region| region.ty == DATA).unwrap();
    let at_first = run(&Scenario::new(map.clone()));
    at_first.assert_clean();
    let virt = at_first.regions[data.index].virt.unwrap();
    let tamper = Tamper { virt, level: efibed::mmu::Level::Pte, flip: 1 << 1, moment: Moment::AfterFinish };
    let report = run(&Scenario::new(map).tamper(tamper));
    assert!(!report.is_clean());
    assert_eq!(calls(&report, Phase::Map), CALLS_BEFORE.map(|(service, status)| ("mapper", service, status)));
    let after: Vec<_> = report.calls.iter().filter(|call| call.phase == Phase::Finish).collect();
    assert_eq!(after.len(), 14);
    for call in after {
        assert_eq!((call.rip, call.status), (None, None));
        assert_eq!(call.reason.as_deref(), Some("the walk finds its pages wrong"));
    }
}

fn without_an_alias() {
    let report = run(&scenario(OVMF_2013).layout(Layout::Window));
    let reasons: Vec<_> =
        report.calls.iter().filter(|call| call.rip.is_none()).map(|it| it.reason.as_deref()).collect();
    assert_eq!(reasons, [Some("the tables have no 1:1 alias of firmware's code"); 2]);
    let reset = report.calls.last().unwrap();
    assert_eq!((reset.service, reset.status), ("ResetSystem", None));
    assert_eq!(reset.reason.as_deref(), Some("firmware reset the machine, which ends the run"));
}
