//! `efibed check`: the main job.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::input::{Input, engines};
use super::{Failure, Status, output};
use crate::report::text::Text;
use crate::report::{Report, json};
use crate::{EngineName, TestBed};

/// The arguments of `check`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    input: Input,

    /// What executes and observes: a KVM guest, or, with no MMU asked, the software walk alone
    #[arg(long, value_name = "kvm|walker", value_parser = engines(), default_value = "kvm")]
    engine: EngineName,

    /// Write the report as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Seed of what is sampled: addresses that must fault, pages KVM_TRANSLATE is asked about
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let mut scenario = arguments.input.scenario()?.engine(arguments.engine);
    if let Some(seed) = arguments.seed {
        scenario = scenario.seed(seed);
    }
    let bar = progress_bar();
    let report = TestBed::without_kvm().run_telling(&scenario, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report?;
    show(&report, arguments.json.as_deref())?;
    let fine = match scenario.is_as_expected(&report) {
        None => report.is_clean(),
        Some(met) => {
            let words = if met { "as the scenario expects" } else { "NOT as the scenario expects" };
            eprintln!("efibed: {words}");
            met
        }
    };
    Ok(if fine { Status::Clean } else { Status::Findings })
}

/// On standard error, if that is a terminal; most checks are over before it is drawn.
fn progress_bar() -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(10);
    let style = ProgressStyle::with_template("  sweeping {bar:40} {pos}/{len} pages, {eta} left");
    let bar = ProgressBar::with_draw_target(None, target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(report: &Report, json: Option<&Path>) -> Result<(), Failure> {
    if json == Some(Path::new("-")) {
        return output::print(&json::to_json(report));
    }
    if let Some(path) = json {
        output::write_file(path, &json::to_json(report))?;
    }
    let text = if output::takes_colour() { Text::coloured(report) } else { Text::plain(report) };
    output::print(&format!("{text}\n"))
}
