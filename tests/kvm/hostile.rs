//! Mapping code that does what it must not: whatever it tries, a finding names it, the host goes on, and the same bed runs
//! the next scenario as if nothing had been.
//!
//! `EFIBED_HOSTILE_ROUNDS` (1 by default) says how often each attack is made.

use std::arch::asm;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::Duration;

use efibed::check::{Phase, Rule, Statement};
use efibed::mapper::page_table::AddressSpace;
use efibed::mapper::{CMapper, MapRequest, MapResult};
use efibed::mmu::Level;
use efibed::report::RunVerdict;
use efibed::{Contract, Layout, LayoutMapper, MapContext, MapError, Mapper, Moment, Scenario, Tamper};
use efibed_guest::protocol::{DIRECT_MAP, IMAGE_BASE, PORT};
use efibed_tests::{Need, bed, first_message, rules, small_map, trial};
use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("every_attack_of_mapping_code_is_found", Need::Kvm, every_attack_of_mapping_code_is_found),
        trial("what_mapping_code_may_do_is_clean", Need::Kvm, what_mapping_code_may_do_is_clean),
        trial("a_panic_is_told_whole", Need::Kvm, a_panic_is_told_whole),
        trial(
            "what_a_library_did_is_told_with_the_line_that_called_it",
            Need::Kvm,
            what_a_library_did_is_told_with_its_caller,
        ),
        trial("what_does_not_fit_the_guest_is_incomplete", Need::Kvm, what_does_not_fit_the_guest_is_incomplete),
        trial("a_mapper_in_c_is_not_believed", Need::Kvm, a_mapper_in_c_is_not_believed),
        trial("tables_that_change_while_they_are_probed", Need::Kvm, tables_that_change_while_they_are_probed),
        trial("finish_is_judged_by_what_it_did", Need::Kvm, finish_is_judged_by_what_it_did),
        trial("many_threads_run_different_mappers", Need::Kvm, many_threads_run_different_mappers),
    ]
}

