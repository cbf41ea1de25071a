//! The instruction that made the access, where the log has its bytes, and what it accesses, where the log has the registers.

use iced_x86::{
    Decoder, DecoderOptions, Formatter as _, GasFormatter, Instruction, InstructionInfoFactory, OpAccess, Register,
    UsedMemory,
};

use super::fault::Fault;

/// The general-purpose registers, by the names that logs have for them.
pub const NAMES: [&str; 16] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

const REGISTERS: [Register; 16] = [
    Register::RAX,
    Register::RBX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::RBP,
    Register::RSP,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// A data access of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The first byte.
    pub address: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Whether it is written to, or only read.
    pub is_write: bool,
}

/// The instruction in words, as GNU's assembler has it.
pub fn disassembled(fault: &Fault) -> Option<String> {
    let mut words = String::new();
    GasFormatter::new().format(&decoded(fault)?, &mut words);
    Some(words)
}

/// The data access of the instruction that has the address of the fault in it, if the log tells enough to know.
pub fn operand(fault: &Fault) -> Option<Operand> {
    let (instruction, address) = (decoded(fault)?, fault.address?);
    let mut factory = InstructionInfoFactory::new();
    let accesses = factory.info(&instruction).used_memory().iter().filter_map(|used| access(fault, used));
    let holds = |access: &Operand| address.wrapping_sub(access.address) < access.bytes;
    accesses.into_iter().find(holds)
}

/// Mixed mode's firmware has 32 bits.
fn decoded(fault: &Fault) -> Option<Instruction> {
    let bits = if fault.is_mixed_mode() { 32 } else { 64 };
    let mut decoder = Decoder::with_ip(bits, &fault.instruction, fault.rip.unwrap_or_default(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

fn access(fault: &Fault, used: &UsedMemory) -> Option<Operand> {
    let value = |register: Register, _, _| {
        let index = REGISTERS.iter().position(|known| *known == register.full_register());
        match index {
            Some(index) => fault.registers.get(index).copied().flatten(),
            // Segments of data are flat.
            None => register.is_segment_register().then_some(0),
        }
    };
    let is_write =
        matches!(used.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite);
    let bytes = u64::try_from(used.memory_size().size()).ok().filter(|bytes| *bytes > 0)?;
    Some(Operand { address: used.virtual_address(0, value)?, bytes, is_write })
}

#[cfg(test)]
mod tests {
    use super::super::read::faults;
    use super::*;

    /// Operands worked out by hand from reports: RSI of a Mac, RDX of a Dell under Xen, and `rep movsb` to RDI.
    #[test]
    fn what_an_instruction_accesses_is_found_from_its_registers() {
        for (text, words, expected) in [
            (
                "BUG: unable to handle page fault for address: ffffa79840068000\nRIP: 0010:0xfffffffeefc440c5\n\
                 Code: 44 24 18 <f3> 0f 6f 06 66 0f e7 07\nRDX: ffffa79840067d20 RSI: ffffa79840067ffa RDI: fffffffeefc925a0\n",
                "movdqu (%rsi),%xmm0",
                Some(Operand { address: 0xffff_a798_4006_7ffa, bytes: 16, is_write: false }),
            ),
            (
                "(XEN) ----[ Xen-4.14.0  x86_64  debug=n   Not tainted ]----\n(XEN) RIP:    e008:[<00000000775e0d21>] 00000000775e0d21\n\
                 (XEN) rdx: 00000000ff900000   rsi: 00000000ff900000   rdi: 00000000775e4d58\n\
                 (XEN) r9:  0000000000000000   r10: 00000000ff920000   r11: 0000000000020000\n\
                 (XEN) Xen code around <00000000775e0d21> (00000000775e0d21):\n\
                 (XEN)  8b 11 45 33 c9 49 8b d8 <4c> 39 5a 20 75 0b 0f b7 42 30 48 8d 4c 10\n\
                 (XEN) [error_code=0000]\n(XEN) Faulting linear address: 00000000ff900020\n",
                "cmp %r11,0x20(%rdx)",
                Some(Operand { address: 0xff90_0020, bytes: 8, is_write: false }),
            ),
            (
                "BUG: unable to handle page fault for address: 0000000000001234\nRIP: 0010:0xfffffffeefc440c5\n\
                 Code: 44 24 18 <48> 89 03\nRSP: 0018:000000000fd73fa0 RBX: 0000000000001234\n",
                "mov %rax,(%rbx)",
                Some(Operand { address: 0x1234, bytes: 8, is_write: true }),
            ),
            // Another address than the fault's tells nothing; nor does a register that is not in the log.
            (
                "BUG: unable to handle page fault for address: 0000000000001234\nCode: <48> 89 03\nRBX: 0000000000009999\n",
                "mov %rax,(%rbx)",
                None,
            ),
            (
                "BUG: unable to handle page fault for address: 0000000000001234\nCode: <48> 89 03\n",
                "mov %rax,(%rbx)",
                None,
            ),
        ] {
            let found = faults(text);
            let fault = &found.kept[0];
            assert_eq!(disassembled(fault).as_deref(), Some(words));
            assert_eq!(operand(fault), expected, "{text}");
        }
    }
}
