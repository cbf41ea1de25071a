//! The boundary between guest and host, with register sets and memory made at random. Tests only.
//!
//! `EFIBED_FUZZ_SEED=N` for another sequence; the seed is printed when it fails.

use efibed_stub::Service;
use efibed_stub::image::{ENTRY_BYTES, IMAGE_PAGE_OFFSET, RESUME, TRAP_OFFSET};
use efibed_stub::script::NO_SCRIPT;
use uefi_raw::Status;

use super::configuration::CAPSULE_CLASS;
use super::services::variable_store::STORE_BYTES;
use super::test_memory::{Bed, Played, WINDOW, code_and_data, one_to_one, run_script, virtual_map};
use super::{
    Answer, ForeignTrap, MAX_MAP_BYTES, Misbehaviour, PAGE_SIZE, ServiceMisbehaviour, StubCall, verify_tables,
};
use crate::random::Random;

const REGISTER_SETS: u64 = 1_000_000;

/// Firmware and memory are made anew after so many: variables fill the store, and SetVirtualAddressMap works once.
const SETS_PER_BED: u64 = 2_000;

const DEFAULT_SEED: u64 = 2013;

/// Pages with memory at 0x1000 and on, garbage in them; nothing is mapped behind them.
const GARBAGE: std::ops::Range<u64> = 0x1_0000..0x1_4000;

/// Arguments at random.
struct Chance(Random);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0.number()
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0.below(limit)
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }

    /// An address, mostly one of memory and often near a page's end.
    fn pointer(&mut self) -> u64 {
        let near_an_end = (GARBAGE.start + (self.below(5) << 12)).wrapping_sub(self.below(24));
        match self.below(8) {
            0 => self.pick(&[0, 1, u64::MAX, u64::MAX - 7, 1 << 47, 0x7C00_0000, 0x80_0000, WINDOW + 0x7C00_0000]),
            1 => self.next(),
            2..5 => near_an_end,
            _ => GARBAGE.start + self.below(GARBAGE.end - GARBAGE.start),
        }
    }

    /// A size, a count, attributes: small, round, or anything.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.pick(&[0, 40, 48, 192, 0x1_0000, MAX_MAP_BYTES, 1 << 32, u64::MAX]),
            1 => self.next(),
            2 => self.below(0x100),
            3 => self.pick(&[7, 7 | 0x40, 6, 3]),
            _ => self.below(64),
        }
    }

    fn misbehaviour(&mut self) -> ServiceMisbehaviour {
        let what = Misbehaviour::ALL[self.below(Misbehaviour::ALL.len() as u64) as usize];
        ServiceMisbehaviour { what, service: Service::ALL[self.below(Service::COUNT as u64) as usize], access: None }
    }

    fn argument(&mut self) -> u64 {
        if self.below(2) == 0 { self.pointer() } else { self.number() }
    }
}

