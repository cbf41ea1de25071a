//! Each test forks, so each runs in a process of its own, which has one thread as the command has.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::message::PIPE;
#[cfg(feature = "fuzz")]
use super::parts::CLIENT;
use super::parts::{CHILD, PARTS, Part, confine, try_all};
use super::*;

const ALONE: &str = "EFIBED_TEST_ALONE";

/// Runs the test of this name, which is `test`, in a process of its own.
fn alone(name: &str, test: fn()) {
    if std::env::var_os(ALONE).is_some() {
        return on_the_only_thread(test);
    }
    let path = format!("{}::{name}", module_path!().trim_start_matches("efibed::"));
    let arguments = [&path, "--exact", "--test-threads=1", "--nocapture"];
    let output = Command::new(std::env::current_exe().unwrap()).args(arguments).env(ALONE, "1").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// The harness has a thread besides the test's, which waits for it and holds no lock: in a fork it is gone.
fn on_the_only_thread(test: fn()) {
    // SAFETY: of two threads, the other one holds no lock.
    match unsafe { libc::fork() } {
        0 => {
            let passed = std::panic::catch_unwind(test).is_ok();
            // SAFETY: what the harness would do at the end is done by the process that it runs in.
            unsafe { libc::_exit(if passed { 0 } else { 1 }) }
        }
        pid => assert_eq!(Child { pid }.wait().unwrap().code(), Some(0)),
    }
}

/// Each test, under its own name, in a process of its own.
macro_rules! alone {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$meta])* #[test] fn $name() { alone(stringify!($name), || $body) })*
    };
}

/// What a child came to that has nothing to say of its progress.
fn run<T: Serialize + DeserializeOwned>(body: impl FnOnce(Teller) -> Result<T, Failure>) -> Result<T, Failure> {
    in_child(body, &|_: Progress| {})
}

/// The status and the words of what failed.
#[track_caller]
fn failed<T: std::fmt::Debug>(result: Result<T, Failure>) -> (Status, String) {
    match result {
        Ok(result) => panic!("not refused: {result:?}"),
        Err(failure) => failure.in_words(),
    }
}

/// A call of the system that nothing but the kernel stands before: its answer, or the error as a negative number.
fn call(number: i64, arguments: [u64; 5]) -> i64 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: what the calls of these tests are given is null, a string that lives as long as the process, or no pointer.
    match unsafe { libc::syscall(number, a, b, c, d, e, 0_u64) } {
        -1 => -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        answer => answer,
    }
}

fn path() -> u64 {
    c"/proc/self/status".as_ptr() as u64
}

const HERE: u64 = libc::AT_FDCWD as u64;

