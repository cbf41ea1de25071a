//! Coverage of the mapping code: LLVM's 8-bit counters, where it was compiled with them. The built-in layouts are, once more:
//! see `counted`.
//!
//! Code of this process is, if rustc got these options for its crate:
//! `-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
//! -Cllvm-args=-sanitizer-coverage-pc-table`. (Clang, SanitizerCoverage, "Inline 8bit-counters".) All counters of a program, and
//! of each library, lie in one section, and its constructors tell where. Under cargo-fuzz (`cfg(fuzzing)`) they tell libFuzzer.
//! A program for the guest has its counters in a section, too, and its reports have what they came to.

use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libafl::observers::{HitcountsMapObserver, StdMapObserver};

use crate::report::Report;

/// What watches them: a byte for each, in classes of how often (1, 2, 3, 4 to 7, ...).
pub type Coverage = HitcountsMapObserver<StdMapObserver<'static, u8, false>>;

/// The observer's name.
pub const NAME: &str = "coverage";

/// Where the counters are of what is linked to this process, each section once: address and length.
static SECTIONS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Called by the constructor of each instrumented object, with the bounds of the section that it lies in.
#[cfg(not(fuzzing))]
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let section = (start as usize, (stop as usize).saturating_sub(start as usize));
    let mut sections = sections();
    if !sections.contains(&section) {
        sections.push(section);
    }
}

/// Called likewise with the addresses that the counters stand for, which are not needed.
#[cfg(not(fuzzing))]
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _stop: *const usize) {}

fn sections() -> MutexGuard<'static, Vec<(usize, usize)>> {
    SECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many counters this process has.
pub fn count() -> usize {
    sections().iter().map(|(_, length)| length).sum()
}

/// An observer of this process's counters and of so many of a program; of one that stays 0 where there are none.
pub fn observer(of_program: usize) -> Coverage {
    HitcountsMapObserver::new(StdMapObserver::owned(NAME, vec![0; (count() + of_program).max(1)]))
}

/// Sets all of this process to 0: what ran so far was not the mapping code.
pub fn clear() {
    for (start, length) in sections().iter() {
        // SAFETY: a section is there as long as its program or library, which nobody unloads. The code that counts in it runs in
        // calls of the mapping code only, on this thread, and not now.
        unsafe { (*start as *mut u8).write_bytes(0, *length) }
    }
}

/// Puts into the observer what was counted since, here and by the programs of these reports.
pub fn collect<'a>(observer: &mut [u8], reports: impl Iterator<Item = &'a Report>) {
    let mut rest = observer;
    for (start, length) in sections().iter() {
        // SAFETY: as in `clear`.
        let counters = unsafe { slice::from_raw_parts(*start as *const u8, *length) };
        let Some((own, others)) = rest.split_at_mut_checked(*length) else { return };
        own.copy_from_slice(counters);
        rest = others;
    }
    for report in reports {
        rest.iter_mut().zip(&report.counters).for_each(|(cell, counter)| *cell = (*cell).max(*counter));
    }
}

/// For tests that count, or run code that does: the counters are the whole process's.
#[cfg(test)]
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineName, MemoryMap, Scenario, TestBed};

    /// The counters of a library are told by its constructors, as here.
    #[test]
    fn what_the_mapping_code_counted_is_seen_and_cleared() {
        let _turn = turn();
        let before = count();
        let counters = Vec::leak(vec![0_u8; 7]).as_mut_ptr_range();
        for _ in 0..2 {
            __sanitizer_cov_8bit_counters_init(counters.start, counters.end);
        }
        assert_eq!(count(), before + 7, "once, however often it is told");
        // SAFETY: it is the third of seven bytes that nobody else has.
        unsafe { counters.start.add(2).write(5) };
        let scenario = Scenario::new(MemoryMap::from_descriptors("", Vec::new())).engine(EngineName::Walker);
        let of_program = Report { counters: vec![0, 9], ..TestBed::without_kvm().run(&scenario).unwrap() };
        let mut seen = vec![0; count() + 2];
        collect(&mut seen, [&of_program].into_iter());
        assert_eq!(seen[before..], [0, 0, 5, 0, 0, 0, 0, 0, 9]);
        clear();
        collect(&mut seen, [].into_iter());
        assert_eq!(seen[before..before + 7], [0; 7]);
    }
}
