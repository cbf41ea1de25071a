//! The commands by which the guest runs a batch.

use efibed_guest::protocol::{Command, MAX_COMMANDS, Op, TRIAL_USER, TrialKind};
use efibed_stub::rflags;

use super::arena::{Arena, Case, Records};
use super::bits::{Bit, Combination};
use crate::guest::command;

/// The commands of a batch, and which of them count.
pub struct Script<'a> {
    arena: &'a Arena,
    /// For the guest.
    pub commands: Vec<Command>,
    lists: Vec<Records>,
}

impl<'a> Script<'a> {
    /// Loads CR3, and no more.
    pub fn new(arena: &'a Arena) -> Self {
        let mut script = Self { arena, commands: Vec::with_capacity(MAX_COMMANDS), lists: Vec::new() };
        script.clear();
        script
    }

    /// Begins anew: loading CR3 makes the CPU forget what it knows of the batch before.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.lists.clear();
        self.commands.push(command(Op::LoadRoot, [self.arena.root().0, 0, 0, 0, 0, 0]));
    }

    /// Whether the next run may be too much.
    pub fn is_full(&self) -> bool {
        self.commands.len() + 2 > MAX_COMMANDS
    }

    /// Cases of one run, from this place in the batch on.
    pub fn add(&mut self, first: usize, cases: &[Case]) {
        let combination = &cases[0].combination;
        if combination.has(Bit::Twice) {
            let ring_0 = Combination::of(&[Bit::Ac]);
            let read = if combination.has(Bit::Ac) { ring_0 } else { Combination::default() };
            self.push(Records::Before, first, cases.len(), &read);
        }
        self.push(Records::Main, first, cases.len(), combination);
    }

    fn push(&mut self, list: Records, first: usize, count: usize, combination: &Combination) {
        let user = combination.has(Bit::User);
        let at = self.arena.record_addresses(list, first);
        let (address, ring) = if user { (at.user, TRIAL_USER) } else { (at.kernel, 0) };
        let kind = kind(combination) as u64 + ring;
        let rflags = rflags::FIXED | if combination.has(Bit::Ac) { rflags::AC } else { 0 };
        self.commands.push(command(Op::Try, [address, count as u64, kind, rflags, 0, 0]));
        self.lists.push(list);
    }

    /// Counts what the guest counted, by the commands' results.
    pub fn count(&self, results: &[u64], tally: &mut Tally) {
        for (list, result) in self.lists.iter().zip(results.iter().skip(1)) {
            let (successes, faults) = (result & 0xffff_ffff, result >> 32);
            match list {
                Records::Main => {
                    tally.accesses += successes + faults;
                    tally.faults += faults;
                }
                Records::Before => {
                    tally.before.0 += successes + faults;
                    tally.before.1 += faults;
                }
            }
        }
    }
}

/// Accesses counted in the guest.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Of combinations.
    pub accesses: u64,
    /// Those of them that faulted.
    pub faults: u64,
    /// Reads that went before, and those of them that faulted.
    pub before: (u64, u64),
}

fn kind(combination: &Combination) -> TrialKind {
    let has = |bit| combination.has(bit);
    match (has(Bit::Stack), has(Bit::Write)) {
        _ if has(Bit::Implicit) => TrialKind::Implicit,
        _ if has(Bit::Fetch) => TrialKind::Fetch,
        (false, false) => TrialKind::Read,
        (false, true) => TrialKind::Write,
        (true, false) => TrialKind::StackRead,
        (true, true) => TrialKind::StackWrite,
    }
}
