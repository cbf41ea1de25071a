//! Machines with tiny guests, assembled by hand, in 64-bit mode.

#![expect(clippy::single_range_in_vec_init, reason = "one zone is a list of ranges, too")]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efibed::mmu::{Pa, Va};
use efibed::unstable::machine::msr::{IA32_LSTAR, IA32_PAT};
use efibed::unstable::machine::{
    AccessError, Backing, CpuidRequest, CreateError, Exit, Hypervisor, Internals, MAX_ZONES, Machine, MaxPhyAddr,
    PAGE_BYTES, RunError, Slot, kvm_regs, kvm_segment, kvm_sregs,
};
use efibed_tests::{Need, hypervisor, trial, trial_where};
use libtest_mimic::Trial;

/// All tests of this file.
pub fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident,)*) => {
            vec![$(trial(concat!("machine::", stringify!($name)), Need::Kvm, $name)),*]
        };
    }
    let mut trials = trials![
        a_halt_ends_the_run_after_it,
        port_writes_come_with_size_and_data,
        port_reads_are_answered_or_read_ones,
        reads_without_memory_are_answered_or_read_ones,
        writes_without_memory_and_to_readonly_memory_end_the_run,
        coalesced_writes_come_in_order_and_end_the_run_when_the_ring_is_full,
        a_coalesced_write_across_pages_becomes_two,
        as_many_zones_as_are_promised_can_be_had,
        zones_are_added_and_removed_one_by_one,
        zones_asked_for_again_after_a_reset_are_there_again,
        writes_nobody_drains_do_not_pile_up_for_ever,
        a_triple_fault_is_a_shutdown,
        a_fetch_where_there_is_no_memory_is_an_internal_error_that_says_so,
        the_watchdog_ends_a_spin_in_either_ring,
        the_watchdog_ends_a_vmcall,
        no_signal_ends_the_run_before_its_limit,
        an_endless_row_of_exits_ends_at_the_limit_too,
        two_machines_run_in_two_threads,
        a_reset_machine_is_as_a_new_one,
        what_is_set_for_good_outlasts_a_reset,
        what_only_ring_0_changes_is_left_once_where_it_is_vouched_for,
        registers_that_were_taken_once_are_taken_again_and_others_refused,
        a_machine_can_be_reset_before_and_after_each_kind_of_exit,
        memory_is_read_and_written_across_slots_and_not_beyond,
        slots_that_cannot_be_are_refused_with_numbers,
        internals_must_be_aligned_apart_and_below_4_gib,
        cpuid_says_the_width_asked_for,
        system_registers_that_cannot_be_are_refused_with_their_values,
        kvm_translates_by_the_registers_that_were_set,
        a_page_table_the_host_edits_is_seen_once_translations_are_forgotten,
        memory_that_is_put_back_after_a_reset_is_translated_anew,
        memory_that_is_not_put_back_after_a_reset_is_gone,
        steps_and_breakpoints_can_be_switched_off,
    ];
    trials.push(trial_where(
        "machine::a_page_table_the_host_edits_is_not_seen_before",
        "kvm that does not see what the host writes to tables",
        || read_in_turn(|_| {}) != SEEN_IN_TURN,
        a_page_table_the_host_edits_is_not_seen_before,
    ));
    trials.push(trial_where(
        "machine::memory_that_is_vouched_for_is_not_translated_anew",
        "kvm that does not see what the host writes to tables",
        || read_in_turn(|_| {}) != SEEN_IN_TURN,
        memory_that_is_vouched_for_is_not_translated_anew,
    ));
    trials.extend(HARD_TO_EMULATE.each_ref().map(|hard| {
        let name = format!("machine::an_instruction_kvm_cannot_emulate_is_named::{}", hard.name);
        let need = format!("kvm that cannot emulate {}", hard.name);
        trial_where(name, need, || !hard.is_executed(), || hard.assert_named())
    }));
    trials.extend([Debug::Step, Debug::Breakpoint].map(|debug| {
        let (name, need) = match debug {
            Debug::Step => ("machine::a_step_ends_the_run", "kvm that steps"),
            Debug::Breakpoint => ("machine::a_breakpoint_ends_the_run", "kvm with breakpoints"),
        };
        trial_where(name, need, move || !debug.is_ignored(), move || debug.assert_ends_the_run())
    }));
    trials
}

/// Guest-physical layout of these tests. Linear addresses below 1 GiB are physical ones.
const MEMORY_BYTES: u64 = 2 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x2_0000;
/// A read-only slot.
const READONLY: u64 = 0x100_0000;
/// No memory is here.
const NOWHERE: u64 = 0x1000_0000;
const INTERNALS: Internals = Internals { tss_pages_at: Pa(0xfeff_d000), identity_map_page_at: Pa(0xfeff_c000) };

/// For guests that end by themselves. 65,000 undrained writes have taken more than 10 s in an emulated KVM on a busy
/// machine.
const LIMIT: Duration = Duration::from_secs(60);
const HLT: u8 = 0xf4;
/// `jmp .`
const SPIN: [u8; 2] = [0xeb, 0xfe];

/// A machine with `code` at RIP, ready to run in ring 0.
fn guest(hypervisor: &Hypervisor, code: &[u8]) -> Machine {
    let mut machine = Machine::new(hypervisor, &CpuidRequest::default(), INTERNALS).unwrap();
    load(&mut machine, code);
    machine
}

fn load(machine: &mut Machine, code: &[u8]) {
    let memory = Backing::new(MEMORY_BYTES + PAGE_BYTES).unwrap();
    machine
        .add_slot(Slot { phys: Pa(0), bytes: MEMORY_BYTES, readonly: false, memory: Arc::clone(&memory), offset: 0 })
        .unwrap();
    machine
        .add_slot(Slot { phys: Pa(READONLY), bytes: PAGE_BYTES, readonly: true, memory, offset: MEMORY_BYTES })
        .unwrap();
    // Present, writable, user: the rings share their pages. 2-MiB leaves (PS).
    machine.write_u64(Pa(PML4), PDPT | 7).unwrap();
    machine.write_u64(Pa(PDPT), PD | 7).unwrap();
    for index in 0..512 {
        machine.write_u64(Pa(PD + index * 8), index << 21 | 0x87).unwrap();
    }
    machine.write(Pa(CODE), code).unwrap();
    long_mode(machine, 0);
}

