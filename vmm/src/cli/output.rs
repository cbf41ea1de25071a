//! Where results go.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use super::{Failure, Status};

/// Writes to standard output. A reader that has had enough (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same for bytes that may not be text.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Output(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether standard output takes colour: it is a terminal, and NO_COLOR is not set (<https://no-color.org>).
pub fn takes_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How many columns the terminal has; None if standard output is not a terminal.
pub fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(width.0.into())
}

/// Writes a file whole or not at all: under another name first, then renamed.
pub fn write_file(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Failure> {
    Output::open(path)?.write(contents.as_ref()).map_err(Failure::Output)
}

/// The places for a run's results besides the text. They are opened before the run, so a bad path costs no run.
pub struct Outputs(Vec<Output>);

impl Outputs {
    /// Opens those that were asked for. `-` is standard output, in place of the text; only one result may use it.
    pub fn open<const N: usize>(paths: [Option<&Path>; N]) -> Result<Self, Failure> {
        let outputs: Result<Vec<_>, _> =
            paths.into_iter().map(|path| path.map_or(Ok(Output::Nowhere), Output::open)).collect();
        let outputs = outputs?;
        match outputs.iter().filter(|output| output.is_standard()).count() {
            0 | 1 => Ok(Self(outputs)),
            _ => Err(Failure::Output("only one of the results can go to standard output (`-`)".into())),
        }
    }

    /// Writes each result to its place, and the text to standard output unless a result goes there. If a place fails
    /// now, its result goes to standard output too, so that no run is lost. The status says so.
    pub fn write(
        self,
        text: impl FnOnce() -> String,
        results: &[&dyn Fn() -> String],
        status: Status,
    ) -> Result<Status, Failure> {
        if !self.0.iter().any(Output::is_standard) {
            print(&text())?;
        }
        let mut status = status;
        for (output, result) in self.0.into_iter().zip(results) {
            if matches!(output, Output::Nowhere) {
                continue;
            }
            let result = result();
            if let Err(problem) = output.write(result.as_bytes()) {
                // A closed standard error is no reason to lose the result.
                let _ = writeln!(io::stderr(), "efibed: {problem}; the result goes to standard output");
                print(&result)?;
                status = Status::Internal;
            }
        }
        Ok(status)
    }
}

/// One place for results.
enum Output {
    /// It was not asked for.
    Nowhere,
    Standard,
    /// Something that cannot be replaced, such as a pipe.
    InPlace {
        path: PathBuf,
        file: File,
    },
    /// A file that takes its name when it is complete.
    Replacing(Replacing),
}

struct Replacing {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Output {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        let failed = |error: io::Error| Failure::Output(format!("{}: {error}", path.display()));
        let is_other = |meta: fs::Metadata| !meta.is_file();
        if fs::metadata(path).is_ok_and(is_other) {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self::InPlace { path: path.into(), file });
        }
        // A file without write permission must not be replaced either.
        if let Err(error) = File::options().write(true).open(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(error));
        }
        let mut name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?.to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::options().write(true).create_new(true).open(&temporary).map_err(failed)?;
        Ok(Self::Replacing(Replacing { path: path.into(), temporary, file }))
    }

    fn is_standard(&self) -> bool {
        matches!(self, Self::Standard)
    }

    /// The error is a sentence.
    fn write(self, contents: &[u8]) -> Result<(), String> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Standard => print_bytes(contents).map_err(|failure| match failure {
                Failure::Output(problem) => problem,
                Failure::Input(_) | Failure::Engine(_) | Failure::Told { .. } => "standard output".into(),
            }),
            Self::InPlace { path, mut file } => {
                file.write_all(contents).map_err(|error| format!("{}: {error}", path.display()))
            }
            Self::Replacing(mut replacing) => replacing.complete(contents),
        }
    }
}

impl Replacing {
    fn complete(&mut self, contents: &[u8]) -> Result<(), String> {
        let written = self.file.write_all(contents).and_then(|()| fs::rename(&self.temporary, &self.path));
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

impl Drop for Replacing {
    /// Removes the file of a run that failed. After a rename there is nothing left to remove.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}
