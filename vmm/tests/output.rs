//! Where results go: files that appear whole or not at all, streams that are full or closed, and terminals that no input
//! drives.
//!
//! `EFIBED_KILLS` (40 by default) says how often a command is killed while it writes.

mod said;

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use said::{Said, efibed, repository};
use tempfile::TempDir;

const CLEAN: i32 = 0;
const BAD_INPUT: i32 = 2;

const OLD: &str = "what was there before\n";

/// A folder of its own, and a path in it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn map() -> PathBuf {
    repository("maps/ovmf-2013.toml").into()
}

/// A check whose JSON goes there.
fn check(json: &Path) -> Said {
    let (map, json) = (map(), json.to_owned());
    let arguments = ["check".as_ref(), map.as_os_str(), "--engine".as_ref(), "walker".as_ref(), "--json".as_ref()];
    efibed(arguments.into_iter().chain([json.as_os_str()]))
}

fn is_report(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value["verdict"] == "clean")
}

#[track_caller]
fn assert_report(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    assert!(is_report(&text), "{text}");
}

#[test]
fn a_new_file_has_the_usual_mode_and_nothing_else_is_left() {
    let folder = Folder::new();
    let path = folder.path("new.json");
    check(&path).ends(CLEAN).says(&["clean"]);
    assert_report(&path);
    assert_eq!(folder.names(), ["new.json"]);
    let usual = folder.file("usual", "");
    assert_eq!(fs::metadata(&path).unwrap().mode(), fs::metadata(&usual).unwrap().mode());
}

#[test]
fn a_replaced_file_keeps_its_mode() {
    let folder = Folder::new();
    for mode in [0o600, 0o644, 0o660, 0o755] {
        let path = folder.file("old.json", OLD);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        check(&path).ends(CLEAN);
        assert_report(&path);
        let now = fs::metadata(&path).unwrap();
        assert_eq!(now.mode() & 0o7777, mode);
        assert_ne!(now.ino(), before, "it is another file, which was whole before it had the name");
    }
}

#[test]
fn a_symbolic_link_is_followed_and_one_to_nothing_is_refused() {
    let folder = Folder::new();
    let target = folder.file("target", OLD);
    let link = folder.path("link");
    symlink(&target, &link).unwrap();
    check(&link).ends(CLEAN);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_report(&target);

    let dangling = folder.path("dangling");
    symlink(folder.path("nothing"), &dangling).unwrap();
    check(&dangling).ends(BAD_INPUT).complains(&["is a symbolic link to nothing"]);
    assert_eq!(folder.names(), ["dangling", "link", "target"]);
}

#[test]
fn a_file_of_two_names_is_written_in_place() {
    let folder = Folder::new();
    let (one, other) = (folder.file("one", &OLD.repeat(10_000)), folder.path("other"));
    fs::hard_link(&one, &other).unwrap();
    check(&one).ends(CLEAN);
    assert_report(&other);
    assert_eq!(fs::metadata(&one).unwrap().nlink(), 2);
}

#[test]
fn a_fifo_is_written_to() {
    let folder = Folder::new();
    let fifo = folder.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let read = fifo.clone();
    let reader = std::thread::spawn(move || fs::read_to_string(read).unwrap());
    check(&fifo).ends(CLEAN);
    assert!(is_report(&reader.join().unwrap()));
}

/// The same by somebody who may not make files in the folder. As root that is somebody else.
#[test]
fn a_file_in_a_folder_that_takes_no_new_file_is_written_in_place() {
    let folder = Folder::new();
    let path = folder.file("old.json", &OLD.repeat(10_000));
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(folder.0.path(), Permissions::from_mode(0o555)).unwrap();
    let command = folder_for_all().join("efibed");
    let mut command = Command::new(command);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    let text = fs::read_to_string(map()).unwrap();
    let map = folder_for_all().join("map.toml");
    fs::write(&map, text).unwrap();
    let json = path.as_os_str();
    command.args(["check".as_ref(), map.as_os_str(), "--engine".as_ref(), "walker".as_ref(), "--json".as_ref(), json]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(CLEAN), "{}", String::from_utf8_lossy(&output.stderr));
    assert_report(&path);
    // The negative control: a new file cannot be made there.
    let refused = command.arg("--junit").arg(folder.path("new.xml")).output().unwrap();
    assert_eq!(refused.status.code(), Some(BAD_INPUT));
    fs::set_permissions(folder.0.path(), Permissions::from_mode(0o755)).unwrap();
}