fn long_mode(machine: &mut Machine, ring: u8) {
    let segment = |selector: u16, kind| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: selector | u16::from(ring),
        type_: kind,
        present: 1,
        dpl: ring,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let mut code = segment(0x8, 11);
    code.l = 1;
    let mut data = segment(0x10, 3);
    data.db = 1;
    let sregs = machine.sregs_mut();
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.tr.present = 1;
    (sregs.tr.type_, sregs.tr.s) = (11, 0);
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd00;
    let regs = machine.regs_mut();
    (regs.rip, regs.rsp, regs.rflags) = (CODE, STACK, 2);
}

fn run(machine: &mut Machine) -> Exit {
    machine.session(LIMIT).unwrap().run().unwrap()
}

fn a_halt_ends_the_run_after_it() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[HLT]);
    assert_eq!(run(&mut machine), Exit::Halt);
    assert_eq!(machine.regs().rip, CODE + 1);
}

fn port_writes_come_with_size_and_data() {
    let kvm = hypervisor();
    // mov $0x12345678,%eax; out %al,$0x42; out %ax,$0x42; out %eax,$0x42; hlt
    let code = [0xb8, 0x78, 0x56, 0x34, 0x12, 0xe6, 0x42, 0x66, 0xe7, 0x42, 0xe7, 0x42, HLT];
    let mut machine = guest(kvm, &code);
    let mut session = machine.session(LIMIT).unwrap();
    for (size, data) in [(1, 0x78), (2, 0x5678), (4, 0x1234_5678)] {
        let port = 0x42;
        assert_eq!(session.run().unwrap(), Exit::Out { port, size, data });
    }
    assert_eq!(session.run().unwrap(), Exit::Halt);
}

fn port_reads_are_answered_or_read_ones() {
    let kvm = hypervisor();
    // in $0x42,%eax; mov %eax,%ebx; in $0x42,%ax; hlt
    let mut machine = guest(kvm, &[0xe5, 0x42, 0x89, 0xc3, 0x66, 0xe5, 0x42, HLT]);
    assert!(!machine.answer_in(7));
    let mut session = machine.session(LIMIT).unwrap();
    let read = |size| Exit::In { port: 0x42, size, count: 1 };
    assert_eq!(session.run().unwrap(), read(4));
    assert!(session.answer_in(0xcafe_f00d));
    assert_eq!(session.run().unwrap(), read(2));
    assert_eq!(session.run().unwrap(), Exit::Halt);
    assert_eq!(session.regs().rbx, 0xcafe_f00d);
    assert_eq!(session.regs().rax, 0xcafe_ffff);
}

fn reads_without_memory_are_answered_or_read_ones() {
    let kvm = hypervisor();
    // mov (%rsi),%rax; mov (%rsi),%ecx; hlt
    let mut machine = guest(kvm, &[0x48, 0x8b, 0x06, 0x8b, 0x0e, HLT]);
    machine.regs_mut().rsi = NOWHERE;
    let mut session = machine.session(LIMIT).unwrap();
    let read = |len| Exit::MmioRead { pa: Pa(NOWHERE), len };
    assert_eq!(session.run().unwrap(), read(8));
    assert!(session.answer_mmio(0x1122_3344_5566_7788));
    assert_eq!(session.run().unwrap(), read(4));
    assert!(session.finish_io().unwrap());
    assert_eq!(session.regs().rcx, 0xffff_ffff);
    assert!(!session.answer_mmio(0));
    assert_eq!(session.run().unwrap(), Exit::Halt);
    assert_eq!(session.regs().rax, 0x1122_3344_5566_7788);
}

fn writes_without_memory_and_to_readonly_memory_end_the_run() {
    let kvm = hypervisor();
    // mov %rax,(%rsi); mov %ax,(%rdi); mov (%rdi),%rax; hlt
    let code = [0x48, 0x89, 0x06, 0x66, 0x89, 0x07, 0x48, 0x8b, 0x07, HLT];
    let mut machine = guest(kvm, &code);
    machine.write(Pa(READONLY), b"unharmed").unwrap();
    let regs = machine.regs_mut();
    (regs.rsi, regs.rdi, regs.rax) = (NOWHERE, READONLY, 0x0807_0605_0403_0201);
    let mut session = machine.session(LIMIT).unwrap();
    let written = |pa, len, data| Exit::MmioWrite { pa: Pa(pa), len, data };
    let all = [1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(session.run().unwrap(), written(NOWHERE, 8, all));
    let two = [1, 2, 0, 0, 0, 0, 0, 0];
    assert_eq!(session.run().unwrap(), written(READONLY, 2, two));
    assert_eq!(session.run().unwrap(), Exit::Halt);
    assert_eq!(&session.regs().rax.to_le_bytes(), b"unharmed");
}

/// Writes RCX times its own address, counting down by 8 from RSI, then halts.
/// `mov %rsi,(%rsi); sub $8,%rsi; dec %rcx; jnz .-10; hlt`
const WRITE_OWN_ADDRESSES: [u8; 13] = [0x48, 0x89, 0x36, 0x48, 0x83, 0xee, 0x08, 0x48, 0xff, 0xc9, 0x75, 0xf4, HLT];

fn coalesced_writes_come_in_order_and_end_the_run_when_the_ring_is_full() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &WRITE_OWN_ADDRESSES);
    let covered = machine.coalesce(&[NOWHERE..NOWHERE + 0x10_0000]).unwrap();
    assert_eq!(covered, [NOWHERE..NOWHERE + 0x10_0000]);
    let (first, count) = (NOWHERE + 0x8000, 1000);
    let regs = machine.regs_mut();
    (regs.rsi, regs.rcx) = (first, count);
    let mut seen = Vec::new();
    let mut exits = 0;
    let mut session = machine.session(LIMIT).unwrap();
    loop {
        let exit = session.run().unwrap();
        session.drain(|Pa(pa), data| {
            assert_eq!(data, pa.to_le_bytes());
            seen.push(pa);
        });
        match exit {
            Exit::MmioWrite { pa: Pa(pa), data, .. } => {
                assert_eq!(data, pa.to_le_bytes());
                seen.push(pa);
                exits += 1;
            }
            exit => break assert_eq!(exit, Exit::Halt),
        }
    }
    let expected: Vec<u64> = (0..count).map(|index| first - index * 8).collect();
    assert_eq!(seen, expected);
    assert!((1..20).contains(&exits), "{exits} exits");
}

