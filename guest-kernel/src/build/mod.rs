//! Builds a guest image, for build scripts: this crate as a build-dependency with the feature `build`.
//!
//! The sources are compiled by the same `rustc` that Cargo uses. If the toolchain has the target `x86_64-unknown-none`,
//! that is used. Otherwise it is the host's target, told not to use the red zone, position independence and SSE.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bare-metal target, used where the toolchain has it.
const BARE_TARGET: &str = "x86_64-unknown-none";

/// Where this crate's sources are.
const SOURCE_DIR: &str = env!("CARGO_MANIFEST_DIR");

/// Why there is no image.
#[derive(Debug)]
pub enum BuildError {
    /// A Cargo variable that build scripts have is missing.
    NotABuildScript(&'static str),
    /// The compiler could not be started.
    NoCompiler(PathBuf, std::io::Error),
    /// It ran and failed; its messages are inside.
    Compile(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABuildScript(name) => write!(f, "{name} is not set: the guest image is built from build scripts"),
            Self::NoCompiler(path, error) => write!(f, "cannot run {}: {error}", path.display()),
            Self::Compile(messages) => write!(f, "the guest image does not compile:\n{messages}"),
        }
    }
}

impl std::error::Error for BuildError {}

/// Builds the image into `OUT_DIR` and returns its path.
pub fn image() -> Result<PathBuf, BuildError> {
    for dir in [Path::new(SOURCE_DIR).join("src"), Path::new(SOURCE_DIR).join("image"), stub_source()] {
        println!("cargo::rerun-if-changed={}", dir.display());
    }
    let (main, name) = (Path::new(SOURCE_DIR).join("image/main.rs"), "efibed-guest.elf");
    let toolchain = Toolchain::from_environment()?;
    // The compiler warns that it will one day refuse to turn SSE off. Then this is enough, since nothing in the image uses
    // floating point. The image's own test fails if it is not.
    let without_sse: &[&[&str]] = &[&["-Ctarget-feature=-sse2,-sse"], &["-Cno-vectorize-loops", "-Cno-vectorize-slp"]];
    let mut messages = String::new();
    for flags in without_sse {
        match toolchain.build(&main, name, flags) {
            Err(BuildError::Compile(text)) => messages.push_str(&text),
            other => return other,
        }
    }
    Err(BuildError::Compile(messages))
}

fn stub_source() -> PathBuf {
    Path::new(efibed_stub::SOURCE_DIR).join("src")
}

struct Toolchain {
    rustc: PathBuf,
    out: PathBuf,
    bare: bool,
}

impl Toolchain {
    fn from_environment() -> Result<Self, BuildError> {
        let variable = |name| env::var_os(name).map(PathBuf::from).ok_or(BuildError::NotABuildScript(name));
        let mut toolchain = Self { rustc: variable("RUSTC")?, out: variable("OUT_DIR")?, bare: false };
        let libraries =
            toolchain.run(&["--print".into(), "target-libdir".into(), format!("--target={BARE_TARGET}").into()])?;
        toolchain.bare = Path::new(libraries.trim()).is_dir();
        Ok(toolchain)
    }

    fn build(&self, main: &Path, name: &str, flags: &[&str]) -> Result<PathBuf, BuildError> {
        self.compile_crate("efibed_stub", &stub_source().join("lib.rs"), flags)?;
        self.compile_crate("efibed_guest", &Path::new(SOURCE_DIR).join("src/lib.rs"), flags)?;
        let elf = self.out.join(name);
        let mut arguments = self.common("efibed_image", "bin", main, flags);
        arguments.push("-Clto=fat".into());
        arguments.push("-Cforce-frame-pointers=no".into());
        let script = Path::new(SOURCE_DIR).join("image/image.ld");
        let script = format!("--script={}", script.display());
        for argument in ["-static", "-no-pie", "-nostdlib"].iter().filter(|_| !self.bare) {
            arguments.push(format!("-Clink-arg={argument}").into());
        }
        for argument in [script.as_str(), "--build-id=none", "--gc-sections", "-zmax-page-size=4096"] {
            // The host's linker is driven through the C compiler, the bare target's directly.
            let prefix = if self.bare { "" } else { "-Wl," };
            arguments.push(format!("-Clink-arg={prefix}{argument}").into());
        }
        arguments.extend(["-o".into(), elf.clone().into()]);
        self.run(&arguments)?;
        Ok(elf)
    }

    fn compile_crate(&self, name: &str, source: &Path, flags: &[&str]) -> Result<(), BuildError> {
        let mut arguments = self.common(name, "rlib", source, flags);
        arguments.extend(["-o".into(), self.rlib(name).into()]);
        self.run(&arguments).map(drop)
    }

    fn common(&self, name: &str, kind: &str, source: &Path, flags: &[&str]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![source.into()];
        let fixed = [
            "--edition=2024",
            "--cfg=efibed_image",
            "--cap-lints=allow",
            "-Copt-level=2",
            "-Coverflow-checks=on",
            "-Cpanic=abort",
            "-Crelocation-model=static",
            // Without it a link in the top 2 GiB fails.
            "-Ccode-model=kernel",
            // The handlers run on stacks of their own, but even so a fault must not find data below RSP.
            "-Cno-redzone=yes",
            "-Cembed-bitcode=yes",
            "-Cforce-unwind-tables=no",
            "-Cdebuginfo=0",
            "-Cstrip=debuginfo",
        ];
        arguments.extend(fixed.iter().chain(flags).map(OsString::from));
        arguments.push(format!("--crate-name={name}").into());
        arguments.push(format!("--crate-type={kind}").into());
        arguments.push(format!("-Ldependency={}", self.out.display()).into());
        for dependency in ["efibed_stub", "efibed_guest"].iter().take_while(|d| **d != name) {
            arguments.push(format!("--extern={dependency}={}", self.rlib(dependency).display()).into());
        }
        if self.bare {
            arguments.push(format!("--target={BARE_TARGET}").into());
        } else if kind == "bin" {
            arguments.push("-Clink-arg=-nostartfiles".into());
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
