//! What the stubs' machine code must be, held by taking it apart and by running it. Tests only.

use std::collections::BTreeSet;

use efibed_stub::image::{
    ENTRY_BYTES, IMAGE_BYTES, IMAGE_PAGE_OFFSET, POINTER_OFFSET, RESUME, RESUME_OFFSET, TRAP_BYTES, TRAP_OFFSET,
    code_offset, entry_offset, image,
};
use efibed_stub::script::Op;
use efibed_stub::{STAMP_TAIL_BYTES, Service, TRAP_PORT};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::PAGE_BYTES;

/// Some address that is neither low nor high.
const BASE: u64 = 0xffff_fffe_8080_0000 + IMAGE_PAGE_OFFSET as u64;

/// All that a stub may consist of: each of these runs in ring 0 under every KVM, by the processor or by KVM's
/// emulator (which knows next to no SSE, no popcnt, no stac, no int3, and takes lzcnt for bsr).
const PERMITTED: [Mnemonic; 11] = [
    Mnemonic::Add,
    Mnemonic::Cmp,
    Mnemonic::Je,
    Mnemonic::Jmp,
    Mnemonic::Jne,
    Mnemonic::Js,
    Mnemonic::Mov,
    Mnemonic::Neg,
    Mnemonic::Out,
    Mnemonic::Ret,
    Mnemonic::Sub,
];

/// Registers a stub may write: EFIAPI's volatile ones (UEFI 2.10, 2.3.4.2), and the stack pointer by `ret`.
const WRITABLE: [Register; 8] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::RSP,
];

/// The instructions that can be reached from these offsets in the code.
fn reachable(code: &[u8], entries: impl IntoIterator<Item = usize>) -> Vec<Instruction> {
    let mut to_visit: Vec<u64> = entries.into_iter().map(|offset| BASE + offset as u64).collect();
    let mut seen = BTreeSet::new();
    let mut instructions = Vec::new();
    while let Some(ip) = to_visit.pop() {
        if !seen.insert(ip) {
            continue;
        }
        let offset = ip.checked_sub(BASE).expect("control leaves the image") as usize;
        let rest = code.get(offset..).expect("control leaves the image");
        let instruction = Decoder::with_ip(64, rest, ip, DecoderOptions::NONE).decode();
        assert!(!instruction.is_invalid(), "no instruction at {offset:#x}");
        match instruction.flow_control() {
            FlowControl::Next => to_visit.push(instruction.next_ip()),
            FlowControl::UnconditionalBranch => to_visit.push(instruction.near_branch_target()),
            FlowControl::ConditionalBranch => {
                to_visit.extend([instruction.next_ip(), instruction.near_branch_target()]);
            }
            // A script says where such a jump goes: to the code of an op, or of a misdeed.
            FlowControl::Return | FlowControl::IndirectBranch => {}
            other => panic!("{other:?} at {offset:#x}"),
        }
        instructions.push(instruction);
    }
    instructions
}

/// What is wrong with an instruction of a stub, if anything.
fn objection(instruction: &Instruction) -> Option<&'static str> {
    if !PERMITTED.contains(&instruction.mnemonic()) {
        return Some("may not run in ring 0");
    }
    if instruction.is_ip_rel_memory_operand() {
        let image = BASE..BASE + IMAGE_BYTES as u64 - 7;
        let address = instruction.ip_rel_memory_address();
        let moves = instruction.mnemonic() == Mnemonic::Mov;
        let reads_own = moves && instruction.op1_kind() == OpKind::Memory && image.contains(&address);
        let writes_pointer = moves
            && instruction.op0_kind() == OpKind::Memory
            && instruction.op1_register().is_gpr64()
            && address == BASE + POINTER_OFFSET as u64;
        return (!reads_own && !writes_pointer).then_some("has an address of its own");
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let addresses_by_pointer = info.used_memory().iter().all(|memory| {
        memory.segment() != Register::FS
            && memory.segment() != Register::GS
            && WRITABLE.contains(&memory.base())
            && (memory.index() == Register::None || WRITABLE.contains(&memory.index()))
    });
    if !addresses_by_pointer {
        return Some("has an address of its own");
    }
    let writes_volatile_only = info
        .used_registers()
        .iter()
        .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead))
        .all(|used| WRITABLE.contains(&used.register().full_register()));
    (!writes_volatile_only).then_some("writes a register of the caller's")
}