fn a_coalesced_write_across_pages_becomes_two() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[0x48, 0x89, 0x06, HLT]);
    machine.coalesce(&[NOWHERE..NOWHERE + 0x2000]).unwrap();
    let regs = machine.regs_mut();
    (regs.rsi, regs.rax) = (NOWHERE + 0xffd, 0x0807_0605_0403_0201);
    assert_eq!(run(&mut machine), Exit::Halt);
    let mut seen = Vec::new();
    machine.drain(|Pa(pa), data| seen.push((pa, data.to_vec())));
    let parts = [(NOWHERE + 0xffd, vec![1, 2, 3]), (NOWHERE + 0x1000, vec![4, 5, 6, 7, 8])];
    assert_eq!(seen, parts);
}

fn as_many_zones_as_are_promised_can_be_had() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[HLT]);
    let covered = machine.coalesce(&[0..1 << 48]).unwrap();
    assert_eq!(covered, [0..(MAX_ZONES as u64) << 30]);
    assert_eq!(run(&mut machine), Exit::Halt);
}

fn zones_are_added_and_removed_one_by_one() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[0x48, 0x89, 0x36, HLT]);
    let (one, two) = (NOWHERE..NOWHERE + 0x1000, NOWHERE + 0x2000..NOWHERE + 0x3000);
    let sets = [vec![two.clone()], vec![one.clone(), two.clone()], vec![one.clone()], vec![]];
    for zones in sets {
        assert_eq!(machine.coalesce(&zones).unwrap(), zones);
        for pa in [one.start, two.start] {
            let regs = machine.regs_mut();
            (regs.rip, regs.rsi) = (CODE, pa);
            let exit = run(&mut machine);
            let mut collected = Vec::new();
            machine.drain(|Pa(pa), _| collected.push(pa));
            if zones.iter().any(|zone| zone.contains(&pa)) {
                assert_eq!((exit, collected), (Exit::Halt, vec![pa]));
            } else {
                assert!(matches!(exit, Exit::MmioWrite { .. }), "{exit:?}");
            }
        }
    }
}

fn zones_asked_for_again_after_a_reset_are_there_again() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[]);
    for _ in 0..3 {
        machine.coalesce(&[NOWHERE..NOWHERE + 0x1000]).unwrap();
        machine.write(Pa(CODE), &[0x48, 0x89, 0x36, HLT]).unwrap();
        machine.regs_mut().rsi = NOWHERE;
        assert_eq!(run(&mut machine), Exit::Halt);
        machine.reset().unwrap();
        machine.drain(|pa, _| panic!("a write to {pa:#x} was left"));
        load(&mut machine, &[]);
    }
}

