//! Where results go.
//!
//! A result's place is opened before the run and written once, at its end. A new file, and an old one that can be replaced,
//! gets its name when it is complete. What cannot be replaced is written in place: a device, a pipe, a file with several
//! names (hard links), a file in a folder that takes no new file, and a file whose owner this user cannot give. A symbolic
//! link is followed, and its target is replaced; one that leads nowhere is refused. So is an input of the run.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::message::{self, Colours, tell};
use super::temporary::Temporary;
use super::{Failure, Status, colour};

/// Writes text for people to standard output. A reader that has had enough (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(message::shown(text, colours()).as_bytes())
}

/// Writes a result for programs to standard output, as it is.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Output(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether text on standard output has colours.
pub fn colours() -> Colours {
    Colours::if_so(colour::is_on(&io::stdout()))
}

/// The same of standard error.
pub fn colours_of_errors() -> Colours {
    Colours::if_so(colour::is_on(&io::stderr()))
}

/// How many columns the terminal has; None if standard output is not a terminal.
pub fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(width.0.into())
}

/// The places for a run's results besides the text. They are opened before the run, so a bad path costs no run.
pub struct Outputs(Vec<Output>);

impl Outputs {
    /// Opens those that were asked for, none of which may be one of the inputs. `-` is standard output, in place of the
    /// text; only one result may use it.
    pub fn open<const N: usize>(paths: [Option<&Path>; N], inputs: &[&Path]) -> Result<Self, Failure> {
        let mut taken = Taken::by(inputs);
        let mut outputs = Vec::new();
        for path in paths {
            outputs.push(match path {
                Some(path) => Output::open(path, &mut taken)?,
                None => Output::Nowhere,
            });
        }
        match outputs.iter().filter(|output| output.is_standard()).count() {
            0 | 1 => Ok(Self(outputs)),
            _ => Err(Failure::Output("only one of the results can go to standard output (`-`)".into())),
        }
    }

    /// Writes the text to standard output unless a result goes there, and each result to its place. If a place fails
    /// now, its result goes to standard output too, so that no run is lost; the status says so. Standard output that
    /// fails keeps no result from its file.
    pub fn write(
        self,
        text: impl FnOnce() -> String,
        results: &[&dyn Fn() -> String],
        status: Status,
    ) -> Result<Status, Failure> {
        let mut printed = if self.0.iter().any(Output::is_standard) { Ok(()) } else { print(&text()) };
        let mut status = status;
        for (output, result) in self.0.into_iter().zip(results) {
            match output {
                Output::Nowhere => {}
                Output::Standard => printed = print_bytes(result().as_bytes()),
                Output::File(file) => {
                    let result = result();
                    if let Err(problem) = file.write(result.as_bytes()) {
                        tell(&format!("efibed: {problem}; the result goes to standard output"));
                        printed = printed.and(print_bytes(result.as_bytes()));
                        status = Status::Internal;
                    }
                }
            }
        }
        printed.map(|()| status)
    }
}

/// One place for results.
pub enum Output {
    /// It was not asked for.
    Nowhere,
    Standard,
    File(OutputFile),
}

impl Output {
    fn open(path: &Path, taken: &mut Taken) -> Result<Self, Failure> {
        match path == Path::new("-") {
            true => Ok(Self::Standard),
            false => OutputFile::open_apart(path, taken).map(Self::File),
        }
    }

    fn is_standard(&self) -> bool {
        matches!(self, Self::Standard)
    }
}

/// A file for one result.
pub struct OutputFile {
    path: PathBuf,
    way: Way,
}

/// How a file is written.
enum Way {
    InPlace(File),
    /// A file that takes its name when it is complete.
    Replacing(Temporary),
}

impl OutputFile {
    /// Opens a file that is none of the inputs.
    pub fn open(path: &Path, inputs: &[&Path]) -> Result<Self, Failure> {
        Self::open_apart(path, &mut Taken::by(inputs))
    }

