//! Reading: the page faults of a log, of each printer.
//!
//! | file | holds |
//! | --- | --- |
//! | `linux`, `xen`, `edk2`, `freebsd` | one printer's form each |
//! | `form` | what a form is |
//! | `scan` | labels, numbers and symbols in a line |
//!
//! Lines are looked at one by one, undressed of what loggers, mail and markup put around them, and only once: a log of any
//! size takes no more memory than the faults that are kept.

mod edk2;
mod form;
mod freebsd;
mod linux;
mod scan;
mod xen;

use form::Form;

use super::fault::{Fault, Printer};
use crate::memory_map::each_undressed_line;

/// The faults of a log.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// In the order of the log, those that are kept.
    pub kept: Vec<Fault>,
    /// How many there were besides them.
    pub omitted: usize,
}

/// A panic repeats itself, and the first fault is the one that matters. What comes later is seldom about anything else.
const MAX_FAULTS: usize = 64;
/// How many lines a fault has at most. Linux's has up to some hundred, with its modules and two traces.
const MAX_LINES: usize = 300;

/// No line that begins a fault is shorter: `Oops: 0`. A log may be nothing but line feeds.
const MIN_BYTES: usize = 7;

const FORMS: [&Form; 4] = [&linux::FORM, &xen::FORM, &edk2::FORM, &freebsd::FORM];

/// Reads the page faults of a text.
pub fn faults(text: &str) -> Faults {
    let mut reader = Reader::default();
    each_undressed_line(text, &mut |number, line| reader.line(number, line));
    reader.close();
    reader.found
}

#[derive(Default)]
struct Reader {
    open: Option<Open>,
    found: Faults,
}

/// A fault that is being read.
struct Open {
    form: &'static Form,
    fault: Fault,
    lines_left: usize,
}

