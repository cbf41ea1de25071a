//! A mutant as a library: the layouts behind the C ABI. `main.rs` compiles it, against a changed copy of guest-kernel.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;

use efibed_guest::mapper::{MapRequest, MapResult, MapStatus, Step, carry_out};
use efibed_guest::{Layout, LayoutMapper};

static COUNTERS: Mutex<(usize, usize)> = Mutex::new((0, 0));

/// What its constructors call, if it counts what it runs.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    *COUNTERS.lock().unwrap() = (start as usize, stop as usize);
}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_: *const usize, _: *const usize) {}

/// Where its counters are.
#[unsafe(no_mangle)]
pub extern "C" fn mutant_counters(start: &mut usize, stop: &mut usize) {
    (*start, *stop) = *COUNTERS.lock().unwrap();
}

/// Carries out a step with that layout, by its place in the list. A panic is an answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mutant(layout: usize, finishes: bool, request: &MapRequest, result: &mut MapResult) {
    let mut mapper = LayoutMapper { layout: Layout::ALL[layout], ..LayoutMapper::default() };
    let step = if finishes { Step::Finish } else { Step::Map };
    set_hook(Box::new(|_| {}));
    // SAFETY: as the caller vouches.
    let carried = catch_unwind(AssertUnwindSafe(|| unsafe { carry_out(&mut mapper, step, request, result) }));
    if carried.is_err() {
        result.status = MapStatus::Panicked as u64;
    }
}
