//! What the child gives up, part by part, in this order.
//!
//! The filter of system calls is the wall: without `open`, `socket`, `execve`, `clone` and the like nothing can be reached
//! but KVM, memory and the pipe. The other parts stand behind it.

use std::error::Error;
use std::ffi::c_void;
use std::fmt;
use std::io::{self, Cursor, Write as _};
use std::os::fd::RawFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr as _, RulesetStatus, Scope,
};

use super::calls::{self, Call};
use super::child::check;
use super::message::PIPE;
use crate::cli::{Failure, Status};
#[cfg(feature = "fuzz")]
use crate::fuzz::CLIENT_FAILED;

/// One part of the confinement.
pub struct Part {
    /// What the kernel's documents call it.
    pub name: &'static str,
    /// Whether there is no sandbox without it.
    is_needed: bool,
    apply: fn(&Inmate) -> Result<String, Box<dyn Error>>,
}

/// A process that is confined.
pub struct Inmate {
    /// What it may call besides [`calls::CALLS`].
    more_calls: &'static [Call],
    /// Its end at a call that is refused.
    refused: Refused,
}

/// Of [`Message::Refused`](super::message::Message), or in words.
type Refused = extern "C" fn(i32, *const SigsysInfo, *const libc::ucontext_t);

/// A child that runs a guest.
pub const CHILD: Inmate = Inmate { more_calls: &[], refused: tell_refusal };

/// A process of a campaign. It has no pipe, and says its words on standard error, which its supervisor reads.
#[cfg(feature = "fuzz")]
pub const CLIENT: Inmate = Inmate { more_calls: &calls::CLIENT_CALLS, refused: say_refusal };

/// All of them. Each later one would forbid the calls that an earlier one takes.
pub const PARTS: [Part; 4] = [
    // Without it the kernel accepts neither landlock nor a filter from a user who is not root.
    Part { name: "no_new_privs", is_needed: true, apply: no_new_privs },
    Part { name: "resource limits", is_needed: true, apply: limits },
    // Not in every kernel, and left out by some that have it. Every path that it closes goes through a system call that
    // the filter refuses, so a run without it is still confined. `doctor` says whether it is there.
    Part { name: "landlock", is_needed: false, apply: landlock },
    Part { name: "seccomp filter", is_needed: true, apply: seccomp },
];

impl Part {
    /// Gives it up, for good, and says in words what that comes to here. The error says why this kernel cannot.
    pub fn apply(&self, inmate: &Inmate) -> Result<String, String> {
        (self.apply)(inmate).map_err(|error| error.to_string())
    }
}

