//! Firmware that does what it must not: under a mapping that survives it, and under one that does not, with whose fault it
//! was, and where, how and with which error code it faulted.

use std::time::Duration;

use efibed::check::{Phase, Rule, Statement, Witness};
use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};
use efibed::mmu::{ErrorCode, Level, Pa, Va};
use efibed::report::{Culprit, Report, RunVerdict};
use efibed::{
    CpuidRequest, DescriptorSize, FirmwareOptions, KernelOptions, Layout, Misbehaviour, Miscall, Moment, Scenario,
    ServiceMisbehaviour, Tamper,
};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<_> = ROWS
        .iter()
        .map(|row| {
            let name = format!("misbehaviour_{}", row.name);
            trial(name, Need::Kvm, move || row.hold())
        })
        .collect();
    for miscall in Miscall::ALL {
        let name = format!("miscall_{}_is_found", miscall.name());
        trials.push(trial(name, Need::Kvm, || is_found(*miscall)));
    }
    for (name, run) in [
        ("every_misbehaviour_is_tried", every_misbehaviour_is_tried as fn()),
        ("a_read_that_goes_astray_is_found_though_it_does_not_fault", a_read_that_goes_astray),
        ("a_service_that_never_returns_is_abandoned", a_service_that_never_returns),
        ("errors_are_no_findings_but_of_the_switch", errors),
        ("a_fault_at_what_is_owed_is_the_mapping_codes", a_fault_at_what_is_owed),
        ("after_a_fault_the_run_goes_on", after_a_fault_the_run_goes_on),
        ("the_calls_before_a_fault_stand", the_calls_before_a_fault_stand),
        ("descriptors_of_other_sizes_are_followed", descriptors_of_other_sizes),
        ("a_kernel_with_its_own_descriptor_size_is_found_out", a_kernel_with_its_own_size),
        ("firmwares_tables_behind_a_wrong_page_are_no_finding_of_their_own", tables_behind_a_wrong_page),
        ("firmware_refuses_the_version_it_reports", the_version_it_reports),
        ("what_firmware_cannot_do_here_is_not_done", what_firmware_cannot_do),
    ] {
        trials.push(trial(name, Need::Kvm, run));
    }
    trials
}

/// Firmware's data, a device right behind it, boot services, firmware's code.
fn firmware() -> MemoryMap {
    let device = MemoryDescriptor {
        att: MemoryAttribute::RUNTIME | MemoryAttribute::UNCACHEABLE,
        ..runtime(MemoryType::MMIO, 0x7e42_0000, 0x10)
    };
    let boot = MemoryDescriptor {
        att: MemoryAttribute::WRITE_BACK,
        ..runtime(MemoryType::BOOT_SERVICES_DATA, 0x40_0000, 0x40)
    };
    let descriptors = vec![runtime(DATA, 0x7e40_0000, 0x20), device, boot, runtime(CODE, 0x7e00_0000, 0x20)];
    MemoryMap::from_descriptors("firmware", descriptors)
}

const DATA_REGION: Option<usize> = Some(0);
const DEVICE_REGION: Option<usize> = Some(1);
const BOOT_REGION: Option<usize> = Some(2);
const CODE_REGION: Option<usize> = Some(3);
/// RUNTIME pages and boot services.
const PAGES: u64 = 0x20 + 0x10 + 0x40 + 0x20;

// The same map by the layouts' rules. `window`: the highest mapped end is 0x7e430000, so efi_va is 0xfffffffe81bd0000.
const WINDOW_DATA: u64 = 0xffff_fffe_fffd_0000;
const WINDOW_CODE: u64 = 0xffff_fffe_ffbd_0000;
// `linux`, from the last region to the first: code at -4G - 0x20000, brought down to 2 MiB; boot services, brought down; the
// device at PA modulo 2 MiB; data right below it.
const LINUX_CODE: u64 = 0xffff_fffe_ffe0_0000;
const LINUX_DATA: u64 = 0xffff_fffe_ffa0_0000;
/// Where in a page the stamp's `ret` is, and where GetTime's stub begins: behind the stamp.
const RET: u64 = 10;
const STUB: u64 = 16;

/// One misbehaviour.
struct Row {
    name: &'static str,
    /// As `[firmware]` has it.
    misbehaviour: &'static str,
    survives: fn(Scenario) -> Scenario,
    does_not: fn(Scenario) -> Scenario,
    /// What it then comes to.
    phase: Phase,
    access: &'static str,
    at: u64,
    error_code: u32,
    region: Option<usize>,
}