/// What is done in a phase, with the address space that the layout has made. What it returns goes on in its place.
type Deed = unsafe fn(&mut MapContext<'_>, AddressSpace) -> AddressSpace;

/// Something that mapping code must not do, when, and what has to be found then: one of these at least.
struct Attack {
    name: &'static str,
    phase: Phase,
    deed: Deed,
    expected: &'static [Rule],
}

const fn in_map(name: &'static str, expected: &'static [Rule], deed: Deed) -> Attack {
    Attack { name, phase: Phase::Map, deed, expected }
}

const fn in_finish(name: &'static str, expected: &'static [Rule], deed: Deed) -> Attack {
    Attack { name, phase: Phase::Finish, deed, expected }
}

const ACCESS: &[Rule] = &[Rule::StrayAccess];
const WRITE: &[Rule] = &[Rule::StrayWrite];
const PRIVILEGED: &[Rule] = &[Rule::PrivilegedInstruction];
const FAULT: &[Rule] = &[Rule::MapperFault];
const PANIC: &[Rule] = &[Rule::GuestPanic];
/// Ways in which a process ends itself: by a system call, or by an instruction that is made to fault, in one way or another.
const ABORT: &[Rule] = &[Rule::PrivilegedInstruction, Rule::MapperFault, Rule::StrayAccess];

/// An attack of a single instruction, after which the mapper goes on.
macro_rules! instruction {
    ($expected:expr, $text:literal $(, $operand:tt($($argument:tt)*) $value:tt)*) => {
        in_map($text, $expected, |_, space| {
            // SAFETY: none: this is an attack.
            unsafe { asm!($text $(, $operand($($argument)*) $value)*) };
            space
        })
    };
}

static ATTACKS: &[Attack] = &[
    // Memory out of reach.
    in_map("write to the kernel's image", ACCESS, |_, space| write(space, IMAGE_BASE + 0x15000)),
    in_map("read the kernel's image", ACCESS, |_, space| read(space, IMAGE_BASE)),
    in_map("jump to the kernel's image", ACCESS, |_, space| call(space, IMAGE_BASE + 0x200)),
    in_map("write through the kernel's direct map", ACCESS, |context, space| {
        write(space, DIRECT_MAP.wrapping_add(context.kernel.root()))
    }),
    in_map("write to the kernel's tables", ACCESS, |context, space| {
        let root = context.kernel.root();
        context.tables.table(root).unwrap()[300] = 1 << 40;
        space
    }),
    in_map("write to the Memory Attributes Table", ACCESS, |context, space| {
        // Its first entry would be behind its header, of 16 bytes.
        let map = std::ptr::from_ref(context.memory_map.iter().next().unwrap()).addr() as u64;
        write(space, map + 2 * 4096)
    }),
    in_map("read firmware's page at its physical address", ACCESS, |_, space| read(space, 0x7e72_9000)),
    in_map("read the kernel's image where the host has it", ACCESS, |context, space| {
        let map = std::ptr::from_ref(context.memory_map.iter().next().unwrap()).addr() as u64;
        read(space, map - 4096)
    }),
    in_map("read null", ACCESS, |_, space| read(space, 0)),
    in_map("write to null", ACCESS, |_, space| write(space, 8)),
    in_map("call null", ACCESS, |_, space| call(space, 0)),
    in_map("write to its own code", ACCESS, |_, space| write(space, trials as *const () as u64 & !7)),
    in_map("write to a constant", ACCESS, |_, space| write(space, ATTACKS[0].name.as_ptr() as u64 & !7)),
    in_map("jump to its stack", ACCESS, |_, space| call(space, std::ptr::from_ref(&[0_u64; 8]) as u64)),
    in_map("jump to its heap", ACCESS, |_, space| call(space, Box::leak(Box::new(0_u64)) as *mut u64 as u64)),
    in_map("write to a hole of the low half", ACCESS, |_, space| write(space, 0x1234_5678_9000)),
    in_map("write to a hole of the high half", ACCESS, |_, space| write(space, 0xffff_9234_5678_9000)),
    in_map("read an address that is not canonical", FAULT, |_, space| read(space, 1 << 62)),
    // What the host compares.
    in_map("write behind the virtual map", WRITE, |context, space| {
        let page = context.virtual_map_used();
        write(space, page.end + direct_map(context))
    }),
    in_map("write to a page that it has not taken", WRITE, |context, space| {
        let page = context.tables.allocate().unwrap();
        write(space, page + 2 * 4096 + direct_map(context))
    }),
    in_map("change a descriptor", WRITE, |context, space| {
        let descriptor = std::ptr::from_ref(context.memory_map.iter().next().unwrap()).cast_mut();
        // SAFETY: none: this is an attack.
        unsafe { (&raw mut (*descriptor).phys_start).write_volatile(0x1000) };
        space
    }),
    in_finish("change the virtual map", WRITE, |context, space| {
        let page = context.virtual_map_used();
        write(space, page.start + 16 + direct_map(context))
    }),
    in_finish("write to a page that it has not taken, in finish", WRITE, |context, space| {
        let page = context.tables.allocate().unwrap();
        write(space, page + 2 * 4096 + direct_map(context))
    }),
    // Instructions.
    instruction!(PRIVILEGED, "mov cr0, rax", in("rax") 0x11_u64),
    instruction!(PRIVILEGED, "mov cr3, rax", in("rax") 0x1000_u64),
    instruction!(PRIVILEGED, "mov cr4, rax", in("rax") 0_u64),
    instruction!(PRIVILEGED, "mov dr7, rax", in("rax") 0x400_u64),
    instruction!(PRIVILEGED, "wrmsr", in("ecx") 0xc000_0080_u32, in("eax") 0, in("edx") 0),
    instruction!(PRIVILEGED, "rdmsr", in("ecx") 0x10_u32, lateout("eax") _, lateout("edx") _),
    instruction!(PRIVILEGED, "lidt [rsp]"),
    instruction!(PRIVILEGED, "lgdt [rsp]"),
    instruction!(PRIVILEGED, "ltr ax", in("ax") 0x28_u16),
    instruction!(PRIVILEGED, "lldt ax", in("ax") 0_u16),
    instruction!(PRIVILEGED, "hlt"),
    instruction!(PRIVILEGED, "cli"),
    instruction!(PRIVILEGED, "sti"),
    instruction!(PRIVILEGED, "clts"),
    instruction!(PRIVILEGED, "invd"),
    instruction!(PRIVILEGED, "swapgs"),
    instruction!(PRIVILEGED, "in al, dx", in("dx") 0x60_u16, lateout("al") _),
    instruction!(PRIVILEGED, "out dx, eax", in("dx") PORT, in("eax") 1),
    instruction!(PRIVILEGED, "out 0xef, al"),
    instruction!(PRIVILEGED, "int 0x80", in("eax") 20),
    // Exceptions.
    instruction!(FAULT, "ud2"),
    instruction!(FAULT, "int3"),
    in_map("divide by zero", FAULT, |_, space| {
        // SAFETY: none: this is an attack.
        unsafe { asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) };
        space
    }),
    in_map("read an SSE operand that is not aligned", FAULT, |_, space| {
        let bytes = [0_u8; 64];
        let odd = bytes.as_ptr().wrapping_add(1);
        // SAFETY: none: this is an attack.
        unsafe { asm!("movaps xmm0, [{0}]", "movaps xmm0, [{0} + 1]", in(reg) odd, out("xmm0") _) };
        space
    }),
    in_map("set the trap flag", FAULT, |_, space| {
        // SAFETY: none: this is an attack.
        unsafe { asm!("pushfq", "bts qword ptr [rsp], 8", "popfq", "nop") };
        space
    }),
    // Emulated CPUs may take the stack for the supervisor's here.
    in_map("return to ring 0", ABORT, |_, space| {
        // SAFETY: none: this is an attack.
        unsafe {
            asm!("push 0x10", "push rsp", "push 2", "push 8", "lea rax, [rip]", "push rax", "iretq", out("rax") _)
        };
        space
    }),
    in_map("recurse without end", &[Rule::StackOverflow], |_, space| {
        deeper(&mut [0; 64]);
        space
    }),
    in_map("panic", PANIC, |_, _| panic!("an attack of number {}", 7)),
    in_map("panic with no text", PANIC, |_, _| std::panic::panic_any(7)),
    in_map("index out of bounds", PANIC, |_, space| {
        black_box(black_box(&[0_u8][..])[black_box(1)]);
        space
    }),
    in_finish("panic in finish", PANIC, |_, _| panic!("an attack")),
    in_map("loop without end", &[Rule::Watchdog], |_, _| {
        loop {
            std::hint::spin_loop();
        }
    }),
    in_map("abort", ABORT, |_, _| std::process::abort()),
    in_map("exit", ABORT, |_, _| std::process::exit(0)),
    in_map("use up the heap", ABORT, |_, space| {
        black_box(vec![1_u8; 1 << 26]);
        space
    }),
    in_map("open a file", ABORT, |_, space| {
        black_box(std::fs::read("/etc/passwd").is_ok());
        space
    }),
    in_map("start a thread", ABORT, |_, space| {
        black_box(std::thread::spawn(|| ()).join().is_ok());
        space
    }),
    in_map("sleep", ABORT, |_, space| {
        std::thread::sleep(Duration::from_secs(1));
        space
    }),
    // Results.
    in_map("return a root where no memory is", &[Rule::MapperError], |_, space| {
        AddressSpace::existing(0x12_3456_7000, space.levels())
    }),
    in_map("return a root that is not aligned", &[Rule::MapperError], |_, space| {
        AddressSpace::existing(space.root() + 8, space.levels())
    }),
    in_map("return a root past the physical addresses", &[Rule::MapperError], |_, space| {
        AddressSpace::existing(1 << 63 | space.root(), space.levels())
    }),
    in_map("return the kernel's root", &[Rule::NotPresent], |context, _| context.kernel),
    in_map("return a root that was not taken from the pool", &[Rule::MapperError], |context, space| {
        AddressSpace::existing(untaken(context), space.levels())
    }),
    in_map("return the memory map for a root", &[Rule::MapperError], |context, space| {
        let map = context.virtual_map_used().start - 4096;
        AddressSpace::existing(map, space.levels())
    }),
    in_finish("return the kernel's root in finish", &[Rule::NotPresent], |context, _| context.kernel),
    // Tables.
    in_map("map the tables through themselves", &[Rule::SelfMapping], |context, space| {
        context.tables.table(space.root()).unwrap()[400] = space.root() | 3;
        space
    }),
    // Entry 400 is nobody's.
    in_map("take the memory map for a table", &[Rule::TableOutsidePool], |context, space| {
        let map = context.virtual_map_used().start - 4096;
        context.tables.table(space.root()).unwrap()[400] = map | 3;
        space
    }),
    in_map("have a table that was not taken from the pool", &[Rule::TableOutsidePool], |context, space| {
        context.tables.table(space.root()).unwrap()[400] = untaken(context) | 3;
        space
    }),
    in_map("have a table where no memory is", &[Rule::TableUnreachable], |context, space| {
        context.tables.table(space.root()).unwrap()[400] = 0x12_3456_7000 | 3;
        space
    }),
    in_map("make every leaf global", &[Rule::GlobalLeaf], |context, space| {
        change_leaves(context, space.root(), |entry| entry | 1 << 8)
    }),
    in_map("use a table for two ranges", &[Rule::StrayMapping], |context, space| {
        // The window's gigabytes are entries 444 to 507 of the last PDPT.
        let pointers = context.tables.table(space.root()).unwrap()[511] & 0xf_ffff_ffff_f000;
        let window = &mut context.tables.table(pointers).unwrap()[444..508];
        let used = window.iter().copied().find(|entry| entry & 1 != 0).unwrap();
        *window.iter_mut().find(|entry| **entry & 1 == 0).unwrap() = used;
        space
    }),
    in_map("unmap the kernel", &[Rule::KernelOverlap], |context, space| {
        context.tables.table(space.root()).unwrap()[511] = 0;
        space
    }),
    in_finish("unmap everything", &[Rule::NotPresent], |context, space| change_leaves(context, space.root(), |_| 0)),
    // The tables above are closed to ring 3.
    in_finish("open everything", &[Rule::ExecutableData], |context, space| {
        change_leaves(context, space.root(), |entry| (entry | 6) & !(1 << 63))
    }),
];

