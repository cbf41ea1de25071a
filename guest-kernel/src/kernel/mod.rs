//! The guest's own kernel: what runs in ring 0 of the virtual machine.
//!
//! The host enters at `efibed_entry` in 64-bit mode, on tables, stacks and descriptor tables it made. The kernel carries
//! out batches of commands ([`crate::protocol`]) and never returns. Mapping code is none of its business: the host runs that
//! in ring 3, and of the kernel only the handlers of `process` take part.

mod calls;
mod faults;
mod header;
mod mem;
mod probes;
mod process;
mod trials;

use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use crate::protocol::{Command, HANDOVER_DONE, HANDOVER_PANIC, MAGIC, MAX_COMMANDS, Mailbox, Op, PORT, Panic};

/// The mailbox. Only this image's single CPU and, while that is stopped, the host touch it.
#[unsafe(no_mangle)]
static mut EFIBED_MAILBOX: core::mem::MaybeUninit<Mailbox> = core::mem::MaybeUninit::zeroed();

fn mailbox() -> *mut Mailbox {
    (&raw mut EFIBED_MAILBOX).cast()
}

/// [`MAGIC`] until the kernel has started. It stands for all initialised data: a host that did not load the image's data, or
/// did not restore it before another boot, left 0 here.
#[unsafe(no_mangle)]
static EFIBED_UNSTARTED: AtomicU64 = AtomicU64::new(MAGIC);

/// Carries out batches forever. The entry point calls it.
#[unsafe(no_mangle)]
extern "C" fn efibed_main() -> ! {
    assert!(EFIBED_UNSTARTED.load(Ordering::Relaxed) == MAGIC, "the image's initialised data is not as it was built");
    EFIBED_UNSTARTED.store(0, Ordering::Relaxed);
    loop {
        // SAFETY: the mailbox is ours while the guest runs.
        unsafe { carry_out_batch(mailbox()) };
        hand_over(HANDOVER_DONE);
    }
}

/// Carries out the batch in the mailbox. In place: where ring 0 is emulated, a copy of a command takes longer than most
/// commands.
///
/// # Safety
///
/// The mailbox must be ours.
unsafe fn carry_out_batch(mail: *mut Mailbox) {
    const CALL: u64 = Op::Call as u64;
    const ODD_CALL: u64 = Op::OddCall as u64;
    // SAFETY: as the caller promises; the commands up to `end` are in it, and nothing else refers to them.
    unsafe {
        let first = (&raw mut (*mail).commands).cast::<Command>();
        let end = first.add(((*mail).command_count as usize).min(MAX_COMMANDS));
        let at = &raw mut (*mail).command_at;
        at.write_volatile(0);
        let mut next = first;
        while next != end {
            if let CALL | ODD_CALL = (*next).op {
                next = calls::efibed_calls(next, end);
                continue;
            }
            (*next).result = carry_out(&*next);
            at.write_volatile(at.read_volatile() + 1);
            next = next.add(1);
        }
    }
}

fn carry_out(command: &Command) -> u64 {
    const LOAD_ROOT: u64 = Op::LoadRoot as u64;
    const SWEEP: u64 = Op::Sweep as u64;
    const PROBE: u64 = Op::Probe as u64;
    const TRY: u64 = Op::Try as u64;
    let [a, b, c, d, ..] = command.args;
    match command.op {
        // SAFETY: the host walked these tables and found all of the kernel's own ranges in them.
        LOAD_ROOT => unsafe { core::arch::asm!("mov cr3, {}", in(reg) a, options(nostack, preserves_flags)) },
        SWEEP => probes::sweep(a as usize),
        PROBE => probes::probe(a as usize, b as usize, c),
        TRY => return trials::make(a, b, c, d),
        _ => {}
    }
    0
}

fn hand_over(code: u32) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a write to the hand-over port stops the CPU until the host has read and written the mailbox.
    unsafe { core::arch::asm!("out dx, eax", in("dx") PORT, in("eax") code, options(nostack, preserves_flags)) };
    compiler_fence(Ordering::SeqCst);
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // The message is left out: to format it would pull in more code than the rest of the image is.
    if let Some(location) = info.location() {
        let file = location.file();
        let account = Panic {
            file: file.as_ptr().expose_provenance() as u64,
            file_bytes: file.len() as u64,
            line: location.line().into(),
        };
        // SAFETY: the mailbox is ours while the guest runs.
        unsafe { (&raw mut (*mailbox()).panic).write_volatile(account) };
    }
    loop {
        hand_over(HANDOVER_PANIC);
    }
}