/// What nobody who got hold of the child may do. The arguments are such that the kernel would carry most of them out.
fn forbidden() -> Vec<(&'static str, i64, [u64; 5])> {
    let signal_to_parent = [u64::from(std::os::unix::process::parent_id()), 0, 0, 0, 0];
    let executable = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    vec![
        ("open a file", libc::SYS_open, [path(), 0, 0, 0, 0]),
        ("open a file", libc::SYS_openat, [HERE, path(), 0, 0, 0]),
        ("make a file", libc::SYS_openat, [HERE, path(), libc::O_CREAT as u64, 0o600, 0]),
        ("remove a file", libc::SYS_unlink, [path(), 0, 0, 0, 0]),
        ("rename a file", libc::SYS_rename, [path(), path(), 0, 0, 0]),
        ("list a folder", libc::SYS_getdents64, [0, 0, 0, 0, 0]),
        ("read standard input", libc::SYS_read, [0, 0, 0, 0, 0]),
        ("write to standard output", libc::SYS_write, [1, path(), 1, 0, 0]),
        ("a file in memory", libc::SYS_memfd_create, [path(), 0, 0, 0, 0]),
        ("another number for a file", libc::SYS_dup, [2, 0, 0, 0, 0]),
        ("flags of a file", libc::SYS_fcntl, [2, libc::F_DUPFD as u64, 0, 0, 0]),
        ("a socket", libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0]),
        ("a socket", libc::SYS_socketpair, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0]),
        ("connect", libc::SYS_connect, [0, 0, 0, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("a program", libc::SYS_execve, [path(), 0, 0, 0, 0]),
        ("a program", libc::SYS_execveat, [HERE, path(), 0, 0, 0]),
        ("a process", libc::SYS_fork, [0; 5]),
        ("a process", libc::SYS_vfork, [0; 5]),
        ("a process or thread", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0]),
        ("a process or thread", libc::SYS_clone3, [0; 5]),
        ("another process", libc::SYS_ptrace, [libc::PTRACE_ATTACH as u64, 1, 0, 0, 0]),
        ("another's memory", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
        ("a signal to another", libc::SYS_kill, signal_to_parent),
        ("a signal to itself", libc::SYS_tgkill, [0, 0, libc::SIGKILL as u64, 0, 0]),
        ("its own attributes", libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0]),
        ("its own limits", libc::SYS_prlimit64, [0, 0, 0, 0, 0]),
        ("another filter", libc::SYS_seccomp, [0, 0, 0, 0, 0]),
        ("a kernel's program", libc::SYS_bpf, [0, 0, 0, 0, 0]),
        ("performance counters", libc::SYS_perf_event_open, [0, 0, 0, 0, 0]),
        ("another's shared memory", libc::SYS_shmget, [0x1234, 4096, 0o600, 0, 0]),
        ("shared memory to execute", libc::SYS_shmat, [0, 0, libc::SHM_EXEC as u64, 0, 0]),
        ("what shared memory there is", libc::SYS_shmctl, [0, libc::IPC_STAT as u64, 0, 0, 0]),
        ("memory to execute", libc::SYS_mmap, [0, 4096, executable, anonymous, u64::MAX]),
        ("memory to execute", libc::SYS_mprotect, [0, 4096, libc::PROT_EXEC as u64, 0, 0]),
        ("input for the terminal", libc::SYS_ioctl, [0, libc::TIOCSTI, path(), 0, 0]),
        ("the terminal's size", libc::SYS_ioctl, [2, libc::TIOCGWINSZ, 0, 0, 0]),
        ("KVM_CREATE_DEVICE", libc::SYS_ioctl, [0, 0xc00c_aee0, 0, 0, 0]),
        ("KVM_CREATE_IRQCHIP", libc::SYS_ioctl, [0, 0xae60, 0, 0, 0]),
        ("a call of the ABI x32", 0x4000_0000 | libc::SYS_getpid, [0; 5]),
    ]
}

