//! `efibed oops` as its users run it, on page faults that people reported.
//!
//! What is expected of each was worked out by hand from the log, the SDM and the UEFI specification.

mod said;

use efibed::Random;
use libtest_mimic::{Arguments, Trial};
use said::{Directory, Said, any, efibed, efibed_reading, kvm, repository};
use serde_json::Value;

fn main() {
    let mut trials: Vec<Trial> = vec![
        any("every_file_has_a_row", every_file_has_a_row),
        any("dress_and_order_of_a_log_change_nothing", dress_and_order_of_a_log_change_nothing),
        any("a_damaged_log_is_read_or_refused", a_damaged_log_is_read_or_refused),
        any("what_is_no_page_fault_is_told_apart", what_is_no_page_fault_is_told_apart),
        any("the_first_fault_about_efi_is_taken", the_first_fault_about_efi_is_taken),
        any("what_is_read_only_is_blamed_on_nobody_without_a_map", what_is_read_only_is_blamed_on_nobody_without_a_map),
        any("page_zero_is_page_zero_whatever_the_map_has_there", page_zero_is_page_zero_whatever_the_map_has_there),
        any("the_instruction_is_shown_with_what_it_accessed", the_instruction_is_shown_with_what_it_accessed),
        any("a_wild_jump_of_a_kernel_is_not_firmwares", a_wild_jump_of_a_kernel_is_not_firmwares),
        any("text_of_strangers_is_escaped", text_of_strangers_is_escaped),
        any("the_readme_shows_what_is_printed", the_readme_shows_what_is_printed),
        any("what_is_said_of_an_address_is_said_once", what_is_said_of_an_address_is_said_once),
        any("registers_below_a_walk_of_xens_are_of_one_fault", registers_below_a_walk_of_xens_are_of_one_fault),
        kvm("every_kind_of_access_is_met_again", every_kind_of_access_is_met_again),
        kvm("an_access_in_the_switch_is_met_there", an_access_in_the_switch_is_met_there),
        kvm("a_replay_that_meets_something_else_has_status_1", a_replay_that_meets_something_else_has_status_1),
        kvm("a_kept_scenario_shows_the_fault_again", a_kept_scenario_shows_the_fault_again),
    ];
    trials.extend(ROWS.iter().map(|row| any(&format!("explained: {}", row.log), || row.is_explained())));
    trials.extend(REPLAYS.iter().map(|(log, map)| kvm(&format!("met again: {log}"), || is_met_again(log, map))));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

const CLEAN: i32 = 0;
const FINDINGS: i32 = 1;
const UNABLE: i32 = 3;
const BAD_INPUT: i32 = 2;

/// A public fault, and what is right about it.
struct Row {
    log: &'static str,
    /// A map that is not in the log, in `tests/`.
    map: Option<&'static str>,
    /// Read, write or fetch; error code; address.
    access: (&'static str, &'static str, &'static str),
    /// What was missing, and in which entry.
    missing: (&'static str, &'static str),
    /// Where the address is, and the descriptor that holds it.
    owner: (&'static str, &'static str),
    moment: &'static str,
    /// Who is to blame, by which pattern, with which museum number (0: none).
    blame: (&'static str, &'static str, u64),
}

/// `-` is what the log does not tell.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Of EFI.
    row("linux-4.6-null-in-window.txt", ("read", "0x0", "0x0"), ("present", "PDPTE"), ("page-zero", "-"), "after-switch", ("firmware", "null-pointer", 0)),
    row("linux-5.5-attributes-table.txt", ("fetch", "0x11", "0xfffffffef694b1b9"), ("execute", "PTE"), ("efi-window", "RuntimeServicesCode"), "after-switch", ("attributes-table", "attributes-table-denies-execution", 41)),
    row("linux-5.8-executes-data.txt", ("fetch", "0x11", "0x1094f0"), ("execute", "PTE"), ("low", "RuntimeServicesData"), "unknown", ("firmware", "executes-data", 0)).with("oopses/rust-hypervisor-firmware.toml"),
    row("linux-4.4-table-not-converted.txt", ("-", "-", "0x124d58"), ("-", "-"), ("low", "-"), "after-switch", ("firmware", "table-not-converted", 0)),
    row("linux-5.16-firmware-bug.txt", ("-", "-", "0x6792e7f0"), ("-", "-"), ("low", "-"), "after-switch", ("firmware", "low-address", 0)),
    row("linux-5.4-fake-mem.txt", ("write", "0x2", "0xffffffffff281000"), ("present", "PTE"), ("kernel", "-"), "kernel", ("kernel", "kernel-map-code", 12)),
    row("linux-5.6-mixed-read-only-argument.txt", ("write", "0x3", "0x386aae88"), ("write", "PDE"), ("low", "-"), "after-switch", ("kernel", "read-only-argument", 22)),
    row("linux-5.6-mixed-hole-past-1g.txt", ("read", "0x0", "0xa6403e90"), ("present", "PDE"), ("low", "ConventionalMemory"), "unknown", ("kernel", "mixed-mode-argument", 3)).with("maps/ovmf-03.txt"),
    row("linux-5.15-t2-past-argument.txt", ("-", "-", "0xffffa79840068000"), ("-", "-"), ("kernel", "-"), "after-switch", ("firmware", "past-argument", 27)),
    row("linux-5.18-macmini-past-argument.txt", ("-", "-", "0xffffa30640054000"), ("-", "-"), ("kernel", "-"), "after-switch", ("firmware", "past-argument", 27)),
    row("linux-2013-misaligned-leaf.txt", ("fetch", "0x19", "0xfffffffeff400000"), ("reserved-bits", "PDE"), ("efi-window", "-"), "after-switch", ("kernel", "misaligned-large-leaf", 1)),
    row("xen-4.19-get-time.txt", ("fetch", "0x11", "0x62ccfa70"), ("execute", "PDE"), ("low", "-"), "physical", ("open", "not-executable", 0)),
    row("xen-4.14-get-time.txt", ("read", "0x0", "0xff900020"), ("present", "-"), ("low", "-"), "physical", ("open", "unmapped-physical", 0)),
    row("xen-4.14-no-cacheability.txt", ("read", "0x0", "0xff920020"), ("present", "PDE"), ("low", "MemoryMappedIO"), "physical", ("kernel", "no-cacheability", 33)),
    row("edk2-read-only-table.txt", ("write", "0x3", "0x3ec03fc0"), ("write", "-"), ("low", "-"), "boot-services", ("open", "boot-time-write", 0)),
    row("edk2-minus-one.txt", ("write", "0x2", "0xffffffffffffffff"), ("present", "-"), ("kernel", "-"), "boot-services", ("open", "boot-time", 0)),
    row("edk2-not-executable.txt", ("fetch", "0x11", "-"), ("execute", "-"), ("-", "-"), "boot-services", ("open", "boot-time-execute", 0)),
    row("edk2-windows-installer.txt", ("write", "0x3", "0x7185b0"), ("write", "-"), ("low", "-"), "boot-services", ("open", "boot-time-write", 0)),
    // Controls: page faults that are none of EFI's.
    row("linux-4.9-separate-levels.txt", ("fetch", "0x11", "0xffffc9000c6ffb80"), ("execute", "PML4E"), ("kernel", "-"), "unknown", NOT_EFI),
    row("linux-4.9-fput.txt", ("read", "0x0", "0xffffffbfa02c6430"), ("present", "PDPTE"), ("kernel", "-"), "unknown", NOT_EFI),
    row("linux-4.13-pebs.txt", ("-", "-", "0xffff9d6c14e52038"), ("-", "-"), ("kernel", "-"), "unknown", NOT_EFI),
    row("linux-4.15-smap.txt", ("read", "0x1", "0x7fffe3542f90"), ("none", "-"), ("low", "-"), "unknown", NOT_EFI),
    row("linux-4.19-memset.txt", ("write", "0x2", "0xffffe0f000020000"), ("present", "PML4E"), ("kernel", "-"), "unknown", NOT_EFI),
    row("linux-5.8-null-write.txt", ("write", "0x2", "0x1"), ("present", "PML4E"), ("page-zero", "-"), "unknown", NOT_EFI),
    row("linux-5.10-wild-pointer.txt", ("read", "0x0", "0x6764f0a3"), ("present", "PML4E"), ("low", "-"), "unknown", NOT_EFI),
    row("linux-6.1-reserved-bit.txt", ("write", "0xb", "0xffffc9000002d000"), ("reserved-bits", "-"), ("kernel", "-"), "unknown", NOT_EFI),
    row("linux-6.1-poisoned-pte.txt", ("read", "0x0", "0xffff8a08a90ab128"), ("present", "PTE"), ("kernel", "-"), "unknown", NOT_EFI),
    row("linux-6.2-read-only.txt", ("write", "0x3", "0xffff9e7989271cff"), ("write", "PTE"), ("kernel", "-"), "unknown", NOT_EFI),
    // A guest's, of which Xen prints the walk first; the second one is of a release build, which tells no code.
    row("xen-4.1-dom0.txt", ("read", "0x0", "0xffffea000005b2d0"), ("present", "PML4E"), ("kernel", "-"), "unknown", NOT_EFI),
    row("xen-4.19-dom0.txt", ("-", "-", "0xffffc9003ffffff8"), ("-", "-"), ("kernel", "-"), "unknown", NOT_EFI),
    row("xen-4.22-early.txt", ("read", "0x9", "0x1100202"), ("reserved-bits", "-"), ("low", "-"), "unknown", NOT_EFI),
    row("xen-no-address.txt", ("write", "0x2", "-"), ("present", "-"), ("-", "-"), "unknown", NOT_EFI),
    row("freebsd-vmwgfx.txt", ("read", "0x0", "0x18"), ("present", "-"), ("page-zero", "-"), "unknown", NOT_EFI),
    row("freebsd-nmap.txt", ("read", "0x0", "0x10007"), ("present", "-"), ("low", "-"), "unknown", NOT_EFI),
];

const NOT_EFI: (&str, &str, u64) = ("not-efi", "not-efi", 0);

/// The public faults that a guest meets again, each on its map.
const REPLAYS: &[(&str, &str)] = &[
    ("linux-5.5-attributes-table.txt", "oopses/opencore-491.toml"),
    ("linux-5.8-executes-data.txt", "oopses/rust-hypervisor-firmware.toml"),
    ("linux-2013-misaligned-leaf.txt", "maps/ovmf-2013.toml"),
];

const fn row(
    log: &'static str,
    access: (&'static str, &'static str, &'static str),
    missing: (&'static str, &'static str),
    owner: (&'static str, &'static str),
    moment: &'static str,
    blame: (&'static str, &'static str, u64),
) -> Row {
    Row { log, map: None, access, missing, owner, moment, blame }
}

impl Row {
    const fn with(self, map: &'static str) -> Self {
        Self { map: Some(map), ..self }
    }

    fn is_explained(&self) {
        let found = explained(&arguments(self.log, self.map));
        let text = |path: &str| match found.pointer(path) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "-".into(),
            Some(other) => other.to_string(),
        };
        let log = self.log;
        let access = [text("/access/kind"), text("/access/error_code"), text("/access/address")];
        assert_eq!(access, [self.access.0, self.access.1, self.access.2], "{log}: access");
        assert_eq!([text("/missing"), text("/missing_in")], [self.missing.0, self.missing.1], "{log}: missing");
        assert_eq!([text("/at/area"), text("/at/region/type")], [self.owner.0, self.owner.1], "{log}: owner");
        assert_eq!(text("/moment"), self.moment, "{log}: moment");
        assert_eq!([text("/blame"), text("/pattern")], [self.blame.0, self.blame.1], "{log}: blame");
        assert_eq!(found["museum"].as_u64().unwrap_or(0), self.blame.2, "{log}: museum");
        assert_eq!(found["efi"], self.blame != NOT_EFI, "{log}: EFI");
        assert_eq!(found["replay"]["outcome"], "skipped", "{log}");
    }
}

fn log(name: &str) -> String {
    repository(&format!("oopses/{name}"))
}

fn arguments(name: &str, map: Option<&str>) -> Vec<String> {
    [log(name)].into_iter().chain(map.map(repository)).collect()
}

fn explained(arguments: &[String]) -> Value {
    let options = ["oops", "--no-replay", "--json", "-"].map(String::from);
    let said = efibed(options.iter().chain(arguments)).ends(CLEAN);
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn explained_text(text: &str) -> Value {
    let said = efibed_reading(["oops", "--no-replay", "--json", "-", "-"], text.as_bytes()).ends(CLEAN);
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn every_file_has_a_row() {
    let logs = std::fs::read_dir(log("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut logs: Vec<_> = logs.filter(|name| name.ends_with(".txt")).collect();
    logs.sort_unstable();
    let mut rows: Vec<_> = ROWS.iter().map(|row| row.log).collect();
    rows.sort_unstable();
    assert_eq!(logs, rows);
}

fn is_met_again(name: &str, map: &str) {
    let said = efibed(["oops".to_owned(), log(name), repository(map), "--quiet".into()]).ends(CLEAN);
    assert!(said.out.contains("  replay     met: a guest met #PF "), "{said}");
    // On the page are both walks, each with the one entry that denies the access.
    let page =
        efibed(["oops".to_owned(), log(name), repository(map), "--quiet".into(), "--html".into(), "-".into()]).out;
    for whose in ["log", "replay"] {
        let walk = page.split_once(&format!("<h2>The walk in the {whose}, of 0x")).unwrap().1;
        let walk = walk.split_once("</section>").unwrap().0;
        assert_eq!(walk.matches("denies\"").count(), 1, "{name}, {whose}: {walk}");
    }
}

/// Xen prints the walk and the code first: the registers below are of the same fault.
fn registers_below_a_walk_of_xens_are_of_one_fault() {
    for (name, rip) in [
        ("xen-4.1-dom0.txt", "0xffffffff8103feba"),
        ("xen-4.19-dom0.txt", "0xffffffff810014fe"),
        ("xen-4.22-early.txt", "0xffff82d0403b38e0"),
    ] {
        let found = explained_text(&std::fs::read_to_string(log(name)).unwrap());
        assert_eq!(
            (&found["rip"], &found["line"], &found["other_faults"]),
            (&rip.into(), &1.into(), &0.into()),
            "{name}"
        );
    }
}

/// An instruction beside what it accesses: area and region are told once.
fn what_is_said_of_an_address_is_said_once() {
    let text = std::fs::read_to_string(log("linux-5.8-executes-data.txt")).unwrap();
    let other = text.replace("RIP: 0010:0x1094f0", "RIP: 0010:0x109400");
    assert_ne!(text, other);
    let folder = Directory::new();
    let file = folder.file("other.txt");
    std::fs::write(&file, other).unwrap();
    let said = efibed(["oops", &file, &repository("oopses/rust-hypervisor-firmware.toml"), "--no-replay"]).ends(CLEAN);
    let words = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for once in ["(RuntimeServicesData at 0x100000", "a user program's", "region 0 of the map, too"] {
        assert_eq!(words.matches(once).count(), 1, "{once}: {said}");
    }
    assert!(words.contains("by RIP 0x109400, in the lower half, where"), "{said}");
}

/// Loggers, mail and line ends are around a log, and a log that lost its line ends is one line.
fn dress_and_order_of_a_log_change_nothing() {
    for name in ["linux-4.9-separate-levels.txt", "linux-5.8-executes-data.txt", "linux-5.4-fake-mem.txt"] {
        let text = std::fs::read_to_string(log(name)).unwrap();
        let essence = |found: &Value| ["access", "entries", "rip", "blame", "missing_in"].map(|key| found[key].clone());
        let plain = explained_text(&text);
        let dressed = |dress: &dyn Fn(&str) -> String| text.lines().map(|line| dress(line) + "\n").collect::<String>();
        for other in [
            dressed(&|line| format!("> > {line}")),
            dressed(&|line| format!("<1>{line}")),
            dressed(&|line| format!("Mar  3 01:02:03 host kernel: [   12.345678] {line}")),
            dressed(&|line| format!("\u{1b}[31m{line}\u{1b}[0m")),
            dressed(&|line| format!("{line}\r")),
            format!("{}{}", "x".repeat(2000), text.replace('\n', "   ")),
        ] {
            assert_eq!(essence(&explained_text(&other)), essence(&plain), "{name}: {other:.100}");
        }
    }
}

/// Seeded: cuts, lines left out or doubled, bytes changed. The command ends by itself, and without a panic (`said` looks).
fn a_damaged_log_is_read_or_refused() {
    let mut random = Random::new(20_131_002);
    let logs: Vec<Vec<u8>> = ROWS.iter().map(|row| std::fs::read(log(row.log)).unwrap()).collect();
    for _ in 0..150 {
        let mut bytes = logs[random.below(logs.len() as u64) as usize].clone();
        for _ in 0..random.below(8) {
            let at = random.below(bytes.len() as u64 + 1) as usize;
            match random.below(4) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(..at)),
                2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.below(256) as u8),
                _ => bytes.extend_from_within(at..),
            }
        }
        let said = efibed_reading(["oops", "--no-replay", "-"], &bytes);
        assert!([CLEAN, BAD_INPUT].contains(&said.status), "{said}");
    }
}

fn what_is_no_page_fault_is_told_apart() {
    for (text, why) in [
        ("", "there is nothing in it"),
        ("all is well\n", "no line is of a known form"),
        ("Unable to handle kernel paging request at virtual address ffffffff\nOops [#1]\n", "another architecture"),
        ("[Firmware Bug]: Unable to handle paging request in EFI runtime service\n", "another architecture"),
        ("general protection fault: 0000 [#1] SMP\nRIP: 0010:x+0x1/0x2\n", "a general-protection fault"),
        (
            "(XEN) ----[ Xen-4.13 ]----\n(XEN) RIP:    e008:[<0000000000001000>]\n(XEN) FATAL TRAP: vector = 13\n",
            "no line",
        ),
        ("!!!! X64 Exception Type - 0D(#GP - General Protection)  CPU Apic ID - 00000000 !!!!\n", "no line is of"),
        ("Fatal trap 9: general protection fault while in kernel mode\n", "a general-protection fault"),
    ] {
        let said = efibed_reading(["oops", "-"], text.as_bytes()).ends(BAD_INPUT);
        assert!(said.err.replace('\n', " ").contains("no page fault") && joined(&said.err).contains(why), "{said}");
    }
    efibed(["oops", "no/such/log"]).ends(BAD_INPUT);
    let said = efibed_reading(["oops", "-", "-"], b"").ends(BAD_INPUT);
    assert!(said.err.contains("both the log and the map"), "{said}");
}

/// Words on one line, without what miette draws around them.
fn joined(text: &str) -> String {
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).collect::<Vec<_>>().join(" ")
}

fn the_first_fault_about_efi_is_taken() {
    let read = |name| std::fs::read_to_string(log(name)).unwrap();
    let (other, efis) = (read("linux-4.19-memset.txt"), read("linux-4.6-null-in-window.txt"));
    let found = explained_text(&format!("{other}{efis}{other}"));
    assert_eq!((&found["pattern"], &found["other_faults"]), (&"null-pointer".into(), &2.into()), "{found}");
    assert_eq!(found["line"], other.lines().count() + 2, "{found}");
    assert_eq!(explained_text(&format!("{other}{other}"))["pattern"], "not-efi");
}

/// Without a map nobody knows whose a read-only page is, and whose fault.
fn what_is_read_only_is_blamed_on_nobody_without_a_map() {
    for (address, pattern) in [("fffffffef694b1b8", "not-writable"), ("ffffa00000000000", "read-only-argument")] {
        assert_eq!(explained_text(&oops(address, "0003"))["pattern"], pattern, "{address}");
    }
}

/// In many maps page 0 is boot services': a null pointer is one all the more.
fn page_zero_is_page_zero_whatever_the_map_has_there() {
    let found = explained(&arguments("linux-4.6-null-in-window.txt", Some("maps/ovmf-01.txt")));
    assert_eq!(
        (&found["pattern"], &found["at"]["region"]["type"]),
        (&"null-pointer".into(), &"BootServicesCode".into())
    );
}

/// The bytes and registers of a log say what an instruction read, even where the kernel prints no error code.
fn the_instruction_is_shown_with_what_it_accessed() {
    let said = efibed(["oops", "--no-replay", &log("linux-5.15-t2-past-argument.txt")]).ends(CLEAN);
    let shown = "`movdqu (%rsi),%xmm0`, which reads 0xffffa79840067ffa to 0xffffa79840068009";
    assert!(joined(&said.out).contains(shown), "{said}");
}

/// Low addresses are firmware's only where nothing else can be there.
fn a_wild_jump_of_a_kernel_is_not_firmwares() {
    let fault = |code: &str, cs: &str, entries: &str| {
        format!(
            "BUG: unable to handle page fault for address: 0000000041414141\n#PF: error_code(0x{code})\n{entries}\n\
             RIP: {cs}:0x41414141\n"
        )
    };
    for (code, cs, entries, is_efis) in [
        // A wild jump, one to a user's page that SMEP forbids, and code of a user program.
        ("0010", "0010", "PGD 0 P4D 0", false),
        ("0011", "0010", "PGD 1067 P4D 1067 PUD 2067 PMD 3067 PTE 41414067", false),
        ("0011", "0010", "", false),
        ("0014", "0033", "PGD 1067 P4D 1067 PUD 2067 PMD 3067 PTE 0", false),
        // The supervisor's own page, mapped 1:1: firmware's.
        ("0011", "0010", "PGD 1063 P4D 1063 PUD 2063 PMD 3063 PTE 8000000041414063", true),
    ] {
        let found = explained_text(&fault(code, cs, entries));
        assert_eq!(found["efi"], is_efis, "{code} {cs} {entries}: {found}");
    }
}

fn text_of_strangers_is_escaped() {
    let log = "BUG: unable to handle page fault for address: 0000000000001234\n\
               RIP: 0010:evil\u{1b}]0;x\u{7}+0x1/0x2\nOops: 0000 [#1]\nIP: nice_name+0x1/0x2\n";
    let said = efibed_reading(["oops", "-"], log.as_bytes());
    assert!(!said.out.contains('\u{7}') && !said.err.contains('\u{7}'), "{said}");
}

/// Any access at any place of a real map, in Linux's own words: the guest meets the same code and CR2.
fn every_kind_of_access_is_met_again() {
    let map = std::fs::read_to_string(repository("maps/ovmf-03.txt")).unwrap();
    // Of ovmf-03: boot-services data at 0x900000, which is gone after the switch; no memory at 0xc0000000; runtime data at
    // 0xbea6c000, which is mapped 1:1 without execution. 0xffffa00000000000 is nobody's.
    for (address, code) in [
        ("0000000000900010", "0000"),
        ("0000000000900010", "0002"),
        ("0000000000900010", "0010"),
        ("00000000c0000000", "0000"),
        ("ffffa00000000000", "0002"),
        ("00000000bea6c100", "0011"),
    ] {
        let text = format!("{map}\n{}", oops(address, code));
        let said = efibed_reading(["oops", "--quiet", "-"], text.as_bytes()).ends(CLEAN);
        let met =
            format!("a guest met #PF 0x{} at 0x{}", code.trim_start_matches('0').to_owned() + zero(code), hex(address));
        assert!(joined(&said.out).contains(&format!("replay met: {met} in GetTime")), "{met}: {said}");
    }
}

fn an_access_in_the_switch_is_met_there() {
    let map = std::fs::read_to_string(repository("maps/ovmf-03.txt")).unwrap();
    let fault = oops_in("00000000c0000000", "0002", " efi_set_virtual_address_map+0xa9/0x130");
    let said = efibed_reading(["oops", "--quiet", "-"], format!("{map}\n{fault}").as_bytes()).ends(CLEAN);
    let met = "replay met: a guest met #PF 0x2 at 0xc0000000 in SetVirtualAddressMap";
    assert!(joined(&said.out).contains(met), "{said}");
}

/// Of `0000` no digit is left.
fn zero(code: &str) -> &'static str {
    if code == "0000" { "0" } else { "" }
}

