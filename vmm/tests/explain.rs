//! `efibed explain` as its users run it.

mod said;

use std::process::Command;

use said::{Said, efibed, efibed_reading, repository};
use serde_json::Value;

const CLEAN: i32 = 0;
const FINDINGS: i32 = 1;
const BAD_INPUT: i32 = 2;

#[track_caller]
fn explain(arguments: &[&str]) -> Said {
    let said = efibed(["explain"].iter().chain(arguments)).ends(CLEAN).without_errors();
    assert!(said.out.lines().all(|line| line.chars().count() <= 100), "{said}");
    said
}

fn ovmf_2013() -> String {
    repository("maps/ovmf-2013.toml")
}

/// The lines that a phase's part of an answer has.
fn phase<'a>(said: &'a Said, name: &str) -> &'a str {
    let start = said.out.find(&format!("Phase `{name}`")).unwrap_or_else(|| panic!("no phase {name}: {said}"));
    let part = &said.out[start..];
    &part[..part.find("\n\n").unwrap_or(part.len())]
}

/// What is said of an access.
fn access<'a>(part: &'a str, name: &str) -> &'a str {
    let line = part.lines().find_map(|line| line.trim_start().strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}: {part}")).trim()
}

#[test]
fn rules_are_explained() {
    explain(&["reserved-bit"]).says(&["reserved-bit (error", "faults with RSVD", "Usual causes:"]);
    let list = explain(&["rules"]);
    let rules: Vec<&str> = list.out.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(rules.len() > 20, "{list}");
    for rule in rules.iter().map(|line| line.split(' ').next().unwrap()) {
        explain(&[rule]).says(&[&format!("{rule} (")]);
    }
}

#[test]
fn error_codes_are_read_as_they_are_printed() {
    let printed: [&[&str]; 12] = [
        &["0x19"],
        &["19"],
        &["0019"],
        &["error_code(0x0019)"],
        &["error_code=0019"],
        &["[error_code=0019]"],
        &["ec=0x0019"],
        &["Oops:", "0019", "[#1]", "PREEMPT", "SMP"],
        &["Oops: 0019 [#1] PREEMPT SMP"],
        &["ExceptionData", "-", "0000000000000019"],
        &["ExceptionData - 0000000000000019  I:1 R:1 U:0 W:0 P:1 PK:0 SS:0 SGX:0"],
        &["#PF: error_code(0x0019) - reserved bit violation"],
    ];
    for words in printed {
        let said = explain(words);
        let said =
            said.says(&["#PF error code 0x19 (P RSVD I)", "a supervisor fetch met a reserved bit in a table entry"]);
        // Only who wrote a number that looks decimal is told how it was read.
        assert_eq!(said.out.contains("`19` is taken as hexadecimal"), words == ["19"], "{said}");
    }
    explain(&["0x1e88180"]).says(&["bit 19 has no meaning", "If the number is an address, `efibed explain MAP VA`"]);
    explain(&["fault code = supervisor write data, protection violation"]).says(&["#PF error code 0x3 (P W)"]);
}

#[test]
fn what_cannot_be_explained_is_bad_input() {
    let map = ovmf_2013();
    let over = repository("maps/over-64g.toml");
    let cases: [(&[&str], &[&str]); 14] = [
        (&[], &["<WHAT>", "efibed explain MAP --phys PA"]),
        (&["nonsense"], &["`nonsense` is neither a rule nor an error code", "a map and an address"]),
        (&["0x1ffffffff"], &["neither a rule nor an error code"]),
        (&["no-such-file", "0x1000"], &["no-such-file: no such file"]),
        (&[&map], &["is a file, and nothing is asked about it", "efibed explain MAP VA"]),
        (&[&map, "zz"], &["expected an address in hexadecimal"]),
        (&[&map, "--phys", "zz"], &["expected an address in hexadecimal"]),
        (&[&map, "0x1000", "--phys", "0x1000"], &["`--phys` goes with a map and no virtual address"]),
        (&["--phys", "0x1000"], &["<WHAT>"]),
        (&[&over, "0x1000", "--layout", "window"], &["there are no tables to walk", "--layout"]),
        (&["--entry", "pde"], &["2 values required"]),
        (&["--entry", "page", "0x1"], &["`page` is no level of page tables", "pml4e"]),
        (&["--entry", "pde", "0x1ffffffffffffffff"], &["is no 64-bit number"]),
        (&[&map, "--entry", "pde", "0x1"], &["cannot be used with"]),
    ];
    for (arguments, parts) in cases {
        efibed(["explain"].iter().chain(arguments)).ends(BAD_INPUT).complains(parts);
    }
}

