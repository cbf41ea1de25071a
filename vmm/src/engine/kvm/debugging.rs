//! What a debugger is shown of a run besides ring 3 itself.

use super::Run;
use crate::guest::process::{FaultOfRing0, Halt};
use crate::report::FaultDetail;

impl Run<'_> {
    /// The findings so far. The guest stands still meanwhile, its tables as they are. To end a process that has been left is
    /// to let the run go on without a debugger.
    pub(super) fn show_to_debugger(&mut self) {
        let Some(debugger) = self.course.job.debugger else { return };
        let faults: Vec<FaultOfRing0> = self.course.report.faults.iter().filter_map(of_ring_0).collect();
        let mut halted = self.guest.left(&mut self.process);
        let _ = debugger.borrow_mut().halted(Halt::Findings(&self.course.report.findings, &faults), &mut halted);
    }
}

/// None: it is of a probe, which the kernel of the guest made on purpose.
fn of_ring_0(detail: &FaultDetail) -> Option<FaultOfRing0> {
    let record = &detail.record;
    Some(FaultOfRing0 { service: detail.service?, fault: record.fault, rip: record.rip.0, cr2: record.cr2.0 })
}
