//! The calls of runtime services: made in the guest, in one batch before the switch and one after it, and judged.

use std::cell::Cell;
use std::mem::{offset_of, size_of};
use std::time::Duration;

use efibed_guest::protocol::{Command, EFI_UNSUPPORTED, Mailbox, OddCall, Op, Probe};
use efibed_stub::{DESCRIPTOR_VERSION, Service, rflags};
use uefi_raw::Status;

use super::super::Miscall;
use super::super::calls::{Calls, PlannedCall, Room};
use super::super::firmware_memory::FirmwareMemory;
use super::Run;
use super::abandoned::Abandoned;
use super::serving::{Listener, Served};
use crate::check::{self, Expectation, Finding, Phase, Rule, Skipped, Statement};
use crate::firmware::{Breach, BreachKind, Call, Deed, Firmware, Refusal, verify_tables};
use crate::guest::{Case, End, MappedTables, PAGE_BYTES, command};
use crate::machine::Exit;
use crate::memory_map::MemoryDescriptor;
use crate::mmu::{Access, Pa, Paging, Va, walk};
use crate::report::CallReport;

/// Where a service is to be called; or why it is not.
type Entry = Result<Va, NotCalled>;

/// Why a service is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotCalled {
    WrongPages,
    /// It keeps its physical address, which the layout does not map: no kernel could call it.
    NoAlias,
    NotVirtual,
    GivenUp,
}

impl NotCalled {
    const fn reason(self) -> &'static str {
        match self {
            Self::WrongPages => "the walk finds its pages wrong",
            Self::NoAlias => "the tables have no 1:1 alias of firmware's code",
            Self::NotVirtual => "SetVirtualAddressMap has not succeeded",
            Self::GivenUp => "the guest has given up on runtime services",
        }
    }
}

/// A batch of calls takes some milliseconds; a service that is still running then will never return.
const LIMIT: Duration = Duration::from_secs(5);

/// What became of a call that was to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It returned this.
    Returned(u64),
    /// The guest abandoned it, and has this from it.
    Abandoned(u64),
    /// The run ended in it.
    Ended,
    /// The guest had given up by then, and takes services to have said this.
    NotMade(u64),
}