#[test]
fn options_that_change_nothing_are_errors() {
    let map = ovmf_2013();
    let log = repository("truth/q35-2g.memmap.txt");
    let cases: [(&[&str], &str); 20] = [
        (&[&map, "0x1000", "--engine", "walker"], "`--engine`"),
        (&[&map, "--phys", "0x1000", "--engine", "kvm"], "`--engine`"),
        (&[&map, "0x1000", "--lenient"], "`--lenient`"),
        (&[&map, "0x1000", "--stride", "48"], "`--stride`"),
        (&[&log, "0x1000", "--stride", "48"], "`--stride`"),
        (&[&map, "0x1000", "--firmware", "seam"], "`--firmware seam`"),
        (&[&map, "0x1000", "--firmware", "calls=off"], "`--firmware calls`"),
        (&[&map, "0x1000", "--firmware", "descriptor-version=0"], "`--firmware descriptor-version`"),
        (&[&map, "0x1000", "--kernel", "interrupts"], "`--kernel interrupts`"),
        (&[&map, "0x1000", "--kernel", "guard-page=on"], "`--kernel guard-page`"),
        (&[&map, "0x1000", "--kernel", "descriptor-version=1"], "`--kernel descriptor-version`"),
        (&[&map, "0x1000", "--kernel", "variable-bytes=9"], "`--kernel variable-bytes`"),
        (&[&map, "0x1000", "--layout", "window", "--kernel", "finish=off"], "`--kernel finish`"),
        (&["reserved-bit", "--layout", "window"], "`--layout`"),
        (&["rules", "--leaf-rule", "4k"], "`--leaf-rule`"),
        (&["0x11", "--cpu", "nx=off"], "`--cpu`"),
        (&["0x11", "--engine", "walker"], "`--engine`"),
        (&["0x11", "--format", "toml"], "`--format`"),
        (&["--entry", "pte", "0x1", "--layout", "window"], "`--layout`"),
        (&["--entry", "pte", "0x1", "--list", "1"], "`--list`"),
    ];
    for (arguments, option) in cases {
        let said = efibed(["explain"].iter().chain(arguments)).ends(BAD_INPUT);
        said.complains(&[&format!("{option} changes nothing"), "leave it out"]);
    }
    // And those that change something are none.
    let useful: [&[&str]; 6] = [
        &[&map, "0x1000", "--kernel", "finish=off"],
        &[&map, "0x1000", "--kernel", "descriptor-size=40", "--firmware", "descriptor-size=40"],
        &[&map, "0x1000", "--firmware", "attributes-table"],
        &[&map, "0x1000", "--cpu", "nx=off", "--leaf-rule", "4k", "--layout", "window"],
        &[&log, "0x1000", "--lenient", "--list", "1", "--format", "linux-x86"],
        &["--entry", "pte", "0x1", "--cpu", "maxphyaddr=36"],
    ];
    for arguments in useful {
        explain(arguments);
    }
}

/// By the table of 2 October 2013, in the map's own comment: 0xfffffffefdc5b000 is 0x7dc5b000.
#[test]
fn a_regions_address_is_followed() {
    for virt in ["0xfffffffefdc5b123", "fffffffefdc5b123", "0xffff_fffe_fdc5_b123"] {
        let said = explain(&[&ovmf_2013(), virt, "--layout", "window"]).says(&[
            "The address is region 2's (RuntimeServicesCode), 0x123 bytes from its start; it must reach PA 0x7dc5b123.",
            "Phase `finish` changes no table: all is as in phase `map`.",
        ]);
        let map = phase(&said, "map");
        assert!(map.lines().next().unwrap().ends_with(": right"), "{said}");
        for level in ["PML4E", "PDPTE", "PDE", "PTE"] {
            assert!(map.lines().any(|line| line.trim_start().starts_with(level)), "{said}");
        }
        for name in ["supervisor read", "supervisor write", "supervisor fetch"] {
            assert_eq!(access(map, name), "reaches PA 0x7dc5b123 by a PTE: right");
        }
        let refused = [("user read", "0x5 (P U)"), ("user write", "0x7 (P W U)"), ("user fetch", "0x15 (P U I)")];
        for (name, code) in refused {
            assert!(access(map, name).starts_with(&format!("faults with #PF {code}: right, ")), "{said}");
        }
        assert!(access(map, "the PTE").contains("writable, executable, supervisor only, PAT index 0 (WB)"), "{said}");
    }
}

