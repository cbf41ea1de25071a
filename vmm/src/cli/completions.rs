//! `efibed completions`: commands and options on a shell's Tab key.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Failure, Status, output};

/// The arguments of `completions`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

const ABOUT: &str = "\
Print a script with which a shell completes commands and options

The script goes to standard output. It names the commands, options and values of this very version: print it again after \
an update.";

const EXAMPLES: &str = "\
Where shells look for such scripts:
  efibed completions bash > ~/.local/share/bash-completion/completions/efibed
  efibed completions fish > ~/.config/fish/completions/efibed.fish
  efibed completions zsh > ~/.zfunc/_efibed
      and in ~/.zshrc, before compinit is called: fpath+=~/.zfunc
  efibed completions elvish >> ~/.config/elvish/rc.elv
  efibed completions powershell >> $PROFILE

For this shell alone, to try it: source <(efibed completions bash)";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut visible(&super::Arguments::command()), "efibed", &mut script);
    output::print_bytes(&script)?;
    Ok(Status::Clean)
}

/// What there is to complete of a command. Some options are hidden, because all that they do is say what is wrong with them;
/// scripts would offer those too.
fn visible(command: &clap::Command) -> clap::Command {
    clap::Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().map(visible))
}
