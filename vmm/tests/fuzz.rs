//! The command `efibed fuzz`: what it finds, keeps and leaves, and that nothing outlives it.
//!
//! On the walker engine, so that it needs no KVM.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// That of this build, or another one, as of a release.
fn efibed(arguments: &[&str]) -> Command {
    let program = std::env::var_os("EFIBED_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_efibed").into());
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// A campaign on the walker engine, in one process unless the arguments say otherwise, with JSON on standard output.
fn campaign(out: &Path, arguments: &[&str]) -> Command {
    let mut command = efibed(&["fuzz", "--engine", "walker", "--cores", "1", "--max-pages", "2048", "--quiet"]);
    command.args(["--json", "-", "--out"]).arg(out).args(arguments);
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const BUG_OF_2013: [&str; 4] = ["--layout", "packed-down", "--leaf-rule", "va-only"];
const GUILTY: &str = "reserved-bit.RuntimeServicesData.map.PDE";

#[test]
fn the_bug_of_2013_is_found_kept_replayed_and_not_reported_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let first = campaign(out, &BUG_OF_2013).args(["--runs", "300"]).output().unwrap();
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    let summary = json(&first);
    assert_eq!((&summary["schema"], &summary["runs"], &summary["seed"]), (&1.into(), &300.into(), &2013.into()));
    let found: Vec<&str> = summary["findings"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    assert!(found.contains(&GUILTY), "{found:?}");
    let saved = summary["saved"].as_array().unwrap();
    assert_eq!(saved.len(), found.len());
    // Each file is a whole scenario, and has the finding again.
    for path in saved {
        let path = path.as_str().unwrap();
        let rule = Path::new(path).file_name().unwrap().to_str().unwrap().split('.').next().unwrap();
        let check = efibed(&["check", path, "--engine", "walker"]).output().unwrap();
        assert_eq!(check.status.code(), Some(1), "{check:?}");
        assert!(String::from_utf8(check.stdout).unwrap().contains(rule), "{path}");
        assert!(fs::read_to_string(path).unwrap().contains("found by efibed fuzz"));
    }
    // It goes on from there, and tells nothing twice.
    let corpus = names(&out.join("corpus")).len();
    assert!(corpus > 10, "{corpus}");
    let second = json(&campaign(out, &BUG_OF_2013).args(["--runs", "400", "--seed", "7"]).output().unwrap());
    let again: Vec<&Value> = second["findings"].as_array().unwrap().iter().collect();
    assert!(again.iter().all(|key| !found.contains(&key.as_str().unwrap())), "{again:?}");
    assert!(second["corpus"].as_u64().unwrap() > 10);
}

/// What is told to be tried keeps that finding, and not what is wrong with the map.
#[test]
fn what_a_layout_does_not_show_is_shrunk_as_the_summary_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let rest = ["--engine", "walker", "--cores", "1", "--max-pages", "2048", "--runs", "100", "--quiet", "--out", out];
    let like = ["--like", "packed-down"];
    let said = efibed(&[&["fuzz"], &BUG_OF_2013[..], &rest, &like].concat()).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("few findings count there, and what packed-down does not show\n"), "{text}");
    let shrink = text.lines().find_map(|line| line.trim().strip_prefix("efibed shrink ")).unwrap();
    let words: Vec<_> = ["shrink"].into_iter().chain(shrink.split(' ')).chain(["--quiet"]).collect();
    assert_eq!(words[2..4], like);
    let small = efibed(&words).output().unwrap();
    assert!(small.status.success(), "{small:?}");
    let key = Path::new(words[1]).file_stem().unwrap().to_str().unwrap();
    assert!(String::from_utf8(small.stderr).unwrap().contains(key.split('.').next().unwrap()), "{key}");
}

#[test]
fn right_layouts_have_no_findings() {
    for layout in ["linux", "linux-fixed", "window", "packed-down", "packed-up"] {
        let folder = tempfile::tempdir().unwrap();
        let output = campaign(folder.path(), &["--layout", layout, "--runs", "1000"]).output().unwrap();
        let summary = json(&output);
        assert_eq!((output.status.code(), &summary["findings"]), (Some(0), &Value::Array(vec![])), "{layout}");
        let [runs, outside] = ["runs", "outside"].map(|key| summary[key].as_u64().unwrap());
        assert!(runs == 1000 && outside < 900, "{layout}: {outside} of {runs} maps outside its domain");
    }
}

#[test]
fn a_campaign_of_one_process_can_be_repeated() {
    let [first, second, other] = [1, 1, 2].map(|seed| {
        let folder = tempfile::tempdir().unwrap();
        let seed = seed.to_string();
        campaign(folder.path(), &BUG_OF_2013).args(["--runs", "200", "--seed", &seed]).output().unwrap();
        names(&folder.path().join("corpus"))
    });
    assert_eq!(first, second);
    assert_ne!(first, other);
}

/// Counters are there, and maps reach more of them.
#[test]
fn what_the_layouts_run_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let covered = |runs: &str| {
        let out = folder.path().join(runs);
        json(&campaign(&out, &["--layout", "window", "--runs", runs]).output().unwrap())["covered"].as_u64().unwrap()
    };
    let [one, many] = ["1", "1000"].map(covered);
    assert!(0 < one && one + 10 < many, "{one} {many}");
}

#[test]
fn two_processes_share_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = efibed(&["fuzz", "--engine", "walker", "--cores", "2", "--runs", "301", "--json", "-", "--out"]);
    let output = command.arg(folder.path()).args(["--max-pages", "2048", "--layout", "window"]).output().unwrap();
    assert_eq!(json(&output)["runs"], 301, "{output:?}");
}

