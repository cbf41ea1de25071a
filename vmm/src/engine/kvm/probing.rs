//! The questions to the guest's MMU, its answers, and KVM's own walk beside them.

use std::collections::BTreeSet;
use std::time::Instant;

use efibed_guest::protocol::{
    self, Command, IMAGE_BASE, MAX_PROBES, Op, PROBE_DONE, PROBE_FAULTED, PROBE_NOT_RUN, Probe, ProbeKind, USER_BASE,
};
use efibed_stub::stamp::stamped;

use super::super::{Moment, Progress};
use super::stage::Stage;
use super::sweep::SweepBatch;
use super::{Run, instruction_at};
use crate::check::{
    Behind, Depth, Exception, Expectation, Ground, Judge, Observation, Observations, Phase, Plan, PlannedProbe,
    ProbeCounts, Skipped,
};
use crate::guest::{End, GuestEvents, PAGE_BYTES, command};
use crate::mmu::{Access, ErrorCode, Fault, Kind, Outcome, Pa, Privilege, Va};
use crate::random::Random;
use crate::report::{Culprit, FaultDetail};

impl Run<'_> {
    /// Asks the guest's MMU everything there is to ask.
    pub(super) fn probe(&mut self, expectation: &Expectation, root: u64) -> Result<(), End> {
        self.stage = if self.course.phase == Phase::Map { Stage::Probes } else { Stage::LastProbes };
        let planning = Instant::now();
        let (sweep_owed, sweep_others) = sweep_limits(self.course.phase, self.course.job.sweep_limit);
        let plan = {
            let own = [&self.course.case.memory, self.process.memory()]
                .map(|memory| (Pa(memory.base())..Pa(memory.end()), Behind::Own));
            let stamped = self.pages.iter().map(|page| (Pa(page.phys)..Pa(page.phys + PAGE_BYTES), Behind::Stamped));
            let mut memory_behind: Vec<_> = stamped.chain(own).collect();
            memory_behind.sort_unstable_by_key(|(range, _)| range.start);
            let ground = Ground {
                memory: &self.course.case.memory,
                root: Pa(root),
                checks: &self.course.cpu.checks,
                memory_behind: &memory_behind,
                kernel: self.course.kernel,
                depth: self.course.job.depth,
                seed: self.course.job.seed,
                sweep_owed,
                sweep_others,
                user_in_every_way: self.course.phase == Phase::Map,
                budget: &self.course.budget,
            };
            Plan::new(expectation, &ground)
        };
        if self.course.tamper(Moment::AfterWalk, root) {
            // It stands for a machine that sees other tables than the walk did, so it is no change of them.
            self.course.renew_tables();
            // Firmware's calls have used these tables, and a shadow MMU keeps what it saw of them. Where it cannot be made to
            // forget, the run stays clean, and its test fails.
            let _ = self.guest.machine().forget_translations();
        }
        self.course.report.timing.check += planning.elapsed();

        let probing = Instant::now();
        let read_only_end = self.course.case.image.header().read_only_end;
        let text = [Va(IMAGE_BASE)..Va(read_only_end), Va(USER_BASE)..Va(USER_BASE + PAGE_BYTES)];
        let mut judge = Judge::new(expectation, &plan, text);
        let outcome = self.ask(&plan, root, &mut judge);
        self.look_at_tables("the probes");
        self.ask_kvm(expectation, root, &mut judge);
        let (observations, marks) = judge.finish(outcome.is_ok());
        self.course.report.timing.probe += probing.elapsed();
        self.course.marks.absorb(marks);
        let when = if self.course.phase == Phase::Finish { ", in phase finish" } else { "" };
        let told = plan.skipped.iter().map(|row| Skipped { what: format!("{}{when}", row.what), ..row.clone() });
        self.course.report.skipped.extend(told);
        self.observed(observations);
        outcome
    }

    /// All of the plan, in as few batches as there is room for.
    fn ask(&mut self, plan: &Plan, root: u64, judge: &mut Judge<'_>) -> Result<(), End> {
        self.course.tamper(Moment::WhileProbed, root);
        self.loaded_root = root;
        let mut commands = vec![command(Op::LoadRoot, [root, 0, 0, 0, 0, 0])];
        let all = plan.sweeps.iter().map(|sweep| sweep.pages).sum();
        let mut done = 0;
        for round in rounds(plan) {
            (self.course.job.progress)(Progress::Sweeping { done, all });
            done += round.sweeps.pages();
            commands.extend(round.commands());
            self.guest.mail().put_sweeps(round.sweeps.parts())?;
            self.guest.mail().put_probes(round.addresses())?;
            let outcome = self.guest.batch(&commands, &mut Probing { sweeps: &round.sweeps, judge });
            if outcome.is_ok() {
                self.look_after_batch("the probes");
            }
            self.judge_records(&round, outcome.is_ok(), judge)?;
            outcome?;
            commands.clear();
        }
        Ok(())
    }

    /// What the guest has recorded of its probes; of a round that ended early, those that it came to, and the faults of its
    /// sweep.
    fn judge_records(&mut self, round: &Round<'_>, is_whole: bool, judge: &mut Judge<'_>) -> Result<(), End> {
        let mut records = self.guest.mail().probes(round.addresses().count())?;
        if !is_whole {
            records.truncate(whole_records(&records));
            self.guest.mail().take_faults(None, |fault| judge.swept_fault(Va(fault.virt), exception(fault)))?;
        }
        let mut left = &records[..];
        for (access, probes) in &round.probes {
            let (records, after) = left.split_at(probes.len().min(left.len()));
            left = after;
            let observed = probes.iter().zip(records).map(|(probe, record)| observation_of(*access, probe, record));
            judge.probed(*access, probes, observed);
            if *access == Access::write() {
                self.look_at_scratch(probes, records, judge);
            }
        }
        Ok(())
    }

    /// A write to a page with memory goes unreported: whether it arrived is seen in the page.
    fn look_at_scratch(&mut self, probes: &[PlannedProbe], records: &[Probe], judge: &mut Judge<'_>) {
        for (planned, record) in probes.iter().zip(records) {
            let Some(to) = planned.predicted.translation().filter(|_| record.status == PROBE_DONE) else { continue };
            if self.is_stamped(to.pa.0) {
                let found = self.guest.machine().read_u64(to.pa) == Some(planned.virt.0);
                judge.scratch(planned.virt, to.pa, found);
            }
        }
    }

    /// The fourth witness: at every finding so far, and at a seeded sample.
    fn ask_kvm(&mut self, expectation: &Expectation, root: u64, judge: &mut Judge<'_>) {
        const SAMPLE: usize = 16;
        const AT_FINDINGS: usize = 64;
        let mut random = Random::new(self.course.job.seed ^ 0x4b56_4d00);
        let aliases: Vec<_> = expectation.aliases.iter().filter(|alias| !alias.past_maxphyaddr).collect();
        let asked = if self.course.job.depth == Depth::Full { SAMPLE } else { 0 };
        let sample = (0..asked).filter_map(|_| {
            let alias = aliases.get(random.below(aliases.len().max(1) as u64) as usize)?;
            Some(alias.virt.wrapping_add(random.below(alias.pages) * PAGE_BYTES))
        });
        // KVM_TRANSLATE goes by an address's low bits, and knows no #GP: it is no witness to one that is not canonical.
        let is_canonical = |virt: &Va| self.course.cpu.checks.is_canonical(*virt);
        let found = self.course.marks.addresses().chain(judge.marks.addresses()).filter(is_canonical);
        let found: BTreeSet<Va> = found.collect();
        for virt in sample.collect::<Vec<_>>().into_iter().chain(found.into_iter().take(AT_FINDINGS)) {
            // KVM's own walker goes by what the CPU was told, the hardware's by what it checks.
            let walked = [&self.course.cpu.checks, &self.course.cpu.told].map(|paging| {
                let walk = crate::mmu::walk(&self.course.case.memory, Pa(root), virt, Access::read(), paging);
                walk.translation().map(|to| to.pa)
            });
            if let Ok(answer) = self.guest.machine().translate(virt) {
                judge.translated(virt, answer, walked);
            }
        }
    }

    fn observed(&mut self, observations: Observations) {
        let (phase, report) = (self.course.phase, &mut self.course.report);
        let pages_verified = match phase {
            // Phase `finish` asks about fewer pages; those it finds wrong do not count.
            Phase::Finish => report.probes.pages_verified.saturating_sub(observations.pages_spoiled),
            _ => observations.counts.pages_verified,
        };
        report.probes = ProbeCounts {
            total: report.probes.total + observations.counts.total,
            translated: report.probes.translated + observations.counts.translated,
            faulted: report.probes.faulted + observations.counts.faulted,
            faulted_rightly: report.probes.faulted_rightly + observations.counts.faulted_rightly,
            pages_verified,
        };
        report.faults_omitted += observations.faults_omitted;
        for record in observations.faults {
            let instruction = instruction_at(self.course.case, record.rip.0);
            report.faults.push(FaultDetail {
                phase,
                record,
                instruction,
                service: None,
                culprit: Culprit::MappingCode,
            });
        }
    }
}

