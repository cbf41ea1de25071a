//! Builds what the library carries inside: the guest image, and for campaigns the layouts with coverage. It finds out, too, which
//! commit all is built from.

#[path = "build/commit.rs"]
mod commit;

use std::path::Path;

use efibed_guest::build::BuildError;

fn main() {
    tell_version();
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    // docs.rs builds without a linker to rely on, and documentation needs no image.
    if std::env::var_os("DOCS_RS").is_some() {
        println!("cargo::rustc-cfg=docsrs");
        return;
    }
    if let Err(error) = build() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), BuildError> {
    println!("cargo::rustc-env=EFIBED_GUEST_IMAGE={}", efibed_guest::build::image()?.display());
    if std::env::var_os("CARGO_FEATURE_FUZZ").is_some() {
        efibed_guest::build::counted_layouts()?;
    }
    Ok(())
}

/// The version, and the commit if there is a checkout: `0.1.0 (1234567890ab)`.
fn tell_version() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let version = env!("CARGO_PKG_VERSION");
    // This package is a folder of its repository.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    match root.and_then(commit::checkout) {
        None => println!("cargo::rustc-env=EFIBED_VERSION={version}"),
        Some(checkout) => {
            println!("cargo::rustc-env=EFIBED_VERSION={version} ({})", checkout.commit);
            for path in checkout.watched {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
}