#[test]
fn the_stubs_run_everywhere_and_leave_the_callers_registers_alone() {
    let entries = Service::ALL.map(entry_offset).into_iter().chain(Op::ALL.map(code_offset));
    let instructions = reachable(image(), entries);
    assert!(instructions.len() > 3 * Service::COUNT);
    for instruction in &instructions {
        let offset = instruction.ip() - BASE;
        let code = instruction.code();
        assert_eq!(objection(instruction), None, "{code:?} at {offset:#x}");
    }
}

#[test]
fn the_test_above_objects_to_what_it_should() {
    for (code, expected) in [
        (&[0xCC][..], "may not run in ring 0"),                               // int3
        (&[0xF3, 0x0F, 0xBD, 0xC1], "may not run in ring 0"),                 // lzcnt eax, ecx
        (&[0x0F, 0x28, 0xC1], "may not run in ring 0"),                       // movaps xmm0, xmm1
        (&[0x0F, 0x01, 0xCB], "may not run in ring 0"),                       // stac
        (&[0x48, 0x8B, 0x05, 0, 0, 1, 0], "has an address of its own"),       // mov rax, [rip + 65536]
        (&[0x48, 0x89, 0x05, 0, 0, 0, 0], "has an address of its own"),       // mov [rip], rax
        (&[0x89, 0x05, 0xB2, 1, 0, 0], "has an address of its own"),          // mov [rip + 434], eax
        (&[0x8B, 0x04, 0x25, 0, 0, 0, 0], "has an address of its own"),       // mov eax, [0]
        (&[0x48, 0xA1, 0, 0, 0, 0, 0, 0, 0, 0], "has an address of its own"), // movabs rax, [0]
        (&[0x65, 0x48, 0x8B, 0x01], "has an address of its own"),             // mov rax, gs:[rcx]
        (&[0x48, 0x89, 0xC3], "writes a register of the caller's"),           // mov rbx, rax
        (&[0x4C, 0x8B, 0x21], "writes a register of the caller's"),           // mov r12, [rcx]
    ] {
        let instruction = Decoder::with_ip(64, code, BASE, DecoderOptions::NONE).decode();
        assert_eq!(objection(&instruction), Some(expected), "{code:02x?}");
    }
}

#[test]
fn each_stub_traps_once_with_its_own_number() {
    for service in Service::ALL {
        let instructions = reachable(image(), [entry_offset(service)]);
        let [load, trap] = [&instructions[0], &instructions[1]];
        assert_eq!(load.mnemonic(), Mnemonic::Mov);
        assert_eq!(load.op0_register(), Register::EAX);
        assert_eq!(load.immediate(1), u64::from(service.number()));

        let outs = instructions.iter().filter(|it| it.mnemonic() == Mnemonic::Out);
        assert_eq!(outs.count(), 1, "{service}");
        let resumes = reachable(image(), [RESUME_OFFSET]);
        assert_eq!(resumes[0].immediate(1), u64::from(RESUME));
        assert_eq!(trap.ip() - BASE, (entry_offset(service) + TRAP_OFFSET) as u64);
        assert_eq!(trap.len(), TRAP_BYTES);
        assert_eq!(trap.op0_kind(), OpKind::Immediate8);
        assert_eq!(trap.immediate8(), TRAP_PORT);
        assert_eq!(trap.op1_register(), Register::EAX);
    }
}

#[test]
fn the_image_and_the_stamps_fit_into_one_page() {
    assert!(IMAGE_PAGE_OFFSET + image().len() <= PAGE_BYTES - STAMP_TAIL_BYTES);
    assert_eq!(image().len(), IMAGE_BYTES);
    assert_eq!(IMAGE_PAGE_OFFSET % ENTRY_BYTES, 0);
}

/// The first byte and the last one may lie in two pages.
#[test]
fn a_read_is_of_both_of_its_bytes() {
    let reads = reachable(image(), [code_offset(Op::Read)]);
    let reads = reads.iter().filter(|it| it.op0_register() == Register::AL && it.op1_kind() == OpKind::Memory);
    let at: Vec<_> = reads.map(|it| (it.memory_base(), it.memory_displacement64())).collect();
    assert_eq!(at, [(Register::R11, 0), (Register::RCX, 0)]);
}

/// What a stub does after its trap, run by this very processor.
mod script {
    use efibed_stub::script::{MAGIC, NO_SCRIPT};

    use super::*;

    const STATUS: u64 = 0x8000_0000_0000_0005;
    const STATE: [u64; 4] = [MAGIC, 0, 0, 0];
    const RETURN: (Op, [u64; 3]) = (Op::Return, [STATUS, 0, 0]);

