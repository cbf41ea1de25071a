//! Builds the guest image whose mapping code attacks.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=hostile");
    let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile/main.rs");
    match efibed_guest::build::image_of(&main, "hostile.elf") {
        Ok(path) => println!("cargo::rustc-env=EFIBED_HOSTILE_IMAGE={}", path.display()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
