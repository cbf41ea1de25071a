//! Tests that need KVM, on machines that have none.

use std::env;
use std::io::{self, Write};
use std::panic::Location;
use std::sync::OnceLock;

use super::TestBed;
use crate::engine::EngineError;

/// A [`TestBed`] for the test that says this, which ends here if there is no KVM.
///
/// Without a usable `/dev/kvm` the test returns: `()`, or what is given, as in `require_kvm!(Ok(()))`. Standard error says
/// `skipped:`, where, and why, even though the test counts as passed. With `EFIBED_REQUIRE_KVM=1` in the environment the
/// test panics instead. Set that where KVM must be there, so that no test is skipped for another reason than you think.
///
/// All tests of a process get the same bed, so they share its machines.
///
/// ```
/// let bed = efibed::require_kvm!();
/// # let _ = bed;
/// ```
#[macro_export]
macro_rules! require_kvm {
    () => {
        $crate::require_kvm!(())
    };
    ($skipped:expr) => {
        match $crate::bed_or_skip() {
            Some(bed) => bed,
            None => return $skipped,
        }
    };
}

/// What [`require_kvm!`](crate::require_kvm) is made of: the bed of all tests of this process. None: it was said that the
/// caller is skipped.
#[doc(hidden)]
#[track_caller]
pub fn bed_or_skip() -> Option<TestBed> {
    static BED: OnceLock<Result<TestBed, EngineError>> = OnceLock::new();
    match BED.get_or_init(TestBed::new) {
        Ok(bed) => Some(bed.clone()),
        Err(why) if env::var_os("EFIBED_REQUIRE_KVM").is_some_and(|value| value == "1") => {
            let help = if let EngineError::Open(error) = why { error.help() } else { "" };
            panic!("EFIBED_REQUIRE_KVM=1 is set, but {why}\n{help}")
        }
        Err(why) => {
            // Not `eprintln!`: the output of tests that pass is hidden, and this must be seen. If it cannot be written,
            // there is nobody to read it.
            let _ = writeln!(io::stderr(), "skipped: {}: {why}", Location::caller());
            None
        }
    }
}