fn read(space: AddressSpace, virt: u64) -> AddressSpace {
    // SAFETY: none: this is an attack.
    black_box(unsafe { (virt as *const u64).read_volatile() });
    space
}

fn write(space: AddressSpace, virt: u64) -> AddressSpace {
    // SAFETY: as above.
    unsafe { (virt as *mut u64).write_volatile(0xa77a_c4ed) };
    space
}

fn call(space: AddressSpace, virt: u64) -> AddressSpace {
    // SAFETY: as above.
    unsafe { asm!("call {}", in(reg) virt, clobber_abi("C")) };
    space
}

/// Virtual minus physical address of what the mapper is given.
fn direct_map(context: &mut MapContext<'_>) -> u64 {
    let root = context.space.root();
    (context.tables.table(root).unwrap().as_ptr().addr() as u64).wrapping_sub(root)
}

#[expect(unconditional_recursion, reason = "that is the attack")]
#[inline(never)]
fn deeper(words: &mut [u64; 64]) {
    let mut next = [words[0] + 1; 64];
    deeper(black_box(&mut next));
    words[1] = next[1];
}

/// A page of the pool behind the last that was taken.
fn untaken(context: &mut MapContext<'_>) -> u64 {
    context.tables.allocate().unwrap() + 4096
}

/// Changes all leaves of the root's lower half and of the window below -4 GiB, where no kernel lies.
fn change_leaves(context: &mut MapContext<'_>, root: u64, change: fn(u64) -> u64) -> AddressSpace {
    change_below(context, root, 0, 39, change);
    AddressSpace::existing(root, 4)
}

