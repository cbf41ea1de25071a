//! Whether words have colours: what `--color` says, and else the environment and the terminal.
//!
//! It is asked wherever something is shown, so it is kept once for the process, as the environment is.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::{Args, ValueEnum};

/// The option of all commands.
#[derive(Args, Clone, Copy)]
pub struct Colour {
    /// Whether text and errors have colours
    #[arg(
        long = "color",
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        long_help = HELP,
        display_order = LAST
    )]
    when: When,
}

const HELP: &str = "\
Whether text and errors have colours; results for programs have none

`auto` means on a terminal. There, NO_COLOR in the environment and TERM=dumb mean none. CLICOLOR_FORCE means colours \
everywhere, unless NO_COLOR is there too.";

/// After the options of the command itself, before `--help`.
const LAST: usize = 998;

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum When {
    #[default]
    Auto,
    Always,
    Never,
}

impl Colour {
    /// Has the process do so from now on.
    pub fn choose(self) {
        CHOSEN.store(self.when as u8, Ordering::Relaxed);
    }

    /// What arguments ask for that are not understood as a whole, for the error that says so.
    pub fn asked_for_in(arguments: &[OsString]) -> Self {
        let arguments = arguments.iter().take_while(|argument| *argument != "--").map(|argument| argument.to_str());
        let arguments: Vec<_> = arguments.map(Option::unwrap_or_default).collect();
        let separate = arguments.windows(2).filter(|pair| pair[0] == "--color").map(|pair| pair[1]);
        let joined = arguments.iter().filter_map(|argument| argument.strip_prefix("--color="));
        let named = separate.chain(joined).find_map(|name| When::from_str(name, false).ok());
        Self { when: named.unwrap_or_default() }
    }
}

/// A [`When`].
static CHOSEN: AtomicU8 = AtomicU8::new(When::Auto as u8);

/// Whether words on a stream have colours.
pub fn is_on(stream: &impl IsTerminal) -> bool {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    let when = [When::Always, When::Never].into_iter().find(|when| *when as u8 == chosen).unwrap_or_default();
    decided(when, stream.is_terminal(), |name| std::env::var_os(name))
}

/// <https://no-color.org> and <https://bixense.com/clicolors>: an empty variable is none.
fn decided(when: When, is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let value = |name| variable(name).filter(|value| !value.is_empty());
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto if value("NO_COLOR").is_some() => false,
        When::Auto if value("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        When::Auto => is_terminal && value("TERM").is_none_or(|value| value != "dumb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_comes_before_the_environment_and_that_before_the_terminal() {
        for (when, terminal, variables, expected) in [
            (When::Auto, true, &[][..], true),
            (When::Auto, false, &[], false),
            (When::Auto, true, &[("TERM", "xterm"), ("NO_COLOR", "")], true),
            (When::Auto, true, &[("NO_COLOR", "0")], false),
            (When::Auto, true, &[("TERM", "dumb")], false),
            (When::Auto, false, &[("CLICOLOR_FORCE", "1")], true),
            (When::Auto, false, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], true),
            (When::Auto, false, &[("CLICOLOR_FORCE", "0")], false),
            (When::Auto, false, &[("CLICOLOR_FORCE", "")], false),
            (When::Auto, true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
            (When::Always, false, &[("NO_COLOR", "1"), ("TERM", "dumb")], true),
            (When::Never, true, &[("CLICOLOR_FORCE", "1")], false),
        ] {
            let variable =
                |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| OsString::from(value));
            assert_eq!(decided(when, terminal, variable), expected, "{when:?} {terminal} {variables:?}");
        }
    }

    #[test]
    fn arguments_that_are_wrong_still_say_how_to_tell_it() {
        for (line, expected) in [
            ("efibed check --color never --no-such", When::Never),
            ("efibed --color=always no-such", When::Always),
            ("efibed no-such", When::Auto),
            ("efibed --color red", When::Auto),
            ("efibed check -- --color always", When::Auto),
            ("efibed check --color", When::Auto),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(Colour::asked_for_in(&arguments).when, expected, "{line}");
        }
    }
}