/// Confines this process, for good.
pub fn confine(inmate: &Inmate) -> Result<(), Failure> {
    keep_the_heap();
    for part @ Part { name, is_needed, .. } in &PARTS {
        match part.apply(inmate) {
            Err(why) if *is_needed => {
                let words = format!(
                    "efibed: this system has no sandbox to run the guest in: {name}: {why}\n  \
                     (`--no-sandbox` runs it in this process, not confined)"
                );
                return Err(Failure::Told { status: Status::Unable, words });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Has the C library's allocator give nothing back to the system. Before it does, on another thread than the first, glibc opens
/// /proc/sys/vm/overcommit_memory.
fn keep_the_heap() {
    // SAFETY: it has no conditions. Where it fails, the allocator stays as it is.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Tries every part, whether or not another was refused.
pub fn try_all() -> Vec<Result<String, String>> {
    PARTS.iter().map(|part| part.apply(&CHILD)).collect()
}

fn no_new_privs(_: &Inmate) -> Result<String, Box<dyn Error>> {
    // SAFETY: it has no conditions.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok("no program that is started gains rights".into())
}

/// Soft and hard limits.
///
/// RLIMIT_NPROC is not among them: KVM makes a thread of its own for each machine (Linux 6.14, `kvm-nx-lpage-recovery`),
/// which counts.
const LIMITS: [(libc::__rlimit_resource_t, libc::rlim_t); 4] = [
    // Its memory holds the guest's, and what the user's files said.
    (libc::RLIMIT_CORE, 0),
    // Standard error may be a file. Pipes have no size.
    (libc::RLIMIT_FSIZE, 0),
    // /dev/kvm, the pipe, the standard three, and two for each machine: the one that runs, and 16 at most that wait, each
    // for another CPU.
    (libc::RLIMIT_NOFILE, 64),
    (libc::RLIMIT_AS, ADDRESS_SPACE_BYTES),
];

/// A run on a known map takes 25 to 60 MiB, and one on 65,535 descriptors 240 MB of memory. What the parent took to read the
/// map counts too, which may be 640 MB.
const ADDRESS_SPACE_BYTES: libc::rlim_t = 8 << 30;

fn limits(_: &Inmate) -> Result<String, Box<dyn Error>> {
    for (resource, limit) in LIMITS {
        lower(resource, limit)?;
    }
    Ok(format!("{} GiB of address space, no growing file, no core dump", ADDRESS_SPACE_BYTES >> 30))
}

/// Lowers a limit, for good; one that is lower already stays.
fn lower(resource: libc::__rlimit_resource_t, limit: libc::rlim_t) -> io::Result<()> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives both calls.
    unsafe {
        check(libc::getrlimit(resource, &mut limits))?;
        limits = libc::rlimit { rlim_cur: limits.rlim_cur.min(limit), rlim_max: limits.rlim_max.min(limit) };
        check(libc::setrlimit(resource, &limits))
    }
}

/// The newest interface that this was tried with. A kernel with an older one restricts what it knows.
const LANDLOCK: ABI = ABI::V7;

/// No file, no TCP port, no abstract socket and no process outside.
fn landlock(_: &Inmate) -> Result<String, Box<dyn Error>> {
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.restrict_self())?;
    let all = match restricted.ruleset {
        RulesetStatus::FullyEnforced => "no files, no TCP, no signals to others",
        RulesetStatus::PartiallyEnforced => "no files; older than what is asked for",
        RulesetStatus::NotEnforced => return Err(absent(restricted.landlock).into()),
    };
    Ok(format!("ABI {}: {all}", ABI::from(restricted.landlock) as i32))
}

fn absent(status: LandlockStatus) -> &'static str {
    match status {
        LandlockStatus::NotEnabled => "in the kernel, but not switched on (boot parameter `lsm=`)",
        _ => "not in this kernel (Linux 5.13 and later can have it)",
    }
}

fn seccomp(inmate: &Inmate) -> Result<String, Box<dyn Error>> {
    report_refusals(inmate.refused)?;
    let filter = calls::filter(inmate.more_calls)?;
    seccompiler::apply_filter(&filter)?;
    let calls = calls::CALLS.len() + inmate.more_calls.len();
    Ok(format!("{calls} system calls, {} of KVM's ioctls", calls::KVM_REQUESTS.len()))
}

/// Has a refused call end the process with a message that says which one it was.
///
/// To answer EPERM would let the run go on with something undone. To kill at once would leave nobody who knows the call.
fn report_refusals(refused: Refused) -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction, its mask empty; the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = refused as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        check(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()))
    }
}

/// The head of what SIGSYS brings (`siginfo_t` in `asm-generic/siginfo.h`), which libc does not show.
#[repr(C)]
struct SigsysInfo {
    signal: i32,
    errno: i32,
    code: i32,
    address: *const c_void,
    call: i32,
}

/// Sends [`Message::Refused`](super::message::Message).
extern "C" fn tell_refusal(_: i32, info: *const SigsysInfo, context: *const libc::ucontext_t) {
    // SAFETY: the kernel gives both to a handler with SA_SIGINFO.
    let (call, second) = unsafe { refused(info, context) };
    let words = format_args!("{{\"Refused\":{{\"call\":{call},\"second\":{second}}}}}");
    last_words(PIPE, words, Status::Internal as i32)
}

/// Says it.
#[cfg(feature = "fuzz")]
extern "C" fn say_refusal(_: i32, info: *const SigsysInfo, context: *const libc::ucontext_t) {
    // SAFETY: as above.
    let (call, second) = unsafe { refused(info, context) };
    let words = format_args!("the sandbox refused system call {call}, second argument {second:#x}");
    last_words(libc::STDERR_FILENO, words, CLIENT_FAILED)
}

/// The number of a call that was refused, and its second argument.
///
/// # Safety
///
/// Both must be what the kernel gives to a handler of SIGSYS with SA_SIGINFO.
unsafe fn refused(info: *const SigsysInfo, context: *const libc::ucontext_t) -> (i32, u64) {
    // SAFETY: as the caller promises, and this signal's information has that form.
    unsafe { ((*info).call, (*context).uc_mcontext.gregs[libc::REG_RSI as usize] as u64) }
}

/// A line, and the end of the process; without memory of the heap: the call may have come from the allocator.
fn last_words(to: RawFd, words: fmt::Arguments<'_>, status: i32) -> ! {
    let mut message = Cursor::new([0; 96]);
    let _ = writeln!(message, "{words}");
    let length = message.position() as usize;
    // SAFETY: the pointer and the length are the array's; both calls may be made in a handler.
    unsafe {
        libc::write(to, message.get_ref().as_ptr().cast(), length);
        libc::_exit(status)
    }
}
