//! What a command has to show when a run is over, as data, so that it can be made in one process and written in another.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::message::Colours;
use super::output::{self, Outputs};
use super::{Failure, Status};
use crate::report::Report;
use crate::report::junit::{Suite, to_junit};
use crate::report::sarif::{Part, to_sarif};
use crate::report::style::Paint;
use crate::report::text::Text;

/// Where results for programs go.
#[derive(Args)]
pub struct Places {
    /// Write the result as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Write it as JUnit's XML, for what shows the results of tests: a test case for each thing asked; `-` as with --json
    #[arg(long, value_name = "FILE|-")]
    junit: Option<PathBuf>,

    /// Write findings as SARIF 2.1.0, for what shows them beside code; `-` as with --json
    #[arg(long, value_name = "FILE|-")]
    sarif: Option<PathBuf>,
}

impl Places {
    /// Opens those that were asked for, before the run. None may be an input of it.
    pub fn open(&self, inputs: &[&Path]) -> Result<Outputs, Failure> {
        Outputs::open([&self.json, &self.junit, &self.sarif].map(Option::as_deref), inputs)
    }

    /// What was asked for.
    pub fn wanted(&self) -> Wanted {
        Wanted { json: self.json.is_some(), junit: self.junit.is_some(), sarif: self.sarif.is_some(), html: false }
    }
}

/// The same with a page for a browser, of what can be drawn.
#[derive(Args)]
pub struct DrawnPlaces {
    #[command(flatten)]
    places: Places,

    #[command(flatten)]
    page: PagePlace,
}

/// Where a page goes.
#[derive(Args)]
pub struct PagePlace {
    /// Write a page for a browser: both address spaces to scale, what leads where, what is wrong, and the walk of any page;
    /// `-` as with --json
    #[arg(long, value_name = "FILE|-")]
    pub html: Option<PathBuf>,
}

impl DrawnPlaces {
    /// As [`Places::open`].
    pub fn open(&self, inputs: &[&Path]) -> Result<Outputs, Failure> {
        let Places { json, junit, sarif } = &self.places;
        Outputs::open([json, junit, sarif, &self.page.html].map(Option::as_deref), inputs)
    }

    /// As [`Places::wanted`].
    pub fn wanted(&self) -> Wanted {
        Wanted { html: self.page.html.is_some(), ..self.places.wanted() }
    }
}

/// Which results are wanted besides the text.
#[derive(Clone, Copy)]
pub struct Wanted {
    json: bool,
    junit: bool,
    sarif: bool,
    /// A page, which needs the tables of the run.
    pub html: bool,
}

impl Wanted {
    /// Everything.
    #[cfg(test)]
    pub const ALL: Self = Self { json: true, junit: true, sarif: true, html: true };
}

/// Everything that is left to write, and the status to end with. What is not wanted is left empty.
#[derive(Serialize, Deserialize)]
pub struct Results {
    /// How the run ended.
    pub status: Status,
    /// For standard output, unless another goes there.
    pub text: String,
    /// One object.
    pub json: String,
    /// For JUnit.
    pub suites: Vec<Suite>,
    /// For SARIF.
    pub parts: Vec<Part>,
    /// A page for a browser.
    pub html: String,
}

impl Results {
    /// Makes what is wanted.
    pub fn new(
        status: Status,
        text: String,
        wanted: Wanted,
        json: impl FnOnce() -> String,
        suites: impl FnOnce() -> Vec<Suite>,
        parts: impl FnOnce() -> Vec<Part>,
    ) -> Self {
        Self {
            status,
            text,
            json: if wanted.json { json() } else { String::new() },
            suites: if wanted.junit { suites() } else { Vec::new() },
            parts: if wanted.sarif { parts() } else { Vec::new() },
            html: String::new(),
        }
    }

    /// With a page, if one is wanted.
    #[must_use]
    pub fn drawn(self, wanted: Wanted, html: impl FnOnce() -> String) -> Self {
        Self { html: if wanted.html { html() } else { String::new() }, ..self }
    }

    /// Of runs, each with the name that it has among them.
    pub fn of(
        status: Status,
        text: String,
        wanted: Wanted,
        json: impl FnOnce() -> String,
        reports: &[(&str, &Report)],
    ) -> Self {
        let suites = || reports.iter().map(|(name, report)| Suite::of(name, report)).collect();
        let parts = || reports.iter().map(|(_, report)| Part::of(&report.source, report)).collect();
        Self::new(status, text, wanted, json, suites, parts)
    }

    /// Writes them to their [`Places`].
    pub fn write(self, outputs: Outputs) -> Result<Status, Failure> {
        let Self { status, text, json, suites, parts, html } = self;
        let results: [&dyn Fn() -> String; 4] =
            [&|| json.clone(), &|| to_junit(&suites), &|| to_sarif(&parts), &|| html.clone()];
        outputs.write(|| text, &results, status)
    }
}

/// How text is to look on standard output.
#[derive(Clone, Copy)]
pub struct Look {
    colours: Colours,
    columns: Option<usize>,
}

impl Look {
    /// As standard output has it now. Asked before a run: in a sandbox there is no terminal to ask.
    pub fn of_standard_output() -> Self {
        Self { colours: output::colours(), columns: output::columns() }
    }

    /// A report that looks so, with a newline at its end.
    pub fn text(self, report: &Report) -> String {
        let text = match self.colours {
            Colours::Some => Text::coloured(report),
            Colours::None => Text::plain(report),
        };
        format!("{}\n", text.columns(self.columns))
    }

    /// How other text is painted.
    pub fn paint(self) -> Paint {
        let paint = if self.colours == Colours::Some { Paint::COLOURED } else { Paint::PLAIN };
        paint.on(self.columns)
    }
}
