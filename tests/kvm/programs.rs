//! Mapping code in C, in ELF files: right, wrong and hostile. The files are compiled with this test, and are inside it.

use std::time::Duration;

use efibed::check::{Phase, Rule};
use efibed::{EngineError, EngineName, Report, Scenario};
use efibed_tests::{Need, bed, first_message, rules, small_map, trial};
use libtest_mimic::Trial;

/// `PROGRAMS`: name and file of each, in the order of `ATTACKS`.
mod compiled {
    include!(concat!(env!("OUT_DIR"), "/programs.rs"));
}

pub fn trials() -> Vec<Trial> {
    vec![
        trial("programs_are_judged_by_what_they_do", Need::Kvm, programs_are_judged_by_what_they_do),
        trial("a_program_that_gives_up_says_why", Need::Kvm, a_program_that_gives_up_says_why),
        trial("the_bug_of_2013_in_c_is_found", Need::Kvm, the_bug_of_2013_in_c_is_found),
        trial("an_exception_is_told_with_its_line", Need::Kvm, an_exception_is_told_with_its_line),
        trial("what_is_no_program_is_an_error", Need::Kvm, what_is_no_program_is_an_error),
    ]
}

/// What must be found, one of these at least; nothing: the program is right.
fn expected(name: &str) -> &'static [Rule] {
    match name {
        "NOTHING" | "CHANGE_THE_REQUEST" | "WHAT_IS_ALLOWED" => &[],
        "WRITE_NULL"
        | "WRITE_CONSTANT"
        | "WRITE_CODE"
        | "CALL_DATA"
        | "CALL_NULL"
        | "WRITE_KERNEL"
        | "WRITE_KERNEL_TABLES"
        | "WRITE_ATTRIBUTES_TABLE"
        | "READ_FIRMWARE" => &[Rule::StrayAccess],
        "HALT" | "PORT" | "SET_CR3" | "SYSTEM_CALL" | "HALT_IN_FINISH" => &[Rule::PrivilegedInstruction],
        "UNDEFINED" | "DIVIDE" | "UNALIGNED" | "NOT_CANONICAL" => &[Rule::MapperFault],
        "LOOP" => &[Rule::Watchdog],
        "RECURSE" => &[Rule::StackOverflow],
        "GIVE_UP" | "GIVE_UP_IN_FINISH" | "ROOT_NO_TABLE" | "MANY_DESCRIPTORS" | "MANY_PAGES" | "LONG_LOG" => {
            &[Rule::MapperError]
        }
        "ROOT_NOWHERE" => &[Rule::MapperError],
        "ROOT_OF_KERNEL" | "UNMAP_IN_FINISH" => &[Rule::NotPresent],
        "NO_DESCRIPTORS" => &[Rule::NotMapped],
        "BEHIND_THE_MAP" | "UNUSED_PAGE" | "CHANGE_A_DESCRIPTOR" => &[Rule::StrayWrite],
        // What it takes for a table is a leaf that it has put there.
        "USE_A_PAGE_TWICE" => &[Rule::StrayAccess],
        "BY_VIRTUAL_ALIGNMENT" => &[Rule::ReservedBit],
        _ => panic!("nobody knows what {name} must come to"),
    }
}

/// So much data that a leaf of 2 MiB fits.
fn scenario() -> Scenario {
    Scenario::new(small_map(0x442)).stretch_limit(Duration::from_secs(2))
}

fn run(name: &str) -> Report {
    let (_, elf) = compiled::PROGRAMS.iter().find(|(known, _)| *known == name).unwrap();
    bed().run(&scenario().mapper_elf(elf)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn programs_are_judged_by_what_they_do() {
    let mut wrong = Vec::new();
    for (name, _) in compiled::PROGRAMS {
        let report = run(name);
        let rules = rules(&report);
        efibed_tests::tell!("{name}: {}", first_message(&report));
        let is_right = match expected(name) {
            [] => report.is_clean(),
            any => !report.is_clean() && any.iter().any(|rule| rules.contains(rule)),
        };
        if !is_right {
            wrong.push(format!("{name}: {rules:?}, {}", first_message(&report)));
        }
        // And nothing of it is left.
        run("NOTHING").assert_clean();
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn a_program_that_gives_up_says_why() {
    let report = run("GIVE_UP");
    assert!(first_message(&report).ends_with("no room for 0x000000007e729000"), "{}", first_message(&report));
    let report = run("GIVE_UP_IN_FINISH");
    assert_eq!(report.findings[0].phase, Phase::Finish);
    let report = run("WHAT_IS_ALLOWED");
    assert!(report.notes.iter().any(|note| note.ends_with("logged: allowed")), "{:?}", report.notes);
}

/// The entry has the address bits 20:13 of the region.
fn the_bug_of_2013_in_c_is_found() {
    let report = run("BY_VIRTUAL_ALIGNMENT");
    let finding = report.findings.iter().find(|finding| finding.rule == Rule::ReservedBit).unwrap();
    let leaf = finding.walk.last().unwrap();
    // RSVD. Some KVMs leave P out.
    let code = finding.error_code().unwrap().0 & !1;
    assert_eq!((code, leaf.entry & !0x60, leaf.reserved), (0x8, 0x7e72_9083, 0x12_8000));
}

fn an_exception_is_told_with_its_line() {
    let report = run("HALT");
    let message = first_message(&report);
    assert!(message.contains("`hlt`") && message.contains("attack at ") && message.contains("hostile.c:"), "{message}");
    for name in ["LOOP", "SYSTEM_CALL", "DIVIDE"] {
        let report = run(name);
        assert!(first_message(&report).contains("attack at programs/hostile.c:"), "{name}: {}", first_message(&report));
    }
}

fn what_is_no_program_is_an_error() {
    let run = |scenario: Scenario| bed().run(&scenario);
    assert!(matches!(run(scenario().mapper_elf(b"#!/bin/sh")), Err(EngineError::Program(_))));
    let (_, elf) = compiled::PROGRAMS[0];
    let natively = scenario().mapper_elf(elf).engine(EngineName::Walker);
    assert!(matches!(run(natively), Err(EngineError::Unable { .. })));
}
