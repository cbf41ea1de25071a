//! Builds the guest image, which the library carries inside.

fn main() {
    // docs.rs builds without a linker to rely on, and documentation needs no image.
    if std::env::var_os("DOCS_RS").is_some() {
        println!("cargo::rustc-cfg=docsrs");
        return;
    }
    match efibed_guest::build::image() {
        Ok(path) => println!("cargo::rustc-env=EFIBED_GUEST_IMAGE={}", path.display()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