/// A folder that everybody may look into, with the command in it: the build's own may be root's alone.
fn folder_for_all() -> PathBuf {
    static FOLDER: std::sync::OnceLock<TempDir> = std::sync::OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_efibed"), folder.path().join("efibed")).unwrap();
        folder
    });
    folder.path().to_owned()
}

#[test]
fn what_cannot_be_written_is_refused_before_the_run() {
    let folder = Folder::new();
    check(folder.0.path()).ends(BAD_INPUT).complains(&["is a folder"]);
    check(&folder.path("no/such/folder.json")).ends(BAD_INPUT).complains(&["No such file or directory"]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let folder = Folder::new();
    let text = fs::read_to_string(map()).unwrap();
    let input = folder.file("map.toml", &text);
    let (link, other) = (folder.path("link"), folder.path("other"));
    symlink(&input, &link).unwrap();
    fs::hard_link(&input, &other).unwrap();
    let arguments = |command: &'static [&str], output: &Path| {
        let words = command.iter().map(|word| match *word {
            "MAP" => input.clone().into_os_string(),
            "OUTPUT" => output.as_os_str().to_owned(),
            word => word.into(),
        });
        words.collect::<Vec<_>>()
    };
    for output in [&input, &link, &other] {
        for command in [
            &["convert", "MAP", "--to", "json", "-o", "OUTPUT"] as &[&str],
            &["check", "MAP", "--engine", "walker", "--json", "OUTPUT"],
            &["check", "MAP", "--engine", "walker", "--junit", "OUTPUT"],
            &["show", "MAP", "--json", "OUTPUT"],
            &["kexec", "/dev/null", "MAP", "--engine", "walker", "--json", "OUTPUT"],
        ] {
            let said = efibed(arguments(command, output)).ends(BAD_INPUT);
            assert!(command[0] == "kexec" || said.err.contains("is one of the inputs"), "{said}");
            assert_eq!(fs::read_to_string(&input).unwrap(), text);
        }
    }
}

/// Standard streams that take nothing: no panic, whichever command writes which.
#[test]
fn full_and_closed_streams_are_no_reason_to_panic() {
    let map = map().into_os_string().into_string().unwrap();
    let commands = [
        format!("check {map} --engine walker"),
        format!("check {map} --engine walker --json -"),
        format!("check {map} --engine walker --leaf-rule va-only --layout packed-down"),
        format!("show {map}"),
        format!("convert {map} --to json"),
        "explain reserved-bit".into(),
        "schema".into(),
        "check no-such-file".into(),
        "--help".into(),
        "no-such-command".into(),
    ];
    for command in commands {
        for streams in
            [">/dev/full", ">&-", "2>/dev/full", "2>&-", ">/dev/full 2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"]
        {
            let line = format!("exec \"$0\" {command} {streams}");
            let status = Command::new("sh").arg("-c").arg(&line).arg(env!("CARGO_BIN_EXE_efibed")).output().unwrap();
            let code = status.status.code();
            assert!(code.is_some_and(|code| code <= 4), "{command} {streams}: {}", status.status);
            assert!(!String::from_utf8_lossy(&status.stderr).contains("panicked"), "{command} {streams}");
        }
    }
}

