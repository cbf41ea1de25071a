//! The sandbox as its users meet it: the same results inside as outside, and no run that is lost or left behind silently.

mod said;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Arguments;

use said::{Directory, Said, efibed, kvm, repository};

const UNABLE: i32 = 3;
const INTERNAL: i32 = 4;

fn main() {
    let maps = maps().into_iter().map(|map| {
        let name = map.file_name().unwrap().to_string_lossy();
        let name = format!("{}_is_the_same_inside", name.replace(['.', '-'], "_"));
        kvm(&name, move || the_same_inside(&map))
    });
    let others = [
        kvm("two_kernels_are_the_same_inside", two_kernels_are_the_same_inside),
        kvm("a_map_shrinks_to_the_same_inside", a_map_shrinks_to_the_same_inside),
        kvm("what_firmware_does_is_the_same_inside", what_firmware_does_is_the_same_inside),
        kvm("the_guest_runs_in_a_confined_child", the_guest_runs_in_a_confined_child),
        kvm("without_the_sandbox_there_is_no_child", without_the_sandbox_there_is_no_child),
        kvm("the_end_of_the_command_is_the_end_of_its_child", the_end_of_the_command_is_the_end_of_its_child),
        kvm("a_child_that_is_killed_is_told", a_child_that_is_killed_is_told),
        kvm("a_run_in_little_memory_is_told", a_run_in_little_memory_is_told),
        kvm("a_campaigns_page_is_drawn_in_a_confined_child", a_campaigns_page_is_drawn_in_a_confined_child),
        kvm("a_campaign_outlives_the_child_that_draws_its_page", a_campaign_outlives_the_child_that_draws_its_page),
        kvm("the_processes_of_a_campaign_are_confined", the_processes_of_a_campaign_are_confined),
        kvm(
            "the_map_of_a_confined_process_that_dies_is_kept_as_it_is",
            the_map_of_a_confined_process_that_dies_is_kept_as_it_is,
        ),
        kvm("doctor_tells_of_the_sandbox", doctor_tells_of_the_sandbox),
    ];
    libtest_mimic::run(&Arguments::from_args(), maps.chain(others).collect()).exit();
}

fn maps() -> Vec<PathBuf> {
    let files = fs::read_dir(repository("maps")).unwrap().map(|entry| entry.unwrap().path());
    let is_map = |path: &PathBuf| path.is_file() && !path.ends_with("README.md");
    let mut maps: Vec<_> = files.filter(is_map).collect();
    maps.sort();
    assert!(maps.len() > 20, "{maps:?}");
    maps
}

const LAYOUTS: [&str; 5] = ["linux", "linux-fixed", "window", "packed-down", "packed-up"];

/// Pages to sweep: all of most maps. A longer sweep makes no other calls.
const SWEEP: &str = "65536";

fn the_same_inside(map: &Path) {
    for layout in LAYOUTS {
        same(&["check", &map.to_string_lossy(), "--layout", layout, "--sweep-limit", SWEEP]);
    }
}

fn two_kernels_are_the_same_inside() {
    let map = repository("maps/ovmf-2013.toml");
    for layout in LAYOUTS {
        let said = same(&["kexec", &map, &map, "--layout", layout]);
        assert!(said.out.contains("== the second kernel"), "{said}");
    }
}

fn a_map_shrinks_to_the_same_inside() {
    let map = repository("maps/ovmf-2013.toml");
    let said = same(&["shrink", &map, "--engine", "kvm", "--layout", "packed-down", "--leaf-rule", "va-only"]);
    assert!(said.out.contains("[[descriptor]]"), "{said}");
}

/// Faults, hangs and resets take other ways out of the guest.
fn what_firmware_does_is_the_same_inside() {
    let map = repository("maps/ovmf-2013.toml");
    for firmware in ["faults", "jumps-wild", "executes-data", "writes-page-zero", "errors", "seam"] {
        same(&["check", &map, "--firmware", firmware]);
    }
    same(&["check", &map, "--kernel", "interrupts"]);
}

/// Runs the command inside and outside: text, errors and status are the same, timings aside.
fn same(arguments: &[&str]) -> Said {
    let said = |more: &[&str]| efibed([arguments, &["--quiet"], more].concat());
    let (inside, outside) = (said(&[]), said(&["--no-sandbox"]));
    assert_eq!((inside.status, &inside.err), (outside.status, &outside.err), "{inside}{outside}");
    let (within, without) = (without_timings(&inside.out), without_timings(&outside.out));
    assert!(within.len() > 100 && within == without, "{inside}{outside}");
    outside
}

/// The words of a report without its times: what comes after the last semicolon of a line with totals, up to its `)`.
fn without_timings(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts = words.split(" (build ");
    let mut rest = parts.next().unwrap_or_default().rsplit_once("; ").map_or("", |(rest, _)| rest).to_owned();
    for part in parts {
        let part = part.split_once(')').map_or("", |(_, part)| part);
        rest += part.rsplit_once("; ").map_or(part, |(part, _)| part);
    }
    rest
}

