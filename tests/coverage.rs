//! The layouts in code that counts what it runs, in a program of every kind: Cargo's profiles compile and link it in different
//! ways, and a linker that optimizes may drop counters, or the code before it had any.
//!
//! A crate outside of the workspace, with a build script as efibed's own, is built in each. That campaigns of the command count,
//! too, is tested in `vmm/tests/fuzz.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use efibed::mapper::MapStatus;

/// Those that Cargo has, and what `lto` and `panic` may be in others.
const PROFILES: [(&str, &str); 6] = [
    ("dev", ""),
    ("release", ""),
    ("fat", "inherits = \"release\"\nlto = \"fat\""),
    ("thin", "inherits = \"release\"\nlto = \"thin\""),
    ("off", "inherits = \"release\"\nlto = \"off\""),
    ("abort", "inherits = \"release\"\npanic = \"abort\""),
];

const BUILD: &str = r#"
fn main() {
    if let Err(error) = efibed_guest::build::counted_layouts() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
"#;

/// Prints how many counters there are, and how many have counted: at the start, after a layout that is asked for nothing, and
/// after one that there is not; and how that ended.
const MAIN: &str = r#"
use std::mem::zeroed;
use std::ops::Range;
use std::sync::Mutex;

use efibed_guest::mapper::{MapRequest, MapResult};

unsafe extern "C" {
    fn efibed_counted_layout(layout: usize, rule: usize, finishes: bool, request: *const MapRequest, result: *mut MapResult);
}

static COUNTERS: Mutex<Range<usize>> = Mutex::new(0..0);

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: usize, end: usize) {
    *COUNTERS.lock().unwrap() = start..end;
}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_: usize, _: usize) {}

fn counted() -> usize {
    let counters = COUNTERS.lock().unwrap().clone();
    counters.filter(|at| unsafe { (*at as *const u8).read_volatile() } != 0).count()
}

fn main() {
    let (mut request, mut result): (MapRequest, MapResult) = unsafe { (zeroed(), zeroed()) };
    let mut log = [0_u8; 512];
    (request.log, request.log_bytes) = (log.as_mut_ptr().expose_provenance() as u64, log.len() as u64);
    let all = COUNTERS.lock().unwrap().len();
    print!("{all} {}", counted());
    for layout in [0, 99] {
        unsafe { efibed_counted_layout(layout, 0, false, &request, &mut result) };
        print!(" {} {}", counted(), result.status);
    }
    println!("\n{}", String::from_utf8_lossy(&log[result.detail as usize..result.log_used as usize]));
}
"#;

#[test]
fn counters_are_there_and_change_in_a_program_of_every_profile() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coverage");
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, contents: &str| fs::write(folder.path().join(name), contents).unwrap();
    fs::copy(workspace.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    let guest = workspace.join("guest-kernel");
    let profiles = PROFILES.map(|(name, text)| format!("[profile.{name}]\n{text}\n")).concat();
    let manifest = format!(
        "[package]\nname = \"counted\"\nedition = \"2024\"\n\
         [dependencies]\nefibed-guest = {{ path = {guest:?} }}\n\
         [build-dependencies]\nefibed-guest = {{ path = {guest:?}, features = [\"build\"] }}\n{profiles}"
    );
    put("Cargo.toml", &manifest);
    put("build.rs", BUILD);
    put("src/main.rs", MAIN);
    for (profile, _) in PROFILES {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.current_dir(folder.path()).args(["run", "--quiet", "--offline", "--profile", profile]);
        let output = cargo.arg("--target-dir").arg(&target).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let (first, account) = text.split_once('\n').unwrap_or_else(|| panic!("{profile}: {output:?}"));
        let numbers: Vec<u64> = first.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [all, at_start, asked, refused, absent, panicked] = numbers[..] else { panic!("{profile}: {text}") };
        assert!(all > 100 && at_start == 0, "{profile}: {text}");
        assert!(0 < asked && asked < absent && absent < all, "{profile}: {text}");
        assert_eq!([refused, panicked], [MapStatus::BadRequest as u64, MapStatus::Panicked as u64], "{profile}");
        assert!(account.starts_with("panicked at ") && account.contains("the index is 99"), "{profile}: {account}");
    }
}
