//! A file that takes its name when it is complete, and leaves nothing behind when the program is interrupted or killed.
//!
//! Until then it has no name: the kernel removes it with the process. It cannot take the name of a file that is there, so
//! it takes a random one first, for some microseconds. On a filesystem that has no files without names it has that one from
//! the start; then a signal removes it, but not SIGKILL.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use libc::{c_char, c_int};
use tempfile::TempPath;

/// A file in the folder of its target.
pub struct Temporary {
    file: File,
    name: Option<Name>,
    target: PathBuf,
}

impl Temporary {
    /// Makes one that is to become `target`, whose last part is no symbolic link.
    pub fn new(target: PathBuf) -> io::Result<Self> {
        match nameless(folder_of(&target)) {
            Ok(file) => Ok(Self { file, name: None, target }),
            Err(_) => Self::named(target),
        }
    }

    /// One that has a name from the start.
    fn named(target: PathBuf) -> io::Result<Self> {
        let make = |path: &Path| File::options().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(path);
        let (name, file) = Name::take(folder_of(&target), make)?;
        Ok(Self { file, name: Some(name), target })
    }

    /// Gives it the owner and the mode of the file that it will replace.
    pub fn resemble(&self, old: &fs::Metadata) -> io::Result<()> {
        let new = self.file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&self.file, Some(old.uid()), Some(old.gid()))?;
        }
        self.file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))
    }

    /// Writes it, and gives it its name. What fails only on the way to the disk or the server fails here.
    pub fn complete(self, contents: &[u8]) -> io::Result<()> {
        let Self { mut file, name, target } = self;
        file.write_all(contents)?;
        file.sync_all()?;
        let name = match name {
            Some(name) => name,
            None => Name::take(folder_of(&target), |path| link(&file, path))?.0,
        };
        name.become_target(&target)
    }
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// A file without a name (open(2), O_TMPFILE) that can be given one.
fn nameless(folder: &Path) -> io::Result<File> {
    let file = File::options().write(true).custom_flags(libc::O_TMPFILE).open(folder)?;
    fs::symlink_metadata(in_proc(&file))?;
    Ok(file)
}