/// The finding of the check, and every access, say what is wrong.
#[test]
fn wrong_leaves_are_called_wrong() {
    let map = ovmf_2013();
    let arguments = [&map, "0xfffffffeff400000", "--layout", "packed-down", "--leaf-rule", "va-only"];
    let said = explain(&arguments).says(&[
        "reserved bits are set",
        "bits 20, 18:17, 14:13 are set",
        "region 2's (RuntimeServicesCode), 0x10b000 bytes from its start; it must reach PA 0x7dd66000",
    ]);
    let part = phase(&said, "map");
    assert!(part.lines().next().unwrap().ends_with(": WRONG because of `reserved-bit`"), "{said}");
    assert_eq!(access(part, "supervisor fetch"), "faults with #PF 0x19 (P RSVD I): WRONG, it must reach PA 0x7dd66000");
    assert!(access(part, "user read").contains("WRONG"), "a reserved bit is no refusal: {said}");
    let masked = explain(&[&arguments[..4], &["--leaf-rule", "va-only-masked"]].concat());
    assert!(phase(&masked, "map").lines().next().unwrap().ends_with(": WRONG because of `wrong-frame`"), "{masked}");
}

/// Boot services are mapped, and dropped in phase `finish`; with `finish=off` they stay.
#[test]
fn boot_services_go_in_phase_finish() {
    let map = ovmf_2013();
    let said = explain(&[&map, "0x7c000000"])
        .says(&["region 1's (BootServicesData)", "boot services, dropped in phase `finish`"]);
    assert_eq!(access(phase(&said, "map"), "supervisor write"), "reaches PA 0x7c000000 by a PTE: right");
    assert!(
        access(phase(&said, "map"), "supervisor fetch").starts_with("faults with #PF 0x11 (P I): right, "),
        "{said}"
    );
    assert_eq!(
        access(phase(&said, "finish"), "supervisor write"),
        "faults with #PF 0x2 (W): right, boot services, dropped"
    );
    let kept = explain(&[&map, "0x7c000000", "--kernel", "finish=off"]);
    kept.says(&["Phase `finish` is not run: all stays as in phase `map`."]);
}

/// mem08 is Conventional, of 0x4a00000 to 0x7ada8fff; mem00 has page 0.
#[test]
fn what_is_not_mapped_has_a_reason() {
    let map = repository("truth/q35-2g.memmap.txt");
    let said = explain(&[&map, "0x4a00000"]);
    let said = said.says(&["descriptor 8, ConventionalMemory: layouts map RUNTIME and boot services only"]);
    for name in ["map", "finish"] {
        assert!(phase(&said, name).lines().next().unwrap().ends_with(": right"), "{said}");
        assert!(access(phase(&said, name), "supervisor read").starts_with("faults with #PF 0x0: right, "), "{said}");
    }
    let zero = ["page 0: kept 1:1 on purpose", "descriptor 0, ConventionalMemory"];
    explain(&[&map, "0xabc"]).says(&zero).says(&["reaches PA 0xabc by a PTE: right"]);
    // Under a layout without 1:1 it is as any other.
    explain(&[&map, "0xabc", "--layout", "window"])
        .says(&["descriptor 0, ConventionalMemory: layouts map RUNTIME and"]);

    let ovmf = ovmf_2013();
    let window = ["--layout", "window"];
    let at = |virt: &str, arguments: &[&str]| explain(&[&[ovmf.as_str(), virt], arguments].concat());
    at("0x7dc5b000", &window).says(&[
        "descriptor 2, RuntimeServicesCode: layout `window` maps it, this byte at VA 0xfffffffefdc5b000, and nothing 1:1",
    ]);
    at("0xfffffffefc020000", &window).says(&["belongs to no region of the map. It lies where layout `window` may map"]);
    at("0x123456789000", &window).says(&["outside every range in which layout `window` maps regions"]);
    at("0xffffffff80000000", &window).says(&["the kernel that runs the mapping code", "as on the kernel's own tables"]);
    at("0x1000000000000000", &[]).says(&["not canonical", "faults with #GP(0x0)", "right, no table is read"]);
    at("0x7c000000", &["--layout", "linux-fixed"])
        .says(&["descriptor 1, BootServicesData: layout `linux-fixed` maps RUNTIME only"]);
}

