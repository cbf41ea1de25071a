//! The command as its users run it: exit status, standard output, standard error.

#[path = "../build/commit.rs"]
mod commit;
mod said;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

use said::{Directory, Said, any, efibed, efibed_in, efibed_reading, kvm, largest_child_bytes, repository};

const CLEAN: i32 = 0;
const FINDINGS: i32 = 1;
const BAD_INPUT: i32 = 2;
const UNABLE: i32 = 3;
const INTERNAL: i32 = 4;

fn main() {
    let trials = vec![
        kvm("the_map_of_2013_is_clean_under_window", the_map_of_2013_is_clean_under_window),
        any("the_walker_verifies_nothing_and_says_so", the_walker_verifies_nothing_and_says_so),
        kvm("the_bug_of_2013_is_found_with_its_bits", the_bug_of_2013_is_found_with_its_bits),
        any("what_is_no_map_is_bad_input", what_is_no_map_is_bad_input),
        any("fields_that_cannot_exist_are_bad_input", fields_that_cannot_exist_are_bad_input),
        any("maps_that_make_no_sense_are_findings_walker", || maps_that_make_no_sense_are_findings("walker")),
        kvm("maps_that_make_no_sense_are_findings_kvm", || maps_that_make_no_sense_are_findings("kvm")),
        any("odd_maps_are_notes_walker", || odd_maps_are_notes("walker")),
        kvm("odd_maps_are_notes_kvm", || odd_maps_are_notes("kvm")),
        kvm("real_x86_maps_are_verified_in_full_under_linux", real_x86_maps_are_verified_in_full_under_linux),
        any("the_demonstration_shows_the_bug_of_2013", the_demonstration_shows_the_bug_of_2013),
        kvm("the_demonstration_runs_in_a_guest_where_it_can", the_demonstration_runs_in_a_guest_where_it_can),
        any("maps_are_shown", maps_are_shown),
        any("a_second_kernel_is_checked_against_the_first", a_second_kernel_is_checked_against_the_first),
        any("a_finding_is_shrunk_to_a_region_and_replays", a_finding_is_shrunk_to_a_region_and_replays),
        any("shrinking_ends_with_its_time", shrinking_ends_with_its_time),
        any("what_has_no_finding_is_not_shrunk", what_has_no_finding_is_not_shrunk),
        kvm("a_program_is_shrunk_in_the_guest", a_program_is_shrunk_in_the_guest),
        kvm("two_bugs_of_a_program_are_two_findings", two_bugs_of_a_program_are_two_findings),
        any("real_maps_are_clean_under_window", real_maps_are_clean_under_window),
        any("a_full_window_of_4k_leaves_takes_little_memory", a_full_window_of_4k_leaves_takes_little_memory),
        any("standard_input_is_a_map", standard_input_is_a_map),
        any("too_much_standard_input_is_bad_input", too_much_standard_input_is_bad_input),
        any("maps_are_converted_and_back", maps_are_converted_and_back),
        any("utf16_is_read_from_a_file_and_from_standard_input", utf16_is_read_from_a_file_and_from_standard_input),
        any("what_a_format_cannot_hold_is_refused", what_a_format_cannot_hold_is_refused),
        any("the_list_to_convert_is_chosen", the_list_to_convert_is_chosen),
        any("binary_descriptors_need_their_size", binary_descriptors_need_their_size),
        any("a_converted_file_is_whole_or_not_there", a_converted_file_is_whole_or_not_there),
        any("what_cannot_be_read_is_skipped_if_asked", what_cannot_be_read_is_skipped_if_asked),
        any("usage_errors_are_told", usage_errors_are_told),
        any("help_is_no_error", help_is_no_error),
        any("the_version_has_the_commit_of_a_checkout", the_version_has_the_commit_of_a_checkout),
        git("the_commit_is_that_of_the_checkout_and_is_watched", the_commit_is_that_of_the_checkout_and_is_watched),
        any("the_schema_of_scenarios_is_printed", the_schema_of_scenarios_is_printed),
        any("every_shell_has_a_script", every_shell_has_a_script),
        bash("bash_completes_what_there_is", bash_completes_what_there_is),
        any("every_command_has_a_manual_page", every_command_has_a_manual_page),
        kvm("examples_of_seeing_run_as_help_and_manual_have_them", examples_of_seeing_run_as_help_and_manual_have_them),
        kvm("scenarios_end_as_they_expect", scenarios_end_as_they_expect),
        kvm("firmware_misbehaves_at_a_flag", firmware_misbehaves_at_a_flag),
        any("a_json_file_is_whole_and_alone", a_json_file_is_whole_and_alone),
        any("a_json_file_that_cannot_be_written_is_an_error", a_json_file_that_cannot_be_written_is_an_error),
        any("a_file_that_fails_in_the_end_loses_no_report", a_file_that_fails_in_the_end_loses_no_report),
        any("junit_has_a_case_for_each_region", junit_has_a_case_for_each_region),
        any("sarif_has_each_finding_in_its_file", sarif_has_each_finding_in_its_file),
        any("what_changed_from_map_to_map_is_told", what_changed_from_map_to_map_is_told),
        any("tables_are_shown_run_by_run", tables_are_shown_run_by_run),
        any("several_maps_have_a_line_each_and_one_verdict", several_maps_have_a_line_each_and_one_verdict),
        any(
            "a_file_that_is_no_map_keeps_a_folder_from_being_clean",
            a_file_that_is_no_map_keeps_a_folder_from_being_clean,
        ),
        kvm("several_maps_in_guests_are_as_each_alone", several_maps_in_guests_are_as_each_alone),
        kvm("the_matrix_and_a_campaign_have_junit_and_sarif_too", the_matrix_and_a_campaign_have_junit_and_sarif_too),
        any("a_limit_that_is_none_is_a_usage_error", a_limit_that_is_none_is_a_usage_error),
        compiler("sources_are_built", sources_are_built),
        compiler("a_build_is_the_same_in_any_folder", a_build_is_the_same_in_any_folder),
        kvm("a_program_counts_what_it_runs", || a_program_counts_what_it_runs("cc")),
        kvm("a_program_of_clangs_counts_what_it_runs", || a_program_counts_what_it_runs("clang"))
            .with_kind("clang")
            .with_ignored_flag(!is_there("clang")),
        kvm("a_mapper_of_ones_own_is_checked", a_mapper_of_ones_own_is_checked),
        kvm("a_scenario_names_a_mapper_of_ones_own", a_scenario_names_a_mapper_of_ones_own),
        kvm("a_mapper_of_ones_own_is_started_twice", a_mapper_of_ones_own_is_started_twice),
        any("where_no_guest_runs_a_mapper_of_ones_own_is_refused", where_no_guest_runs_a_mapper_of_ones_own_is_refused),
        compiler("sources_that_make_no_mapper_are_bad_input", sources_that_make_no_mapper_are_bad_input),
        any("a_compiler_that_is_not_there_is_asked_for", a_compiler_that_is_not_there_is_asked_for),
        kvm("the_matrix_is_told_to_programs", the_matrix_is_told_to_programs),
        kvm("a_combination_is_shown_with_its_tables", a_combination_is_shown_with_its_tables),
        kvm("what_is_no_combination_is_bad_input", what_is_no_combination_is_bad_input),
        kvm("doctor_tells_what_it_tried", doctor_tells_what_it_tried),
        kvm("what_the_machine_has_not_is_refused", what_the_machine_has_not_is_refused),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A test that is ignored, by name, without the compiler `cc`.
fn compiler(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    any(name, run).with_kind("cc").with_ignored_flag(!is_there("cc"))
}

/// A test that is ignored, by name, without the shell `bash`.
fn bash(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    any(name, run).with_kind("bash").with_ignored_flag(!is_there("bash"))
}

/// A test that is ignored, by name, without `git`.
fn git(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    any(name, run).with_kind("git").with_ignored_flag(!is_there("git"))
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn ovmf_2013() -> String {
    repository("maps/ovmf-2013.toml")
}

/// `efibed check MAP`, and further arguments.
fn check(map: &str, arguments: &[&str]) -> Said {
    // How long a run takes, and so whether anything is said of it meanwhile, is no matter of tests.
    efibed(["check", map, "--quiet"].iter().chain(arguments))
}

/// The same with `--json -`, the document and the text it was read from.
fn check_json(map: &str, arguments: &[&str]) -> (Value, Said) {
    let said = check(map, &[arguments, &["--json", "-"]].concat());
    (said.json(), said)
}

fn hex(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value}"));
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or_else(|| panic!("{text}")), 16).unwrap()
}

/// The rules that were found broken.
fn rules(document: &Value) -> Vec<&str> {
    document["findings"].as_array().unwrap().iter().map(|finding| finding["rule"].as_str().unwrap()).collect()
}

/// The table of "Re: [PATCH -v2] EFI: Runtime services virtual mapping", 2 October 2013: virtual start and end, physical
/// start and end.
const TABLE_OF_2013: [(u64, u64, u64, u64); 5] = [
    (0xffff_fffe_8080_0000, 0xffff_fffe_8100_0000, 0x0080_0000, 0x0100_0000),
    (0xffff_fffe_fc00_0000, 0xffff_fffe_fc02_0000, 0x7c00_0000, 0x7c02_0000),
    (0xffff_fffe_fdc5_b000, 0xffff_fffe_fe14_6000, 0x7dc5_b000, 0x7e14_6000),
    (0xffff_fffe_ffa6_5000, 0xffff_fffe_fffe_0000, 0x7fa6_5000, 0x7ffe_0000),
    (0xffff_fffe_fffe_0000, 0xffff_ffff_0000_0000, 0x7ffe_0000, 0x8000_0000),
];
const PAGES_OF_2013: u64 = 4774;

fn assert_table_of_2013(document: &Value) {
    let regions = document["regions"].as_array().unwrap();
    assert_eq!(regions.len(), TABLE_OF_2013.len());
    for (region, (virt, virt_end, phys, phys_end)) in regions.iter().zip(TABLE_OF_2013) {
        let bytes = region["pages"].as_u64().unwrap() * 4096;
        assert_eq!((hex(&region["virt"]), hex(&region["virt"]) + bytes), (virt, virt_end), "{region}");
        assert_eq!((hex(&region["phys"]), hex(&region["phys"]) + bytes), (phys, phys_end), "{region}");
        assert_eq!(region["verdict"], "ok");
    }
    let pages: u64 = regions.iter().map(|region| region["pages"].as_u64().unwrap()).sum();
    assert_eq!(pages, PAGES_OF_2013);
    assert_eq!((&document["schema"], &document["verdict"]), (&1.into(), &"clean".into()));
    assert_eq!(document["mapper"], serde_json::json!({ "layout": "window", "leaf_rule": "co-aligned" }));
    assert_eq!(document["findings"], serde_json::json!([]));
    assert_eq!(document["faults"], serde_json::json!([]));
}

fn the_map_of_2013_is_clean_under_window() {
    let (document, said) = check_json(&ovmf_2013(), &["--layout", "window"]);
    said.ends(CLEAN).without_errors();
    assert_table_of_2013(&document);
    assert_eq!(document["engine"], "kvm");
    assert_eq!(document["probes"]["pages_verified"], PAGES_OF_2013);
    assert_eq!(document["skipped"], serde_json::json!([]));
    let calls = document["calls"].as_array().unwrap();
    let of = |phase: &str| calls.iter().filter(|call| call["phase"] == phase).collect::<Vec<_>>();
    let (before, after) = (of("map"), of("finish"));
    assert_eq!((before.len(), after.len()), (14, 14));
    for call in before {
        let expected = match call["service"].as_str().unwrap() {
            "ConvertPointer" => 0x8000_0000_0000_0003,
            "ResetSystem" => 0x8000_0000_0000_0002, // there is no such ResetType
            _ => 0,
        };
        assert_eq!((hex(&call["status"]), &call["tables"]), (expected, &"boot".into()), "{call}");
    }
    for call in after {
        match call["service"].as_str().unwrap() {
            "ConvertPointer" | "SetVirtualAddressMap" => assert_eq!(call["status"], "not-called", "{call}"),
            "ResetSystem" => assert_eq!(call["status"], "not-returned", "{call}"),
            _ => assert_eq!(hex(&call["status"]), 0, "{call}"),
        }
    }

    let text = check(&ovmf_2013(), &["--layout", "window"]).ends(CLEAN).without_errors();
    let text = text.says(&["clean: 5 regions, 4774 pages, each reached by the guest's MMU", "4774 pages verified"]);
    for (virt, virt_end, phys, _) in TABLE_OF_2013 {
        text.has(&text.out, &[&format!("{virt:#x}-{:#x} {phys:#x}", virt_end - 1)]);
    }
}

fn the_walker_verifies_nothing_and_says_so() {
    let (document, said) = check_json(&ovmf_2013(), &["--layout", "window", "--engine", "walker"]);
    said.ends(CLEAN).without_errors();
    assert_table_of_2013(&document);
    assert_eq!(document["engine"], "walker");
    for count in ["total", "translated", "faulted", "pages_verified"] {
        assert_eq!(document["probes"][count], 0, "{count}");
    }
    assert_eq!(document["calls"], serde_json::json!([]));
    let text = check(&ovmf_2013(), &["--layout", "window", "--engine", "walker"]).ends(CLEAN);
    let text = text.says(&["no MMU was asked", "no access was made in a guest"]).without_errors();
    assert!(!text.out.contains("verified"), "{text}");
}

/// Bits 20:13 of a PDE that maps 2 MiB (SDM vol. 3A, table 4-18).
const RESERVED_IN_A_2M_LEAF: u64 = 0x1f_e000;

fn the_bug_of_2013_is_found_with_its_bits() {
    let arguments = ["--layout", "packed-down", "--leaf-rule", "va-only"];
    let (document, said) = check_json(&ovmf_2013(), &arguments);
    said.ends(FINDINGS).without_errors();
    assert_eq!(document["verdict"], "findings");
    // One below another from -4 GiB: 0xffffffff00000000 - (0x800 + 0x20 + 0x4eb) pages = 0xfffffffeff2f5000, then
    // - 0x57b pages = 0xfffffffefed7a000. Whole 2 MiB in those: one at 0xfffffffeff400000, and 0xfffffffefee00000
    // with the one after it. What lies there is as far from the region's start in physical memory.
    let expected = [
        (2, 0xffff_fffe_ff40_0000, 512, 0x7dc5_b000 + 0x10_b000),
        (3, 0xffff_fffe_fee0_0000, 1024, 0x7fa6_5000 + 0x8_6000),
    ];
    let findings = document["findings"].as_array().unwrap();
    assert_eq!(rules(&document), ["reserved-bit"; 2]);
    for (finding, (region, virt, pages, pa)) in findings.iter().zip(expected) {
        assert_eq!((&finding["region"], hex(&finding["virt"])), (&region.into(), virt));
        assert_eq!((&finding["severity"], &finding["pages"]), (&"error".into(), &pages.into()));
        assert_eq!(finding["error_code"], "0x9");
        assert_eq!(finding["expected"], format!("PA {pa:#x}"));
        assert_eq!(finding["witnesses"], serde_json::json!(["mmu", "walk"]));
        let walk = finding["walk"].as_array().unwrap();
        let levels: Vec<_> = walk.iter().map(|step| step["level"].as_str().unwrap()).collect();
        assert_eq!(levels, ["PML4E", "PDPTE", "PDE"]);
        assert!(walk[..2].iter().all(|step| hex(&step["reserved"]) == 0), "{finding}");
        let (entry, reserved) = (hex(&walk[2]["entry"]), hex(&walk[2]["reserved"]));
        assert_ne!(reserved, 0);
        assert_eq!(reserved, entry & RESERVED_IN_A_2M_LEAF);
        assert_eq!(reserved, pa & RESERVED_IN_A_2M_LEAF);
    }

    let faults = document["faults"].as_array().unwrap();
    assert!(faults.len() >= 6, "each access to each of two regions: {faults:#?}");
    for (access, code, flags) in [
        ("read", "0x9", vec!["P", "RSVD"]),
        ("write", "0xb", vec!["P", "W", "RSVD"]),
        ("fetch", "0x19", vec!["P", "RSVD", "I"]),
    ] {
        let mut of_access = faults.iter().filter(|fault| fault["access"] == access).peekable();
        assert!(of_access.peek().is_some(), "no {access} faulted");
        for fault in of_access {
            assert_eq!((&fault["error_code"], &fault["flags"]), (&code.into(), &flags.clone().into()), "{fault}");
            assert_eq!((&fault["vector"], &fault["privilege"]), (&14.into(), &"supervisor".into()), "{fault}");
            assert_eq!(fault["cr2"], fault["virt"], "{fault}");
            let virt = hex(&fault["virt"]);
            let within =
                |(_, start, pages, _): &(i32, u64, i32, u64)| (*start..start + *pages as u64 * 4096).contains(&virt);
            assert!(expected.iter().any(within), "{fault}");
        }
    }
    assert!(faults.iter().all(|fault| ["read", "write", "fetch"].contains(&fault["access"].as_str().unwrap())));
    // What does not fault is still verified: all but the three leaves.
    assert_eq!(document["probes"]["pages_verified"], PAGES_OF_2013 - 3 * 512);

    let text = check(&ovmf_2013(), &arguments).ends(FINDINGS).without_errors();
    let text = text.says(&[
        "2 findings: reserved-bit (2)",
        "#PF 0x9 (P RSVD)",
        "#PF 0xb (P W RSVD)",
        "#PF 0x19 (P RSVD I)",
        // 0x7dd66083 and 0x7faeb083, four bits a group, and a mark under each reserved one.
        "31:0 0111 1101 1101 0110 0110 0000 1000 0011",
        "bits 20, 18:17, 14:13 are set",
        "31:0 0111 1111 1010 1110 1011 0000 1000 0011",
        "bits 19:17, 15, 13 are set",
    ]);
    assert_marks(&text, "0111 1101 1101 0110 0110 0000 1000 0011", &[20, 18, 17, 14, 13]);
    assert_marks(&text, "0111 1111 1010 1110 1011 0000 1000 0011", &[19, 18, 17, 15, 13]);
}

/// The line after the one with these 32 bits has a `^` under each of some of them, and nothing else.
fn assert_marks(said: &Said, bits: &str, marked: &[usize]) {
    let mut lines = said.out.lines();
    let start = lines.find_map(|line| line.find(bits)).unwrap_or_else(|| panic!("no {bits}: {said}"));
    let marks = lines.next().unwrap();
    let columns: Vec<usize> = marks.match_indices('^').map(|(column, _)| column).collect();
    // Every fourth bit has a space before it.
    let column = |bit: usize| start + (31 - bit) + (31 - bit) / 4;
    assert_eq!(columns, marked.iter().map(|&bit| column(bit)).collect::<Vec<_>>(), "{said}");
    assert!(marks.chars().all(|mark| matches!(mark, ' ' | '^')), "{marks}");
}

fn the_demonstration_shows_the_bug_of_2013() {
    let said = efibed(["demo", "--engine", "walker"]).ends(CLEAN);
    // Between right, wrong, and right again with the same wrong leaves.
    let parts: Vec<&str> = said.out.split("Step ").collect();
    assert_eq!(parts.len(), 4, "{}", said.out);
    let shows = |part: usize, what: &str| assert!(parts[part].contains(what), "{what}: {}", parts[part]);
    shows(1, "4774 pages");
    shows(1, "1259x4K");
    // 0x7dd66000 as a 2 MiB leaf: bits 20, 18:17, 14:13 of the address (SDM vol. 3A, table 4-18).
    shows(2, "bits 20, 18:17, 14:13 are set");
    shows(2, "#PF 0x9 (P RSVD)");
    shows(3, "1x2M 747x4K");
    // -4 GiB - 0x80000000 + 0x800000.
    shows(3, "0xfffffffe80800000");
    assert!(!parts[1].contains("reserved") && !parts[3].contains("reserved bit is set"), "{}", said.out);
    shows(3, "Your turn");

    let directory = Directory::new();
    let page = directory.file("bug.html");
    let drawn = efibed(["demo", "--engine", "walker", "--html", &page]).ends(CLEAN);
    assert_eq!(drawn.out, said.out);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("reserved-bit"), "{page}");
    // What cannot be written is told before anything is run.
    let nowhere = efibed(["demo", "--engine", "walker", "--html", &directory.file("no/such")]).ends(BAD_INPUT);
    assert!(nowhere.out.is_empty(), "{}", nowhere.out);
}

