//! Reports made by hand, for the tests of this room.

use std::time::Duration;

use efibed_guest::{Layout, LayoutMapper, LeafRule};

use super::{CallReport, Culprit, EngineName, FaultDetail, MapperName, RegionReport, Report, Timing, Verdict};
use crate::check::{
    FaultRecord, Finding, LeafCounts, Phase, ProbeCounts, Rule, SkipKind, Skipped, Statement, WalkStep, Witness,
};
use crate::memory_map::{MemoryAttribute, MemoryType, Region};
use crate::mmu::{Access, Cpu, ErrorCode, Fault, Level, Pa, Paging, Va};

/// Two regions of firmware's, both right, on a CPU that does not check what it says.
pub fn clean() -> Report {
    let told = Paging { maxphyaddr: 46, gbpages: false, smep: true, ..Paging::default() };
    Report {
        source: "maps/ovmf.txt".into(),
        mapper: mapper(Layout::Window, LeafRule::CoAligned),
        engine: EngineName::Kvm,
        cpu: Cpu { told, checks: Paging { gbpages: true, reserved_fault_sets_p: false, ..told } },
        regions: vec![
            region(0, MemoryType::CONVENTIONAL, 0, 160, None, Verdict::NotOwed),
            RegionReport {
                aliases: vec![0x7e00_0000],
                ..region(
                    1,
                    MemoryType::RUNTIME_SERVICES_DATA,
                    0x7e00_0000,
                    2080,
                    Some(0xffff_fffe_fe00_0000),
                    Verdict::Ok,
                )
            },
            region(2, MemoryType::RUNTIME_SERVICES_CODE, 0x7e90_0000, 16, Some(0xffff_fffe_fe90_0000), Verdict::Ok),
            region(3, MemoryType::RESERVED, 0xfec0_0000, 1, None, Verdict::NotOwed),
        ],
        probes: ProbeCounts { total: 2200, translated: 2096, faulted: 104, faulted_rightly: 104, pages_verified: 2096 },
        findings: Vec::new(),
        findings_omitted: 0,
        faults: Vec::new(),
        faults_omitted: 0,
        uncalled: None,
        calls: vec![CallReport {
            phase: Phase::Map,
            service: "SetVirtualAddressMap",
            rip: Some(0x7e90_0010),
            cr3: Some(0x12_3000),
            tables: "mapper",
            args: [0x60, 0x30, 1, 0x5000],
            status: Some(0),
            expected: Some(0),
            reason: None,
        }],
        expected_rules: None,
        skipped: vec![Skipped {
            kind: SkipKind::Machine,
            what: "fetches from pages that can be executed".into(),
            reason: "no memory is behind them".into(),
            count: 1,
        }],
        notes: vec!["descriptor 3 has no cacheability bits".into()],
        timing: Timing {
            build: Duration::from_micros(3100),
            map: Duration::from_micros(120),
            probe: Duration::from_micros(5000),
            check: Duration::from_micros(900),
            total: Duration::from_micros(9120),
        },
        runs: Vec::new(),
        virtual_map: Vec::new(),
        tables: Vec::new(),
        counters: Vec::new(),
    }
}

/// The bug of 2013: a 2 MiB leaf chosen by the virtual address alone.
pub fn reserved_bit() -> Report {
    let virt = 0xffff_ffff_0000_0000;
    let step = |level, entry_addr, entry, reserved| WalkStep { level, entry_addr: Pa(entry_addr), entry, reserved };
    let mut report = clean();
    report.mapper = mapper(Layout::PackedDown, LeafRule::VaOnly);
    report.cpu = Cpu::honest(Paging { maxphyaddr: 46, ..Paging::default() });
    report.regions[1] = region(1, MemoryType::RUNTIME_SERVICES_DATA, 0x7e10_7000, 2080, Some(virt), Verdict::Wrong);
    report.probes =
        ProbeCounts { total: 2200, translated: 1580, faulted: 620, faulted_rightly: 104, pages_verified: 1584 };
    report.findings = vec![Finding {
        rule: Rule::ReservedBit,
        phase: Phase::Map,
        region: Some(1),
        virt: Some(Va(virt)),
        pages: 512,
        expected: Some(Statement::Physical(Pa(0x7e10_7000))),
        observed: Some(Statement::faulted(Fault::page(ErrorCode(0x9)), Va(virt))),
        remedy: None,
        walk: vec![
            step(Level::Pml4e, 0x12_3ff8, 0x12_4063, 0),
            step(Level::Pdpte, 0x12_4fe0, 0x12_5063, 0),
            step(Level::Pde, 0x12_5000, 0x7e10_70e3, 0x10_6000),
        ],
        set_by: None,
        witnesses: vec![Witness::Mmu, Witness::Walk],
        message: "region 1 (RuntimeServicesData at 0x7e107000): 512 pages from VA 0xffffffff00000000 fault: a \
                  reserved bit is set on the way; expected PA 0x7e107000; found #PF 0x9 (P RSVD)"
            .into(),
    }];
    report.faults = vec![fault(virt, 0xb), fault(virt + 0x1000, 0xb)];
    report.faults_omitted = 510;
    report.skipped.clear();
    report.notes.clear();
    report
}

