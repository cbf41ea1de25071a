//! Whole texts, as they stand on a terminal.

use super::*;
use crate::check::{Rule, SkipKind, Statement};
use crate::report::samples;
use crate::report::style::WIDTH;

fn plain(report: &Report) -> String {
    Text::plain(report).to_string()
}

fn first_line(report: &Report) -> String {
    plain(report).lines().next().unwrap_or_default().to_string()
}

#[test]
fn a_clean_report() {
    assert_eq!(
        plain(&samples::clean()),
        "\
clean: 2 regions, 2096 pages, each reached by the guest's MMU

  map      maps/ovmf.txt, 4 descriptors
  mapper   layout window, leaf rule co-aligned
  engine   kvm
  cpu      MAXPHYADDR 46, 4-level, no 1 GiB pages, NX, WP, SMEP
  checks   1 GiB pages, reserved-bit faults have no P; the rest as told

  #  type                 virtual                                physical    pages  leaves
  1  RuntimeServicesData  0xfffffffefe000000-0xfffffffefe81ffff  0x7e000000   2080  4x2M 32x4K  ok
                          also at 0x7e000000
  2  RuntimeServicesCode  0xfffffffefe900000-0xfffffffefe90ffff  0x7e900000     16  16x4K       ok
  2 other descriptors need no mapping, and have none

calls
  map     EFI_SUCCESS on the mapper's tables, RIP 0x7e900010, CR3 0x123000
          SetVirtualAddressMap

not asked
  1  fetches from pages that can be executed: no memory is behind them

odd, but not wrong
  - descriptor 3 has no cacheability bits

2200 accesses, 104 faulted, as they must; 2096 pages verified; 9.1 ms (build 3.1, map 0.1, probe
  5.0, check 0.9)"
    );
}

#[test]
fn a_reserved_bit_in_a_pde() {
    assert_eq!(
        plain(&samples::reserved_bit()),
        "\
1 finding: reserved-bit

  map      maps/ovmf.txt, 4 descriptors
  mapper   layout packed-down, leaf rule va-only
  engine   kvm
  cpu      MAXPHYADDR 46, 4-level, 1 GiB pages, NX, WP

  #  type                 virtual                                physical    pages  leaves
  1  RuntimeServicesData  0xffffffff00000000-0xffffffff0081ffff  0x7e107000   2080  4x2M 32x4K  wrong
  2  RuntimeServicesCode  0xfffffffefe900000-0xfffffffefe90ffff  0x7e900000     16  16x4K       ok
  2 other descriptors need no mapping, and have none

1. reserved-bit (error, phase map)
   region 1 (RuntimeServicesData at 0x7e107000): 512 pages from VA 0xffffffff00000000 fault: a
   reserved bit is set on the way
   expected   PA 0x7e107000
   found      #PF 0x9 (P RSVD): a supervisor read met a reserved bit in a table entry
   witnesses  the guest's MMU, the software walk
   walk       of VA 0xffffffff00000000
     PML4E  0x0000000000123ff8  0x0000000000124063  P W A            table at 0x124000
     PDPTE  0x0000000000124fe0  0x0000000000125063  P W A            table at 0x125000
     PDE    0x0000000000125000  0x000000007e1070e3  P W A D PS PAT   reserved bits are set
            31:0  0111 1110 0001 0000 0111 0000 1110 0011
                               ^       ^^
            bits 20, 14:13 are set: bits 20:13 of a PDE that maps a 2 MiB page must be 0
              (SDM 3A 4.5.4, table 4-18)

unexpected faults (one of each kind in a region; 511 more)
  supervisor write at 0xffffffff00000000, region 1: #PF 0xb (P W RSVD)
    CR2 0xffffffff00000000, RIP 0xffffffff80001234: mov %rax,(%rax)
  0xb says: a supervisor write met a reserved bit in a table entry
    P     1  something is mapped: a right was missing, or a reserved bit set
    W     1  the access was a write
    U     0  it was made in supervisor mode, or by the CPU itself
    RSVD  1  a reserved bit is set in a table entry on the way
    I     0  no instruction fetch, or neither EFER.NXE nor CR4.SMEP is set

calls
  map     EFI_SUCCESS on the mapper's tables, RIP 0x7e900010, CR3 0x123000
          SetVirtualAddressMap

2200 accesses, 620 faulted, 104 of them as they must; 1584 pages verified; 9.1 ms (build 3.1, map
  0.1, probe 5.0, check 0.9)"
    );
}

