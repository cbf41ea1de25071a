//! What a service touches, as scripts for its stub ([`efibed_stub::script`]).

use std::collections::VecDeque;

use efibed_stub::script::{Op, Step};
use uefi_raw::Status;

use super::caller::Access;
use crate::mmu::Va;

/// Steps of one script, the last included.
const STEPS: usize = 40;

/// Bytes of the array of steps.
const STEPS_BYTES: usize = STEPS * size_of::<Step>();

/// Bytes that the steps of one script may write together.
const STAGED_BYTES: usize = 1024;

/// Bytes of a script with what it writes.
pub(super) const SCRIPT_BYTES: usize = STEPS_BYTES + STAGED_BYTES;

/// What a stub has yet to do.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    accesses: VecDeque<Access>,
    status: Status,
    /// Address of the script, as the stub's own pointer has it.
    at: Va,
    /// What that pointer is to be once the stub returns, if something else.
    moved: Option<Va>,
}

impl Pending {
    pub fn new(accesses: Vec<Access>, status: Status, at: Va, moved: Option<Va>) -> Self {
        Self { accesses: accesses.into(), status, at, moved }
    }

    /// The next script, and whether it is the last.
    pub fn next_script(&mut self) -> (Vec<u8>, bool) {
        let mut steps = Vec::with_capacity(STEPS);
        let mut staged = Vec::new();
        while steps.len() < STEPS - 1
            && staged.len() < STAGED_BYTES
            && let Some(access) = self.accesses.pop_front()
        {
            steps.push(self.step(access, &mut staged));
        }
        let is_last = self.accesses.is_empty();
        steps.push(match is_last {
            true => Step { op: Op::Return as u64, at: self.status.0 as u64, bytes: 0, from: self.moved_to() },
            false => Step { op: Op::More as u64, ..Step::default() },
        });
        let words = steps.iter().flat_map(|step| [step.op, step.at, step.bytes, step.from]);
        let mut script: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        script.resize(STEPS_BYTES, 0);
        script.extend(staged);
        (script, is_last)
    }

    /// As a script has it: zero leaves the pointer alone.
    fn moved_to(&self) -> u64 {
        self.moved.map_or(0, |to| to.0)
    }

    /// As much of the access as there is room for; the rest goes back to where it was.
    fn step(&mut self, access: Access, staged: &mut Vec<u8>) -> Step {
        match access {
            Access::Read { at, bytes } => Step { op: Op::Read as u64, at: at.0, bytes, from: 0 },
            Access::Jump { at, status } => {
                Step { op: Op::Jump as u64, at: at.0, bytes: status.0 as u64, from: self.moved_to() }
            }
            Access::Hang => Step { op: Op::Hang as u64, ..Step::default() },
            Access::Write { at, mut data } => {
                let rest = data.split_off(data.len().min(STAGED_BYTES.saturating_sub(staged.len())));
                if !rest.is_empty() {
                    let at = at.wrapping_add(data.len() as u64);
                    self.accesses.push_front(Access::Write { at, data: rest });
                }
                let from = self.at.wrapping_add(STEPS_BYTES.saturating_add(staged.len()) as u64);
                let bytes = data.len() as u64;
                staged.extend(data);
                Step { op: Op::Write as u64, at: at.0, bytes, from: from.0 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &[u8]) -> Vec<[u64; 4]> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        script[..STEPS_BYTES].chunks(32).map(|step| [0, 8, 16, 24].map(|at| word(&step[at..][..8]))).collect()
    }

    #[test]
    fn a_script_ends_with_the_status_and_what_the_stubs_pointer_is_to_be() {
        let status = Status::NOT_FOUND;
        for (moved, pointer) in [(None, 0), (Some(0xffff_fffe_7c00_0400), 0xffff_fffe_7c00_0400)] {
            let mut pending =
                Pending::new(vec![Access::Read { at: Va(0x123), bytes: 5 }], status, Va(0x7000), moved.map(Va));
            let (script, is_last) = pending.next_script();
            assert!(is_last);
            let expected = [[1, 0x123, 5, 0], [0, status.0 as u64, 0, pointer], [0; 4]];
            assert_eq!(words(&script)[..3], expected);
        }
    }

    #[test]
    fn large_writes_are_cut_and_nothing_is_lost() {
        let data: Vec<u8> = (0..5000u32).map(|index| (index % 251) as u8).collect();
        let accesses = vec![
            Access::Write { at: Va(0x10), data: vec![9; 3] },
            Access::Write { at: Va(0x2000), data: data.clone() },
        ];
        let mut pending = Pending::new(accesses, Status::SUCCESS, Va(0x7000), None);
        let (mut written, mut next) = (Vec::<u8>::new(), 0x2000);
        for round in 1.. {
            let (script, is_last) = pending.next_script();
            assert!(script.len() <= SCRIPT_BYTES);
            for [op, at, bytes, from] in words(&script).into_iter().take_while(|step| step[0] == 2) {
                let from = (from - 0x7000) as usize;
                if at != 0x10 {
                    assert_eq!((op, at), (2, next));
                    written.extend(&script[from..][..bytes as usize]);
                    next += bytes;
                }
            }
            if is_last {
                assert_eq!(round, 5);
                break;
            }
        }
        assert_eq!(written, data);
    }

    #[test]
    fn many_accesses_take_several_scripts() {
        let accesses = (0..100).map(|page| Access::Read { at: Va(page << 12), bytes: 1 }).collect();
        let mut pending = Pending::new(accesses, Status::SUCCESS, Va(0), None);
        let counts: Vec<_> = std::iter::from_fn(|| {
            let (script, is_last) = pending.next_script();
            let reads = words(&script).iter().filter(|step| step[0] == 1).count();
            (reads > 0).then_some((reads, is_last))
        })
        .collect();
        assert_eq!(counts, [(39, false), (39, false), (22, true)]);
    }
}