fn hex(address: &str) -> &str {
    address.trim_start_matches('0')
}

/// A fault of firmware's in Linux's words, after the switch.
fn oops(address: &str, code: &str) -> String {
    oops_in(address, code, "Workqueue: efi_rts_wq efi_call_rts")
}

/// The same with a line that says what was going on.
fn oops_in(address: &str, code: &str, scene: &str) -> String {
    let rip = if code.starts_with("001") { address } else { "fffffffeefc440c5" };
    [
        &format!("[    9.000000] BUG: unable to handle page fault for address: {address}\n"),
        &format!("[    9.000001] #PF: error_code(0x{code})\n"),
        &format!("[    9.000002] {scene}\n"),
        &format!("[    9.000003] RIP: 0010:0x{rip}\n"),
    ]
    .map(String::as_str)
    .concat()
}

/// The negative control: what the layout maps does not fault, and what it does not map has no other code.
fn a_replay_that_meets_something_else_has_status_1() {
    let map = std::fs::read_to_string(repository("maps/ovmf-03.txt")).unwrap();
    for (address, code, says) in [
        // Runtime data, mapped 1:1 and writable after the switch.
        ("00000000bea6c100", "0002", "not-met: the access went through in GetTime"),
        // Nothing is mapped there, so P cannot be.
        (
            "ffffa00000000000",
            "0011",
            "not-met: a guest met #PF 0x10 (I) at 0xffffa00000000000, where the log has #PF 0x11",
        ),
    ] {
        let text = format!("{map}\n{}", oops(address, code));
        let said = efibed_reading(["oops", "--quiet", "-"], text.as_bytes());
        assert!(joined(&said.out).contains(says), "{said}");
        said.ends(FINDINGS);
    }
}

