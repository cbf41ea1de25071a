//! How long a check takes, beside the floor: a bare virtual machine made, run and destroyed.
//!
//! Machines differ and are noisy: compare the lines of one run.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use efibed::mmu::Pa;
use efibed::unstable::machine::{Backing, CpuidRequest, Exit, Hypervisor, Internals, Machine, Slot};
use efibed::{Layout, LeafRule, Scenario, TestBed};

const OVMF_2013: &str = include_str!("../../tests/maps/ovmf-2013.toml");
const Q35_2G: &str = include_str!("../../tests/truth/q35-2g.memmap.txt");

/// 64 pages to be mapped, and room for the guest.
const SMALL: &str = r#"
[[descriptor]]
type = "ConventionalMemory"
phys = 0x100000
pages = 0x7000
attribute = "WB"
[[descriptor]]
type = "RuntimeServicesCode"
phys = 0x7e000000
pages = 0x20
attribute = "RUNTIME|WB"
[[descriptor]]
type = "RuntimeServicesData"
phys = 0x7e729000
pages = 0x20
attribute = "RUNTIME|WB"
"#;

/// What is checked, with all calls of runtime services.
const CHECKS: [(&str, &str, Layout); 4] = [
    ("64 pages, window", SMALL, Layout::Window),
    ("ovmf-2013, window", OVMF_2013, Layout::Window),
    ("q35-2g, window", Q35_2G, Layout::Window),
    ("q35-2g, linux", Q35_2G, Layout::Linux),
];

fn scenario(text: &str) -> Scenario {
    Scenario::parse("bench", text).expect("the map is a good one")
}

/// What every check needs at the least: a machine with as many slots, run to HLT.
fn bare_machine(hypervisor: &Hypervisor) {
    let internals = Internals { tss_pages_at: Pa(0xf000_0000), identity_map_page_at: Pa(0xf000_3000) };
    let mut machine = Machine::new(hypervisor, &CpuidRequest::default(), internals).expect("a machine");
    let memory = Backing::new(0x10_0000).expect("memory");
    assert!(memory.write(0, &[0xf4]), "HLT");
    let slots = [
        (0x1_0000, 0x4000, true),
        (0x1_4000, 0xe_0000, false),
        (0x7dc5_b000, 0x1000, false),
        (0x7fa6_5000, 0x1000, false),
    ];
    for (phys, bytes, readonly) in slots {
        machine.add_slot(Slot { phys: Pa(phys), bytes, readonly, memory: memory.clone(), offset: 0 }).expect("a slot");
    }
    // Real mode, at the first slot.
    let sregs = machine.sregs_mut();
    (sregs.cs.base, sregs.cs.selector) = (0x1_0000, 0x1000);
    let regs = machine.regs_mut();
    (regs.rip, regs.rflags) = (0, 2);
    let mut session = machine.session(Duration::from_secs(1)).expect("a watchdog");
    assert_eq!(session.run().expect("a run"), Exit::Halt);
}

fn checks(criterion: &mut Criterion) {
    let hypervisor = match Hypervisor::open() {
        Ok(hypervisor) => hypervisor,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let mut group = criterion.benchmark_group("check");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    group.bench_function("floor: bare machine", |b| b.iter(|| bare_machine(&hypervisor)));
    for (name, text, layout) in CHECKS {
        let scenario = scenario(text).layout(layout);
        group.bench_function(format!("{name}, cold"), |b| {
            b.iter_batched(
                TestBed::without_kvm,
                |bed| black_box(bed.run(&scenario).expect("a report")),
                BatchSize::PerIteration,
            )
        });
        let bed = TestBed::without_kvm();
        group.bench_function(format!("{name}, machine reused"), |b| {
            b.iter(|| black_box(bed.run(&scenario).expect("a report")))
        });
    }
    group.finish();
}

fn probes(criterion: &mut Criterion) {
    let bed = TestBed::without_kvm();
    let clean = scenario(OVMF_2013).layout(Layout::PackedDown);
    let faulting = clean.clone().leaf_rule(LeafRule::VaOnly);
    let mut group = criterion.benchmark_group("probes");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    for (name, scenario) in [("without faults", clean), ("a third of them faults", faulting)] {
        let report = match bed.run(&scenario) {
            Ok(report) => report,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        group.throughput(Throughput::Elements(report.probes.total));
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                (0..iterations).map(|_| bed.run(&scenario).expect("a report").timing.probe).sum()
            })
        });
    }
    group.finish();
}

criterion_group!(benches, checks, probes);
criterion_main!(benches);