fn writes_nobody_drains_do_not_pile_up_for_ever() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &WRITE_OWN_ADDRESSES);
    machine.coalesce(&[NOWHERE..NOWHERE + 0x100_0000]).unwrap();
    let regs = machine.regs_mut();
    (regs.rsi, regs.rcx) = (NOWHERE + 0xff_0000, 100_000);
    let mut session = machine.session(LIMIT).unwrap();
    let error = loop {
        match session.run() {
            Ok(exit) => assert!(matches!(exit, Exit::MmioWrite { .. }), "{exit:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RunError::Undrained { queued } if queued < 70_000));
}

fn a_triple_fault_is_a_shutdown() {
    let kvm = hypervisor();
    // ud2, with an empty IDT.
    let mut machine = guest(kvm, &[0x0f, 0x0b]);
    machine.sregs_mut().idt.limit = 0;
    assert_eq!(run(&mut machine), Exit::Shutdown);
}

/// An instruction that some KVMs must emulate in ring 0, and cannot.
struct Hard {
    name: &'static str,
    bytes: &'static [u8],
    /// Bits of CR4 without which it is undefined.
    cr4: u64,
}

const HARD_TO_EMULATE: [Hard; 3] = [
    Hard { name: "popcnt", bytes: &[0xf3, 0x48, 0x0f, 0xb8, 0xc3], cr4: 0 },
    // CR4.OSXSAVE
    Hard { name: "xgetbv", bytes: &[0x0f, 0x01, 0xd0], cr4: 1 << 18 },
    // CR4.SMAP
    Hard { name: "stac", bytes: &[0x0f, 0x01, 0xcb], cr4: CR4_SMAP },
];
const CR4_SMAP: u64 = 1 << 21;

impl Hard {
    /// How running it ends; `None` where the CPU has no such instruction.
    fn run(&self) -> Option<Exit> {
        let mut machine = guest(hypervisor(), &[self.bytes, &[HLT]].concat());
        if self.cr4 == CR4_SMAP && !machine.cpuid().smap {
            return None;
        }
        machine.sregs_mut().cr4 |= self.cr4;
        let regs = machine.regs_mut();
        // RFLAGS.AC: the guest's pages are user pages. XCR0.
        (regs.rflags, regs.rcx) = (2 | 1 << 18, 0);
        Some(run(&mut machine))
    }

    /// Any end but a halt is one to look at.
    fn is_executed(&self) -> bool {
        matches!(self.run(), None | Some(Exit::Halt))
    }

    fn assert_named(&self) {
        let Some(Exit::InternalError(error)) = self.run() else {
            panic!("neither executed nor an internal error");
        };
        assert_eq!((error.suberror, error.rip, error.cpl), (1, CODE, 0));
        assert_eq!((error.pa, error.backed), (Some(Pa(CODE)), true));
        assert_eq!(error.bytes, self.bytes);
        let text = error.instruction.as_deref().unwrap();
        assert!(text.starts_with(self.name), "{text}");
        assert!(error.to_string().contains(self.name), "{error}");
    }
}

fn a_fetch_where_there_is_no_memory_is_an_internal_error_that_says_so() {
    let kvm = hypervisor();
    // jmp *%rsi
    let mut machine = guest(kvm, &[0xff, 0xe6]);
    machine.regs_mut().rsi = NOWHERE;
    let Exit::InternalError(error) = run(&mut machine) else {
        panic!("no internal error");
    };
    assert_eq!(error.rip, NOWHERE);
    assert_eq!((error.pa, error.backed), (Some(Pa(NOWHERE)), false));
    assert!(error.bytes.is_empty(), "{:x?}", error.bytes);
    assert!(error.to_string().contains("no memory at physical 0x10000000"), "{error}");
}

fn the_watchdog_ends_a_spin_in_either_ring() {
    let kvm = hypervisor();
    for ring in [0, 3] {
        let mut machine = guest(kvm, &SPIN);
        long_mode(&mut machine, ring);
        assert_watchdog(&mut machine, ring);
    }
}

/// Some KVMs spin on `vmcall` for ever instead of answering it.
fn the_watchdog_ends_a_vmcall() {
    let kvm = hypervisor();
    // vmcall; jmp .-3
    let mut machine = guest(kvm, &[0x0f, 0x01, 0xc1, 0xeb, 0xfb]);
    assert_watchdog(&mut machine, 0);
}

fn assert_watchdog(machine: &mut Machine, ring: u8) {
    let limit = Duration::from_millis(30);
    let begun = Instant::now();
    let mut session = machine.session(limit).unwrap();
    for _ in 0..2 {
        let exit = session.run().unwrap();
        let Exit::Watchdog { rip, cpl, .. } = exit else {
            panic!("{exit:?}");
        };
        assert!((CODE..CODE + 5).contains(&rip), "{rip:#x}");
        assert_eq!(cpl, ring);
    }
    assert!(begun.elapsed() >= limit);
    assert!(begun.elapsed() < LIMIT);
}

/// Neither someone else's signal nor the watchdog's own, left over from another session.
fn no_signal_ends_the_run_before_its_limit() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &SPIN);
    // The watchdog takes its signal with the first session.
    drop(machine.session(LIMIT).unwrap());
    let mut signals: Vec<i32> = (libc::SIGRTMIN()..=libc::SIGRTMAX()).filter(|&signal| is_handled(signal)).collect();
    assert_eq!(signals.len(), 1, "the watchdog's, and no other: {signals:?}");
    handle(libc::SIGUSR1);
    signals.push(libc::SIGUSR1);

    let limit = Duration::from_millis(100);
    // SAFETY: pthread_self has no conditions.
    let runner = unsafe { libc::pthread_self() };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(5));
                for &signal in &signals {
                    // SAFETY: the runner waits for this thread, so it is alive; the signal has a handler.
                    unsafe { libc::pthread_kill(runner, signal) };
                }
            }
        });
        let exit = machine.session(limit).unwrap().run().unwrap();
        assert!(matches!(exit, Exit::Watchdog { .. }), "{exit:?}");
    });
    assert!(begun.elapsed() >= limit);
}

fn is_handled(signal: i32) -> bool {
    // SAFETY: all-zero is a valid sigaction, and it outlives the call, which changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction != libc::SIG_DFL
    }
}

/// Gives a signal a handler, and no SA_RESTART: it interrupts what it meets.
fn handle(signal: i32) {
    extern "C" fn do_nothing(_: i32) {}
    // SAFETY: all-zero is a valid sigaction, and it outlives the call; the handler may run at any time.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = do_nothing as extern "C" fn(i32) as usize;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    assert_eq!(result, 0);
}

fn an_endless_row_of_exits_ends_at_the_limit_too() {
    let kvm = hypervisor();
    // out %al,$0x42; jmp .-2
    let mut machine = guest(kvm, &[0xe6, 0x42, 0xeb, 0xfc]);
    let mut session = machine.session(Duration::from_millis(30)).unwrap();
    while matches!(session.run().unwrap(), Exit::Out { .. }) {}
    assert!(matches!(session.run().unwrap(), Exit::Watchdog { .. }));
}

fn two_machines_run_in_two_threads() {
    let kvm = hypervisor();
    let (mut spinning, mut halting) = (guest(kvm, &SPIN), guest(kvm, &[HLT]));
    let run = |machine: &mut Machine| {
        let limit = Duration::from_millis(50);
        machine.session(limit).unwrap().run().unwrap()
    };
    std::thread::scope(|scope| {
        let spins = scope.spawn(move || run(&mut spinning));
        let halts = scope.spawn(move || run(&mut halting));
        assert_eq!(halts.join().unwrap(), Exit::Halt);
        let exit = spins.join().unwrap();
        assert!(matches!(exit, Exit::Watchdog { .. }), "{exit:?}");
    });
}

fn a_reset_machine_is_as_a_new_one() {
    let kvm = hypervisor();
    let mut new = Machine::new(kvm, &CpuidRequest::default(), INTERNALS).unwrap();
    let mut used = guest(kvm, &[]);
    spoil(&mut used);
    let spoiled = Traces::of(&mut used);
    used.reset().unwrap();

    let shown = (used.regs(), used.sregs());
    assert_eq!(shown, (new.regs(), new.sregs()));
    let fresh = Traces::of(&mut new);
    spoiled.assert_differ_everywhere(&fresh);
    Traces::of(&mut used).assert_equal(&fresh);
    assert_eq!(used.slots().count(), 0);
    assert!(!used.is_backed(Pa(CODE)));
    used.drain(|pa, _| panic!("a write to {pa:#x} was left"));

    // mov %rsi,(%rsi); hlt: no zone takes the write any more, and nothing pending comes first.
    load(&mut used, &[0x48, 0x89, 0x36, HLT]);
    let mut byte = [0];
    used.read(Pa(CODE + 4), &mut byte).unwrap();
    assert_eq!(byte, [0], "memory of the last guest");
    used.regs_mut().rsi = NOWHERE;
    let mut session = used.session(LIMIT).unwrap();
    let exit = session.run().unwrap();
    assert!(matches!(exit, Exit::MmioWrite { pa: Pa(NOWHERE), .. }), "{exit:?}");
    assert_eq!(session.run().unwrap(), Exit::Halt);

    // What only a guest can see.
    let spoiled = SeenInside::by_the_spoiled_guest(kvm);
    used.reset().unwrap();
    let [used, new] = [&mut used, &mut new].map(SeenInside::by_a_guest_of);
    spoiled.assert_differ_everywhere(&new);
    assert_eq!(used, new);
}

