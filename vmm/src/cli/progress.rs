//! How far a run is, for whoever waits for it.

use std::fmt;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::Progress;

/// Runs something long that tells how far it is.
pub fn watched<T>(run: impl FnOnce(&dyn Fn(Progress)) -> T) -> T {
    let bar = progress_bar();
    let result = run(&|progress| show_progress(&bar, progress));
    bar.finish_and_clear();
    result
}

/// On standard error, if that is a terminal; most checks are over before it is drawn.
fn progress_bar() -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(10);
    ProgressBar::with_draw_target(None, target)
}

/// A spinner that counts the seconds while nothing more is known, then a bar.
fn show_progress(bar: &ProgressBar, progress: Progress) {
    const BAR: &str = "  sweeping {bar:40} {pos}/{len} pages, {eta} left";
    // Nobody needs the spinner's thread where nothing is drawn.
    if bar.is_hidden() {
        return;
    }
    match progress {
        Progress::Mapping { pages } => spin(bar, format!("mapping {pages} pages")),
        Progress::Walking => spin(bar, "walking the tables".into()),
        Progress::Finishing => spin(bar, "finishing".into()),
        Progress::Sweeping { done, all } => {
            bar.set_length(all);
            if done == 0 {
                bar.disable_steady_tick();
                restart(bar, BAR);
            }
            bar.set_position(done);
        }
    }
}

/// A thread turns the spinner, for this one is busy, or in the guest.
fn spin(bar: &ProgressBar, message: String) {
    bar.set_message(message);
    restart(bar, "  {spinner} {msg}, {elapsed}");
    bar.enable_steady_tick(Duration::from_millis(100));
}

/// Another line in place of the last one, its clock at zero.
fn restart(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.reset();
}

/// Runs something that tells how many of how many things it has done.
pub fn counted<T>(things: &str, run: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> T) -> T {
    let bar = progress_bar();
    // indicatif's own rate has four decimal places.
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Writing to a string does not fail.
        let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
    };
    let line = format!("  {{bar:40}} {{human_pos}}/{{human_len}} {things}, {{rate}} a second, {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&line) {
        bar.set_style(style.with_key("rate", rate));
    }
    bar.reset();
    let result = run(&|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result
}
