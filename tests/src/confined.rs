//! Tests in the sandbox: with `EFIBED_CONFINED=1` each test that needs KVM runs as the command runs a guest, in a child process
//! that may do little else. One at a time: `EFIBED_CONFINED=1 cargo test -p efibed-tests --test kvm -- --test-threads=1`.

use std::any::Any;
use std::io::{PipeWriter, Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::{io, panic};

use efibed::unstable::sandbox::{PIPE, confine};
use libtest_mimic::{Failed, Trial};

use crate::{OVMF_2013, bed, hypervisor, scenario};

/// Whether tests run so.
pub fn is_asked_for() -> bool {
    std::env::var_os("EFIBED_CONFINED").is_some_and(|value| value == "1")
}

/// Tests of what the command's child never does, and what that is. They are ignored there, by name.
const NOT_A_CHILDS: [(&str, &str); 20] = [
    ("machine::no_signal_ends_the_run_before_its_limit", THREADS),
    ("machine::two_machines_run_in_two_threads", THREADS),
    ("many_threads_share_a_bed", THREADS),
    ("many_threads_run_different_mappers", THREADS),
    ("matrix_access_is_as_the_sdm_says", THREADS),
    ("matrix_full_is_as_the_sdm_says_but_for_known_deviations", THREADS),
    ("matrix_finds_the_deviations_that_single_accesses_show", THREADS),
    ("matrix_misses_every_rule_of_the_walker_that_is_broken", THREADS),
    ("matrix_fails_without_handlers", THREADS),
    ("matrix_shards_are_the_whole", THREADS),
    ("every_attack_of_mapping_code_is_found", OWN_FILES),
    ("what_a_library_did_is_told_with_the_line_that_called_it", OWN_FILES),
    ("what_does_not_fit_the_guest_is_incomplete", OWN_FILES),
    ("a_panic_is_told_whole", OWN_FILES),
    ("finish_is_judged_by_what_it_did", OWN_FILES),
    ("two_bugs_of_a_rule_have_their_own_lines", OWN_FILES),
    ("the_last_write_counts", OWN_FILES),
    ("what_nobody_wrote_is_told_by_the_entry_above", OWN_FILES),
    ("so_many_writes_are_looked_at_and_no_more", OWN_FILES),
    ("whatever_mapping_code_answers_comes_to_a_verdict_in_the_guest", OWN_FILES),
];
const THREADS: &str = "it starts threads";
const OWN_FILES: &str = "the mapping code is this program's, and its lines are looked up in this program's file";

/// Prints a line, but not in the sandbox, where nobody may.
#[macro_export]
macro_rules! tell {
    ($($words:tt)*) => {
        if !$crate::confined::is_asked_for() {
            println!($($words)*);
        }
    };
}

/// Panics if one of them is no test any more.
pub fn check(trials: &[Trial]) {
    for (name, _) in NOT_A_CHILDS {
        assert!(trials.iter().any(|trial| trial.name() == name), "{name} is not a test");
    }
}

/// Why a test cannot be run so; None: it can, or tests do not run so.
pub fn excuse(name: &str) -> Option<&'static str> {
    let row = NOT_A_CHILDS.iter().find(|(test, _)| *test == name)?;
    is_asked_for().then_some(row.1)
}

/// Keeps the number of the children's pipe free, if tests run so. To be called before anything is opened.
pub fn prepare() {
    if is_asked_for() {
        // SAFETY: nothing has been opened, so nobody's descriptor is closed.
        unsafe { libc::dup2(libc::STDERR_FILENO, PIPE) };
    }
}

/// Runs a test in a confined child. What the child is refused ends it, and fails the test.
pub fn run(test: impl FnOnce()) -> Result<(), Failed> {
    let (mut said, writer) = io::pipe()?;
    // SAFETY: with one test at a time no other thread of this program runs: none holds a lock that the child will miss.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => live(&writer, test),
        pid => {
            drop(writer);
            let mut words = String::new();
            said.read_to_string(&mut words)?;
            let mut status = 0;
            // SAFETY: the child was not waited for, and the status outlives the call.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            let status = ExitStatus::from_raw(status);
            if status.success() { Ok(()) } else { Err(format!("{status}; {words}").into()) }
        }
    }
}

fn live(pipe: &PipeWriter, test: impl FnOnce()) -> ! {
    // SAFETY: the number is nobody's: see `prepare`.
    unsafe { libc::dup2(pipe.as_raw_fd(), PIPE) };
    panic::set_hook(Box::new(|panic| say(&panic.to_string())));
    // Opens /dev/kvm, for either kind of test. What comes of the run is not asked.
    hypervisor();
    let _ = bed().run(&scenario(OVMF_2013));
    let passed = confine()
        .map_err(|why| say(&why))
        .and_then(|()| panic::catch_unwind(panic::AssertUnwindSafe(test)).map_err(drop_it));
    // SAFETY: the child has nothing to clean up.
    unsafe { libc::_exit(if passed.is_ok() { 0 } else { 1 }) }
}

/// What a panic carries was said by the hook.
fn drop_it(_: Box<dyn Any + Send>) {}

fn say(words: &str) {
    // SAFETY: the descriptor is the pipe's, and is not closed here.
    let mut pipe = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(PIPE) });
    let _ = pipe.write_all(words.as_bytes());
}
