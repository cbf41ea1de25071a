//! What a debugger is shown of a run besides ring 3 itself.

use super::Run;
use crate::guest::process::Halt;

impl Run<'_> {
    /// The findings so far. The guest stands still meanwhile, its tables as they are. To end a process that has been left is
    /// to let the run go on without a debugger.
    pub(super) fn show_to_debugger(&mut self) {
        let Some(debugger) = self.course.job.debugger else { return };
        let mut halted = self.guest.left(&mut self.process);
        let _ = debugger.borrow_mut().halted(Halt::Findings(&self.course.report.findings), &mut halted);
    }
}