fn the_demonstration_runs_in_a_guest_where_it_can() {
    let [alone, named] = [efibed::<&str>([]).ends(CLEAN), efibed(["demo"]).ends(CLEAN)];
    assert_eq!(alone.out, named.out);
    let clean = "clean: 5 regions, 4774 pages, each reached by the guest's MMU";
    assert_eq!(named.out.matches(clean).count(), 2, "{}", named.out);
    assert!(named.out.contains("the guest's MMU, the software walk"), "{}", named.out);
}

fn what_is_no_map_is_bad_input() {
    let cases: [(&str, &[&str]); 4] = [
        ("maps/bad/empty.txt", &["empty.txt:1:1: no EFI memory map: there is nothing in it", "help:", "efi=debug"]),
        ("maps/bad/noise.bin", &["noise.bin:1:1: is not UTF-8 text: byte 0xc6 at offset 0"]),
        ("maps/bad/truncated.txt", &["truncated.txt:12:103: the line ends in the middle of the end address"]),
        ("maps/no-such-file.toml", &["no-such-file.toml: no such file"]),
    ];
    for (map, parts) in cases {
        let map = repository(map);
        check(&map, &["--engine", "walker"]).ends(BAD_INPUT).complains(parts);
        check(&map, &["--engine", "walker", "--json", "-"]).ends(BAD_INPUT).complains(parts);
        // Input comes before the machine: no KVM is needed to refuse it.
        check(&map, &[]).ends(BAD_INPUT).complains(parts);
    }
}

/// A map of one region of runtime data.
fn one_region(phys: &str, pages: &str, rest: &str) -> String {
    format!("[[descriptor]]\ntype = \"RuntimeServicesData\"\nphys = {phys}\npages = {pages}\n{rest}\n")
}

const RUNTIME_WB: &str = "attribute = \"RUNTIME|WB\"";

fn fields_that_cannot_exist_are_bad_input() {
    let cases = [
        (one_region("-4096", "1", RUNTIME_WB), "<stdin>:3:"),
        (one_region("\"0x10000000000000000\"", "1", RUNTIME_WB), "<stdin>:3:"),
        (one_region("0x1000", "\"many\"", RUNTIME_WB), "<stdin>:4:"),
        (one_region("0x1000", "1", "attribute = \"RUNTIME|XYZ\""), "<stdin>:5:"),
        (one_region("0x1000", "1", "colour = \"red\""), "<stdin>:5:"),
        (one_region("0x1000", "1", RUNTIME_WB).replace("RuntimeServicesData", "NoSuchType"), "<stdin>:2:"),
        ("[[descriptor]\n".into(), "<stdin>:1:"),
        ("[[descriptor]]\nphys = 0x1000\npages = 1\n".into(), "<stdin>:"),
        (one_region("0x1000", "1", "[mapper]\nlayout = \"no-such-layout\""), "<stdin>:"),
    ];
    for (map, place) in cases {
        let said = efibed_reading(["check", "-", "--engine", "walker"], map.as_bytes());
        said.ends(BAD_INPUT).complains(&[place]);
    }
}

fn maps_that_make_no_sense_are_findings(engine: &str) {
    let cases: [(&str, &[&str], &str); 5] = [
        ("maps/bad/overlap.toml", &["map-overlap"], "share 0x7c180000-0x7c1fffff"),
        ("maps/bad/wrap.toml", &["map-wrap"], "reaches past 2^64: 0x2 pages from 0xfffffffffffff000"),
        (
            "maps/bad/unaligned.toml",
            &["map-unaligned", "not-present"],
            "starts at 0xfe888180, which is not page aligned",
        ),
        ("maps/bad/past-maxphyaddr.toml", &["past-maxphyaddr", "window-overflow"], "past the 46 bits"),
        ("maps/over-64g.toml", &["window-overflow"], "region 4 ends at 0xc1c0000000: 775.0 GiB"),
    ];
    for (map, expected, part) in cases {
        let map = repository(map);
        let arguments = ["--engine", engine, "--layout", "window", "--cpu", "maxphyaddr=46"];
        let (document, said) = check_json(&map, &arguments);
        said.ends(FINDINGS).without_errors();
        assert_eq!((&document["verdict"], rules(&document)), (&"findings".into(), expected.to_vec()));
        assert_eq!(document["engine"], engine);
        check(&map, &arguments).ends(FINDINGS).says(expected).says(&[part]).without_errors();
    }
}

