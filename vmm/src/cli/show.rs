//! `efibed show`: a map as a person wants it. No guest runs, and no KVM is needed.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::{Input, STDIN, stdin};
use super::mapper::{NoMapper, refuse_program};
use super::message::Colours;
use super::output::{self, Outputs};
use super::results::{Look, PagePlace};
use super::{Failure, Status};
use crate::memory_map::{Agreement, Contents, KernelList, ReadOptions, decode, read_bytes};
use crate::report::map::{MapReport, PhysWidth, Text};
use crate::report::text::table_lines;
use crate::report::{Report, html};
use crate::{CpuidRequest, EngineName, MaxPhyAddr, Scenario, TestBed};

/// The arguments of `show`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    input: Input,

    /// Write everything as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Show the page tables that the layout's mapping code makes of it, too, as Linux's ptdump does; the code is run for that,
    /// natively
    #[arg(long)]
    tables: bool,

    /// Compare the map with what a kernel takes memory for: a boot log of Linux with its e820 table, or /proc/iomem; it may be
    /// the same file as MAP
    #[arg(long, value_name = "LOG|IOMEM", long_help = E820_HELP)]
    e820: Option<PathBuf>,

    #[command(flatten)]
    page: PagePlace,

    #[command(flatten)]
    no_mapper: NoMapper,
}

const ABOUT: &str = "\
Show a memory map: regions, holes, overlaps, what is odd about it, and what would be mapped where

Nothing is run, except for --tables and --html, which show what the layout's mapping code makes natively: addresses \
follow from the layout's rule; `efibed check` tests what mapping code really does. The \
Memory Attributes Table is shown if the text has one. The CPU's physical-address width is that of this machine's \
guests if there is a KVM, otherwise an assumed one; `--cpu maxphyaddr=N` sets it. The status is 0 however odd the map is, and 1 \
if --e820 shows that a kernel hands out what is not its own.";

const EXAMPLES: &str = "\
Examples:
  efibed show boot.log                       the map, and what is odd about it
  efibed show boot.log --e820 boot.log       whether the kernel's e820 agrees with it
  efibed show boot.log --tables              and the page tables that would be made of it
  efibed show boot.log --html page.html      as a picture, for a browser";

const E820_HELP: &str = "\
Compare the map with what a kernel takes memory for

A boot log of Linux on x86 has the e820 table: rows `BIOS-e820:` of any release, or `user:` and `modified:` after mem=, memmap= \
and the kernel's own changes. The last of the first boot is taken, and the text says which. The log may be MAP itself. \
/proc/iomem (as root) is read if there is no table.

Expected is what Linux's boot stub makes of each region's type and attributes. Each range of which the kernel says something else \
is shown with what that breaks. Dangerous is memory that the kernel hands out and that is not its own: runtime services', ACPI's, \
reserved, a device's. Memory that it leaves out is waste. What every kernel cuts off is counted apart. The status is 1 if anything \
is dangerous.";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    arguments.no_mapper.refuse(WHY_NO_PROGRAM, WHAT_INSTEAD)?;
    let list = arguments.e820.as_deref().map(|path| kernel_list(path, &arguments.input.map)).transpose()?;
    let scenario = arguments.input.scenario(arguments.input.options.own_mapper())?;
    refuse_program(&scenario, WHY_NO_PROGRAM, WHAT_INSTEAD)?;
    let places = [arguments.json.as_deref(), arguments.page.html.as_deref()];
    let inputs: Vec<&Path> =
        [Some(arguments.input.map.as_path()), arguments.e820.as_deref()].into_iter().flatten().collect();
    let outputs = Outputs::open(places, &inputs)?;
    let layout = scenario.built_in().layout;
    let report = MapReport::new(scenario.map(), layout, maxphyaddr(scenario.cpu_request())).kernel_list(list);
    let is_dangerous = report.kernel.as_ref().is_some_and(Agreement::is_dangerous);
    let is_run = arguments.tables || arguments.page.html.is_some();
    let run = if is_run { Some(run_natively(scenario.clone())?) } else { None };
    let tables = || run.as_ref().filter(|_| arguments.tables).map(tables).unwrap_or_default();
    let results: [&dyn Fn() -> String; 2] = [&|| report.to_json(), &|| html::of_map(&report, run.as_ref())];
    let status = if is_dangerous { Status::Findings } else { Status::Clean };
    outputs.write(|| text(&report) + &tables(), &results, status)
}

/// What a kernel takes memory for, by a log or /proc/iomem; `-` is standard input, if the map is none.
fn kernel_list(path: &Path, map: &Path) -> Result<KernelList, Failure> {
    let is_standard = path == Path::new("-");
    if is_standard && map == Path::new("-") {
        let help = "save the log to a file, and name it twice: `efibed show boot.log --e820 boot.log`";
        return Err(Failure::Input(miette::miette!(
            help = help,
            "standard input is the map, and can be read once only"
        )));
    }
    let name = if is_standard { STDIN.into() } else { path.display().to_string() };
    let bytes = if is_standard { stdin()? } else { read_bytes(path).map_err(Failure::input)? };
    let text = match decode(&name, bytes, &ReadOptions::default()).map_err(Failure::input)? {
        Contents::Text(text) => text,
        Contents::Binary(_) => String::new(),
    };
    KernelList::parse(&name, &text).map_err(Failure::input)
}

/// The layout's mapping code, run for its tables.
fn run_natively(scenario: Scenario) -> Result<Report, Failure> {
    Ok(TestBed::without_kvm().run(&scenario.engine(EngineName::Walker).dump_tables(true))?)
}

fn tables(report: &Report) -> String {
    let lines = table_lines(report, Look::of_standard_output().paint());
    let why_none = || format!("there are no page tables: {}", report.headline());
    format!("\n{}\n", if lines.is_empty() { why_none() } else { lines.join("\n") })
}

const WHY_NO_PROGRAM: &str = "where a program maps regions is seen only when it runs, and `show` runs nothing";
const WHAT_INSTEAD: &str =
    "`--layout NAME` shows the map under a built-in layout; `efibed check MAP --mapper ELF` runs a program in a guest";

/// Of the CPU that is asked for; else of this machine's guests, as `efibed check` has it, where there is a KVM.
fn maxphyaddr(asked: CpuidRequest) -> PhysWidth {
    let of_machine = || MaxPhyAddr::new(TestBed::without_kvm().abilities(&asked).ok()?.told.maxphyaddr);
    match asked.maxphyaddr {
        Some(bits) => PhysWidth::Asked(bits),
        None => of_machine().map_or(PhysWidth::Assumed, PhysWidth::Machine),
    }
}

fn text(report: &MapReport<'_>) -> String {
    let text = match output::colours() {
        Colours::Some => Text::coloured(report),
        Colours::None => Text::plain(report),
    };
    format!("{}\n", text.columns(output::columns()))
}
