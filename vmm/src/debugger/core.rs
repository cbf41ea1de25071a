//! An ELF core of the guest at a fault or a finding: what gdb opens afterwards.
//!
//! It has memory as ring 3 saw it, at ring 3's addresses, and after that what the mapping code's own tables map, at the
//! addresses that they give it: firmware's pages, as far as there is memory behind them. Each segment's `p_paddr` is physical.

use std::mem::size_of_val;
use std::ops::Range;

use object::elf::{ET_CORE, NT_PRFPREG, NT_PRSTATUS, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE};
use serde::{Deserialize, Serialize};

use super::seen::{registers, signal};
use super::wire::Registers;
use crate::check::{Finding, Severity};
use crate::guest::PAGE_BYTES;
use crate::guest::process::{Debugger, Halt, Halted, Resume};
use crate::mmu::{Pa, Run, Va};

/// Takes a core at the first fault or finding.
#[derive(Default)]
pub struct CoreTaker {
    /// What was taken.
    pub core: Option<Core>,
}

/// A core: its bytes, without pages of zeros.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Core {
    /// Bytes in all.
    pub length: u64,
    /// Pages and headers, in hexadecimal, each with its offset.
    parts: Vec<(u64, String)>,
    /// Pages that were mapped, and were too many.
    pub left_out: u64,
}

/// The most memory that a core has: several times the largest pool.
const MOST_PAGES: u64 = (64 << 20) / PAGE_BYTES;

/// Entries that are read to find out what is mapped.
const MOST_ENTRIES: u64 = 1 << 20;

/// Segments: as many as a header can count without a section for it.
const MOST_SEGMENTS: usize = 0xfffe;

impl Debugger for CoreTaker {
    fn halted(&mut self, why: Halt<'_>, process: &mut Halted<'_>) -> Resume {
        let is_error = |finding: &Finding| finding.rule.severity() == Severity::Error;
        let signal = match why {
            Halt::Trap(exception) | Halt::Exception(exception) => Some(signal(exception.fault)),
            Halt::Findings(findings, _) if findings.iter().any(is_error) => Some(libc::SIGUSR1),
            _ => None,
        };
        if let (Some(signal), None) = (signal, &self.core) {
            self.core = Some(take(signal, process));
        }
        Resume::PassOn
    }
}

fn take(signal: i32, process: &Halted<'_>) -> Core {
    let mut pages = 0;
    let mut segments = segments(process.own_root(), process, &mut pages, &[]);
    if let Some(root) = process.made_root() {
        let own = segments.clone();
        segments.extend(self::segments(root, process, &mut pages, &own));
    }
    segments.sort_by_key(|segment| segment.virt);
    segments.truncate(MOST_SEGMENTS);
    let mut core = Writer::default();
    core.headers(&notes(signal, &registers(process)), &segments);
    let mut page = vec![0; PAGE_BYTES as usize];
    for at in segments.iter().flat_map(|segment| segment.phys.clone().step_by(PAGE_BYTES as usize)) {
        page.fill(0);
        // What cannot be read reads as zeros: there was memory when the segment was made.
        let _ = process.read_physical(Pa(at), &mut page);
        core.add(&page);
    }
    Core { left_out: pages.saturating_sub(MOST_PAGES), ..core.core }
}

/// A stretch of memory.
#[derive(Clone, Debug)]
struct Segment {
    virt: u64,
    phys: Range<u64>,
    flags: u32,
}

impl Segment {
    fn bytes(&self) -> u64 {
        self.phys.end.saturating_sub(self.phys.start)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.virt.wrapping_sub(other.virt) < other.bytes() || other.virt.wrapping_sub(self.virt) < self.bytes()
    }
}

/// What tables map that has memory and is apart from what is there already, in pieces that each lie in one slot. `pages`
/// counts what was found; there are no segments for those past the limit.
fn segments(root: u64, process: &Halted<'_>, pages: &mut u64, taken: &[Segment]) -> Vec<Segment> {
    let slots: Vec<Range<u64>> = process.memory().collect();
    let runs = process.runs(root, MOST_ENTRIES).into_iter().filter(|run| run.defect.is_none());
    let mut found = Vec::new();
    for piece in runs.flat_map(|run| slots.iter().filter_map(move |slot| piece(&run, slot))) {
        *pages = pages.saturating_add(piece.bytes() / PAGE_BYTES);
        if *pages <= MOST_PAGES && !taken.iter().any(|other| other.overlaps(&piece)) {
            found.push(piece);
        }
    }
    found
}

