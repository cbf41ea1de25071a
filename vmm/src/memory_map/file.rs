//! Reading a file, within limits.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::error::{ReadError, printable};
use super::{MAX_INPUT_BYTES, ParseError};

/// The bytes of a file of at most [`MAX_INPUT_BYTES`], for [`decode`](super::decode). It need not be a regular one: a
/// pipe is fine.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    let bytes = limited_bytes(path).map_err(|error| unreadable(path, error))?;
    if bytes.len() > MAX_INPUT_BYTES { Err(too_large(&path.display().to_string())) } else { Ok(bytes) }
}

/// At most one byte more than the limit, which shows that there is more.
fn limited_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_INPUT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: io::Error) -> ReadError {
    let (problem, help) = match error.kind() {
        io::ErrorKind::NotFound => {
            ("no such file", "check the spelling; a relative path starts at the current directory")
        }
        io::ErrorKind::IsADirectory => ("is a directory, not a memory map", "name one of the files in it"),
        io::ErrorKind::PermissionDenied => ("permission denied", "change the permissions of the file, or copy it"),
        _ => ("cannot be read", "copy the map to an ordinary file"),
    };
    file_error(path, problem.into(), help, Some(error))
}

/// More than is read.
pub(super) fn too_large(name: &str) -> ReadError {
    let problem = format!("is larger than {} MiB", MAX_INPUT_BYTES >> 20);
    bytes_error(name, None, problem, "keep the lines of the memory map only, for example with grep 'efi: mem'")
}

/// What is wrong with the bytes of a file, or of standard input.
pub(super) fn bytes_error(name: &str, place: Option<(usize, usize)>, problem: String, help: &'static str) -> ReadError {
    ReadError::File { path: printable(name).into_owned(), place, problem, help, cause: None }
}

pub(super) fn file_error(path: &Path, problem: String, help: &'static str, cause: Option<io::Error>) -> ReadError {
    let path = printable(&path.display().to_string()).into_owned();
    ReadError::File { path, place: None, problem, help, cause }
}

/// The limit of [`read_bytes`], for texts that come another way.
pub(crate) fn check_size(name: &str, text: &str) -> Result<(), ParseError> {
    if text.len() <= MAX_INPUT_BYTES {
        return Ok(());
    }
    let message = format!("the text is larger than {} MiB", MAX_INPUT_BYTES >> 20);
    Err(ParseError::at(name, text, 0..0, message).help("keep the lines of the memory map only"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::super::MemoryMap;
    use super::*;

    /// A file that goes away with the test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, bytes: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("efibed-{}-{name}", std::process::id()));
            fs::write(&path, bytes).unwrap();
            Self(path)
        }

        fn error(&self) -> String {
            let message = MemoryMap::read(&self.0).unwrap_err().to_string();
            message.replace(&self.0.display().to_string(), "FILE")
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_is_no_map_is_told_apart() {
        assert_eq!(Temporary::new("empty", b"").error(), "FILE:1:1: no EFI memory map: there is nothing in it");
        assert_eq!(
            Temporary::new("noise", b"a\n\nb\x80\xff").error(),
            "FILE:3:2: is not UTF-8 text: byte 0x80 at offset 4"
        );
        assert_eq!(
            Temporary::new("utf16", b"\xff\xfeR\0").error(),
            "FILE:1:1: no EFI memory map: no line is of a known format"
        );
    }

    #[test]
    fn what_is_no_file_is_told_apart() {
        let error = |path: &str| MemoryMap::read(Path::new(path)).unwrap_err().to_string();
        assert_eq!(error("/"), "/: is a directory, not a memory map");
        assert_eq!(error("no/such/file"), "no/such/file: no such file");
        assert_eq!(error("/dev/zero"), "/dev/zero: is larger than 64 MiB");
    }
}
