//! The timer that ends a KVM_RUN which would not end by itself.
//!
//! A POSIX timer sends a real-time signal to the thread that runs the vCPU; KVM_RUN then returns with
//! EINTR. A signal that comes just before the thread enters KVM_RUN would be lost, so the timer goes on
//! firing each [`REPEAT`]. No thread of our own, and none of another's machine is disturbed.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use vmm_sys_util::errno;
use vmm_sys_util::signal::{SIGRTMAX, SIGRTMIN, unblock_signal};

/// The longest a session may take.
pub const LONGEST_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How often the timer fires once the limit has passed: how late a run may end.
const REPEAT: Duration = Duration::from_millis(1);

/// The first signal tried, counted from SIGRTMIN: the lowest ones are what others take.
const FIRST_SIGNAL: i32 = 5;

/// An armed timer, for the thread that armed it. It is disarmed when dropped.
pub(super) struct Watchdog {
    // A raw pointer: this is what keeps a watchdog (and a session) on the thread it was made for.
    timer: libc::timer_t,
    limit: Duration,
    deadline: Instant,
}

impl Watchdog {
    /// Fires on this thread once `limit` has passed.
    pub(super) fn arm(limit: Duration) -> Result<Self, WatchdogError> {
        if limit > LONGEST_LIMIT {
            return Err(WatchdogError::Limit { limit });
        }
        let signal = watchdog_signal()?;
        // A thread that blocks the signal would spin with its guest for ever.
        unblock_signal(signal).map_err(|_| WatchdogError::Signal)?;
        // Taken before the timer starts: when it fires, the deadline has passed.
        let deadline = Instant::now() + limit;
        let timer = create_timer(signal).map_err(|cause| WatchdogError::Timer { cause })?;
        let watchdog = Self { timer, limit, deadline };
        watchdog.start().map_err(|cause| WatchdogError::Timer { cause })?;
        Ok(watchdog)
    }

    /// Whether the limit has passed.
    #[inline]
    pub(super) fn expired(&self) -> bool {
        Instant::now() >= self.deadline
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    fn start(&self) -> Result<(), errno::Error> {
        let times = libc::itimerspec {
            it_interval: timespec(REPEAT),
            // Zero would disarm it.
            it_value: timespec(self.limit.max(Duration::from_nanos(1))),
        };
        // SAFETY: the timer is ours and alive, the structure outlives the call, no old value is asked for.
        let result = unsafe { libc::timer_settime(self.timer, 0, &times, std::ptr::null_mut()) };
        errno_of(result)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and not used again. A signal still pending finds a handler that does nothing.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// Why no watchdog could be set, and so nothing was run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchdogError {
    /// Longer than [`LONGEST_LIMIT`].
    #[error("a limit of {limit:?} was asked for; {LONGEST_LIMIT:?} is the longest")]
    Limit {
        /// What was asked for.
        limit: Duration,
    },
    /// All real-time signals have handlers of others, or ours cannot be unblocked.
    #[error("no real-time signal is free for the watchdog")]
    Signal,
    /// The system refused a timer.
    #[error("the watchdog's timer could not be set: {cause}")]
    Timer {
        /// What the system said.
        cause: errno::Error,
    },
}

/// The signal, with its handler in place; found once for the process.
fn watchdog_signal() -> Result<i32, WatchdogError> {
    static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();
    let install = || (SIGRTMIN() + FIRST_SIGNAL..=SIGRTMAX()).find(|&signal| take_signal(signal));
    SIGNAL.get_or_init(install).ok_or(WatchdogError::Signal)
}

extern "C" fn do_nothing(_: i32) {}

/// Installs the handler, unless the signal is someone else's.
fn take_signal(signal: i32) -> bool {
    // SAFETY: all-zero is a valid sigaction (default action, empty mask).
    let (mut ours, mut theirs): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    ours.sa_sigaction = do_nothing as extern "C" fn(i32) as usize;
    // KVM_RUN still ends with EINTR; the thread's other calls go on undisturbed.
    ours.sa_flags = libc::SA_RESTART;
    // SAFETY: both structures outlive the calls; the handler does nothing, which any thread may do at any time.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), &mut theirs) == 0
            && theirs.sa_sigaction == libc::SIG_DFL
            && libc::sigaction(signal, &ours, std::ptr::null_mut()) == 0
    }
}

fn create_timer(signal: i32) -> Result<libc::timer_t, errno::Error> {
    // SAFETY: all-zero is a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    // SAFETY: gettid has no conditions.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer = std::ptr::null_mut();
    // SAFETY: both pointers are valid for the call, and the thread named is this one.
    let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
    errno_of(result).map(|()| timer)
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(duration.subsec_nanos() as i32),
    }
}

fn errno_of(result: i32) -> Result<(), errno::Error> {
    match result {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_expires_after_its_limit_and_not_before() {
        let watchdog = Watchdog::arm(Duration::from_millis(20)).unwrap();
        assert!(!watchdog.expired());
        std::thread::sleep(Duration::from_millis(21));
        assert!(watchdog.expired());
    }

    #[test]
    fn no_limit_at_all_expires_at_once() {
        assert!(Watchdog::arm(Duration::ZERO).unwrap().expired());
    }

    #[test]
    fn a_limit_without_end_is_refused() {
        let refused = Watchdog::arm(Duration::MAX).err();
        assert!(matches!(refused, Some(WatchdogError::Limit { .. })));
    }
}
