//! How far a run is, for those who wait for it: a bar on a terminal, elsewhere a line now and then.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::message::tell;
use crate::Progress;

/// Whether anything is shown at all.
#[derive(Args, Clone, Copy, Default)]
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
    if let Ok(style) = ProgressStyle::with_template(&counting(things)) {
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

/// Runs something long that says now and then how far it is.
pub fn told<T>(watching: Watching, run: impl FnOnce(&dyn Fn(String)) -> T) -> T {
    let Display { bar, lines } = Display::new(watching);
    restart(&bar, SPINNING);
    let result = run(&|words| {
        lines.say(|| words.clone());
        bar.set_message(words);
        bar.tick();
    });
    bar.finish_and_clear();
    result
}

struct Display {
    /// Hidden if standard error is no terminal that it can be drawn on, or nothing should be shown.
    bar: ProgressBar,
    lines: Lines,
}

impl Display {
    /// On standard error; most checks are over before anything is shown.
    fn new(watching: Watching) -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(10), watching)
    }

    /// A bar is drawn over itself. The target is hidden where that cannot be done: in a file, in a pipe, and on a terminal
    /// that calls itself dumb. Lines are said there.
    fn on(target: ProgressDrawTarget, Watching { quiet }: Watching) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { target };
        let bar = ProgressBar::with_draw_target(None, target);
        let says_lines = !quiet && bar.is_hidden();
        let last = says_lines.then(|| Mutex::new(Instant::now()));
        Self { bar, lines: Lines { last } }
    }

    fn show(&self, progress: Progress) {
        self.lines.say(|| in_words(progress));
        // Nobody needs the spinner's thread where nothing is drawn.
        if self.bar.is_hidden() {
            return;
        }
        let Progress::Sweeping { done, all } = progress else { return self.spin(in_words(progress)) };
        self.bar.set_length(all);
        if done == 0 {
            self.bar.disable_steady_tick();
            restart(&self.bar, SWEEPING);
        }
        self.bar.set_position(done);
    }

    /// A spinner that counts the seconds when nothing more is known. A thread turns it, because this one is busy or in the
    /// guest.
    fn spin(&self, message: String) {
        if self.bar.message() == message {
            return;
        }
        self.bar.set_message(message);
        restart(&self.bar, SPINNING);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }
}

// The bar gets what the numbers leave of the line.

fn counting(things: &str) -> String {
    format!("  {{wide_bar}} {{human_pos}}/{{human_len}} {things}, {{rate}} a second, {{eta}} left")
}

const SWEEPING: &str = "  sweeping {wide_bar} {pos}/{len} pages, {eta} left";

const SPINNING: &str = "  {spinner} {msg}, {elapsed}";

/// Another line in place of the last one, its clock at zero.
fn restart(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.reset();
}

fn in_words(progress: Progress) -> String {
    match progress {
        Progress::Mapping { tables: 0 } => "mapping".into(),
        Progress::Mapping { tables } => format!("mapping: {tables} tables built"),
        Progress::Walking => "walking the tables".into(),
        Progress::Sweeping { done, all } => format!("{done} of {all} pages swept"),
        Progress::Finishing => "phase `finish` of the mapping code".into(),
    }
}

/// Lines on standard error, some seconds apart.
struct Lines {
    /// When the last one was, or when the run began; None: no lines are wanted.
    last: Option<Mutex<Instant>>,
}

/// Rare enough for a log, and often enough to see that something moves.
const BETWEEN_LINES: Duration = Duration::from_secs(3);

impl Lines {
    fn say(&self, words: impl FnOnce() -> String) {
        let Some(last) = &self.last else { return };
        let mut last = last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.elapsed() >= BETWEEN_LINES {
            *last = Instant::now();
            tell(&format!("efibed: {}", words()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps what is written to it.
    #[derive(Clone, Debug, Default)]
    struct Terminal {
        columns: u16,
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            self.columns
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(line)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.lines.lock().unwrap().push(text.into());
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is drawn, on so many columns.
    fn drawn(template: &str, message: &str, all: u64, columns: u16) -> Vec<String> {
        let terminal = Terminal { columns, ..Terminal::default() };
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let bar = ProgressBar::with_draw_target(Some(all), target);
        let rate = |_: &ProgressState, out: &mut dyn fmt::Write| _ = write!(out, "10,000,000");
        bar.set_style(ProgressStyle::with_template(template).unwrap().with_key("rate", rate));
        bar.set_message(message.to_owned());
        bar.set_position(all);
        bar.force_draw();
        let lines = terminal.lines.lock().unwrap().clone();
        lines.into_iter().filter(|line| !line.trim().is_empty()).collect()
    }

    #[test]
    fn who_is_shown_no_bar_is_told_lines() {
        let shown = |target, quiet| {
            let Display { bar, lines } = Display::on(target, Watching { quiet });
            (!bar.is_hidden(), lines.last.is_some())
        };
        let terminal = || ProgressDrawTarget::term_like(Box::<Terminal>::default());
        assert_eq!(shown(terminal(), false), (true, false));
        assert_eq!(shown(ProgressDrawTarget::hidden(), false), (false, true));
        assert_eq!(shown(terminal(), true), (false, false));
        assert_eq!(shown(ProgressDrawTarget::hidden(), true), (false, false));
    }

    /// The largest numbers there are: of combinations in the full set, of pages and tables of what is mapped at most.
    #[test]
    fn bars_fit_80_columns() {
        for (template, message, all) in [
            (counting("combinations"), "", 99_999_999),
            (SWEEPING.into(), "", 1 << 40),
            (SPINNING.into(), &*in_words(Progress::Finishing), 1),
            (SPINNING.into(), &*in_words(Progress::Walking), 1),
        ] {
            let lines = drawn(&template, message, all, 80);
            assert!(!lines.is_empty() && lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
            assert!(lines.last().is_some_and(|line| template == SPINNING || line.contains('\u{2588}')), "{lines:#?}");
        }
        // The negative control: numbers that leave the bar no room.
        let crowded = drawn(&counting("combinations"), "", u64::MAX, 80);
        assert!(
            crowded.last().is_some_and(|line| line.chars().count() > 80 || !line.contains('\u{2588}')),
            "{crowded:#?}"
        );
    }
}