fn a_kept_scenario_shows_the_fault_again() {
    let folder = Directory::new();
    let kept = folder.0.join("again.toml").display().to_string();
    let mut command = vec!["oops".to_owned(), "--no-replay".into(), "-o".into(), kept.clone()];
    command.extend(arguments("linux-5.8-executes-data.txt", Some("oopses/rust-hypervisor-firmware.toml")));
    efibed(&command).ends(CLEAN);
    let said: Said = efibed(["check", &kept, "--quiet", "--json", "-"]).ends(FINDINGS);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let fault = &report["faults"][0];
    assert_eq!((&fault["cr2"], &fault["error_code"]), (&"0x1094f0".into(), &"0x11".into()), "{report}");
    assert_eq!(fault["misbehaviour"], "faults", "{report}");
    // Where there is none, that is told, and is no success.
    let none = folder.0.join("none.toml").display().to_string();
    let log = repository("oopses/linux-6.1-reserved-bit.txt");
    let said = efibed(["oops", &log, "--no-replay", "-o", &none]).ends(UNABLE);
    assert!(said.err.contains("no scenario is written: it is no EFI fault"), "{said}");
    assert!(!std::path::Path::new(&none).exists());
}

fn the_readme_shows_what_is_printed() {
    let readme = std::fs::read_to_string(repository("../README.md")).unwrap();
    let (_, example) = readme.split_once("$ efibed oops ").expect("README has an example");
    let (command, shown) = example.split_once('\n').unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let paths: Vec<_> = command.split(' ').filter(|word| word.starts_with("tests/")).collect();
    let folder = repository("..");
    let mut said = std::process::Command::new(env!("CARGO_BIN_EXE_efibed"));
    let said = said.current_dir(folder).arg("oops").args(&paths).arg("--quiet").output().unwrap();
    let printed = String::from_utf8(said.stdout).unwrap();
    // Where there is no KVM, the replay is skipped.
    let without_replay = |text: &str| {
        text.lines().take_while(|line| !line.starts_with("  replay")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_replay(&printed), without_replay(shown), "{printed}");
}