/// As the log of a machine had it, except for the second row: the first page of the image may not be executed, two may not
/// be written, the last may not be executed.
const WITH_ATTRIBUTES: &str = "\
efi: mem00: [Conventional|   |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000100000-0x00000000793fffff] (1939MB)
efi: mem01: [Runtime Data|RUN|  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000079400000-0x000000007951bfff] (1MB)
efi: mem02: [Runtime Code|RUN|  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x000000007951c000-0x0000000079520fff] (0MB)
efi: memattr:  0x00007951c000-0x00007951cfff [Runtime Code       |RUN|  |  |XP|  |  |  |  |   |  |  |  |  ]
efi: memattr:  0x00007951d000-0x00007951efff [Runtime Code       |RUN|  |  |  |  |  |  |RO|   |  |  |  |  ]
efi: memattr:  0x00007951f000-0x000079520fff [Runtime Code       |RUN|  |  |XP|  |  |  |  |   |  |  |  |  ]
";

#[test]
fn the_memory_attributes_table_is_in_force_in_phase_finish() {
    let at = |virt| efibed_reading(["explain", "-", virt], WITH_ATTRIBUTES.as_bytes()).ends(CLEAN);
    let right = "reaches PA 0x7951d000 by a PTE: right";
    let said = at("0x7951d000");
    assert_eq!(access(phase(&said, "map"), "supervisor write"), right);
    assert_eq!(access(phase(&said, "finish"), "supervisor fetch"), right);
    assert_eq!(
        access(phase(&said, "finish"), "supervisor write"),
        "faults with #PF 0x3 (P W): right, the Memory Attributes Table makes it read-only"
    );
    let said = at("0x7951c000");
    assert!(access(phase(&said, "map"), "supervisor fetch").ends_with("right"), "{said}");
    assert!(
        access(phase(&said, "finish"), "supervisor fetch").starts_with("faults with #PF 0x11 (P I): right, "),
        "{said}"
    );
}

/// Worked out by hand, from the last region down from -4 GiB, VA = PA modulo 2 MiB: 0x7ffe0000 of 0x20 pages at
/// 0xfffffffefffe0000, 0x7fa65000 of 0x57b at 0xfffffffeffa65000; below it 0x4eb pages start at 0xfffffffeff57a000 at
/// most, and at 0x7dc5b000 modulo 2 MiB: 0xfffffffeff45b000.
#[test]
fn a_physical_address_has_all_of_its_virtual_ones() {
    let map = ovmf_2013();
    let said = explain(&[&map, "--phys", "0x7dc5b123"]).says(&[
        "descriptor 2, RuntimeServicesCode",
        "VA 0x7dc5b123, region 2's: 1:1",
        "VA 0xfffffffeff45b123, region 2's: as SetVirtualAddressMap is told",
        "right; reaches PA 0x7dc5b123 by a PTE: writable, executable, supervisor only, PAT index 0 (WB)",
    ]);
    let count = |text: &str, part: &str| text.matches(part).count();
    assert_eq!(
        [count(&said.out, "\nVA "), count(&said.out, "  map  "), count(&said.out, "  finish ")],
        [2, 2, 2],
        "{said}"
    );
    assert!(!said.out.contains("WRONG"), "{said}");

    let boot = explain(&[&map, "--phys", "7c000000"]).says(&["boot services, dropped in phase `finish`"]);
    assert_eq!(count(&boot.out, "right"), 4, "{boot}");
    let one = explain(&[&map, "--phys", "0x7dc5b123", "--layout", "window"]);
    let one = one.says(&["VA 0xfffffffefdc5b123, region 2's", "Phase `finish` changes no table"]);
    assert_eq!(count(&one.out, "\nVA "), 1, "{one}");
    explain(&[&map, "--phys", "0x10000000"]).says(&["No descriptor covers it.", "No virtual address leads to it"]);
    // A frame that is reached from elsewhere, and its own address, which reaches another.
    let arguments = ["--layout", "packed-down", "--leaf-rule", "va-only-masked"];
    let wrong = explain(&[&[map.as_str(), "--phys", "0x7dd66000"][..], &arguments].concat());
    let wrong = wrong.says(&[
        "VA 0xfffffffeff400000, region 2's",
        "WRONG because of `wrong-frame`",
        "which must lead elsewhere",
    ]);
    assert_eq!(count(&wrong.out, "right;"), 0, "{wrong}");
}

