//! What is told of a process that is halted: a signal for its exception, and its registers.

use super::wire::Registers;
use crate::guest::process::Halted;
use crate::mmu::Fault;

/// The signal with which Linux answers an exception of ring 3 (`arch/x86/kernel/traps.c`).
pub(super) fn signal(fault: Fault) -> i32 {
    match fault.vector {
        Fault::DEBUG | Fault::BREAKPOINT => libc::SIGTRAP,
        Fault::INVALID_OPCODE => libc::SIGILL,
        // #DE, #MF, #XM.
        0 | 16 | 19 => libc::SIGFPE,
        // #NP, #SS, #AC.
        11 | Fault::STACK | 17 => libc::SIGBUS,
        _ => libc::SIGSEGV,
    }
}

/// All registers of ring 3.
pub(super) fn registers(process: &Halted<'_>) -> Registers {
    let r = process.registers();
    let (selectors, bases) = process.segments();
    Registers {
        general: [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ],
        rip: r.rip,
        rflags: r.rflags,
        selectors,
        bases,
        fxsave: process.fxsave().map_or_else(Vec::new, |region| region.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exceptions by their vectors (SDM vol. 3A, table 6-1).
    #[test]
    fn each_exception_has_the_signal_that_linux_gives_it() {
        let told = [0, 1, 3, 6, 11, 12, 13, 14, 16, 17, 19]
            .map(|vector| signal(Fault { vector, error_code: Default::default() }));
        let (fpe, trap, ill, bus, segv) = (libc::SIGFPE, libc::SIGTRAP, libc::SIGILL, libc::SIGBUS, libc::SIGSEGV);
        assert_eq!(told, [fpe, trap, trap, ill, bus, bus, segv, segv, fpe, bus, fpe]);
    }
}