alone! {
    fn a_forbidden_call_ends_the_child_and_is_named() {
        for (what, number, arguments) in forbidden() {
            let (status, words) = failed(run(|_| {
                confine(&CHILD)?;
                Ok(call(number, arguments))
            }));
            assert_eq!(status, Status::Internal, "{what}");
            let refused = format!("the sandbox refused {}", calls::in_words(number, arguments[1]));
            assert!(words.contains(&refused) && words.contains("--no-sandbox"), "{what}: {words}");
        }
    }

    /// The same in a process of a campaign, which has no pipe to tell it through.
    #[cfg(feature = "fuzz")]
    fn a_forbidden_call_ends_a_process_of_a_campaign_and_is_said() {
        for (what, number, arguments) in forbidden() {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            let (mut child, _pipe) = start(Some(&theirs.into()), |_| {
                // SAFETY: both are the child's own.
                assert!(unsafe { libc::dup2(BESIDE, libc::STDERR_FILENO) } >= 0);
                confine(&CLIENT)?;
                Ok(call(number, arguments))
            })
            .unwrap_or_else(|failure| panic!("{}", failure.in_words().1));
            let said = io::read_to_string(ours).unwrap();
            assert_eq!(said, format!("the sandbox refused system call {number}, second argument {:#x}\n", arguments[1]));
            assert_eq!(child.wait().unwrap().code(), Some(crate::fuzz::CLIENT_FAILED), "{what}");
        }
    }

    #[cfg(feature = "fuzz")]
    fn a_process_of_a_campaign_may_share_memory_and_a_guests_child_may_not() {
        let share = || {
            let segment = call(libc::SYS_shmget, [libc::IPC_PRIVATE as u64, 4096, 0o600, 0, 0]);
            let id = segment as u64;
            let at = call(libc::SYS_shmat, [id, 0, 0, 0, 0]);
            let marked = call(libc::SYS_shmctl, [id, libc::IPC_RMID as u64, 0, 0, 0]);
            [segment, at, marked, call(libc::SYS_shmdt, [at as u64, 0, 0, 0, 0])].map(|answer| answer >= 0)
        };
        assert_eq!(run(|_| confine(&CLIENT).map(|()| share())).ok(), Some([true; 4]));
        let (_, words) = failed(run(|_| confine(&CHILD).map(|()| share())));
        assert!(words.contains(&calls::in_words(libc::SYS_shmget, 4096)), "{words}");
    }

    /// The negative control: the same calls in a child that is not confined.
    fn without_the_sandbox_the_same_calls_are_carried_out() {
        let tried = ["open a file", "a socket", "another number for a file", "a file in memory", "memory to execute"];
        for (what, number, arguments) in forbidden().into_iter().filter(|row| tried.contains(&row.0)) {
            // These two are given null, where there is nothing.
            let is_fault = [libc::SYS_mprotect, libc::SYS_socketpair].contains(&number);
            let answer = run(|_| Ok(call(number, arguments))).unwrap_or_else(|failure| panic!("{}", failure.in_words().1));
            assert!(answer >= 0 || is_fault, "{what}: {answer}");
        }
    }

    fn what_a_run_needs_is_allowed() {
        let pid = run(|_| {
            confine(&CHILD)?;
            // The heap grows by both of the allocator's ways, and shrinks again.
            let blocks: Vec<Vec<u8>> = (0..64).map(|index| vec![1; 4096 << (index % 12)]).collect();
            let bytes: usize = blocks.iter().map(Vec::len).sum();
            Ok((std::process::id(), bytes, std::collections::HashMap::from([(1, 2)])))
        });
        assert!(pid.is_ok());
    }

    fn progress_arrives_in_order_and_before_the_result() {
        let heard = std::cell::RefCell::new(Vec::new());
        let all = 10_000;
        let result = in_child(
            |teller| {
                confine(&CHILD)?;
                (0..all).for_each(|done| teller.tell(&Message::<u64>::Progress(Progress::Sweeping { done, all })));
                Ok(all)
            },
            &|progress: Progress| heard.borrow_mut().push(progress),
        );
        assert_eq!(result.ok(), Some(all));
        assert_eq!(heard.take(), (0..all).map(|done| Progress::Sweeping { done, all }).collect::<Vec<_>>());
    }

    /// Without its own word that it is done there is no result, however it ends.
    fn a_child_that_ends_early_is_told() {
        type Body = fn(Teller) -> Result<(), Failure>;
        let ends: [(&str, Body); 8] = [
            ("exit status: 0", |_| child::exit(Status::Clean)),
            ("signal: 9 (SIGKILL)", |_| end_by(libc::SIGKILL)),
            ("signal: 11 (SIGSEGV)", |_| end_by(libc::SIGSEGV)),
            ("signal: 6 (SIGABRT)", |_| confine(&CHILD).map(|()| std::process::abort())),
            // More than its address space.
            ("signal: 6 (SIGABRT)", |_| confine(&CHILD).map(|()| drop(vec![1_u8; 9 << 30]))),
            ("a panic's own words", |_| confine(&CHILD).map(|()| panic!("a panic's own words"))),
            ("sent what is no message", |_| confine(&CHILD).map(|()| say(b"{\"Done\":\n"))),
            ("ended before it had a result", |_| confine(&CHILD).map(|()| say(b""))),
        ];
        for (how, body) in ends {
            let (status, words) = failed(run(body));
            assert_eq!(status, Status::Internal, "{how}");
            assert!(words.contains(how), "{how}: {words}");
        }
    }

    fn an_error_of_the_run_keeps_its_status_and_words() {
        let unable = || EngineError::Unable { what: "this".into(), why: "it is a test".into() };
        let direct = Failure::from(unable()).in_words();
        assert_eq!(failed(run::<()>(|_| Err(unable().into()))), direct);
        assert_eq!(direct.0, Status::Unable);
    }

    fn a_kernel_without_seccomp_gives_an_error_and_no_run() {
        let (status, words) = failed(run(|_| {
            without(libc::SYS_seccomp);
            confine(&CHILD)
        }));
        assert_eq!(status, Status::Unable);
        assert!(words.contains("seccomp filter: ") && words.contains("--no-sandbox"), "{words}");
    }

    /// The filter is the wall; see `parts`.
    fn a_kernel_without_landlock_confines_by_the_rest() {
        let rest = run(|_| {
            without(libc::SYS_landlock_create_ruleset);
            confine(&CHILD)?;
            Ok(call(libc::SYS_getpid, [0; 5]))
        });
        assert!(rest.is_ok());
        let tried = run(|_| {
            without(libc::SYS_landlock_create_ruleset);
            Ok(try_all())
        });
        let absent: Vec<_> = tried.ok().unwrap().iter().map(Result::is_err).collect();
        assert_eq!(absent, [false, false, true, false]);
    }

    /// By itself: where the filter is, nothing gets as far.
    fn landlock_closes_files_and_sockets() {
        let tried = run(|_| {
            let applied: Vec<_> = parts(&["no_new_privs", "landlock"]).map(|part| part.apply(&CHILD)).collect();
            let opened = call(libc::SYS_openat, [HERE, path(), 0, 0, 0]);
            let killed = call(libc::SYS_kill, [std::os::unix::process::parent_id().into(), 0, 0, 0, 0]);
            Ok((applied, opened, killed))
        });
        let (applied, opened, killed) = tried.ok().unwrap();
        match &applied[1] {
            Ok(words) => {
                assert_eq!(opened, -i64::from(libc::EACCES));
                // Signals are of ABI 6.
                let is_scoped = words.contains("no signals to others");
                assert_eq!(killed, if is_scoped { -i64::from(libc::EPERM) } else { 0 }, "{words}");
            }
            Err(why) => println!("not tried: landlock: {why}"),
        }
    }

    fn limits_hold() {
        let file = std::env::temp_dir().join(format!("efibed-{}-limits", std::process::id()));
        let written = run(|_| {
            let mut file = File::create(&file).unwrap();
            parts(&["resource limits"]).for_each(|part| drop(part.apply(&CHILD).unwrap()));
            let written = file.write_all(b"x").map_err(|error| error.raw_os_error());
            let reserved = Vec::<u8>::new().try_reserve_exact(9 << 30).is_ok();
            // A limit that is lower than ours already is no error.
            parts(&["resource limits"]).for_each(|part| drop(part.apply(&CHILD).unwrap()));
            Ok((written, reserved, (0..128).filter(|_| call(libc::SYS_dup, [2, 0, 0, 0, 0]) >= 0).count()))
        });
        let _ = fs::remove_file(&file);
        let (written, reserved, opened) = written.ok().unwrap();
        assert_eq!((written, reserved), (Err(Some(libc::EFBIG)), false));
        assert!(opened < 64, "{opened}");
    }

    /// What the parent has open is its own: the outputs above all.
    fn a_child_has_no_file_of_its_parents() {
        let _open = [File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap()];
        let open = run(|_| Ok((0..64).filter(|file| call(libc::SYS_fcntl, [*file, 1, 0, 0, 0]) >= 0).collect::<Vec<_>>()));
        assert_eq!(open.ok().unwrap(), [0, 1, 2, PIPE as u64]);
    }

    /// A bed keeps a file open for the process. What a child closed is not its to close again: the number may be another's.
    fn a_child_closes_nothing_of_its_parents_twice() {
        let Ok(bed) = TestBed::new() else { return println!("not tried: no /dev/kvm") };
        drop(bed);
        let child = run(|_| {
            let bed = TestBed::new()?;
            parts::confine(&parts::CHILD)?;
            Ok(bed.run(&crate::Scenario::new(crate::MemoryMap::from_descriptors("", Vec::new()))).is_ok())
        });
        assert_eq!(child.map_err(|failure| failure.in_words()), Ok(true));
    }

    fn a_process_of_several_threads_makes_no_child() {
        let other = std::thread::spawn(std::thread::park);
        let (status, words) = failed(run(|_| Ok(())));
        other.thread().unpark();
        assert_eq!(status, Status::Internal);
        assert!(words.contains("several threads"), "{words}");
    }

    /// Which of ten things each came to, by two children at a time.
    fn of_a_child_that_dies_the_rest_is_done_by_another() {
        let work = |_: &TestBed, index: usize| match index {
            3 => {
                // SAFETY: the default action ends the process.
                unsafe { libc::raise(libc::SIGKILL) };
                index
            }
            4 => std::process::abort(),
            // Refused, which ends the child too.
            7 => call(libc::SYS_getppid, [0; 5]) as usize,
            _ => index * index,
        };
        let told = std::sync::Mutex::new(vec![Vec::new(); 10]);
        let tell = |index: usize, result: Result<usize, Failure>| {
            told.lock().unwrap()[index].push(result.map_err(|failure| failure.in_words().0));
        };
        let sandbox = Sandbox { no_sandbox: false };
        if let Err(failure) = sandbox.run_each(EngineName::Kvm, 10, 2, &work, &tell) {
            let (status, words) = failure.in_words();
            // The negative control of the command: without KVM none is done, and that is told.
            assert!(status == Status::Unable && words.contains("/dev/kvm"), "{words}");
            return println!("not tried: {words}");
        }
        for (index, told) in told.into_inner().unwrap().into_iter().enumerate() {
            let fails = [3, 4, 7].contains(&index);
            assert_eq!(told, [if fails { Err(Status::Internal) } else { Ok(index * index) }], "{index}");
        }
    }

    /// No child is left over, whether it ended by itself or not.
    fn every_child_is_waited_for() {
        assert!(run(|_| Ok(())).is_ok());
        failed(run(|_| confine(&CHILD).map(|()| say(b"?\n"))));
        // SAFETY: no status is asked for.
        assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) }, -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ECHILD));
    }
}

fn end_by(signal: i32) -> Result<(), Failure> {
    // SAFETY: the default action ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    Ok(())
}

/// Says something that no message of ours is. Nothing at all: hangs up. It stays alive for longer than the test takes, but
/// not for ever: if the parent fails to end it, that is a failed test and no more.
fn say(bytes: &[u8]) {
    // SAFETY: in a child the descriptor is the pipe's. It is closed here, and not used again.
    let mut pipe = unsafe { File::from_raw_fd(PIPE) };
    let _ = pipe.write_all(bytes);
    drop(pipe);
    let start = std::time::Instant::now();
    while start.elapsed() < std::time::Duration::from_secs(10) {
        std::hint::spin_loop();
    }
}

/// A kernel that does not know this call.
fn without(number: i64) {
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = BTreeMap::from([(number, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, TargetArch::x86_64).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// The parts of these names.
fn parts(names: &'static [&str]) -> impl Iterator<Item = &'static Part> {
    PARTS.iter().filter(|part| names.contains(&part.name))
}
