//! A campaign's runs in the guest, beside their floor: the bare trip into a guest and back, with as many accesses.
//!
//! The maps are synthesized, small and odd, and always the same: those that a layout has room for. Each is run as a campaign
//! does it: laid out, mapped in ring 3, every page reached once, finished, and every page reached again. The last lines are
//! maps a second, and the time over the floor's. Machines are seldom quiet, so there are several rounds, each with both;
//! compare ratios.

mod rounds;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use efibed::memory_map::synthesize::{Class, Synthesis};
use efibed::mmu::Pa;
use efibed::unstable::fuzz::in_guest;
use efibed::unstable::machine::{Backing, CpuidRequest, Exit, Hypervisor, Internals, Machine, Slot};
use efibed::{Layout, Scenario, TestBed};

/// The first so many that a layout has room for: what is refused takes next to no time.
const MAPS: usize = 256;
/// Seeds from 0 on that are tried for them.
const SEEDS: u64 = 16 * MAPS as u64;
const MAX_PAGES: u64 = 64;

const LAYOUTS: [Layout; 3] = [Layout::Window, Layout::PackedDown, Layout::Linux];

/// Runs of all maps for the ratio.
const ROUNDS: usize = 15;

/// Maps that come out clean, and how many accesses the guest makes for all of them; None: this machine runs no guest.
fn subjects(bed: &TestBed, layout: Layout) -> Option<(Vec<Scenario>, u64)> {
    let synthesis = Synthesis::new(Class::Odd).max_mapped_pages(MAX_PAGES);
    let (mut scenarios, mut accesses) = (Vec::new(), 0);
    for seed in 0..SEEDS {
        let scenario = in_guest(Scenario::new(synthesis.map(seed)).layout(layout));
        let report = bed.run(&scenario).inspect_err(|error| eprintln!("skipped: {error}")).ok()?;
        if report.is_clean() {
            accesses += report.probes.total;
            scenarios.push(scenario);
        }
        if scenarios.len() == MAPS {
            return Some((scenarios, accesses));
        }
    }
    panic!("{} of {SEEDS} maps are clean under {}", scenarios.len(), layout.name());
}

/// A machine in real mode that writes so many times to where no memory is, and halts.
struct Floor {
    machine: Machine,
    writes: u16,
}

impl Floor {
    /// Where the code is, and what its segments begin at.
    const SEGMENT: u16 = 0x1000;
    /// `mov [0x8000], eax; loop`; `hlt` (SDM vol. 2). Above the slot, which is a page long.
    const CODE: [u8; 7] = [0x66, 0xa3, 0x00, 0x80, 0xe2, 0xfa, 0xf4];

    fn new(writes: u64) -> Self {
        let hypervisor = Hypervisor::open().expect("/dev/kvm, as before");
        let internals = Internals { tss_pages_at: Pa(0xf000_0000), identity_map_page_at: Pa(0xf000_3000) };
        let mut machine = Machine::new(&hypervisor, &CpuidRequest::default(), internals).expect("a machine");
        let memory = Backing::new(0x1000).expect("memory");
        assert!(memory.write(0, &Self::CODE));
        let phys = Pa(u64::from(Self::SEGMENT) << 4);
        machine.add_slot(Slot { phys, bytes: 0x1000, readonly: false, memory, offset: 0 }).expect("a slot");
        let zone = phys.0 + 0x8000..phys.0 + 0x9000;
        machine.coalesce(std::slice::from_ref(&zone)).expect("a zone");
        Self { machine, writes: writes as u16 }
    }

    fn run(&mut self) {
        let base = u64::from(Self::SEGMENT) << 4;
        let sregs = self.machine.sregs_mut();
        for segment in [&mut sregs.cs, &mut sregs.ds] {
            (segment.base, segment.selector) = (base, Self::SEGMENT);
        }
        let regs = self.machine.regs_mut();
        (regs.rip, regs.rcx, regs.rflags) = (0, self.writes.into(), 2);
        let mut session = self.machine.session(Duration::from_secs(1)).expect("a watchdog");
        assert_eq!(session.run().expect("a run"), Exit::Halt);
        let mut written = 0;
        session.drain(|_, _| written += 1);
        assert_eq!(written, self.writes);
    }
}

fn guest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("guest");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).throughput(Throughput::Elements(MAPS as u64));
    for layout in LAYOUTS {
        let bed = TestBed::without_kvm();
        let Some((scenarios, accesses)) = subjects(&bed, layout) else { return };
        let mut floor = Floor::new(accesses / MAPS as u64);
        group.bench_function(format!("{}, floor", layout.name()), |b| b.iter(|| (0..MAPS).for_each(|_| floor.run())));
        group.bench_function(format!("{}, campaign", layout.name()), |b| {
            b.iter(|| scenarios.iter().for_each(|scenario| drop(black_box(bed.run(scenario)))));
        });
        tell_ratio(layout, &bed, &scenarios, &mut floor);
    }
}

/// The medians of rounds of all maps, the campaign's and the floor's in turn.
fn tell_ratio(layout: Layout, bed: &TestBed, scenarios: &[Scenario], floor: &mut Floor) {
    let accesses = format!("{} accesses a map", floor.writes);
    let round = || {
        let start = Instant::now();
        scenarios.iter().for_each(|_| floor.run());
        let bare = start.elapsed();
        let start = Instant::now();
        scenarios.iter().for_each(|scenario| drop(black_box(bed.run(scenario))));
        [bare, start.elapsed()]
    };
    rounds::tell(layout.name(), ROUNDS, scenarios.len(), round, &accesses);
}

criterion_group!(benches, guest);
criterion_main!(benches);
