//! What was asked for and is not done.

use std::time::Duration;

use efibed_stub::DESCRIPTOR_VERSION;

use super::{Job, Miscall};
use crate::check::Skipped;
use crate::firmware::ServiceMisbehaviour;

/// Something that a run had no time for.
pub fn out_of_time(what: &str, limit: Duration) -> Skipped {
    Skipped::not_done(what, format!("the limit of {} s for the run was over", limit.as_secs_f64()))
}

/// What a scenario asks for by name that only happens where runtime services are called.
pub fn asked_of_services(job: &Job<'_>) -> impl Iterator<Item = String> {
    let (firmware, kernel) = (job.firmware, job.kernel);
    let others = [
        (firmware.descriptor_version != DESCRIPTOR_VERSION, "firmware that reports another DescriptorVersion than 1"),
        (kernel.descriptor_version.is_some(), "a kernel with a DescriptorVersion of its own"),
        (kernel.guard_page, "a guard page behind GetTime's first argument"),
        (kernel.variable_bytes.is_some(), "a variable of a size asked for"),
    ];
    let others = others.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, what)| what.to_owned());
    firmware.misbehaves.iter().map(misbehaviour).chain(kernel.miscalls.iter().copied().map(miscall)).chain(others)
}

/// A misbehaviour, as something that was asked for.
pub fn misbehaviour(misbehaviour: &ServiceMisbehaviour) -> String {
    format!("firmware that misbehaves: {misbehaviour}")
}

/// A kernel's mistake, as something that was asked for.
pub fn miscall(miscall: Miscall) -> String {
    format!("a kernel's mistake: {}", miscall.name())
}
