//! What the stubs' machine code must be, held by taking it apart and by running it. Tests only.

use std::collections::BTreeSet;

use efibed_stub::image::{ENTRY_BYTES, IMAGE_BYTES, IMAGE_PAGE_OFFSET, TRAP_BYTES, TRAP_OFFSET, entry_offset, image};
use efibed_stub::{STAMP_TAIL_BYTES, Service, TRAP_PORT};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::PAGE_BYTES;

/// Some address that is neither low nor high.
const BASE: u64 = 0xffff_fffe_8080_0000 + IMAGE_PAGE_OFFSET as u64;

/// All that a stub may consist of: each of these runs in ring 0 under every KVM, by the processor or by KVM's
/// emulator (which knows next to no SSE, no popcnt, no stac, no int3, and takes lzcnt for bsr).
const PERMITTED: [Mnemonic; 7] =
    [Mnemonic::Mov, Mnemonic::Out, Mnemonic::Jmp, Mnemonic::Test, Mnemonic::Je, Mnemonic::Jne, Mnemonic::Ret];

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
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let addresses_by_pointer = info.used_memory().iter().all(|memory| {
        memory.segment() != Register::FS
            && memory.segment() != Register::GS
            && WRITABLE.contains(&memory.base())
            && memory.index() == Register::None
    });
    if !addresses_by_pointer || instruction.is_ip_rel_memory_operand() {
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
        (&[0x48, 0x8B, 0x05, 0, 0, 0, 0], "has an address of its own"),       // mov rax, [rip]
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

/// What GetTime does after the trap, run by this very processor. `status` is what the host answers.
mod get_time {
    use super::*;

    const TIME: [u64; 2] = [0x0102_0304_0506_0708, 0x1112_1314_1516_1718];
    const CAPABILITIES: u64 = 0x2122_2324_2526_2728;

    #[test]
    fn stores_the_time_in_firmwares_data_and_both_results_for_the_caller() {
        let (mut time, mut own, mut capabilities) = ([!0; 2], [!0; 2], [0xFF; 16]);
        run(0, &mut time, Some(&mut capabilities), &mut own);
        assert_eq!(time, TIME);
        assert_eq!(own, TIME);
        assert_eq!(capabilities[..8], CAPABILITIES.to_le_bytes());
        assert_eq!(capabilities[8..], [0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    }

    #[test]
    fn needs_no_capabilities() {
        let (mut time, mut own) = ([!0; 2], [!0; 2]);
        run(0, &mut time, None, &mut own);
        assert_eq!((time, own), (TIME, TIME));
    }

    #[test]
    fn touches_nothing_when_the_host_refuses() {
        let (mut time, mut own, mut capabilities) = ([!0; 2], [!0; 2], [0xFF; 16]);
        run(2, &mut time, Some(&mut capabilities), &mut own);
        assert_eq!((time, own, capabilities), ([!0; 2], [!0; 2], [0xFF; 16]));
    }

    fn run(status: u32, time: &mut [u64; 2], capabilities: Option<&mut [u8; 16]>, own: &mut [u64; 2]) {
        let code = Executable::new(&answered(status));
        let capabilities = capabilities.map_or(core::ptr::null_mut(), |it| it.as_mut_ptr());
        let returned: u64;
        // SAFETY: the code is GetTime's stub without its trap; the test above holds that it writes EFIAPI's volatile
        // registers only, all of which are named here, and [rcx], [r9] and [rdx] have room for what it stores.
        unsafe {
            core::arch::asm!(
                "call {entry}",
                entry = in(reg) code.0,
                inout("rcx") time.as_mut_ptr() => _,
                inout("rdx") capabilities => _,
                inout("r8") CAPABILITIES => _,
                inout("r9") own.as_mut_ptr() => _,
                inout("r10") TIME[0] => _,
                inout("r11") TIME[1] => _,
                lateout("rax") returned,
            );
        }
        assert_eq!(returned, u64::from(status));
    }

    /// The image with GetTime's trap answered: its own `mov eax` loads the status, and the `out` is a nop.
    fn answered(status: u32) -> [u8; IMAGE_BYTES] {
        let mut code = *image();
        let entry = &mut code[entry_offset(Service::GetTime)..];
        entry[1..5].copy_from_slice(&status.to_le_bytes());
        entry[TRAP_OFFSET..][..TRAP_BYTES].copy_from_slice(&[0x66, 0x90]); // Intel SDM vol. 2B, "NOP"
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