const ROWS: [Row; 18] = [
    Row {
        name: "reads_boot_services_in_the_switch",
        misbehaviour: "reads-boot-services",
        survives: linux,
        does_not: window,
        phase: Phase::Map,
        access: "supervisor read",
        at: 0x40_0000,
        error_code: 0x0,
        region: BOOT_REGION,
    },
    Row {
        name: "reads_boot_services_after_the_switch",
        misbehaviour: "reads-boot-services@GetVariable",
        survives: linux_without_finish,
        does_not: linux,
        phase: Phase::Finish,
        access: "supervisor read",
        at: 0x40_0000,
        error_code: 0x0,
        region: BOOT_REGION,
    },
    Row {
        name: "writes_boot_services_in_the_switch",
        misbehaviour: "writes-boot-services",
        survives: linux,
        does_not: window,
        phase: Phase::Map,
        access: "supervisor write",
        at: 0x40_0000,
        error_code: 0x2,
        region: BOOT_REGION,
    },
    Row {
        name: "writes_boot_services_after_the_switch",
        misbehaviour: "writes-boot-services@SetTime",
        survives: linux_without_finish,
        does_not: linux,
        phase: Phase::Finish,
        access: "supervisor write",
        at: 0x40_0000,
        error_code: 0x2,
        region: BOOT_REGION,
    },
    Row {
        name: "writes_page_zero",
        misbehaviour: "writes-page-zero",
        survives: linux,
        does_not: window,
        phase: Phase::Map,
        access: "supervisor write",
        at: 0x400,
        error_code: 0x2,
        region: None,
    },
    Row {
        name: "uses_a_physical_pointer",
        misbehaviour: "physical-pointer",
        survives: linux,
        does_not: window,
        phase: Phase::Finish,
        access: "supervisor read",
        at: 0x7e40_0000,
        error_code: 0x0,
        region: DATA_REGION,
    },
    Row {
        name: "uses_its_new_address_early",
        misbehaviour: "early-pointer",
        survives: linux,
        does_not: window,
        phase: Phase::Map,
        access: "supervisor read",
        at: WINDOW_DATA,
        error_code: 0x0,
        region: DATA_REGION,
    },
    Row {
        name: "writes_its_code",
        misbehaviour: "writes-code",
        survives: linux,
        does_not: linux_with_read_only_code,
        phase: Phase::Finish,
        access: "supervisor write",
        at: LINUX_CODE + 0xf00,
        error_code: 0x3,
        region: CODE_REGION,
    },
    Row {
        name: "executes_its_data",
        misbehaviour: "executes-data",
        survives: linux_without_nx,
        does_not: linux,
        phase: Phase::Finish,
        access: "supervisor fetch",
        at: LINUX_DATA + RET,
        error_code: 0x11,
        region: DATA_REGION,
    },
    Row {
        name: "executes_its_data_in_the_switch",
        misbehaviour: "executes-data@SetVirtualAddressMap",
        survives: window,
        does_not: linux,
        phase: Phase::Map,
        access: "supervisor fetch",
        at: 0x7e40_0000 + RET,
        error_code: 0x11,
        region: DATA_REGION,
    },
    Row {
        name: "crosses_a_seam",
        misbehaviour: "seam",
        survives: linux,
        does_not: packed_down,
        phase: Phase::Finish,
        access: "supervisor read",
        // The data, first in the list, ends where the addresses do.
        at: 0xffff_ffff_0000_0000,
        error_code: 0x0,
        region: DEVICE_REGION,
    },
    Row {
        name: "crosses_a_seam_under_window",
        misbehaviour: "seam@GetNextVariableName",
        survives: window,
        does_not: packed_down,
        phase: Phase::Finish,
        access: "supervisor read",
        at: 0xffff_ffff_0000_0000,
        error_code: 0x0,
        region: DEVICE_REGION,
    },
    Row {
        name: "lies_in_the_attributes_table",
        misbehaviour: "attributes-table",
        survives: window,
        does_not: linux,
        phase: Phase::Finish,
        access: "supervisor fetch",
        at: LINUX_CODE + STUB,
        error_code: 0x11,
        region: CODE_REGION,
    },
    Row {
        name: "lies_in_the_attributes_table_to_a_kernel_that_ignores_it",
        misbehaviour: "attributes-table",
        survives: linux_without_finish,
        does_not: linux,
        phase: Phase::Finish,
        access: "supervisor fetch",
        at: LINUX_CODE + STUB,
        error_code: 0x11,
        region: CODE_REGION,
    },
    Row {
        name: "jumps_to_its_physical_address",
        misbehaviour: "jumps-wild",
        survives: linux,
        does_not: window,
        phase: Phase::Finish,
        access: "supervisor fetch",
        at: 0x7e00_0000 + RET,
        error_code: 0x10,
        region: CODE_REGION,
    },
    Row {
        name: "jumps_to_its_new_address_early",
        misbehaviour: "jumps-wild@SetVirtualAddressMap",
        survives: linux,
        does_not: window,
        phase: Phase::Map,
        access: "supervisor fetch",
        at: WINDOW_CODE + RET,
        error_code: 0x10,
        region: CODE_REGION,
    },
    Row {
        name: "reads_past_its_argument",
        misbehaviour: "past-argument",
        survives: linux,
        does_not: linux_with_guard_page,
        phase: Phase::Finish,
        access: "supervisor read",
        // Known to the image alone: see `hold`.
        at: 0,
        error_code: 0x0,
        region: None,
    },
    // Nothing survives a wild pointer: the other run is one in which the service is not the guilty one.
    Row {
        name: "faults_in_the_middle",
        misbehaviour: "faults@QueryVariableInfo",
        survives: not_at_all,
        does_not: linux,
        phase: Phase::Finish,
        access: "supervisor read",
        at: 0x6666_dead_b000,
        error_code: 0x0,
        region: None,
    },
];

