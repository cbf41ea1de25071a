//! One place that a result goes to: how it is opened before the run, and written after it.
//!
//! | path | what happens |
//! | --- | --- |
//! | `-`, or the file that standard output is | standard output |
//! | nothing | a new file appears, whole |
//! | a regular file | another takes its name, whole, with its mode and owner |
//! | a symbolic link | its target is treated so; a link to nothing is refused |
//! | a file with several names, or in a folder that takes no new file | written in place |
//! | a FIFO, a device | written in place |
//! | a folder, a file that may not be written, an input of the run | refused |

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat};
use vmm_sys_util::signal::{block_signal, unblock_signal};

use super::Failure;
use super::terminal::print_bytes;

/// Where a result goes.
pub enum Place {
    /// It was not asked for.
    Nowhere,
    /// Standard output.
    Standard,
    /// Something that cannot be replaced, such as a pipe.
    InPlace(InPlace),
    /// A file that takes its name when it is complete.
    Replacing(Replacing),
}

/// A file that keeps its inode.
pub struct InPlace {
    path: PathBuf,
    file: File,
}

/// A file to be.
pub struct Replacing {
    path: PathBuf,
    /// The file that it is to replace.
    old: Option<Metadata>,
    /// A file without a name in the same folder, which is gone if this process is. None: this file system has no such
    /// files.
    unnamed: Option<File>,
}

impl Place {
    /// Opens it. An output that is one of the `inputs` is refused: it would be lost.
    pub fn open(path: &Path, inputs: &[&Path]) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        Self::open_file(path, inputs).map_err(|problem| Failure::Output(format!("{}: {problem}", path.display())))
    }

    fn open_file(path: &Path, inputs: &[&Path]) -> Result<Self, Problem> {
        let Some(old) = existing(path)? else { return Replacing::new(path.into(), None).map(Self::Replacing) };
        if old.is_dir() {
            return Err("is a folder".into());
        }
        if inputs.iter().any(|input| fs::metadata(input).is_ok_and(|input| is_same(&input, &old))) {
            return Err("is one of the inputs, and would be lost".into());
        }
        if old.is_file() && fs::metadata("/dev/stdout").is_ok_and(|standard| is_same(&standard, &old)) {
            return Ok(Self::Standard);
        }
        // A file without write permission must not be replaced either.
        let file = File::options().write(true).open(path)?;
        let in_place = |file| Self::InPlace(InPlace { path: path.into(), file });
        if !old.is_file() || old.nlink() > 1 {
            return Ok(in_place(file));
        }
        match Replacing::new(fs::canonicalize(path)?, Some(old)) {
            Ok(replacing) => Ok(Self::Replacing(replacing)),
            Err(_) => Ok(in_place(file)),
        }
    }

    /// Whether it is standard output.
    pub fn is_standard(&self) -> bool {
        matches!(self, Self::Standard)
    }

    /// Writes a result. The error is a sentence.
    pub fn write(self, contents: &[u8]) -> Result<(), String> {
        let in_words = |path: &Path, problem: io::Error| format!("{}: {problem}", path.display());
        match self {
            Self::Nowhere => Ok(()),
            Self::Standard => print_bytes(contents).map_err(|failure| failure.in_words().1),
            Self::InPlace(InPlace { path, file }) => overwrite(file, contents).map_err(|error| in_words(&path, error)),
            Self::Replacing(replacing) => {
                let path = replacing.path.clone();
                replacing.complete(contents).map_err(|error| in_words(&path, error))
            }
        }
    }
}

/// What is wrong with a path, in words.
struct Problem(String);

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<&str> for Problem {
    fn from(words: &str) -> Self {
        Self(words.into())
    }
}

/// What is there; a link that leads to nothing is neither there nor free.
fn existing(path: &Path) -> Result<Option<Metadata>, Problem> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(path) {
            Ok(_) => Err("is a symbolic link to nothing: remove it, or name its target".into()),
            Err(_) => Ok(None),
        },
        Err(error) => Err(error.into()),
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Files with a length lose the rest of what they held.
fn overwrite(mut file: File, contents: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(contents)
}

impl Replacing {
    /// The error: the folder takes no new file, or there is none.
    fn new(path: PathBuf, old: Option<Metadata>) -> Result<Self, Problem> {
        let folder = folder(&path);
        path.file_name().ok_or("is no name of a file")?;
        let unnamed = File::options().write(true).custom_flags(libc::O_TMPFILE).mode(NEW_FILE).open(folder).ok();
        if unnamed.is_none() {
            // It may be the file system that has no such files: the folder takes others, or says why not.
            temporary().tempfile_in(folder)?;
        }
        Ok(Self { path, old, unnamed })
    }

    /// Writes the file, and gives it its name.
    fn complete(self, contents: &[u8]) -> io::Result<()> {
        // From when it has a name of its own until it has the right one, nothing but SIGKILL ends this process.
        let _held = Held::new();
        let (mut file, named) = match self.unnamed {
            Some(file) => (file, None),
            None => {
                let (file, path) = temporary().tempfile_in(folder(&self.path))?.into_parts();
                (file, Some(path))
            }
        };
        if let Some(old) = &self.old {
            // Only root may give a file away; that it keeps its mode matters more.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(contents)?;
        let named = match named {
            Some(path) => path,
            None => named_in(folder(&self.path), &file)?,
        };
        named.persist(&self.path).map_err(|error| error.error)
    }
}

/// Of a new file, before umask.
const NEW_FILE: u32 = 0o666;

fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".efibed-").suffix(".tmp").permissions(Permissions::from_mode(NEW_FILE));
    builder
}

/// Gives a file without a name a random one.
fn named_in(folder: &Path, file: &File) -> io::Result<tempfile::TempPath> {
    use std::os::fd::AsRawFd as _;
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |name: &Path| Ok(linkat(CWD, &open, CWD, name, AtFlags::SYMLINK_FOLLOW)?);
    Ok(temporary().make_in(folder, link)?.into_temp_path())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The signals by which people end a command, held back.
struct Held(Vec<i32>);

impl Held {
    fn new() -> Self {
        let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        // One that is held back already is not this function's to let go.
        Self(signals.into_iter().filter(|signal| block_signal(*signal).is_ok()).collect())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for signal in &self.0 {
            let _ = unblock_signal(*signal);
        }
    }
}
