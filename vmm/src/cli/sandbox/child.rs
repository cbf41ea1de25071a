//! The child's life, from the fork to its last message.

use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::panic;

use serde::Serialize;

use super::message::{BESIDE, Message, PIPE, Teller};
use crate::cli::{Failure, Status};

/// Does what the child is for, tells the parent the result, and ends.
///
/// It never returns to the parent's code, and drops nothing of the parent's: the outputs are the parent's to write and to
/// remove.
///
/// `beside` is a socket that it is to have too.
pub fn live<T: Serialize>(
    pipe: PipeWriter,
    beside: Option<&OwnedFd>,
    parent: u32,
    body: impl FnOnce(Teller) -> Result<T, Failure>,
) -> ! {
    let message: Message<T> = match settle(&pipe, beside, parent) {
        // There is no pipe to tell it through.
        Err(_) => exit(Status::Internal),
        Ok(teller) => {
            tell_of_panics(teller);
            match body(teller) {
                Ok(result) => Message::Done(result),
                Err(failure) => {
                    let (status, words) = failure.in_words();
                    Message::Failed { status, words }
                }
            }
        }
    };
    Teller(()).tell(&message);
    exit(Status::Clean)
}

/// Ends the process. What the parent wants done at its own end is not done here.
pub fn exit(status: Status) -> ! {
    // SAFETY: no destructor and no handler of the process needs to run: nothing outlives it but what the pipe holds.
    unsafe { libc::_exit(status as i32) }
}

/// Ties the child to the parent, and cuts it off from what the parent has open.
fn settle(pipe: &PipeWriter, beside: Option<&OwnedFd>, parent: u32) -> io::Result<Teller> {
    // SAFETY: neither call has conditions.
    let parent_now = unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        libc::getppid()
    };
    if u32::try_from(parent_now) != Ok(parent) {
        // It ended before the signal was asked for.
        exit(Status::Internal);
    }
    default_signals();
    // SAFETY: whatever has this number is never used or dropped in the child, which does not return to its owner.
    unsafe {
        // Out of the way first: it may have the pipe's number.
        let beside = match beside {
            Some(socket) => Some(checked(libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD, BESIDE + 1))?),
            None => None,
        };
        check(libc::dup2(pipe.as_raw_fd(), PIPE))?;
        if let Some(socket) = beside {
            check(libc::dup2(socket, BESIDE))?;
        }
    }
    close_from(if beside.is_some() { BESIDE } else { PIPE } + 1)?;
    Ok(Teller(()))
}

/// Signals that end the parent end the child too, without the parent's handlers. A file that may not grow is an error, and
/// no reason to end: see the limits.
fn default_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: the default action is no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Closes everything from this descriptor on.
fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: what is closed was opened by the parent, and no owner of it is used or dropped in the child.
    unsafe {
        // close_range is of Linux 5.9. Not by the C library's function, which is younger still.
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) == 0 {
            return Ok(());
        }
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        let end = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX);
        (first..end).for_each(|descriptor| _ = libc::close(descriptor));
    }
    Ok(())
}

/// A panic is told through the pipe: standard error is where the parent draws its progress. There are no backtraces: to
/// make one, files must be opened.
fn tell_of_panics(teller: Teller) {
    for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: this process has one thread.
        unsafe { std::env::remove_var(variable) };
    }
    panic::set_hook(Box::new(move |panic| {
        let words = format!("efibed: {panic}");
        teller.tell(&Message::<()>::Failed { status: Status::Internal, words });
        exit(Status::Internal)
    }));
}

/// Of a call of the C library that answers -1 if it fails.
pub fn check(answer: i32) -> io::Result<()> {
    checked(answer).map(drop)
}

/// The same, with the answer.
fn checked(answer: i32) -> io::Result<i32> {
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
