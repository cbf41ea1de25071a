//! Compiles the programs of `kvm/programs.rs`, each with another attack: the test has them inside, and needs no compiler.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;
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

fn main() {
    println!("cargo::rerun-if-changed=programs");
    let here = env::var("CARGO_MANIFEST_DIR").unwrap();
    let out = env::var("OUT_DIR").unwrap();
    fs::write(Path::new(&out).join("efibed.h"), efibed_guest::HEADER).unwrap();
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let numbers: Vec<String> = ATTACKS.iter().zip(0..).map(|(name, number)| format!("-D{name}={number}")).collect();
    let mut list = String::from("/// Name and file of each.\npub static PROGRAMS: &[(&str, &[u8])] = &[\n");
    for name in ATTACKS {
        let elf = Path::new(&out).join(format!("{name}.elf"));
        let status = Command::new(&compiler)
            .args(["-O2", "-g", "-Wall", "-Werror", "-Wno-unused", "-Wno-infinite-recursion", "-Wno-array-bounds"])
            .args(["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-e", "efibed_map"])
            .args(&numbers)
            .arg(format!("-DATTACK={name}"))
            .arg(format!("-I{out}"))
            .arg(format!("{here}/programs/hostile.c"))
            .arg("-o")
            .arg(&elf)
            .status();
        let compiled = status.as_ref().is_ok_and(|status| status.success());
        assert!(compiled, "{compiler} does not compile tests/programs/hostile.c for {name}: {status:?}");
        writeln!(list, "    ({name:?}, include_bytes!({:?})),", elf.display().to_string()).unwrap();
    }
    list.push_str("];\n");
    fs::write(Path::new(&out).join("programs.rs"), list).unwrap();
}
