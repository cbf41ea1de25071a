//! Tests that need /dev/kvm. Without it they are ignored, by name; `EFIBED_REQUIRE_KVM=1` makes them fail instead.

mod check;
mod negative_controls;

use libtest_mimic::Arguments;

fn main() {
    let trials = check::trials().into_iter().chain(negative_controls::trials()).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}