/// The region starts 0x180 bytes into page 0x1e88000 and has one page: its last byte is 0x1e8917f. Linux tells firmware
/// 0xfffffffeffe88180: the highest page below the next region's, 0xfffffffeffefa000, that equals it modulo 2 MiB.
#[test]
fn an_unaligned_region_has_one_address_and_a_tail() {
    let map = repository("maps/freebsd-lx2160a-01.txt");
    let told = "0xfffffffeffe88180";
    let json = efibed(["check", &map, "--engine", "walker", "--json", "-"]).ends(FINDINGS).json();
    assert_eq!((&json["regions"][0]["virt"], &json["regions"][0]["aliases"][0]), (&told.into(), &"0x1e88180".into()));
    assert_eq!(json["regions"][0]["verdict"], "wrong");
    let findings = json["findings"].as_array().unwrap();
    let of_rule = |rule: &'static str| findings.iter().filter(move |finding| finding["rule"] == rule);
    let tails: Vec<&Value> = of_rule("not-present").map(|finding| &finding["virt"]).collect();
    assert!(tails.iter().all(|virt| [&"0x1e89000".into(), &"0xfffffffeffe89000".into()].contains(virt)), "{tails:?}");
    assert_eq!(
        (of_rule("not-present").all(|it| it["pages"] == 1 && it["region"] == 0), tails.len() >= 2),
        (true, true)
    );
    assert_eq!(findings.len() - tails.len(), of_rule("map-unaligned").count());
    for command in
        [&["check", &map, "--engine", "walker"][..], &["show", &map], &["explain", &map, "--phys", "0x1e88180"]]
    {
        assert!(efibed(command).out.contains(told), "{command:?}");
    }

    let first = explain(&[&map, told])
        .says(&["region 0's (MemoryMappedIO), 0x0 bytes from its start; it must reach PA 0x1e88180"]);
    assert!(phase(&first, "map").lines().next().unwrap().ends_with(": right"), "{first}");
    explain(&[&map, "0x1e88000"]).says(&["0x180 bytes before region 0's start (MemoryMappedIO), in the same page"]);
    for tail in ["0xfffffffeffe89000", "0x1e89000", "0x1e8917f"] {
        let said = explain(&[&map, tail]).says(&["the region's own tail", "its last 0x180 bytes"]);
        for name in ["map", "finish"] {
            assert!(phase(&said, name).lines().next().unwrap().ends_with(": WRONG because of `not-present`"), "{said}");
        }
    }
}

/// 0x386000e1: P, A, D, PS; bits 31:21 are the address.
#[test]
fn an_entry_is_decoded_bit_by_bit() {
    for (level, value) in [("pde", "0x386000e1"), ("PDE", "386000e1"), ("pmd", "00000000386000e1")] {
        explain(&["--entry", level, value]).says(&[
            "PDE 0x00000000386000e1 maps a 2 MiB page at PA 0x38600000.",
            "45:21 address - of the 2 MiB page: 0x38600000",
            "20:13 reserved 0x0",
            "7 PS 1",
            "1 R/W 0",
            "0 P 1",
            "table 4-18",
        ]);
    }
    let narrow = ["--entry", "pte", "0x4000000003", "--cpu", "maxphyaddr=36"];
    explain(&narrow).says(&["51:36 reserved 0x4 SET", "every access through it faults", "bit 38 is set"]);
    explain(&narrow[..3]).says(&["maps a 4 KiB page at PA 0x4000000000"]);
    explain(&["--entry", "pte", "8000000000001003", "--cpu", "nx=off"]).says(&["63 reserved 1 SET"]);
}

/// Every example of the help is run, by a shell, on a real map.
#[test]
fn the_help_teaches_by_examples_that_work() {
    let help = efibed(["explain", "--help"]).ends(CLEAN).without_errors();
    let help = help.says(&["efibed explain RULE | rules", "ERROR_CODE", "MAP --phys PA", "--entry LEVEL VALUE"]);
    let examples =
        help.out.lines().filter_map(|line| line.strip_prefix("  efibed ")).filter(|line| line.contains("explain"));
    // What is explained stands two spaces and more to the right.
    let commands: Vec<&str> = examples.map(|line| line.split("  ").next().unwrap()).collect();
    assert!(commands.len() >= 8, "{help}");
    for command in commands {
        let line = command.replace("map.txt", &ovmf_2013());
        let line = format!("{} {line}", env!("CARGO_BIN_EXE_efibed"));
        let status = Command::new("sh").args(["-c", &line]).output().unwrap().status;
        assert!(status.success(), "{line}");
    }
}
