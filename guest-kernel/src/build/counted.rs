//! The layouts once more, in code that counts what it runs: what steers `efibed fuzz`.
//!
//! Cargo cannot compile one crate of a program with options of its own. So it is compiled here, and the program gets it as it
//! would get a library in C: behind the function of `layouts/door.rs`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::{BuildError, GUEST, Toolchain, crates, variable, watch_sources};
use crate::COUNTED;

/// Builds the library, and has Cargo link it to the package whose build script this is.
pub fn layouts() -> Result<(), BuildError> {
    watch_sources();
    let toolchain = Toolchain::from_environment("counted")?;
    let target = variable("TARGET")?;
    let whole = toolchain.out.join("whole.a");
    for (name, folder) in crates() {
        let (kind, file) = if name == GUEST { ("staticlib", &whole) } else { ("rlib", &toolchain.rlib(name)) };
        let mut arguments = toolchain.arguments(name, kind, &folder.join("lib.rs"));
        let fixed = ["--cfg=efibed_counted", "-Cpanic=abort", "-Ccodegen-units=1"];
        arguments.extend(fixed.map(OsString::from));
        if name == GUEST {
            // All that it takes of other crates is in its object, under names that nobody else sees.
            arguments.push("-Clto=fat".into());
            arguments.extend(COUNTED.map(OsString::from));
        }
        arguments.push(format!("--target={}", target.display()).into());
        arguments.push(format!("-o{}", file.display()).into());
        toolchain.run(&arguments)?;
    }
    write_archive(&toolchain.out.join("libefibed_counted.a"), &own_object(&whole)?)?;
    println!("cargo::rustc-link-search=native={}", toolchain.out.display());
    println!("cargo::rustc-link-lib=static=efibed_counted");
    Ok(())
}

/// The object of the crate in a library that rustc has made. Behind it come those of the compiler's run-time library, which every
/// program has.
fn own_object(archive: &Path) -> Result<Vec<u8>, BuildError> {
    let bytes = fs::read(archive).map_err(|error| BuildError::File(archive.into(), error))?;
    let mut rest = bytes.strip_prefix(MAGIC).unwrap_or_default();
    while let Some((header, behind)) = rest.split_at_checked(HEADER_BYTES) {
        let text = str::from_utf8(header).unwrap_or_default();
        let length: usize = text.get(48..58).and_then(|length| length.trim_end().parse().ok()).unwrap_or_default();
        let Some((member, behind)) = behind.split_at_checked(length) else { break };
        if member.starts_with(b"\x7fELF") {
            return Ok(member.into());
        }
        // Members begin at even offsets.
        rest = behind.get(length % 2..).unwrap_or_default();
    }
    Err(BuildError::Compile(format!("{}: there is no object in it", archive.display())))
}

/// An archive of one member, without an index: rustc takes that over into an archive of its own.
fn write_archive(path: &Path, object: &[u8]) -> Result<(), BuildError> {
    // Name, time, owner, group, mode and length.
    let header = format!("{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", "counted.o/", 0, 0, 0, 644, object.len());
    let end: &[u8] = if object.len().is_multiple_of(2) { b"" } else { b"\n" };
    fs::write(path, [MAGIC, header.as_bytes(), object, end].concat())
        .map_err(|error| BuildError::File(path.into(), error))
}

/// How an archive begins, and what is before each member (ar(5)).
const MAGIC: &[u8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;
