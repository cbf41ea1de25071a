//! What build scripts make of this crate's own sources, as a build-dependency with the feature `build`: the guest image, and
//! the layouts with coverage. They are compiled by the same `rustc` that Cargo uses.

mod counted;
mod image;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use counted::layouts as counted_layouts;
pub use image::image;

/// Where this crate's sources are.
const SOURCE_DIR: &str = env!("CARGO_MANIFEST_DIR");

/// Why something was not built.
#[derive(Debug)]
pub enum BuildError {
    /// A Cargo variable that build scripts have is missing.
    NotABuildScript(&'static str),
    /// The compiler could not be started.
    NoCompiler(PathBuf, std::io::Error),
    /// It ran and failed; its messages are inside.
    Compile(String),
    /// A file could not be read or written.
    File(PathBuf, std::io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABuildScript(name) => write!(f, "{name} is not set: guest code is built from build scripts"),
            Self::NoCompiler(path, error) => write!(f, "cannot run {}: {error}", path.display()),
            Self::Compile(messages) => write!(f, "the guest's code does not compile:\n{messages}"),
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for BuildError {}

/// This crate, and what it depends on, in the order in which they are compiled: name, and folder of the sources.
fn crates() -> [(&'static str, PathBuf); 2] {
    [(STUB, Path::new(efibed_stub::SOURCE_DIR).join("src")), (GUEST, Path::new(SOURCE_DIR).join("src"))]
}

const STUB: &str = "efibed_stub";
const GUEST: &str = "efibed_guest";

/// Has Cargo run the build script again when a source changes.
fn watch_sources() {
    let image = Path::new(SOURCE_DIR).join("image");
    for folder in crates().map(|(_, folder)| folder).iter().chain([&image]) {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
}

/// The compiler, and the folder that it writes to.
struct Toolchain {
    rustc: PathBuf,
    out: PathBuf,
}

impl Toolchain {
    /// Cargo's, writing to a folder below `OUT_DIR`.
    fn from_environment(folder: &str) -> Result<Self, BuildError> {
        let out = variable("OUT_DIR")?.join(folder);
        std::fs::create_dir_all(&out).map_err(|error| BuildError::File(out.clone(), error))?;
        Ok(Self { rustc: variable("RUSTC")?, out })
    }

    /// The arguments to compile a crate, which finds what was compiled before it.
    fn arguments(&self, name: &str, kind: &str, source: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![source.into()];
        let fixed = ["--edition=2024", "--cap-lints=allow", "-Copt-level=2", "-Coverflow-checks=on", "-Cdebuginfo=0"];
        arguments.extend(fixed.map(OsString::from));
        arguments.push(format!("--crate-name={name}").into());
        arguments.push(format!("--crate-type={kind}").into());
        arguments.push(format!("-Ldependency={}", self.out.display()).into());
        for dependency in [STUB, GUEST].iter().take_while(|dependency| **dependency != name) {
            arguments.push(format!("--extern={dependency}={}", self.rlib(dependency).display()).into());
        }
        arguments
    }

    fn rlib(&self, name: &str) -> PathBuf {
        self.out.join(format!("lib{name}.rlib"))
    }

    fn run(&self, arguments: &[OsString]) -> Result<String, BuildError> {
        let output = Command::new(&self.rustc)
            .args(arguments)
            .output()
            .map_err(|error| BuildError::NoCompiler(self.rustc.clone(), error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(BuildError::Compile(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }
}

fn variable(name: &'static str) -> Result<PathBuf, BuildError> {
    env::var_os(name).map(PathBuf::from).ok_or(BuildError::NotABuildScript(name))
}
