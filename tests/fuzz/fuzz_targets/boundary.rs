//! Any bytes as what mapping code answers: counts, roots, entries, its virtual map and log, on the walker engine and, where
//! there is KVM and the bytes ask for it, in a guest. The host neither panics nor hangs, and is not told that wrong is clean.
#![no_main]

use std::sync::LazyLock;

use efibed::{EngineName, TestBed};
use efibed_tests::{bed, forger};
use libfuzzer_sys::fuzz_target;

static HAS_KVM: LazyLock<bool> = LazyLock::new(|| TestBed::new().is_ok());

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let in_guest = first % 16 == 15 && *HAS_KVM;
    let engine = if in_guest { EngineName::Kvm } else { EngineName::Walker };
    if let Err(problem) = forger::try_bytes(bed(), engine, rest) {
        panic!("{problem}");
    }
});
