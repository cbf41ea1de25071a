//! What the stubs' machine code must be, held by taking it apart and by running it. Tests only.

use std::collections::BTreeSet;

use efibed_stub::image::{
    ENTRY_BYTES, IMAGE_BYTES, IMAGE_PAGE_OFFSET, RESUME, RESUME_OFFSET, TRAP_BYTES, TRAP_OFFSET, entry_offset, image,
};
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
    Mnemonic::Jb,
    Mnemonic::Je,
    Mnemonic::Jmp,
    Mnemonic::Jne,
    Mnemonic::Mov,
    Mnemonic::Out,
    Mnemonic::Ret,
    Mnemonic::Sub,
    Mnemonic::Test,
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
            FlowControl::Return => {}
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
        let reads = instruction.op1_kind() == OpKind::Memory && instruction.mnemonic() == Mnemonic::Mov;
        let is_own_constant = reads && image.contains(&instruction.ip_rel_memory_address());
        return (!is_own_constant).then_some("has an address of its own");
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let addresses_by_pointer = info.used_memory().iter().all(|memory| {
        memory.segment() != Register::FS
            && memory.segment() != Register::GS
            && WRITABLE.contains(&memory.base())
            && memory.index() == Register::None
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
    let instructions = reachable(image(), Service::ALL.map(entry_offset));
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

        // The other one is where it resumes.
        let outs = instructions.iter().filter(|it| it.mnemonic() == Mnemonic::Out);
        assert_eq!(outs.count(), 2, "{service}");
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

/// What a stub does after its trap, run by this very processor.
mod script {
    use efibed_stub::script::{MAGIC, NO_SCRIPT};

    use super::*;

    const STATUS: u64 = 0x8000_0000_0000_0005;

    #[test]
    fn copies_what_it_is_told_byte_by_byte() {
        let from: Vec<u8> = (1..=40).collect();
        for bytes in [0, 1, 7, 8, 9, 16, 23, 40] {
            let mut to = [0xEE; 48];
            let write = [2, to.as_mut_ptr() as u64 + 3, bytes as u64, from.as_ptr() as u64];
            assert_eq!(run(&[[MAGIC, 0, 0, 0], write, [0, STATUS, 0, 0]], None), STATUS);
            assert_eq!(to[3..][..bytes], from[..bytes]);
            assert_eq!(to[..3], [0xEE; 3]);
            assert!(to[3 + bytes..].iter().all(|byte| *byte == 0xEE), "{bytes}");
        }
    }

    #[test]
    fn reads_and_changes_nothing() {
        let read = [7u8; 9];
        let steps = [[MAGIC, 0, 0, 0], [1, read.as_ptr() as u64, 9, 0], [1, read.as_ptr() as u64, 1, 0], [0; 4]];
        assert_eq!(run(&steps, None), 0);
        assert_eq!(read, [7; 9]);
    }

    #[test]
    fn goes_on_with_the_next_script_where_there_is_more() {
        let mut to = [0u8; 2];
        let write =
            |index: usize, to: &mut [u8; 2]| [2, &raw mut to[index] as u64, 1, b"ab".as_ptr() as u64 + index as u64];
        let first = [[MAGIC, 0, 0, 0], write(0, &mut to), [3, 0, 0, 0]];
        let second = [[MAGIC, 0, 0, 0], write(1, &mut to), [0, STATUS, 0, 0]];
        assert_eq!(run(&first, Some(&second)), STATUS);
        assert_eq!(&to, b"ab");
    }

    #[test]
    fn does_nothing_where_firmwares_data_is_not_what_it_should_be() {
        let mut to = [0u8; 1];
        let write = [2, to.as_mut_ptr() as u64, 1, b"x".as_ptr() as u64];
        assert_eq!(run(&[[MAGIC + 1, 0, 0, 0], write, [0; 4]], None), NO_SCRIPT);
        assert_eq!(to, [0]);
    }

    fn run(script: &[[u64; 4]], next: Option<&[[u64; 4]]>) -> u64 {
        let code = Executable::new(&answered());
        let returned: u64;
        // SAFETY: the code is GetTime's stub without its traps; the test above holds that it writes EFIAPI's volatile
        // registers only, all of which are named here, and the tests' scripts have it touch their own buffers only.
        unsafe {
            core::arch::asm!(
                "call {entry}",
                entry = in(reg) code.0,
                in("rdx") next.map_or(core::ptr::null(), <[_]>::as_ptr),
                inout("r9") script.as_ptr() => _,
                out("rcx") _,
                out("r8") _,
                out("r10") _,
                out("r11") _,
                out("rax") returned,
            );
        }
        returned
    }

    /// The image with its traps answered: the service's is a nop, and where it resumes it finds the next script in rdx.
    fn answered() -> [u8; IMAGE_BYTES] {
        let mut code = *image();
        // Intel SDM vol. 2B, "NOP" and "MOV".
        code[entry_offset(Service::GetTime) + TRAP_OFFSET..][..TRAP_BYTES].copy_from_slice(&[0x66, 0x90]);
        let resumes = &mut code[RESUME_OFFSET..][..TRAP_OFFSET + TRAP_BYTES];
        resumes.copy_from_slice(&[0x49, 0x89, 0xD1, 0x0F, 0x1F, 0x40, 0x00]); // mov r9, rdx; nop dword ptr [rax]
        code
    }

    /// A page of its own, with code in it.
    struct Executable(*mut libc::c_void);

    impl Executable {
        fn new(code: &[u8]) -> Self {
            assert!(code.len() <= PAGE_BYTES);
            // SAFETY: a new anonymous mapping of at least `code.len()` bytes, which nobody else knows of; it is
            // written before it is made executable.
            unsafe {
                let page = libc::mmap(
                    core::ptr::null_mut(),
                    PAGE_BYTES,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                assert_ne!(page, libc::MAP_FAILED);
                core::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
                let protected = libc::mprotect(page, PAGE_BYTES, libc::PROT_READ | libc::PROT_EXEC);
                assert_eq!(protected, 0);
                Self(page)
            }
        }
    }

    impl Drop for Executable {
        fn drop(&mut self) {
            // SAFETY: the mapping made in `new`, to which nothing refers any more.
            unsafe { libc::munmap(self.0, PAGE_BYTES) };
        }
    }
}