fn change_below(context: &mut MapContext<'_>, table: u64, base: u64, shift: u32, change: fn(u64) -> u64) {
    for index in 0..512 {
        let virt = base | (index as u64) << shift;
        let virt = if virt >> 47 & 1 == 1 { virt | 0xffff << 48 } else { virt };
        let entry = context.tables.table(table).unwrap()[index];
        let is_leaf = shift == 12 || entry & 1 << 7 != 0;
        let is_kernels = !(0xffff_ffef_0000_0000..0xffff_ffff_0000_0000).contains(&virt) && virt >> 28 != 0x7;
        match (entry & 1, is_leaf) {
            (0, _) => {}
            (_, true) if is_kernels => {}
            (_, true) => context.tables.table(table).unwrap()[index] = change(entry),
            _ => change_below(context, entry & 0xf_ffff_ffff_f000, virt & 0xffff_ffff_ffff, shift - 9, change),
        }
    }
}

/// A layout that does something more.
#[derive(Clone, Copy)]
struct Hostile {
    usual: LayoutMapper,
    attack: &'static Attack,
}

impl Mapper for Hostile {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let space = self.usual.map(context)?;
        Ok(self.attack_in(Phase::Map, context, space))
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        let space = self.usual.finish(context, space)?;
        Ok(self.attack_in(Phase::Finish, context, space))
    }
}