fn odd_maps_are_notes(engine: &str) {
    let arguments = ["--engine", engine, "--layout", "window"];
    let map = repository("maps/bad/zero-pages.toml");
    let note = "descriptor 3 (RuntimeServicesData) has no pages, at 0x7c200000";
    let (document, said) = check_json(&map, &arguments);
    said.ends(CLEAN).without_errors();
    assert_eq!((&document["verdict"], &document["notes"]), (&"clean".into(), &vec![note].into()));
    check(&map, &arguments).ends(CLEAN).says(&["odd, but not wrong", note]);

    let map = one_region("0x7c000000", "0x10", "attribute = \"RUNTIME\"");
    let said = efibed_reading(["check", "-"].iter().chain(&arguments), map.as_bytes());
    said.ends(CLEAN).says(&["odd, but not wrong", "no attribute that says how it may be cached"]);
}

fn maps_are_shown() {
    let map = repository("truth/q35-2g.memmap.txt");
    efibed(["show", &map]).ends(CLEAN).without_errors().says(&[
        "123 descriptors, 5 RUNTIME",
        "list     as firmware handed it out, read as linux-x86",
        "- hole",
        "what layout linux maps",
        // As Linux did it, by truth/q35-2g.runtime-map.txt.
        "0xfffffffeffaf4000",
    ]);
    let said = efibed(["show", &map, "--json", "-"]).ends(CLEAN);
    let document: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&document["schema"], &document["format"]), (&1.into(), &"linux-x86".into()));
    // However odd the map is, it was shown.
    efibed(["show", &repository("maps/bad/overlap.toml")]).ends(CLEAN).says(&["wrong is overlap (1)"]);
    efibed(["show", &repository("maps/README.md")]).ends(BAD_INPUT).complains(&["no EFI memory map"]);
    let folder = efibed(["show", &repository("maps")]).ends(BAD_INPUT);
    folder.complains(&["is a directory, not a memory map", "name one of the files in it"]);
}

fn a_second_kernel_is_checked_against_the_first() {
    let map = ovmf_2013();
    let text = fs::read_to_string(&map).unwrap();
    let runtime = text.split("[[descriptor]]").skip(1).filter(|descriptor| descriptor.contains("RUNTIME"));
    let runtime: String = runtime.map(|descriptor| format!("[[descriptor]]{descriptor}")).collect();
    let kexec = |layout| {
        let mut arguments = vec!["kexec", &map, "-", "--engine", "walker", "--layout"];
        arguments.extend([layout, "--json", "-"]);
        let said = efibed_reading(&arguments, runtime.as_bytes());
        let document: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        (document, said)
    };
    let (document, said) = kexec("window");
    said.ends(FINDINGS).without_errors();
    assert_eq!((&document["schema"], &document["first"]["verdict"]), (&1.into(), &"clean".into()));
    assert_eq!(document["verdict"], "findings");
    let findings = document["second"]["findings"].as_array().unwrap();
    assert!(findings.len() == 2 && findings.iter().all(|finding| finding["rule"] == "kexec-moved"), "{findings:?}");
    let (document, said) = kexec("linux-fixed");
    said.ends(CLEAN).without_errors();
    assert_eq!(document["second"]["mapper"]["layout"], "linux-fixed");
    let said = efibed_reading(["kexec", &map, "-", "--engine", "walker", "--layout", "window"], runtime.as_bytes());
    said.ends(FINDINGS).says(&[
        "findings: the second kernel\n",
        "== the first kernel\nclean",
        "== the second kernel\n2 findings: kexec-moved (2)",
    ]);
}

const BUG: [&str; 4] = ["--layout", "packed-down", "--leaf-rule", "va-only"];

fn a_finding_is_shrunk_to_a_region_and_replays() {
    let folder = Directory::new();
    let (map, small) = (repository("maps/ovmf-02-mikan.csv.txt"), folder.file("small.toml"));
    let shrink = |arguments: &[&str]| efibed([&["shrink", &map], &BUG[..], arguments].concat()).ends(CLEAN);
    let said = shrink(&["-o", &small, "--quiet"]);
    said.has(&said.err, &["reserved-bit.", " shrunk from 49 descriptors ", " to 1 descriptor and 0x200 pages in "]);
    let text = fs::read_to_string(&small).unwrap();
    assert_eq!(text.matches("[[descriptor]]").count(), 1, "{text}");
    assert!(text.contains("# 1. reserved-bit (error, phase map)"), "{text}");
    // It says how it is mapped, and needs no option.
    let (document, said) = check_json(&small, &["--engine", "walker"]);
    said.ends(FINDINGS);
    assert_eq!(rules(&document), ["reserved-bit"]);
    // The result is the same on standard output, its timings aside, and smaller still is nothing.
    let scenario = |text: &str| text.split_once("[[descriptor]]").map(|(_, scenario)| scenario.to_owned());
    assert_eq!(scenario(&shrink(&["--quiet"]).out), scenario(&text));
    let again = efibed(["shrink", &small, "--quiet"]).ends(CLEAN);
    again.has(&again.err, &["from 1 descriptor and 0x200 pages to 1 descriptor and 0x200 pages"]);
    // The negative control: with the right leaves the same map has no finding.
    check(&small, &["--engine", "walker", "--leaf-rule", "co-aligned"]).ends(CLEAN);
    let said = shrink(&["--runs", "3", "--quiet"]);
    said.has(&said.err, &["in 3 runs, which are not all: see --runs"]);
}

/// Thousands of regions are too much for their arena by so little that none can be left out: to find that out takes as many runs.
fn shrinking_ends_with_its_time() {
    const REGIONS: u64 = 4096;
    /// The arena has 64 GiB, and each region is 16 MiB and a bit.
    const PAGES: u64 = 0x1001;
    let folder = Directory::new();
    let (map, small) = (folder.file("map.toml"), folder.file("small.toml"));
    let region = |index: u64| {
        let phys = (index + 1) * 0x200_0000;
        format!(
            "[[descriptor]]\ntype = 'RuntimeServicesData'\nphys = {phys:#x}\npages = {PAGES:#x}\nattribute = 'RUNTIME|WB'\n"
        )
    };
    fs::write(&map, (0..REGIONS).map(region).collect::<String>()).unwrap();
    let shrink = ["shrink", &map, "--layout", "packed-down", "--for", "1s", "--quiet", "-o", &small];
    let said = efibed(shrink).ends(CLEAN);
    said.has(&said.err, &["outside-arena", ", for which there was time: see --for"]);
    let text = fs::read_to_string(&small).unwrap();
    assert!(text.matches("[[descriptor]]").count() > REGIONS as usize / 2, "{said}");
    efibed(["shrink", &map, "--for", "soon"]).ends(BAD_INPUT).complains(&["expected a number and s, m, h or d"]);
}

fn what_has_no_finding_is_not_shrunk() {
    let folder = Directory::new();
    let (map, small) = (repository("maps/ovmf-02-mikan.csv.txt"), folder.file("small.toml"));
    let shrink = |arguments: &[&str]| efibed([&["shrink", &map, "--quiet", "-o", &small], arguments].concat());
    shrink(&[]).ends(BAD_INPUT).complains(&["the run has no finding: there is nothing to keep", "efibed check"]);
    let other = [&BUG[..], &["--rule", "not-present"]].concat();
    shrink(&other).ends(BAD_INPUT).complains(&["no finding of the rule not-present"]);
    shrink(&["--rule", "wrong"]).ends(BAD_INPUT).complains(&["invalid value 'wrong'"]);
    assert!(folder.names().is_empty());
    // What is wrong with a map itself a layout shows, too.
    let maps = Directory::new();
    let twice = maps.file("twice.toml");
    fs::write(&twice, TWO_MIB.repeat(2)).unwrap();
    let shrink = |arguments: &[&str]| efibed([&["shrink", &twice, "--quiet"], arguments].concat());
    let like = ["--layout", "packed-down", "--like", "packed-down"];
    shrink(&like[..2]).ends(CLEAN);
    shrink(&like).ends(BAD_INPUT).complains(&["no finding that packed-down does not show, too"]);
    let said = shrink(&[&like[2..], &BUG[..]].concat()).ends(CLEAN);
    said.has(&said.err, &["reserved-bit."]);
    efibed(["shrink", &map, "-o", &map]).ends(BAD_INPUT).complains(&["it is an input; name another file"]);
}

/// On its own the bug of 2013 shows in it.
const TWO_MIB: &str =
    "[[descriptor]]\ntype = 'RuntimeServicesData'\nphys = 0x7e107000\npages = 0x400\nattribute = 'RUNTIME|WB'\n";

/// A program's contract is kept, and its path works from any folder.
fn a_program_is_shrunk_in_the_guest() {
    let folder = Directory::new();
    let wrong = [("CC", "cc -DATTACK=1 -DBY_VIRTUAL_ALIGNMENT=1"), ("LC_ALL", "C")];
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/hostile.c");
    efibed_in(&folder, &wrong, &["build", source, "-o", "mapper.elf"]).ends(CLEAN);
    let shrink = ["shrink", &ovmf_2013(), "--mapper", "mapper.elf", "--contract", "rising=on", "-o", "small.toml"];
    let said = efibed_in(&folder, &[], &[&shrink[..], &["--quiet"]].concat()).ends(CLEAN);
    said.has(&said.err, &["reserved-bit.", " to 1 descriptor "]);
    let small = folder.file("small.toml");
    let text = fs::read_to_string(&small).unwrap();
    assert!(text.contains("contract = [\"rising=on\"]") && text.contains("mapper.elf"), "{text}");
    check(&small, &[]).ends(FINDINGS).says(&["reserved-bit"]);
}

/// Both break the same rule. In a campaign, in a check and in what is shrunk they are told by their lines.
fn two_bugs_of_a_program_are_two_findings() {
    let folder = Directory::new();
    let source = repository("programs/two_bugs.c");
    efibed_in(&folder, &USUAL, &["build", &source, "-o", "mapper.elf"]).ends(CLEAN);
    let region = |phys: u64, pages: u64| {
        format!(
            "[[descriptor]]\ntype = 'RuntimeServicesData'\nphys = {phys:#x}\npages = {pages}\nattribute = 'RUNTIME|WB'\n"
        )
    };
    fs::write(folder.file("map.toml"), region(0x7e00_0000, 4) + &region(0x7e10_0000, 6)).unwrap();
    let text = fs::read_to_string(&source).unwrap();
    let line = |comment: &str| 1 + text.lines().position(|line| line.contains(comment)).unwrap();
    let keys = [("one_page_up", line("/* the first bug */")), ("set", line("/* the second bug's store */"))]
        .map(|(function, line)| format!("wrong-frame.RuntimeServicesData.map.PTE.{function}-{line}"));

    let fuzz = ["fuzz", "map.toml", "--mapper", "mapper.elf", "--cores", "1", "--max-pages", "64"];
    let rest = ["--runs", "40", "--out", "out", "--quiet", "--json", "-"];
    let said = efibed_in(&folder, &[], &[&fuzz[..], &rest].concat()).ends(FINDINGS);
    let summary: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said}"));
    let found = summary["findings"].as_array().unwrap().iter().filter_map(Value::as_str);
    let found: Vec<_> = found.filter(|key| key.starts_with("wrong-frame.RuntimeServicesData.")).collect();
    assert_eq!(found, keys);
    for key in &keys {
        let file = format!("out/findings/{key}.toml");
        let said = efibed_in(&folder, &[], &["check", &file, "--json", "-"]).ends(FINDINGS);
        let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said}"));
        let places = report["findings"].as_array().unwrap().iter().map(|finding| &finding["set_by"]);
        let mut lines = places.map(|place| format!("{}-{}", place["function"].as_str().unwrap(), place["line"]));
        assert!(lines.any(|line| key.ends_with(&line)), "{said}");
    }
    let shrink = ["shrink", "map.toml", "--mapper", "mapper.elf", "-o", "small.toml", "--quiet"];
    let said = efibed_in(&folder, &[], &shrink).ends(CLEAN);
    said.has(&said.err, &[&keys[0], " to 1 descriptor "]);
    assert!(fs::read_to_string(folder.file("small.toml")).unwrap().contains("#    set by     one_page_up at "));
}