/// Pages swept at most: at the addresses that SetVirtualAddressMap is told, and at others. Nobody is owed the others,
/// and phase `finish` changes permissions, which large regions of MMIO have none of: 256 MiB each will do.
fn sweep_limits(phase: Phase, limit: u64) -> (u64, u64) {
    let others = limit.min(1 << 16);
    match phase {
        Phase::Finish => (others, others),
        _ => (limit, others),
    }
}

/// What the guest does in one batch.
#[derive(Default)]
struct Round<'p> {
    sweeps: SweepBatch,
    probes: Vec<(Access, &'p [PlannedProbe])>,
}

impl Round<'_> {
    fn addresses(&self) -> impl Iterator<Item = u64> {
        self.probes.iter().flat_map(|(_, probes)| probes.iter().map(|probe| probe.virt.0))
    }

    fn commands(&self) -> impl Iterator<Item = Command> {
        let sweep = (self.sweeps.pages() > 0).then(|| command(Op::Sweep, [0; 6]));
        let mut first = 0;
        let probes = self.probes.iter().map(move |(access, probes)| {
            let count = probes.len() as u64;
            first += count;
            command(Op::Probe, [first - count, count, probe_kind(*access) as u64, 0, 0, 0])
        });
        sweep.into_iter().chain(probes)
    }
}