fn linux(scenario: Scenario) -> Scenario {
    scenario.layout(Layout::Linux)
}

fn window(scenario: Scenario) -> Scenario {
    scenario.layout(Layout::Window)
}

fn packed_down(scenario: Scenario) -> Scenario {
    scenario.layout(Layout::PackedDown)
}

/// As with efi=debug: boot services are kept, and the Memory Attributes Table is not applied.
fn linux_without_finish(scenario: Scenario) -> Scenario {
    linux(scenario).kernel(KernelOptions::default().finish(false))
}

fn linux_with_guard_page(scenario: Scenario) -> Scenario {
    linux(scenario).kernel(KernelOptions::default().guard_page(true))
}

fn linux_without_nx(scenario: Scenario) -> Scenario {
    linux(scenario).cpu(CpuidRequest::default().nx(false))
}

fn linux_with_read_only_code(scenario: Scenario) -> Scenario {
    let table = vec![attributes(CODE, 0x7e00_0000, 0x20, MemoryAttribute::READ_ONLY)];
    let map = scenario.map().clone().with_attributes_table(table);
    let misbehaves = scenario.firmware_options().clone();
    linux(Scenario::new(map)).firmware(misbehaves)
}

fn not_at_all(scenario: Scenario) -> Scenario {
    linux(Scenario::new(scenario.map().clone()))
}

impl Row {
    fn hold(&self) {
        let misbehaviour = self.misbehaviour.parse::<ServiceMisbehaviour>().unwrap();
        let scenario = Scenario::new(firmware()).misbehave(misbehaviour);
        let survived = run(&(self.survives)(scenario.clone()));
        survived.assert_clean();
        assert_eq!(survived.probes.pages_verified, PAGES);
        assert!(survived.faults.is_empty() && survived.skipped.iter().all(|it| !it.what.contains("misbehaves")));
        assert!(survived.calls.iter().all(|call| call.status != Some(ABORTED)));

        let report = run(&(self.does_not)(scenario));
        let rules: Vec<_> = report.findings.iter().map(|finding| (finding.rule, finding.phase)).collect();
        assert_eq!(rules, [(Rule::FirmwareFault, self.phase)], "{report:#?}");
        let [fault] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
        let record = &fault.record;
        let at = if self.misbehaviour == "past-argument" { guard_page(&report) } else { self.at };
        assert_eq!((fault.phase, record.access.to_string().as_str()), (self.phase, self.access));
        assert_eq!((record.virt, record.cr2), (Va(at), Va(at)), "{:#x}", record.virt);
        assert_eq!((record.fault.vector, record.fault.error_code.0), (14, self.error_code));
        assert_eq!(record.region, self.region);
        assert_eq!(fault.service, Some(misbehaviour.service().name()));
        assert_eq!(fault.culprit, Culprit::Firmware(misbehaviour.what()));

        let finding = &report.findings[0];
        // The fault names the region; the finding does not, since nothing is wrong with it.
        assert_eq!(
            (finding.virt, finding.error_code(), finding.region),
            (Some(Va(at)), Some(ErrorCode(self.error_code)), None)
        );
        assert_rows_agree(&report);
        assert!(
            finding.remedy.as_ref().is_some_and(|it| it.starts_with(misbehaviour.what().remedy())),
            "{:?}",
            finding.remedy
        );
        let Some(Statement::NoAccess(access, denied)) = &finding.expected else { panic!("{finding:?}") };
        assert_eq!((access.to_string().as_str(), *denied), (self.access, Va(at)));
        assert_eq!(finding.witnesses, [Witness::Mmu]);
        // The mapping is not to blame.
        assert_eq!(report.probes.pages_verified, PAGES);
        assert!(report.regions.iter().all(|region| region.verdict != efibed::report::Verdict::Wrong));
        assert_abandoned(&report, self.phase, misbehaviour.service().name());
    }
}

