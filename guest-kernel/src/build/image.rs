//! The guest image. If the toolchain has the target `x86_64-unknown-none`, it is built for that. Otherwise it is the host's
//! target, told not to use the red zone, position independence and SSE.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{BuildError, SOURCE_DIR, Toolchain, crates, watch_sources};

/// The bare-metal target, used where the toolchain has it.
const BARE_TARGET: &str = "x86_64-unknown-none";

/// Builds the image below `OUT_DIR` and returns its path.
pub fn image() -> Result<PathBuf, BuildError> {
    watch_sources();
    let builder = Builder::from_environment()?;
    // The compiler warns that it will one day refuse to turn SSE off. Then this is enough, since nothing in the image uses
    // floating point. The image's own test fails if it is not.
    let without_sse: &[&[&str]] = &[&["-Ctarget-feature=-sse2,-sse"], &["-Cno-vectorize-loops", "-Cno-vectorize-slp"]];
    let mut messages = String::new();
    for flags in without_sse {
        match builder.build(flags) {
            Err(BuildError::Compile(text)) => messages.push_str(&text),
            other => return other,
        }
    }
    Err(BuildError::Compile(messages))
}

struct Builder {
    toolchain: Toolchain,
    /// For the bare-metal target.
    is_bare: bool,
}

impl Builder {
    fn from_environment() -> Result<Self, BuildError> {
        let toolchain = Toolchain::from_environment("image")?;
        let libraries =
            toolchain.run(&["--print".into(), "target-libdir".into(), format!("--target={BARE_TARGET}").into()])?;
        Ok(Self { toolchain, is_bare: Path::new(libraries.trim()).is_dir() })
    }

    fn build(&self, flags: &[&str]) -> Result<PathBuf, BuildError> {
        for (name, folder) in crates() {
            let mut arguments = self.arguments(name, "rlib", &folder.join("lib.rs"), flags);
            arguments.extend(["-o".into(), self.toolchain.rlib(name).into()]);
            self.toolchain.run(&arguments)?;
        }
        self.link(flags)
    }

    fn link(&self, flags: &[&str]) -> Result<PathBuf, BuildError> {
        let main = Path::new(SOURCE_DIR).join("image/main.rs");
        let elf = self.toolchain.out.join("efibed-guest.elf");
        let mut arguments = self.arguments("efibed_image", "bin", &main, flags);
        arguments.extend(["-Clto=fat", "-Cforce-frame-pointers=no"].map(OsString::from));
        let script = Path::new(SOURCE_DIR).join("image/image.ld");
        let script = format!("--script={}", script.display());
        for argument in ["-nostartfiles", "-static", "-no-pie", "-nostdlib"].iter().filter(|_| !self.is_bare) {
            arguments.push(format!("-Clink-arg={argument}").into());
        }
        for argument in [script.as_str(), "--build-id=none", "--gc-sections", "-zmax-page-size=4096"] {
            // The host's linker is driven through the C compiler, the bare target's directly.
            let prefix = if self.is_bare { "" } else { "-Wl," };
            arguments.push(format!("-Clink-arg={prefix}{argument}").into());
        }
        arguments.extend(["-o".into(), elf.clone().into()]);
        self.toolchain.run(&arguments)?;
        Ok(elf)
    }

    fn arguments(&self, name: &str, kind: &str, source: &Path, flags: &[&str]) -> Vec<OsString> {
        let mut arguments = self.toolchain.arguments(name, kind, source);
        let fixed = [
            "--cfg=efibed_image",
            "-Cpanic=abort",
            "-Crelocation-model=static",
            // Without it a link in the top 2 GiB fails.
            "-Ccode-model=kernel",
            // The handlers run on stacks of their own, but even so a fault must not find data below RSP.
            "-Cno-redzone=yes",
            "-Cembed-bitcode=yes",
            "-Cforce-unwind-tables=no",
            "-Cstrip=debuginfo",
        ];
        arguments.extend(fixed.iter().chain(flags).map(OsString::from));
        if self.is_bare {
            arguments.push(format!("--target={BARE_TARGET}").into());
        }
        arguments
    }
}