/// A plan, cut to what there is room for.
fn rounds(plan: &Plan) -> Vec<Round<'_>> {
    let of_sweeps = |sweeps| Round { sweeps, ..Round::default() };
    let mut rounds: Vec<_> = SweepBatch::all(&plan.sweeps).into_iter().map(of_sweeps).collect();
    let mut last = rounds.pop().unwrap_or_default();
    let mut room = MAX_PROBES;
    for group in &plan.groups {
        let mut left = &group.probes[..];
        while !left.is_empty() {
            if room == 0 {
                rounds.push(std::mem::take(&mut last));
                room = MAX_PROBES;
            }
            let (now, later) = left.split_at(left.len().min(room));
            last.probes.push((group.access, now));
            room -= now.len();
            left = later;
        }
    }
    rounds.push(last);
    rounds
}

/// How many records are whole of a round that ended early. The guest may have been stopped while it recorded a fault, which
/// is known by its first word.
fn whole_records(records: &[Probe]) -> usize {
    let made = records.iter().position(|record| record.status == PROBE_NOT_RUN).unwrap_or(records.len());
    let is_last_a_fault = records[..made].last().is_some_and(|last| last.status == PROBE_FAULTED);
    made - usize::from(is_last_a_fault)
}

/// How the guest makes an access.
fn probe_kind(access: Access) -> ProbeKind {
    match (access.privilege, access.kind) {
        (Privilege::User, Kind::Read) => ProbeKind::UserRead,
        (Privilege::User, Kind::Write) => ProbeKind::UserWrite,
        (Privilege::User, Kind::Fetch) => ProbeKind::UserFetch,
        (_, Kind::Read) => ProbeKind::Read,
        (_, Kind::Write) => ProbeKind::Write,
        (_, Kind::Fetch) => ProbeKind::Fetch,
    }
}

