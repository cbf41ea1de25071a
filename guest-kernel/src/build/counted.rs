//! The layouts once more, in code that counts what it runs: what steers `efibed fuzz`.
//!
//! Cargo cannot compile one crate of a program with options of its own. So it is compiled here, and the program gets it as it
//! would get a library in C: behind the function of `layouts/door.rs`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{BuildError, GUEST, Toolchain, crates, variable, watch_sources};
use crate::COUNTED;

/// Builds the library, and has Cargo link it to the package whose build script this is.
pub fn layouts() -> Result<(), BuildError> {
    watch_sources();
    let toolchain = Toolchain::from_environment("counted")?;
    let target = variable("TARGET")?;
    let mut objects = Vec::new();
    for (name, folder) in crates() {
        let object = toolchain.out.join(format!("{name}.o"));
        let mut arguments = toolchain.arguments(name, "rlib", &folder.join("lib.rs"));
        let fixed = [
            "--cfg=efibed_counted",
            // Symbols other than those of the crate that Cargo compiles.
            "-Cmetadata=efibed-counted",
            // One object.
            "-Ccodegen-units=1",
            // Nothing from before the pass, which link-time optimization would take in its place.
            "-Cembed-bitcode=no",
        ];
        arguments.extend(fixed.map(OsString::from));
        arguments.extend(COUNTED.iter().filter(|_| name == GUEST).map(OsString::from));
        arguments.push(format!("--target={}", target.display()).into());
        arguments.push(format!("--emit=obj={},link={}", object.display(), toolchain.rlib(name).display()).into());
        toolchain.run(&arguments)?;
        objects.push(object);
    }
    write_archive(&toolchain.out.join("libefibed_counted.a"), &objects)?;
    println!("cargo::rustc-link-search=native={}", toolchain.out.display());
    println!("cargo::rustc-link-lib=static=efibed_counted");
    Ok(())
}

/// An archive as ar(5) has it, without an index: rustc takes its members over into an archive of its own.
fn write_archive(path: &Path, objects: &[PathBuf]) -> Result<(), BuildError> {
    let mut archive = b"!<arch>\n".to_vec();
    for (number, object) in objects.iter().enumerate() {
        let mut bytes = fs::read(object).map_err(|error| BuildError::File(object.clone(), error))?;
        let length = bytes.len();
        // Name, time, owner, group, mode and length; each member begins at an even offset.
        let name = format!("counted{number}.o/");
        archive.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{length:<10}`\n", 0, 0, 0, 644).bytes());
        archive.append(&mut bytes);
        archive.extend(std::iter::repeat_n(b'\n', length % 2));
    }
    fs::write(path, archive).map_err(|error| BuildError::File(path.into(), error))
}