/// A campaign that begins with a map of one region at this address, on a broker.
fn joined(out: &Path, phys: &str, broker: [&str; 2]) -> Child {
    let map = out.with_extension("toml");
    let region = "type = 'RuntimeServicesData'\npages = 3\nattribute = 'RUNTIME|WB'";
    fs::write(&map, format!("[[descriptor]]\nphys = {phys}\n{region}\n")).unwrap();
    let mut command = campaign(out, &["--layout", "window", "--for", "2m"]);
    command.arg(&map).args(broker).stdout(Stdio::piped()).spawn().unwrap()
}

fn has_map(out: &Path, phys: &str) -> bool {
    let corpus = out.join("corpus");
    let texts = names_or_none(&corpus).into_iter().filter_map(|name| fs::read_to_string(corpus.join(name)).ok());
    texts.filter(|text| text.matches("[[descriptor]]").count() == 1).any(|text| text.contains(phys))
}

#[test]
fn two_campaigns_exchange_maps_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut children = vec![joined(&first, "0x1234000", ["--listen", &port])];
    wait_until("the first has no map", || has_map(&first, "0x1234000"));
    children.push(joined(&second, "0x5678000", ["--broker", &format!("127.0.0.1:{port}")]));
    let started = Instant::now();
    wait_until("what the first had did not come to the second", || has_map(&second, "0x1234000"));
    wait_until("what the second had did not come to the first", || has_map(&first, "0x5678000"));
    println!("both ways in {:?}", started.elapsed());
    for child in children {
        // SAFETY: a signal to a child that was not waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    }
}

/// Processes whose environment says that they are clients of this folder's campaign.
fn clients(out: &Path) -> Vec<u32> {
    let is_client = |pid: &u32| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        has(&read("environ"), b"EFIBED_FUZZ_CLIENT=") && has(&read("cmdline"), out.to_str().unwrap().as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_client).collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn endless(out: &Path) -> Child {
    // If the test fails, it still ends.
    let mut command = campaign(out, &["--layout", "window", "--for", "2m"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("no client ran", || !names_or_none(&out.join("corpus")).is_empty());
    child
}

fn names_or_none(folder: &Path) -> Vec<String> {
    if folder.is_dir() { names(folder) } else { Vec::new() }
}

#[test]
fn a_signal_ends_it_with_its_summary() {
    let folder = tempfile::tempdir().unwrap();
    let child = endless(folder.path());
    // SAFETY: a signal to a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(json(&output)["runs"].as_u64().unwrap() > 0);
    wait_until("a client outlived it", || clients(folder.path()).is_empty());
}

/// As a service manager does that stops a service, and `pkill`.
#[test]
fn a_signal_to_all_of_its_processes_ends_it_without_a_finding() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let folder = tempfile::tempdir().unwrap();
        let child = endless(folder.path());
        // Between two maps there is none to be blamed.
        for _ in 0..50 {
            for client in clients(folder.path()) {
                // SAFETY: a signal to a process that this test started.
                unsafe { libc::kill(client as i32, signal) };
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        // SAFETY: a signal to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let output = child.wait_with_output().unwrap();
        let summary = json(&output);
        assert_eq!((output.status.code(), &summary["died"]), (Some(0), &0.into()), "{summary}");
        assert!(names_or_none(&folder.path().join("findings")).is_empty());
    }
}

#[test]
fn a_killed_supervisor_takes_its_clients_along_and_leaves_whole_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = endless(folder.path());
    assert_eq!(clients(folder.path()).len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("a client outlived it", || clients(folder.path()).is_empty());
    let corpus = folder.path().join("corpus");
    let maps = names(&corpus).into_iter().filter(|name| name.ends_with(".toml"));
    for name in maps {
        efibed::MemoryMap::read(&corpus.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn the_map_that_a_killed_client_ran_is_a_finding_and_another_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let child = endless(folder.path());
    let finding = folder.path().join("findings/ended-by-signal-9.toml");
    // Before the first map and between two there is none to be blamed: then the next client is killed, a little later.
    let mut patience = Duration::ZERO;
    wait_until("no client died in a run", || {
        for client in clients(folder.path()) {
            // SAFETY: a signal to a process that this test started.
            unsafe { libc::kill(client as i32, libc::SIGKILL) };
        }
        patience += Duration::from_millis(10);
        std::thread::sleep(patience);
        finding.exists()
    });
    wait_until("no other client came", || !clients(folder.path()).is_empty());
    // SAFETY: a signal to a child that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    let summary = json(&output);
    assert_eq!((output.status.code(), summary["findings"].to_string()), (Some(1), r#"["ended-by-signal-9"]"#.into()));
    assert!(summary["died"].as_u64().unwrap() > 0);
    assert!(fs::read_to_string(finding).unwrap().contains("[[descriptor]]"));
}

#[test]
fn what_is_wrong_with_the_folder_is_told_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = campaign(&file, &["--runs", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot make the folder") && said.contains("file/findings"), "{said}");

    let corpus = folder.path().join("out/corpus");
    fs::create_dir_all(&corpus).unwrap();
    fs::write(corpus.join("bad.toml"), "[[descriptor]]\ntype = 'RuntimeServicesData'\nphys = 0x\n").unwrap();
    let output = campaign(&folder.path().join("out"), &["--runs", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("bad.toml:3:"), "{said}");
}