/// A finding that no page is named in, and a service not called for it.
pub fn kernel_overlap() -> Report {
    let mut report = clean();
    report.mapper = mapper(Layout::PackedUp, LeafRule::FourK);
    report.cpu = Cpu::honest(report.cpu.told);
    report.regions.drain(..2);
    report.regions[0].verdict = Verdict::Wrong;
    report.probes = ProbeCounts::default();
    report.findings = vec![Finding {
        rule: Rule::KernelOverlap,
        phase: Phase::Map,
        region: Some(2),
        virt: None,
        pages: 0,
        expected: None,
        observed: None,
        remedy: None,
        walk: Vec::new(),
        set_by: None,
        witnesses: vec![Witness::Walk],
        message: "the kernel's text is not mapped as it was".into(),
    }];
    let reason = Some("the walk finds its pages wrong".into());
    report.calls[0] =
        CallReport { rip: None, cr3: None, status: None, args: [0; 4], reason, ..report.calls[0].clone() };
    report.skipped.clear();
    report.notes.clear();
    report
}

/// What the walker can say without a guest.
pub fn walker() -> Report {
    let mut report = clean();
    report.engine = EngineName::Walker;
    report.cpu = Cpu::honest(Paging { la57: true, nxe: false, ..Paging::default() });
    report.probes = ProbeCounts::default();
    report.calls.clear();
    report.skipped.clear();
    report.notes.clear();
    report
}

/// A hundred regions, one of them wrong and one not mapped.
pub fn many_regions() -> Report {
    let mut report = kernel_overlap();
    let of = |index: usize| {
        let verdict = match index {
            70 => Verdict::Wrong,
            90 => Verdict::Unmapped,
            _ => Verdict::Ok,
        };
        let phys = 0x10_0000 * index as u64;
        let virt = (index != 90).then_some(0xffff_fffe_0000_0000 + phys);
        region(index, MemoryType::RUNTIME_SERVICES_DATA, phys, 1, virt, verdict)
    };
    report.regions = (0..100).map(of).collect();
    report
}

fn region(index: usize, ty: MemoryType, phys: u64, pages: u64, virt: Option<u64>, verdict: Verdict) -> RegionReport {
    let attribute = MemoryAttribute::RUNTIME | MemoryAttribute::from_bits_retain(0xf);
    let leaves = match virt {
        Some(_) => LeafCounts { of_4k: pages % 512, of_2m: pages / 512, of_1g: 0 },
        None => LeafCounts::default(),
    };
    let region = Region { index, ty, attribute, phys, pages, virt: 0 };
    RegionReport { region, line: Some(10 + index), virt, aliases: Vec::new(), leaves, verdict }
}

fn fault(virt: u64, code: u32) -> FaultDetail {
    let record = FaultRecord {
        virt: Va(virt),
        access: Access::write(),
        fault: Fault::page(ErrorCode(code)),
        cr2: Va(virt),
        rip: Va(0xffff_ffff_8000_1234),
        region: Some(1),
    };
    FaultDetail {
        phase: Phase::Map,
        record,
        instruction: Some("mov %rax,(%rax)".into()),
        service: None,
        culprit: Culprit::MappingCode,
    }
}

fn mapper(layout: Layout, leaf_rule: LeafRule) -> MapperName {
    LayoutMapper { layout, leaf_rule }.into()
}
