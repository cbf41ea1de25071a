//! Why a guest ended before its batch was done.

use std::fmt;

use efibed_guest::protocol;

use crate::machine::{Exit, RunError, WatchdogError};
use crate::mmu::ErrorCode;

/// What ended a guest before its batch was done.
#[derive(Clone, Debug)]
pub enum End {
    /// A fault outside a probe.
    Crash(Box<Crash>),
    /// A panic in the guest's code.
    Panic {
        /// Source file and line.
        location: String,
    },
    /// An exit that has no place in a batch: triple fault, watchdog, internal error, ...
    Exit(Exit),
    /// A listener stopped it after it had handed over.
    Stopped,
    /// A debugger ended the mapping code.
    Killed,
    /// The time for all that the guest was to do is over.
    OutOfTime,
    /// KVM would not run it.
    Run(RunError),
    /// The watchdog could not be armed.
    Watchdog(WatchdogError),
    /// The guest's memory does not hold what it must.
    Corrupt,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(crash) => {
                let Crash { registers: r, command } = &**crash;
                let fault = crate::mmu::Fault { vector: r.vector as u8, error_code: ErrorCode(r.error_code as u32) };
                let [rip, cs, rflags, rsp, _] = r.frame;
                write!(
                    f,
                    "{fault} outside a probe, in command {command}: RIP {rip:#x}, CR2 {:#x}, CR3 {:#x}, ",
                    r.cr2, r.cr3
                )?;
                write!(f, "CS {cs:#x}, RFLAGS {rflags:#x}, RSP {rsp:#x}")?;
                for (name, value) in REGISTER_NAMES.iter().zip(r.registers) {
                    write!(f, ", {name} {value:#x}")?;
                }
                Ok(())
            }
            Self::Panic { location } => write!(f, "the guest's code panicked at {location}"),
            Self::Exit(Exit::Watchdog { limit, rip, cpl }) => {
                write!(f, "the guest was still running after {limit:?}, in ring {cpl} at RIP {rip:#x}")
            }
            Self::Exit(Exit::InternalError(error)) => write!(f, "{error}"),
            Self::Exit(exit) => write!(f, "unexpected exit: {exit:x?}"),
            Self::Stopped => f.write_str("the guest asked for a reset of its machine"),
            Self::Killed => f.write_str("the debugger ended the mapping code"),
            Self::OutOfTime => f.write_str("the time for the whole run is over"),
            Self::Run(error) => write!(f, "{error}"),
            Self::Watchdog(error) => write!(f, "{error}"),
            Self::Corrupt => f.write_str("the guest's mailbox does not hold what it must"),
        }
    }
}

/// In the order of [`protocol::Crash::registers`].
const REGISTER_NAMES: [&str; 15] =
    ["RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

/// A fault outside a probe.
#[derive(Clone, Debug)]
pub struct Crash {
    /// Registers, as the handler found them.
    pub registers: protocol::Crash,
    /// The command being carried out.
    pub command: u64,
}
