//! Services that did not return, and misdeeds that went through: whose fault it was, and what a kernel would have had to do.

use efibed_guest::protocol::Crash;
use efibed_stub::Service;
use uefi_raw::Status;

use super::super::left_out;
use super::{Run, disassembled};
use crate::check::{self, FaultRecord, Finding, Rule, Skipped, Statement, WalkStep, Witness};
use crate::firmware::{Call, Deed, Misbehaviour, Misdeed};
use crate::guest::End;
use crate::machine::Exit;
use crate::memory_map::{MemoryDescriptor, PAGE_BYTES, type_name};
use crate::mmu::{Access, ErrorCode, Fault, Kind, Pa, Va, walk};
use crate::report::{Culprit, FaultDetail};

/// A service that the guest gave up on.
pub struct Abandoned<'a> {
    pub service: Service,
    /// Where it was called.
    pub entry: Va,
    /// Its trap, if it came to that.
    pub call: Option<&'a Call>,
    /// What ended it, if that was no fault.
    pub halt: Option<&'a End>,
    /// The tables it ran on, and those it should have.
    pub root: u64,
    pub expected_root: u64,
}

impl Run<'_> {
    /// Finds what is to be found about it. The result is why it did not return.
    pub(super) fn judge_abandoned(&mut self, abandoned: &Abandoned<'_>) -> String {
        match (abandoned.halt, self.guest.mail().service_fault()) {
            (Some(halt), _) => self.judge_halt(abandoned, halt),
            (None, Some(crash)) => self.judge_fault(abandoned, &crash),
            // Then it was not taken to be abandoned.
            (None, None) => "the guest's record of why is gone".into(),
        }
    }

    fn judge_fault(&mut self, abandoned: &Abandoned<'_>, crash: &Crash) -> String {
        let service = abandoned.service;
        let guilty = self.guilty(abandoned, crash);
        self.committed.extend(guilty.map(|misdeed| misdeed.by(service)));
        let record = self.record_of(crash, guilty.as_ref());
        if guilty.is_none() && self.is_denied(abandoned, crash) {
            return self.record_fault(abandoned, record, Culprit::AttributesTable);
        }
        let what = format!("{} at {:#x}{}", record.access, record.virt, self.of_region(record.region));
        let (rule, expected, message) = match &guilty {
            Some(misdeed) => {
                let message = format!("firmware's {service} {}, and faulted: {what}", doing(misdeed.what));
                (Rule::FirmwareFault, Statement::NoAccess(record.access, record.virt), message)
            }
            None => self.blameless(abandoned, &record, &what),
        };
        if guilty.is_some_and(|misdeed| misdeed.reached.is_some()) {
            self.find_disagreement(format!("{service}: the walk says that the {what} goes through, but it faulted"));
        }
        self.course.marks.push_finding(Finding {
            virt: Some(record.virt),
            pages: 1,
            expected: Some(expected),
            observed: Some(Statement::faulted(record.fault, record.cr2)),
            remedy: guilty.as_ref().map(remedy),
            walk: self.steps_to(abandoned.root, record.virt, record.access),
            witnesses: vec![Witness::Mmu],
            // What firmware does says nothing against the region.
            ..Finding::worded(self.course.phase, rule, record.region.filter(|_| !rule.is_firmwares()), message)
        });
        let culprit = match guilty {
            Some(misdeed) => Culprit::Firmware(misdeed.what),
            None if rule == Rule::CallFault => Culprit::MappingCode,
            None => Culprit::Kernel,
        };
        self.record_fault(abandoned, record, culprit)
    }

    fn record_fault(&mut self, abandoned: &Abandoned<'_>, record: FaultRecord, culprit: Culprit) -> String {
        let instruction = self.instruction_of_firmware(abandoned.root, record.rip.0);
        let (phase, service) = (self.course.phase, Some(abandoned.service.name()));
        self.course.report.faults.push(FaultDetail { phase, record, instruction, service, culprit });
        format!("the guest abandoned it after {}", record.fault)
    }

    /// Whether the fault is what firmware's own Memory Attributes Table brings about; the finding of that has the guest's
    /// MMU for a witness then.
    fn is_denied(&mut self, abandoned: &Abandoned<'_>, crash: &Crash) -> bool {
        let Some(firmware) = &self.firmware else { return false };
        let phys = check::physical_of(self.virtual_map(), Va(crash.cr2));
        let is_write = ErrorCode(crash.error_code as u32).contains(ErrorCode::W);
        let is_met = |kind| match kind {
            Kind::Fetch => is_fetch(crash) && Va(crash.cr2) == abandoned.entry,
            Kind::Write => {
                is_page_fault(crash) && is_write && phys.map(Pa::page) == Some(firmware.runtime_services().page())
            }
            Kind::Read => false,
        };
        let Some(index) = self.course.denials.iter().position(|denied| is_met(denied.kind)) else { return false };
        self.course.denials[index].finding.witnesses.push(Witness::Mmu);
        self.course.denials[index].finding.witnesses.sort_unstable();
        true
    }

    /// The map that firmware was given in SetVirtualAddressMap.
    fn virtual_map(&self) -> &[MemoryDescriptor] {
        match self.course.job.earlier {
            Some(earlier) => earlier.virtual_map,
            None => &self.course.report.virtual_map,
        }
    }

    /// The rule, what was expected and what to say of a fault in a service that did nothing it must not: it was called
    /// wrongly, or is not mapped as it must be.
    fn blameless(&self, abandoned: &Abandoned<'_>, record: &FaultRecord, what: &str) -> (Rule, Statement, String) {
        let Abandoned { service, entry, root, .. } = *abandoned;
        let expected = self.firmware.as_ref().and_then(|firmware| firmware.virtual_entry(service));
        if let Some(expected) = expected.filter(|expected| *expected != entry) {
            let message = format!("{service} was called at {entry:#x}, and faulted: {what}");
            return (Rule::CallAddress, Statement::CalledAt(expected), message);
        }
        if root != abandoned.expected_root {
            let message = format!("{service} was called with CR3 {root:#x}, and faulted: {what}");
            return (Rule::CallTables, Statement::Register { name: "CR3", value: abandoned.expected_root }, message);
        }
        let expected = match check::physical_of(self.virtual_map(), record.virt) {
            Some(phys) => Statement::Physical(phys),
            None => Statement::Succeeds(record.access),
        };
        (Rule::CallFault, expected, format!("{service} faulted at what it is owed: {what}"))
    }

    fn instruction_of_firmware(&mut self, root: u64, rip: u64) -> Option<String> {
        let walk = walk(&self.course.case.memory, Pa(root), Va(rip), Access::fetch(), &self.course.cpu.checks);
        let phys = walk.translation()?.pa;
        // The longest instruction (SDM vol. 2A, 2.3.11), as far as its page has it.
        let mut bytes = vec![0; 15.min((PAGE_BYTES - phys.page_offset()) as usize)];
        self.guest.machine().read(phys, &mut bytes).ok()?;
        Some(disassembled(&bytes, rip))
    }

    /// What firmware did that it must not, if that is what faulted.
    fn guilty(&self, abandoned: &Abandoned<'_>, crash: &Crash) -> Option<Misdeed> {
        let Some(call) = abandoned.call else { return self.guilty_before_the_trap(abandoned, crash) };
        let is_guilty = |misdeed: &&Misdeed| match misdeed.deed {
            Deed::Read | Deed::Write => is_page_fault(crash) && misdeed.is_at(Va(crash.cr2)),
            // Whatever is executed there instead is firmware's doing, too.
            Deed::Execute => {
                misdeed.what != Misbehaviour::AttributesTable && Va(rip_of(crash)).page() == misdeed.at.page()
            }
            Deed::Hang | Deed::Answer(_) => false,
        };
        call.misdeeds.iter().find(is_guilty).copied()
    }

    /// Its first instruction could not be fetched, and its table said that it may not be.
    fn guilty_before_the_trap(&self, abandoned: &Abandoned<'_>, crash: &Crash) -> Option<Misdeed> {
        let firmware = self.firmware.as_ref()?;
        let Abandoned { service, entry, .. } = *abandoned;
        (firmware.has_lying_table() && is_fetch(crash) && Va(crash.cr2) == entry).then(|| Misdeed {
            what: Misbehaviour::AttributesTable,
            access: None,
            deed: Deed::Execute,
            at: entry,
            meant: Some(firmware.entry(service)),
            reached: None,
        })
    }

    fn record_of(&self, crash: &Crash, guilty: Option<&Misdeed>) -> FaultRecord {
        let code = ErrorCode(crash.error_code as u32);
        let access = match is_page_fault(crash) {
            true if is_fetch(crash) => Access::fetch(),
            true if code.contains(ErrorCode::W) => Access::write(),
            _ => Access::read(),
        };
        let virt = if is_page_fault(crash) { crash.cr2 } else { rip_of(crash) };
        let meant =
            guilty.and_then(|misdeed| Some(misdeed.meant?.wrapping_add(Va(virt).wrapping_offset_from(misdeed.at))));
        let given = || check::physical_of(self.virtual_map(), Va(virt));
        // What nobody gave an address for is where it is 1:1.
        let phys = meant.or_else(given).unwrap_or(Pa(virt));
        let holds = |region: &crate::memory_map::Region| {
            phys.checked_offset_from(Pa(region.phys)).is_some_and(|offset| offset / PAGE_BYTES < region.pages)
        };
        FaultRecord {
            virt: Va(virt),
            access,
            fault: Fault { vector: crash.vector as u8, error_code: code },
            cr2: Va(crash.cr2),
            rip: Va(rip_of(crash)),
            region: self.course.job.map.regions().find(holds).map(|region| region.index),
        }
    }

    /// It was still running when its time was up, or KVM could not execute what it came to.
    fn judge_halt(&mut self, abandoned: &Abandoned<'_>, halt: &End) -> String {
        let service = abandoned.service;
        let is_hang = matches!(halt, End::Exit(Exit::Watchdog { .. }));
        let is_guilty = |misdeed: &&Misdeed| match misdeed.deed {
            Deed::Hang => is_hang,
            Deed::Execute => !is_hang && misdeed.what != Misbehaviour::AttributesTable,
            _ => false,
        };
        let guilty = abandoned.call.and_then(|call| call.misdeeds.iter().find(is_guilty));
        self.committed.extend(guilty.map(|misdeed| misdeed.by(service)));
        let rule = match (guilty, is_hang) {
            (Some(_), true) => Rule::FirmwareHang,
            (Some(_), false) => Rule::FirmwareFault,
            (None, true) => Rule::Watchdog,
            (None, false) => Rule::EmulationFailure,
        };
        let message = match guilty {
            Some(misdeed) => format!("firmware's {service} did not return: it {}", doing(misdeed.what)),
            None => format!("{service} did not return"),
        };
        let finding = Finding {
            expected: Some(Statement::Returns(service)),
            observed: Some(Statement::Text(halt.to_string().into())),
            remedy: guilty.map(remedy),
            ..Finding::worded(self.course.phase, rule, None, message)
        };
        self.course.marks.push_finding(finding);
        format!("the guest abandoned it: {halt}")
    }

    /// What firmware did that it must not in a call that returned.
    pub(super) fn judge_misdeeds(&mut self, call: &Call) {
        for misdeed in &call.misdeeds {
            let did = format!("firmware's {} {}", call.service, doing(misdeed.what));
            match (misdeed.deed, misdeed.reached) {
                (Deed::Answer(_), _) if call.service == Service::SetVirtualAddressMap => {
                    let message = format!("{did}: no service can be called at a virtual address");
                    let finding = Finding {
                        expected: Some(Statement::Answers(Status::SUCCESS)),
                        remedy: Some(remedy(misdeed)),
                        observed: Some(Statement::Answers(call.status)),
                        ..Finding::worded(self.course.phase, Rule::FirmwareError, None, message)
                    };
                    self.course.marks.push_finding(finding);
                }
                (Deed::Read | Deed::Write | Deed::Execute, None) => {
                    let text = format!("the walk says that it faults at {:#x}, but it went through", misdeed.at);
                    self.find_disagreement(format!("{did}: {text}"));
                }
                (_, Some(reached)) if misdeed.last_meant().is_some_and(|meant| meant != reached) => {
                    self.find_astray(call, misdeed, reached, did);
                }
                _ => self.course.report.notes.push(format!("{did}: no harm came of it{}", where_it_got(misdeed))),
            }
        }
    }

    fn find_astray(&mut self, call: &Call, misdeed: &Misdeed, reached: Pa, did: String) {
        let access = misdeed.deed.access().unwrap_or(Access::read());
        let virt = misdeed.last();
        let finding = Finding {
            virt: Some(virt),
            pages: 1,
            expected: misdeed.last_meant().map(Statement::Physical),
            observed: Some(Statement::Physical(reached)),
            remedy: Some(remedy(misdeed)),
            walk: self.steps_to(call.cr3, virt, access),
            witnesses: vec![Witness::Walk],
            ..Finding::worded(self.course.phase, Rule::FirmwareAstray, None, did)
        };
        self.course.marks.push_finding(finding);
    }

    /// What was asked for and did not come about.
    pub(super) fn skip_what_was_not_done(&mut self) {
        let Some(firmware) = &self.firmware else {
            let why = self.course.report.uncalled.as_deref().unwrap_or("no runtime service is called");
            let missed = left_out::asked_of_services(self.course.job).map(|what| Skipped::not_done(what, why));
            self.course.report.skipped.extend(missed);
            return;
        };
        let why =
            if self.given_up { "the guest had given up on runtime services by then" } else { "it was not called" };
        let misbehaviours =
            self.course.job.firmware.misbehaves.iter().filter(|misbehaviour| !self.committed.contains(misbehaviour));
        let misbehaviours = misbehaviours.map(|misbehaviour| {
            Skipped::not_done(left_out::misbehaviour(misbehaviour), firmware.obstacle(*misbehaviour).unwrap_or(why))
        });
        let miscalls = self.course.job.kernel.miscalls.iter().filter(|miscall| !self.miscalled.contains(miscall));
        let miscalls = miscalls.map(|miscall| Skipped::not_done(left_out::miscall(*miscall), why));
        self.course.report.skipped.extend(misbehaviours.chain(miscalls));
        // Where something was found, that is why.
        if self.course.report.findings.is_empty() {
            self.course.report.skipped.append(&mut self.missed_calls);
        }
    }

    fn find_disagreement(&mut self, message: String) {
        let witnesses = vec![Witness::Mmu, Witness::Walk];
        let finding =
            Finding { witnesses, ..Finding::worded(self.course.phase, Rule::WitnessDisagreement, None, message) };
        self.course.marks.push_finding(finding);
    }

    fn steps_to(&self, root: u64, virt: Va, access: Access) -> Vec<WalkStep> {
        let walk = walk(&self.course.case.memory, Pa(root), virt, access, &self.course.cpu.told);
        walk.steps().iter().map(WalkStep::from).collect()
    }

    fn of_region(&self, index: Option<usize>) -> String {
        let region = index.and_then(|index| self.course.job.map.regions().nth(index));
        region.map_or_else(String::new, |region| {
            format!(", region {} ({} at {:#x})", region.index, type_name(region.ty), region.phys)
        })
    }
}

