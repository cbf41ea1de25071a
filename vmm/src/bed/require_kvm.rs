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
    let is_required = env::var_os("EFIBED_REQUIRE_KVM").is_some_and(|value| value == "1");
    match BED.get_or_init(TestBed::new) {
        Ok(bed) => Some(bed.clone()),
        Err(why) => {
            skip_or_fail(why, is_required);
            None
        }
    }
}

#[track_caller]
fn skip_or_fail(why: &EngineError, is_required: bool) {
    if is_required {
        let help = why.help().unwrap_or_default();
        panic!("EFIBED_REQUIRE_KVM=1 is set, but {why}\n{help}");
    }
    // Not `eprintln!`: the output of tests that pass is hidden, and this must be seen. If it cannot be written, there is
    // nobody to read it.
    let _ = writeln!(io::stderr(), "skipped: {}: {why}", Location::caller());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::machine::Hypervisor;

    fn without_kvm() -> EngineError {
        let missing = Hypervisor::open_at(Path::new("/dev/no-such-kvm"));
        missing.err().expect("there is no such device").into()
    }

    #[test]
    fn without_kvm_a_test_is_skipped() {
        skip_or_fail(&without_kvm(), false);
    }

    #[test]
    #[should_panic(expected = "EFIBED_REQUIRE_KVM=1 is set, but /dev/no-such-kvm does not exist\nload KVM")]
    fn where_kvm_is_required_it_fails() {
        skip_or_fail(&without_kvm(), true);
    }
}
