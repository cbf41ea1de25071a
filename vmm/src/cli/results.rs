//! What a run comes to: finished texts, so that they can be made in one process and written in another.

use serde::{Deserialize, Serialize};

use super::message::Colours;
use super::output::{self, Outputs};
use super::{Failure, Status};
use crate::report::Report;
use crate::report::text::Text;

/// Everything that is left to write, and the status to end with.
#[derive(Serialize, Deserialize)]
pub struct Results {
    /// How the run ended.
    pub status: Status,
    /// For standard output, unless another goes there.
    pub text: String,
    /// Where it was asked for.
    pub json: Option<String>,
    /// Where it was asked for.
    pub junit: Option<String>,
}

impl Results {
    /// Writes them to their places: those of `--json` and `--junit`.
    pub fn write(self, outputs: Outputs) -> Result<Status, Failure> {
        let Self { status, text, json, junit } = self;
        let [json, junit] = [json, junit].map(Option::unwrap_or_default);
        outputs.write(|| text, &[&|| json.clone(), &|| junit.clone()], status)
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
}
