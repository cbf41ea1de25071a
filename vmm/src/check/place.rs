//! A place in somebody's source.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an instruction comes from, as far as that is known. At least one of function and file is.
///
/// ```
/// use efibed::check::Place;
///
/// let place = Place { function: Some("build_tables".into()), file: Some("mapper.c".into()), line: Some(41) };
/// assert_eq!(place.to_string(), "build_tables at mapper.c:41");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The function, demangled.
    pub function: Option<String>,
    /// The source file, as the compiler was told it: relative to the folder that it ran in, unless it lies elsewhere.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
}

/// What is in the paths of sources that others wrote: Rust's own crates, as they were compiled and as rustup has them, and those
/// that Cargo fetched.
const ELSEWHERE: [&str; 4] = ["/rustc/", "/rustlib/src/", "/registry/src/", "/git/checkouts/"];

impl Place {
    /// Whether it is in a source file that somebody else wrote: of the standard library, or of a dependency that was fetched.
    pub(crate) fn is_elsewhere(file: &str) -> bool {
        ELSEWHERE.iter().any(|part| file.contains(part))
    }

    /// Whether it is in a source file, and not in one that somebody else wrote. Of a C library no files are known.
    pub(crate) fn is_own(&self) -> bool {
        self.line.is_some() && self.file.as_deref().is_some_and(|file| !Self::is_elsewhere(file))
    }
}

/// `build_tables at mapper.c:41`, or what is known of that.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, file, line } = self;
        f.write_str(function.as_deref().unwrap_or_default())?;
        let Some(file) = file else { return Ok(()) };
        write!(f, "{}{file}", if function.is_some() { " at " } else { "" })?;
        line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}
