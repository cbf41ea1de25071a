//! Any bytes as a memory map of any descriptors, a layout, a leaf rule and a CPU, run on the walker engine: it neither panics
//! nor hangs, and is not called clean if it cannot be.
#![no_main]

use efibed_tests::{bed, hostile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(problem) = hostile::try_bytes(bed(), bytes) {
        panic!("{problem}");
    }
});