/// Where [`LOOK`] writes to.
const SEEN: u64 = 0x3_0000;
/// Writes debug registers, the size of the states in XCR0, and FPU and SSE registers to RDI.
const LOOK: [u8; 57] = [
    0x0f, 0x21, 0xc0, 0x48, 0x89, 0x07, // mov %db0,%rax; mov %rax,(%rdi)
    0x0f, 0x21, 0xc8, 0x48, 0x89, 0x47, 0x08, // and so on
    0x0f, 0x21, 0xd0, 0x48, 0x89, 0x47, 0x10, //
    0x0f, 0x21, 0xd8, 0x48, 0x89, 0x47, 0x18, //
    0x0f, 0x21, 0xf0, 0x48, 0x89, 0x47, 0x20, // %db6
    0x0f, 0x21, 0xf8, 0x48, 0x89, 0x47, 0x28, // %db7
    0xb8, 0x0d, 0x00, 0x00, 0x00, // mov $0xd,%eax
    0x31, 0xc9, 0x0f, 0xa2, // xor %ecx,%ecx; cpuid
    0x0f, 0xae, 0x47, 0x40, // fxsave 0x40(%rdi)
    0x89, 0x5f, 0x30, // mov %ebx,0x30(%rdi)
];

/// What a guest can see of its vCPU.
#[derive(Debug, PartialEq, Eq)]
struct SeenInside {
    /// DB0 to DB3, DB6, DB7; EBX of CPUID leaf 0xD, which follows XCR0.
    registers: [u64; 7],
    fxsave: Vec<u8>,
}

impl SeenInside {
    fn by_a_guest_of(machine: &mut Machine) -> Self {
        load(machine, &[&LOOK[..], &[HLT]].concat());
        machine.regs_mut().rdi = SEEN;
        assert_eq!(run(machine), Exit::Halt);
        Self::in_memory(machine)
    }

    fn by_the_spoiled_guest(kvm: &Hypervisor) -> Self {
        let mut machine = guest(kvm, &[]);
        spoil(&mut machine);
        Self::in_memory(&machine)
    }

    fn in_memory(machine: &Machine) -> Self {
        let registers = [0, 8, 16, 24, 32, 40, 48].map(|at| machine.read_u64(Pa(SEEN + at)).unwrap());
        let mut fxsave = vec![0; 512];
        machine.read(Pa(SEEN + 0x40), &mut fxsave).unwrap();
        Self { registers, fxsave }
    }

    /// There must be something to restore.
    fn assert_differ_everywhere(&self, other: &Self) {
        assert_ne!(self.registers, other.registers);
        assert_ne!(self.fxsave, other.fxsave);
    }
}

/// What the host can see of a vCPU.
struct Traces {
    regs: kvm_regs,
    sregs: kvm_sregs,
    /// `kvm_vcpu_events`, as text.
    events: String,
    /// All that can be read, whether KVM lists them or not.
    msrs: Vec<(u32, u64)>,
}

/// Where there are MSRs: Intel's, the hypervisors', AMD's.
const MSRS: [Range<u32>; 5] =
    [0..0x1000, 0x4000_0000..0x4000_0200, 0x4b56_4d00..0x4b56_4d10, 0xc000_0000..0xc000_0200, 0xc001_0000..0xc001_0300];
/// TSC, MPERF, APERF, the TSC deadline and Hyper-V's two clocks change by themselves.
const CLOCKS: [u32; 6] = [0x10, 0xe7, 0xe8, 0x6e0, 0x4000_0010, 0x4000_0020];
/// An MTRR: those are not on KVM's list.
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;

impl Traces {
    fn of(machine: &mut Machine) -> Self {
        machine.commit_registers().unwrap();
        // What is shown may be newer than what KVM holds. It shows its own when it refuses others: paging without
        // protection (SDM vol. 3A, 2.5, CR0.PG).
        machine.sregs_mut().cr0 = 0x8000_0010;
        machine.commit_registers().unwrap_err();
        let indices = MSRS.into_iter().flatten().filter(|index| !CLOCKS.contains(index));
        Self {
            regs: machine.regs(),
            sregs: machine.sregs(),
            events: format!("{:?}", machine.events().unwrap()),
            msrs: indices.filter_map(|index| Some((index, machine.get_msr(index).ok()?))).collect(),
        }
    }

    fn msr(&self, wanted: u32) -> u64 {
        self.msrs.iter().find(|(index, _)| *index == wanted).unwrap().1
    }

    fn assert_equal(&self, other: &Self) {
        assert_eq!(self.regs, other.regs);
        assert_eq!(self.sregs, other.sregs);
        assert_eq!(self.events, other.events);
        for (one, other) in self.msrs.iter().zip(&other.msrs) {
            assert_eq!(one, other, "MSR {:#x}", one.0);
        }
        assert_eq!(self.msrs.len(), other.msrs.len());
    }

    /// There must be something to restore.
    fn assert_differ_everywhere(&self, other: &Self) {
        assert_ne!(self.regs, other.regs);
        assert_ne!(self.sregs, other.sregs);
        assert_ne!(self.events, other.events);
        for index in [IA32_LSTAR, IA32_PAT, IA32_MTRR_DEF_TYPE] {
            assert_ne!(self.msr(index), other.msr(index), "MSR {index:#x}");
        }
    }
}

