//! What a child tells its parent: a line of JSON for each message.

use std::fs::File;
use std::io::Write as _;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd as _, RawFd};

use serde::{Deserialize, Serialize};

use crate::Progress;
use crate::cli::Status;

/// One message.
#[derive(Serialize, Deserialize)]
pub enum Message<T, P = Progress> {
    /// How far it is.
    Progress(P),
    /// The result. It is the last message, as are those below.
    Done(T),
    /// There is no result: the status to end with, and what to say on standard error.
    Failed { status: Status, words: String },
    /// It called the system in a way that the sandbox does not allow: the number of the call, and its second argument.
    Refused { call: i64, second: u64 },
}

/// The file descriptor of the child's end of the pipe. One that is known before lets the filter of system calls name it.
pub const PIPE: RawFd = 3;

/// The file descriptor of a socket that a child may have beside it, for a debugger.
pub const BESIDE: RawFd = PIPE + 1;

/// The child's end of the pipe. Exists only in a child that has put it there.
#[derive(Clone, Copy)]
pub struct Teller(pub(super) ());

impl Teller {
    /// Sends a message.
    pub fn tell<T: Serialize, P: Serialize>(self, message: &Message<T, P>) {
        // Messages are plain data: they can be written as JSON.
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        // SAFETY: a teller exists, so the descriptor is open and the pipe's; it is not closed here.
        let mut pipe = ManuallyDrop::new(unsafe { File::from_raw_fd(PIPE) });
        // If nobody listens, the parent is gone, and the child is about to go too.
        let _ = pipe.write_all(&line);
    }
}