/// The end of GetTime's first argument.
fn guard_page(report: &Report) -> u64 {
    let call = report.calls.iter().find(|call| call.service == "GetTime" && call.phase == Phase::Finish).unwrap();
    let end = call.args[0] + 16;
    assert_eq!(end % 4096, 0);
    end
}

/// EFI_ABORTED (UEFI 2.10, appendix D).
const ABORTED: u64 = 1 << 63 | 21;

/// The service was abandoned, and none was called after it.
fn assert_abandoned(report: &Report, phase: Phase, service: &str) {
    let at = report.calls.iter().position(|call| call.status == Some(ABORTED)).unwrap();
    let (before, after) = report.calls.split_at(at);
    assert_eq!((after[0].phase, after[0].service), (phase, service));
    assert!(after[0].reason.as_deref().is_some_and(|reason| reason.starts_with("the guest abandoned it")));
    assert!(before.iter().all(|call| call.status.is_some() || call.rip.is_none()), "{before:?}");
    for call in &after[1..] {
        assert_eq!((call.rip, call.status), (None, None), "{call:?}");
        let reasons = ["the guest has given up on runtime services", "the tables have no 1:1 alias of firmware's code"];
        assert!(call.reason.as_deref().is_some_and(|reason| reasons.contains(&reason)), "{call:?}");
    }
}

fn run(scenario: &Scenario) -> Report {
    bed().run(scenario).unwrap_or_else(|error| panic!("{error}"))
}

fn rules(report: &Report) -> Vec<Rule> {
    report.findings.iter().map(|finding| finding.rule).collect()
}

fn every_misbehaviour_is_tried() {
    let elsewhere = [Misbehaviour::Errors, Misbehaviour::NeverReturns];
    for what in Misbehaviour::ALL.iter().filter(|what| !elsewhere.contains(what)) {
        let tried = ROWS.iter().any(|row| row.misbehaviour.parse::<ServiceMisbehaviour>().unwrap().what() == *what);
        assert!(tried, "{}", what.name());
    }
}

/// Boot services above the data, where firmware takes the device to be.
fn a_read_that_goes_astray() {
    let [data, device, boot, code] = firmware().descriptors().to_vec().try_into().unwrap();
    let map = MemoryMap::from_descriptors("astray", vec![boot, data, device, code]);
    let scenario = packed_down(Scenario::new(map)).misbehave(Misbehaviour::Seam);
    let report = run(&scenario);
    assert_eq!(rules(&report), [Rule::FirmwareAstray]);
    let finding = &report.findings[0];
    // Boot services lie at -4G - 0x40000 there.
    assert_eq!(finding.virt, Some(Va(0xffff_fffe_fffc_0003)));
    let physical = |pa| Some(Statement::Physical(Pa(pa)));
    assert_eq!((&finding.expected, &finding.observed), (&physical(0x7e42_0003), &physical(0x40_0003)));
    assert_eq!(report.translate(0xffff_fffe_fffc_0003), Some(Pa(0x40_0003)));
    assert!(report.faults.is_empty());
    run(&window(scenario)).assert_clean();
}

