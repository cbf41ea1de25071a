//! How far a run is, for whoever waits for it: a bar on a terminal, elsewhere a line now and then.

use std::fmt;
use std::io::{IsTerminal, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::Progress;

/// Whether anything is shown at all.
#[derive(Args, Clone, Copy)]
pub struct Watching {
    /// Show no progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// Runs something long that tells how far it is.
pub fn watched<T>(watching: Watching, run: impl FnOnce(&dyn Fn(Progress)) -> T) -> T {
    let display = Display::new(watching);
    let result = run(&|progress| display.show(progress));
    display.bar.finish_and_clear();
    result
}

/// Runs something that tells how many of how many things it has done.
pub fn counted<T>(watching: Watching, things: &str, run: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> T) -> T {
    let Display { bar, lines } = Display::new(watching);
    // indicatif's own rate has four decimal places.
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Writing to a string does not fail.
        let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
    };
    let line = format!("  {{wide_bar}} {{human_pos}}/{{human_len}} {things}, {{rate}} a second, {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&line) {
        bar.set_style(style.with_key("rate", rate));
    }
    bar.reset();
    let result = run(&|done, all| {
        bar.set_length(all);
        bar.set_position(done);
        lines.say(|| format!("{done} of {all} {things}"));
    });
    bar.finish_and_clear();
    result
}

struct Display {
    /// Hidden where standard error is no terminal, or nothing is to be shown.
    bar: ProgressBar,
    lines: Lines,
}

impl Display {
    /// On standard error; most checks are over before anything is shown.
    fn new(watching: Watching) -> Self {
        let target = match watching.quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(10),
        };
        let says_lines = !watching.quiet && !std::io::stderr().is_terminal();
        let last = says_lines.then(|| Mutex::new(Instant::now()));
        Self { bar: ProgressBar::with_draw_target(None, target), lines: Lines { last } }
    }

    fn show(&self, progress: Progress) {
        self.lines.say(|| in_words(progress));
        // Nobody needs the spinner's thread where nothing is drawn.
        if self.bar.is_hidden() {
            return;
        }
        let (done, all) = match progress {
            Progress::Mapping { tables, of: Some(of) } => (tables, of),
            Progress::Sweeping { done, all } => (done, all),
            Progress::Mapping { .. } | Progress::Walking | Progress::Finishing => return self.spin(in_words(progress)),
        };
        let (name, things) =
            if matches!(progress, Progress::Sweeping { .. }) { ("sweeping", "pages") } else { ("mapping", "tables") };
        self.bar.set_length(all);
        if done == 0 {
            self.bar.disable_steady_tick();
            restart(&self.bar, &format!("  {name} {{wide_bar}} {{pos}}/{{len}} {things}, {{eta}} left"));
        }
        self.bar.set_position(done);
    }

    /// A spinner that counts the seconds, where nothing more is known. A thread turns it, for this one is busy, or in the
    /// guest.
    fn spin(&self, message: String) {
        if self.bar.message() == message {
            return;
        }
        self.bar.set_message(message);
        restart(&self.bar, "  {spinner} {msg}, {elapsed}");
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }
}

/// Another line in place of the last one, its clock at zero.
fn restart(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.reset();
}

fn in_words(progress: Progress) -> String {
    match progress {
        Progress::Mapping { of: None, .. } => "mapping".into(),
        Progress::Mapping { tables, of: Some(of) } => format!("mapping: {tables} of {of} tables built"),
        Progress::Walking => "walking the tables".into(),
        Progress::Sweeping { done, all } => format!("{done} of {all} pages swept"),
        Progress::Finishing => "phase `finish` of the mapping code".into(),
    }
}

/// Lines on standard error, some seconds apart.
struct Lines {
    /// When the last one was, or the run began; None: there are to be none.
    last: Option<Mutex<Instant>>,
}

/// Seldom enough for a log, and often enough to see that something moves.
const BETWEEN_LINES: Duration = Duration::from_secs(3);

impl Lines {
    fn say(&self, words: impl FnOnce() -> String) {
        let Some(last) = &self.last else { return };
        let mut last = last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.elapsed() >= BETWEEN_LINES {
            *last = Instant::now();
            // A closed standard error stops nobody's run.
            let _ = writeln!(std::io::stderr(), "efibed: {}", words());
        }
    }
}