/// The maps of x86 machines in `maps`, each page of each mapped region reached by the guest's MMU.
fn real_x86_maps_are_verified_in_full_under_linux() {
    let mut seen = 0;
    for entry in fs::read_dir(repository("maps")).unwrap() {
        let path = entry.unwrap().path().into_os_string().into_string().unwrap();
        let is_x86 = path.ends_with(".txt") && !["arm64", "lx2160a", "uboot"].iter().any(|other| path.contains(other));
        if !is_x86 {
            continue;
        }
        seen += 1;
        let (document, said) = check_json(&path, &["--layout", "linux"]);
        let regions = document["regions"].as_array().unwrap();
        let of_verdict = |verdict: &'static str| regions.iter().filter(move |region| region["verdict"] == verdict);
        // What lies past this machine's physical addresses cannot be reached, and is a finding.
        match of_verdict("skipped").count() {
            0 => said.ends(CLEAN).without_errors(),
            _ => said.ends(FINDINGS).says(&["past-maxphyaddr"]),
        };
        assert_eq!(of_verdict("wrong").count() + of_verdict("unmapped").count(), 0);
        let pages: u64 = of_verdict("ok").map(|region| region["pages"].as_u64().unwrap()).sum();
        assert!(pages > 0);
        assert_eq!(document["probes"]["pages_verified"].as_u64(), Some(pages), "{path}");
    }
    assert_eq!(seen, 16);
}

/// Each is printed by Linux on real (if virtual) firmware.
fn real_maps_are_clean_under_window() {
    let mut seen = 0;
    for entry in fs::read_dir(repository("truth")).unwrap() {
        let path = entry.unwrap().path().into_os_string().into_string().unwrap();
        if !path.ends_with(".memmap.txt") {
            continue;
        }
        seen += 1;
        let (document, said) = check_json(&path, &["--layout", "window", "--engine", "walker"]);
        said.ends(CLEAN).without_errors();
        assert_eq!(document["map"]["source"], path);
        assert!(document["map"]["descriptors"].as_u64().unwrap() > 10, "{path}");
    }
    assert_eq!(seen, 7);
}

fn a_full_window_of_4k_leaves_takes_little_memory() {
    const MIB: u64 = 1 << 20;
    let text = "[[descriptor]]\ntype = \"MemoryMappedIO\"\nphys = 0\npages = 0x1000000\nattribute = \"RUNTIME|UC\"";
    let arguments = ["check", "-", "--leaf-rule", "4k", "--engine", "walker", "--json", "-"];
    let said = efibed_reading(arguments, text.as_bytes());
    let document = said.json();
    said.ends(CLEAN);
    // 64 GiB: 2^24 pages.
    assert_eq!(document["regions"][0]["leaves"], serde_json::json!({ "4k": 0x100_0000, "2m": 0, "1g": 0 }));
    // The page tables alone are 2^24 entries of 8 bytes: less would mean that something else was measured.
    let peak = largest_child_bytes();
    assert!((128 * MIB..300 * MIB).contains(&peak), "{} MiB", peak / MIB);
}

fn standard_input_is_a_map() {
    let text = fs::read(ovmf_2013()).unwrap();
    let said = efibed_reading(["check", "-", "--layout", "window", "--engine", "walker", "--json", "-"], &text);
    let document = said.json();
    said.ends(CLEAN);
    assert_table_of_2013(&document);
    assert_eq!(document["map"]["source"], "<stdin>");
    let said = efibed_reading(["explain", "-", "0xfffffffefdc5b000", "--layout", "window"], &text);
    said.ends(CLEAN).says(&["reaches PA 0x7dc5b000"]);

    efibed(["check", "-", "--engine", "walker"]).ends(BAD_INPUT).complains(&["<stdin>:1:1: no EFI memory map"]);
    let noise = fs::read(repository("maps/bad/noise.bin")).unwrap();
    let said = efibed_reading(["check", "-", "--engine", "walker"], &noise);
    said.ends(BAD_INPUT).complains(&["<stdin>:1:1: is not UTF-8 text"]);
}

/// It must not be cut off and judged by its first part.
fn too_much_standard_input_is_bad_input() {
    let mut text = fs::read(ovmf_2013()).unwrap();
    text.resize((64 << 20) + 1, b'\n');
    let said = efibed_reading(["check", "-", "--engine", "walker"], &text);
    said.ends(BAD_INPUT).complains(&["larger than 64 MiB"]);
}

/// The shell prints the same map in the same way: the file is as it was.
fn maps_are_converted_and_back() {
    let map = repository("maps/asrock-02.txt");
    let printed = fs::read_to_string(&map).unwrap();
    for format in ["toml", "json", "linux", "shell", "grub"] {
        let said = efibed(["convert", &map, "--to", format]).ends(CLEAN).without_errors();
        let back = efibed_reading(["convert", "-", "--to", "shell"], said.out.as_bytes());
        assert_eq!(back.without_errors().ends(CLEAN).out, printed, "{format}");
    }
    let directory = Directory::new();
    let binary = directory.file("map.bin");
    efibed(["convert", &map, "--to", "binary", "--output", &binary]).ends(CLEAN).without_errors();
    assert_eq!(fs::metadata(&binary).unwrap().len(), 65 * 48);
    // 48 is the only size with which all of them make sense.
    assert_eq!(efibed(["convert", &binary, "--to", "shell"]).ends(CLEAN).out, printed);
    // A region at 1 TiB is beyond what layout `window` can hold.
    check(&binary, &["--layout", "window", "--engine", "walker"])
        .ends(FINDINGS)
        .says(&["65 descriptors", "window-overflow"]);
}

fn utf16_is_read_from_a_file_and_from_standard_input() {
    let printed = fs::read_to_string(repository("maps/asrock-02.txt")).unwrap();
    let utf16: Vec<u8> = format!("\u{feff}{printed}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let directory = Directory::new();
    let file = directory.file("memmap.txt");
    fs::write(&file, &utf16).unwrap();
    assert_eq!(efibed(["convert", &file, "--to", "shell"]).ends(CLEAN).out, printed);
    assert_eq!(efibed_reading(["convert", "-", "--to", "shell"], &utf16).ends(CLEAN).out, printed);
    check(&file, &["--layout", "window", "--engine", "walker"])
        .ends(FINDINGS)
        .says(&["65 descriptors", "window-overflow"]);
    fs::write(&file, &utf16[..utf16.len() - 1]).unwrap();
    let said = efibed(["convert", &file, "--to", "shell"]);
    said.ends(BAD_INPUT).complains(&["memmap.txt:84:55: has half a UTF-16 unit at its end"]);
}

fn what_a_format_cannot_hold_is_refused() {
    let map = repository("truth/q35-2g.runtime-map.txt");
    let said = efibed(["convert", &map, "--to", "linux"]).ends(BAD_INPUT);
    said.complains(&["linux cannot hold this map: descriptor 0 (", "there is no place for the virtual address 0x"]);
    let said = efibed(["convert", &map, "--to", "linux", "--drop-virtual"]).ends(CLEAN).without_errors();
    said.says(&["efi: EFI runtime memory map: efi: mem00: ["]);
    let said = efibed(["convert", &map, "--to", "shell", "--drop-virtual"]).ends(BAD_INPUT);
    said.complains(&["it is Linux's own list"]);
}

fn the_list_to_convert_is_chosen() {
    let log = ["asus-04.txt", "asus-04-kernel.txt"]
        .map(|name| fs::read_to_string(repository(&format!("maps/{name}"))).unwrap());
    let log = log.join("\nefi: EFI runtime memory map:\n");
    let convert = |more: &[&str]| efibed_reading(["convert", "-", "--to", "json"].iter().chain(more), log.as_bytes());
    let list = |said: &Said| -> (String, usize) {
        let document: Value = serde_json::from_str(&said.out).unwrap();
        (document["list"].as_str().unwrap().into(), document["descriptors"].as_array().unwrap().len())
    };
    let said = convert(&[]).ends(CLEAN);
    assert_eq!(list(&said), ("firmware".into(), 49));
    said.has(&said.err, &["using list 1; there are 2: 1 firmware's (49 descriptors), 2 Linux's own (30 descriptors)"]);
    assert_eq!(list(&convert(&["--list", "2"]).ends(CLEAN).without_errors()), ("runtime".into(), 30));
    convert(&["--list", "3"]).ends(BAD_INPUT).complains(&["there is no list 3", "2 Linux's own"]);
    convert(&["--list", "0"]).ends(BAD_INPUT).complains(&["there is no list 0"]);
}

fn binary_descriptors_need_their_size() {
    // RuntimeServicesData, one page at 1 MiB, with an attribute of no specification: it does not tell its own size.
    let mut one = [0; 40];
    (one[0], one[10], one[24], one[37], one[39]) = (6, 0x10, 1, 1, 0x80);
    let map = [one, one].concat();
    let said = efibed_reading(["convert", "-", "--to", "json"], &map).ends(BAD_INPUT);
    said.complains(&["<stdin>:1:40: is not UTF-8 text", "`efibed convert MAP --stride N --to toml`"]);
    let said = efibed_reading(["convert", "-", "--to", "json", "--stride", "40"], &map).ends(CLEAN);
    let document: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(document["descriptors"][1]["attribute"], "RUNTIME|0x10000000000");
    let said = efibed_reading(["convert", "-", "--to", "json", "--stride", "48"], &map).ends(BAD_INPUT);
    said.complains(&["<stdin>:1:49: descriptor 1 at byte 0x30 is cut: 32 bytes of 48 are there"]);
    let said = efibed_reading(["convert", "-", "--to", "json", "--stride", "44"], &map).ends(BAD_INPUT);
    said.complains(&["multiples of 8, from 40 on"]);
}

fn a_converted_file_is_whole_or_not_there() {
    let directory = Directory::new();
    let file = directory.file("map.toml");
    let map = repository("maps/uboot-01.txt");
    efibed(["convert", &map, "--to", "toml", "-o", &file]).ends(CLEAN).says(&[]).without_errors();
    assert_eq!(directory.names(), ["map.toml"]);
    check(&file, &["--engine", "walker"]).ends(CLEAN);
    let said = efibed(["convert", &map, "--to", "toml", "-o", &directory.file("no/such/map.toml")]);
    said.ends(BAD_INPUT).complains(&["no/such/map.toml"]);
    assert_eq!(directory.names(), ["map.toml"]);
}

fn what_cannot_be_read_is_skipped_if_asked() {
    let printed = fs::read_to_string(repository("maps/uboot-01.txt")).unwrap();
    let damaged = printed.replacen("BOOT DATA ", "BOOT DATE ", 1);
    let said = efibed_reading(["convert", "-", "--to", "json"], damaged.as_bytes()).ends(BAD_INPUT);
    said.complains(&["<stdin>:4:1: unknown memory type `BOOT DATE`"]);
    let said = efibed_reading(["convert", "-", "--to", "json", "--lenient"], damaged.as_bytes()).ends(CLEAN);
    said.has(&said.err, &["efibed: line 4, column 1 is skipped: unknown memory type `BOOT DATE`"]);
    let said = efibed_reading(["convert", "-", "--to", "json", "--format", "grub"], printed.as_bytes());
    said.ends(BAD_INPUT).complains(&["no EFI memory map"]);
}

fn usage_errors_are_told() {
    let map = ovmf_2013();
    let cases: [(&[&str], &[&str]); 12] = [
        (&["no-such-command"], &["unrecognized subcommand 'no-such-command'"]),
        (&["check"], &["<MAP>..."]),
        (&["show", &map, "more"], &["unexpected argument 'more'"]),
        (&["check", &map, "--no-such-option"], &["unexpected argument '--no-such-option'"]),
        (&["check", &map, "--layout", "no-such"], &["'no-such'", "linux, linux-fixed, window, packed-down, packed-up"]),
        (&["check", &map, "--leaf-rule", "2m"], &["'2m'", "va-only-masked"]),
        (&["check", &map, "--engine", "qemu"], &["'qemu'", "kvm, walker"]),
        (&["check", &map, "--seed", "x"], &["'x'", "--seed"]),
        (&["check", &map, "--cpu", "1g"], &["`1g`: expected NAME=VALUE"]),
        (&["check", &map, "--cpu", "1g=maybe"], &["`1g=maybe`: expected 1g=on or 1g=off"]),
        (&["check", &map, "--cpu", "maxphyaddr=53"], &["expected 32 to 52 bits"]),
        (&["check", &map, "--cpu", "nx=on,avx=on"], &["`avx`: expected one of maxphyaddr"]),
    ];
    for (arguments, parts) in cases {
        efibed(arguments).ends(BAD_INPUT).complains(parts);
    }
}

fn help_is_no_error() {
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["--help"],
            &[
                "Usage: efibed [OPTIONS] [COMMAND]",
                "check",
                "convert",
                "explain",
                "doctor",
                "Exit status: 0 clean, 1 findings",
            ],
        ),
        (
            &["check", "--help"],
            &["efibed check [OPTIONS] <MAP>", "--layout", "--leaf-rule", "--engine", "--cpu", "--json"],
        ),
        (&["doctor", "--help"], &["--json"]),
        (&["convert", "--help"], &["efibed convert [OPTIONS] --to <FORMAT> <MAP>", "--stride", "--list", "Examples:"]),
        (&["help", "check"], &["efibed check [OPTIONS] <MAP>"]),
        (&["--version"], &[concat!("efibed ", env!("CARGO_PKG_VERSION"))]),
    ];
    for (arguments, parts) in cases {
        efibed(arguments).ends(CLEAN).says(parts).without_errors();
    }
}

