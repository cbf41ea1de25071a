//! Tests that need /dev/kvm. Where it is missing they are ignored by name, or fail with `EFIBED_REQUIRE_KVM=1`.

mod attributes_table;
mod calls;
mod check;
mod hostile;
mod hostile_maps;
mod huge;
mod image;
mod linux;
mod machine;
mod matrix;
mod misbehaviour;
mod negative_controls;
mod programs;
mod writers;

use efibed_tests::confined;
use libtest_mimic::{Arguments, Trial};

fn main() {
    confined::prepare();
    let trials: Vec<Trial> = [
        machine::trials(),
        check::trials(),
        hostile::trials(),
        hostile_maps::trials(),
        huge::trials(),
        image::trials(),
        linux::trials(),
        calls::trials(),
        attributes_table::trials(),
        misbehaviour::trials(),
        negative_controls::trials(),
        programs::trials(),
        writers::trials(),
        matrix::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    confined::check(&trials);
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}
