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
    // All there may be; what KVM has not got it refuses, and that is an answer too.
    let everything = CpuidRequest { la57: Some(true), pku: Some(true), ..CpuidRequest::default() };
    let abilities = bed.abilities(&everything)?;
    match &arguments.json {
        Some(path) if path.as_os_str() == "-" => output::print(&json(&abilities))?,
        Some(path) => {
            output::write_file(path, json(&abilities))?;
            output::print(&text(&abilities))?;
        }
        None => output::print(&text(&abilities))?,
    }
    Ok(Status::Clean)
}

fn text(abilities: &Abilities) -> String {
    let Abilities { supported, checks, trials, .. } = abilities;
    let mut text = format!("/dev/kvm works; the guest's CPU calls itself {:?}.\n\n", supported.vendor);
    let has = |has| if has { "yes" } else { "no" };
    let rows = [
        ("1 GiB leaves", has(supported.gbpages), has(checks.gbpages)),
        ("execute-disable", has(supported.nx), has(checks.nxe)),
        ("five-level paging", has(supported.la57), has(checks.la57)),
        ("SMEP", has(supported.smep), has(checks.smep)),
        ("SMAP", has(supported.smap), has(checks.smap)),
        ("protection keys", has(supported.pku), has(checks.pke)),
    ];
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {:<24}{:<11}tried", "ability", "KVM says");
    for (what, said, tried) in rows {
        let _ = writeln!(text, "  {what:<24}{said:<11}{tried}");
    }
    let _ = writeln!(text, "  {:<24}{:<11}{}", "physical-address bits", supported.maxphyaddr, checks.maxphyaddr);
    text += "\nWhat was tried:\n";
    for trial in trials {
        let mark = if trial.works { "ok  " } else { "ODD " };
        let _ = writeln!(text, "  {mark}{:<50}{}", trial.what, trial.seen);
    }
    if !trials.iter().all(|trial| trial.works) {
        text += "\nODD: not as the manual says for what the CPU was told. Checks know of it: the walker predicts what this machine does,\nand reports say so (`cpu_checked` in JSON).\n";
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