fn is_page_fault(crash: &Crash) -> bool {
    crash.vector == u64::from(Fault::PAGE_FAULT)
}

/// The I/D flag says so only with NXE or SMEP (SDM vol. 3A, 4.7); but a fetch faults at the instruction it is for.
fn is_fetch(crash: &Crash) -> bool {
    is_page_fault(crash) && crash.cr2 == rip_of(crash)
}

fn rip_of(crash: &Crash) -> u64 {
    crash.frame[0]
}

/// The summary as the end of a sentence.
fn doing(what: Misbehaviour) -> String {
    let summary = what.summary().trim_end_matches('.');
    let (first, rest) = summary.split_at(1);
    first.to_lowercase() + rest
}

/// What a kernel can do about it.
fn remedy(misdeed: &Misdeed) -> String {
    let remedy = misdeed.what.remedy();
    match misdeed.meant {
        Some(meant) => format!("{remedy} (VA {:#x} -> PA {meant:#x})", misdeed.at),
        None => remedy.to_owned(),
    }
}

fn where_it_got(misdeed: &Misdeed) -> String {
    match (misdeed.deed, misdeed.reached) {
        (Deed::Answer(status), _) => format!(" (EFI_{status:?})"),
        (_, Some(reached)) => format!(" (VA {:#x} is PA {reached:#x})", misdeed.last()),
        _ => String::new(),
    }
}