impl Run<'_> {
    /// The mapper's tables if they hold the 1:1 aliases that firmware needs in SetVirtualAddressMap, else the boot
    /// identity tables.
    pub(super) fn tables_for_the_switch(&self, tables: &MappedTables) -> (&'static str, u64) {
        let boot = ("boot", self.course.case.boot_root);
        let Some(firmware) = &self.firmware else { return boot };
        let aliased = |pa: Pa, access| {
            leads_to(self.course.case, tables.root, pa.one_to_one(), pa, access, &self.course.cpu.checks)
        };
        let mut map = self.course.case.virtual_map_at(tables.mapped).step_by(PAGE_BYTES as usize);
        let on_mapper = aliased(firmware.entry(Service::SetVirtualAddressMap), Access::fetch())
            && aliased(firmware.runtime_services(), Access::write())
            && map.all(|page| aliased(Pa(page), Access::read()));
        if on_mapper { ("mapper", tables.root) } else { boot }
    }

    /// All services at their physical addresses on the tables named, SetVirtualAddressMap with the `count` descriptors that
    /// lie where the virtual map goes as the last.
    pub(super) fn call_before_the_switch(&mut self, name: &'static str, root: u64, count: u64) -> Result<(), End> {
        let Some(firmware) = &self.firmware else { return Ok(()) };
        let calls = Calls::before_the_switch(self.room_for_arguments(), self.switch_arguments(count));
        let entries: Vec<Entry> =
            calls.calls.iter().map(|call| Ok(firmware.entry(call.service).one_to_one())).collect();
        let defect = self.defect_of_tables(|virt| Some(virt.one_to_one()));
        self.course.marks.push_findings(defect);
        self.call_all(name, root, &calls, &entries)
    }

    /// All services as firmware's converted table has them; those whose pages the walk finds wrong are left out.
    pub(super) fn call_after_the_switch(&mut self, expectation: &Expectation, root: u64) -> Result<(), End> {
        let Some(firmware) = &self.firmware else { return Ok(()) };
        let data = firmware.runtime_services();
        let virtual_data = match self.course.job.earlier {
            Some(earlier) => check::virtual_addresses(earlier.virtual_map, &[data]).pop().flatten(),
            None => expectation.virtual_of(data),
        };
        let leads = |virt, pa, access| leads_to(self.course.case, root, virt, pa, access, &self.course.cpu.checks);
        // What firmware's own table denies it is still tried: a kernel would find out in this way.
        let permitted =
            |virt, access: Access| if expectation.denies(virt, access.kind) { Access::read() } else { access };
        let has_data = virtual_data.is_some_and(|virt| leads(virt, data, permitted(virt, Access::write())));
        let has_code = |virt, physical| leads(virt, physical, permitted(virt, Access::fetch()));
        let entry = |call: &PlannedCall| -> Entry {
            let physical = firmware.entry(call.service);
            let alias = physical.one_to_one();
            match firmware.virtual_entry(call.service) {
                _ if self.given_up => Err(NotCalled::GivenUp),
                _ if !firmware.is_virtual() => Err(NotCalled::NotVirtual),
                None if !has_code(alias, physical) => Err(NotCalled::NoAlias),
                None if has_data => Ok(alias),
                Some(_) if call.service == Service::GetTime && self.miscalls(Miscall::PhysicalAddress) => Ok(alias),
                Some(entry) if has_data && has_code(entry, physical) => Ok(entry),
                _ => Err(NotCalled::WrongPages),
            }
        };
        let count = self.course.report.virtual_map.len() as u64;
        let mut calls = Calls::after_the_switch(self.room_for_arguments(), self.switch_arguments(count));
        if self.miscalls(Miscall::UnmappedBuffer) {
            calls.misplace(Service::GetTime, self.course.case.image.header().edge + PAGE_BYTES);
        }
        let entries: Vec<Entry> = calls.calls.iter().map(entry).collect();
        self.call_all("mapper", root, &calls, &entries)
    }

    /// Firmware's tables, if they are virtual by now, and whole. `virtual_map` says what `translate` should.
    pub(super) fn verify_virtual_tables(
        &mut self,
        virtual_map: &[MemoryDescriptor],
        translate: impl Fn(Va) -> Option<Pa>,
    ) {
        if !self.firmware.as_ref().is_some_and(Firmware::is_virtual) || self.given_up {
            return;
        }
        let astray = Cell::new(None);
        let defect = self.defect_of_tables(|virt| {
            let phys = translate(virt);
            if phys != check::physical_of(virtual_map, virt) {
                astray.set(astray.get().or(Some(virt)));
            }
            phys
        });
        let Some(defect) = defect else { return };
        match astray.get() {
            Some(virt) => self.course.marks.push_effect(virt, defect),
            None => self.course.marks.push_finding(defect),
        }
    }

    /// What is wrong with firmware's tables.
    fn defect_of_tables(&mut self, translate: impl Fn(Va) -> Option<Pa>) -> Option<Finding> {
        let system_table = self.firmware.as_ref()?.system_table();
        let (tables, paging) = (&self.course.case.memory, &self.course.cpu.checks);
        let memory = FirmwareMemory { machine: self.guest.machine(), tables, paging };
        let defect = verify_tables(&memory, system_table, translate).err()?;
        Some(Finding::worded(self.course.phase, Rule::FirmwareTables, None, defect.to_string()))
    }

    /// SetVirtualAddressMap's arguments, for so many descriptors, as the kernel has them.
    fn switch_arguments(&self, count: u64) -> [u64; 4] {
        let map = self.course.case.virtual_map_at(count);
        let version = self.course.job.kernel.descriptor_version.unwrap_or(self.course.job.firmware.descriptor_version);
        [map.end - map.start, self.course.case.strides.kernel as u64, version.into(), map.start]
    }

    /// Where arguments may lie, as the guest sees it: the records of probes, of which there are none meanwhile.
    fn room_for_arguments(&self) -> Room {
        let header = self.course.case.image.header();
        let first = header.mailbox + offset_of!(Mailbox, probes) as u64;
        let range = first..first + (efibed_guest::protocol::MAX_PROBES * size_of::<Probe>()) as u64;
        let guarded = self.course.job.kernel.guard_page.then_some(header.edge + PAGE_BYTES);
        Room { range, guarded, variable_bytes: self.course.job.kernel.variable_bytes.map(|bytes| bytes.get()) }
    }

    /// Makes the calls that have an entry, in one batch, and reports on all.
    fn call_all(&mut self, tables: &'static str, root: u64, calls: &Calls, entries: &[Entry]) -> Result<(), End> {
        let written =
            |(at, bytes): &(u64, Vec<u8>)| self.course.case.memory.write(self.course.case.physical(*at), bytes);
        if !calls.is_within_room() || !calls.memory.iter().all(written) {
            return Err(End::Corrupt);
        }
        let mut commands = Vec::new();
        let mut loaded = None;
        let odd = self.odd_call();
        // The command of each call, and the tables it is made on.
        let mut made = Vec::new();
        for (call, entry) in calls.calls.iter().zip(entries) {
            made.push(entry.map(|entry| {
                let root = self.root_for(call.service, tables, root);
                if loaded.replace(root) != Some(root) {
                    commands.push(command(Op::LoadRoot, [root, 0, 0, 0, 0, 0]));
                }
                let [a, b, c, d, e] = call.args;
                let is_odd = odd.is_some_and(|(service, _)| service == call.service);
                commands.push(command(if is_odd { Op::OddCall } else { Op::Call }, [entry.0, a, b, c, d, e]));
                (commands.len() - 1, entry, root)
            }));
        }
        self.guest.mail().put_odd_call(odd.map_or_else(OddCall::default, |(_, odd)| odd))?;
        self.expect_services(self.services_abandoned)?;
        let Batch { outcome, halt, trapped, reset } = self.run_calls(&commands, root);
        if outcome.is_ok() {
            self.loaded_root = loaded.unwrap_or(self.loaded_root);
            self.look_at_registers("the calls of runtime services");
            self.look_at_tables("the calls of runtime services");
        }
        let fates = self.fates(commands.len(), outcome.is_err(), halt.is_some())?;

        for (planned, made) in calls.calls.iter().zip(made) {
            let (command, entry, root_of_call) = match made {
                Ok(made) => made,
                Err(reason) => {
                    self.leave_out(tables, planned, reason);
                    continue;
                }
            };
            // What a batch that ended early did not come to is not reported: why it ended is.
            let Some(fate) = fates.get(command) else { break };
            // The guest itself keeps to having given up.
            if matches!(fate, Fate::NotMade(result) if *result != EFI_UNSUPPORTED) {
                return Err(End::Corrupt);
            }
            let call = trapped.iter().find(|(at, _)| *at == command as u64).map(|(_, call)| call);
            let halt = halt.as_ref();
            let made = Made { planned, entry, call, fate: *fate, halt, root: root_of_call, expected_root: root };
            self.judge_call(tables, &made);
        }
        match outcome {
            Err(End::Stopped) if reset && calls.calls.last().is_some_and(|call| call.status.is_none()) => Ok(()),
            outcome => outcome,
        }
    }

    fn miscalls(&self, miscall: Miscall) -> bool {
        self.course.job.kernel.miscalls.contains(&miscall)
    }

    /// The tables that a service is called on.
    fn root_for(&self, service: Service, tables: &str, root: u64) -> u64 {
        let is_mistaken = self.course.phase == Phase::Map && service == Service::GetTime;
        match tables {
            _ if !is_mistaken || !self.miscalls(Miscall::OtherTables) => root,
            "boot" => self.course.case.kernel_root,
            _ => self.course.case.boot_root,
        }
    }

    /// The one service that is called in an odd manner in this phase, and the manner.
    fn odd_call(&self) -> Option<(Service, OddCall)> {
        match self.course.phase {
            Phase::Map if self.miscalls(Miscall::Interrupts) => {
                let odd = OddCall { stack_bytes: 0, rflags: rflags::FIXED | rflags::INTERRUPTS };
                Some((Service::SetVirtualAddressMap, odd))
            }
            Phase::Finish if self.miscalls(Miscall::MisalignedStack) => {
                Some((Service::GetTime, OddCall { stack_bytes: 8, rflags: rflags::FIXED }))
            }
            _ => None,
        }
    }

    fn run_calls(&mut self, commands: &[Command], root: u64) -> Batch {
        let command_at =
            self.course.case.physical(self.course.case.image.header().mailbox) + offset_of!(Mailbox, command_at) as u64;
        let served = self.firmware.as_mut().map(|firmware| {
            firmware.expect_root(Pa(root));
            Served { firmware, tables: &self.course.case.memory, paging: &self.course.cpu.checks, command_at }
        });
        let mut listener = Listener { firmware: served, calls: Vec::new(), reset: None };
        self.guest.set_limit(LIMIT.min(self.course.job.stretch_limit));
        let mut outcome = self.guest.batch(commands, &mut listener);
        let mut halt = None;
        if let Err(end @ End::Exit(Exit::Watchdog { .. } | Exit::InternalError(_))) = &outcome
            && self.guest.is_in_service()
        {
            halt = Some(end.clone());
            outcome = self.guest.abandon_service(commands.len(), &mut listener);
        }
        self.guest.set_limit(self.course.job.stretch_limit);
        Batch { outcome: outcome.map(drop), halt, reset: listener.reset.is_some(), trapped: listener.calls }
    }

    /// The guest must have given up on services where the host has seen why, and nowhere else.
    fn expect_services(&mut self, abandoned: u64) -> Result<(), End> {
        let found = self.guest.mail().services_abandoned()?;
        if found != abandoned {
            self.find_kernel_state(
                format!(
                    "the guest says that a runtime service was abandoned in command {found}, and nothing shows why"
                ),
                Statement::Text(format!("services_abandoned {abandoned}").into()),
                Statement::Text(format!("services_abandoned {found}").into()),
            );
            self.guest.mail().put_services_abandoned(abandoned)?;
        }
        if abandoned == 0 { self.guest.mail().forget_service_fault() } else { Ok(()) }
    }

    /// The command, by its place in the batch, in which a service was abandoned: after a fault that the guest recorded, or
    /// by the host.
    fn abandoned_now(&mut self, halted: bool) -> Result<Option<usize>, End> {
        let number = self.guest.mail().services_abandoned()?;
        if number != self.services_abandoned && !halted && self.guest.mail().service_fault().is_none() {
            self.expect_services(self.services_abandoned)?;
        } else {
            self.services_abandoned = number;
        }
        let is_new = !self.given_up && self.services_abandoned != 0;
        self.given_up |= is_new;
        Ok((number as usize).checked_sub(1).filter(|_| is_new))
    }

    /// What became of each command, up to the one that the batch ended in, if it did.
    fn fates(&mut self, commands: usize, ended: bool, halted: bool) -> Result<Vec<Fate>, End> {
        let abandoned = self.abandoned_now(halted)?;
        let ended_at = if ended { self.guest.mail().command_at()? } else { commands };
        let fate = |(at, result)| match abandoned {
            _ if at == ended_at => Fate::Ended,
            Some(abandoned) if at == abandoned => Fate::Abandoned(result),
            Some(abandoned) if at > abandoned => Fate::NotMade(result),
            _ => Fate::Returned(result),
        };
        let results = self.guest.mail().results(commands)?;
        Ok(results.into_iter().enumerate().take(ended_at.saturating_add(1)).map(fate).collect())
    }

    fn judge_call(&mut self, tables: &'static str, made: &Made<'_>) {
        let Made { planned, entry, call, fate, halt, root, expected_root } = *made;
        let service = planned.service;
        self.commit(service, call, fate);
        if let Some(call) = call {
            self.judge_way(call);
        }
        let reason = match (fate, call) {
            (Fate::NotMade(_), _) => {
                self.leave_out(tables, planned, NotCalled::GivenUp);
                return;
            }
            (Fate::Abandoned(_), _) => {
                Some(self.judge_abandoned(&Abandoned { service, entry, call, halt, root, expected_root }))
            }
            (Fate::Ended, _) if planned.status.is_none() => {
                Some("firmware reset the machine, which ends the run".to_owned())
            }
            (Fate::Ended, _) => Some("it did not come back".to_owned()),
            (Fate::Returned(returned), Some(call)) => {
                self.judge_return(planned, call, returned);
                None
            }
            (Fate::Returned(returned), None) => {
                let message = format!("{service} returned {returned:#x}, and its code has not run");
                self.course.marks.push_worded(self.course.phase, Rule::CallStatus, None, message);
                None
            }
        };
        let [a, b, c, d, _] = planned.args;
        self.course.report.calls.push(CallReport {
            phase: self.course.phase,
            service: service.name(),
            rip: Some(call.map_or(entry, |call| call.rip).0),
            cr3: Some(call.map_or(root, |call| call.cr3)),
            tables,
            args: call.map_or([a, b, c, d], |call| call.args),
            status: match fate {
                Fate::Returned(status) | Fate::Abandoned(status) => Some(status),
                Fate::Ended | Fate::NotMade(_) => None,
            },
            expected: planned.status.map(|status| status.0 as u64),
            reason,
        });
    }

    /// Reports a call that is not made.
    fn leave_out(&mut self, tables: &'static str, planned: &PlannedCall, why: NotCalled) {
        self.course.report.calls.push(not_called(self.course.phase, tables, planned, why.reason()));
        if why != NotCalled::NoAlias {
            self.missed_calls.push(Skipped::not_done(format!("a call of {}", planned.service), why.reason()));
        }
    }

    /// Notes what firmware, and the kernel, have done by now that they must not.
    fn commit(&mut self, service: Service, call: Option<&Call>, fate: Fate) {
        if !matches!(fate, Fate::NotMade(_)) {
            let made = (self.course.phase, service);
            self.miscalled.extend(self.course.job.kernel.miscalls.iter().filter(|miscall| miscall.call() == made));
        }
        // Of a call that did not return, only what ended it is known to have happened.
        let done = call.filter(|_| matches!(fate, Fate::Returned(_))).into_iter().flat_map(|call| &call.misdeeds);
        self.committed.extend(done.map(|misdeed| misdeed.by(service)));
    }

    /// How a service was called, and whether it found firmware's state.
    fn judge_way(&mut self, call: &Call) {
        let service = call.service;
        for breach in &call.breaches {
            self.course.marks.push_worded(self.course.phase, rule_of(breach), None, format!("{service}: {breach}"));
        }
        if let Some(lost) = &call.lost_state {
            self.course.marks.push_worded(
                self.course.phase,
                Rule::CallResult,
                None,
                format!("before {service}: {lost}"),
            );
        }
    }

    /// `returned` is what the guest got.
    fn judge_return(&mut self, planned: &PlannedCall, call: &Call, returned: u64) {
        let service = call.service;
        self.judge_misdeeds(call);
        let mut find = |rule, message| self.course.marks.push_worded(self.course.phase, rule, None, message);
        let answers_anyhow = call.misdeeds.iter().any(|misdeed| matches!(misdeed.deed, Deed::Answer(_)));
        match &call.refusal {
            Some(refusal @ Refusal::Unreachable { .. }) => find(Rule::CallBuffer, format!("{service}: {refusal}")),
            _ if returned != call.status.0 as u64 => {
                let (expected, found) = (call.status, Status(returned as usize));
                let message = format!(
                    "{service} returned {found:?} where firmware answered {expected:?}: its code did \
                     not find its data"
                );
                find(Rule::CallStatus, message);
            }
            Some(refusal @ Refusal::DescriptorVersion { .. })
                if self.course.job.firmware.descriptor_version != DESCRIPTOR_VERSION =>
            {
                find(Rule::FirmwareError, format!("{service} refuses the version that firmware reports: {refusal}"));
            }
            refusal if planned.status != Some(call.status) && !answers_anyhow => {
                let reason = refusal.as_ref().map_or(String::new(), |refusal| format!(": {refusal}"));
                find(Rule::CallStatus, format!("{service} answered {:?}{reason}", call.status));
            }
            _ if call.status == Status::SUCCESS => {
                if let Some(at) = planned.results.iter().find_map(|result| first_difference(self.course.case, result)) {
                    find(Rule::CallResult, format!("{service} left something else at {at:#x} than it should"));
                }
            }
            _ => {}
        }
    }
}

