//! The calls of runtime services: made in the guest, in one batch before the switch and one after it, and judged.

use std::mem::{offset_of, size_of};
use std::ops::Range;

use efibed_guest::protocol::{Mailbox, Op, Probe};
use efibed_stub::{DESCRIPTOR_STRIDE, DESCRIPTOR_VERSION, Service};
use uefi_raw::Status;

use super::super::calls::{Calls, PlannedCall};
use super::super::course;
use super::super::firmware_memory::FirmwareMemory;
use super::{Listener, Run, Served};
use crate::check::{self, Expectation, Rule};
use crate::firmware::{Breach, BreachKind, Call, Firmware, Refusal, verify_tables};
use crate::guest::{End, Loaded, MappedTables, PAGE_BYTES, command};
use crate::mmu::Access;
use crate::report::CallReport;

/// Where a service is to be called; or why it is not.
type Entry = Result<u64, &'static str>;

const WRONG_PAGES: &str = "the walk finds its pages wrong";
const NO_ALIAS: &str = "the tables have no 1:1 alias of firmware's code";
const NOT_VIRTUAL: &str = "SetVirtualAddressMap has not succeeded";

impl Run<'_, '_> {
    /// The mapper's tables if they hold the 1:1 aliases that firmware needs in SetVirtualAddressMap, else the boot
    /// identity tables.
    pub(super) fn tables_for_the_switch(&self, tables: &MappedTables) -> (&'static str, u64) {
        let boot = ("boot", self.loaded.boot_root);
        let Some(firmware) = &self.firmware else { return boot };
        let aliased = |pa: u64, access| course::leads_to(self.loaded, tables.root, pa, pa, access, &self.cpu.checks);
        let map = self.loaded.placement.virtual_map().start;
        let map_end = map + tables.mapped * DESCRIPTOR_STRIDE as u64;
        let on_mapper = aliased(firmware.entry(Service::SetVirtualAddressMap), Access::fetch())
            && aliased(firmware.runtime_services(), Access::write())
            && (map..map_end).step_by(PAGE_BYTES as usize).all(|page| aliased(page, Access::read()));
        if on_mapper { ("mapper", tables.root) } else { boot }
    }

    /// All services at their physical addresses on the tables named, SetVirtualAddressMap with the `count` descriptors that
    /// lie where the virtual map goes as the last.
    pub(super) fn call_before_the_switch(&mut self, name: &'static str, root: u64, count: u64) -> Result<(), End> {
        let Some(firmware) = &self.firmware else { return Ok(()) };
        let calls = Calls::before_the_switch(room_for_arguments(self.loaded), self.switch_arguments(count));
        let entries: Vec<Entry> = calls.calls.iter().map(|call| Ok(firmware.entry(call.service))).collect();
        self.verify_firmware_tables(Some);
        self.call_all(name, root, &calls, &entries)
    }

    /// All services as firmware's converted table has them; those whose pages the walk finds wrong are left out.
    pub(super) fn call_after_the_switch(&mut self, expectation: &Expectation, root: u64) -> Result<(), End> {
        let Some(firmware) = &self.firmware else { return Ok(()) };
        let data = firmware.runtime_services();
        let virtual_data = match self.job.earlier {
            Some(earlier) => check::virtual_of(earlier.virtual_map, data),
            None => expectation.virtual_of(data),
        };
        let leads = |virt, pa, access| course::leads_to(self.loaded, root, virt, pa, access, &self.cpu.checks);
        let has_data = virtual_data.is_some_and(|virt| leads(virt, data, Access::write()));
        let entry = |call: &PlannedCall| -> Entry {
            let physical = firmware.entry(call.service);
            match firmware.virtual_entry(call.service) {
                _ if !firmware.is_virtual() => Err(NOT_VIRTUAL),
                None if !leads(physical, physical, Access::fetch()) => Err(NO_ALIAS),
                None if has_data => Ok(physical),
                Some(entry) if has_data && leads(entry, physical, Access::fetch()) => Ok(entry),
                _ => Err(WRONG_PAGES),
            }
        };
        let count = self.report.virtual_map.len() as u64;
        let calls = Calls::after_the_switch(room_for_arguments(self.loaded), self.switch_arguments(count));
        let entries: Vec<Entry> = calls.calls.iter().map(entry).collect();
        self.call_all("mapper", root, &calls, &entries)
    }

    /// Firmware's tables, if they are virtual by now.
    pub(super) fn verify_virtual_tables(&mut self, translate: impl Fn(u64) -> Option<u64>) {
        if self.firmware.as_ref().is_some_and(Firmware::is_virtual) {
            self.verify_firmware_tables(translate);
        }
    }

    fn verify_firmware_tables(&mut self, translate: impl Fn(u64) -> Option<u64>) {
        let Some(firmware) = &self.firmware else { return };
        let system_table = firmware.system_table();
        let (tables, paging) = (&self.loaded.memory, &self.cpu.checks);
        let memory = FirmwareMemory { machine: self.guest.machine(), tables, paging };
        if let Err(defect) = verify_tables(&memory, system_table, translate) {
            self.marks.push_worded(self.phase, Rule::FirmwareTables, None, defect.to_string());
        }
    }

    /// SetVirtualAddressMap's arguments, for so many descriptors.
    fn switch_arguments(&self, count: u64) -> [u64; 4] {
        let stride = DESCRIPTOR_STRIDE as u64;
        [count * stride, stride, DESCRIPTOR_VERSION.into(), self.loaded.placement.virtual_map().start]
    }

