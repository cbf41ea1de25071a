//! A session: gdb on one side, the guest's side on the other, and who may speak next.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine as Machine;
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;

use super::target::Guest;
use crate::cli::Status;
use crate::debugger::{Event, Order, Said, Wire};

/// The thread that serves gdb.
pub struct Server {
    thread: JoinHandle<()>,
    gdb: OwnedFd,
    ended: Sender<Status>,
}

impl Server {
    /// Begins to serve gdb.
    pub fn start(gdb: OwnedFd, wire: OwnedFd, base: Option<u64>) -> io::Result<Self> {
        let ours = gdb.try_clone()?;
        let (ended, end) = channel();
        let guest = Guest { wire: Wire::new(wire), base };
        let thread = thread::Builder::new().name("gdb".into()).spawn(move || serve(Gdb::new(gdb), guest, &end))?;
        Ok(Self { thread, gdb: ours, ended })
    }

    /// The run is over: tells gdb how the command will end, and waits until that is told. A gdb that does not listen is left.
    pub fn end(self, status: Status) {
        /// More than it takes to tell.
        const PATIENCE: Duration = Duration::from_secs(2);
        let Self { thread, gdb, ended } = self;
        // One that has left already needs no status.
        let _ = ended.send(status);
        let start = Instant::now();
        while !thread.is_finished() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        // SAFETY: the descriptor is open: it is owned here. What the thread reads then is the end.
        unsafe { libc::shutdown(gdb.as_raw_fd(), libc::SHUT_RDWR) };
        // It has nothing to return.
        let _ = thread.join();
    }
}

/// gdb's socket, with what is to be written at once.
struct Gdb {
    socket: File,
    written: Vec<u8>,
}

impl Gdb {
    fn new(socket: OwnedFd) -> Self {
        Self { socket: socket.into(), written: Vec::new() }
    }
}

impl Connection for Gdb {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.written.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.written)?;
        self.written.clear();
        Ok(())
    }
}

/// Serves gdb until it leaves or the run is over. Whatever fails ends the session: the guest's side sees that the wire is
/// closed, and goes on alone.
fn serve(gdb: Gdb, mut guest: Guest, end: &Receiver<Status>) {
    // gdb asks why it has halted as soon as it is served: before that it must have.
    if !matches!(guest.wire.receive(), Some(Said::Halted(_))) {
        return;
    }
    let Ok(mut machine) = GdbStub::new(gdb).run_state_machine(&mut guest) else { return };
    while let Some(next) = step(machine, &mut guest, end) {
        machine = next;
    }
}

/// One step of it; None: it is over.
fn step<'a>(
    machine: Machine<'a, Guest, Gdb>,
    guest: &mut Guest,
    end: &Receiver<Status>,
) -> Option<Machine<'a, Guest, Gdb>> {
    match machine {
        Machine::Idle(mut idle) => match heard(idle.borrow_conn(), guest)? {
            Heard::Gdb(byte) => idle.incoming_data(guest, byte).ok(),
            // While it is halted it only speaks when it is asked: its process has ended.
            Heard::Guest => None,
        },
        Machine::Running(mut running) => match heard(running.borrow_conn(), guest)? {
            Heard::Gdb(byte) => running.incoming_data(guest, byte).ok(),
            Heard::Guest => {
                let reason = match guest.wire.receive() {
                    Some(Said::Halted(event)) => reason(event),
                    Some(_) => return None,
                    None => SingleThreadStopReason::Exited(end.recv().ok()? as u8),
                };
                running.report_stop(guest, reason).ok()
            }
        },
        Machine::CtrlCInterrupt(interrupt) => {
            guest.wire.send(&Order::Halt).then_some(())?;
            interrupt.interrupt_handled(guest, None::<SingleThreadStopReason<u64>>).ok()
        }
        Machine::Disconnected(gone) => {
            match gone.get_reason() {
                DisconnectReason::Kill => guest.wire.send(&Order::Kill),
                DisconnectReason::Disconnect => guest.wire.send(&Order::Detach),
                DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => true,
            };
            None
        }
    }
}

/// Who has spoken.
enum Heard {
    /// gdb, so.
    Gdb(u8),
    /// The guest's side.
    Guest,
}

/// Waits until somebody speaks; None: gdb has left.
fn heard(gdb: &mut Gdb, guest: &mut Guest) -> Option<Heard> {
    let [gdb_has, guest_has] = wait([gdb.socket.as_fd(), guest.wire.as_fd()])?;
    if gdb_has {
        let mut byte = [0];
        gdb.socket.read_exact(&mut byte).ok()?;
        return Some(Heard::Gdb(byte[0]));
    }
    guest_has.then_some(Heard::Guest)
}

/// Waits until there is something to read; at the end of a file there is.
fn wait(sockets: [BorrowedFd<'_>; 2]) -> Option<[bool; 2]> {
    let mut polled = sockets.map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: the pointer and the count are the array's.
        match unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return None,
            _ => return Some(polled.map(|socket| socket.revents != 0)),
        }
    }
}

fn reason(event: Event) -> SingleThreadStopReason<u64> {
    match event {
        Event::Start => SingleThreadStopReason::Signal(Signal::SIGTRAP),
        Event::Step => SingleThreadStopReason::DoneStep,
        Event::Breakpoint => SingleThreadStopReason::SwBreak(()),
        Event::Watch(addr) => SingleThreadStopReason::Watch { tid: (), kind: WatchKind::Write, addr },
        Event::Asked => SingleThreadStopReason::Signal(Signal::SIGINT),
        // What no signal of the system's stands for: gdb prints its name.
        Event::Finding => SingleThreadStopReason::Signal(Signal::SIGUSR1),
        Event::Signal(number) => SingleThreadStopReason::Signal(gdbs_signal(number)),
    }
}

/// gdb's numbers are its own.
fn gdbs_signal(number: i32) -> Signal {
    match number {
        libc::SIGTRAP => Signal::SIGTRAP,
        libc::SIGILL => Signal::SIGILL,
        libc::SIGFPE => Signal::SIGFPE,
        libc::SIGBUS => Signal::SIGBUS,
        _ => Signal::SIGSEGV,
    }
}