fn a_service_that_never_returns() {
    for (misbehaviour, phase) in [("never-returns", Phase::Finish), ("never-returns@SetVirtualAddressMap", Phase::Map)]
    {
        let misbehaviour = misbehaviour.parse::<ServiceMisbehaviour>().unwrap();
        let scenario = Scenario::new(firmware()).stretch_limit(Duration::from_millis(500));
        let report = run(&scenario.clone().misbehave(misbehaviour));
        assert_eq!(rules(&report), [Rule::FirmwareHang]);
        let finding = &report.findings[0];
        assert_eq!(finding.expected, Some(Statement::Returns(misbehaviour.service())));
        let observed = finding.observed.as_ref().unwrap().to_string();
        assert!(observed.contains("in ring 0 at RIP 0x"), "{observed}");
        assert_eq!(finding.remedy.as_deref(), Some(misbehaviour.what().remedy()));
        assert_eq!(finding.witnesses, [Witness::Run]);
        assert!(report.faults.is_empty());
        assert_eq!(report.probes.pages_verified, PAGES);
        assert_abandoned(&report, phase, misbehaviour.service().name());
        run(&scenario).assert_clean();
    }
}

fn errors() {
    let report = run(&linux(Scenario::new(firmware()).misbehave(Misbehaviour::Errors)));
    report.assert_clean();
    let after = calls(&report, Phase::Finish);
    assert_eq!(after[0], ("mapper", "GetTime", Some(1 << 63 | 7)));
    assert!(after[1..].iter().all(|(_, service, status)| *status == Some(0) || !service.contains("Time")));

    let misbehaviour = "errors@SetVirtualAddressMap".parse::<ServiceMisbehaviour>().unwrap();
    let report = run(&linux(Scenario::new(firmware()).misbehave(misbehaviour)));
    assert_eq!(rules(&report), [Rule::FirmwareError]);
    let after: Vec<_> = report.calls.iter().filter(|call| call.phase == Phase::Finish).collect();
    assert_eq!(after.len(), 14);
    assert!(after.iter().all(|it| it.reason.as_deref() == Some("SetVirtualAddressMap has not succeeded")));
}

/// SetVirtualAddressMap converts firmware's own pointer, in its code: where the 1:1 alias of that cannot be written, it
/// faults, and firmware did nothing wrong.
fn a_fault_at_what_is_owed() {
    let tamper = Tamper { virt: 0x7e00_0000, level: Level::Pte, flip: 1 << 1, moment: Moment::BeforeWalk };
    let report = run(&linux(Scenario::new(firmware()).tamper(tamper)));
    let fault = report.findings.iter().find(|finding| finding.rule == Rule::CallFault).unwrap();
    assert_eq!((fault.phase, fault.error_code(), fault.region), (Phase::Map, Some(ErrorCode(0x3)), CODE_REGION));
    assert!(report.findings.iter().any(|finding| finding.rule == Rule::NotWritable));
    let [record] = report.faults.iter().filter(|it| it.service.is_some()).collect::<Vec<_>>()[..] else {
        panic!("{:?}", report.faults)
    };
    assert_eq!((record.service, record.culprit), (Some("SetVirtualAddressMap"), Culprit::MappingCode));
    assert_eq!(record.record.virt.page(), Va(0x7e00_0000));
    assert_abandoned(&report, Phase::Map, "SetVirtualAddressMap");
}

/// Probes, phase `finish` and its probes come after a SetVirtualAddressMap that was abandoned; and the machine is fit for
/// another run.
fn after_a_fault_the_run_goes_on() {
    let well = run(&linux(Scenario::new(firmware())));
    well.assert_clean();
    let report = run(&linux(
        Scenario::new(firmware()).misbehave("faults@SetVirtualAddressMap".parse::<ServiceMisbehaviour>().unwrap()),
    ));
    assert_eq!(rules(&report), [Rule::FirmwareFault]);
    assert_eq!(report.probes, well.probes);
    assert_abandoned(&report, Phase::Map, "SetVirtualAddressMap");
    run(&linux(Scenario::new(firmware()))).assert_clean();
}

