//! Campaigns against mapping code that ends its process, or never ends: natively it can. Each such map is a finding, and the
//! campaign goes on to its last map.
//!
//! And against mapping code that breaks the same rule at two lines: each is a finding, once.
//!
//! This program is the test, and the fuzz target that the test starts: `--campaign HOW FOLDER`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use efibed::fuzz::{FindingKey, Fuzz, FuzzEngine};
use efibed::mapper::page_table::{LeafRule, Mapping, WRITABLE};
use efibed::mapper::{MemoryDescriptor, attribute};
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

/// Maps page by page, and has an odd region's first page wrong, and an even one's last.
#[derive(Clone)]
struct TwoBugs;

const PAGE: u64 = 4096;

impl Mapper for TwoBugs {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let mut next = 0xffff_ff00_0000_0000;
        for (index, region) in context.memory_map.iter().enumerate() {
            if region.attribute & attribute::RUNTIME == 0 || region.page_count == 0 {
                continue;
            }
            let (virt, phys, pages) = (next, region.phys_start, region.page_count);
            next += pages * PAGE;
            put(context, virt, phys, pages)?;
            if pages % 2 == 0 {
                last_is_wrong(context, virt, phys, pages)?
            } else {
                first_is_wrong(context, virt, phys)?
            }
            context.push_mapped(index, &MemoryDescriptor { virt_start: virt, ..*region })?;
        }
        Ok(context.space)
    }
}

#[inline(always)]
fn put(context: &mut MapContext<'_>, virt: u64, phys: u64, pages: u64) -> Result<(), MapError> {
    let mapping = Mapping { flags: WRITABLE, leaf_rule: LeafRule::FourK, gbpages: false };
    context.space.map(&mut context.tables, virt, phys, pages * PAGE, mapping)
}

#[inline(never)]
fn first_is_wrong(context: &mut MapContext<'_>, virt: u64, phys: u64) -> Result<(), MapError> {
    let mapping = Mapping { flags: WRITABLE, leaf_rule: LeafRule::FourK, gbpages: false };
    context.space.map(&mut context.tables, virt, phys + PAGE, PAGE, mapping)
}
const FIRST: u32 = line!() - 2;

#[inline(never)]
fn last_is_wrong(context: &mut MapContext<'_>, virt: u64, phys: u64, pages: u64) -> Result<(), MapError> {
    let [virt, phys] = [virt, phys].map(|start| start + (pages - 1) * PAGE);
    let mapping = Mapping { flags: WRITABLE, leaf_rule: LeafRule::FourK, gbpages: false };
    context.space.map(&mut context.tables, virt, phys + PAGE, PAGE, mapping)
}
const LAST: u32 = line!() - 2;

/// What its fuzz target is called, and the engine there.
const TWO_BUGS: [(&str, FuzzEngine); 3] = [
    ("two bugs, in both", FuzzEngine::Both),
    ("two bugs, in a guest", FuzzEngine::Kvm),
    ("two bugs, natively", FuzzEngine::Walker),
];

fn run_two_bugs(engine: FuzzEngine, folder: &str) {
    let fuzz = Fuzz::new(TwoBugs).engine(engine).max_mapped_pages(256).runs(60).out(folder);
    print!("{}", fuzz.run().unwrap().to_json());
}

/// The findings of wrong frames in runtime data, as a campaign tells them that goes on in a folder.
fn wrong_frames(how: &str, folder: &Path) -> Result<Vec<String>, Failed> {
    let place = folder.to_str().ok_or("no text")?;
    let output = Command::new(env::current_exe()?).args(["--campaign", how, place]).output()?;
    let summary: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
    println!("{how}: {} in {} s", summary["findings"], summary["seconds"]);
    let keys = summary["findings"].as_array().into_iter().flatten().filter_map(|key| key.as_str());
    Ok(keys.filter(|key| key.starts_with("wrong-frame.RuntimeServicesData.")).map(Into::into).collect())
}

/// Two bugs of one rule are two findings, each with its own line, and are found once.
fn check_two_bugs(how: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let found = wrong_frames(how, folder.path())?;
    let lines = [format!("first_is_wrong-{FIRST}"), format!("last_is_wrong-{LAST}")];
    let expected = lines.map(|line| format!("wrong-frame.RuntimeServicesData.map.PTE.campaign-{line}"));
    if found != expected {
        return Err(format!("{found:?}, and not {expected:?}").into());
    }
    for key in &found {
        let text = fs::read_to_string(folder.path().join(format!("findings/{key}.toml")))?;
        let line = key.parse::<FindingKey>()?.set_by.ok_or("no line")?.to_string();
        let line = line.rsplit('-').next().unwrap_or_default();
        if !text.contains("#    set by") || !text.contains(&format!("vmm/tests/campaign.rs:{line}")) {
            return Err(text.into());
        }
    }
    let again = wrong_frames(how, folder.path())?;
    if again.is_empty() { Ok(()) } else { Err(format!("told again: {again:?}").into()) }
}

/// Natively nobody can tell them apart: they are one.
fn check_two_bugs_natively(how: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let found = wrong_frames(how, folder.path())?;
    if found == ["wrong-frame.RuntimeServicesData.map.PTE"] { Ok(()) } else { Err(format!("{found:?}").into()) }
}

/// The tests of that. Those that need KVM are ignored without it; with `EFIBED_REQUIRE_KVM=1` they fail.
fn two_bugs() -> impl Iterator<Item = Trial> {
    let is_required = env::var_os("EFIBED_REQUIRE_KVM").is_some_and(|value| value == "1");
    let has_guests = is_required || efibed::TestBed::new().is_ok();
    TWO_BUGS.into_iter().map(move |(how, engine)| {
        let name = how.replace([',', ' '], "_");
        match engine {
            FuzzEngine::Walker => Trial::test(name, move || check_two_bugs_natively(how)),
            _ => Trial::test(name, move || check_two_bugs(how)).with_ignored_flag(!has_guests),
        }
    })
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
        return match TWO_BUGS.into_iter().find(|(name, _)| name == how) {
            Some((_, engine)) => run_two_bugs(engine, folder),
            None => run(how, folder),
        };
    }
    let misdeeds = MISDEEDS.iter().map(|(how, _, rule)| Trial::test(how.replace(' ', "_"), || check(how, rule)));
    let early = Trial::test("ends_before_it_comes_to_its_campaign", check_early);
    libtest_mimic::run(&Arguments::from_args(), misdeeds.chain([early]).chain(two_bugs()).collect()).exit();
}
