//! The guest image: what runs in the virtual machine.
//!
//! The host enters at `efibed_entry` in 64-bit mode, on tables, stacks and descriptor tables it made. The image carries
//! out batches of commands ([`crate::protocol`]) and never returns.

mod calls;
mod faults;
mod header;
mod mem;
mod probes;
mod trials;

use core::sync::atomic::{Ordering, compiler_fence};

use crate::error::MapError;
use crate::mapper::{MapContext, Mapper};
use crate::page_table::AddressSpace;
use crate::protocol::{
    Command, DIRECT_MAP, HANDOVER_DONE, HANDOVER_PANIC, MAX_COMMANDS, Mailbox, MapRequest, MapResult, MapStatus, Op,
    PORT, Panic,
};

/// The mailbox. Only this image's single CPU and, while that is stopped, the host touch it.
#[unsafe(no_mangle)]
static mut EFIBED_MAILBOX: core::mem::MaybeUninit<Mailbox> = core::mem::MaybeUninit::zeroed();

fn mailbox() -> *mut Mailbox {
    (&raw mut EFIBED_MAILBOX).cast()
}

/// Makes an image of mapping code: `image!(|request| ...)` names what makes the [`Mapper`] for a [`MapRequest`], or
/// refuses it with None.
#[macro_export]
macro_rules! image {
    ($mapper_for:expr) => {
        #[unsafe(no_mangle)]
        extern "C" fn efibed_main() -> ! {
            $crate::image::serve($mapper_for)
        }
    };
}

/// Carries out batches forever.
pub fn serve<M: Mapper>(mapper_for: impl Fn(&MapRequest) -> Option<M>) -> ! {
    let mut session = None;
    loop {
        let mail = mailbox();
        // SAFETY: the mailbox is ours while the guest runs.
        let count = (unsafe { (*mail).command_count } as usize).min(MAX_COMMANDS);
        for at in 0..count {
            // SAFETY: as above; `at` is below MAX_COMMANDS.
            let command = unsafe {
                (&raw mut (*mail).command_at).write_volatile(at as u64);
                (&raw const (*mail).commands).cast::<Command>().add(at).read_volatile()
            };
            let result = carry_out(at, &command, &mut session, &mapper_for);
            // SAFETY: as above.
            unsafe { (&raw mut (*mail).commands).cast::<Command>().add(at).write(Command { result, ..command }) };
        }
        // SAFETY: as above.
        unsafe { (&raw mut (*mail).command_at).write_volatile(count as u64) };
        hand_over(HANDOVER_DONE);
    }
}

/// A mapper between its phases.
struct Session<M> {
    mapper: M,
    context: MapContext<'static>,
    space: AddressSpace,
}

fn carry_out<M: Mapper>(
    at: usize,
    command: &Command,
    session: &mut Option<Session<M>>,
    mapper_for: &impl Fn(&MapRequest) -> Option<M>,
) -> u64 {
    const MAP: u64 = Op::Map as u64;
    const FINISH: u64 = Op::Finish as u64;
    const LOAD_ROOT: u64 = Op::LoadRoot as u64;
    const CALL: u64 = Op::Call as u64;
    const SWEEP: u64 = Op::Sweep as u64;
    const PROBE: u64 = Op::Probe as u64;
    const TRY: u64 = Op::Try as u64;
    let [a, b, c, d, e, f] = command.args;
    match command.op {
        MAP => map(session, mapper_for),
        FINISH => finish(session),
        // SAFETY: the host walked these tables and found all of the kernel's own ranges in them.
        LOAD_ROOT => unsafe { core::arch::asm!("mov cr3, {}", in(reg) a, options(nostack, preserves_flags)) },
        CALL => return calls::call(at, a, &[b, c, d, e, f]),
        SWEEP => probes::sweep(a as usize),
        PROBE => probes::probe(a as usize, b as usize, c),
        TRY => return trials::make(a, b, c, d),
        _ => {}
    }
    0
}

fn map<M: Mapper>(session: &mut Option<Session<M>>, mapper_for: &impl Fn(&MapRequest) -> Option<M>) {
    // SAFETY: the mailbox is ours while the guest runs.
    let request = unsafe { &(*mailbox()).map_request };
    // SAFETY: the host maps all that the request names at the direct map, and nothing else uses it meanwhile.
    let context = unsafe { MapContext::from_request(request, DIRECT_MAP) };
    let outcome = mapper_for(request).zip(context);
    let result = match outcome {
        None => MapResult { status: MapStatus::BadRequest as u64, ..MapResult::default() },
        Some((mut mapper, mut context)) => match mapper.map(&mut context) {
            Err(error) => failed(error),
            Ok(space) => {
                let result = succeeded(&context, space);
                *session = Some(Session { mapper, context, space });
                result
            }
        },
    };
    answer(result);
}

fn finish<M: Mapper>(session: &mut Option<Session<M>>) {
    answer(match session {
        None => MapResult { status: MapStatus::BadRequest as u64, ..MapResult::default() },
        Some(Session { mapper, context, space }) => match mapper.finish(context, *space) {
            Err(error) => failed(error),
            Ok(finished) => {
                *space = finished;
                succeeded(context, finished)
            }
        },
    });
}

fn answer(result: MapResult) {
    // SAFETY: the mailbox is ours while the guest runs.
    unsafe { (&raw mut (*mailbox()).map_result).write_volatile(result) };
}

fn succeeded(context: &MapContext<'_>, space: AddressSpace) -> MapResult {
    MapResult {
        status: MapStatus::Done as u64,
        detail: 0,
        root: space.root(),
        mapped: context.mapped_count() as u64,
        table_pages: context.tables.used_pages(),
    }
}

fn failed(error: MapError) -> MapResult {
    let (status, detail) = error.to_status();
    MapResult { status: status as u64, detail, ..MapResult::default() }
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
