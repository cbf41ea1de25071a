//! Reading a file as text, within limits.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::error::{ReadError, line_number};
use super::{MAX_INPUT_BYTES, ParseError};

/// The text of a file of at most [`MAX_INPUT_BYTES`]. It need not be a regular one: a pipe is fine.
pub fn read_text(path: &Path) -> Result<String, ReadError> {
    let bytes = read_bytes(path).map_err(|error| unreadable(path, error))?;
    if bytes.len() > MAX_INPUT_BYTES {
        return Err(too_large(path));
    }
    String::from_utf8(bytes).map_err(|error| not_text(path, error.as_bytes(), error.utf8_error().valid_up_to()))
}

/// At most one byte more than the limit, which tells that there is more.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
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
        io::ErrorKind::PermissionDenied => ("may not be read", "change the permissions of the file, or copy it"),
        _ => ("cannot be read", "copy the map to an ordinary file"),
    };
    file_error(path, problem.into(), help, Some(error))
}

fn too_large(path: &Path) -> ReadError {
    let problem = format!("is larger than {} MiB", MAX_INPUT_BYTES >> 20);
    file_error(path, problem, "keep the lines of the memory map only, for example with grep 'efi: mem'", None)
}

fn not_text(path: &Path, bytes: &[u8], offset: usize) -> ReadError {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let help = "convert it: iconv -f UTF-16 -t UTF-8";
        return file_error(path, "is UTF-16 text, UTF-8 was expected".into(), help, None);
    }
    let line = line_number(&String::from_utf8_lossy(&bytes[..offset]), offset);
    let problem = format!("is not UTF-8 text: byte {:#04x} at offset {offset}, in line {line}", bytes[offset]);
    file_error(path, problem, "give a memory map as text: a Linux boot log, or TOML; not a binary dump of one", None)
}

fn file_error(path: &Path, problem: String, help: &'static str, cause: Option<io::Error>) -> ReadError {
    let path = super::error::printable(&path.display().to_string()).into_owned();
    ReadError::File { path, problem, help, cause }
}

/// The limit of [`read_text`], for texts that come another way.
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
            "FILE: is not UTF-8 text: byte 0x80 at offset 4, in line 3"
        );
        assert_eq!(Temporary::new("utf16", b"\xff\xfeR\0").error(), "FILE: is UTF-16 text, UTF-8 was expected");
    }

    #[test]
    fn what_is_no_file_is_told_apart() {
        let error = |path: &str| MemoryMap::read(Path::new(path)).unwrap_err().to_string();
        assert_eq!(error("/"), "/: is a directory, not a memory map");
        assert_eq!(error("no/such/file"), "no/such/file: no such file");
        assert_eq!(error("/dev/zero"), "/dev/zero: is larger than 64 MiB");
    }
}