#[test]
fn a_reader_that_has_had_enough_hears_nothing_more() {
    let line = format!("\"$0\" convert '{}' --to json | head -1", map().display());
    let output = Command::new("sh").arg("-c").arg(line).arg(env!("CARGO_BIN_EXE_efibed")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
}

/// A file that cannot be completed keeps what it held, and the text is printed all the same.
#[test]
fn a_full_device_loses_no_run() {
    let said = check(Path::new("/dev/full"));
    assert_eq!(said.status, 4, "{said}");
    assert!(said.out.contains("clean") && said.out.contains("\"verdict\": \"clean\""), "{said}");
    said.has(&said.err, &["No space left on device", "the result goes to standard output"]);
}

/// Names, keys and values of inputs that would drive a terminal, or fill it. [`efibed`] checks for escapes.
#[test]
fn inputs_drive_no_terminal() {
    const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}";
    let toml_evil = r"\u001b]0;owned\u0007\u001b[2J\u009b31m\u202e";
    let long = "k".repeat(1 << 20);
    let folder = Folder::new();
    let good = fs::read_to_string(map()).unwrap();
    let texts = [
        format!("\"{toml_evil}\" = 1\n{good}"),
        format!("{long} = 1\n{good}"),
        format!("partial = \"{toml_evil}\"\n{good}"),
        format!("partial = \"{long}\"\n{good}"),
        format!("{good}\n[expect]\nfindings = [\"{toml_evil}\"]\n"),
        format!("{good}\n[expect]\nfindings = [\"{long}\"]\n"),
        format!("{good}\n[mapper]\nlayout = \"{toml_evil}\"\n"),
        format!("{{ \"descriptors\": [], \"{toml_evil}\": 1 }}"),
        format!("{{ \"descriptors\": [ {{ \"type\": \"{toml_evil}\" }} ] }}"),
        format!("{{ \"descriptors\": [ {{ \"{long}\": 1 }} ] }}"),
        format!("{EVIL} efi: mem00: [{EVIL}|   |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0-0xfff] (0MB)\n"),
        format!("{EVIL}{long}"),
    ];
    for (index, text) in texts.iter().enumerate() {
        let path = folder.file(&format!("{index}{EVIL}.txt"), text);
        let path = path.as_os_str();
        for arguments in [
            &["show".as_ref(), path] as &[&std::ffi::OsStr],
            &["check".as_ref(), path, "--engine".as_ref(), "walker".as_ref()],
            &["convert".as_ref(), path, "--to".as_ref(), "json".as_ref(), "-o".as_ref(), "/dev/null".as_ref()],
        ] {
            let said = efibed(arguments);
            let is_driving = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{202e}';
            for stream in [&said.out, &said.err] {
                assert!(!stream.contains(is_driving), "{index}: {stream:?}");
                assert!(stream.len() < 100_000, "{index}: {} bytes", stream.len());
            }
        }
    }
}

/// Killed at any moment while it writes, a command leaves the old file or the new one; and, where it hears of its end,
/// nothing else.
#[test]
fn a_command_that_is_killed_leaves_a_whole_file() {
    let kills: u64 = std::env::var("EFIBED_KILLS").map_or(40, |kills| kills.parse().unwrap());
    let folder = Folder::new();
    let row = |index: u64| {
        format!("[[descriptor]]\ntype = 7\nphys = {:#x}\npages = 1\nattribute = \"WB\"\n", 0x1_0000 + 0x2000 * index)
    };
    let input = folder.file("map.toml", &(0..20_000).map(row).collect::<String>());
    let output = folder.file("out.json", OLD);
    let start = |stderr: Stdio| {
        let arguments = ["convert".as_ref(), input.as_os_str(), "--to".as_ref(), "json".as_ref(), "-o".as_ref()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
        command.args(arguments).arg(&output).stderr(stderr).spawn().unwrap()
    };
    let started = Instant::now();
    assert!(start(Stdio::inherit()).wait().unwrap().success());
    let usual = started.elapsed();
    let whole = fs::read(&output).unwrap();
    let (mut old, mut new) = (0, 0);
    for kill in 0..kills {
        fs::write(&output, OLD).unwrap();
        let signal = [libc::SIGTERM, libc::SIGINT, libc::SIGKILL][kill as usize % 3];
        let mut child = start(Stdio::null());
        // Most of its time goes into reading; it writes at the end.
        let part = 50 + kill * 7919 % 70;
        std::thread::sleep(Duration::from_nanos((usual.as_nanos() as u64 / 100) * part));
        // SAFETY: no memory is involved; the child is this process's own, and not yet waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        child.wait().unwrap();
        let mut found = Vec::new();
        File::open(&output).unwrap().read_to_end(&mut found).unwrap();
        assert!(found == OLD.as_bytes() || found == whole, "kill {kill}: {} bytes", found.len());
        if found == whole {
            new += 1
        } else {
            old += 1
        }
        if signal == libc::SIGKILL {
            // Nobody hears of that; at worst a whole file is left that has not its name yet.
            let temporary = folder.names().into_iter().filter(|name| name.starts_with(".efibed-"));
            temporary.for_each(|name| fs::remove_file(folder.path(&name)).unwrap());
        }
        assert_eq!(folder.names(), ["map.toml", "out.json"], "kill {kill}");
    }
    println!("{kills} kills: {old} times the old file, {new} times the new one");
    assert!(old > 0);
}