    #[test]
    fn copies_what_it_is_told_byte_by_byte() {
        let from: Vec<u8> = (1..=40).collect();
        for bytes in 8..=40 {
            let mut to = [0xEE; 48];
            let copy = (Op::Copy, [to.as_mut_ptr() as u64 + 3, bytes as u64, from.as_ptr() as u64]);
            let mut stub = Stub::new(None);
            assert_eq!(stub.run(&mut stub.script(&[copy, RETURN])), STATUS);
            assert_eq!(to[3..][..bytes], from[..bytes]);
            assert_eq!(to[..3], [0xEE; 3]);
            assert!(to[3 + bytes..].iter().all(|byte| *byte == 0xEE), "{bytes}");
        }
    }

    #[test]
    fn writes_what_its_step_holds() {
        let low = 0x0807_0605_0403_0201;
        let high = 0x100f_0e0d_0c0b_0a09;
        let held: Vec<u8> = (1..=16).collect();
        for (op, bytes) in [(Op::Write1, 1), (Op::Write2, 2), (Op::Write4, 4), (Op::Write8, 8), (Op::Write16, 16)] {
            let mut to = [0xEE; 24];
            let mut stub = Stub::new(None);
            let write = (op, [to.as_mut_ptr() as u64 + 3, low, high]);
            assert_eq!(stub.run(&mut stub.script(&[write, RETURN])), STATUS);
            assert_eq!((&to[..3], &to[3..][..bytes]), (&[0xEE; 3][..], &held[..bytes]));
            assert!(to[3 + bytes..].iter().all(|byte| *byte == 0xEE), "{op:?}");
        }
    }

    #[test]
    fn reads_and_changes_nothing() {
        let read = [7u8; 9];
        let [first, last] = [&raw const read[0] as u64, &raw const read[8] as u64];
        let mut stub = Stub::new(None);
        let steps = [(Op::Read, [first, last, 0]), (Op::Read, [first, first, 0]), (Op::Return, [0; 3])];
        assert_eq!(stub.run(&mut stub.script(&steps)), 0);
        assert_eq!(read, [7; 9]);
    }

    #[test]
    fn counts_its_scripts_in_its_data() {
        let mut stub = Stub::new(None);
        let mut steps = stub.script(&[RETURN]);
        for runs in 1..=3 {
            assert_eq!(stub.run(&mut steps), STATUS);
            assert_eq!(steps[0], [MAGIC, runs, 0, 0]);
        }
    }

    #[test]
    fn goes_on_with_the_next_script_where_there_is_more() {
        let mut to = [0u8; 2];
        let write = |index: usize, to: &mut [u8; 2]| (Op::Write1, [&raw mut to[index] as u64, b"ab"[index].into(), 0]);
        // The same code at another address: it goes on in there.
        let elsewhere = Stub::new(None);
        let mut second = elsewhere.script(&[write(1, &mut to), RETURN]);
        let mut stub = Stub::new(Some(&mut second[..]));
        let mut first = stub.script(&[write(0, &mut to), (Op::More, [0; 3])]);
        assert_eq!(stub.run(&mut first), STATUS);
        assert_eq!(&to, b"ab");
        assert_eq!((first[0][1], second[0][1]), (1, 1));
    }

    #[test]
    fn does_nothing_where_firmwares_data_is_not_what_it_should_be() {
        let mut to = [0u8; 1];
        let mut stub = Stub::new(None);
        let mut steps = stub.script(&[(Op::Write1, [to.as_mut_ptr() as u64, 1, 0]), RETURN]);
        steps[0][0] += 1;
        assert_eq!(stub.run(&mut steps), NO_SCRIPT);
        assert_eq!((to, steps[0][1]), ([0], 0));
    }

    /// As SetVirtualAddressMap does with its last step but one, and as firmware that jumps from it does.
    #[test]
    fn converts_its_own_pointer_before_it_leaves() {
        let elsewhere = Stub::new(None);
        for leave in [RETURN, (Op::Jump, [elsewhere.ret(), STATUS, 0])] {
            let mut stub = Stub::new(None);
            let mut moved = stub.script(&[RETURN]);
            let moves = (Op::Move, [moved.as_mut_ptr() as u64, 0, 0]);
            let mut first = stub.script(&[moves, leave]);
            assert_eq!(stub.run(&mut first), STATUS);
            assert_eq!(stub.pointer(), moved.as_ptr() as u64);
            assert_eq!(stub.run_again(), STATUS);
            assert_eq!((first[0][1], moved[0][1]), (1, 1));
        }
    }

