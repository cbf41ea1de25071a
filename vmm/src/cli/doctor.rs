//! `efibed doctor`: what this machine's KVM can and cannot do, and what its kernel has for a sandbox, each found by trying
//! it.

use std::path::PathBuf;

use clap::Args;

use super::output::{self, Outputs};
use super::sandbox::{self, Tried};
use super::{Failure, Status};
use crate::engine::Abilities;
use crate::report::style::Paint;
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
    let outputs = Outputs::open([arguments.json.as_deref()], &[])?;
    // First: a machine has a thread of KVM's own, after which no process may be forked.
    let walls = sandbox::try_parts()?;
    let bed = TestBed::new()?;
    // Ask for everything. KVM refuses what it lacks, and that is an answer too.
    let everything = CpuidRequest::default().la57(true).pku(true);
    let abilities = bed.abilities(&everything)?;
    outputs.write(|| text(&abilities, &walls, output::columns()), &[&|| json(&abilities, &walls)], Status::Clean)
}

fn text(abilities: &Abilities, walls: &[Tried], columns: Option<usize>) -> String {
    let Abilities { supported, trials, .. } = abilities;
    let paint = Paint::PLAIN.on(columns);
    let mut lines = paint.wrapped(&format!("/dev/kvm works; the guest's CPU calls itself {:?}.", supported.vendor), 0);
    lines.push(String::new());
    lines.extend(table(abilities));
    lines.extend([String::new(), "What was tried:".into()]);
    for trial in trials {
        let mark = if trial.works { "ok" } else { "ODD" };
        lines.extend(paint.row(&format!("  {mark:<4}{}", trial.what), &trial.seen, SEEN));
    }
    if !trials.iter().all(|trial| trial.works) {
        lines.push(String::new());
        lines.extend(paint.wrapped(ODD, 0));
    }
    lines.extend([String::new(), "The sandbox of `check` and `kexec`:".into()]);
    for Tried { part, outcome } in walls {
        let (mark, seen) = match outcome {
            Ok(seen) => ("ok", seen),
            Err(why) => ("--", why),
        };
        lines.extend(paint.row(&format!("  {mark:<4}{part}"), seen, SEEN));
    }
    lines.join("\n") + "\n"
}

/// Where the text begins that says what a trial showed.
const SEEN: usize = 56;

const ODD: &str = "ODD: not what the manual says for this CPU. If it is one of the abilities above, checks use the result of \
                   the trial, and reports say so (`cpu_checked` in JSON).";

/// Each ability, what KVM says of it, and what trying it showed. An ability that the guest's CPU is not told to have cannot
/// always be tried.
fn table(abilities: &Abilities) -> Vec<String> {
    let Abilities { supported, checks, told, .. } = abilities;
    let has = |has| if has { "yes" } else { "no" }.to_owned();
    let if_told = |is_told: bool, checks| if is_told { has(checks) } else { "not tried".into() };
    let rows = [
        ("ability", "KVM says".into(), "tried".into()),
        ("1 GiB leaves", has(supported.gbpages), has(checks.gbpages)),
        ("execute-disable", has(supported.nx), has(checks.nxe)),
        ("five-level paging", has(supported.la57), if_told(told.la57, checks.la57)),
        ("SMEP", has(supported.smep), has(checks.smep)),
        ("SMAP", has(supported.smap), has(checks.smap)),
        ("protection keys", has(supported.pku), if_told(told.pke, checks.pke)),
        ("physical-address bits", supported.maxphyaddr.to_string(), checks.maxphyaddr.to_string()),
    ];
    rows.map(|(what, said, tried)| format!("  {what:<24}{said:<11}{tried}")).into()
}

fn json(abilities: &Abilities, walls: &[Tried]) -> String {
    let trials: Vec<_> = abilities
        .trials
        .iter()
        .map(|trial| serde_json::json!({ "what": trial.what, "as_told": trial.works, "seen": trial.seen }))
        .collect();
    let walls: Vec<_> = walls
        .iter()
        .map(|Tried { part, outcome }| {
            let seen = outcome.as_ref().unwrap_or_else(|why| why);
            serde_json::json!({ "part": part, "has": outcome.is_ok(), "seen": seen })
        })
        .collect();
    let value = serde_json::json!({
        "schema": 1,
        "cpu": crate::report::json::cpu(&abilities.told),
        "cpu_checked": crate::report::json::cpu(&abilities.checks),
        "trials": trials,
        "sandbox": walls,
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TrialResult;
    use crate::machine::{CpuVendor, CpuidSeen};
    use crate::mmu::Paging;

    fn abilities(told: Paging) -> Abilities {
        let (nx, smep, smap) = (true, true, true);
        let (gbpages, la57, pku, vendor, maxphyaddr) = (true, false, false, CpuVendor::Intel, told.maxphyaddr);
        let supported =
            CpuidSeen { maxphyaddr, gbpages, nx, la57, smep, smap, pku, xsave: true, fsgsbase: true, vendor };
        let trial = |what, works, seen: &str| TrialResult { what, works, seen: seen.into() };
        let trials = vec![
            trial("supervisor-mode execution prevention (CR4.SMEP)", true, "#PF 0x11 (P I)"),
            trial("physical-address width (MAXPHYADDR)", false, "bit 48 is the first that faults: #PF 0x9 (P RSVD)"),
        ];
        Abilities { supported, told, taken: told, checks: told, high_half_start: true, trials }
    }

    fn walls() -> [Tried; 2] {
        let why = "in the kernel, but not switched on (boot parameter `lsm=`)";
        let tried = |part, outcome| Tried { part, outcome };
        [tried("seccomp filter", Ok("24 system calls".into())), tried("landlock", Err(why.into()))]
    }

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn a_narrow_terminal_has_every_word_within_its_width() {
        let abilities = abilities(Paging::default());
        let walls = walls();
        let (narrow, wide) = (text(&abilities, &walls, Some(80)), text(&abilities, &walls, None));
        assert!(narrow.lines().all(|line| line.len() <= 80), "{narrow}");
        assert_eq!(words(&narrow), words(&wide));
        // The negative control, and rows stay one line where there is no terminal.
        assert!(wide.lines().any(|line| line.len() > 100), "{wide}");
    }

    #[test]
    fn a_part_of_the_sandbox_that_is_missing_is_told_with_its_reason() {
        let text = words(&text(&abilities(Paging::default()), &walls(), None)).join(" ");
        assert!(text.contains("ok seccomp filter 24 system calls"), "{text}");
        assert!(text.contains("-- landlock in the kernel, but not switched on"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json(&abilities(Paging::default()), &walls())).unwrap();
        assert_eq!((&json["sandbox"][0]["has"], &json["sandbox"][1]["has"]), (&true.into(), &false.into()));
    }

    #[test]
    fn what_was_not_tried_is_not_said_to_be_missing() {
        let row = |told| words(&text(&abilities(told), &[], None)).join(" ");
        let neither = row(Paging { la57: false, pke: false, ..Paging::default() });
        assert!(neither.contains("five-level paging no not tried"), "{neither}");
        assert!(neither.contains("protection keys no not tried"), "{neither}");
        let both = row(Paging { la57: true, pke: true, ..Paging::default() });
        assert!(both.contains("five-level paging no yes") && both.contains("protection keys no yes"), "{both}");
    }
}