impl Reader {
    fn line(&mut self, number: &dyn Fn() -> usize, line: &str) {
        let is_open = self.open.is_some();
        if !is_open && line.len() < MIN_BYTES {
            return;
        }
        let starts = |form: &&'static Form| (form.begins)(line) || !is_open && (form.resumes)(line);
        let continues = |open: &Open| (open.form.continues)(&open.fault, line);
        let starting = FORMS.into_iter().find(starts).filter(|_| !self.open.as_ref().is_some_and(continues));
        if let Some(form) = starting {
            self.close();
            let fault = Fault { printer: form.printer, line: number(), ..Fault::default() };
            self.open = Some(Open { form, fault, lines_left: MAX_LINES });
        }
        let Some(open) = &mut self.open else { return };
        (open.form.take)(&mut open.fault, line);
        open.lines_left = open.lines_left.saturating_sub(1);
        if open.lines_left == 0 || (open.form.ends)(line) {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(Open { form, mut fault, .. }) = self.open.take() else { return };
        if !(form.is_page_fault)(&fault) {
            return;
        }
        if self.found.kept.len() == MAX_FAULTS {
            self.found.omitted = self.found.omitted.saturating_add(1);
            return;
        }
        if fault.printer == Printer::Linux {
            linux::settle_levels(&mut fault);
        }
        fault.entries.sort_by_key(|entry| std::cmp::Reverse(entry.level));
        self.found.kept.push(fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::Level;
    use crate::random::Random;

    /// A line or two of every form.
    const PIECES: [&str; 18] = [
        "BUG: unable to handle page fault for address: fffffffef694b1b9",
        "BUG: unable to handle kernel NULL pointer dereference at           (null)",
        "#PF: error_code(0x0011) - permissions violation",
        "PGD 85b157067 P4D 85b157067 PUD 85b15a063 PMD 85b163063 PTE 800000007954b063",
        "Oops: 0011 [#1] SMP NOPTI",
        "RIP: 0010:[<fffffffeffbd03f9>]  [<fffffffeffbd03f9>] virt_efi_get_time+0x76/0xc0",
        "CR2: ffffe0f000020000 CR3: 000000041f04a006 CR4: 0000000000760ee0",
        "Code: 48 89 d1 <f3> aa 4c 89 c8",
        "PANIC: early exception 0x0e IP 10:ffffffff8b0a1d3c error 2 cr2 0xffffffffff281000",
        "(XEN) ----[ Xen-4.19-unstable  x86_64  debug=y  Not tainted ]----",
        "(XEN)  L2[0x116] = 8000000062c001e3 ffffffffffffffff (PSE)",
        "(XEN) Faulting linear address: 0000000062ccfa70",
        "(XEN) d0:v0: unhandled page fault (ec=0000)",
        "(XEN) Pagetable walk from ffffc9003ffffff8:",
        "!!!! X64 Exception Type - 0E(#PF - Page-Fault)  CPU Apic ID - 00000000 !!!!",
        "ExceptionData - 0000000000000003  I:0 R:0 U:0 W:1 P:1 PK:0 SS:0 SGX:0",
        "Fatal trap 12: page fault while in kernel mode",
        "fault code\t\t= supervisor read data, page not present",
    ];

    #[test]
    fn no_text_panics_and_what_is_kept_is_bounded() {
        let mut random = Random::new(2013);
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..random.below(12) {
                let piece = PIECES[random.below(PIECES.len() as u64) as usize];
                let cut = |at: u64| (0..=at as usize).rev().find(|at| piece.is_char_boundary(*at)).unwrap_or(0);
                let (from, to) = (cut(random.below(20)), cut(random.below(piece.len() as u64 + 1)));
                text += if random.below(2) == 0 { piece } else { piece.get(from..to).unwrap_or_default() };
                text.extend(char::from_u32(random.below(0x300) as u32));
                text += if random.below(4) == 0 { " " } else { "\n" };
            }
            let found = faults(&text);
            for fault in found.kept {
                assert!(fault.entries.len() <= 5 && fault.names.len() <= 256, "{fault:?}");
                let _ = (fault.kind(), fault.missing(), fault.translated(), fault.denying(), fault.contradictions());
            }
        }
    }

    #[test]
    fn a_log_of_faults_alone_keeps_the_first_ones() {
        let text = format!("{}\n", PIECES[0]).repeat(1000);
        let found = faults(&text);
        assert_eq!((found.kept.len(), found.omitted), (MAX_FAULTS, 1000 - MAX_FAULTS));
        assert_eq!(found.kept[63].line, 64);
    }

    /// Linux 4.9 has PGD, PUD, PMD and PTE on lines of their own; with P4D only CR4.LA57 says how many levels there are.
    #[test]
    fn levels_are_those_of_the_tables() {
        let levels = |text: &str| {
            let found = faults(&format!("{}\n{text}\n", PIECES[0]));
            found.kept[0].entries.iter().map(|entry| (entry.level, entry.value)).collect::<Vec<_>>()
        };
        let four = [(Level::Pml4e, 1), (Level::Pdpte, 2), (Level::Pde, 3), (Level::Pte, 4)];
        assert_eq!(levels("PGD 1 \nPUD 2 \nPMD 3 \nPTE 4"), four);
        assert_eq!(levels("PGD 1 P4D 1 PUD 2 PMD 3 PTE 4"), four);
        assert_eq!(levels("PGD 0 P4D 0"), [(Level::Pml4e, 0)]);
        let five = [(Level::Pml5e, 1), (Level::Pml4e, 7), (Level::Pdpte, 0)];
        assert_eq!(levels("PGD 1 P4D 7 PUD 0"), five);
        assert_eq!(
            levels("PGD 1 P4D 1 PUD 2\nCR4: 0000000000771ef0"),
            [(Level::Pml5e, 1), (Level::Pml4e, 1), (Level::Pdpte, 2)]
        );
    }

    /// Heads and codes as kernels of different years print them (arch/x86/mm/fault.c, arch/x86/kernel/head64.c).
    #[test]
    fn every_spelling_of_linux_is_read() {
        for (text, address, code, rip) in [
            (
                "Unable to handle kernel paging request at ffff810012345678 RIP:\nOops: 0002 [1] SMP",
                Some(0xffff_8100_1234_5678),
                Some(2),
                None,
            ),
            (
                "BUG: unable to handle kernel paging request at ffffc90000000000\nIP: [<ffffffff81000010>] f+0x1/0x2\nOops: 0000 [#1] SMP",
                Some(0xffff_c900_0000_0000),
                Some(0),
                Some(0xffff_ffff_8100_0010),
            ),
            (
                "BUG: unable to handle kernel NULL pointer dereference at (null)\nOops: 0010 [#1]",
                Some(0),
                Some(0x10),
                None,
            ),
            (
                "BUG: unable to handle kernel NULL pointer dereference at 0000000000000008\nOops: 0000 [#1]",
                Some(8),
                Some(0),
                None,
            ),
            (
                "BUG: kernel NULL pointer dereference, address: 0000000000000010\n#PF: error_code(0x0002) - not-present page",
                Some(0x10),
                Some(2),
                None,
            ),
            (
                "BUG: unable to handle page fault for address: ffffb1edc0068000\nOops: Oops: 0000 [#1] SMP",
                Some(0xffff_b1ed_c006_8000),
                Some(0),
                None,
            ),
            ("[Firmware Bug]: Page fault caused by firmware at PA: 0x6792e7f0", Some(0x6792_e7f0), None, None),
            (
                "PANIC: early exception 0x0e IP 10:ffffffff8b0a1d3c error 2 cr2 0xffffffffff281000",
                Some(0xffff_ffff_ff28_1000),
                Some(2),
                Some(0xffff_ffff_8b0a_1d3c),
            ),
            (
                "PANIC: early exception 0e rip 10:ffffffff8b0a1d3c error 9 cr2 ffffffffff281000",
                Some(0xffff_ffff_ff28_1000),
                Some(9),
                Some(0xffff_ffff_8b0a_1d3c),
            ),
            (
                "Oops: 0011 [#1] SMP\nRIP: 0010:0x1094f0\nCR2: 00000000001094f0 CR3: 1",
                Some(0x10_94f0),
                Some(0x11),
                Some(0x10_94f0),
            ),
        ] {
            let found = faults(text);
            let [fault] = found.kept.as_slice() else { panic!("{text}: {found:?}") };
            assert_eq!((fault.address, fault.code.map(|code| code.0), fault.rip), (address, code, rip), "{text}");
        }
        for none in [
            "PANIC: early exception 0x0d IP 10:ffffffff8b0a1d3c error 0 cr2 0x0",
            "Oops: general protection fault, probably for non-canonical address 0xdead000000000000: 0000 [#1] SMP",
        ] {
            assert!(faults(none).kept.is_empty(), "{none}");
        }
    }

    #[test]
    fn only_sound_frames_of_a_trace_count() {
        let text = "BUG: unable to handle page fault for address: 0000000000001234\nCall Trace:\n ? efi_call+0x1/0x2\n do_x+0x3/0x4\n";
        assert_eq!(faults(text).kept[0].names, ["do_x"]);
    }
}