/// Leaves traces of every kind, and a read unanswered in the middle of an instruction.
fn spoil(machine: &mut Machine) {
    let to_ring_sse_and_debug = [
        0x48, 0x89, 0x36, // mov %rsi,(%rsi)
        0x0f, 0x10, 0x07, // movups (%rdi),%xmm0
        0x0f, 0x23, 0xc6, // mov %rsi,%db0
        0x0f, 0x30, // wrmsr
    ];
    let from_nowhere = [
        0xb9, 0x82, 0x00, 0x00, 0x00, // mov $0x82,%ecx
        0xf3, 0xa4, // rep movsb
        HLT,
    ];
    machine.write(Pa(CODE), &[&to_ring_sse_and_debug[..], &LOOK, &from_nowhere].concat()).unwrap();
    machine.write(Pa(SEEN), &[0xaa; 16]).unwrap();
    machine.coalesce(&[NOWHERE..NOWHERE + 0x10_0000]).unwrap();
    machine.set_msr(IA32_PAT, 0x0007_0406_0007_0401).unwrap();
    machine.set_msr(IA32_MTRR_DEF_TYPE, 0xc06).unwrap();
    machine.sregs_mut().fs.base = 0x1234_5000;
    let regs = machine.regs_mut();
    (regs.rsi, regs.rdi) = (NOWHERE, SEEN);
    // A canonical address.
    (regs.rcx, regs.rdx, regs.rax) = (u64::from(IA32_LSTAR), 0xffff_8000, 0x1234_5678);
    (regs.r8, regs.r15, regs.rflags) = (8, 15, 0xcd7 & !0x100 & !0x400);
    let exit = run(machine);
    assert!(matches!(exit, Exit::MmioRead { .. }), "{exit:?}");
    assert_eq!(machine.get_msr(IA32_LSTAR).unwrap(), 0xffff_8000_1234_5678);
    let mut events = machine.events().unwrap();
    (events.exception.injected, events.exception.nr) = (1, 13);
    events.exception.has_error_code = 1;
    machine.set_events(&events).unwrap();
    machine.debug(true, &[]).unwrap();
}

fn what_is_set_for_good_outlasts_a_reset() {
    let mut machine = guest(hypervisor(), &[HLT]);
    let missing = machine.take_over_xcr0();
    let size_of_state = |machine: &mut Machine| {
        // mov $13,%eax; xor %ecx,%ecx; cpuid; hlt: EBX is what the states in XCR0 take (SDM vol. 2A, CPUID leaf 0DH).
        load(machine, &[0xb8, 0x0d, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, HLT]);
        assert_eq!(run(machine), Exit::Halt);
        machine.regs().rbx
    };
    machine.keep_msr(IA32_LSTAR, 0x1234_5000).unwrap();
    machine.reset().unwrap();
    let before = size_of_state(&mut machine);
    for other in [0x1234_5000, 0, 0x1234_6000] {
        machine.set_msr(IA32_LSTAR, other).unwrap();
        machine.reset().unwrap();
        assert_eq!(machine.get_msr(IA32_LSTAR).unwrap(), 0x1234_5000);
        assert_eq!(machine.kept_msr(IA32_LSTAR), Some(0x1234_5000));
        assert_eq!((machine.take_over_xcr0(), size_of_state(&mut machine)), (missing, before));
        machine.reset().unwrap();
    }
}

fn what_only_ring_0_changes_is_left_once_where_it_is_vouched_for() {
    let kvm = hypervisor();
    let mut new = Machine::new(kvm, &CpuidRequest::default(), INTERNALS).unwrap();
    let mut used = guest(kvm, &[]);
    spoil(&mut used);
    used.set_msr(IA32_LSTAR, 0x1234_5000).unwrap();
    used.keep_ring_0s();
    used.reset().unwrap();
    assert_eq!(used.get_msr(IA32_LSTAR).unwrap(), 0x1234_5000);
    let of_ring_3 = |machine: &Machine| (machine.regs(), machine.sregs(), machine.fxsave(), machine.events().unwrap());
    assert_eq!(of_ring_3(&used), of_ring_3(&new));
    used.reset().unwrap();
    Traces::of(&mut used).assert_equal(&Traces::of(&mut new));
}

fn registers_that_were_taken_once_are_taken_again_and_others_refused() {
    /// SDM vol. 3A, 2.5.
    const CR0_WP: u64 = 1 << 16;
    let mut machine = guest(hypervisor(), &[HLT]);
    let fine = machine.sregs();
    for _ in 0..2 {
        *machine.sregs_mut() = fine;
        machine.try_registers().unwrap();
        assert_eq!(run(&mut machine), Exit::Halt);
        // Paging without protection.
        machine.sregs_mut().cr0 = 0x8000_0010;
        assert!(machine.try_registers().is_err());
        assert_ne!(machine.sregs().cr0, 0x8000_0010, "refused, yet shown");
        machine.regs_mut().rip = CODE;
    }
    // They are given to KVM nevertheless, where it has others by now.
    machine.sregs_mut().cr0 ^= CR0_WP;
    machine.commit_registers().unwrap();
    *machine.sregs_mut() = fine;
    machine.try_registers().unwrap();
    assert_eq!((run(&mut machine), machine.sregs().cr0), (Exit::Halt, fine.cr0));
}

fn a_machine_can_be_reset_before_and_after_each_kind_of_exit() {
    let kvm = hypervisor();
    let mut machine = Machine::new(kvm, &CpuidRequest::default(), INTERNALS).unwrap();
    machine.reset().unwrap();
    let codes: [&[u8]; 5] = [&[0x0f, 0x0b], &SPIN, &[0xe5, 0x42], &[0xe6, 0x42], &[HLT]];
    for code in codes {
        load(&mut machine, code);
        let _ = machine.session(Duration::from_millis(20)).unwrap().run();
        machine.reset().unwrap();
        load(&mut machine, &[HLT]);
        assert_eq!(run(&mut machine), Exit::Halt, "after {code:x?}");
        machine.reset().unwrap();
    }
}