    /// Makes the calls that have an entry, in one batch, and reports on all.
    fn call_all(&mut self, tables: &'static str, root: u64, calls: &Calls, entries: &[Entry]) -> Result<(), End> {
        let written = |(at, bytes): &(u64, Vec<u8>)| self.loaded.memory.write(self.loaded.physical(*at), bytes);
        if !calls.is_within_room() || !calls.memory.iter().all(written) {
            return Err(End::Corrupt);
        }
        let mut commands = vec![command(Op::LoadRoot, [root, 0, 0, 0, 0, 0])];
        for (call, entry) in calls.calls.iter().zip(entries) {
            if let Ok(entry) = entry {
                let [a, b, c, d, e] = call.args;
                commands.push(command(Op::Call, [*entry, a, b, c, d, e]));
            }
        }
        let served = self.firmware.as_mut().map(|firmware| {
            firmware.expect_root(root);
            Served { firmware, tables: &self.loaded.memory, paging: &self.cpu.checks }
        });
        let mut listener = Listener { judge: None, firmware: served, calls: Vec::new(), reset: None };
        let outcome = self.guest.batch(&commands, &mut listener);
        let (answered, reset) = (listener.calls, listener.reset);
        // A call that did not come back, or was not come to, has returned nothing.
        let done = if outcome.is_ok() { answered.len() } else { answered.len().saturating_sub(1) };
        let returned = self.guest.results(commands.len())?;
        let mut returned = returned.into_iter().skip(1).take(done);

        let mut answered = answered.into_iter();
        for (planned, entry) in calls.calls.iter().zip(entries) {
            match entry {
                Err(reason) => self.report.calls.push(not_called(self.phase, tables, planned, reason)),
                Ok(_) => {
                    // What a batch that ended early did not come to is not reported: why it ended is.
                    let Some(call) = answered.next() else { break };
                    self.judge_call(tables, planned, &call, returned.next());
                }
            }
        }
        match outcome {
            Err(End::Stopped) if reset.is_some() && calls.calls.last().is_some_and(|call| call.status.is_none()) => {
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// `returned` is what the guest got; None: the call did not come back.
    fn judge_call(&mut self, tables: &'static str, planned: &PlannedCall, call: &Call, returned: Option<u64>) {
        let service = call.service;
        let mut find = |rule, message| self.marks.push_worded(self.phase, rule, None, message);
        for breach in &call.breaches {
            find(rule_of(breach), format!("{service}: {breach}"));
        }
        match (returned, &call.refusal) {
            (_, Some(refusal @ Refusal::Unreachable { .. })) => find(Rule::CallBuffer, format!("{service}: {refusal}")),
            (Some(returned), _) if returned != call.status.0 as u64 => {
                let (expected, found) = (call.status, Status(returned as usize));
                let message = format!(
                    "{service} returned {found:?} where firmware answered {expected:?}: its code did \
                     not find its data"
                );
                find(Rule::CallStatus, message);
            }
            (Some(_), refusal) if planned.status != Some(call.status) => {
                let reason = refusal.as_ref().map_or(String::new(), |refusal| format!(": {refusal}"));
                find(Rule::CallStatus, format!("{service} answered {:?}{reason}", call.status));
            }
            (Some(_), _) if call.status == Status::SUCCESS => {
                if let Some(at) = planned.results.iter().find_map(|result| first_difference(self.loaded, result)) {
                    find(Rule::CallResult, format!("{service} left something else at {at:#x} than it should"));
                }
            }
            _ => {}
        }
        let reason = match planned.status {
            None if returned.is_none() => Some("firmware reset the machine, which ends the run".to_owned()),
            _ if returned.is_none() => Some("it did not come back".to_owned()),
            _ => None,
        };
        self.report.calls.push(CallReport {
            phase: self.phase,
            service: service.name(),
            rip: Some(call.rip),
            cr3: Some(call.cr3),
            tables,
            args: call.args,
            status: returned,
            reason,
        });
    }
}

fn not_called(phase: check::Phase, tables: &'static str, planned: &PlannedCall, reason: &str) -> CallReport {
    let [a, b, c, d, _] = planned.args;
    CallReport {
        phase,
        service: planned.service.name(),
        rip: None,
        cr3: None,
        tables,
        args: [a, b, c, d],
        status: None,
        reason: Some(reason.to_owned()),
    }
}

fn rule_of(breach: &Breach) -> Rule {
    match breach.kind() {
        BreachKind::Address => Rule::CallAddress,
        BreachKind::Tables => Rule::CallTables,
        BreachKind::Stack => Rule::CallStack,
        BreachKind::Switch => Rule::SwitchCall,
    }
}

/// The first address at which not those bytes are.
fn first_difference(loaded: &Loaded, (at, expected): &(u64, Vec<u8>)) -> Option<u64> {
    let mut found = vec![0; expected.len()];
    if !loaded.memory.read(loaded.physical(*at), &mut found) {
        return Some(*at);
    }
    let index = found.iter().zip(expected).position(|(found, expected)| found != expected)?;
    Some(at + index as u64)
}

/// Where arguments may lie, as the guest sees it: the records of probes, of which there are none meanwhile.
fn room_for_arguments(loaded: &Loaded) -> Range<u64> {
    let mailbox = loaded.image.header().mailbox;
    let first = mailbox + offset_of!(Mailbox, probes) as u64;
    first..first + (efibed_guest::protocol::MAX_PROBES * size_of::<Probe>()) as u64
}