    fn open_apart(path: &Path, taken: &mut Taken) -> Result<Self, Failure> {
        let failed = |problem: &dyn std::fmt::Display| Failure::Output(format!("{}: {problem}", path.display()));
        taken.take(path).map_err(|by| failed(&by))?;
        let way = match File::options().write(true).open(path) {
            Ok(file) => over(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => afresh(path),
            Err(error) => Err(error),
        };
        Ok(Self { path: path.into(), way: way.map_err(|error| failed(&error))? })
    }

    /// The error is a sentence.
    pub fn write(self, contents: &[u8]) -> Result<(), String> {
        let written = match self.way {
            Way::InPlace(file) => write_in_place(file, contents),
            Way::Replacing(temporary) => temporary.complete(contents),
        };
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

/// How to write over what is there.
fn over(path: &Path, file: File) -> io::Result<Way> {
    let old = file.metadata()?;
    let replacing = if old.is_file() && old.nlink() == 1 { replacing(path, &old) } else { None };
    Ok(replacing.map_or(Way::InPlace(file), Way::Replacing))
}

/// A file to replace an old one, at the end of all symbolic links. None: the folder takes none, or the old one's owner and
/// mode cannot be kept, or it has no name (`/dev/fd/3`).
fn replacing(path: &Path, old: &fs::Metadata) -> Option<Temporary> {
    let target = fs::canonicalize(path).ok()?;
    let is_it = fs::symlink_metadata(&target).is_ok_and(|meta| Identity::of(&meta) == Identity::of(old));
    let temporary = is_it.then(|| Temporary::new(target))?.ok()?;
    temporary.resemble(old).ok()?;
    Some(temporary)
}

/// How to write where nothing is.
fn afresh(path: &Path) -> io::Result<Way> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(io::Error::other("a symbolic link that leads to no file"));
    }
    if path.file_name().is_none() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    Temporary::new(path.into()).map(Way::Replacing)
}

/// A regular file is shortened only now: the run may have failed.
fn write_in_place(mut file: File, contents: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(contents)
}

/// The regular files that a run reads or writes already, by what they are and not by name.
struct Taken(Vec<(Identity, &'static str)>);

impl Taken {
    fn by(inputs: &[&Path]) -> Self {
        let streams = [
            (of_stream(&io::stdin()), IS_INPUT),
            (of_stream(&io::stdout()), "standard output goes there; use `-`"),
            (of_stream(&io::stderr()), "standard error goes there; name another file"),
        ];
        let inputs = inputs.iter().map(|path| (fs::metadata(path).ok(), IS_INPUT));
        let regular =
            |(meta, by): (Option<fs::Metadata>, _)| Some((Identity::of(&meta.filter(fs::Metadata::is_file)?), by));
        Self(inputs.chain(streams).filter_map(regular).collect())
    }

    /// Takes one more, or says by whom it is taken.
    fn take(&mut self, path: &Path) -> Result<(), &'static str> {
        let Some(identity) = Identity::at(path) else { return Ok(()) };
        if let Some((_, by)) = self.0.iter().find(|(taken, _)| *taken == identity) {
            return Err(by);
        }
        self.0.push((identity, "another result goes there; name another file"));
        Ok(())
    }
}

const IS_INPUT: &str = "it is an input; name another file";

fn of_stream(stream: &impl AsFd) -> Option<fs::Metadata> {
    File::from(stream.as_fd().try_clone_to_owned().ok()?).metadata().ok()
}

/// What makes a file the same under two names.
#[derive(PartialEq, Eq)]
enum Identity {
    /// Device and inode.
    Old(u64, u64),
    /// The name of one that is not there yet, without symbolic links.
    New(PathBuf),
}

impl Identity {
    fn of(meta: &fs::Metadata) -> Self {
        Self::Old(meta.dev(), meta.ino())
    }

    /// None for what two may well write to, such as a device, and for what cannot be written anyway.
    fn at(path: &Path) -> Option<Self> {
        match fs::metadata(path) {
            Ok(meta) => meta.is_file().then(|| Self::of(&meta)),
            Err(_) => {
                let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
                Some(Self::New(fs::canonicalize(folder).ok()?.join(path.file_name()?)))
            }
        }
    }
}