/// How much of the service's own work is done by then is held beside `misdeed`.
fn the_calls_before_a_fault_stand() {
    let misbehaviour = "faults@GetVariable".parse::<ServiceMisbehaviour>().unwrap();
    let report = run(&linux(Scenario::new(firmware()).misbehave(misbehaviour)));
    assert_eq!(rules(&report), [Rule::FirmwareFault]);
    assert_eq!(calls(&report, Phase::Map), CALLS_BEFORE.map(|(service, status)| ("mapper", service, status)));
    let clock: Vec<_> = CALLS_AFTER[..4].iter().map(|(service, status)| ("mapper", *service, *status)).collect();
    assert_eq!(calls(&report, Phase::Finish)[..4], clock);
    assert_abandoned(&report, Phase::Finish, "GetVariable");
}

fn descriptors_of_other_sizes() {
    for bytes in [40, 56, 4096] {
        let size = DescriptorSize::try_from(bytes).unwrap();
        for layout in [Layout::Linux, Layout::Window] {
            for map in [map(Q35_2G), firmware()] {
                let scenario = Scenario::new(map).layout(layout).sweep_limit(0x100);
                let report = run(&scenario.firmware(FirmwareOptions::default().descriptor_size(size)));
                report.assert_clean();
                let switch = report.calls.iter().find(|call| call.service == "SetVirtualAddressMap").unwrap();
                assert_eq!((switch.args[1], switch.status), (bytes as u64, Some(0)));
                assert_eq!(switch.args[0] % bytes as u64, 0);
            }
        }
    }
}

/// A kernel's mistakes in calling: just the one finding, and all else goes on, where the call gets that far.
fn is_found(miscall: Miscall) {
    let (rule, service, phase) = match miscall {
        Miscall::PhysicalAddress => (Rule::CallAddress, "GetTime", Phase::Finish),
        Miscall::OtherTables => (Rule::CallTables, "GetTime", Phase::Map),
        Miscall::MisalignedStack => (Rule::CallStack, "GetTime", Phase::Finish),
        Miscall::UnmappedBuffer => (Rule::CallBuffer, "GetTime", Phase::Finish),
        Miscall::Interrupts => (Rule::SwitchCall, "SetVirtualAddressMap", Phase::Map),
        _ => panic!("{miscall} needs a row here"),
    };
    let kernel = KernelOptions::default().miscall(miscall);
    let report = run(&linux(Scenario::new(firmware())).kernel(kernel.clone()));
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert_eq!((finding.rule, finding.phase), (rule, phase));
    assert!(finding.message.starts_with(service), "{}", finding.message);
    assert!(report.calls.iter().all(|call| call.rip.is_some()), "{:#?}", report.calls);
    assert!(report.faults.is_empty());

    // Where firmware is not mapped so, it does not come to the call's first instruction.
    let report = run(&window(Scenario::new(firmware())).kernel(kernel));
    let found = report.findings.iter().map(|finding| (finding.rule, finding.error_code())).collect::<Vec<_>>();
    match miscall {
        Miscall::PhysicalAddress | Miscall::OtherTables => {
            assert_eq!(found, [(rule, Some(ErrorCode(0x10)))]);
            assert_eq!(report.faults[0].culprit, Culprit::Kernel);
            assert_abandoned(&report, phase, service);
        }
        _ => assert_eq!(found, [(rule, None)]),
    }
}

/// sizeof(EFI_MEMORY_DESCRIPTOR) is 40, and firmware's are 48 apart; U-Boot's are 40 apart. What the kernel reads is one
/// finding, and nothing is mapped: such maps have descriptors of 2^51 pages.
fn a_kernel_with_its_own_size() {
    for (map, firmware_bytes, kernel_bytes) in [
        (firmware(), DescriptorSize::EDK2, DescriptorSize::U_BOOT),
        (firmware(), DescriptorSize::U_BOOT, DescriptorSize::EDK2),
        (map(Q35_2G), DescriptorSize::U_BOOT, DescriptorSize::EDK2),
        (map(Q35_SMM_2G), DescriptorSize::U_BOOT, DescriptorSize::EDK2),
        (map(OVMF_2013), DescriptorSize::EDK2, DescriptorSize::U_BOOT),
    ] {
        let kernel = KernelOptions::default().descriptor_size(kernel_bytes);
        let count = map.descriptors().len();
        let scenario = Scenario::new(map);
        let firmware = FirmwareOptions::default().descriptor_size(firmware_bytes).misbehave(Misbehaviour::Errors);
        for layout in [Layout::Linux, Layout::Window] {
            let report = run(&scenario.clone().layout(layout).firmware(firmware.clone()).kernel(kernel.clone()));
            assert_eq!(rules(&report), [Rule::DescriptorSize]);
            let finding = &report.findings[0];
            assert!(finding.message.contains(&format!("of firmware's {count} are lost")), "{}", finding.message);
            let of = |size: DescriptorSize| Some(Statement::DescriptorSize(size.get()));
            assert_eq!((&finding.expected, &finding.observed), (&of(firmware_bytes), &of(kernel_bytes)));
            assert_eq!(finding.witnesses, [Witness::Expectation]);
            // What was asked for and did not come about is told.
            assert!(report.skipped.iter().any(|it| it.what.contains("errors@GetTime")), "{:?}", report.skipped);
            assert!(report.calls.is_empty() && report.timing.total < Duration::from_secs(5));
        }
    }
    // One descriptor is read rightly, whatever the next one's distance.
    let one = MemoryMap::from_descriptors("one", vec![runtime(DATA, 0x7e40_0000, 4)]);
    let kernel = KernelOptions::default().descriptor_size(DescriptorSize::U_BOOT);
    assert_eq!(rules(&run(&linux(Scenario::new(one)).kernel(kernel))), []);
}

