//! Coverage of the mapping code: LLVM's 8-bit counters, where it was compiled with them.
//!
//! Code is, if rustc got these options for its crate:
//! `-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
//! -Cllvm-args=-sanitizer-coverage-pc-table`. (Clang, SanitizerCoverage, "Inline 8bit-counters".) All counters of a program lie
//! in one section, and its constructors tell where. Under cargo-fuzz (`cfg(fuzzing)`) they tell libFuzzer.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use libafl::observers::StdMapObserver;

/// What watches them.
pub type Coverage = StdMapObserver<'static, u8, false>;

static START: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Called by each instrumented object's constructor, before `main`, with the whole section's bounds.
#[cfg(not(fuzzing))]
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    START.store(start, Ordering::Relaxed);
    LENGTH.store((stop as usize).saturating_sub(start as usize), Ordering::Relaxed);
}

/// Called likewise with the addresses that the counters stand for, which are not needed.
#[cfg(not(fuzzing))]
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _stop: *const usize) {}

/// How many there are.
pub fn count() -> usize {
    LENGTH.load(Ordering::Relaxed)
}

/// An observer of them; of one counter that stays 0 where there are none.
pub fn observer() -> Coverage {
    let (start, count) = (START.load(Ordering::Relaxed), count());
    if count == 0 {
        return StdMapObserver::owned(NAME, vec![0]);
    }
    // SAFETY: the section is there as long as the program, and has so many bytes. The code that counts in it runs in calls of
    // the mapping code only, on this thread, and never while the observer is looked at.
    unsafe { StdMapObserver::from_mut_ptr(NAME, start, count) }
}

/// The observer's name.
pub const NAME: &str = "coverage";

/// Sets all to 0: what ran since the observer did so was not the mapping code.
pub fn clear() {
    let (start, count) = (START.load(Ordering::Relaxed), count());
    if count != 0 {
        // SAFETY: as in `observer`.
        unsafe { start.write_bytes(0, count) }
    }
}

#[cfg(test)]
mod tests {
    use libafl::observers::MapObserver as _;

    use super::*;

    /// The counters of a program are told by its constructors, as here. No other test of this program has any.
    #[test]
    fn what_the_mapping_code_counted_is_seen_and_cleared() {
        assert_eq!((count(), observer().usable_count()), (0, 1));
        let counters = Vec::leak(vec![0_u8; 7]).as_mut_ptr_range();
        __sanitizer_cov_8bit_counters_init(counters.start, counters.end);
        // SAFETY: it is the third of seven bytes that nobody else has.
        unsafe { counters.start.add(2).write(5) };
        assert_eq!((count(), observer().usable_count()), (7, 7));
        assert_eq!((observer().get(2), observer().count_bytes()), (5, 1));
        clear();
        assert_eq!(observer().count_bytes(), 0);
    }
}
