//! The guest's own kernel: what runs in ring 0 of the virtual machine.
//!
//! The host enters at `efibed_entry` in 64-bit mode, on tables, stacks and descriptor tables it made. The kernel carries
//! out batches of commands ([`crate::protocol`]) and never returns. Mapping code is none of its business: the host runs that
//! in ring 3, and of the kernel only the handlers of `process` take part.

mod batch;
mod calls;
mod faults;
mod header;
mod mem;
mod probes;
mod process;
mod trials;

use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use crate::protocol::{HANDOVER_PANIC, MAGIC, Mailbox, PORT, Panic};

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
    batch::efibed_batches()
}

/// Whether these are the places in a table, from the first on: the assembler's tables know no enums.
const fn are_in_order(places: &[u64]) -> bool {
    let mut place = 0;
    while place < places.len() {
        if places[place] != place as u64 {
            return false;
        }
        place += 1;
    }
    true
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
