//! What must hold each time the guest hands over: the kernel's registers are as they were set, and the tables are those that
//! were judged.

use super::Run;
use crate::check::{Finding, Rule, Statement};
use crate::guest::Altered;
use crate::mmu::Pa;

impl Run<'_> {
    /// After each batch; large tables are compared at the end of a stage.
    pub(super) fn look_after_batch(&mut self, of: &str) {
        self.look_at_registers(of);
        if self.course.tables.is_small() {
            self.look_at_tables(of);
        }
    }

    /// What ran must have left the kernel's registers alone.
    pub(super) fn look_at_registers(&mut self, after: &str) {
        // Ring 3 cannot write to IA32_PAT (SDM vol. 2, "WRMSR"), and the kernel does not: firmware may.
        let with_pat = self.firmware.is_some();
        for Altered { register, set, found } in self.guest.restore_state(self.loaded_root, with_pat) {
            self.find_kernel_state(
                format!("after {after} {register} is {found:#x}, and the kernel had set it to {set:#x}"),
                Statement::Register { name: register, value: set },
                Statement::Register { name: register, value: found },
            );
        }
    }

    /// And the tables. Those that are there now are taken for the judged ones, so that each change is found once.
    pub(super) fn look_at_tables(&mut self, after: &str) {
        let Some(change) = self.course.tables.first_change(&self.course.case.memory) else { return };
        self.course.renew_tables();
        let at = change.at;
        let what = if change.words.is_some() { "table entry" } else { "page of tables" };
        let message = format!("after {after} the {what} at PA {at:#x} is not the one that was walked");
        let [expected, observed] = match change.words {
            Some(words) => words.map(|entry| Some(Statement::Entry { at: Pa(at), entry })),
            None => [None, None],
        };
        let finding =
            Finding { expected, observed, ..Finding::worded(self.course.phase, Rule::TablesChanged, None, message) };
        self.course.marks.push_finding(finding);
    }

    pub(super) fn find_kernel_state(&mut self, message: String, expected: Statement, observed: Statement) {
        let (expected, observed) = (Some(expected), Some(observed));
        let finding =
            Finding { expected, observed, ..Finding::worded(self.course.phase, Rule::KernelState, None, message) };
        self.course.marks.push_finding(finding);
    }
}