fn the_version_has_the_commit_of_a_checkout() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let commit = commit::checkout(root).map_or(String::new(), |checkout| format!(" ({})", checkout.commit));
    let said = efibed(["--version"]).ends(CLEAN).without_errors();
    assert_eq!(said.out, format!("efibed {}{commit}\n", env!("CARGO_PKG_VERSION")));
}

/// In a repository, and in a worktree of it: on a branch whose name is a path, packed, and off all branches.
fn the_commit_is_that_of_the_checkout_and_is_watched() {
    let folder = Directory::new();
    let git = |place: &str, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-C", &folder.file(place), "-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments);
        git.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")]);
        let output = git.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let commit = |place: &str| git(place, &["commit", "--quiet", "--allow-empty", "--message", "one"]);
    fs::create_dir(folder.file("main")).unwrap();
    git("main", &["init", "--quiet", "--initial-branch", "some/branch"]);
    assert!(commit::checkout(&folder.0.join("main")).is_none(), "there is no commit yet");
    commit("main");
    git("main", &["worktree", "add", "--quiet", "../tree", "-b", "other/branch"]);
    type Step<'a> = &'a dyn Fn(&str);
    // What is watched of a place is newer after each of these, and the commit is another one.
    let steps: [(&str, Step); 4] = [
        ("a commit", &|place| _ = commit(place)),
        ("a commit on a branch that is packed", &|place| {
            git("main", &["pack-refs", "--all"]);
            let watched = || newest(&commit::checkout(&folder.0.join(place)).unwrap().watched);
            let packed = watched();
            commit(place);
            assert!(watched() > packed, "{place}: the commit is not seen");
        }),
        ("off all branches", &|place| {
            commit(place);
            git(place, &["checkout", "--quiet", "--detach"]);
        }),
        ("another commit there", &|place| _ = commit(place)),
    ];
    for place in ["main", "tree"] {
        for (step, take) in &steps {
            let before = commit::checkout(&folder.0.join(place)).unwrap();
            let time = newest(&before.watched);
            // File systems keep time in ticks.
            std::thread::sleep(std::time::Duration::from_millis(20));
            take(place);
            let after = commit::checkout(&folder.0.join(place)).unwrap();
            assert_eq!(after.commit, git(place, &["rev-parse", "--short=12", "HEAD"]), "{place}: {step}");
            assert_ne!(after.commit, before.commit, "{place}: {step}");
            assert!(
                before.watched.iter().any(|path| !path.exists()) || newest(&before.watched) > time,
                "{place}: {step}"
            );
        }
    }
    // A folder in a checkout is none, and nor is one outside.
    fs::create_dir(folder.file("main/package")).unwrap();
    assert!(commit::checkout(&folder.0.join("main/package")).is_none());
    assert!(commit::checkout(&folder.0).is_none());
}

/// When the last of these changed, and what is in them. As Cargo looks at what a build script has it watch.
fn newest(watched: &[PathBuf]) -> SystemTime {
    let of = |path: &PathBuf| {
        let inside = fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let own = fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if inside.is_empty() { own } else { own.max(newest(&inside)) }
    };
    watched.iter().map(of).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The variables that name compilers, for the usual ones.
const USUAL: [(&str, &str); 3] = [("CC", ""), ("CXX", ""), ("LC_ALL", "C")];

fn sources_are_built() {
    let folder = Directory::new();
    fs::create_dir(folder.0.join("sources")).unwrap();
    fs::write(
        folder.file("sources/mapper.c"),
        "#include \"efibed.h\"\nint efibed_map(const efibed_request *request, efibed_result *result) {\n    return \
         efibed_finish(request, result);\n}\n",
    )
    .unwrap();
    fs::write(folder.file("finish.s"), ".globl efibed_finish\nefibed_finish: ret\n").unwrap();
    let said = efibed_in(&folder, &USUAL, &["build", "sources/mapper.c", "finish.s"]).ends(CLEAN).without_errors();
    let said = said.says(&["mapper.elf: efibed_map at 0x", ", efibed_finish at 0x", " r-x 4 KiB"]);
    assert_eq!(said.out.lines().count(), 1, "{said}");
    assert_eq!(folder.names(), ["finish.s", "mapper.elf", "sources"]);
    assert!(fs::read(folder.file("mapper.elf")).unwrap().starts_with(b"\x7fELF"));

    fs::write(folder.file("alone.c"), "#warning odd\nint efibed_map(void) { return 1; }\n").unwrap();
    let said = efibed_in(&folder, &USUAL, &["build", "alone.c", "-o", "sources/other.elf"]).ends(CLEAN);
    said.has(&said.err, &["alone.c:1:2: warning: #warning odd"]);
    said.says(&["sources/other.elf: efibed_map at 0x", ", no efibed_finish; 0x", " r-x 4 KiB"]);
}

/// With a line of efibed.h in the debug information, and a source below the current folder.
fn a_build_is_the_same_in_any_folder() {
    let built = |source: &str| {
        let folder = Directory::new();
        fs::create_dir(folder.0.join("sources")).unwrap();
        fs::write(folder.file("sources/mapper.c"), source).unwrap();
        fs::write(folder.file("finish.s"), ".globl efibed_finish\nefibed_finish: ret\n").unwrap();
        efibed_in(&folder, &USUAL, &["build", "sources/mapper.c", "finish.s", "-o", "mapper.elf"]).ends(CLEAN);
        let program = fs::read(folder.file("mapper.elf")).unwrap();
        (folder.0.clone(), program)
    };
    let source = "#include \"efibed.h\"\nint efibed_map(const efibed_request *request, efibed_result *result) {\n    return \
                  efibed_page(request, result) == 0;\n}\n";
    let [(first_folder, first), (second_folder, second)] = [built(source), built(source)];
    assert_ne!(first_folder, second_folder);
    assert!(first == second, "{} and {} bytes, not the same", first.len(), second.len());
    let has = |program: &[u8], name: &str| program.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    assert!(has(&first, "efibed.h\0") && has(&first, "mapper.c\0"));
    for folder in [first_folder.as_path(), &std::env::temp_dir(), Path::new("efibed-build-")] {
        assert!(!has(&first, folder.to_str().unwrap()), "{} is named", folder.display());
    }
    assert!(first != built(&source.replace("== 0", "== 1")).1);
}

/// What steers a campaign: other maps, other counters. Without `--coverage` there are none.
fn a_program_counts_what_it_runs(compiler: &str) {
    let folder = Directory::new();
    let named = format!("{compiler} -DATTACK=0 -DNOTHING=0");
    let compiler = [("CC", named.as_str()), ("LC_ALL", "C")];
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/hostile.c");
    let covered = |coverage: &[&str], runs: &str| {
        let said =
            efibed_in(&folder, &compiler, &[&["build", source, "-o", "mapper.elf"], coverage].concat()).ends(CLEAN);
        assert_eq!(said.out.contains("; counts what it runs"), !coverage.is_empty(), "{said}");
        let fuzz = ["fuzz", "--mapper", "mapper.elf", "--cores", "1", "--max-pages", "64"];
        let rest = ["--runs", runs, "--out", runs, "--quiet", "--json", "-"];
        let said = efibed_in(&folder, &[], &[&fuzz[..], &rest].concat());
        let summary: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said}"));
        summary["covered"].as_u64().unwrap()
    };
    let [few, many] = ["2", "60"].map(|runs| covered(&["--coverage"], runs));
    println!("{named}: {few} counters in two maps, {many} in many");
    assert!(few > 0 && many > few, "{few}, {many}");
    assert_eq!(covered(&[], "3"), 0);
}

/// A mapper that gives each RUNTIME region an address in [-1 TiB, -1 TiB + 2 GiB).
fn a_mapper_of_ones_own_is_checked() {
    const MAP: &str = "../tests/maps/ovmf-2013.toml";
    let folder = Directory::new();
    let elf = folder.file("mapper.elf");
    let elf = elf.as_str();
    let right = [("CC", "cc -DATTACK=-1"), ("LC_ALL", "C")];
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/hostile.c");
    efibed_in(&folder, &right, &["build", source, "-o", "mapper.elf"]).ends(CLEAN);

    let said = efibed(["check", MAP, "--mapper", elf]).ends(CLEAN).without_errors();
    said.says(&["clean: 2 regions, 2662 pages", "mapper.elf", "0xffffff007dc5b000"]);
    let said = efibed(["check", MAP, "--mapper", elf, "--json", "-"]).ends(CLEAN);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["mapper"], serde_json::json!({ "elf": elf }));

    let contract = |list| efibed(["check", MAP, "--mapper", elf, "--contract", list]);
    contract("arena=0xffffff0000000000-0xffffff007fffffff,rising=on").ends(CLEAN);
    contract("arena=0xffffff0000000000-0xffffff007effffff").ends(FINDINGS).says(&["outside-arena"]);
    contract("identity=owed").ends(FINDINGS).says(&["not-present"]);
    contract("identity=perhaps").ends(BAD_INPUT).complains(&["none of owed, allowed and forbidden"]);
    contract("arenas=low").ends(BAD_INPUT).complains(&["no term `arenas`"]);

    let wrong = [("CC", "cc -DATTACK=1 -DBY_VIRTUAL_ALIGNMENT=1"), ("LC_ALL", "C")];
    efibed_in(&folder, &wrong, &["build", source, "-o", "mapper.elf"]).ends(CLEAN);
    efibed(["check", MAP, "--mapper", elf]).ends(FINDINGS).says(&["reserved-bit", "0x9 (P RSVD)"]);

    let bad = |arguments: &[&str], problem: &str| {
        let said = efibed([&["check", MAP, "--mapper"], arguments].concat());
        said.ends(BAD_INPUT).complains(&[problem]);
    };
    bad(&[elf, "--engine", "walker"], "--mapper needs the engine kvm");
    bad(&[elf, "--layout", "window"], "cannot be used with");
    bad(&[MAP], "ovmf-2013.toml is no ELF file");
    bad(&["/no/such/file"], "/no/such/file: No such file");
}

/// Both kernels run the program, and each result is held to the contract.
fn a_mapper_of_ones_own_is_started_twice() {
    let folder = Directory::new();
    let right = [("CC", "cc -DATTACK=-1"), ("LC_ALL", "C")];
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/hostile.c");
    efibed_in(&folder, &right, &["build", source, "-o", "mapper.elf"]).ends(CLEAN);
    let (map, elf) = (ovmf_2013(), folder.file("mapper.elf"));
    let kexec = |arguments: &[&str]| {
        let said = efibed([&["kexec", &map, &map, "--quiet", "--json", "-"], arguments].concat());
        let kernels: Vec<_> = ["first", "second"].map(|kernel| said.json()[kernel].clone()).into();
        (said, kernels)
    };
    let (said, kernels) = kexec(&["--mapper", &elf]);
    said.ends(CLEAN);
    for kernel in &kernels {
        assert_eq!(kernel["mapper"], serde_json::json!({ "elf": elf }));
        assert!(kernel["regions"].as_array().unwrap().iter().any(|region| region["virt"] == "0xffffff007dc5b000"));
    }
    let (said, kernels) = kexec(&["--mapper", &elf, "--contract", "identity=owed"]);
    said.ends(FINDINGS);
    kernels.iter().for_each(|kernel| assert!(rules(kernel).contains(&"not-present"), "{kernel}"));

    // The first map may name it, and the second says nothing but what memory there is.
    let scenario = scenario_with(&folder, "elf = \"../mapper.elf\"");
    efibed(["kexec", &scenario, &map, "--quiet"]).ends(CLEAN).says(&["../mapper.elf"]);
    let absent = scenario_with(&folder, "elf = \"no-such.elf\"");
    efibed(["kexec", &map, &absent, "--quiet", "--layout", "linux-fixed"]).ends(CLEAN);
    let said = efibed(["kexec", &map, &map, "--mapper", &elf, "--engine", "walker"]).ends(BAD_INPUT);
    said.complains(&["--mapper needs the engine kvm"]);
    let said = efibed(["kexec", &map, &map, "--mapper", &elf, "--json", &elf]).ends(BAD_INPUT);
    said.complains(&["mapper.elf: it is an input"]);
}