    /// GetTime's stub in a page of its own, its traps answered.
    struct Stub(Executable);

    impl Stub {
        /// `next` is what it finds where it resumes.
        fn new(next: Option<&mut [[u64; 4]]>) -> Self {
            let mut code = *image();
            // Intel SDM vol. 2B, "NOP" and "MOV".
            code[entry_offset(Service::GetTime) + TRAP_OFFSET..][..TRAP_BYTES].copy_from_slice(&[0x66, 0x90]);
            if let Some(next) = next {
                // movabs r9, NEXT; jmp to where the script's magic is compared, behind the load of the pointer.
                let from = RESUME_OFFSET + 12;
                let to = RESUME_OFFSET + ENTRY_BYTES + LOAD_BYTES;
                let resumes = &mut code[RESUME_OFFSET..][..12];
                resumes[..2].copy_from_slice(&[0x49, 0xB9]);
                resumes[2..10].copy_from_slice(&(next.as_mut_ptr() as u64).to_le_bytes());
                resumes[10..].copy_from_slice(&[0xEB, (to - from) as u8]);
            }
            Self(Executable::new(&code))
        }

        /// Firmware's data for it: the state, and these steps.
        fn script(&self, steps: &[(Op, [u64; 3])]) -> Vec<[u64; 4]> {
            let code = |op| self.0.0 as u64 + code_offset(op) as u64;
            let steps = steps.iter().map(|(op, [a, b, c])| [code(*op), *a, *b, *c]);
            [STATE].into_iter().chain(steps).collect()
        }

        fn run(&mut self, script: &mut [[u64; 4]]) -> u64 {
            self.0.write(POINTER_OFFSET, script.as_mut_ptr() as u64);
            self.run_again()
        }

        fn run_again(&mut self) -> u64 {
            let returned: u64;
            // SAFETY: the code is GetTime's stub without its traps; the tests above hold that it writes EFIAPI's volatile
            // registers only, all of which are named here, and its own pointer, which is in a page that can be written;
            // the tests' scripts have it touch their own buffers only.
            unsafe {
                core::arch::asm!(
                    "call {entry}",
                    entry = in(reg) self.0.0,
                    out("rcx") _,
                    out("r8") _,
                    out("r9") _,
                    out("r10") _,
                    out("r11") _,
                    out("rax") returned,
                );
            }
            returned
        }

        fn pointer(&self) -> u64 {
            self.0.read(POINTER_OFFSET)
        }

        /// The address of a `ret`.
        fn ret(&self) -> u64 {
            let last = reachable(image(), [code_offset(Op::Return)]);
            let ret = last.iter().find(|it| it.mnemonic() == Mnemonic::Ret).unwrap();
            self.0.0 as u64 + (ret.ip() - BASE)
        }
    }

    /// Bytes of `mov r9, [rip + POINTER]`.
    const LOAD_BYTES: usize = 7;

    /// A page of its own, with code in it, which may be written as firmware's may before phase `finish`.
    struct Executable(*mut u8);

    impl Executable {
        fn new(code: &[u8]) -> Self {
            assert!(code.len() <= PAGE_BYTES);
            // SAFETY: a new anonymous mapping of at least `code.len()` bytes, which nobody else knows of.
            unsafe {
                let page = libc::mmap(
                    core::ptr::null_mut(),
                    PAGE_BYTES,
                    libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                assert_ne!(page, libc::MAP_FAILED);
                core::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
                Self(page.cast())
            }
        }

        fn write(&mut self, offset: usize, word: u64) {
            assert!(offset + 8 <= PAGE_BYTES);
            // SAFETY: inside the mapping, which lives as long as this; nothing runs in it meanwhile.
            unsafe { self.0.add(offset).cast::<u64>().write_unaligned(word) };
        }

        fn read(&self, offset: usize) -> u64 {
            assert!(offset + 8 <= PAGE_BYTES);
            // SAFETY: as above.
            unsafe { self.0.add(offset).cast::<u64>().read_unaligned() }
        }
    }

    impl Drop for Executable {
        fn drop(&mut self) {
            // SAFETY: the mapping made in `new`, to which nothing refers any more.
            unsafe { libc::munmap(self.0.cast(), PAGE_BYTES) };
        }
    }
}