#[test]
fn a_finding_without_pages() {
    assert_eq!(
        plain(&samples::kernel_overlap()),
        "\
1 finding: kernel-overlap

  map      maps/ovmf.txt, 2 descriptors
  mapper   layout packed-up, leaf rule 4k
  engine   kvm
  cpu      MAXPHYADDR 46, 4-level, no 1 GiB pages, NX, WP, SMEP

  #  type                 virtual                                physical    pages  leaves
  2  RuntimeServicesCode  0xfffffffefe900000-0xfffffffefe90ffff  0x7e900000     16  16x4K   wrong
  1 other descriptor needs no mapping, and has none

1. kernel-overlap (error, phase map)
   region 2 (RuntimeServicesCode at 0x7e900000): the kernel's text is not mapped as it was
   witnesses  the software walk

calls
  map     not called: the walk finds its pages wrong
          SetVirtualAddressMap

0 accesses, 0 faulted; 0 pages verified; 9.1 ms (build 3.1, map 0.1, probe 5.0, check 0.9)"
    );
}

#[test]
fn calls_that_went_alike_share_an_entry() {
    let mut report = samples::clean();
    let first = report.calls[0].clone();
    let call = |service, rip| crate::report::CallReport { service, rip: Some(rip), ..first.clone() };
    let unsupported = Some(3 | 1 << 63);
    let refused = |service, rip| crate::report::CallReport { status: unsupported, ..call(service, rip) };
    let rightly = crate::report::CallReport { expected: unsupported, ..refused("ConvertPointer", 0x7e90_0060) };
    let reason = Some("firmware reset the machine, which ends the run".into());
    let reset = crate::report::CallReport { status: None, expected: None, reason, ..call("ResetSystem", 0x7e90_00b0) };
    let hung = crate::report::CallReport { status: None, ..call("GetVariable", 0x7e90_0070) };
    let wrongly = refused("GetWakeupTime", 0x7e90_0030);
    report.calls = vec![call("GetTime", 0x7e90_0010), call("SetTime", 0x7e90_0020), wrongly, rightly, hung, reset];
    let text = plain(&report);
    let expected = "\
calls
  map     EFI_SUCCESS on the mapper's tables, in the page at 0x7e900000, CR3 0x123000
          GetTime, SetTime
  map     EFI_UNSUPPORTED on the mapper's tables, RIP 0x7e900030, CR3 0x123000
          GetWakeupTime
  map     EFI_UNSUPPORTED, as it must, on the mapper's tables, RIP 0x7e900060, CR3 0x123000
          ConvertPointer
  map     did not return on the mapper's tables, RIP 0x7e900070, CR3 0x123000
          GetVariable
  map     did not return, as it must not, on the mapper's tables, RIP 0x7e9000b0, CR3 0x123000:
          firmware reset the machine, which ends the run
          ResetSystem
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_walker_says_that_no_mmu_was_asked() {
    let mut report = samples::walker();
    let text = plain(&report);
    assert!(
        text.starts_with(
            "clean: 2 regions, 2096 pages, by the software walk alone: no MMU was asked, and no service called\n"
        ),
        "{text}"
    );
    assert!(text.contains("  engine   walker (the mapping code ran natively)\n"), "{text}");
    assert!(text.contains("\nno access was made in a guest; 9.1 ms"), "{text}");
    report.findings = samples::reserved_bit().findings;
    assert_eq!(first_line(&report), "1 finding: reserved-bit (by the software walk alone: no MMU was asked)");
}

#[test]
fn the_verdict_does_not_boast() {
    let mut report = samples::clean();
    report.probes.pages_verified = 96;
    assert_eq!(
        first_line(&report),
        "clean: 2 regions, 2096 pages; the guest's MMU reached 96 of them, the software walk all"
    );
    report.regions.truncate(1);
    assert_eq!(first_line(&report), "clean: the map has no region that must be mapped");
}

fn headline(report: &Report) -> String {
    plain(report).split("\n\n").next().unwrap_or_default().replace('\n', " ")
}

#[test]
fn a_clean_headline_says_what_was_sampled_and_that_nothing_was_called() {
    let mut report = samples::clean();
    report.skipped[0].kind = SkipKind::Sample;
    report.uncalled = Some("the map has no RuntimeServicesCode region".into());
    assert_eq!(
        headline(&report),
        "clean: 2 regions, 2096 pages, each reached by the guest's MMU; only sampled: 1 fetches from pages \
         that can be executed; no runtime service was called: the map has no RuntimeServicesCode region"
    );
}

#[test]
fn what_was_not_done_is_named_in_the_headline() {
    let mut report = samples::clean();
    report.skipped.push(Skipped::not_done("firmware that misbehaves: seam@GetTime", "no RUNTIME region follows"));
    let expected = "incomplete: not done: firmware that misbehaves: seam@GetTime (no RUNTIME region follows)";
    assert_eq!(headline(&report), expected);
    report.skipped.extend((0..17).map(|index| Skipped::not_done(format!("call {index}"), "why")));
    let more: Vec<_> = (0..15).map(|index| format!("call {index}")).collect();
    assert_eq!(headline(&report), format!("{expected}; {} (why); and 2 more", more.join(", ")));
}

#[test]
fn the_headline_says_whether_just_what_was_expected_was_found() {
    let mut report = samples::clean();
    report.expected_rules = Some(vec![]);
    assert!(headline(&report).starts_with("clean, as expected: 2 regions"), "{}", headline(&report));
    report.expected_rules = Some(vec![Rule::FirmwareFault]);
    assert_eq!(headline(&report), "not as expected: missing firmware-fault");

    let mut report = samples::reserved_bit();
    report.expected_rules = Some(vec![Rule::ReservedBit]);
    assert_eq!(headline(&report), "as expected: reserved-bit 1 finding: reserved-bit");
    report.expected_rules = Some(vec![Rule::WrongFrame]);
    assert_eq!(
        headline(&report),
        "not as expected: missing wrong-frame; found besides reserved-bit 1 finding: reserved-bit"
    );
    report.expected_rules = Some(vec![]);
    assert_eq!(headline(&report), "not as expected: found besides reserved-bit 1 finding: reserved-bit");
}

#[test]
fn a_remedy_stands_by_itself_and_shown_findings_are_numbered_without_gaps() {
    let mut report = samples::reserved_bit();
    report.findings[0].remedy = Some("a smaller leaf".into());
    report.findings[0].walk.clear();
    let overlap = samples::kernel_overlap().findings;
    // The fifth alike is hidden.
    report.findings = [vec![report.findings[0].clone(); 5], overlap].concat();
    let text = plain(&report);
    assert!(
        text.contains(
            "   found      #PF 0x9 (P RSVD): a supervisor read met a reserved bit in a table entry\n   \
             remedy     a smaller leaf\n   witnesses  the guest's MMU"
        ),
        "{text}"
    );
    let titles: Vec<_> = text.lines().filter(|line| line.contains(" (error, phase ")).collect();
    assert_eq!(titles[3..], ["4. reserved-bit (error, phase map)", "5. kernel-overlap (error, phase map)"]);
}

#[test]
fn findings_are_tallied_by_rule() {
    let mut report = samples::reserved_bit();
    let more = [samples::kernel_overlap().findings, report.findings.clone()].concat();
    report.findings.extend(more);
    report.findings_omitted = 7;
    assert_eq!(first_line(&report), "3 findings, and 7 left out: kernel-overlap (1), reserved-bit (2)");
}

#[test]
fn a_long_map_takes_few_lines() {
    let text = plain(&samples::many_regions());
    assert!(text.contains("\n  ... and 82 more, all ok\n"), "{text}");
    assert!(text.lines().count() < 40, "{text}");
}

#[test]
fn lines_keep_to_the_width() {
    let reports = [samples::clean(), samples::kernel_overlap(), samples::walker(), samples::many_regions()];
    for text in reports.iter().map(plain) {
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line.trim_end() == line), "{text}");
    }
}