fn memory_is_read_and_written_across_slots_and_not_beyond() {
    let kvm = hypervisor();
    let mut machine = Machine::new(kvm, &CpuidRequest::default(), INTERNALS).unwrap();
    let memory = Backing::new(0x3000).unwrap();
    // The same first page twice, and the second below the first.
    for (phys, offset) in [(0x2000, 0), (0x1000, 0x1000), (0x8000, 0)] {
        let slot = Slot { phys: Pa(phys), bytes: 0x1000, readonly: true, memory: Arc::clone(&memory), offset };
        machine.add_slot(slot).unwrap();
    }
    machine.write(Pa(0x1ffd), &[1, 2, 3, 4, 5, 6]).unwrap();
    let mut bytes = [0; 6];
    machine.read(Pa(0x1ffd), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6]);
    assert_eq!(machine.read_u64(Pa(0x8000)), Some(0x06_0504));
    assert_eq!(machine.read_u64(Pa(0x1ffd)), Some(0x0605_0403_0201));
    machine.write_u64(Pa(0x2008), 0x1122).unwrap();
    assert_eq!(machine.read_u64(Pa(0x8008)), Some(0x1122));

    let error = machine.write(Pa(0x2ffe), &[7; 8]).unwrap_err();
    let (phys, wanted, completed) = (0x2ffe, 8, 2);
    let expected = AccessError { phys: Pa(phys), wanted, completed };
    assert_eq!(error, expected);
    for nowhere in [0, 0xff8, 0x3000, 0x2ff9, 0x9000, u64::MAX, u64::MAX - 7] {
        assert_eq!(machine.read_u64(Pa(nowhere)), None, "{nowhere:#x}");
        assert!(machine.write_u64(Pa(nowhere), 0).is_err(), "{nowhere:#x}");
    }
    assert!(machine.is_backed(Pa(0x1000)) && machine.is_backed(Pa(0x2fff)));
    assert!(!machine.is_backed(Pa(0xfff)) && !machine.is_backed(Pa(0x3000)));
    memory.clear().unwrap();
    assert_eq!(machine.read_u64(Pa(0x2008)), Some(0));
}

fn slots_that_cannot_be_are_refused_with_numbers() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[HLT]);
    let memory = Backing::new(0x2000).unwrap();
    let mut add = |phys, bytes, offset| {
        let slot = Slot { phys: Pa(phys), bytes, readonly: false, memory: Arc::clone(&memory), offset };
        machine.add_slot(slot).unwrap_err().to_string()
    };
    let unaligned = add(0x1_0000_0800, 0x1000, 0);
    assert!(unaligned.contains("0x100000800"), "{unaligned}");
    let empty = add(0x1_0000_0000, 0, 0);
    assert!(empty.contains("empty"), "{empty}");
    let wraps = add(0xffff_ffff_ffff_f000, 0x2000, 0);
    assert!(wraps.contains("past the end"), "{wraps}");
    let beyond = add(0x1_0000_0000, 0x2000, 0x1000);
    assert!(beyond.contains("0x3000 of a backing of 0x2000"), "{beyond}");
    let overlap = add(MEMORY_BYTES - 0x1000, 0x2000, 0);
    assert!(overlap.contains("overlaps 0x0..0x200000"), "{overlap}");
    let internal = add(INTERNALS.tss_pages_at.0, 0x1000, 0);
    assert!(internal.contains("KVM's own"), "{internal}");
    assert_eq!(run(&mut machine), Exit::Halt);
}

fn internals_must_be_aligned_apart_and_below_4_gib() {
    let kvm = hypervisor();
    let good = INTERNALS.tss_pages_at.0;
    for (tss, identity) in [(good + 1, 0x1000), (good, good + 0x2000), (0xffff_e000, 0x1000), (0, 0x8000)] {
        let internals = Internals { tss_pages_at: Pa(tss), identity_map_page_at: Pa(identity) };
        let error = Machine::new(kvm, &CpuidRequest::default(), internals).err();
        assert!(matches!(error, Some(CreateError::Internals { .. })), "{internals:x?}");
    }
}

fn cpuid_says_the_width_asked_for() {
    let kvm = hypervisor();
    for bits in [36, 40, 52] {
        let request = CpuidRequest::default().maxphyaddr(MaxPhyAddr::new(bits).unwrap()).gbpages(false);
        let machine = Machine::new(kvm, &request, INTERNALS).unwrap();
        assert_eq!(machine.cpuid().maxphyaddr, bits);
        assert!(!machine.cpuid().gbpages);
    }
}

fn system_registers_that_cannot_be_are_refused_with_their_values() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[HLT]);
    // Paging without protection (SDM vol. 3A, 2.5, CR0.PG).
    machine.sregs_mut().cr0 = 0x8000_0010;
    let error = machine.session(LIMIT).unwrap().run().unwrap_err();
    let RunError::SystemRegisters(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.cr0, 0x8000_0010);
    machine.sregs_mut().cr0 = 0x8000_0010;
    assert!(machine.commit_registers().is_err());
    assert_ne!(machine.sregs().cr0, 0x8000_0010, "refused, yet shown");
    long_mode(&mut machine, 0);
    machine.commit_registers().unwrap();
    assert_eq!(run(&mut machine), Exit::Halt);
}

fn kvm_translates_by_the_registers_that_were_set() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &[HLT]);
    assert_eq!(machine.translate(Va(NOWHERE + 0x123)).unwrap(), Some(Pa(NOWHERE + 0x123)));
    assert_eq!(machine.translate(Va(1 << 30)).unwrap(), None);
}

fn a_page_table_the_host_edits_is_seen_once_translations_are_forgotten() {
    assert_eq!(read_in_turn(|machine| machine.forget_translations().unwrap()), SEEN_IN_TURN);
}

/// What ring 3 reads that sees every edit.
const SEEN_IN_TURN: [u64; 4] = [0x1111, 0x2222, 0x1111, 0x2222];

/// The negative control, on those KVMs that know nothing of the host's writes: it is what was there first that is read.
fn a_page_table_the_host_edits_is_not_seen_before() {
    assert_eq!(read_in_turn(|_| {}), [0x1111; 4]);
}