/// Gives a file without a name one that nobody has (open(2), O_TMPFILE, the example with linkat).
fn link(file: &File, path: &Path) -> io::Result<()> {
    let (from, to) = (CString::new(in_proc(file))?, CString::new(path.as_os_str().as_bytes())?);
    // SAFETY: both are C strings that live as long as the call.
    match unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn in_proc(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A random name, which goes with this value.
struct Name {
    path: TempPath,
    listed: Listed,
}

impl Name {
    /// Takes a name in a folder for what is made of it.
    fn take<T>(folder: &Path, mut make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(Self, T)> {
        let mut listed = None;
        let make = |path: &Path| {
            // Listed first: a signal may come as soon as the file is there.
            listed = Some(Listed::new(path)?);
            make(path)
        };
        let made = tempfile::Builder::new().prefix(".efibed-").suffix(".tmp").rand_bytes(12).make_in(folder, make)?;
        let (made, path) = made.into_parts();
        let listed = listed.ok_or(io::ErrorKind::NotFound)?;
        Ok((Self { path, listed }, made))
    }

    /// The file takes another name, in place of a file that may have it.
    fn become_target(self, target: &Path) -> io::Result<()> {
        self.path.persist(target)?;
        // From here on there is nothing to remove.
        drop(self.listed);
        Ok(())
    }
}

/// The names that a signal removes: more than a command has results.
static NAMES: [AtomicPtr<c_char>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];

/// A name in [`NAMES`], as long as it lives.
pub struct Listed(&'static AtomicPtr<c_char>);

impl Listed {
    /// Lists one.
    pub fn new(path: &Path) -> io::Result<Self> {
        remove_at_signals();
        let name = CString::new(path.as_os_str().as_bytes())?.into_raw();
        let take = |place: &&AtomicPtr<c_char>| {
            place.compare_exchange(ptr::null_mut(), name, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        NAMES.iter().find(take).map(Self).ok_or_else(|| io::Error::other("too many files are being written"))
    }
}

impl Drop for Listed {
    /// The text itself stays: the handler may be reading it in another thread.
    fn drop(&mut self) {
        self.0.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Has the signals that end a program remove the listed files first. A signal that is ignored, or that someone else
/// handles, stays as it is.
fn remove_at_signals() {
    static ONCE: Once = Once::new();
    // A process number is positive and fits.
    WRITER.store(std::process::id() as i32, Ordering::Release);
    ONCE.call_once(|| [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().for_each(remove_at));
}

fn remove_at(signal: c_int) {
    // SAFETY: a sigaction of zeros is a valid one: the default action, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action this only fills in the old one.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
    if asked != 0 || action.sa_sigaction != libc::SIG_DFL {
        return;
    }
    action.sa_sigaction = remove_and_end as extern "C" fn(c_int) as libc::sighandler_t;
    // SAFETY: the handler has the signature that no SA_SIGINFO asks for, and makes only async-signal-safe calls.
    unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
}

/// The process that writes. A child that was forked from it has its handlers too, and must leave its files alone.
static WRITER: AtomicI32 = AtomicI32::new(0);

extern "C" fn remove_and_end(signal: c_int) {
    // SAFETY: async-signal-safe, and without arguments.
    let is_writer = unsafe { libc::getpid() } == WRITER.load(Ordering::Acquire);
    for name in NAMES.iter().filter(|_| is_writer) {
        let name = name.load(Ordering::Acquire);
        if !name.is_null() {
            // SAFETY: a listed name is a C string that is never freed. unlink is async-signal-safe.
            unsafe { libc::unlink(name) };
        }
    }
    // The program ends as if there were no handler, so that a shell sees the signal.
    // SAFETY: both are async-signal-safe. The signal comes when this handler returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Both ways, the second as on a filesystem that has no files without names.
    const WAYS: [fn(PathBuf) -> io::Result<Temporary>; 2] = [Temporary::new, Temporary::named];

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn a_file_is_complete_or_not_there() {
        for make in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("result");
            drop(make(target.clone()).unwrap());
            assert_eq!(names(folder.path()), [""; 0]);
            make(target.clone()).unwrap().complete(b"new").unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"new");
            fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
            let newer = make(target.clone()).unwrap();
            newer.resemble(&fs::metadata(&target).unwrap()).unwrap();
            newer.complete(b"newer").unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"newer");
            assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o640);
            assert_eq!(names(folder.path()), ["result"]);
        }
    }

    #[test]
    fn until_it_is_complete_it_has_no_name_or_one_that_is_random() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("result");
        let count = |make: fn(PathBuf) -> io::Result<Temporary>| {
            let _temporary = make(target.clone()).unwrap();
            names(folder.path()).iter().filter(|name| name.starts_with(".efibed-")).count()
        };
        assert_eq!(WAYS.map(count), [0, 1]);
    }

    #[test]
    fn what_cannot_take_its_name_leaves_nothing() {
        for make in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("result");
            fs::create_dir(&target).unwrap();
            assert!(make(target.clone()).unwrap().complete(b"new").is_err());
            assert_eq!(names(folder.path()), ["result"]);
            assert!(make(folder.path().join("none/result")).is_err());
        }
    }

    /// Where to interrupt oneself while a file has its random name.
    const FOLDER: &str = "EFIBED_TEST_INTERRUPTED_IN";

    #[test]
    fn a_signal_removes_a_random_name() {
        if let Some(folder) = std::env::var_os(FOLDER) {
            let _temporary = Temporary::named(Path::new(&folder).join("result")).unwrap();
            assert_eq!(names(Path::new(&folder)).len(), 1);
            // SAFETY: it has no arguments that could be wrong.
            unsafe { libc::raise(libc::SIGTERM) };
        }
        let folder = tempfile::tempdir().unwrap();
        let test = "cli::temporary::tests::a_signal_removes_a_random_name";
        let mut itself = Command::new(std::env::current_exe().unwrap());
        itself.args([test, "--exact"]).env(FOLDER, folder.path()).stdout(Stdio::null());
        assert_eq!(itself.status().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
