//! Programs for the tests of this room, made by the system's C compiler. A C linker is needed to build the tests at all.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The name of a source in C.
pub const C: &str = "mapper.c";

/// What the compiler makes of a source, told its name alone.
#[track_caller]
pub fn compile(name: &str, source: &str, flags: &[&str]) -> Vec<u8> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = Folder(std::env::temp_dir().join(format!("efibed-compiled-{}-{number}", std::process::id())));
    fs::create_dir(&folder.0).unwrap();
    fs::write(folder.0.join(name), source).unwrap();
    let made = Command::new("cc").current_dir(&folder.0).args([name, "-o", "mapper.elf"]).args(flags).output();
    let made = made.expect("these tests need the C compiler `cc`");
    assert!(made.status.success(), "{name} {flags:?}: {}", String::from_utf8_lossy(&made.stderr));
    fs::read(folder.0.join("mapper.elf")).unwrap()
}

/// A folder that goes away.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
