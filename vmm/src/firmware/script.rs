//! What a service touches, as scripts for its stub ([`efibed_stub::script`]).

use std::collections::VecDeque;

use efibed_stub::image::code_offset;
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

/// Bytes that a step holds itself, at most; more are staged, and copied.
const HELD_BYTES: usize = 16;

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

    /// The next script, for a stub whose image is at that address, and whether it is the last.
    pub fn next_script(&mut self, image: Va) -> (Vec<u8>, bool) {
        let mut script = Script { image, steps: Vec::with_capacity(STEPS), staged: Vec::new() };
        while script.has_room()
            && let Some(access) = self.accesses.pop_front()
        {
            self.add(access, &mut script);
        }
        let is_last = self.accesses.is_empty();
        match is_last {
            true => self.leave(Op::Return, [self.status.0 as u64, 0, 0], &mut script),
            false => script.add(Op::More, [0; 3]),
        }
        (script.into_bytes(), is_last)
    }

    /// As much of the access as a step and the room for bytes hold; the rest goes back to where it was.
    fn add(&mut self, access: Access, script: &mut Script) {
        match access {
            Access::Read { at, bytes } => {
                script.add(Op::Read, [at.0, at.wrapping_add(bytes.wrapping_sub(1)).0, 0]);
            }
            Access::Write { at, data } => self.write(at, data, script),
            Access::Jump { at, status } => self.leave(Op::Jump, [at.0, status.0 as u64, 0], script),
            Access::Hang => script.add(Op::Hang, [0; 3]),
        }
    }

    fn write(&mut self, at: Va, mut data: Vec<u8>, script: &mut Script) {
        let bytes = match data.len() {
            0 => return,
            few @ 1..=HELD_BYTES => 1 << few.ilog2(),
            many => many.min(STAGED_BYTES.saturating_sub(script.staged.len())),
        };
        let rest = data.split_off(bytes);
        if !rest.is_empty() {
            self.accesses.push_front(Access::Write { at: at.wrapping_add(bytes as u64), data: rest });
        }
        let op = match bytes {
            1 => Op::Write1,
            2 => Op::Write2,
            4 => Op::Write4,
            8 => Op::Write8,
            HELD_BYTES => Op::Write16,
            _ => {
                let from = self.at.wrapping_add(STEPS_BYTES.saturating_add(script.staged.len()) as u64);
                script.staged.extend(data);
                return script.add(Op::Copy, [at.0, bytes as u64, from.0]);
            }
        };
        data.resize(HELD_BYTES, 0);
        let word = |at| data[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        script.add(op, [at.0, word(0), word(8)]);
    }

    /// By this step, with the stubs' pointer as it is to be.
    fn leave(&self, op: Op, words: [u64; 3], script: &mut Script) {
        if let Some(to) = self.moved {
            script.add(Op::Move, [to.0, 0, 0]);
        }
        script.add(op, words);
    }
}

/// A script in the making.
struct Script {
    /// Of the stub that is to carry it out.
    image: Va,
    steps: Vec<Step>,
    staged: Vec<u8>,
}

impl Script {
    /// For one more access, and for the end: each takes two steps at most. More bytes than a step holds are staged.
    fn has_room(&self) -> bool {
        self.steps.len() <= STEPS - 4 && self.staged.len() < STAGED_BYTES - HELD_BYTES
    }

    fn add(&mut self, op: Op, words: [u64; 3]) {
        let code = self.image.wrapping_add(code_offset(op) as u64).0;
        self.steps.push(Step { code, words });
    }

    fn into_bytes(self) -> Vec<u8> {
        let words = self.steps.into_iter().flat_map(|Step { code, words: [a, b, c] }| [code, a, b, c]);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.resize(STEPS_BYTES, 0);
        bytes.extend(self.staged);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the stub is.
    const IMAGE: Va = Va(0xffff_fffe_0000_0010);

    /// The steps of a script, by their ops, as far as there are any.
    fn steps(script: &[u8]) -> Vec<(Op, [u64; 3])> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let op = |code: u64| Op::ALL.into_iter().find(|op| IMAGE.0 + code_offset(*op) as u64 == code);
        let step = |step: &[u8]| Some((op(word(&step[..8]))?, [8, 16, 24].map(|at| word(&step[at..][..8]))));
        script[..STEPS_BYTES].chunks(32).map_while(step).collect()
    }

