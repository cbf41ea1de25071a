//! The C header that is shipped is what the Rust definitions give. `EFIBED_BLESS=1` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};
use efibed_stub::memory::{attribute, memory_type};

fn in_workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

const HEAD: &str = "\
/*
 * efibed.h: mapping code for efibed, in C and C++.
 *
 * A mapper defines efibed_map, and efibed_finish if it has something to do after SetVirtualAddressMap. It runs in ring 3 of a
 * virtual machine, without a C library, and may touch what the request names, its own data and its stack. All else is a
 * finding, and so is every privileged instruction but invlpg, wbinvd, and reads of CR0, CR3, CR4, EFER and IA32_PAT.
 *
 *     efibed build mapper.c -o mapper.elf
 *     efibed check MAP --mapper mapper.elf
 *
 * This file is generated from Rust: do not edit it.
 */";

/// Of EFI's numbers, those that a mapper looks at.
fn numbers() -> String {
    let numbers: [(&str, u64); 10] = [
        ("BOOT_SERVICES_CODE", memory_type::BOOT_SERVICES_CODE.into()),
        ("BOOT_SERVICES_DATA", memory_type::BOOT_SERVICES_DATA.into()),
        ("RUNTIME_SERVICES_CODE", memory_type::RUNTIME_SERVICES_CODE.into()),
        ("RUNTIME_SERVICES_DATA", memory_type::RUNTIME_SERVICES_DATA.into()),
        ("MEMORY_UC", attribute::UC),
        ("MEMORY_WT", attribute::WT),
        ("MEMORY_WB", attribute::WB),
        ("MEMORY_XP", attribute::XP),
        ("MEMORY_RO", attribute::RO),
        ("MEMORY_RUNTIME", attribute::RUNTIME),
    ];
    let mut text = String::from("\n/* Types of regions, and bits of their attributes (UEFI 2.10, 7.2). */\n");
    for (name, value) in numbers {
        writeln!(text, "#define EFIBED_{name} {value:#x}ull").unwrap();
    }
    text
}

fn generated() -> String {
    let mut config = Config {
        header: Some(HEAD.into()),
        include_guard: Some("EFIBED_H".into()),
        language: Language::C,
        style: Style::Type,
        after_includes: Some(numbers()),
        trailer: Some(fs::read_to_string(in_workspace("guest-kernel/include/helpers.h")).unwrap()),
        documentation_style: DocumentationStyle::C99,
        no_includes: true,
        sys_includes: vec!["stdint.h".into()],
        line_length: 120,
        ..Config::default()
    };
    let names = [
        ("MapRequest", "efibed_request"),
        ("MapResult", "efibed_result"),
        ("MemoryDescriptor", "efibed_descriptor"),
        ("CpuAbilities", "efibed_cpu"),
        ("KeepRange", "efibed_range"),
        ("RegionAtHand", "efibed_region"),
        ("ABI_VERSION", "EFIBED_ABI_VERSION"),
        ("MAX_KEEP", "EFIBED_MAX_KEEP"),
    ];
    config.export.rename.extend(names.map(|(rust, c)| (rust.into(), c.into())));
    config.export.include = names[..6].iter().map(|(rust, _)| (*rust).into()).collect();
    // EFI's numbers are above, under names of their own.
    config.export.exclude = constants(&fs::read_to_string(in_workspace("efi-stub/src/memory.rs")).unwrap());
    config.export.exclude.extend(["MapStatus", "Log"].map(String::from));
    let bindings = Builder::new()
        .with_config(config)
        .with_src(in_workspace("guest-kernel/src/mapper/request.rs"))
        .with_src(in_workspace("efi-stub/src/memory.rs"))
        .generate()
        .unwrap();
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    // What rustdoc makes links of.
    names
        .iter()
        .fold(text, |text, (rust, c)| text.replace(&format!("[`{rust}`]"), c))
        .replace("\\[", "[")
        .replace("\\]", "]")
}

/// The names of the constants of a source.
fn constants(source: &str) -> Vec<String> {
    let name = |line: &str| Some(line.trim().strip_prefix("pub const ")?.split(':').next()?.to_owned());
    source.lines().filter_map(name).collect()
}

#[test]
fn the_header_is_the_rust_definitions() {
    let generated = generated();
    let path = in_workspace("guest-kernel/include/efibed.h");
    if std::env::var_os("EFIBED_BLESS").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let shipped = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(shipped, generated, "guest-kernel/include/efibed.h is old: EFIBED_BLESS=1 writes it anew");
    assert_eq!(efibed_guest::HEADER, shipped);
}
