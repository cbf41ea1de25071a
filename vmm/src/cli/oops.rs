//! `efibed oops`: a page fault in a log, explained, and made again in a guest.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::{ReadArguments, stdin};
use super::message::tell;
use super::output::{self, OutputFile, Outputs};
use super::progress::{Watching, watched};
use super::results::PagePlace;
use super::sandbox::Sandbox;
use super::{Failure, Status};
use crate::bed::OwnMapper;
use crate::fuzz::saved::scenario_to_toml;
use crate::memory_map::{MemoryMap, ReadOptions, choose, decode, read_bytes};
use crate::oops::{self, Account, Outcome, Replay, Replayed};
use crate::{EngineName, Progress, TestBed};

/// The arguments of `oops`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// A log with a page fault: of Linux, Xen, EDK II or FreeBSD; `-` is standard input
    #[arg(value_name = "LOG")]
    log: PathBuf,

    /// The machine's memory map, if it is not in the log: whatever `efibed check` takes
    #[arg(value_name = "MAP")]
    map: Option<PathBuf>,

    /// Write everything as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    #[command(flatten)]
    page: PagePlace,

    /// Write the scenario that makes the access, for `efibed check`
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Explain only, and run no guest
    #[arg(long)]
    no_replay: bool,

    #[command(flatten)]
    read: ReadArguments,

    #[command(flatten)]
    sandbox: Sandbox,

    #[command(flatten)]
    watching: Watching,
}

const ABOUT: &str = "\
Explain a page fault in a log, and make the same access in a guest

The fault is found in the log wherever it is: the first that is about EFI, or else the first. The text says what was accessed, \
by whom and when, whose address it is, what the tables had there, which right was missing, who is to blame by the contract \
between firmware and a kernel, and what would survive it. `museum` is the number of a known bug of that pattern. What the log \
does not tell is said, and not guessed.

Then fake firmware makes the same access in a guest, on the same memory map, which is in the log or in MAP. The guest has to meet \
the same error code and CR2.

The exit status is 0 if the fault was explained and the replay met it, or was skipped for the reason that is given; 1 if the \
replay did not meet it; 2 if there is no page fault to read; and 3 if `-o` asks for a scenario and there is none.";

const EXAMPLES: &str = "\
Examples:
  efibed oops dmesg.txt                      a log with both the fault and (efi=debug) the map
  journalctl -k -b -1 | efibed oops -        the last boot's
  efibed oops crash.txt memmap.txt           the map from somewhere else
  efibed oops dmesg.txt -o again.toml        keep the scenario; `efibed check again.toml` runs it
  efibed oops dmesg.txt --no-replay --json - for programs";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let name = if is_standard(&arguments.log) { "<stdin>".into() } else { arguments.log.display().to_string() };
    let text = log_text(&arguments.log, &name)?;
    let map = match &arguments.map {
        Some(path) if is_standard(path) && is_standard(&arguments.log) => {
            return Err(Failure::Input(miette::miette!(
                help = "name a file for one of them",
                "standard input cannot be both the log and the map"
            )));
        }
        Some(path) => Some(arguments.read.scenario(path, OwnMapper::LeftOut)?.map().clone()),
        None => map_in_log(&name, &text),
    };
    let account = Account::of(&name, &text, map.as_ref()).map_err(Failure::input)?;
    drop(text);
    let inputs: Vec<&Path> = [arguments.log.as_path()].into_iter().chain(arguments.map.as_deref()).collect();
    let outputs = Outputs::open([arguments.json.as_deref(), arguments.page.html.as_deref()], &inputs)?;
    let kept = arguments.output.as_deref().map(|path| OutputFile::open(path, &inputs)).transpose()?;
    let replayed = replayed(&account, arguments)?;
    let outcome = &replayed.outcome;
    let is_kept = kept.map_or(Ok(true), |file| keep(&account, outcome, file))?;
    let status = match outcome {
        Outcome::NotMet(_) => Status::Findings,
        _ if !is_kept => Status::Unable,
        _ => Status::Clean,
    };
    let columns = output::columns();
    let results: [&dyn Fn() -> String; 2] =
        [&|| oops::to_json(&account, outcome), &|| oops::to_html(&account, &replayed, map.as_ref())];
    outputs.write(|| oops::text(&account, outcome, columns), &results, status)
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// A log may have stray bytes anywhere: they are shown as U+FFFD, and hide no more than their own line.
fn log_text(path: &Path, name: &str) -> Result<String, Failure> {
    let bytes = if is_standard(path) { stdin()? } else { read_bytes(path).map_err(Failure::input)? };
    let bytes = match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => return Ok(text),
        Ok(text) => text.into_bytes(),
        Err(error) => error.into_bytes(),
    };
    let lossy = String::from_utf8_lossy(&bytes).into_owned();
    match decode(name, bytes, &ReadOptions::default()) {
        Ok(crate::memory_map::Contents::Text(text)) => Ok(text),
        _ => Ok(lossy),
    }
}

/// The map in the log itself. Rows that cannot be read are left out there: the log is about the fault, and an error about its map
/// is told, but is none of the fault's.
fn map_in_log(name: &str, text: &str) -> Option<MemoryMap> {
    let options = ReadOptions { lenient: true, ..ReadOptions::default() };
    MemoryMap::parse_all(name, text, &options).ok().map(choose)
}

fn replayed(account: &Account, arguments: &Arguments) -> Result<Replayed, Failure> {
    let replay = match &account.replay {
        _ if arguments.no_replay => return Ok(skipped("--no-replay".into())),
        Err(why) => return Ok(skipped(why.clone())),
        Ok(replay) => replay,
    };
    let scenario = replay.scenario.clone().dump_tables(arguments.page.html.is_some());
    let run = |bed: &TestBed, progress: &dyn Fn(Progress)| {
        let report = bed.run_telling(&scenario, progress)?;
        Ok(Replayed { outcome: replay.judge(&report), walk: replay.walk(&report) })
    };
    let outcome = watched(arguments.watching, |progress| arguments.sandbox.run(EngineName::Kvm, run, progress));
    outcome.or_else(unless_unable)
}

fn skipped(why: String) -> Replayed {
    Replayed { outcome: Outcome::Skipped(why), walk: Vec::new() }
}

/// A machine that cannot run a guest explains as well as any: what it cannot do is told as the reason.
fn unless_unable(failure: Failure) -> Result<Replayed, Failure> {
    let is_engine = matches!(failure, Failure::Engine(_) | Failure::Told { .. });
    match failure.in_words() {
        (Status::Unable, words) if is_engine => {
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            Ok(skipped(words.trim_start_matches("efibed: ").to_owned()))
        }
        (status, words) => Err(Failure::Told { status, words }),
    }
}

/// Writes the scenario. False: there is none, which is told.
fn keep(account: &Account, outcome: &Outcome, file: OutputFile) -> Result<bool, Failure> {
    let Ok(Replay { scenario, .. }) = &account.replay else {
        let why = account.replay.as_ref().err().map_or("", String::as_str);
        tell(&format!("efibed: no scenario is written: {why}"));
        return Ok(false);
    };
    let what = format!("The page fault of {}, line {}", account.source, account.fault.line);
    let report = oops::text(account, outcome, None);
    let text = scenario_to_toml(&what, &report, &scenario.map().to_toml(), scenario, None);
    file.write(text.as_bytes()).map_err(Failure::Output)?;
    Ok(true)
}