    #[test]
    fn a_script_ends_with_the_status_and_what_the_stubs_pointer_is_to_be() {
        let status = Status::NOT_FOUND;
        let read = || vec![Access::Read { at: Va(0x123), bytes: 5 }];
        let mut pending = Pending::new(read(), status, Va(0x7000), None);
        let (script, is_last) = pending.next_script(IMAGE);
        assert!(is_last);
        assert_eq!(steps(&script), [(Op::Read, [0x123, 0x127, 0]), (Op::Return, [status.0 as u64, 0, 0])]);
        let to = Va(0xffff_fffe_7c00_0400);
        let moves = (Op::Move, [to.0, 0, 0]);
        let mut pending = Pending::new(read(), status, Va(0x7000), Some(to));
        assert_eq!(steps(&pending.next_script(IMAGE).0)[1..], [moves, (Op::Return, [status.0 as u64, 0, 0])]);
        let mut jumps = vec![Access::Read { at: Va(0x123), bytes: 1 }; STEPS - 4];
        jumps.push(Access::Jump { at: Va(0x5000), status });
        let (script, _) = Pending::new(jumps, status, Va(0x7000), Some(to)).next_script(IMAGE);
        assert_eq!(steps(&script)[STEPS - 4..][..2], [moves, (Op::Jump, [0x5000, status.0 as u64, 0])]);
        assert_eq!(script.len(), STEPS_BYTES);
    }

    #[test]
    fn small_writes_are_in_their_steps() {
        for bytes in 0..=HELD_BYTES {
            let data: Vec<u8> = (1..=bytes as u8).collect();
            let accesses = vec![Access::Write { at: Va(0x10), data: data.clone() }];
            let (script, is_last) = Pending::new(accesses, Status::SUCCESS, Va(0x7000), None).next_script(IMAGE);
            assert!(is_last && script.len() == STEPS_BYTES);
            let mut written = Vec::<u8>::new();
            for (op, [at, low, high]) in steps(&script).into_iter().take_while(|(op, _)| *op != Op::Return) {
                assert_eq!(at, 0x10 + written.len() as u64);
                let sizes = [(Op::Write1, 1), (Op::Write2, 2), (Op::Write4, 4), (Op::Write8, 8), (Op::Write16, 16)];
                let (_, size) = sizes.into_iter().find(|(write, _)| *write == op).unwrap();
                written.extend(&[low.to_le_bytes(), high.to_le_bytes()].concat()[..size]);
            }
            assert_eq!(written, data);
        }
    }

    #[test]
    fn large_writes_are_cut_and_nothing_is_lost() {
        for before in [0, 3, 16, 1000, 1007, 1008, 1009] {
            let data: Vec<u8> = (0..5000u32).map(|index| (index % 251) as u8).collect();
            let accesses = vec![
                Access::Write { at: Va(0x10), data: vec![9; before] },
                Access::Write { at: Va(0x2000), data: data.clone() },
            ];
            let mut pending = Pending::new(accesses, Status::SUCCESS, Va(0x7000), None);
            let mut written = vec![0; 5000];
            loop {
                let (script, is_last) = pending.next_script(IMAGE);
                assert!(script.len() <= SCRIPT_BYTES);
                for (op, [at, bytes, from]) in steps(&script) {
                    match op {
                        Op::Copy if at >= 0x2000 => {
                            assert!(bytes >= 8);
                            let (to, from) = ((at - 0x2000) as usize, (from - 0x7000) as usize);
                            written[to..][..bytes as usize].copy_from_slice(&script[from..][..bytes as usize]);
                        }
                        Op::Write8 if at >= 0x2000 => {
                            written[(at - 0x2000) as usize..][..8].copy_from_slice(&bytes.to_le_bytes());
                        }
                        _ => {}
                    }
                }
                if is_last {
                    break;
                }
            }
            assert_eq!(written, data, "{before}");
        }
    }

    #[test]
    fn many_accesses_take_several_scripts() {
        let accesses = (0..100).map(|page| Access::Read { at: Va(page << 12), bytes: 1 }).collect();
        let mut pending = Pending::new(accesses, Status::SUCCESS, Va(0), None);
        let counts: Vec<_> = std::iter::from_fn(|| {
            let (script, is_last) = pending.next_script(IMAGE);
            let reads = steps(&script).iter().filter(|(op, _)| *op == Op::Read).count();
            (reads > 0).then_some((reads, is_last))
        })
        .collect();
        assert_eq!(counts, [(37, false), (37, false), (26, true)]);
    }
}