/// The map of 2013 with these lines in its table `mapper`, in `scenarios/mine.toml`.
fn scenario_with(folder: &Directory, mapper: &str) -> String {
    let map = fs::read_to_string(ovmf_2013()).unwrap();
    let descriptors = &map[map.find("[[descriptor]]").unwrap()..];
    fs::create_dir_all(folder.file("scenarios")).unwrap();
    fs::write(folder.file("scenarios/mine.toml"), format!("[mapper]\n{mapper}\n{descriptors}")).unwrap();
    folder.file("scenarios/mine.toml")
}

fn a_scenario_names_a_mapper_of_ones_own() {
    let folder = Directory::new();
    let right = [("CC", "cc -DATTACK=-1"), ("LC_ALL", "C")];
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/hostile.c");
    efibed_in(&folder, &right, &["build", source, "-o", "mapper.elf"]).ends(CLEAN);
    let elf = folder.file("mapper.elf");
    let checked = |mapper: &str, arguments: &[&str]| check(&scenario_with(&folder, mapper), arguments);

    // Wherever the command is started, the path starts at the scenario's folder.
    let beside = "elf = \"../mapper.elf\"";
    checked(beside, &[]).ends(CLEAN).says(&["clean: 2 regions, 2662 pages", "scenarios/../mapper.elf"]);
    checked(&format!("elf = \"{elf}\""), &["--no-sandbox"]).ends(CLEAN).says(&["0xffffff007dc5b000"]);
    let owing = format!("{beside}\ncontract = [\"identity=owed\", \"rising=on\"]");
    checked(&owing, &[]).ends(FINDINGS).says(&["not-present"]);

    // Options take the place of what the file says, each of its own part.
    checked(&owing, &["--contract", "rising=on"]).ends(CLEAN).says(&["../mapper.elf"]);
    checked(&owing, &["--layout", "window"]).ends(CLEAN).says(&["layout window, leaf rule co-aligned"]);
    let absent = "elf = \"no-such.elf\"\ncontract = [\"identity=owed\"]";
    checked(absent, &["--mapper", &elf]).ends(FINDINGS).says(&["not-present"]);
    checked(absent, &["--mapper", &elf, "--contract", "rising=on"]).ends(CLEAN).says(&["2 regions, 2662 pages"]);
    checked(absent, &[]).ends(BAD_INPUT).complains(&["mine.toml:2:7", "no-such.elf: No such file", "efibed build"]);

    // What it reads is no place for results, and an ELF file is what it must be.
    checked(beside, &["--json", &elf]).ends(BAD_INPUT).complains(&["mapper.elf: it is an input"]);
    checked("elf = \"mine.toml\"", &[]).ends(BAD_INPUT).complains(&["scenarios/mine.toml is no ELF file"]);
}

fn where_no_guest_runs_a_mapper_of_ones_own_is_refused() {
    let folder = Directory::new();
    fs::write(folder.file("mapper.elf"), "").unwrap();
    let scenario = scenario_with(&folder, "elf = \"../mapper.elf\"");
    let refused = |arguments: &[&str], parts: &[&str]| efibed(arguments).ends(BAD_INPUT).complains(parts);
    refused(
        &["show", &scenario],
        &["mapper.elf: where a program maps regions is seen only when it runs", "`--layout NAME`"],
    );
    refused(&["explain", &scenario, "0x1000"], &["`explain` walks tables", "`efibed check MAP --mapper ELF` runs it"]);
    refused(&["check", &scenario, "--engine", "walker"], &["`elf` of the scenario needs the engine kvm"]);
    refused(&["check", &ovmf_2013(), "--contract", "rising=on"], &["--contract is for mapping code of your own"]);
    for option in [["--mapper", "mapper.elf"], ["--contract", "rising=on"]] {
        let refused = |command: &[&str]| {
            let said = efibed([command, &option].concat()).ends(BAD_INPUT);
            said.complains(&[&format!("`{}` is of no use here", option[0]), "`efibed check MAP --mapper ELF` runs"]);
        };
        refused(&["show", &ovmf_2013()]);
        refused(&["explain", &ovmf_2013(), "0x1000"]);
        refused(&["explain", "rules"]);
    }
    // Under a layout they go on, and so does what asks for the map alone.
    efibed(["show", &scenario, "--layout", "window"]).ends(CLEAN).says(&["5 descriptors"]);
    efibed(["explain", &scenario, "0xfffffffefdc5b000", "--layout", "window"]).ends(CLEAN);
    efibed(["convert", &scenario, "--to", "linux"]).ends(CLEAN);
    let text = fs::read(&scenario).unwrap();
    let said = efibed_reading(["check", "-"], &text).ends(BAD_INPUT);
    said.complains(&["<stdin>:2:7", "this text is in no file", "by its path"]);
}

fn sources_that_make_no_mapper_are_bad_input() {
    let folder = Directory::new();
    let sources = [
        ("wrong.c", "int efibed_map(void) { return nothing; }", "wrong.c:1:31: error:"),
        ("calls.c", "void memcpy3(void); void efibed_map(void) { memcpy3(); }", "memcpy3"),
        ("other.c", "int efibed_mop(void) { return 1; }", "other.elf is not written: what was linked has no symbol"),
        ("data.c", "int efibed_map = 1;", "has `efibed_map` at 0x"),
        ("mapper.txt", "", "mapper.txt: is no source that can be compiled: expected .c,"),
        ("absent.c", "", "absent.c"),
    ];
    for (name, source, problem) in sources {
        if !source.is_empty() {
            fs::write(folder.file(name), source).unwrap();
        }
        efibed_in(&folder, &USUAL, &["build", name]).ends(BAD_INPUT).complains(&[problem]);
    }
    assert_eq!(folder.names(), ["calls.c", "data.c", "other.c", "wrong.c"]);
    // The program must not take a source's place.
    let said = efibed_in(&folder, &USUAL, &["build", "data.c", "-o", "data.c"]);
    said.ends(BAD_INPUT).complains(&["data.c: it is an input"]);
}

fn a_compiler_that_is_not_there_is_asked_for() {
    let folder = Directory::new();
    for (name, variable, package) in [("mapper.c", "CC", "`gcc`"), ("mapper.cpp", "CXX", "`g++`")] {
        let said = efibed_in(&folder, &[(variable, "no-such-compiler -O2")], &["build", name]);
        said.ends(UNABLE).complains(&["`no-such-compiler` does not run", package, variable]);
    }
    assert!(folder.names().is_empty());
}

fn the_schema_of_scenarios_is_printed() {
    let said = efibed(["schema"]).ends(CLEAN);
    let schema: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(!said.out.contains("null"), "{said}");
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = efibed(["--help"]).ends(CLEAN).out;
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<_> = names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect();
    assert!(names.len() >= 11 && names.contains(&"check".to_owned()), "{names:?}");
    names
}

fn every_shell_has_a_script() {
    let commands = commands();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let said = efibed(["completions", shell]).ends(CLEAN).without_errors();
        commands.iter().for_each(|command| assert!(said.out.contains(command.as_str()), "{shell}: {command}"));
        assert!(said.out.contains("sweep-limit"), "{shell}");
    }
    efibed(["completions", "command.com"]).ends(BAD_INPUT).complains(&["bash, elvish, fish, powershell, zsh"]);
    efibed(["completions"]).ends(BAD_INPUT).complains(&["<SHELL>"]);
    efibed(["completions", "--help"]).ends(CLEAN).says(&["~/.local/share/bash-completion/completions/efibed"]);
}

/// As on the Tab key: the script's function is called with the words so far.
fn bash_completes_what_there_is() {
    const PRESS_TAB: &str = r#"
        source <("$EFIBED" completions bash) || exit
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _efibed efibed "${@: -1}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let completed = |words: &[&str]| {
        let mut bash = Command::new("bash");
        bash.args(["-c", PRESS_TAB, "bash", "efibed"]).args(words).env("EFIBED", env!("CARGO_BIN_EXE_efibed"));
        let output = bash.output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["che"]), ["check"]);
    assert_eq!(completed(&["check", "--lay"]), ["--layout"]);
    assert_eq!(completed(&["check", "--layout", "packed"]), ["packed-down", "packed-up"]);
    assert_eq!(completed(&["check", "--map"]), ["--mapper"]);
    // Options that are there to be refused are not offered.
    for option in ["--mapper", "--contract", "--engine"] {
        assert!(!completed(&["explain", "--"]).contains(&option.to_owned()), "{option}");
    }
    assert!(completed(&["explain", "--"]).contains(&"--phys".to_owned()));
}

/// All maps are those of one machine, so nothing is found but the bug of 2013 where it is asked for.
fn examples_of_seeing_run_as_help_and_manual_have_them() {
    let folder = Directory::new();
    let copy = |from: &[&str], to: &str| {
        let texts: Vec<_> = from.iter().map(|from| fs::read_to_string(repository(from)).unwrap()).collect();
        fs::write(folder.0.join(to), texts.concat()).unwrap();
    };
    fs::create_dir(folder.0.join("maps")).unwrap();
    copy(&["e820/ovmf-03.txt", "maps/ovmf-03.txt"], "boot.log");
    for to in ["after.log", "other.log", "maps/1.log", "boot-1.log", "boot-2.log", "before.txt", "after.txt"] {
        copy(&["maps/ovmf-03.txt"], to);
    }
    for kept in ["before.json", "after.json"] {
        efibed_in(&folder, &[], &["check", "boot.log", "--quiet", "--tables", "--json", kept]).ends(CLEAN);
    }
    let pages = folder.file("man1");
    efibed(["man", &pages]).ends(CLEAN);
    let mut run = 0;
    for command in ["show", "check", "kexec", "diff"] {
        let help = efibed([command, "--help"]).ends(CLEAN).out;
        let page =
            fs::read_to_string(Path::new(&pages).join(format!("efibed-{command}.1"))).unwrap().replace("\\-", "-");
        let (_, examples) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{help}"));
        for line in examples.lines().filter_map(|line| line.strip_prefix("  efibed ")) {
            // What it is for stands two spaces and more to the right.
            let example = line.split("  ").next().unwrap();
            assert!(page.contains(example), "{example}: {page}");
            // A mapper is compiled: the tests of gdb do that.
            if example.contains("mapper.elf") || example.contains("--gdb") {
                continue;
            }
            let words: Vec<_> = example.split(' ').chain(["--color", "never"]).collect();
            let status = if example.contains("va-only") { FINDINGS } else { CLEAN };
            efibed_in(&folder, &[], &words).ends(status);
            run += 1;
        }
    }
    assert!(run >= 13, "{run}");
}