/// What came of a probe, by the guest's record of it.
fn observation_of(access: Access, planned: &PlannedProbe, record: &Probe) -> Observation {
    match record.status {
        PROBE_DONE if access.kind == Kind::Write => Observation::Written,
        PROBE_DONE => reached(planned, record.value),
        PROBE_FAULTED => Observation::Faulted(exception(record.fault)),
        _ => Observation::NotMade,
    }
}

/// Which page a value is from: that of the guest's own memory which holds it, or the one whose number it has.
fn reached(planned: &PlannedProbe, value: u64) -> Observation {
    match planned.predicted {
        Outcome::Translated(to) if planned.content == Some(value) => Observation::Reached(to.pa),
        _ => stamped(value).map_or(Observation::ReachedUnknown, |pa| Observation::Reached(Pa(pa))),
    }
}

fn exception(fault: protocol::Fault) -> Exception {
    let protocol::Fault { vector, error_code, cr2, rip, .. } = fault;
    let fault = Fault { vector: vector as u8, error_code: ErrorCode(error_code) };
    Exception { fault, cr2: Va(cr2), rip: Va(rip) }
}

/// Hears where writes arrive: those of sweeps, and of probes, which write their address.
struct Probing<'b, 'j, 'e> {
    sweeps: &'b SweepBatch,
    judge: &'j mut Judge<'e>,
}

impl GuestEvents for Probing<'_, '_, '_> {
    fn wrote(&mut self, pa: Pa, value: u64, bytes: u8) {
        // What the guest does not write is nobody's write, and judged as such.
        let virt = self.sweeps.written_at(pa, value, bytes).unwrap_or(Va(value));
        self.judge.wrote(virt, pa);
    }

    fn swept_fault(&mut self, fault: protocol::Fault) {
        self.judge.swept_fault(Va(fault.virt), exception(fault));
    }
}

#[cfg(test)]
mod tests {
    use efibed_stub::stamp::stamp;

    use super::*;
    use crate::check::Purpose;

    #[test]
    fn a_fault_that_may_be_half_recorded_does_not_count() {
        let of = |statuses: &[u64]| -> Vec<_> {
            statuses.iter().map(|status| Probe { status: *status, ..Probe::default() }).collect()
        };
        let (done, fault, open) = (PROBE_DONE, PROBE_FAULTED, PROBE_NOT_RUN);
        assert_eq!(whole_records(&of(&[fault, done, open, open])), 2);
        assert_eq!(whole_records(&of(&[done, fault, open, open])), 1);
        assert_eq!(whole_records(&of(&[done, fault])), 1);
        assert_eq!(whole_records(&of(&[open])), 0);
        assert_eq!(whole_records(&[]), 0);
    }

    #[test]
    fn a_record_says_what_was_observed() {
        let planned = PlannedProbe {
            virt: Va(0x5000),
            purpose: Purpose::Nobody,
            predicted: Outcome::Fault(Fault::page(ErrorCode(0))),
            content: None,
        };
        let of = |access, record| observation_of(access, &planned, &record);
        let done = |value| Probe { status: PROBE_DONE, value, ..Probe::default() };
        let number = stamp(0x7e00_3000);
        assert_eq!(of(Access::read(), done(number)), Observation::Reached(Pa(0x7e00_3000)));
        assert_eq!(of(Access::fetch(), done(number)), Observation::Reached(Pa(0x7e00_3000)));
        assert_eq!(of(Access::read(), done(7)), Observation::ReachedUnknown);
        assert_eq!(of(Access::write(), done(number)), Observation::Written);
        assert_eq!(of(Access::write().user(), done(number)), Observation::Written);
        assert_eq!(of(Access::read(), Probe::default()), Observation::NotMade);
        let fault = protocol::Fault { vector: 14, error_code: 7, cr2: 0x5000, rip: 0x1234, virt: 0x5008 };
        let fault = Probe { status: PROBE_FAULTED, fault, ..Probe::default() };
        let exception = Exception { fault: Fault::page(ErrorCode(7)), cr2: Va(0x5000), rip: Va(0x1234) };
        assert_eq!(of(Access::write().user(), fault), Observation::Faulted(exception));
    }
}