impl Hostile {
    fn attack_in(&self, phase: Phase, context: &mut MapContext<'_>, space: AddressSpace) -> AddressSpace {
        match self.attack.phase == phase {
            // SAFETY: none: this is an attack. The host must see to it that nothing comes of it but a finding.
            true => unsafe { (self.attack.deed)(context, space) },
            false => space,
        }
    }
}

fn scenario(layout: Layout) -> Scenario {
    Scenario::new(small_map(0x42)).layout(layout).stretch_limit(Duration::from_secs(2))
}

fn attacked(layout: Layout, attack: &'static Attack) -> Scenario {
    let usual = LayoutMapper { layout, ..Default::default() };
    scenario(layout).mapper(Hostile { usual, attack }).contract(Contract::of(layout))
}

/// A page of runtime data, 1:1.
const DATA: u64 = 0x7e72_9000;

const LAYOUTS: [Layout; 3] = [Layout::Window, Layout::PackedDown, Layout::Linux];

fn every_attack_of_mapping_code_is_found() {
    let rounds = std::env::var("EFIBED_HOSTILE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut wrong = Vec::new();
    for (index, attack) in ATTACKS.iter().cycle().take(rounds * ATTACKS.len()).enumerate() {
        let layout = LAYOUTS[index % LAYOUTS.len()];
        let report = bed().run(&attacked(layout, attack)).unwrap_or_else(|error| panic!("{}: {error}", attack.name));
        let rules = rules(&report);
        efibed_tests::tell!("{}: {}", attack.name, first_message(&report));
        if report.is_clean() || !attack.expected.iter().any(|rule| rules.contains(rule)) {
            wrong.push(format!("{} under {}: {rules:?}, {}", attack.name, layout.name(), first_message(&report)));
        }
        bed().run(&scenario(layout)).unwrap().assert_clean();
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn named(name: &str) -> &'static Attack {
    ATTACKS.iter().find(|attack| attack.name == name).unwrap()
}

/// All that code of a process may do: allocate, hash, format, compute, unwind, use its thread's storage, keep a state from
/// one phase to the next, and a kernel's few privileged instructions.
#[derive(Clone)]
struct Free {
    usual: LayoutMapper,
    captured: std::sync::Arc<Vec<String>>,
    count: u64,
}

thread_local! {
    static SEEN: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Mapper for Free {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let by_type: HashMap<u32, u64> =
            context.memory_map.iter().map(|region| (region.ty, region.page_count)).collect();
        self.count = by_type.values().sum();
        SEEN.with_borrow_mut(|seen| seen.push(self.count));
        let mean = by_type.values().map(|pages| *pages as f64).sum::<f64>() / by_type.len() as f64;
        let caught = std::panic::catch_unwind(|| panic!("caught")).is_err();
        let mut text = self.captured.join(" ");
        text.push_str(&format!(" {mean:.1} {caught} {}", black_box(self.count).count_ones()));
        context.log(&text);
        let [cr0, cr3, cr4, low]: [u64; 4];
        // SAFETY: the test bed carries these out.
        unsafe {
            asm!("mov {}, cr0", out(reg) cr0);
            asm!("mov {}, cr3", out(reg) cr3);
            asm!("mov {}, cr4", out(reg) cr4);
            asm!("rdmsr", in("ecx") 0xc000_0080_u32, lateout("rax") low, lateout("rdx") _);
            asm!("invlpg [{}]", in(reg) cr3);
            asm!("wbinvd");
            asm!("std");
        }
        // PE and PG, PAE, LMA.
        assert_eq!((cr0 & (1 | 1 << 31), cr4 & 1 << 5, low & 1 << 10), (1 | 1 << 31, 1 << 5, 1 << 10));
        // SAFETY: the flag must be clear again for compiled code.
        unsafe { asm!("cld") };
        self.usual.map(context)
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        context.log(format_args!("{} {}", self.count, SEEN.with_borrow(|seen| seen.len())));
        self.usual.finish(context, space)
    }
}

fn what_mapping_code_may_do_is_clean() {
    for layout in LAYOUTS {
        let usual = LayoutMapper { layout, ..Default::default() };
        let captured = std::sync::Arc::new(vec!["captured".to_owned(), "values".to_owned()]);
        let scenario = scenario(layout).mapper(Free { usual, captured, count: 0 }).contract(Contract::of(layout));
        let report = bed().run(&scenario).unwrap();
        report.assert_clean();
        let logged: Vec<_> =
            report.notes.iter().filter_map(|note| note.split_once("logged: ")).map(|at| at.1).collect();
        // 0x20 + 0x42 + 0x6000 pages, of three types.
        assert_eq!(
            logged,
            ["panicked at tests/kvm/hostile.rs", "captured values 8224.7 true 5", "24674 1"]
                .map(|text| { logged.iter().copied().find(|line| line.starts_with(text)).unwrap_or(text) })
        );
        let served = "invlpg (1), mov from cr0 (1), mov from cr3 (1), mov from cr4 (1), rdmsr of EFER (1), wbinvd (1)";
        let told = report.notes.iter().find(|note| note.starts_with("carried out for the mapping code: "));
        assert!(told.is_some_and(|note| note.ends_with(served)), "{:?}", report.notes);
        // What it changed in memory is not seen here.
        assert!(SEEN.with_borrow(Vec::is_empty));
    }
}

/// A message of several lines is the panic's; what was logged before is not.
fn a_panic_is_told_whole() {
    static WORDY: Attack = in_map("panic in several lines", PANIC, |context, space| {
        context.log("before");
        assert_eq!(black_box(2), 3, "a sum");
        space
    });
    let report = bed().run(&attacked(Layout::Window, &WORDY)).unwrap();
    let message = first_message(&report);
    assert!(message.starts_with("the mapping code panicked at tests/kvm/hostile.rs:"), "{message}");
    assert!(["a sum", "left: 2", "right: 3"].iter().all(|part| message.contains(part)), "{message}");
    assert!(!message.contains("before"), "{message}");
}

/// A system call is the C library's, the read of a clock the system's own code's, and at null there is no code: whose line it
/// was is on the stack. What is at a line of one's own needs no such thing.
fn what_a_library_did_is_told_with_its_caller() {
    static ATTACKS: [(u32, Attack); 3] = [
        (
            line!() + 1,
            in_map("print", PRIVILEGED, |_, space| {
                eprintln!("{}", black_box("to be seen nowhere"));
                space
            }),
        ),
        (
            line!() + 1,
            in_map("read a clock", ACCESS, |_, space| {
                black_box(std::time::Instant::now());
                space
            }),
        ),
        (
            line!() + 1,
            in_map("call null", ACCESS, |_, space| {
                let null = black_box(0_u64);
                // SAFETY: none: this is an attack.
                unsafe { asm!("call {}", in(reg) null, clobber_abi("C")) };
                space
            }),
        ),
    ];
    for (line, attack) in &ATTACKS {
        let report = bed().run(&attacked(Layout::Window, attack)).unwrap();
        let message = first_message(&report);
        assert_eq!(rules(&report), attack.expected, "{message}");
        let place = message.split_once("called from ").unwrap_or_else(|| panic!("{}: {message}", attack.name)).1;
        let lines = *line..line + 6;
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let told = place.split_once("tests/kvm/hostile.rs:").and_then(|at| digits(at.1).parse::<u32>().ok());
        assert!(told.is_some_and(|told| lines.contains(&told)), "{}: {message}", attack.name);
    }
    let own = bed().run(&attacked(Layout::Window, named("read null"))).unwrap();
    assert!(!first_message(&own).contains("called from"), "{}", first_message(&own));
}

/// A mapper that does what it may, and more of it than there is room for in the guest.
#[derive(Clone)]
struct Large(std::sync::Arc<Vec<u8>>);

impl Mapper for Large {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let sum: u64 = self.0.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
        context.log(sum);
        LayoutMapper { layout: Layout::Window, ..Default::default() }.map(context)
    }
}

/// That is the test bed's limit, and no fault of the mapper's: neither clean nor a finding.
fn what_does_not_fit_the_guest_is_incomplete() {
    let run = |bytes| {
        let mapper = Large(std::sync::Arc::new(vec![1; bytes]));
        let scenario = scenario(Layout::Window).mapper(mapper).contract(Contract::of(Layout::Window));
        // To copy what there is room for takes an emulated machine seconds.
        bed().run(&scenario.stretch_limit(Duration::from_secs(60))).unwrap()
    };
    run(16 << 20).assert_clean();
    let report = run(64 << 20);
    assert_eq!((report.verdict(), rules(&report)), (RunVerdict::Incomplete, vec![]));
    assert!(report.skipped.iter().any(|row| row.reason.contains("no room in the guest")), "{:?}", report.skipped);
    // A heap that is used up is told with what came of it.
    let report = bed().run(&attacked(Layout::Window, named("use up the heap"))).unwrap();
    assert!(first_message(&report).contains("more memory than its heap has"), "{}", first_message(&report));
}

unsafe extern "C" fn absurd(_request: *const MapRequest, result: *mut MapResult) -> i32 {
    // SAFETY: the result is there to be written to.
    unsafe { (&raw mut (*result).table_pages).write(1 << 60) };
    0
}

fn a_mapper_in_c_is_not_believed() {
    // SAFETY: it is written to efibed.h.
    let mapper = unsafe { CMapper::new(absurd, None) };
    let report = bed().run(&scenario(Layout::Window).mapper(mapper)).unwrap();
    assert_eq!(rules(&report), [Rule::MapperError], "{}", first_message(&report));
    assert!(first_message(&report).contains("pages of tables, and has room for"), "{}", first_message(&report));
}

/// P of a leaf goes, and W, and a leaf in the free; the CPU's own A and D say nothing.
fn tables_that_change_while_they_are_probed() {
    let scenario = scenario(Layout::Linux);
    let run = |bit: u32| {
        let tamper = Tamper { virt: DATA, level: Level::Pte, flip: 1 << bit, moment: Moment::WhileProbed };
        bed().run(&scenario.clone().tamper(tamper)).unwrap()
    };
    for bit in [0, 1, 63] {
        let report = run(bit);
        let finding = report.findings.iter().find(|finding| finding.rule == Rule::TablesChanged);
        let finding = finding.unwrap_or_else(|| panic!("bit {bit}: {}", first_message(&report)));
        let (Some(Statement::Entry { at, entry: before }), Some(Statement::Entry { at: same, entry: after })) =
            (&finding.expected, &finding.observed)
        else {
            panic!("bit {bit}: {finding:?}")
        };
        assert_eq!((at, (before ^ after) & !0x60), (same, 1 << bit), "{}", first_message(&report));
    }
    for bit in [5, 6] {
        assert!(run(bit).findings.iter().all(|finding| finding.rule != Rule::TablesChanged), "bit {bit}");
    }
}

/// Of a layout whose phase `finish` has nothing to do, tables that change there are walked again.
fn finish_is_judged_by_what_it_did() {
    for layout in [Layout::Window, Layout::PackedDown] {
        for (attack, rule) in [("unmap everything", Rule::NotPresent), ("open everything", Rule::ExecutableData)] {
            let report = bed().run(&attacked(layout, named(attack))).unwrap();
            let finding = report.findings.iter().find(|finding| finding.rule == rule);
            assert_eq!(
                finding.map(|finding| finding.phase),
                Some(Phase::Finish),
                "{}: {}",
                layout.name(),
                first_message(&report)
            );
        }
    }
}

/// More than one of many threads waits for a core.
const PATIENCE: Duration = Duration::from_secs(300);

/// On one bed, each thread with attacks of its own: the findings are those of a single thread.
fn many_threads_run_different_mappers() {
    let [threads, runs] = [("EFIBED_THREADS", 8), ("EFIBED_THREAD_RUNS", 4)]
        .map(|(name, usual)| std::env::var(name).map_or(usual, |number| number.parse::<usize>().unwrap()));
    let quick = |attack: &&Attack| attack.expected != [Rule::Watchdog];
    let attacks: Vec<&'static Attack> = ATTACKS.iter().filter(quick).collect();
    // The limit is of the clock on the wall, and of so many threads on few cores each may wait for long.
    let patient = |attack| attacked(Layout::Window, attack).firmware_calls(false).stretch_limit(PATIENCE);
    let found = |attack| rules(&bed().run(&patient(attack)).unwrap());
    let alone: Vec<Vec<Rule>> = attacks.iter().map(|attack| found(attack)).collect();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (attacks, alone, found) = (&attacks, &alone, &found);
            scope.spawn(move || {
                for run in 0..runs {
                    let index = (thread * 31 + run * 7) % attacks.len();
                    assert_eq!(found(attacks[index]), alone[index], "{}", attacks[index].name);
                }
            });
        }
    });
}