/// A batch of calls that is over.
struct Batch {
    outcome: Result<(), End>,
    /// What ended a service that had to be abandoned by the host.
    halt: Option<End>,
    /// What was called, and by which command.
    trapped: Vec<(u64, Call)>,
    /// ResetSystem reset the machine.
    reset: bool,
}

/// A call that was to be made, and what is known of it.
#[derive(Clone, Copy)]
struct Made<'a> {
    planned: &'a PlannedCall,
    entry: Va,
    /// Its trap, if it came to that.
    call: Option<&'a Call>,
    fate: Fate,
    halt: Option<&'a End>,
    /// The tables it was made on, and those it should have been.
    root: u64,
    expected_root: u64,
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
        expected: planned.status.map(|status| status.0 as u64),
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
fn first_difference(case: &Case, (at, expected): &(u64, Vec<u8>)) -> Option<u64> {
    let mut found = vec![0; expected.len()];
    if !case.memory.read(case.physical(*at), &mut found) {
        return Some(*at);
    }
    let index = found.iter().zip(expected).position(|(found, expected)| found != expected)?;
    Some(at + index as u64)
}

/// Whether the bytes at `virt` lead to `phys`, writable or executable as asked, on these tables.
fn leads_to(case: &Case, root: u64, virt: Va, phys: Pa, access: Access, paging: &Paging) -> bool {
    let reached = walk(&case.memory, Pa(root), virt, access, paging).translation();
    reached.is_some_and(|translation| translation.pa.page() == phys.page())
}
