//! Campaigns against mapping code that ends its process, or never ends: natively it can. Each such map is a finding, and the
//! campaign goes on to its last map.
//!
//! This program is the test, and the fuzz target that the test starts: `--campaign HOW FOLDER`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use efibed::fuzz::{Fuzz, FuzzEngine};
use efibed::{AddressSpace, LayoutMapper, MapContext, MapError, Mapper};
use libtest_mimic::{Arguments, Failed, Trial};

/// What it does, if the map has a region past 4 GiB.
type Misdeed = fn();

/// What it is called, what it is, and the rule that a guest finds broken.
const MISDEEDS: [(&str, Misdeed, &str); 6] = [
    ("nothing", || (), ""),
    ("ends with success", || std::process::exit(0), "privileged-instruction"),
    ("ends as a client does that cannot go on", || std::process::exit(70), "privileged-instruction"),
    (
        "writes to address 0",
        || {
            let nowhere = std::hint::black_box(std::ptr::null_mut::<u8>());
            // SAFETY: it is not. The process ends.
            unsafe { nowhere.write_volatile(1) }
        },
        "stray-access",
    ),
    (
        "takes more memory than there is",
        || drop(std::hint::black_box(vec![0_u8; 64 << 30])),
        // To say so is a system call.
        "privileged-instruction",
    ),
    (
        "never ends",
        || {
            loop {
                std::hint::spin_loop();
            }
        },
        "watchdog",
    ),
];

/// The default layout, except for that.
#[derive(Clone)]
struct Misdoer(Misdeed);

impl Mapper for Misdoer {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        if context.memory_map.iter().any(|descriptor| descriptor.phys_start >= 1 << 32) {
            (self.0)();
        }
        LayoutMapper::default().map(context)
    }
}

const RUNS: u64 = 12;

/// The fuzz target.
fn run(how: &str, folder: &str) {
    if how == EARLY && env::var_os("EFIBED_FUZZ_CLIENT").is_some() {
        return;
    }
    let (_, misdeed, _) = MISDEEDS.into_iter().find(|(name, ..)| *name == how).unwrap_or(MISDEEDS[0]);
    let fuzz = Fuzz::new(Misdoer(misdeed));
    let fuzz =
        fuzz.engine(FuzzEngine::Walker).max_mapped_pages(1024).limit(Duration::from_secs(1)).runs(RUNS).out(folder);
    print!("{}", fuzz.run().unwrap().to_json());
}

/// Its test.
fn check(how: &str, rule: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().to_str().ok_or("no text")?;
    let output = Command::new(env::current_exe()?).args(["--campaign", how, place]).output()?;
    let summary: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
    println!("{how}: {} died; {}", summary["died"], summary["findings"]);
    // Where there is no guest, its process's end is the finding.
    let is_its = |name: &str| name.starts_with("ended-") || (!rule.is_empty() && name.starts_with(rule));
    let names = fs::read_dir(folder.path().join("findings"))?.flatten().map(|entry| entry.file_name());
    let is_found = names.filter_map(|name| name.into_string().ok()).any(|name| is_its(&name));
    let has_died = summary["died"].as_u64() > Some(0);
    let is_misdeed = how != "nothing";
    if summary["runs"] != RUNS || has_died != is_misdeed || is_found != is_misdeed {
        return Err(format!("{summary:#}").into());
    }
    if clients(folder.path()) > 0 { Err("a client was left".into()) } else { Ok(()) }
}

/// What the fuzz target is called that ends before it comes to its campaign, where it is a client.
const EARLY: &str = "early";

/// A campaign whose clients run nothing has not found that all is well.
fn check_early() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().to_str().ok_or("no text")?;
    let output = Command::new(env::current_exe()?).args(["--campaign", EARLY, place]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_told = said.contains("it ended before it had run a map (exit status: 0)");
    if output.status.success() || !is_told { Err(format!("{output:?}").into()) } else { Ok(()) }
}

/// Processes that have the folder on their command line.
fn clients(folder: &Path) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let folder = folder.as_os_str().as_encoded_bytes();
    lines.filter(|line| line.windows(folder.len()).any(|part| part == folder)).count()
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [campaign, how, folder] = &arguments[..]
        && campaign == "--campaign"
    {
        return run(how, folder);
    }
    let misdeeds = MISDEEDS.iter().map(|(how, _, rule)| Trial::test(how.replace(' ', "_"), || check(how, rule)));
    let early = Trial::test("ends_before_it_comes_to_its_campaign", check_early);
    libtest_mimic::run(&Arguments::from_args(), misdeeds.chain([early]).collect()).exit();
}
