//! The results of a run besides the text: places opened before the run, and written after it.

use std::path::Path;

use super::place::Place;
use super::terminal::{print, print_bytes, tell};
use super::{Failure, Status};

/// Writes a file whole or not at all.
pub fn write_file(path: &Path, inputs: &[&Path], contents: impl AsRef<[u8]>) -> Result<(), Failure> {
    Place::open(path, inputs)?.write(contents.as_ref()).map_err(Failure::Output)
}

/// The places for a run's results besides the text. They are opened before the run, so a bad path costs no run.
pub struct Outputs(Vec<Place>);

impl Outputs {
    /// Opens those that were asked for. `-` is standard output, in place of the text; only one result may use it. None may
    /// be one of the `inputs`.
    pub fn open<const N: usize>(paths: [Option<&Path>; N], inputs: &[&Path]) -> Result<Self, Failure> {
        let open = |path: Option<&Path>| path.map_or(Ok(Place::Nowhere), |path| Place::open(path, inputs));
        let places = paths.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        match places.iter().filter(|place| place.is_standard()).count() {
            0 | 1 => Ok(Self(places)),
            _ => Err(Failure::Output("only one of the results can go to standard output (`-`)".into())),
        }
    }

    /// Writes the text to standard output, unless a result goes there, and each result to its place. If a place fails now,
    /// its result goes to standard output too, so that no run is lost. The status says so.
    pub fn write(
        self,
        text: impl FnOnce() -> String,
        results: &[&dyn Fn() -> String],
        status: Status,
    ) -> Result<Status, Failure> {
        // What cannot be printed is no reason to lose the files.
        let printed = if self.0.iter().any(Place::is_standard) { Ok(()) } else { print(&text()) };
        let mut status = status;
        for (place, result) in self.0.into_iter().zip(results) {
            if matches!(place, Place::Nowhere) {
                continue;
            }
            let result = result();
            if let Err(problem) = place.write(result.as_bytes()) {
                tell(&format!("efibed: {problem}; the result goes to standard output"));
                print_bytes(result.as_bytes())?;
                status = Status::Internal;
            }
        }
        printed.map(|()| status)
    }
}