fn bed(random: &mut Chance) -> Bed {
    let mut bed = Bed::new();
    for page in GARBAGE.step_by(PAGE_SIZE as usize) {
        let mut content = [0; PAGE_SIZE as usize];
        let words = content.chunks_mut(8);
        for word in words {
            // Pointers, counts and text, so that what is read leads on.
            let value = match random.below(4) {
                0 => random.pointer(),
                1 => random.number(),
                2 => 0x0061_0062_0063,
                _ => random.next(),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        bed.memory.put(page, &content);
    }
    bed.memory.put(GOOD, &good_page());
    bed.memory.put(GOOD + 0x828, &GOOD_BUFFER.to_le_bytes());
    let offsets = (0..3).map(|page| page << 12);
    for (phys, offset) in
        [0x80_0000, 0x7C00_0000].into_iter().flat_map(|phys| offsets.clone().map(move |at| (phys, at)))
    {
        bed.memory.map(WINDOW + phys + offset, Some(phys + offset));
    }
    bed
}

/// A page with arguments that make sense.
const GOOD: u64 = 0x2_0000;
const GOOD_MAP: u64 = GOOD;
const GOOD_NAME: u64 = GOOD + 0x201;
const GOOD_VENDOR: u64 = GOOD + 0x243;
const GOOD_SIZE: u64 = GOOD + 0x281;
const GOOD_TIME: u64 = GOOD + 0x2C0;
const GOOD_CAPSULES: u64 = GOOD + 0x300;
const GOOD_BUFFER: u64 = GOOD + 0x400;

fn good_page() -> Vec<u8> {
    let mut page = virtual_map(&code_and_data());
    let mut put = |at: u64, bytes: &[u8]| {
        let at = (at - GOOD) as usize;
        page.resize(page.len().max(at + bytes.len()), 0);
        page[at..][..bytes.len()].copy_from_slice(bytes);
    };
    put(GOOD_NAME, b"a\0b\0c\0\0\0");
    put(GOOD_VENDOR, &[0x42; 16]);
    put(GOOD_SIZE, &64u64.to_le_bytes());
    put(GOOD_TIME, &[0xDD, 0x07, 10, 2, 14, 30]);
    put(GOOD_CAPSULES, &(GOOD_CAPSULES + 8).to_le_bytes());
    put(GOOD_CAPSULES + 8, &CAPSULE_CLASS.to_bytes());
    put(GOOD_CAPSULES + 24, &[28, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0]);
    put(GOOD_BUFFER, &[0; 64]);
    page
}

/// What an operating system would call the service with.
fn good_arguments(service: Service) -> [u64; 4] {
    match service {
        Service::SetVirtualAddressMap => [48 * code_and_data().len() as u64, 48, 1, GOOD_MAP],
        Service::GetVariable => [GOOD_NAME, GOOD_VENDOR, GOOD_BUFFER, GOOD_SIZE],
        Service::SetVariable => [GOOD_NAME, GOOD_VENDOR, 7, 30],
        Service::GetNextVariableName => [GOOD_SIZE, GOOD_NAME, GOOD_VENDOR, 0],
        Service::QueryVariableInfo => [7, GOOD_BUFFER, GOOD_BUFFER + 8, GOOD_BUFFER + 16],
        Service::UpdateCapsule => [GOOD_CAPSULES, 1, 0, 0],
        Service::QueryCapsuleCapabilities => [GOOD_CAPSULES, 1, GOOD_BUFFER, GOOD_BUFFER + 8],
        Service::SetWakeupTime => [1, GOOD_TIME, 0, 0],
        Service::GetWakeupTime => [GOOD_BUFFER, GOOD_BUFFER + 1, GOOD_BUFFER + 2, 0],
        _ => [GOOD_TIME, GOOD_BUFFER, 0, 0],
    }
}

fn registers(random: &mut Chance) -> StubCall {
    let number = random.below(Service::COUNT as u64 + 2);
    let at = IMAGE_PAGE_OFFSET as u64 + number * ENTRY_BYTES as u64 + TRAP_OFFSET as u64;
    let elsewhere = random.next() & !0xFFF;
    let page = random.pick(&[0x80_0000, WINDOW + 0x80_0000, elsewhere]);
    let rip = if random.below(16) == 0 { random.next() } else { page + at + random.pick(&[0, 0, 0, 2, 2, 2, 0, 1]) };
    let mut regs = StubCall {
        rax: if random.below(16) == 0 { random.next() } else { number },
        rcx: random.argument(),
        rdx: random.argument(),
        r8: random.argument(),
        r9: random.argument(),
        r10: random.next(),
        r11: random.next(),
        rsp: random.pointer(),
        rip,
        rflags: random.next(),
        cr3: random.next(),
    };
    if let Some(service) = Service::from_number(number as u32)
        && random.below(2) == 0
    {
        // Right except for one argument, or altogether.
        let mut arguments = good_arguments(service);
        let argument = random.argument();
        if let Some(one) = arguments.get_mut(random.below(8) as usize) {
            *one = argument;
        }
        [regs.rcx, regs.rdx, regs.r8, regs.r9] = arguments;
        regs.rsp = GOOD + 0x800;
    }
    regs
}

/// Carries out all that the stub is told, as the guest would; what it returned, if it did.
fn follow(bed: &mut Bed, regs: &StubCall, random: &mut Chance) -> Option<Status> {
    let mut regs = *regs;
    // A map of 16 MiB would be touched in 4096 pages; there are four here, read again and again.
    for _ in 0..64 {
        match run_script(&mut bed.memory, regs.rip) {
            Played::Returned(status) => return Some(status),
            Played::More => {}
            // Firmware misbehaves, or its own pages have been overwritten by what its callers asked for.
            Played::Jumped(_) | Played::Hangs | Played::Faulted(_) => return None,
        }
        if random.below(64) == 0 {
            return None; // The guest is free to go elsewhere in the middle of it.
        }
        let resume = (IMAGE_PAGE_OFFSET + RESUME as usize * ENTRY_BYTES + TRAP_OFFSET) as u64;
        regs = StubCall { rax: RESUME.into(), rip: (regs.rip & !0xFFF) + resume, ..regs };
        assert_eq!(bed.firmware.answer(&regs, &mut bed.memory), Ok(Answer::Resumed));
    }
    panic!("the script has no end");
}

#[test]
fn a_million_register_sets_do_the_host_no_harm() {
    let seed = std::env::var("EFIBED_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED);
    let mut random = Chance(Random::new(seed));
    let mut bed = bed(&mut random);
    let (mut statuses, mut switches, mut foreign) = (std::collections::BTreeMap::new(), 0u32, 0u32);
    for set in 0..REGISTER_SETS {
        if set % SETS_PER_BED == 0 {
            bed = self::bed(&mut random);
            // Every other firmware is well-behaved.
            let misbehaviours: Vec<_> = (0..random.below(2) * 3).map(|_| random.misbehaviour()).collect();
            bed.firmware.misbehave(&misbehaviours);
        }
        let regs = registers(&mut random);
        let (reads, was_virtual) = (bed.memory.reads(), bed.firmware.is_virtual());
        let context = || format!("seed {seed}, set {set}: {regs:x?}");
        let answer = bed.firmware.answer(&regs, &mut bed.memory);

        // Names of 1024 units, 64 capsules, 16 MiB of descriptors, data of 64 KiB: each byte read at most once or so.
        assert!(bed.memory.reads() - reads <= MAX_MAP_BYTES as usize / 40 + 4096, "{}", context());
        match answer {
            Ok(Answer::Called(call)) => {
                let status = follow(&mut bed, &regs, &mut random);
                let is_one_of = |status| status == call.status || status == Status(NO_SCRIPT as usize);
                assert!(status.is_none_or(is_one_of), "{status:?} {}", context());
                *statuses.entry((call.service, call.status.0)).or_insert(0u32) += 1;
                switches += u32::from(bed.firmware.is_virtual() && !was_virtual);
            }
            Ok(Answer::Reset(call, _)) => *statuses.entry((call.service, call.status.0)).or_default() += 1,
            Ok(Answer::Resumed) => {}
            Err(ForeignTrap::NoData { .. }) => panic!("{}", context()),
            Err(_) => foreign += 1,
        }
    }
    assert!(bed.firmware.variables.stored_bytes() <= 2 * STORE_BYTES);
    // The sets are of use: every service succeeds and fails, where it can.
    assert!(foreign > 10_000 && switches > 100, "{foreign} {switches}");
    for service in Service::ALL.into_iter().filter(|service| *service != Service::ConvertPointer) {
        let of_it = statuses.keys().filter(|(it, _)| *it == service).count();
        let succeeds = statuses.contains_key(&(service, 0));
        assert!(of_it >= 2 && succeeds, "{service}: {statuses:x?}");
    }
}

/// Garbage as a virtual map never makes firmware's tables wrong.
#[test]
fn tables_stay_right_whatever_is_called() {
    let mut random = Chance(Random::new(DEFAULT_SEED));
    for _ in 0..200 {
        let mut bed = bed(&mut random);
        for _ in 0..50 {
            // What a caller has firmware write to firmware's own pages is lost on it.
            if let Ok(Answer::Called(_)) = bed.firmware.answer(&registers(&mut random), &mut bed.memory)
                && !bed.firmware.is_virtual()
            {
                let tables = bed.firmware.system_table();
                assert_eq!(verify_tables(&bed.memory, tables, one_to_one), Ok(()));
            }
        }
    }
}