/// The page of firmware's tables is not mapped, or leads elsewhere: that is the finding, and what follows from it is not
/// another one.
fn tables_behind_a_wrong_page() {
    for (flip, rule) in [(1, Rule::NotPresent), (0x10_0000, Rule::WrongFrame)] {
        // Firmware's data is the first page of its region (see `placement`).
        let tamper = Tamper { virt: LINUX_DATA, level: Level::Pte, flip, moment: Moment::BeforeWalk };
        let report = run(&linux(Scenario::new(firmware()).tamper(tamper)));
        let of_map: Vec<_> = report.findings.iter().filter(|it| it.phase == Phase::Map).collect();
        assert_eq!((of_map[0].rule, of_map[0].virt, of_map[0].region), (rule, Some(Va(LINUX_DATA)), DATA_REGION));
        assert!(of_map[0].message.contains("; what follows from it: the "), "{}", of_map[0].message);
        assert!(!rules(&report).contains(&Rule::FirmwareTables), "{:?}", rules(&report));
        // Another page of the region has no tables in it.
        let tamper = Tamper { virt: LINUX_DATA + 0x1000, ..tamper };
        let report = run(&linux(Scenario::new(firmware()).tamper(tamper)));
        assert_eq!(report.findings[0].rule, rule);
        assert!(report.findings.iter().all(|it| !it.message.contains("follows")), "{:?}", rules(&report));
    }
}

/// U-Boot has reported 0, and EDK II takes nothing but 1.
fn the_version_it_reports() {
    let scenario = linux(Scenario::new(firmware()));
    let scenario = scenario.firmware(FirmwareOptions::default().descriptor_version(0));
    let report = run(&scenario);
    assert_eq!(rules(&report), [Rule::FirmwareError]);
    let switch = report.calls.iter().find(|call| call.service == "SetVirtualAddressMap").unwrap();
    assert_eq!((switch.args[2], switch.status), (0, INVALID_PARAMETER));

    let kernel = KernelOptions::default().descriptor_version(1);
    run(&scenario.kernel(kernel)).assert_clean();
}

fn what_firmware_cannot_do() {
    let map = MemoryMap::from_descriptors("apart", vec![runtime(CODE, 0x7e00_0000, 4), runtime(DATA, 0x7e80_0000, 4)]);
    let misbehaviours = [
        ("seam", "no RUNTIME region follows that of firmware's data"),
        ("reads-boot-services", "the map has no boot services that it could reach"),
        ("errors", ""),
    ];
    let scenario = misbehaviours.iter().fold(linux(Scenario::new(map)), |scenario, (misbehaviour, _)| {
        scenario.misbehave(misbehaviour.parse::<ServiceMisbehaviour>().unwrap())
    });
    let report = run(&scenario);
    assert_eq!((report.findings.len(), report.verdict()), (0, RunVerdict::Incomplete));
    let skipped: Vec<_> = report.skipped.iter().filter(|it| it.what.contains("misbehaves")).collect();
    assert_eq!(skipped.len(), 2);
    for (skipped, (misbehaviour, reason)) in skipped.into_iter().zip(misbehaviours) {
        assert!(skipped.what.contains(misbehaviour), "{}", skipped.what);
        assert_eq!(skipped.reason, reason);
    }
}