/// 60 GiB to sweep page by page take long enough to look, and to see that an end was not the run's own.
const LONG_MAP: &[u8] = br#"
[[descriptor]]
type = "RuntimeServicesData"
phys = 0x100000000
pages = 0xf00000
attribute = "RUNTIME|WB"
"#;

fn long_run(more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
    command.args(["check", "-", "--sweep-limit", "100000000", "--quiet"]).args(more);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(LONG_MAP).unwrap();
    run
}

/// Long enough for a slow machine, and shorter than a long run.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a campaign, which lasts ten minutes: its first maps have findings, and each of those is looked into.
const PATIENCE_WITH_CAMPAIGN: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
#[track_caller]
fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ask)
}

#[track_caller]
fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not within {patience:?}: {what}");
}

/// Waits until a campaign has put something into a folder of its own.
#[track_caller]
fn wait_for_a_file(out: &str, folder: &str) {
    let folder = Path::new(out).join(folder);
    within(PATIENCE_WITH_CAMPAIGN, "a file of the campaign", || fs::read_dir(&folder).ok()?.next().map(drop));
}

/// The child of a process, once it is confined.
fn confined_child(parent: u32) -> u32 {
    eventually("a confined child", || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let child = children.split_whitespace().next()?.parse().ok()?;
        (status_of(child, "Seccomp")? == "2").then_some(child)
    })
}

