//! `efibed doctor`: what this machine's KVM can and cannot do, each found by trying it.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::{Failure, Status, output};
use crate::engine::Abilities;
use crate::{CpuidRequest, TestBed};

/// The arguments of `doctor`.
#[derive(Args)]
pub struct Arguments {
    /// Write what was found as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let bed = TestBed::new()?;
    // As much as KVM will say there is.
    let everything = CpuidRequest { la57: Some(true), pku: Some(true), ..CpuidRequest::default() };
    let abilities = bed.abilities(&everything)?;
    match &arguments.json {
        Some(path) if path.as_os_str() == "-" => output::print(&json(&abilities))?,
        Some(path) => {
            output::write_file(path, &json(&abilities))?;
            output::print(&text(&abilities))?;
        }
        None => output::print(&text(&abilities))?,
    }
    Ok(Status::Clean)
}

fn text(abilities: &Abilities) -> String {
    let Abilities { cpuid, checks, trials, .. } = abilities;
    let mut text = format!("/dev/kvm works; the guest's CPU calls itself {:?}.\n\n", cpuid.vendor);
    let has = |has| if has { "yes" } else { "no" };
    let rows = [
        ("1 GiB leaves", has(cpuid.gbpages), has(checks.gbpages)),
        ("execute-disable", has(cpuid.nx), has(checks.nxe)),
        ("five-level paging", has(cpuid.la57), has(checks.la57)),
        ("SMEP", has(cpuid.smep), has(checks.smep)),
        ("SMAP", has(cpuid.smap), has(checks.smap)),
        ("protection keys", has(cpuid.pku), has(checks.pke)),
    ];
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {:<24}{:<10}tried", "ability", "CPUID");
    for (what, said, tried) in rows {
        let _ = writeln!(text, "  {what:<24}{said:<10}{tried}");
    }
    let _ = writeln!(text, "  {:<24}{:<10}{}", "physical-address bits", cpuid.maxphyaddr, checks.maxphyaddr);
    text += "\nWhat was tried:\n";
    for trial in trials {
        let mark = if trial.works { "ok  " } else { "ODD " };
        let _ = writeln!(text, "  {mark}{:<50}{}", trial.what, trial.seen);
    }
    if !trials.iter().all(|trial| trial.works) {
        text += "\nODD: not as the manual and CPUID say. Checks take it into account, and say `cpu_checked` in their JSON.\n";
    }
    text
}

fn json(abilities: &Abilities) -> String {
    let trials: Vec<_> = abilities
        .trials
        .iter()
        .map(|trial| serde_json::json!({ "what": trial.what, "as_told": trial.works, "seen": trial.seen }))
        .collect();
    let value = serde_json::json!({
        "schema": 1,
        "cpu": crate::report::json::cpu(&abilities.told),
        "cpu_checked": crate::report::json::cpu(&abilities.checks),
        "trials": trials,
    });
    format!("{value:#}\n")
}