fn every_command_has_a_manual_page() {
    let folder = Directory::new();
    let pages = folder.file("new/man1");
    let said = efibed(["man", &pages]).ends(CLEAN).without_errors();
    let page = |name: &str| fs::read_to_string(Path::new(&pages).join(name)).unwrap().replace("\\-", "-");
    let commands = commands();
    said.says(&[&format!("new/man1: {} pages", commands.len() + 1)]);
    for command in &commands {
        let page = page(&format!("efibed-{command}.1"));
        let title = concat!("\"efibed ", env!("CARGO_PKG_VERSION"));
        assert!(page.contains(&format!(".TH efibed-{command} 1")) && page.contains(title), "{page}");
        // Every option that its help has.
        let help = efibed([command, "--help"]).out;
        let options =
            help.lines().filter_map(|line| line.trim_start().split([' ', ',']).find(|it| it.starts_with("--")));
        options
            .filter(|option| option.len() > 2)
            .for_each(|option| assert!(page.contains(option), "{command} {option}"));
    }
    assert!(page("efibed.1").contains("efibed-completions(1)"));
    assert!(!page("efibed-explain.1").contains("--contract"));
    let names = || {
        let names = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    // Nothing else is left there, and a second time the pages are replaced.
    assert_eq!(names().len(), commands.len() + 1, "{:?}", names());
    fs::write(Path::new(&pages).join("efibed.1"), "old").unwrap();
    efibed(["man", &pages]).ends(CLEAN);
    assert!(page("efibed.1").contains(".SH SYNOPSIS"));
    assert_eq!(names().len(), commands.len() + 1);
    let file = Path::new(&pages).join("efibed.1");
    efibed(["man", file.to_str().unwrap()]).ends(BAD_INPUT).complains(&["efibed.1: File exists"]);
    efibed(["man", "/dev/null/man1"]).ends(BAD_INPUT).complains(&["/dev/null/man1: Not a directory"]);
}

fn scenarios_end_as_they_expect() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let scenarios: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    assert!(scenarios.len() >= 4, "{scenarios:?}");
    for path in scenarios {
        let path = path.to_str().unwrap();
        let said = efibed(["check", path]).ends(CLEAN);
        assert!(said.out.starts_with("as expected: "), "{said}");
        // And not with leaves, firmware or a kernel of the usual kind, by the same file.
        let text = fs::read_to_string(path).unwrap();
        let spoil = |line: &str| !["leaf_rule", "misbehaves", "descriptor_size"].iter().any(|it| line.starts_with(it));
        let usual: String = text.lines().filter(|line| spoil(line)).map(|line| format!("{line}\n")).collect();
        assert_ne!(usual.len(), text.len());
        let said = efibed_reading(["check", "-"], usual.as_bytes()).ends(FINDINGS);
        assert!(said.out.starts_with("not as expected: missing "), "{said}");
    }
}

fn firmware_misbehaves_at_a_flag() {
    let map = "../tests/scenarios/boot-services-in-the-switch.toml";
    let arguments = ["check", map, "--layout", "linux", "--json", "-", "--firmware"];
    let said = efibed([&arguments[..], &["physical-pointer,reads-boot-services@GetVariable"]].concat());
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["findings"][0]["rule"], "firmware-fault", "{said}");
    let fault = &report["faults"][0];
    let keys = ["attributed_to", "service", "misbehaviour", "phase", "access", "virt", "error_code", "cr2"];
    let found = keys.map(|key| fault[key].as_str().unwrap_or_default());
    assert_eq!(
        found,
        ["firmware", "GetVariable", "reads-boot-services", "finish", "read", "0x400000", "0x0", "0x400000"]
    );
    assert_eq!(fault["region"], 0);
    assert!(fault["remedy"].as_str().is_some_and(|remedy| remedy.contains("keep boot-services regions")), "{said}");
    let notes = report["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().is_some_and(|note| note.contains("no harm came of it"))), "{said}");

    let said = efibed([&arguments[..4], &["--firmware", "sulks"]].concat()).ends(BAD_INPUT);
    assert!(said.err.contains("there are reads-boot-services"), "{said}");
    let said = efibed(["check", "--help"]).ends(CLEAN);
    for misbehaviour in efibed::Misbehaviour::ALL {
        assert!(said.out.contains(misbehaviour.name()), "{said}");
    }
}

fn a_json_file_is_whole_and_alone() {
    let directory = Directory::new();
    let file = directory.file("report.json");
    // The second replaces the first; what was there before is longer than what comes.
    fs::write(&file, "x".repeat(1 << 20)).unwrap();
    for _ in 0..2 {
        let said = check(&ovmf_2013(), &["--layout", "window", "--engine", "walker", "--json", &file]).ends(CLEAN);
        said.says(&["clean: 5 regions, 4774 pages"]).without_errors();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with("}\n"));
        assert_table_of_2013(&serde_json::from_str(&text).unwrap());
        assert_eq!(directory.names(), ["report.json"]);
    }
    let arguments = ["--layout", "packed-down", "--leaf-rule", "va-only", "--engine", "walker", "--json", &file];
    check(&ovmf_2013(), &arguments).ends(FINDINGS).says(&["reserved-bit"]);
    let document: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(rules(&document), ["reserved-bit"; 2]);

    // What is no regular file is written to, not replaced.
    let said = check(&ovmf_2013(), &["--layout", "window", "--engine", "walker", "--json", "/dev/null"]);
    said.ends(CLEAN).says(&["clean: 5 regions"]);
}

fn a_json_file_that_cannot_be_written_is_an_error() {
    let directory = Directory::new();
    let nowhere = directory.file("no-such-directory/report.json");
    for (file, why) in [(nowhere.as_str(), "No such file or directory"), (&directory.file("."), "Is a directory")] {
        let said = check(&ovmf_2013(), &["--engine", "walker", "--json", file]).ends(BAD_INPUT);
        said.complains(&[&format!("efibed: {file}: {why}")]);
    }
    // It costs no run: one that is made first ends with another status, for want of KVM or of such a CPU.
    for result in ["--json", "--junit"] {
        let said = check(&ovmf_2013(), &["--cpu", "maxphyaddr=52,la57=on", result, &nowhere]).ends(BAD_INPUT);
        said.complains(&["No such file or directory"]);
    }
    assert!(directory.names().is_empty());
    // A run that fails leaves nothing.
    let file = directory.file("report.json");
    check(&ovmf_2013(), &["--cpu", "maxphyaddr=52,la57=on", "--json", &file]).ends(UNABLE);
    assert!(directory.names().is_empty());
}

fn a_file_that_fails_in_the_end_loses_no_report() {
    let said = check(&ovmf_2013(), &["--layout", "window", "--engine", "walker", "--json", "/dev/full"]).ends(INTERNAL);
    let (text, json) = said.out.split_once("{\n").unwrap();
    assert!(text.starts_with("clean: 5 regions"), "{said}");
    let document: Value = serde_json::from_str(&format!("{{\n{json}")).unwrap();
    assert_table_of_2013(&document);
    assert!(said.err.contains("/dev/full: No space left"), "{said}");
}

