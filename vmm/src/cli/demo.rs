//! `efibed demo`, and `efibed` alone: the bug of October 2013, from the map to the fault and what became of it.

use std::path::PathBuf;

use clap::Args;

use super::input::named;
use super::output::OutputFile;
use super::progress::{Watching, watched};
use super::results::Look;
use super::sandbox::Sandbox;
use super::{Failure, Status, output};
use crate::check::Rule;
use crate::report::html;
use crate::report::style::{Paint, wrapped};
use crate::report::text::{finding_lines, headline_lines, region_lines};
use crate::{EngineName, Layout, LeafRule, Progress, Report, Scenario, TestBed};

/// The arguments of `demo`.
#[derive(Args, Default)]
pub struct Arguments {
    /// What executes and observes [default: a guest, where this machine can run one, else the software walk]
    #[arg(long, value_name = "kvm|walker", value_parser = named::<EngineName>(EngineName::NAMES))]
    engine: Option<EngineName>,

    /// Draw the step with the bug on a page for a browser: what is mapped where, and the walk to the guilty entry
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    sandbox: Sandbox,

    #[command(flatten)]
    watching: Watching,
}

/// The five ranges of the mail that told of the bug, 2 October 2013; types and attributes are ours.
const MAP: &str = include_str!("demo.toml");

/// A run of the map: how it is mapped, what to say before it, and what of its report to show below the verdict.
struct Scene {
    title: &'static str,
    text: &'static str,
    layout: Layout,
    leaf_rule: LeafRule,
    /// What it finds.
    expected: &'static [Rule],
    details: fn(&Report, Paint) -> Vec<String>,
}

const SCENES: [Scene; 3] = [
    Scene {
        title: "A layout that is right",
        text: "Before an operating system tells firmware where its regions are (SetVirtualAddressMap), it maps them. Layout \
               packed-down puts one below another, from -4 GiB down. A large leaf is used where the virtual and the \
               physical address are both multiples of 2 MiB. A guest loads the tables, and its MMU is asked about every \
               page:",
        layout: Layout::PackedDown,
        leaf_rule: LeafRule::CoAligned,
        expected: &[],
        details: region_lines,
    },
    Scene {
        title: "The same layout with the bug of 2013",
        text: "Now a 2 MiB leaf is used wherever the virtual address is a multiple of 2 MiB. Nobody looks at the physical one, \
               and its low bits fall on reserved bits of the entry:",
        layout: Layout::PackedDown,
        leaf_rule: LeafRule::VaOnly,
        expected: &[Rule::ReservedBit],
        details: finding_lines,
    },
    Scene {
        title: "What was proposed in answer",
        text: "VA = PA - 4 GiB - the highest end of all regions. Here both addresses are aligned alike, and even the wrong rule \
               does no harm. (Linux aligns them alike region by region: layout linux.) Layout window, the same leaves:",
        layout: Layout::Window,
        leaf_rule: LeafRule::VaOnly,
        expected: &[],
        details: region_lines,
    },
];

const INTRODUCTION: &str = "\
efibed tests code that maps EFI firmware's memory. This is what it does, on the memory map that a bug of Linux became known by \
in October 2013.";

const YOUR_TURN: &str = "\
Your turn
  efibed check MAP                  your map: a boot log, `memmap` of the UEFI shell, TOML, ...
  efibed demo --html bug.html       the bug as a picture, for a browser; `check` draws yours so
  efibed build mapper.c             your code, in C; then: efibed check MAP --mapper mapper.elf
  efibed explain reserved-bit       what a finding means
  efibed oops LOG                   what a page fault in a log means
  efibed doctor                     what this machine's KVM can do
  efibed --help                     everything else
";

/// Runs it. The status is about the demonstration: that the bug is found is what it is for, and that nothing else is.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let (engine, remark) = arguments.engine.map_or_else(usual_engine, |engine| (engine, None));
    let mut file = arguments.html.as_deref().map(|path| OutputFile::open(path, &[])).transpose()?;
    let paint = Look::of_standard_output().paint();
    let mut text = paragraph(INTRODUCTION, paint);
    text += &remark.map_or_else(String::new, |remark| paragraph(&remark, paint));
    output::print(&text)?;
    let mut statuses = Vec::new();
    for (index, scene) in SCENES.iter().enumerate() {
        let scenario = Scenario::parse("demo.toml", MAP).map_err(Failure::input)?;
        let page = file.take_if(|_| !scene.expected.is_empty());
        let scenario = scenario.layout(scene.layout).leaf_rule(scene.leaf_rule).engine(engine);
        let scenario = scenario.expect(scene.expected.to_vec()).dump_tables(page.is_some());
        let run = |bed: &TestBed, progress: &dyn Fn(Progress)| {
            let mut report = bed.run_telling(&scenario, progress)?;
            let status = Status::of(&report);
            // A newcomer expects nothing.
            report.expected_rules = None;
            let drawn = page.as_ref().map(|_| html::of_report("demo", &report));
            Ok((status, shown(scene, report, paint), drawn))
        };
        let (status, lines, drawn) =
            watched(arguments.watching, |progress| arguments.sandbox.run(engine, run, progress))?;
        if let (Some(file), Some(drawn)) = (page, drawn) {
            file.write(drawn.as_bytes()).map_err(Failure::Output)?;
        }
        statuses.push(status);
        let title = paint.bold(format!("Step {}: {}", index + 1, scene.title));
        output::print(&format!("{title}\n{}{}\n\n", paragraph(scene.text, paint), lines.join("\n")))?;
    }
    output::print(YOUR_TURN)?;
    Ok(Status::of_all(&statuses))
}

/// KVM; or the software walk, and why.
fn usual_engine() -> (EngineName, Option<String>) {
    match TestBed::new() {
        Ok(_) => (EngineName::Kvm, None),
        Err(error) => {
            let remark = format!(
                "No guest can be run here ({error}), so the tables are only walked. `efibed doctor` says more."
            );
            (EngineName::Walker, Some(remark))
        }
    }
}

/// What a scene shows of its report: of findings, which are alike, one.
fn shown(scene: &Scene, mut report: Report, paint: Paint) -> Vec<String> {
    let mut lines = headline_lines(&report, paint);
    report.findings.truncate(1);
    lines.push(String::new());
    lines.extend((scene.details)(&report, paint));
    lines
}

fn paragraph(text: &str, paint: Paint) -> String {
    format!("{}\n\n", wrapped(text, paint.width(), 0).join("\n"))
}
