//! Where the command's results and words go, when places fail, and whatever its input says.

mod said;

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use said::{Directory, Said, efibed, repository};

const CLEAN: i32 = 0;
const BAD_INPUT: i32 = 2;
const INTERNAL: i32 = 4;

fn map() -> String {
    repository("maps/ovmf-2013.toml")
}

/// A run without KVM that writes its JSON there.
fn check_to(json: &str) -> Said {
    efibed(["check", &map(), "--quiet", "--layout", "window", "--engine", "walker", "--json", json])
}

#[track_caller]
fn assert_is_report(path: &str) {
    let text = fs::read_to_string(path).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(document["regions"].as_array().unwrap().len(), 5);
}

/// The shell runs the command, so that its streams can be what only a shell makes of them.
fn in_shell(line: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("EFIBED", env!("CARGO_BIN_EXE_efibed")).env("MAP", map()).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn streams_that_are_full_or_closed_end_no_run() {
    let folder = Directory::new();
    let json = folder.file("report.json");
    let good = format!("$EFIBED check $MAP --engine walker --layout window --json {json}");
    let cases = [
        // The command line, its status, and whether the result is in its file.
        (format!("{good} >&-"), 0, true),
        (format!("{good} 2>&-"), 0, true),
        (format!("{good} >&- 2>&-"), 0, true),
        (format!("{good} <&- >&- 2>&-"), 0, true),
        (format!("{good} 2>/dev/full"), 0, true),
        (format!("{good} >/dev/full"), 2, true),
        (format!("{good} >/dev/full 2>/dev/full"), 2, true),
        ("$EFIBED check /no/such 2>/dev/full".into(), 2, false),
        ("$EFIBED check /no/such 2>&-".into(), 2, false),
        ("$EFIBED no-such-command 2>/dev/full".into(), 2, false),
        ("$EFIBED convert $MAP --to toml >/dev/full 2>/dev/full".into(), 2, false),
        ("$EFIBED explain rules >/dev/full 2>/dev/full".into(), 2, false),
        ("$EFIBED schema >/dev/full 2>/dev/full".into(), 2, false),
        ("$EFIBED --help >/dev/full 2>/dev/full".into(), 2, false),
        ("$EFIBED show $MAP >/dev/full 2>/dev/full".into(), 2, false),
    ];
    for (line, status, is_written) in cases {
        let _ = fs::remove_file(&json);
        let output = in_shell(&line);
        assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
        assert_eq!(folder.names().len(), usize::from(is_written), "{line}");
        if is_written {
            assert_is_report(&json);
        }
    }
}

#[test]
fn a_reader_that_goes_is_no_error_and_silent() {
    let output = in_shell("{ $EFIBED explain rules; echo $? >&2; } | head -c 1 >/dev/null");
    assert_eq!(String::from_utf8_lossy(&output.stderr).trim(), "0");
}

#[test]
fn the_text_is_told_even_if_a_result_cannot_be_written_in_the_end() {
    let map = map();
    let commands = [vec!["check", &map, "--engine", "walker", "--layout", "window"], vec!["show", &map]];
    for command in commands {
        let said = efibed(command.iter().copied().chain(["--json", "/dev/full"])).ends(INTERNAL);
        let (text, json) = said.out.split_once("\n{\n").unwrap();
        assert!(text.contains("5 regions") || text.contains("descriptors"), "{said}");
        serde_json::from_str::<serde_json::Value>(&format!("{{\n{json}")).unwrap();
        said.has(&said.err, &["/dev/full: No space left"]);
    }
}

/// Where a command writes.
#[derive(Clone, Copy, Debug)]
enum To {
    Pipe,
    Terminal,
}

/// All that a command writes there, with these variables in its environment and no others about colour.
fn written(to: To, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
    command.args(arguments).stdin(Stdio::null()).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command.env("TERM", "xterm").envs(variables.iter().copied());
    let mut text = Vec::new();
    match to {
        To::Pipe => {
            let output = command.output().unwrap();
            text = [output.stdout, output.stderr].concat();
        }
        To::Terminal => {
            let (mut own_end, terminal) = terminal();
            let mut child = command.stdout(terminal.try_clone().unwrap()).stderr(terminal).spawn().unwrap();
            drop(command);
            // A terminal that nobody has open any more ends with an error.
            let _ = own_end.read_to_end(&mut text);
            child.wait().unwrap();
        }
    }
    String::from_utf8(text).unwrap()
}

/// A terminal of 100 columns, which is what the second file is. What is written to it is read from the first.
fn terminal() -> (File, File) {
    let (mut own_end, mut terminal) = (0, 0);
    let size = libc::winsize { ws_row: 50, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let (no_name, no_modes) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: both numbers and the size outlive the call.
    let opened = unsafe { libc::openpty(&mut own_end, &mut terminal, no_name, no_modes, &size) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both were opened just now, and are nobody else's.
    unsafe { (File::from_raw_fd(own_end), File::from_raw_fd(terminal)) }
}

#[test]
fn everything_has_colours_where_they_are_asked_for_and_nowhere_else() {
    let map = map();
    // A report, a table of regions, help, an error with a place, an error of arguments.
    let commands: [&[&str]; 5] = [
        &["check", &map, "--engine", "walker", "--layout", "window", "--quiet"],
        &["show", &map],
        &["check", "--help"],
        &["show", "/no/such"],
        &["check", "--no-such"],
    ];
    let (force, none, dumb) = (("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"), ("TERM", "dumb"));
    for (to, variables, color, expected) in [
        (To::Pipe, &[][..], "auto", false),
        (To::Pipe, &[force], "auto", true),
        (To::Pipe, &[force, none], "auto", false),
        (To::Pipe, &[force], "never", false),
        (To::Pipe, &[none, dumb], "always", true),
        (To::Terminal, &[], "auto", true),
        (To::Terminal, &[none], "auto", false),
        (To::Terminal, &[dumb], "auto", false),
        (To::Terminal, &[], "never", false),
    ] {
        for command in commands {
            let text = written(to, variables, &[&["--color", color], command].concat());
            assert!(text.len() > 20, "{command:?}");
            assert_eq!(text.contains("\x1b["), expected, "{to:?} {variables:?} {color} {command:?}: {text}");
        }
    }
    // The option may also come last. Results for programs are not text.
    assert!(written(To::Pipe, &[], &["show", &map, "--color=always"]).contains("\x1b["));
    for command in [&["show", &map, "--json", "-"][..], &["schema"], &["convert", &map, "--to", "toml"]] {
        let text = written(To::Pipe, &[force], &[&["--color", "always"], command].concat());
        assert!(text.len() > 100 && !text.contains('\x1b'), "{command:?}");
    }
    efibed(["--color", "red", "schema"]).ends(BAD_INPUT).complains(&["'red'", "auto, always, never"]);
}

/// A bar is drawn over itself, again and again.
#[test]
fn a_dumb_terminal_is_shown_no_bar() {
    let map = map();
    let bars = |variables: &[(&str, &str)], more: &[&str]| {
        let command = ["check", &map, "--engine", "walker", "--layout", "window", "--color", "never"];
        let text = written(To::Terminal, variables, &[&command, more].concat());
        assert!(text.contains("clean: 5 regions"), "{text}");
        text.contains(['\u{2588}', '\u{2591}', '\x1b'])
    };
    assert!(bars(&[], &[]));
    assert!(!bars(&[("TERM", "dumb")], &[]));
    assert!(!bars(&[], &["--quiet"]));
}

#[test]
fn a_bad_place_is_told_before_anything_is_done() {
    let folder = Directory::new();
    let (map, nowhere) = (map(), folder.file("no-such/file"));
    // A run, or the search for a KVM, would end with another status.
    let none = ["check", &map, "--cpu", "maxphyaddr=52,la57=on"];
    let commands: [(&[&str], &str); 9] = [
        (&none, "--json"),
        (&none, "--junit"),
        (&["kexec", &map, &map], "--json"),
        (&["show", &map], "--json"),
        (&["convert", &map, "--to", "toml"], "-o"),
        (&["shrink", &map], "-o"),
        (&["fuzz", "--runs", "1"], "--json"),
        (&["doctor"], "--json"),
        (&["check", &map], "--json"),
    ];
    for (command, option) in commands {
        let said = efibed(command.iter().copied().chain([option, &nowhere])).ends(BAD_INPUT);
        said.complains(&["no-such/file: No such file or directory"]);
    }
    assert!(folder.names().is_empty());
}

/// What there is before a run, and what must be there after it; or why the place is refused, or fails in the end.
#[test]
fn each_kind_of_place_is_written_as_it_should_be() {
    type Before = fn(&Directory);
    type After = fn(&Directory);
    let cases: [(&str, Before, Result<After, &str>); 8] = [
        ("new", |_| (), Ok(|folder| assert_eq!(folder.names(), ["place"]))),
        (
            "the mode stays",
            |folder| {
                fs::write(folder.file("place"), "old").unwrap();
                fs::set_permissions(folder.file("place"), Permissions::from_mode(0o640)).unwrap();
            },
            Ok(|folder| {
                assert_eq!(fs::metadata(folder.file("place")).unwrap().mode() & 0o7777, 0o640);
                assert_eq!(folder.names(), ["place"]);
            }),
        ),
        (
            "a symbolic link is followed",
            |folder| {
                fs::create_dir(folder.file("elsewhere")).unwrap();
                fs::write(folder.file("elsewhere/target"), "old").unwrap();
                symlink("elsewhere/target", folder.file("place")).unwrap();
            },
            Ok(|folder| {
                assert!(fs::symlink_metadata(folder.file("place")).unwrap().is_symlink());
                assert_is_report(&folder.file("elsewhere/target"));
                assert_eq!(fs::read_dir(folder.file("elsewhere")).unwrap().count(), 1);
                assert_eq!(folder.names(), ["elsewhere", "place"]);
            }),
        ),
        (
            "a dangling link",
            |folder| symlink("nothing", folder.file("place")).unwrap(),
            Err("a symbolic link that leads to no file"),
        ),
        ("a loop of links", |folder| symlink("place", folder.file("place")).unwrap(), Err("symbolic links")),
        ("a folder", |folder| fs::create_dir(folder.file("place")).unwrap(), Err("Is a directory")),
        (
            "a hard link is written in place",
            |folder| {
                fs::write(folder.file("other"), "x".repeat(1 << 20)).unwrap();
                fs::hard_link(folder.file("other"), folder.file("place")).unwrap();
            },
            Ok(|folder| {
                assert_is_report(&folder.file("other"));
                let inode = |name| fs::metadata(folder.file(name)).unwrap().ino();
                assert_eq!(inode("other"), inode("place"));
                assert_eq!(folder.names(), ["other", "place"]);
            }),
        ),
        ("a link to a device", |folder| symlink("/dev/full", folder.file("place")).unwrap(), Err("No space left")),
    ];
    for (name, before, after) in cases {
        let folder = Directory::new();
        before(&folder);
        let names = folder.names();
        let said = check_to(&folder.file("place"));
        match after {
            Ok(after) => {
                said.ends(CLEAN).without_errors();
                assert_is_report(&folder.file("place"));
                after(&folder);
            }
            Err(why) => {
                assert!([BAD_INPUT, INTERNAL].contains(&said.status), "{name}: {said}");
                said.has(&said.err, &[why]);
                assert_eq!(folder.names(), names, "{name}");
            }
        }
    }
}

#[test]
fn a_pipe_with_a_name_is_written_in_place() {
    let folder = Directory::new();
    let pipe = folder.file("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    check_to(&pipe).ends(CLEAN).without_errors();
    let document: serde_json::Value = serde_json::from_str(&reader.join().unwrap()).unwrap();
    assert_eq!(document["regions"].as_array().unwrap().len(), 5);
    assert_eq!(folder.names(), ["pipe"]);
}

/// Permissions do not bind root, so root becomes another user first.
#[test]
fn in_a_folder_that_takes_no_file_an_old_one_is_written_in_place() {
    let folder = Directory::new();
    let (old, map) = (folder.file("old.json"), folder.file("map.toml"));
    fs::copy(repository("maps/ovmf-2013.toml"), &map).unwrap();
    let program = folder.file("efibed");
    fs::copy(env!("CARGO_BIN_EXE_efibed"), &program).unwrap();
    fs::write(&old, "x".repeat(1 << 20)).unwrap();
    fs::set_permissions(&old, Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(&folder.0, Permissions::from_mode(0o555)).unwrap();
    let is_root = fs::metadata(&old).unwrap().uid() == 0;
    let run = |json: &str| {
        let mut command = if is_root { Command::new("setpriv") } else { Command::new(&program) };
        if is_root {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", &program]);
        }
        command.args(["check", &map, "--engine", "walker", "--layout", "window", "--json", json]).output()
    };
    let Ok(output) = run(&old) else { return eprintln!("skipped: root, and no setpriv") };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_is_report(&old);
    assert_eq!(folder.names(), ["efibed", "map.toml", "old.json"]);
    // The negative control: the folder does refuse a new one.
    let output = run(&folder.file("new.json")).unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    fs::set_permissions(&folder.0, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_output_that_is_an_input_is_refused_under_any_name() {
    let folder = Directory::new();
    let file = |name: &str| folder.file(name);
    fs::copy(map(), file("map")).unwrap();
    fs::hard_link(file("map"), file("hard")).unwrap();
    symlink("map", file("soft")).unwrap();
    let before = fs::read(file("map")).unwrap();
    for output in ["map", "hard", "soft", "./map"] {
        let (input, output) = (file("map"), file(output));
        let commands: [&[&str]; 5] = [
            &["check", &input, "--engine", "walker", "--json", &output],
            &["check", &input, "--engine", "walker", "--junit", &output],
            &["show", &input, "--json", &output],
            &["convert", &input, "--to", "json", "-o", &output],
            &["kexec", &map(), &input, "--engine", "walker", "--json", &output],
        ];
        for command in commands {
            efibed(command).ends(BAD_INPUT).complains(&["it is an input"]);
            assert_eq!(fs::read(file("map")).unwrap(), before);
        }
    }
    let both = file("both");
    let said = efibed(["check", &map(), "--engine", "walker", "--json", &both, "--junit", &both]).ends(BAD_INPUT);
    said.complains(&["another result goes there"]);
    let line = format!("$EFIBED convert - --to json -o {0} < {0}", file("map"));
    let output = in_shell(&line);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let line = format!("$EFIBED check $MAP --engine walker --json /dev/stdout > {}", file("out"));
    let output = in_shell(&line);
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output goes there"), "{output:?}");
    assert_eq!(fs::read(file("map")).unwrap(), before);
    assert_eq!(folder.names(), ["hard", "map", "out", "soft"]);
}

const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}2J\u{202e}";

#[test]
fn nothing_in_the_input_drives_a_terminal() {
    let folder = Directory::new();
    let good = fs::read_to_string(map()).unwrap();
    let escaped = r"\u001b]0;owned\u0007\u001b[31m\u009b2J\u202e";
    let files = [
        ("key.toml", format!("\"{escaped}\" = 1\n{good}")),
        ("partial.toml", format!("partial = \"{escaped}\"\n{good}")),
        ("rule.toml", format!("{good}\n[expect]\nfindings = [\"{escaped}\"]\n")),
        ("layout.toml", format!("{good}\n[mapper]\nlayout = \"{escaped}\"\n")),
        ("misbehaves.toml", format!("{good}\n[firmware]\nmisbehaves = [\"{escaped}\"]\n")),
        ("key.json", format!("{{\"schema\": 1, \"{escaped}\": 2}}")),
        ("raw.toml", format!("x{EVIL} = 1\n{good}")),
        (&format!("{EVIL}.toml"), good.clone()),
        (&format!("{EVIL}-bad.toml"), "[[descriptor]]\ntype = 3\n".into()),
    ];
    for (name, text) in files {
        let file = folder.file(name);
        fs::write(&file, text).unwrap();
        let commands: [&[&str]; 4] = [
            &["check", &file, "--engine", "walker", "--quiet"],
            &["show", &file],
            &["convert", &file, "--to", "linux"],
            &["explain", &file, "0x1000"],
        ];
        for command in commands {
            let said = efibed(command);
            let harmful = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
            assert!(!said.out.contains(harmful) && !said.err.contains(harmful), "{said:.3000}");
        }
    }
    for argument in [format!("--{EVIL}"), EVIL.into()] {
        let said = efibed([&argument]).ends(BAD_INPUT);
        assert!(!said.err.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{said}");
    }
}

#[test]
fn messages_are_clipped_and_results_are_not() {
    let folder = Directory::new();
    let (good, long) = (fs::read_to_string(map()).unwrap(), "k".repeat(8 << 20));
    for (name, text) in [
        ("key.toml", format!("{long} = 1\n{good}")),
        ("key.json", format!("{{\"schema\": 1, \"{long}\": 2}}")),
        ("rule.toml", format!("{good}\n[expect]\nfindings = [\"{long}\"]\n")),
    ] {
        fs::write(folder.file(name), text).unwrap();
        let said = efibed(["check", &folder.file(name), "--engine", "walker"]).ends(BAD_INPUT);
        assert!(said.err.len() < 16 << 10, "{name}: {} bytes", said.err.len());
    }
    let partial = format!("{EVIL}{}", "p".repeat(1 << 20));
    let toml_string = format!("\"\\u001b]0;owned\\u0007\\u001b[31m\\u009b2J\\u202e{}\"", "p".repeat(1 << 20));
    fs::write(folder.file("partial.toml"), format!("partial = {toml_string}\n{good}")).unwrap();
    let said = efibed(["show", &folder.file("partial.toml"), "--json", "-"]).ends(CLEAN);
    assert!(said.json().to_string().contains(&"p".repeat(1 << 20)), "JSON has all of it");
    let said = efibed(["show", &folder.file("partial.toml")]).ends(CLEAN);
    assert!(said.out.len() < 64 << 10, "{} bytes", said.out.len());
    let said = efibed(["convert", &folder.file("partial.toml"), "--to", "json"]).ends(CLEAN);
    assert_eq!(said.json()["partial"], partial);
}

#[test]
fn an_error_in_a_file_has_its_line_and_column() {
    let folder = Directory::new();
    let cases: [(&str, &[u8], &str); 5] = [
        ("noise", b"a\n\nb\x80\xff", ":3:2: is not UTF-8 text"),
        ("utf16", b"\xff\xfea\0\n\0b\0\x00\xd8c\0", ":2:2: has half a UTF-16 character"),
        ("zeros", &[0; 100], ":1:"),
        ("empty", b"", ":1:1: no EFI memory map"),
        ("text", b"[[descriptor]]\ntype = 99x\n", ":2:"),
    ];
    for (name, bytes, place) in cases {
        fs::write(folder.file(name), bytes).unwrap();
        for command in ["show", "convert"] {
            let file = folder.file(name);
            let rest: &[&str] = if command == "convert" { &["--to", "toml"] } else { &[] };
            let said = efibed([command, &file].iter().chain(rest)).ends(BAD_INPUT);
            said.complains(&[place]);
        }
    }
    fs::write(folder.file("cut"), [0; 100]).unwrap();
    let said = efibed(["convert", &folder.file("cut"), "--stride", "48", "--to", "toml"]).ends(BAD_INPUT);
    said.complains(&[":1:97: descriptor 2 at byte 0x60 is cut"]);
}

/// Killed at any moment while it writes: what is there is the old file or the new one, whole. A signal that can be handled
/// leaves nothing else. SIGKILL leaves a whole file at most, where files can be without a name.
#[test]
fn a_kill_leaves_a_whole_file() {
    let kills: u32 = std::env::var("EFIBED_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(30);
    let folder = Directory::new();
    let (input, target) = (folder.file("map.toml"), folder.file("map.json"));
    let has_nameless_files = File::options().write(true).custom_flags(libc::O_TMPFILE).open(folder.file(".")).is_ok();
    let mut text = String::new();
    for index in 0..20_000u64 {
        text += &format!("[[descriptor]]\ntype = 7\nphys = {}\npages = 1\nattribute = 15\n", index << 13);
    }
    fs::write(&input, text).unwrap();
    let convert = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
        command.args(["convert", &input, "--to", "json", "-o", &target]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let began = Instant::now();
    assert!(convert().status().unwrap().success());
    let whole_run = began.elapsed();
    let new = fs::read(&target).unwrap();
    let old = vec![b'o'; new.len() / 2];
    let (mut were_old, mut were_new, mut left, mut seed) = (0, 0, 0, 0x9e37_79b9_u64);
    for kill in 0..kills {
        fs::write(&target, &old).unwrap();
        let mut child = convert().spawn().unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let signal = ["KILL", "TERM", "INT"][kill as usize % 3];
        // Half of the kills come when the new file is being written.
        if kill % 2 == 0 {
            std::thread::sleep(whole_run.mul_f64((seed >> 40) as f64 / f64::from(1 << 24)));
        } else {
            while !is_writing(child.id()) && child.try_wait().unwrap().is_none() {}
            std::thread::sleep(Duration::from_micros(seed >> 52));
        }
        kill_with(signal, child.id());
        child.wait().unwrap();
        match fs::read(&target).unwrap() {
            bytes if bytes == old => were_old += 1,
            bytes if bytes == new => were_new += 1,
            bytes => panic!("kill {kill} with SIG{signal}: half a file, {} bytes of {}", bytes.len(), new.len()),
        }
        for name in folder.names().into_iter().filter(|name| name.starts_with(".efibed-")) {
            assert_eq!(signal, "KILL", "{name} is left by kill {kill}");
            let is_whole = fs::read(folder.file(&name)).unwrap() == new;
            assert!(is_whole || !has_nameless_files, "{name} is left by kill {kill}, and half a file");
            left += 1;
            fs::remove_file(folder.file(&name)).unwrap();
        }
        assert_eq!(folder.names(), ["map.json", "map.toml"]);
    }
    println!("{kills} kills: {were_old} old, {were_new} new; SIGKILL left {left} temporary files");
    assert!(kills < 30 || were_old > 0, "every kill came too late");
}

/// Whether a process has begun to write a file that has no name.
fn is_writing(process: u32) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let is_nameless =
            fs::read_link(descriptor.path()).is_ok_and(|name| name.to_string_lossy().ends_with("(deleted)"));
        is_nameless && fs::metadata(descriptor.path()).is_ok_and(|file| file.len() > 0)
    })
}

fn kill_with(signal: &str, process: u32) {
    // One that has just ended is no longer there, or waits to be reaped.
    let _ = Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).stderr(Stdio::null()).status();
}

/// A signal that is ignored by the one who starts the command stays ignored (`nohup`).
#[test]
fn an_ignored_signal_stays_ignored() {
    let folder = Directory::new();
    let pipe = folder.file("map");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let line = format!("trap '' HUP; exec $EFIBED show {pipe} --json {}", folder.file("out.json"));
    let mut command = Command::new("sh");
    command.args(["-c", &line]).env("EFIBED", env!("CARGO_BIN_EXE_efibed")).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut writer = File::options().write(true).open(&pipe).unwrap();
    kill_with("HUP", child.id());
    let mut text = Vec::new();
    File::open(Path::new(&map())).unwrap().read_to_end(&mut text).unwrap();
    writer.write_all(&text).unwrap();
    drop(writer);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(folder.names().contains(&"out.json".into()));
}
