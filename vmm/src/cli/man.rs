//! `efibed man`: the help of every command as manual pages.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_mangen::Man;

use super::output::{self, OutputFile};
use super::{Failure, Status};

/// The arguments of `man`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The folder to write them to; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

const ABOUT: &str = "\
Write manual pages, one for each command

A page has what `--help` says. Pages of the same names are replaced, each whole or not at all.";

const EXAMPLES: &str = "\
Examples:
  efibed man ~/.local/share/man/man1    where `man efibed-check` finds them, on most systems
  efibed man pages                      anywhere else: `man -l pages/efibed-check.1`";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let folder = &arguments.folder;
    fs::create_dir_all(folder).map_err(|error| Failure::Output(format!("{}: {error}", folder.display())))?;
    let pages = pages()?;
    for Page { name, text } in &pages {
        write(&folder.join(name), text)?;
    }
    output::print(&format!("{}: {} pages\n", folder.display(), pages.len()))?;
    Ok(Status::Clean)
}

fn write(path: &Path, text: &[u8]) -> Result<(), Failure> {
    OutputFile::open(path, &[])?.write(text).map_err(Failure::Output)
}

struct Page {
    /// Of its file: `efibed-check.1`.
    name: String,
    /// In roff.
    text: Vec<u8>,
}

/// The page of the program, and those of its commands.
fn pages() -> Result<Vec<Page>, Failure> {
    // `help` would get a page that says nothing more.
    let mut program = super::Arguments::command().disable_help_subcommand(true);
    // Gives each command its full name.
    program.build();
    let commands: Vec<_> = program.get_subcommands().cloned().collect();
    [program].into_iter().chain(commands).map(page).collect()
}

fn page(command: clap::Command) -> Result<Page, Failure> {
    let man = Man::new(command).source(concat!("efibed ", env!("CARGO_PKG_VERSION"))).manual("efibed");
    let mut roff = Vec::new();
    man.render(&mut roff).map_err(|error| Failure::Output(format!("a manual page: {error}")))?;
    Ok(Page { name: man.get_filename(), text: laid_out(&String::from_utf8_lossy(&roff)).into() })
}

/// Lines are neither stretched to the right margin, which would move columns apart, nor broken inside words, which are often
/// names.
const UNTOUCHED_LINES: &str = ".ad l\n.nh\n";

/// A page in the form of our help texts. A row of a table begins with spaces, before which roff breaks the line by itself;
/// what follows the last row it would append to that. And what comes after all options is called after nothing in it.
fn laid_out(roff: &str) -> String {
    let mut page = String::with_capacity(roff.len());
    let mut after_row = false;
    for line in roff.lines() {
        let is_text = !line.is_empty() && !line.starts_with(['.', ' ']);
        if after_row && is_text {
            page.push_str(".br\n");
        }
        page.push_str(if line == ".SH EXTRA" { ".SH NOTES" } else { line });
        page.push('\n');
        if line.starts_with(".TH ") {
            page.push_str(UNTOUCHED_LINES);
        }
        after_row = line.starts_with(' ');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_table_is_not_its_last_row() {
        let roff = ".TH a\nValues:\n  one  1\n  two  2\nMore.\nYet more.\n  three  3\n.TP\nend\n.SH EXTRA\n";
        let expected =
            ".TH a\n.ad l\n.nh\nValues:\n  one  1\n  two  2\n.br\nMore.\nYet more.\n  three  3\n.TP\nend\n.SH NOTES\n";
        assert_eq!(laid_out(roff), expected);
    }
}
