//! A file that takes its name when it is complete, and leaves nothing behind when the program is interrupted.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use libc::{c_char, c_int};
use tempfile::NamedTempFile;

/// A file under a random name, in the folder of its target.
pub struct Temporary {
    file: NamedTempFile,
    target: PathBuf,
    name: Listed,
}

impl Temporary {
    /// Makes one that is to become `target`, whose last part is no symbolic link.
    pub fn new(target: PathBuf) -> io::Result<Self> {
        remove_at_signals();
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut name = None;
        let make = |path: &Path| {
            // Listed first: a signal may come as soon as the file is there.
            name = Some(Listed::new(path)?);
            File::options().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(path)
        };
        let file = tempfile::Builder::new().prefix(".efibed-").suffix(".tmp").rand_bytes(12).make_in(folder, make)?;
        let name = name.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { file, target, name })
    }

    /// Gives it the owner and the mode of the file that it will replace.
    pub fn resemble(&self, old: &fs::Metadata) -> io::Result<()> {
        let new = self.file.as_file().metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(self.file.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        self.file.as_file().set_permissions(Permissions::from_mode(old.mode() & 0o7777))
    }

    /// Writes it, and gives it its name. What fails only on the way to the disk or the server fails here.
    pub fn complete(mut self, contents: &[u8]) -> io::Result<()> {
        self.file.write_all(contents)?;
        self.file.as_file().sync_all()?;
        self.file.persist(&self.target)?;
        // From here on there is nothing to remove.
        drop(self.name);
        Ok(())
    }
}

/// The names that a signal removes: more than a command has results.
static NAMES: [AtomicPtr<c_char>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];

/// A name in [`NAMES`].
struct Listed(&'static AtomicPtr<c_char>);

impl Listed {
    fn new(path: &Path) -> io::Result<Self> {
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
