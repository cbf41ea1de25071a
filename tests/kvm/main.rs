//! Tests that need /dev/kvm. Where it is missing they are ignored by name, or fail with `EFIBED_REQUIRE_KVM=1`.

mod machine;

use libtest_mimic::Arguments;

fn main() {
    let trials = [machine::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