fn junit_has_a_case_for_each_region() {
    let directory = Directory::new();
    let file = directory.file("report.xml");
    let arguments = ["--layout", "packed-down", "--leaf-rule", "va-only", "--engine", "walker", "--junit", &file];
    check(&ovmf_2013(), &arguments).ends(FINDINGS).says(&["reserved-bit"]);
    let xml = fs::read_to_string(&file).unwrap();
    assert_eq!(directory.names(), ["report.xml"]);
    assert_eq!(xml.matches(r#"classname="regions""#).count(), 5, "{xml}");
    // Of the third and the fourth region, the only ones that have a large leaf.
    assert_eq!(xml.matches("<failure").count(), 2, "{xml}");
    assert!(
        xml.contains(r#"type="reserved-bit""#) && xml.contains("region 2: RuntimeServicesCode at 0x7dc5b000"),
        "{xml}"
    );

    let said = check(&ovmf_2013(), &["--layout", "window", "--engine", "walker", "--junit", "-"]).ends(CLEAN);
    assert!(said.out.starts_with("<?xml") && said.out.contains(r#"errors="0" failures="0""#), "{said}");
    let both = ["--engine", "walker", "--junit", "-", "--json", "-"];
    check(&ovmf_2013(), &both).ends(BAD_INPUT).complains(&["only one of the results"]);
}

fn sarif(text: &str) -> Value {
    let document: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(document["version"], "2.1.0");
    document["runs"][0].clone()
}

fn sarif_has_each_finding_in_its_file() {
    let arguments = [&BUG[..], &["--engine", "walker", "--sarif", "-"]].concat();
    let text = fs::read_to_string(ovmf_2013()).unwrap();
    let said = check(&ovmf_2013(), &arguments).ends(FINDINGS);
    let run = sarif(&said.out);
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for (result, region) in results.iter().zip(["region 2: ", "region 3: "]) {
        assert_eq!(result["ruleId"], "reserved-bit");
        let location = &result["locations"][0];
        let uri = location["physicalLocation"]["artifactLocation"]["uri"].as_str().unwrap();
        assert!(uri.ends_with("maps/ovmf-2013.toml"), "{uri}");
        let line = location["physicalLocation"]["region"]["startLine"].as_u64().unwrap() as usize;
        // The table of the descriptor that is meant.
        let rows: Vec<usize> =
            text.lines().zip(1..).filter(|(line, _)| line.starts_with("[[")).map(|(_, at)| at).collect();
        assert_eq!(region, format!("region {}: ", rows.iter().position(|row| *row == line).unwrap()));
        let place = location["logicalLocations"][0]["fullyQualifiedName"].as_str().unwrap();
        assert!(place.starts_with(region), "{place}");
    }
    let said = check(&ovmf_2013(), &["--engine", "walker", "--layout", "window", "--sarif", "-"]).ends(CLEAN);
    assert_eq!(sarif(&said.out)["results"], serde_json::json!([]));
    let map = ovmf_2013();
    let said = efibed([&["kexec", &map, &map, "--engine", "walker", "--sarif", "-"], &BUG[..]].concat()).ends(FINDINGS);
    assert_eq!(sarif(&said.out)["results"].as_array().unwrap().len(), 4);
}

fn what_changed_from_map_to_map_is_told() {
    let truth = |name: &str| repository(&format!("truth/{name}.txt"));
    let (q35, smm) = (truth("q35-2g.memmap"), truth("q35-smm-2g.memmap"));
    efibed(["diff", &q35, &q35]).ends(CLEAN).says(&["the same: ", "hibernation: Linux's e820 table is the same\n"]);
    // What Linux mapped is what firmware had, and a page of boot services that Linux keeps.
    let said = efibed(["diff", &q35, &truth("q35-2g.runtime-map")]).ends(CLEAN);
    said.says(&[
        "1 range changed, 1 of them with RUNTIME",
        "0x7d778000-0x7d778fff  4 KiB  attributes  usable memory  BootServicesData UC|WC|WT|WB|RUNTIME",
        "linux        computes the same address for each of 5 regions",
        "hibernation: not compared",
    ]);
    // Firmware with SMM has its regions elsewhere.
    let said = efibed(["diff", &q35, &smm]).ends(FINDINGS);
    said.says(&[
        "linux-fixed  finds other memory there",
        "Linux does not resume",
        "0x30000-0x4ffff, usable before and reserved",
    ]);
    let document: Value = serde_json::from_str(&efibed(["diff", &q35, &smm, "--json", "-"]).out).unwrap();
    assert_eq!((&document["breaks"], &document["addresses"][0]["layout"]), (&true.into(), &"linux".into()));
    assert!(document["changes"].as_array().unwrap().len() > document["e820"].as_array().unwrap().len());
    // What a part of a map lacks is no difference: the whole map, and a log that has only the MMIO of it.
    let directory = Directory::new();
    let part = directory.file("part.txt");
    fs::write(&part, "efi: Not removing mem87: MMIO range=[0xffc00000-0xffffffff] (4MB) from e820 map\n").unwrap();
    let said = efibed(["diff", &q35, &part]).ends(CLEAN);
    said.says(&["the same, as far as both go: one is a part of a map", "hibernation: not compared"]);
    efibed(["diff", &q35]).ends(BAD_INPUT).complains(&["<SECOND>"]);
}

fn tables_are_shown_run_by_run() {
    let said = check(&ovmf_2013(), &["--layout", "window", "--engine", "walker", "--tables"]).ends(CLEAN);
    // The one large leaf of region 2: VA = -4 GiB - 0x80000000 + PA (window), at the one multiple of 2 MiB that has room.
    let row = "0xfffffffefde00000-0xfffffffefdffffff     2 MiB    2M  RWX-    WB (0)    0x7de00000  region 2 RuntimeServicesCode";
    said.says(&["page tables after phase map", row]);
    // Two phases, where the second changes something: boot services are unmapped.
    let said = check(&ovmf_2013(), &["--engine", "walker", "--tables", "--json", "-"]);
    let document: Value = serde_json::from_str(&said.out).unwrap();
    let runs = |phase: usize, phys: &str| {
        let runs = document["tables"][phase]["runs"].as_array().unwrap();
        runs.iter().filter(|run| run["phys"] == phys && run["leaf"] == "PDE").count()
    };
    assert_eq!((&document["tables"][0]["phase"], &document["tables"][1]["phase"]), (&"map".into(), &"finish".into()));
    // 1:1, and in the window.
    assert_eq!((runs(0, "0x800000"), runs(1, "0x800000")), (2, 0));
    let without = check(&ovmf_2013(), &["--engine", "walker", "--json", "-"]);
    assert!(without.out.contains(r#""tables": []"#), "{without}");
    let said = efibed([&["show", &ovmf_2013(), "--tables"], &BUG[..]].concat()).ends(CLEAN);
    said.says(&["nothing translates: reserved bits 0x166000"]);
    let both = efibed(["check", &ovmf_2013(), &ovmf_2013(), "--tables", "--engine", "walker"]).ends(BAD_INPUT);
    both.complains(&["--tables is for one map"]);
}

fn several_maps_have_a_line_each_and_one_verdict() {
    let (clean, guilty) = (repository("maps/over-64g.toml"), ovmf_2013());
    let several = |arguments: &[&str]| efibed([&["check", &clean, &guilty, "--engine", "walker"], arguments].concat());
    let said = several(&BUG).ends(FINDINGS).without_errors();
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with(&clean) && lines[0].contains("clean: 4 regions, 560 pages"), "{said}");
    assert!(lines[1].starts_with(&guilty) && lines[1].contains("2 findings: reserved-bit (2)"), "{said}");
    assert_eq!(
        lines[3..],
        [
            "2 maps: 1 clean, 1 with findings".into(),
            format!("The whole report:  efibed check {guilty}  (and the same options)")
        ]
    );

    let document: Value = serde_json::from_str(&several(&[&BUG[..], &["--json", "-"]].concat()).out).unwrap();
    assert_eq!((&document["schema"], &document["verdict"]), (&1.into(), &"findings".into()));
    let reports: Vec<&Value> = document["maps"].as_array().unwrap().iter().map(|map| &map["report"]).collect();
    assert_eq!(reports.iter().map(|report| &report["verdict"]).collect::<Vec<_>>(), ["clean", "findings"]);
    let alone = check(&guilty, &[&BUG[..], &["--engine", "walker", "--json", "-"]].concat());
    let alone: Value = serde_json::from_str(&alone.out).unwrap();
    assert_eq!((&reports[1]["findings"], &reports[1]["regions"]), (&alone["findings"], &alone["regions"]));

    let xml = several(&[&BUG[..], &["--junit", "-"]].concat()).out;
    assert_eq!((xml.matches("<testsuite ").count(), xml.matches("<failure").count()), (2, 2), "{xml}");
    several(&["--layout", "packed-down"]).ends(CLEAN).says(&["2 maps: 2 clean"]);
}

fn a_file_that_is_no_map_keeps_a_folder_from_being_clean() {
    let directory = Directory::new();
    fs::copy(ovmf_2013(), directory.file("a.toml")).unwrap();
    fs::write(directory.file("b.txt"), "no map\n").unwrap();
    fs::write(directory.file("README.md"), "of these maps\n").unwrap();
    let folder = directory.file("");
    let said = efibed(["check", &folder, "--engine", "walker", "--layout", "window"]).ends(BAD_INPUT);
    assert!(said.err.contains("b.txt:1:1: no EFI memory map"), "{said}");
    said.says(&["clean: 5 regions", "not checked: at 1:1: no EFI memory map", "2 maps: 1 clean, 1 not read"]);
    for (option, says) in [
        ("--json", r#""verdict": "incomplete""#),
        ("--junit", r#"errors="1" failures="0""#),
        ("--sarif", r#""executionSuccessful": false"#),
    ] {
        efibed(["check", &folder, "--engine", "walker", "--layout", "window", option, "-"])
            .ends(BAD_INPUT)
            .says(&[says]);
    }
    // A result may not be one of the maps.
    let map = directory.file("a.toml");
    efibed(["check", &folder, "--engine", "walker", "--json", &map]).ends(BAD_INPUT).complains(&["it is an input"]);
    fs::remove_file(directory.file("b.txt")).unwrap();
    efibed(["check", &folder, "--engine", "walker", "--layout", "window"]).ends(CLEAN).says(&["1 map: 1 clean"]);
}

fn several_maps_in_guests_are_as_each_alone() {
    let maps = ["ovmf-2013.toml", "lenovo-01.txt", "off-by-page.toml", "bad/overlap.toml"];
    let maps = maps.map(|map| repository(&format!("maps/{map}")));
    let of = |maps: &[String], arguments: &[&str]| {
        let maps: Vec<&str> = maps.iter().map(String::as_str).collect();
        let said = efibed([&["check", "--quiet", "--json", "-"], &maps[..], arguments].concat());
        serde_json::from_str::<Value>(&said.out).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let each = maps.each_ref().map(|map| of(std::slice::from_ref(map), &[]));
    for arguments in [&["--jobs", "3"][..], &["--no-sandbox"]] {
        let all = of(&maps, arguments);
        assert_eq!(all["verdict"], "findings");
        for (map, alone) in all["maps"].as_array().unwrap().iter().zip(&each) {
            for key in ["verdict", "findings", "regions", "calls"] {
                assert_eq!(map["report"][key], alone[key], "{}", map["source"]);
            }
        }
    }
}

fn the_matrix_and_a_campaign_have_junit_and_sarif_too() {
    let directory = Directory::new();
    let [junit, sarif_file] = ["a.xml", "a.sarif"].map(|name| directory.file(name));
    let places = ["--junit", &junit, "--sarif", &sarif_file];
    let results = || {
        let [xml, run] = [&junit, &sarif_file].map(|file| fs::read_to_string(file).unwrap());
        (xml, sarif(&run)["results"].as_array().unwrap().len())
    };
    efibed([&["matrix", "--sample", "2000", "--quiet"], &places[..]].concat()).ends(CLEAN);
    let (xml, found) = results();
    assert!(xml.contains(r#"errors="0" failures="0""#) && xml.contains("combinations of the set access"), "{xml}");
    assert_eq!(found, 0);
    let out = directory.file("out");
    let fuzz = ["fuzz", "--engine", "walker", "--cores", "1", "--runs", "200", "--max-pages", "1024", "--quiet"];
    efibed([&fuzz[..], &["--out", &out], &BUG[..], &places[..]].concat()).ends(FINDINGS);
    let (xml, found) = results();
    assert!(found > 0 && xml.matches("<failure").count() == found, "{found}: {xml}");
    assert!(xml.contains(r#"type="reserved-bit""#), "{xml}");
}

fn a_limit_that_is_none_is_a_usage_error() {
    for limit in ["0", "-1", "86401", "soon"] {
        check(&ovmf_2013(), &["--engine", "walker", &format!("--limit={limit}")])
            .ends(BAD_INPUT)
            .complains(&["--limit"]);
    }
    check(&ovmf_2013(), &["--layout", "window", "--engine", "walker", "--limit", "60"]).ends(CLEAN).without_errors();
}

fn doctor_tells_what_it_tried() {
    let said = efibed(["doctor"]).ends(CLEAN).without_errors();
    said.says(&["/dev/kvm works", "1 GiB leaves", "physical-address bits", "What was tried:"]);
    let said = efibed(["doctor", "--json", "-"]).ends(CLEAN).without_errors();
    let document = said.json();
    assert_eq!(document["schema"], 1);
    for key in ["cpu", "cpu_checked"] {
        assert!((32..=52).contains(&document[key]["maxphyaddr"].as_u64().unwrap()), "{said}");
        for ability in ["nx", "gbpages", "la57", "smep", "smap", "pku", "reserved_fault_sets_p"] {
            assert!(document[key][ability].is_boolean(), "{key}.{ability}: {said}");
        }
    }
    let trials = document["trials"].as_array().unwrap();
    assert!(trials.len() >= 6, "{said}");
    for trial in trials {
        assert!(trial["what"].is_string() && trial["seen"].is_string() && trial["as_told"].is_boolean(), "{trial}");
    }

    let directory = Directory::new();
    let file = directory.file("doctor.json");
    efibed(["doctor", "--json", &file]).ends(CLEAN).says(&["/dev/kvm works"]);
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    // What is seen of a limit may differ from one time to the next: a software KVM answers an access to its own part of the
    // address space with one of two faults.
    let told = |mut document: Value| {
        for trial in document["trials"].as_array_mut().unwrap() {
            trial["seen"].take();
        }
        document
    };
    assert_eq!(told(written), told(document));
    assert_eq!(directory.names(), ["doctor.json"]);
}

/// What is asked for by name must be there, by CPUID and by trying.
fn what_the_machine_has_not_is_refused() {
    let abilities = efibed(["doctor", "--json", "-"]).ends(CLEAN).json();
    for (option, ability, name) in [
        ("1g=on", "gbpages", "1 GiB pages"),
        ("la57=on", "la57", "five-level paging"),
        ("pku=on", "pku", "protection keys"),
    ] {
        let said = check(&ovmf_2013(), &["--layout", "window", "--cpu", option]);
        if abilities["cpu_checked"][ability] == true {
            said.ends(CLEAN);
        } else {
            said.ends(UNABLE).complains(&["this machine cannot do", name, "efibed doctor"]);
        }
    }
}

fn the_matrix_is_told_to_programs() {
    let said = efibed(["matrix", "--sample", "500", "--seed", "7", "--shard", "1/1", "--json", "-"]);
    assert_eq!(said.status, CLEAN, "{}", said.err);
    let report = said.json();
    let keys = [
        "schema",
        "set",
        "combinations",
        "faults",
        "distinct_error_codes",
        "mismatches",
        "deviations",
        "skipped",
        "seconds",
    ];
    assert!(keys.iter().all(|key| !report[key].is_null()), "{}", said.out);
    assert_eq!(report["combinations"], 500);
    assert_eq!(report["mismatches"], 0);
    assert!(report["faults"].as_u64().is_some_and(|faults| (400..500).contains(&faults)), "{}", report["faults"]);
    assert!(report["per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    let text = efibed(["matrix", "--sample", "500", "--seed", "7"]);
    assert!(text.out.contains("Paging matrix, set access, a sample of 500 with seed 7\n"), "{}", text.out);
    let faults = report["faults"].as_u64().unwrap();
    assert!(text.out.contains(&format!("faults       {faults:>12} ")), "{}", text.out);
    assert!(text.out.contains("\nClean: this KVM does as the SDM says"), "{}", text.out);
    assert!(report["floor_per_second"].is_null() && !text.out.contains("bare loops"), "{}", text.out);
    let beside = efibed(["matrix", "--sample", "500", "--floor", "--json", "-"]).json();
    assert!(beside["floor_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{beside}");
    // There is less to do than shards.
    let empty = efibed(["matrix", "--sample", "500", "--shard", "3/3"]);
    assert!(empty.out.contains("\nNothing was tried: this share of it is empty.\n"), "{}", empty.out);
}

const COMBINATION: &str =
    "pml4e.p pml4e.w pml4e.u pdpte.p pdpte.w pdpte.u pde.p pde.w pde.u pte.p pte.w efer.nx cr0.wp";

fn a_combination_is_shown_with_its_tables() {
    let said = efibed(["matrix", "--case", &format!("{COMBINATION} user")]);
    assert_eq!(said.status, CLEAN, "{}{}", said.out, said.err);
    for part in ["  PML4E    at 0x", "  PTE      at 0x", "expected  #PF 0x5 (P U), CR2 0x", "As the SDM says."] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    // The example of `--help`.
    let said = efibed(["matrix", "--case", "pml4e.p pdpte.p pde.p pde.ps pde.b13 user"]);
    assert!(said.out.contains("expected  #PF 0xd (P U RSVD), CR2 0x"), "{}", said.out);
    let said = efibed(["matrix", "--case", &format!("{COMBINATION} write"), "--json", "-"]);
    let single = said.json();
    let pte = &single["walk"][3];
    assert_eq!(pte["level"], "PTE");
    // The write has set A and D.
    let word = |key: &str| u64::from_str_radix(pte[key].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    assert_eq!(word("after"), word("entry") | 0x60);
}

fn what_is_no_combination_is_bad_input() {
    let cases =
        [("pte.p write fetch", "not both"), ("pte.q", "`pte.q` is no bit"), ("pte.b13", "would lead elsewhere")];
    for (case, why) in cases {
        let said = efibed(["matrix", "--case", case]);
        assert_eq!(said.status, BAD_INPUT, "{}", said.out);
        // Long lines are broken.
        let words = said.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(words.contains(why), "{words}");
    }
    assert_eq!(efibed(["matrix", "--shard", "4/3"]).status, BAD_INPUT);
    assert_eq!(efibed(["matrix", "--case", "pte.p", "--sample", "3"]).status, BAD_INPUT);
}