/// A line of /proc/PID/status.
fn status_of(process: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.split(':').next() == Some(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn is_alive(process: u32) -> bool {
    status_of(process, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

fn signal(process: u32, signal: i32) {
    // SAFETY: the process is ours, and was not waited for.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

fn the_guest_runs_in_a_confined_child() {
    let mut run = long_run(&[]);
    let child = confined_child(run.id());
    assert_eq!(status_of(child, "NoNewPrivs").as_deref(), Some("1"));
    let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max core file size        0 ")), "{limits}");
    let open = fs::read_dir(format!("/proc/{child}/fd")).unwrap();
    let open: Vec<_> = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect();
    // The standard three, the pipe, /dev/kvm, the list of its own pages, and a machine with its vCPU.
    assert!(open.len() <= 8 && open.iter().any(|file| file == Path::new("/dev/kvm")), "{open:?}");
    // The command itself is not confined: it has yet to write.
    assert_eq!(status_of(run.id(), "Seccomp").as_deref(), Some("0"));
    run.kill().unwrap();
    run.wait().unwrap();
}

fn without_the_sandbox_there_is_no_child() {
    let mut run = long_run(&["--no-sandbox"]);
    // Once it has a machine, it has all the processes that it will have.
    eventually("a machine", || {
        let open = fs::read_dir(format!("/proc/{}/fd", run.id())).ok()?;
        let mut open = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        open.find(|file| file.to_string_lossy().contains("kvm-vcpu"))
    });
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).unwrap();
    assert_eq!((children.trim(), status_of(run.id(), "Seccomp").as_deref()), ("", Some("0")));
    run.kill().unwrap();
    run.wait().unwrap();
}

fn the_end_of_the_command_is_the_end_of_its_child() {
    for ending in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let mut run = long_run(&[]);
        let child = confined_child(run.id());
        signal(run.id(), ending);
        run.wait().unwrap();
        eventually("the end of the child", || (!is_alive(child)).then_some(()));
    }
}

/// How a long run ends after its child was sent a signal, and what it said.
fn with_child_ended(ending: i32, more: &[&str]) -> (ExitStatus, String, String) {
    let mut run = long_run(more);
    signal(confined_child(run.id()), ending);
    let status = run.wait().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    run.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    run.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (status, out, err)
}

/// Whatever ends it, there is no result, and the command says why.
fn a_child_that_is_killed_is_told() {
    let file = std::env::temp_dir().join(format!("efibed-{}-killed.json", std::process::id()));
    for (ending, name) in [(libc::SIGKILL, "SIGKILL"), (libc::SIGTERM, "SIGTERM"), (libc::SIGXCPU, "SIGXCPU")] {
        let (status, out, err) = with_child_ended(ending, &["--json", file.to_str().unwrap()]);
        assert_eq!(status.code(), Some(INTERNAL), "{name}: {err}");
        assert!(err.contains("ended before it had a result") && err.contains(name), "{name}: {err}");
        assert_eq!(out, "", "{name}");
        assert!(!file.exists(), "{name}");
    }
}

/// Where the user has set a limit that is too low, the run ends with an error, and never with a verdict.
fn a_run_in_little_memory_is_told() {
    let map = repository("maps/hp-01.txt");
    let program = env!("CARGO_BIN_EXE_efibed");
    let limited = format!("ulimit -v 40000; exec {program} check {map} --quiet");
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(UNABLE), "{err}");
    assert!(output.stdout.is_empty() && err.contains("Cannot allocate memory"), "{err}");
}

/// The page of a campaign that is ended by Ctrl-C after its first finding, once something was done to the child that draws it.
fn page_of_campaign(act: impl FnOnce(u32)) -> String {
    let folder = Directory::new();
    let [page, out] = ["page.html", "out"].map(|name| folder.file(name));
    let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
    command.args(["fuzz", "--html", &page, "--out", &out, "--cores", "1", "--for", "10m", "--quiet"]);
    command.args(["--layout", "packed-down", "--leaf-rule", "va-only"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let run = command.spawn().unwrap();
    let child = confined_child(run.id());
    wait_for_a_file(&out, "findings");
    act(child);
    signal(run.id(), libc::SIGINT);
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("found "), "{output:?}");
    fs::read_to_string(page).unwrap()
}

fn a_campaigns_page_is_drawn_in_a_confined_child() {
    // A terminal sends it to both.
    let page = page_of_campaign(|child| signal(child, libc::SIGINT));
    assert!(page.contains("packed-down") && !page.contains("Not drawn"), "{page}");
}

fn a_campaign_outlives_the_child_that_draws_its_page() {
    let page = page_of_campaign(|child| signal(child, libc::SIGKILL));
    assert!(page.contains("Not drawn") && page.contains("ended before it had a result"), "{page}");
}

/// Those of a program, and of a layout; not those that run no guest, nor where it is not wanted.
fn the_processes_of_a_campaign_are_confined() {
    let folder = Directory::new();
    let elf = folder.file("mapper.elf");
    efibed(["build", &repository("programs/two_bugs.c"), "-o", &elf]).ends(0);
    let mapper = ["--mapper", elf.as_str()];
    let [window, native, outside] =
        [&[][..], &["--engine", "walker"], &["--no-sandbox"]].map(|more| [&["--layout", "window"], more].concat());
    for (number, (arguments, is_confined)) in
        [(&mapper[..], true), (&window, true), (&native, false), (&outside, false)].into_iter().enumerate()
    {
        let out = folder.file(&number.to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
        command.args(["fuzz", "--out", &out, "--cores", "1", "--for", "10m", "--quiet"]).args(arguments);
        let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        // Its process runs maps by then.
        wait_for_a_file(&out, "corpus");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).unwrap();
        let child = children.trim().parse().unwrap();
        let [seccomp, privileges] = ["Seccomp", "NoNewPrivs"].map(|name| status_of(child, name).unwrap());
        let expected = if is_confined { ("2", "1") } else { ("0", "0") };
        assert_eq!((seccomp.as_str(), privileges.as_str()), expected, "{arguments:?}");
        assert_eq!(status_of(run.id(), "Seccomp").as_deref(), Some("0"));
        signal(run.id(), libc::SIGINT);
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(" maps in ") && !said.contains(" died"), "{arguments:?}: {said}");
    }
}

/// Its map is told, and not run where nothing is confined.
fn the_map_of_a_confined_process_that_dies_is_kept_as_it_is() {
    let folder = Directory::new();
    let [elf, out] = ["mapper.elf", "out"].map(|name| folder.file(name));
    efibed(["build", &repository("programs/two_bugs.c"), "-o", &elf]).ends(0);
    let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
    command.args(["fuzz", "--mapper", &elf, "--out", &out, "--cores", "1", "--for", "10m", "--quiet"]);
    let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_a_file(&out, "corpus");
    let file = format!("{out}/findings/ended-by-signal-9.toml");
    within(PATIENCE_WITH_CAMPAIGN, "a process that died with its map", || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).ok()?;
        let child = children.trim().parse().ok()?;
        // SAFETY: the child of this test's own run. It may be gone, and another on its way.
        unsafe { libc::kill(child, libc::SIGKILL) };
        fs::exists(&file).ok()?.then_some(())
    });
    signal(run.id(), libc::SIGINT);
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(1));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("It was not run again") && text.contains("mapper.elf\""), "{text}");
    let report = efibed(["check", &file, "--json", "-"]).json();
    assert!(report["mapper"]["elf"].as_str().unwrap().ends_with("mapper.elf"), "{report}");
}

fn doctor_tells_of_the_sandbox() {
    let parts = ["no_new_privs", "resource limits", "landlock", "seccomp filter"];
    efibed(["doctor"]).ends(0).says(&["The sandbox of `check` and `kexec`:"]).says(&parts);
    let document = efibed(["doctor", "--json", "-"]).ends(0).json();
    let told = document["sandbox"].as_array().unwrap();
    assert_eq!(told.iter().map(|part| part["part"].as_str().unwrap()).collect::<Vec<_>>(), parts);
    // This test needs runs in the sandbox, so all that they need is here.
    for part in told.iter().filter(|part| part["part"] != "landlock") {
        assert_eq!(part["has"], true, "{part}");
    }
    let readme = fs::read_to_string(repository("../README.md")).unwrap();
    let readme = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    let filter = told.iter().find(|part| part["part"] == "seccomp filter").unwrap();
    assert!(readme.contains(filter["seen"].as_str().unwrap()), "{filter}");
}