#[test]
fn colour_is_all_that_colour_adds() {
    for report in [samples::clean(), samples::reserved_bit(), samples::kernel_overlap()] {
        let mut coloured = Text::coloured(&report).to_string();
        assert!(coloured.contains('\x1b'));
        for sequence in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[1;31m"] {
            coloured = coloured.replace(sequence, "");
        }
        assert_eq!(coloured, plain(&report));
    }
}

#[test]
fn nobody_drives_the_terminal() {
    let odd = "evil\x1b[2J\nname\u{202e}\r\x07\u{9b}";
    let mut report = samples::reserved_bit();
    report.source = odd.into();
    report.notes = vec![odd.into()];
    report.skipped = samples::clean().skipped;
    report.skipped[0].what = odd.into();
    report.skipped[0].reason = odd.into();
    report.faults[0].instruction = Some(odd.into());
    report.findings[0].message = odd.into();
    report.findings[0].expected = Some(Statement::Text(odd.into()));
    report.findings[0].observed = Some(Statement::Text(odd.into()));
    let text = plain(&report);
    assert!(!text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
    assert_eq!(text.matches("evil\\u{1b}[2J\\nname\\u{202e}\\r\\u{7}\\u{9b}").count(), 8, "{text}");
}

#[test]
fn a_status_has_its_name() {
    assert_eq!(status_name(1 << 63 | 2), "EFI_INVALID_PARAMETER");
    assert_eq!(status_name(0x1234), "status 0x1234");
}
