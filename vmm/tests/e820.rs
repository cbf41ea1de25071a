//! `efibed show MAP --e820 LOG`: the map beside what a kernel takes memory for.
//!
//! Both files are of one boot of one machine. They were compared by hand, row by row: they agree. What is changed in them makes
//! the disagreements.

mod said;

use std::fs;

use said::{Directory, Said, efibed, efibed_reading, repository};
use serde_json::{Value, json};

const CLEAN: i32 = 0;
const FINDINGS: i32 = 1;
const BAD_INPUT: i32 = 2;

fn log() -> String {
    fs::read_to_string(repository("e820/ovmf-03.txt")).unwrap()
}

/// The log with something else in it.
fn log_with(from: &str, to: &str) -> String {
    assert!(log().contains(from));
    log().replacen(from, to, 1)
}

fn compared(list: &str, more: &[&str]) -> Said {
    let folder = Directory::new();
    let file = folder.file("kernel.txt");
    fs::write(&file, list).unwrap();
    let map = repository("maps/ovmf-03.txt");
    efibed([&["show", &map, "--e820", &file], more].concat())
}

#[test]
fn the_kernel_of_one_boot_agrees_with_its_map() {
    compared(&log(), &[]).ends(CLEAN).without_errors().says(&[
        "what the kernel takes memory for: it is what the map says",
        "the e820 table that the kernel was given (BIOS-e820), 18 rows from line 2 of",
        "setup-data of 22 rows from line 21 on",
    ]);
}

#[test]
fn one_log_may_hold_both() {
    let map = fs::read_to_string(repository("maps/ovmf-03.txt")).unwrap();
    let folder = Directory::new();
    let file = folder.file("boot.log");
    fs::write(&file, log() + &map).unwrap();
    let said = efibed(["show", &file, "--e820", &file]).ends(CLEAN);
    said.says(&["46 descriptors, 11 RUNTIME", "what the kernel takes memory for: it is what the map says"]);
}

/// Regions 23 to 29 are runtime code and data in turns: seven ranges.
#[test]
fn runtime_regions_that_are_handed_out_are_dangerous() {
    let handed_out = log_with("beb1afff] reserved", "beb1afff] usable");
    compared(&handed_out, &[]).ends(FINDINGS).says(&[
        "it disagrees with the map in 7 ranges, 7 dangerous",
        "0xbea6c000-0xbea70fff   20 KiB  RuntimeServicesData RUNTIME UC WC WT WB  usable      the kernel hands out memory that",
        "0xbea8c000-0xbeb1afff  572 KiB  RuntimeServicesData",
    ]);
    let said = compared(&handed_out, &["--json", "-"]).ends(FINDINGS);
    let document: Value = serde_json::from_str(&said.out).unwrap();
    let kernel = &document["kernel_memory"];
    let head = ["list", "line", "rows", "dangerous", "has_beginning"].map(|key| kernel[key].clone());
    assert_eq!(head, [json!("bios-e820"), json!(2), json!(18), json!(true), json!(true)]);
    let second = json!({
        "first": "0xbea71000", "last": "0xbea75fff", "bytes": 0x5000, "map": "RuntimeServicesCode", "kernel": "usable",
        "attribute": "0x800000000000000f", "weight": "dangerous", "breaks": kernel["disagreements"][1]["breaks"],
    });
    assert_eq!(kernel["disagreements"][1], second);
    assert_eq!(kernel["own_cuts"], json!([]));
    let page = compared(&handed_out, &["--html", "-"]).ends(FINDINGS).out;
    let (_, list) = page.split_once("<h2>what the kernel takes memory for: it disagrees").unwrap();
    assert!(list.split_once("</section>").unwrap().0.contains("0xbea8c000-0xbeb1afff"), "{list}");
}

/// As `mem=` leaves it: of 0x900000 to 0xbe933fff the last 0x47a6000 bytes.
#[test]
fn memory_that_is_left_out_is_waste() {
    compared(&log_with("00be933fff] usable", "00ba18dfff] usable"), &[]).ends(CLEAN).says(&[
        "it disagrees with the map in 1 range, none dangerous",
        "0xba18e000-0xbe933fff  71.6 MiB  usable memory  nothing     waste",
    ]);
}

#[test]
fn a_log_that_lost_its_first_lines_says_so() {
    let (_, cut) = log().split_once('\n').map(|(head, rest)| (head.to_owned(), rest.to_owned())).unwrap();
    compared(&cut, &[]).ends(CLEAN).says(&["the line that heads the list is missing"]);
}

/// What Linux makes of the table later, by hand: the first page and what is below 1 MiB are its own, a PCI bus has what is no
/// memory. The last row is memory that came after boot.
#[test]
fn what_is_in_proc_iomem_is_compared_too() {
    let iomem = "\
00000000-00000fff : Reserved
00001000-0009ffff : System RAM
000a0000-000fffff : Reserved
  000f0000-000fffff : System ROM
00100000-00805fff : System RAM
00806000-00807fff : ACPI Non-volatile Storage
00808000-0080ffff : System RAM
00810000-008fffff : ACPI Non-volatile Storage
00900000-be933fff : System RAM
  01000000-01ffffff : Kernel code
be934000-be945fff : ACPI Non-volatile Storage
be946000-be960fff : Reserved
be961000-bea6bfff : System RAM
bea6c000-beb1afff : Reserved
beb1b000-bfb9afff : System RAM
bfb9b000-bfbf2fff : Reserved
bfbf3000-bfbfafff : ACPI Tables
bfbfb000-bfbfefff : ACPI Non-volatile Storage
bfbff000-bfef3fff : System RAM
bfef4000-bff77fff : Reserved
bff78000-bfffffff : ACPI Non-volatile Storage
c0000000-febfffff : PCI Bus 0000:00
100000000-13fffffff : System RAM
";
    compared(iomem, &[]).ends(CLEAN).says(&[
        "disagrees with the map in 1 range, none dangerous",
        "1 range, 4 KiB in all, that every kernel keeps to itself",
        "nothing  usable      by the map there is no memory: it was added after boot",
    ]);
    let handed_out = iomem.replace("00810000-008fffff : ACPI Non-volatile Storage", "00810000-008fffff : System RAM");
    compared(&handed_out, &[]).ends(FINDINGS).says(&["2 ranges, 1 dangerous", "0x00810000-0x008fffff"]);
    let hidden = "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n";
    compared(hidden, &[])
        .ends(BAD_INPUT)
        .complains(&[":1:1: every address is 0", "Linux shows the addresses to root only"]);
}

#[test]
fn what_is_neither_is_bad_input() {
    compared("Linux version 6.1\n", &[]).ends(BAD_INPUT).complains(&[":1:1: no e820 table and no"]);
    let damaged = log_with("be960fff] reserved", "be960fff] reser");
    compared(&damaged, &[]).ends(BAD_INPUT).complains(&[":9:71: `reser` is no type of an e820 table"]);
    let twice = efibed_reading(["show", "-", "--e820", "-"], log().as_bytes());
    twice.ends(BAD_INPUT).complains(&["standard input is the map"]);
}