/// The part of a run that lies in a slot.
fn piece(run: &Run, slot: &Range<u64>) -> Option<Segment> {
    let Run { va: Va(virt), pa, bytes, rights, .. } = *run;
    let (start, end) = (pa.0.max(slot.start), pa.0.saturating_add(bytes).min(slot.end));
    let flags = [(true, PF_R), (rights.writable, PF_W), (rights.executable, PF_X)].into_iter();
    let flags = flags.filter(|(has, _)| *has).fold(0, |sum, (_, flag)| sum | flag.0);
    (start < end).then(|| Segment { virt: virt.wrapping_add(start.wrapping_sub(pa.0)), phys: start..end, flags })
}

/// The notes that gdb reads: registers of one thread, general and floating point.
fn notes(signal: i32, registers: &Registers) -> Vec<u8> {
    let mut notes = note(NT_PRSTATUS.0, &prstatus(signal, registers));
    if !registers.fxsave.is_empty() {
        notes.extend(note(NT_PRFPREG.0, &registers.fxsave));
    }
    notes
}

/// A note of the kernel's name (ELF specification, "Note Section"): words of four bytes, padded to four bytes.
fn note(kind: u32, contents: &[u8]) -> Vec<u8> {
    const NAME: &[u8; 8] = b"CORE\0\0\0\0";
    let mut note = Vec::new();
    for word in [5, contents.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    note.extend(NAME);
    note.extend(contents);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// `struct elf_prstatus` of x86-64 (Linux, include/linux/elfcore.h): the signal at 12, the process's number at 32, registers as
/// `struct user_regs_struct` has them (arch/x86/include/asm/user_64.h) at 112, whether there are x87's at 328.
fn prstatus(signal: i32, registers: &Registers) -> Vec<u8> {
    let Registers { general, rip, rflags, selectors, bases, fxsave } = registers;
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = *general;
    let [cs, ss, ds, es, fs, gs] = selectors.map(u64::from);
    let [fs_base, gs_base] = *bases;
    // No system call is being made.
    let orig_rax = u64::MAX;
    let mut status = Vec::new();
    status.extend(signal.to_le_bytes());
    status.resize(12, 0);
    status.extend((signal as u16).to_le_bytes());
    status.resize(32, 0);
    status.extend(1u32.to_le_bytes());
    status.resize(112, 0);
    for register in [
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, *rip, cs, *rflags, rsp, ss,
        fs_base, gs_base, ds, es, fs, gs,
    ] {
        status.extend(register.to_le_bytes());
    }
    status.extend(u64::from(!fxsave.is_empty()).to_le_bytes());
    status
}

/// A core that grows, without its zeros.
#[derive(Default)]
struct Writer {
    core: Core,
}

/// Bytes of the file header and of a program header (ELF-64).
const FILE_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

impl Writer {
    /// The file header, the program headers and the notes, and zeros to the next page.
    fn headers(&mut self, notes: &[u8], segments: &[Segment]) {
        let count = segments.len().saturating_add(1) as u64;
        let notes_at = FILE_HEADER.saturating_add(count.saturating_mul(PROGRAM_HEADER));
        let first = notes_at.saturating_add(notes.len() as u64).next_multiple_of(PAGE_BYTES);
        let mut head = file_header(count);
        head.extend(program_header(PT_NOTE.0, 0, notes_at, [0; 2], notes.len() as u64, 4));
        let mut at = first;
        for segment in segments {
            let addresses = [segment.virt, segment.phys.start];
            head.extend(program_header(PT_LOAD.0, segment.flags, at, addresses, segment.bytes(), PAGE_BYTES));
            at = at.saturating_add(segment.bytes());
        }
        head.extend(notes);
        head.resize(first as usize, 0);
        self.add(&head);
    }

    fn add(&mut self, bytes: &[u8]) {
        if bytes.iter().any(|byte| *byte != 0) {
            self.core.parts.push((self.core.length, hexadecimal(bytes)));
        }
        self.core.length = self.core.length.saturating_add(bytes.len() as u64);
    }
}

/// That of a core for x86-64 with so many program headers behind it.
fn file_header(program_headers: u64) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    for half in [ET_CORE.0, object::elf::EM_X86_64.0] {
        header.extend(half.to_le_bytes());
    }
    header.extend(1u32.to_le_bytes());
    // No entry point; program headers; no sections.
    for offset in [0, FILE_HEADER, 0] {
        header.extend(offset.to_le_bytes());
    }
    header.extend(0u32.to_le_bytes());
    for half in [FILE_HEADER, PROGRAM_HEADER, program_headers, 0, 0, 0] {
        header.extend((half as u16).to_le_bytes());
    }
    header
}

fn program_header(kind: u32, flags: u32, at: u64, [virt, phys]: [u64; 2], bytes: u64, align: u64) -> Vec<u8> {
    let words = [at, virt, phys, bytes, bytes, align];
    let mut header = Vec::with_capacity(size_of_val(&words));
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    words.iter().for_each(|word| header.extend(word.to_le_bytes()));
    header
}

impl Core {
    /// The whole file; None: that is no core.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        // Headers and notes take a few pages.
        let most = MOST_PAGES.saturating_mul(PAGE_BYTES).saturating_mul(2);
        if self.length > most {
            return None;
        }
        let mut bytes = vec![0; self.length as usize];
        for (at, text) in &self.parts {
            let part = bytes.get_mut(usize::try_from(*at).ok()?..)?;
            for (byte, digits) in part.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            }
        }
        Some(bytes)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

#[cfg(test)]
mod tests {
    use object::LittleEndian as LE;
    use object::elf::FileHeader64;
    use object::read::elf::{FileHeader as _, ProgramHeader as _};

    use super::*;

    #[test]
    fn a_core_has_what_went_into_it() {
        let segments = [
            Segment { virt: 0x40_0000, phys: 0x9000..0xb000, flags: 5 },
            Segment { virt: 0xffff_ffff_0000_0000, phys: 0x1000..0x2000, flags: 6 },
        ];
        let mut writer = Writer::default();
        writer.headers(&notes(11, &Registers { rip: 0x1234, fxsave: vec![0; 512], ..Registers::default() }), &segments);
        for fill in [0, 7, 9] {
            writer.add(&[fill; 4096]);
        }
        let bytes = writer.core.to_bytes().unwrap();
        let header = FileHeader64::<LE>::parse(&*bytes).unwrap();
        assert_eq!(header.e_type(LE), ET_CORE);
        let segments = header.program_headers(LE, &*bytes).unwrap();
        let loads: Vec<_> = segments.iter().filter(|segment| segment.p_type(LE) == PT_LOAD).collect();
        assert_eq!(loads.iter().map(|load| load.p_vaddr(LE)).collect::<Vec<_>>(), [0x40_0000, 0xffff_ffff_0000_0000]);
        assert_eq!(loads.iter().map(|load| load.p_paddr(LE)).collect::<Vec<_>>(), [0x9000, 0x1000]);
        assert_eq!(loads[0].data(LE, &*bytes).unwrap()[4096..], [7; 4096]);
        assert_eq!(loads[1].data(LE, &*bytes).unwrap(), [9; 4096]);
        let mut notes = segments[0].notes(LE, &*bytes).unwrap().unwrap();
        let status = notes.next().unwrap().unwrap();
        assert_eq!((status.name(), status.desc().len()), (&b"CORE"[..], 336));
        // user_regs_struct has RIP as its 17th word.
        assert_eq!(status.desc()[112 + 16 * 8..][..8], 0x1234u64.to_le_bytes());
        assert_eq!(status.desc()[12..14], [11, 0]);
        assert_eq!(notes.next().unwrap().unwrap().desc().len(), 512);
    }

    #[test]
    fn what_came_is_believed_only_as_far_as_it_is_a_core() {
        let core = |length, parts| Core { length, parts, left_out: 0 };
        assert_eq!(core(u64::MAX, Vec::new()).to_bytes(), None);
        assert_eq!(core(4, vec![(9, "00".into())]).to_bytes(), None);
        assert_eq!(core(4, vec![(0, "zz".into())]).to_bytes(), None);
        assert_eq!(core(4, vec![(2, "ff010203".into())]).to_bytes(), Some(vec![0, 0, 0xff, 1]));
    }
}