/// What ring 3 reads from one page while the host has its table entry lead to two frames in turn. After each edit something is
/// done to the machine.
fn read_in_turn(after_edit: impl Fn(&mut Machine)) -> [u64; 4] {
    // mov (%rsi),%rax; mov (%rdi),%rbx: ring 3 cannot halt, a read from nowhere ends the run as well.
    let mut machine = guest(hypervisor(), &[0x48, 0x8b, 0x06, 0x48, 0x8b, 0x1f]);
    long_mode(&mut machine, 3);
    let (table, page) = (0x8_0000, 0x3fe0_0000);
    machine.write_u64(Pa(PD + (page >> 21) * 8), table | 7).unwrap();
    let frames = [(0x9_0000, 0x1111), (0xa_0000, 0x2222)];
    let slots = machine.slots().count();
    [0, 1, 0, 1].map(|index: usize| {
        let (frame, value) = frames[index];
        machine.write_u64(Pa(frame), value).unwrap();
        machine.write_u64(Pa(table), frame | 7).unwrap();
        after_edit(&mut machine);
        let regs = machine.regs_mut();
        (regs.rip, regs.rsi, regs.rdi) = (CODE, page, NOWHERE);
        assert_eq!(run(&mut machine), Exit::MmioRead { pa: Pa(NOWHERE), len: 8 });
        assert!(machine.finish_io().unwrap());
        assert_eq!(machine.slots().count(), slots);
        machine.regs().rax
    })
}

fn memory_that_is_put_back_after_a_reset_is_translated_anew() {
    assert_eq!(read_over_resets(|_| {}, false), SEEN_IN_TURN);
    let forget = |machine: &mut Machine| machine.forget_translations().unwrap();
    assert_eq!(read_over_resets(forget, true), SEEN_IN_TURN, "forgotten before the reset");
}

/// The negative control, as above: somebody vouches for tables that have changed.
fn memory_that_is_vouched_for_is_not_translated_anew() {
    assert_eq!(read_over_resets(|_| {}, true), [0x1111; 4]);
}

/// As [`read_in_turn`], with a reset after each read: KVM has the memory still, which it need not be told of twice.
fn read_over_resets(before_reset: impl Fn(&mut Machine), is_vouched_for: bool) -> [u64; 4] {
    let mut machine = guest(hypervisor(), &[0x48, 0x8b, 0x06, 0x48, 0x8b, 0x1f]);
    let (table, page) = (0x8_0000, 0x3fe0_0000);
    machine.write_u64(Pa(PD + (page >> 21) * 8), table | 7).unwrap();
    machine.write_u64(Pa(STACK), 0x1111).unwrap();
    machine.write_u64(Pa(READONLY), 0x2222).unwrap();
    let slots: Vec<Slot> = machine.slots().cloned().collect();
    [STACK, READONLY, STACK, READONLY].map(|frame| {
        machine.write_u64(Pa(table), frame | 7).unwrap();
        long_mode(&mut machine, 3);
        let regs = machine.regs_mut();
        (regs.rsi, regs.rdi) = (page, NOWHERE);
        assert_eq!(run(&mut machine), Exit::MmioRead { pa: Pa(NOWHERE), len: 8 });
        assert!(machine.finish_io().unwrap());
        let read = machine.regs().rax;
        before_reset(&mut machine);
        machine.reset().unwrap();
        for slot in &slots {
            machine.add_slot(slot.clone()).unwrap();
            if is_vouched_for {
                machine.keep_translations(slot.phys);
            }
        }
        read
    })
}

fn memory_that_is_not_put_back_after_a_reset_is_gone() {
    // mov (%rsi),%rax; hlt
    let mut machine = guest(hypervisor(), &[0x48, 0x8b, 0x06, HLT]);
    let read = |machine: &mut Machine| {
        long_mode(machine, 0);
        machine.regs_mut().rsi = READONLY;
        run(machine)
    };
    assert_eq!(read(&mut machine), Exit::Halt);
    let slots: Vec<Slot> = machine.slots().cloned().collect();
    machine.reset().unwrap();
    machine.add_slot(slots[0].clone()).unwrap();
    assert_eq!(read(&mut machine), Exit::MmioRead { pa: Pa(READONLY), len: 8 });
    machine.reset().unwrap();
    // Another slot where one was, with other memory.
    let memory = Backing::new(MEMORY_BYTES + PAGE_BYTES).unwrap();
    machine.add_slot(slots[0].clone()).unwrap();
    machine.add_slot(Slot { memory, ..slots[1].clone() }).unwrap();
    machine.write_u64(Pa(READONLY), 0x3333).unwrap();
    assert_eq!((read(&mut machine), machine.regs().rax), (Exit::Halt, 0x3333));
}

/// What ends a run between two instructions; some KVMs ignore it.
#[derive(Clone, Copy)]
enum Debug {
    Step,
    Breakpoint,
}

/// `nop; nop; hlt`
const TWO_NOPS: [u8; 3] = [0x90, 0x90, HLT];

impl Debug {
    fn set(self, machine: &mut Machine) {
        match self {
            Self::Step => machine.debug(true, &[]),
            Self::Breakpoint => machine.debug(false, &[CODE + 2]),
        }
        .unwrap();
    }

    fn run(self) -> Exit {
        let mut machine = guest(hypervisor(), &TWO_NOPS);
        self.set(&mut machine);
        run(&mut machine)
    }

    /// Any end but a halt is one to look at.
    fn is_ignored(self) -> bool {
        self.run() == Exit::Halt
    }

    fn assert_ends_the_run(self) {
        let at = match self {
            Self::Step => CODE + 1,
            Self::Breakpoint => CODE + 2,
        };
        match self.run() {
            Exit::Debug { exception, pc, .. } => assert_eq!((exception, pc), (1, at)),
            exit => panic!("{exit:?}"),
        }
    }
}

fn steps_and_breakpoints_can_be_switched_off() {
    let kvm = hypervisor();
    let mut machine = guest(kvm, &TWO_NOPS);
    for debug in [Debug::Step, Debug::Breakpoint] {
        debug.set(&mut machine);
        run(&mut machine);
        machine.debug(false, &[]).unwrap();
        long_mode(&mut machine, 0);
        assert_eq!(run(&mut machine), Exit::Halt);
    }
}
