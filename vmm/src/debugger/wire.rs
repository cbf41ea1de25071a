//! What the debugger's two sides tell each other: a line of JSON for each message, over a pair of sockets.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What the guest's side is told. All but [`Order::Halt`] only while it is halted.
#[derive(Serialize, Deserialize)]
pub enum Order {
    /// Say the registers.
    Registers,
    /// Set the general ones of them. [`Said::Done`].
    SetRegisters(Box<Registers>),
    /// Say what is in memory, as far as there is any: at most [`MOST_BYTES`].
    Read { virt: u64, bytes: usize },
    /// Write to memory, all or nothing that counts. [`Said::Done`].
    Write { virt: u64, bytes: Vec<u8> },
    /// Put a breakpoint at an address. [`Said::Done`].
    Break(u64),
    /// Take it away. [`Said::Done`].
    Unbreak(u64),
    /// Halt after an instruction that has changed memory. [`Said::Done`].
    Watch { virt: u64, bytes: usize },
    /// No more. [`Said::Done`].
    Unwatch { virt: u64, bytes: usize },
    /// Answer a command of gdb's `monitor`. [`Said::Text`].
    Monitor(String),
    /// Go on. The next that is heard is a halt.
    Go(Going),
    /// Halt, if the mapping code runs.
    Halt,
    /// Go on, and halt no more.
    Detach,
    /// End the mapping code, and halt no more.
    Kill,
}

/// How it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Going {
    /// To the next halt.
    On,
    /// By one instruction.
    Step,
    /// By instructions as long as RIP is from the first of these up to the second.
    Steps(u64, u64),
}

/// What the guest's side says.
#[derive(Serialize, Deserialize)]
pub enum Said {
    /// The mapping code has halted.
    Halted(Event),
    /// The registers.
    Registers(Box<Registers>),
    /// What is in memory.
    Bytes(Vec<u8>),
    /// Whether something was done.
    Done(bool),
    /// Words for a person.
    Text(String),
}

/// Why mapping code has halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It is at its first instruction.
    Start,
    /// It was told to.
    Asked,
    /// It has made its step.
    Step,
    /// It is at a breakpoint.
    Breakpoint,
    /// It has changed memory that is watched, at this address.
    Watch(u64),
    /// It met an exception of its own: the number of the signal that stands for it under Linux.
    Signal(i32),
    /// The host has found something.
    Finding,
}

/// Registers of ring 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15: gdb's order.
    pub general: [u64; 16],
    /// The instruction.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// CS, SS, DS, ES, FS, GS.
    pub selectors: [u16; 6],
    /// Bases of FS and GS.
    pub bases: [u64; 2],
    /// x87 and SSE as FXSAVE has them (SDM vol. 1, table 10-2); empty: KVM does not say.
    pub fxsave: Vec<u8>,
}

/// The most memory that is read or written at a time.
pub const MOST_BYTES: usize = 64 << 10;

/// The longest message: memory takes four characters a byte.
const MOST_CHARS: usize = 8 * MOST_BYTES;

/// One end.
pub struct Wire {
    socket: OwnedFd,
    /// What has come and is not read yet.
    come: Vec<u8>,
}

impl Wire {
    /// Both ends.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let (one, other) = UnixStream::pair()?;
        Ok((one.into(), other.into()))
    }

    /// One end.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, come: Vec::new() }
    }

    /// To wait for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.socket)
    }

    /// Sends a message; false: nobody is there any more.
    pub fn send(&self, message: &impl Serialize) -> bool {
        // Messages are plain data: they can be written as JSON.
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        let mut rest = &line[..];
        while !rest.is_empty() {
            // SAFETY: the pointer and the length are the slice's.
            let sent =
                unsafe { libc::send(self.socket.as_raw_fd(), rest.as_ptr().cast(), rest.len(), libc::MSG_NOSIGNAL) };
            match usize::try_from(sent) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits for a message; None: nobody is there any more, or what was sent is none.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(end) = self.come.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.come.drain(..=end).collect();
                return serde_json::from_slice(&line).ok();
            }
            if self.come.len() > MOST_CHARS || !self.fetch(0)? {
                return None;
            }
        }
    }

    /// Whether there is something to receive, be it that nobody is there any more.
    pub fn has_come(&mut self) -> bool {
        self.come.contains(&b'\n') || self.fetch(libc::MSG_DONTWAIT) != Some(false) || self.come.contains(&b'\n')
    }

    /// Takes what has come. False: nothing has; None: nothing will.
    fn fetch(&mut self, flags: i32) -> Option<bool> {
        let mut bytes = [0; 4096];
        loop {
            // SAFETY: the pointer and the length are the array's.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) };
            match usize::try_from(got) {
                Ok(0) => return None,
                Ok(got) => {
                    self.come.extend_from_slice(bytes.get(..got).unwrap_or_default());
                    return Some(true);
                }
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Some(false),
                    _ => return None,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> [Wire; 2] {
        let (one, other) = Wire::pair().unwrap();
        [Wire::new(one), Wire::new(other)]
    }

    #[test]
    fn messages_come_whole_and_in_order() {
        let [one, mut other] = ends();
        assert!(!other.has_come());
        assert!(one.send(&Said::Bytes(vec![7; 10_000])) && one.send(&Said::Halted(Event::Step)));
        assert!(other.has_come());
        assert!(matches!(other.receive(), Some(Said::Bytes(bytes)) if bytes == [7; 10_000]));
        assert!(matches!(other.receive(), Some(Said::Halted(Event::Step))));
        assert!(!other.has_come());
    }

    #[test]
    fn an_end_that_is_gone_is_noticed() {
        let [one, mut other] = ends();
        drop(one);
        assert!(other.has_come());
        assert!(other.receive::<Order>().is_none());
        assert!(!other.send(&Said::Done(true)));
    }

    #[test]
    fn what_is_no_message_is_none() {
        for text in [&b"{\"Halted\":\n"[..], b"\n", &[b'x'; 2 * MOST_CHARS]] {
            let (one, other) = Wire::pair().unwrap();
            let mut other = Wire::new(other);
            let text = text.to_vec();
            let writer = std::thread::spawn(move || {
                use std::io::Write as _;
                // It may be cut short: the reader leaves.
                let _ = UnixStream::from(one).write_all(&text);
            });
            assert!(other.receive::<Said>().is_none());
            drop(other);
            writer.join().unwrap();
        }
    }
}
