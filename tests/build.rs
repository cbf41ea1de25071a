//! Compiles the programs of `kvm/programs.rs`, each with another attack, and of `kvm/writers.rs`, each with less to know it by. The
//! tests have them inside, and need no compiler.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `ATTACK` of `programs/hostile.c`.
const ATTACKS: [&str; 38] = [
    "NOTHING",
    "BY_VIRTUAL_ALIGNMENT",
    "USE_A_PAGE_TWICE",
    "WRITE_NULL",
    "WRITE_CONSTANT",
    "WRITE_CODE",
    "CALL_DATA",
    "CALL_NULL",
    "WRITE_KERNEL",
    "WRITE_KERNEL_TABLES",
    "WRITE_ATTRIBUTES_TABLE",
    "READ_FIRMWARE",
    "NOT_CANONICAL",
    "HALT",
    "PORT",
    "SET_CR3",
    "SYSTEM_CALL",
    "UNDEFINED",
    "DIVIDE",
    "UNALIGNED",
    "LOOP",
    "RECURSE",
    "GIVE_UP",
    "ROOT_NO_TABLE",
    "ROOT_NOWHERE",
    "ROOT_OF_KERNEL",
    "MANY_DESCRIPTORS",
    "MANY_PAGES",
    "LONG_LOG",
    "NO_DESCRIPTORS",
    "BEHIND_THE_MAP",
    "UNUSED_PAGE",
    "CHANGE_A_DESCRIPTOR",
    "CHANGE_THE_REQUEST",
    "WHAT_IS_ALLOWED",
    "UNMAP_IN_FINISH",
    "GIVE_UP_IN_FINISH",
    "HALT_IN_FINISH",
];

/// What is left in a program to know its lines by. The last has none but global symbols.
const KNOWN_BY: [(&str, &[&str]); 3] = [("LINES", &["-g"]), ("NAMES", &["-g0"]), ("NOTHING", &["-g0", "-Wl,-x"])];

fn main() {
    println!("cargo::rerun-if-changed=programs");
    let out = env::var("OUT_DIR").unwrap();
    fs::write(Path::new(&out).join("efibed.h"), efibed_guest::HEADER).unwrap();
    let numbers: Vec<String> = ATTACKS.iter().zip(0..).map(|(name, number)| format!("-D{name}={number}")).collect();
    let attacks = ATTACKS.map(|name| {
        let attack = format!("-DATTACK={name}");
        let flags = ["-g", &attack].into_iter().chain(numbers.iter().map(String::as_str));
        (name, compile("hostile.c", name, flags))
    });
    let two_bugs =
        KNOWN_BY.map(|(name, flags)| (name, compile("two_bugs.c", &format!("BUGS_{name}"), flags.iter().copied())));
    fs::write(Path::new(&out).join("programs.rs"), list("PROGRAMS", &attacks)).unwrap();
    fs::write(Path::new(&out).join("two_bugs.rs"), list("TWO_BUGS", &two_bugs)).unwrap();
}

/// Compiles one, and says where it is.
fn compile<'a>(source: &str, name: &str, flags: impl Iterator<Item = &'a str>) -> PathBuf {
    let here = env::var("CARGO_MANIFEST_DIR").unwrap();
    let out = env::var("OUT_DIR").unwrap();
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let elf = Path::new(&out).join(format!("{name}.elf"));
    let status = Command::new(&compiler)
        .args(["-O2", "-Wall", "-Werror", "-Wno-unused", "-Wno-infinite-recursion", "-Wno-array-bounds"])
        .args(["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-e", "efibed_map"])
        .args(flags)
        .arg(format!("-I{out}"))
        .arg(format!("{here}/programs/{source}"))
        .arg("-o")
        .arg(&elf)
        .status();
    let compiled = status.as_ref().is_ok_and(|status| status.success());
    assert!(compiled, "{compiler} does not compile tests/programs/{source} for {name}: {status:?}");
    elf
}

/// A list of them, as a test includes it.
fn list(name: &str, programs: &[(&str, PathBuf)]) -> String {
    let mut text = format!("/// Name and file of each.\npub static {name}: &[(&str, &[u8])] = &[\n");
    for (name, elf) in programs {
        writeln!(text, "    ({name:?}, include_bytes!({:?})),", elf.display().to_string()).unwrap();
    }
    text + "];\n"
}
