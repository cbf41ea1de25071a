//! `--gdb` and `--core`, with a real gdb in batch mode. Without gdb or a C compiler the tests are ignored by name, and with
//! `EFIBED_REQUIRE_GDB=1` they fail.
//!
//! With `EFIBED_COMPILED=FOLDER` one run leaves the programs that it compiles there, and a later one takes them from there: on a
//! machine without a compiler, such as CI's second KVM.

mod said;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use efibed::{AddressSpace, MapContext, MapError, Mapper, MemoryMap, Scenario, TestBed};
use libtest_mimic::{Arguments, Trial};

use said::{Directory, any, efibed, efibed_in, kvm, repository};

const CLEAN: i32 = 0;
const FINDINGS: i32 = 1;
const BAD_INPUT: i32 = 2;
const UNABLE: i32 = 3;

/// More than any wait here takes, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    if let Some(place) = std::env::var_os(PLACE) {
        return map_under_gdb(place.to_str().unwrap());
    }
    let trials = vec![
        gdb("the_session_of_the_page_goes_as_it_says", the_session_of_the_page_goes_as_it_says),
        gdb("a_fault_halts_at_its_instruction", a_fault_halts_at_its_instruction),
        gdb("a_watchpoint_halts_behind_the_write", a_watchpoint_halts_behind_the_write),
        gdb("memory_that_is_not_there_is_an_error", memory_that_is_not_there_is_an_error),
        gdb("a_static_pie_has_its_symbols", a_static_pie_has_its_symbols),
        gdb("a_hung_mapper_halts_at_ctrl_c_and_is_killed", a_hung_mapper_halts_at_ctrl_c_and_is_killed),
        gdb(
            "an_own_breakpoint_of_the_code_is_found_as_without_gdb",
            an_own_breakpoint_of_the_code_is_found_as_without_gdb,
        ),
        gdb("a_gdb_that_dies_leaves_the_run_alone", a_gdb_that_dies_leaves_the_run_alone),
        gdb("what_is_no_gdb_leaves_the_run_alone", what_is_no_gdb_leaves_the_run_alone),
        gdb("a_port_is_free_for_one_gdb", a_port_is_free_for_one_gdb),
        gdb("a_signal_removes_the_socket", a_signal_removes_the_socket),
        gdb("gdb_opens_the_core_of_a_fault", gdb_opens_the_core_of_a_fault),
        gdb("gdb_opens_the_core_of_a_finding", gdb_opens_the_core_of_a_finding),
        gdb("a_core_under_gdb_is_that_of_a_run_without", a_core_under_gdb_is_that_of_a_run_without),
        gdb("a_fault_of_firmware_is_told_with_its_own_registers", a_fault_of_firmware_is_told_with_its_own_registers),
        gdb("mapping_code_of_a_test_has_its_symbols", mapping_code_of_a_test_has_its_symbols),
        kvm("a_clean_run_has_no_core", a_clean_run_has_no_core),
        any("what_makes_no_sense_is_refused", what_makes_no_sense_is_refused),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

/// A test that needs KVM, gdb and a C compiler.
fn gdb(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    let required = std::env::var_os("EFIBED_REQUIRE_GDB").is_some_and(|value| value == "1");
    let is_there = |program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let trial = kvm(name, run);
    let can_run = required || is_there("gdb") && is_there("cc");
    let is_ignored = trial.has_ignored_flag() || !can_run;
    trial.with_kind("gdb").with_ignored_flag(is_ignored)
}

fn the_session_of_the_page_goes_as_it_says() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gdb.md")).unwrap();
    let files = files_of(&page);
    let folder = Directory::new();
    for (name, text) in files {
        fs::write(folder.0.join(name), text).unwrap();
    }
    compiled(&folder, "mapper.elf", "session", || {
        efibed_in(&folder, &[], &["build", "mapper.c"]).ends(CLEAN);
    });
    let bed = Bed::start(&folder, "map.toml", "mapper.elf", &[]);
    let said = bed.gdb(&files["session.gdb"], "mapper.elf");
    // Line and values by hand: the region is at 0x7dc5b000, which is no multiple of 2 MiB; P, R/W and PS are 0x83.
    said.in_order(&[
        "Breakpoint 1, map (",
        "int large = v % LARGE == 0",
        "#0  map (",
        "#1  efibed_map (",
        "$1 = 1",
        "$2 = 0x7dc5b000",
        "0xffffff0000000000 through the mapping code's tables",
        "PML4E",
        "not present",
        "SIGUSR1",
        "reserved-bit: region 0",
        "0x000000007dc5b083  P W PS PAT       reserved bits are set",
        "The last entry is at PA 0x11b000: x/gx 0x30000011b000",
        "0x30000011b000:\t0x000000007dc5b083\t0x000000007de5b083",
        "0x11b000:\t0x000000007dc5b083\t0x000000007de5b083",
        "RuntimeServicesCode        0x000000007dc5b000       0x4eb  0xffffff0000000000",
        "RuntimeServicesData        0x000000007fa65000       0x57b  0xffffff0000600000",
        "exited with code 01",
    ]);
    // The page shows what was said.
    let shown = page.lines().skip_while(|line| !line.starts_with("PDE    0x")).take_while(|line| *line != "```");
    let shown: Vec<_> = shown.collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    said.in_order(&shown);
    let ended = bed.end();
    assert_eq!(ended.status.code(), Some(FINDINGS), "{ended:?}");
    // gdb changes nothing of what is found.
    let alone = efibed_in(&folder, &[], &["check", "map.toml", "--mapper", "mapper.elf"]).ends(FINDINGS);
    let report = |text: &str| {
        text.lines().take_while(|line| !line.contains(" accesses, ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(report(&String::from_utf8(ended.stdout).unwrap()), report(&alone.out));
    assert!(!folder.0.join("socket").exists());
}

fn a_fault_halts_at_its_instruction() {
    let folder = built("WRITE_NULL");
    for arguments in [&[][..], &["--no-sandbox"]] {
        let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", arguments);
        let script = "break write_to\ncontinue\nstepi\nx/i $pc\ninfo symbol $pc\ndelete\ncontinue\ncontinue\n";
        bed.gdb(script, "mapper.elf").in_order(&[
            "SIGSEGV, Segmentation fault.",
            "*(volatile uint64_t *)(uintptr_t)virt = 1;",
            "=> ",
            "0x8",
            "efibed_map",
            "SIGUSR1",
            "exited with code 01",
        ]);
        let ended = bed.end();
        assert_eq!(ended.status.code(), Some(FINDINGS), "{ended:?}");
        let out = String::from_utf8(ended.stdout).unwrap();
        // The instruction is the code's own: no breakpoint is quoted.
        assert!(out.contains("1. stray-access") && out.contains("wrote to 0x8") && !out.contains("int3"), "{out}");
    }
}

/// The watched quadword is `data`, which is 1 and becomes 3 * 7 / ... only in attack: it is written once.
fn a_watchpoint_halts_behind_the_write() {
    let folder = built("WHAT_IS_ALLOWED");
    let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
    let script = "break attack\ncontinue\nwatch -l data\ncontinue\nrwatch data\ndelete\nhbreak efibed_push\nmonitor findings\ncontinue\n";
    let said = bed.gdb(script, "mapper.elf");
    said.in_order(&["Hardware watchpoint 2: -location data", "Hardware watchpoint 2", "Old value = 1", "New value = "]);
    assert_eq!(bed.end().status.code(), Some(CLEAN), "{}", said.0);
}

fn memory_that_is_not_there_is_an_error() {
    let folder = built("NOTHING");
    let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
    // Page 0, what no one was given, an address that is not canonical, the kernel's image; the last words of a page before a hole.
    let script = "x/gx 0\nx/gx 0x1234567000\nx/gx 0x8000000000000000\nx/gx 0xffffffff80015000\n\
                  set var *(long *)0x10 = 1\nmonitor phys 0xfffffffffffffff8 3\nmonitor walk zz\nmonitor nonsense\n\
                  set var $rax = 7\nprint $rax\nset var $xmm0.uint128 = 1\nprint *request\ndetach\n";
    let said = bed.gdb_each(script, "mapper.elf");
    said.in_order(&[
        "Cannot access memory at address 0x0",
        "Cannot access memory at address 0x1234567000",
        "Cannot access memory at address 0x8000000000000000",
        "Cannot access memory at address 0xffffffff80015000",
        "Cannot access memory at address 0x10",
        "there is no memory at 0xfffffffffffffff8",
        "`zz` is no address in hexadecimal",
        "`nonsense` is no command of efibed's",
        "$1 = 7",
        "Could not write registers",
        "direct_map = 52776558133248",
        "detached",
    ]);
    assert_eq!(bed.end().status.code(), Some(CLEAN), "{}", said.0);
}

fn a_static_pie_has_its_symbols() {
    let folder = Directory::new();
    fs::write(folder.0.join("efibed.h"), efibed(["build", "--header"]).out).unwrap();
    let mut cc = Command::new("cc");
    cc.args([
        "-g",
        "-O1",
        "-fPIE",
        "-static-pie",
        "-nostdlib",
        "-ffreestanding",
        "-fno-stack-protector",
        "-DATTACK=WRITE_NULL",
    ]);
    cc.args(attacks(&["WRITE_NULL"])).args(["-e", "efibed_map", "-I", ".", "-o", "pie.elf"]).arg(hostile());
    compiled(&folder, "pie.elf", "static-pie", || {
        assert!(cc.current_dir(&folder.0).status().unwrap().success(), "{cc:?}");
    });
    let bed = Bed::start(&folder, &ovmf_2013(), "pie.elf", &[]);
    let said = bed.gdb("break below\ncontinue\nbacktrace\nprint &data\ndelete\ncontinue\n", "pie.elf");
    said.in_order(&["Breakpoint 1, ", "below", "efibed_map (", "(volatile uint64_t *) 0x1000", "SIGSEGV"]);
    bed.end();
}

/// By hand: gdb's own Ctrl-C needs a terminal.
fn a_hung_mapper_halts_at_ctrl_c_and_is_killed() {
    let folder = built("LOOP");
    let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
    let mut gdb = Remote(UnixStream::connect(&bed.socket).unwrap());
    assert!(gdb.ask("?").starts_with("T05"));
    // It is served: a second one finds nobody.
    assert!(UnixStream::connect(&bed.socket).is_err());
    gdb.send("vCont;c");
    thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    gdb.0.write_all(&[3]).unwrap();
    assert_eq!(gdb.answer(), "S02");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // It is in ring 3, in the program: RIP is register 16 of those that are sent.
    let registers = gdb.ask("g");
    let rip = u64::from_str_radix(&registers[16 * 16..17 * 16], 16).unwrap().swap_bytes();
    assert!((0x40_1000..0x40_3000).contains(&rip), "{rip:#x}");
    gdb.send("k");
    let ended = bed.end();
    assert_eq!(ended.status.code(), Some(UNABLE), "{ended:?}");
    let out = String::from_utf8(ended.stdout).unwrap();
    assert!(out.contains("the debugger ended the run"), "{out}");
}

fn an_own_breakpoint_of_the_code_is_found_as_without_gdb() {
    let folder = Directory::new();
    let source = "#include \"efibed.h\"\nint efibed_map(const efibed_request *request, efibed_result *result) {\n    \
                  (void)request, (void)result;\n    __asm__ volatile(\"int3\");\n    return 0;\n}\n";
    fs::write(folder.0.join("mapper.c"), source).unwrap();
    compiled(&folder, "mapper.elf", "own-breakpoint", || {
        efibed_in(&folder, &[], &["build", "mapper.c"]).ends(CLEAN);
    });
    let alone = efibed_in(&folder, &[], &["check", &ovmf_2013(), "--mapper", "mapper.elf"]).ends(FINDINGS);
    alone.says(&["mapper-fault", "#BP"]);
    let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
    bed.gdb("continue\ncontinue\ncontinue\n", "mapper.elf").in_order(&["SIGTRAP", "SIGUSR1", "exited with code 01"]);
    let out = String::from_utf8(bed.end().stdout).unwrap();
    assert!(out.contains("mapper-fault") && out.contains("#BP"), "{out}");
}

fn a_gdb_that_dies_leaves_the_run_alone() {
    let folder = built("NOTHING");
    for order in [None, Some("vCont;c")] {
        let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
        let mut gdb = Remote(UnixStream::connect(&bed.socket).unwrap());
        gdb.ask("?");
        // A breakpoint at the first instruction, which must not be there any more.
        let first = gdb.ask("m401000,1");
        assert_eq!(gdb.ask("Z0,401000,1"), "OK");
        // It is not to be seen.
        assert!(first != "cc" && gdb.ask("m401000,1") == first, "{first}");
        if let Some(order) = order {
            gdb.send(order);
            let halt = gdb.answer();
            assert!(halt.starts_with("T05") && halt.contains("swbreak:"), "{halt}");
        }
        drop(gdb);
        let ended = bed.end();
        assert_eq!(ended.status.code(), Some(CLEAN), "{ended:?}");
        assert_eq!(folder.names(), ["mapper.elf"]);
    }
}

/// Packets of lengths and addresses that cannot be, and what is no packet at all.
fn what_is_no_gdb_leaves_the_run_alone() {
    let folder = built("NOTHING");
    let long = format!("${}#00", "A".repeat(100_000));
    for junk in ["-", "GET / HTTP/1.1\r\n\r\n", "\x03\x03\x03", &long] {
        let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
        // It may be cut short: nobody listens any more.
        let _ = UnixStream::connect(&bed.socket).unwrap().write_all(junk.as_bytes());
        assert_eq!(bed.end().status.code(), Some(CLEAN), "{junk}");
    }
    let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
    let mut gdb = Remote(UnixStream::connect(&bed.socket).unwrap());
    for (packet, answer) in [
        ("m0,8", "E0e"),
        ("mfffffffffffffff8,10", "E0e"),
        ("Z0,0,1", "E16"),
        ("Z2,401000,ffffffff", "E16"),
        ("Z3,401000,8", "E16"),
        ("z0,401000,1", "E16"),
        ("Z2,403000,8", "OK"),
        ("z2,403000,8", "OK"),
        ("z2,403000,8", "E16"),
    ] {
        assert_eq!(gdb.ask(packet), answer, "{packet}");
    }
    // What is written where a breakpoint is, is there with it and without it.
    let original = gdb.ask("m401000,1");
    let restored = format!("M401000,1:{original}");
    for (packet, answer) in [
        ("Z0,401000,1", "OK"),
        ("m401000,1", &original),
        ("M401000,1:90", "OK"),
        ("m401000,1", "90"),
        ("z0,401000,1", "OK"),
        ("m401000,1", "90"),
        (&restored, "OK"),
    ] {
        assert_eq!(gdb.ask(packet), answer, "{packet}");
    }
    drop(gdb);
    assert_eq!(bed.end().status.code(), Some(CLEAN));
}

fn a_port_is_free_for_one_gdb() {
    let folder = built("NOTHING");
    let mut bed = Bed::waiting(&folder, &["check", &ovmf_2013(), "--mapper", "mapper.elf", "--gdb", "127.0.0.1:0"]);
    let (place, _stderr) = place_told(&mut bed);
    assert!(place.starts_with("127.0.0.1:"), "{place}");
    let first = TcpStream::connect(&place).unwrap();
    let start = Instant::now();
    let address = place.parse().unwrap();
    let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    while !TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err_and(refused) {
        assert!(start.elapsed() < Duration::from_secs(20), "a second gdb can connect");
        thread::sleep(Duration::from_millis(10));
    }
    drop(first);
    assert_eq!(ended(bed).status.code(), Some(CLEAN));
}

fn a_signal_removes_the_socket() {
    let folder = built("NOTHING");
    let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &[]);
    // SAFETY: the child was not waited for, so its number is not another's.
    unsafe { libc::kill(bed.child.as_ref().unwrap().id() as i32, libc::SIGTERM) };
    assert_eq!(bed.end().status.code(), None);
    assert_eq!(folder.names(), ["mapper.elf"]);
}

fn gdb_opens_the_core_of_a_fault() {
    let folder = built("WRITE_NULL");
    let said = efibed_in(&folder, &[], &["check", &ovmf_2013(), "--mapper", "mapper.elf", "--core", "mapper.core"]);
    let said = said.ends(FINDINGS);
    said.has(&said.err, &["mapper.core: "]);
    let script = "info registers rip\nx/i $pc\nbacktrace\nprint data\ninfo registers xmm0\nx/gx 0x8\n";
    let opened = in_batch(&folder, script, &["mapper.elf", "mapper.core"]);
    opened.in_order(&[
        "terminated with signal SIGSEGV",
        "virt = 1;",
        "efibed_map",
        "$1 = 1",
        "xmm0",
        "Cannot access memory at address 0x8",
    ]);
}

/// The guilty entry, worked out as in the session; firmware's page where the mapping code has put it: a page that has memory
/// begins with its stamp or with a table of firmware's, and is not zero.
fn gdb_opens_the_core_of_a_finding() {
    let folder = built("BY_VIRTUAL_ALIGNMENT");
    let arguments =
        ["check", &ovmf_2013(), "--mapper", "mapper.elf", "--contract", "rising=on", "--core", "mapper.core"];
    let said = efibed_in(&folder, &[], &arguments).ends(FINDINGS);
    let walk = said.out.lines().find(|line| line.contains("PDE ")).unwrap();
    let words: Vec<_> = walk.split_whitespace().collect();
    let at = u64::from_str_radix(words[1].trim_start_matches("0x"), 16).unwrap();
    let script = format!("x/gx {:#x}\nx/gx 0x30000000f000\n", at + 0x3000_0000_0000);
    in_batch(&folder, &script, &["mapper.elf", "mapper.core"]).in_order(&[&format!("\t{}", words[2])]);
    let size = fs::metadata(folder.0.join("mapper.core")).unwrap().len();
    assert!(size < 65 << 20, "{size}");
}

/// Of a fault and of a finding, with breakpoints set: the core has the code's own bytes, and the registers at the halt.
fn a_core_under_gdb_is_that_of_a_run_without() {
    for attack in ["WRITE_NULL", "BY_VIRTUAL_ALIGNMENT"] {
        let folder = built(attack);
        let map = ovmf_2013();
        efibed_in(&folder, &[], &["check", &map, "--mapper", "mapper.elf", "--core", "alone.core"]).ends(FINDINGS);
        let bed = Bed::start(&folder, &map, "mapper.elf", &["--core", "halted.core"]);
        bed.gdb("break write_to\nbreak efibed_map\ncontinue\ncontinue\ncontinue\ncontinue\n", "mapper.elf");
        let ended = bed.end();
        assert_eq!(ended.status.code(), Some(FINDINGS), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("halted.core: "), "{ended:?}");
        let [alone, halted] = ["alone.core", "halted.core"].map(|name| fs::read(folder.0.join(name)).unwrap());
        assert!(of_program(&alone) == of_program(&halted), "{attack}: the program's memory or its registers differ");
    }
}

/// Of a core, what is the program's: its notes, with registers, and its segments, by address (ELF-64 program headers).
fn of_program(core: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let word = |at: usize| u64::from_le_bytes(core[at..at + 8].try_into().unwrap());
    let count = u16::from_le_bytes(core[56..58].try_into().unwrap());
    let headers = (0..usize::from(count)).map(|nth| 64 + 56 * nth);
    let parts = headers.map(|at| (word(at + 16), core[word(at + 8) as usize..][..word(at + 32) as usize].to_vec()));
    let parts: Vec<_> = parts.filter(|(virt, _)| *virt == 0 || (0x40_0000..0x50_0000).contains(virt)).collect();
    assert!(parts.len() >= 3, "notes, code and data: {}", parts.len());
    parts
}

/// GetTime writes to where nothing is mapped, in ring 0. What gdb shows of ring 3 is not of that.
fn a_fault_of_firmware_is_told_with_its_own_registers() {
    let folder = built("NOTHING");
    let bed = Bed::start(&folder, &ovmf_2013(), "mapper.elf", &["--firmware", "faults=write:0x386aae88@GetTime"]);
    bed.gdb("continue\nmonitor findings\ncontinue\n", "mapper.elf").in_order(&[
        "SIGUSR1",
        "firmware-fault: firmware's GetTime",
        "GetTime of firmware met #PF 0x2",
        "at 0x386aae88 in ring 0, at RIP 0x",
        "gdb's registers are not of ring 0",
        "exited with code 01",
    ]);
    assert_eq!(bed.end().status.code(), Some(FINDINGS));
}

/// Where this test, run again by itself, waits for gdb.
const PLACE: &str = "EFIBED_TEST_GDB_PLACE";

/// Mapping code that does nothing but to look at what it was given, and that maps nothing.
#[derive(Clone)]
struct Looker {
    looks: u64,
}

impl Mapper for Looker {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        for region in context.memory_map.iter() {
            look_at(&mut self.looks, region.phys_start);
        }
        Ok(context.space)
    }
}

#[inline(never)]
fn look_at(looks: &mut u64, phys_start: u64) {
    *looks += phys_start;
}

fn map_under_gdb(place: &str) {
    let scenario = Scenario::new(MemoryMap::read(ovmf_2013().as_ref()).unwrap()).mapper(Looker { looks: 7 });
    let scenario = scenario.stretch_limit(Duration::from_secs(1));
    let report = TestBed::new().unwrap().run_under_gdb(&scenario, place).unwrap();
    println!("{}", report.headline());
}

fn mapping_code_of_a_test_has_its_symbols() {
    let folder = Directory::new();
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(&own);
    command.env(PLACE, format!("unix:{}", folder.file("socket"))).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (socket, stderr) = place_told(&mut child);
    child.stderr = Some(stderr);
    let bed = Bed { child: Some(child), folder: &folder, socket };
    let script = "break gdb::look_at\ncontinue\nshell sleep 2\nprint *looks\nprint/x phys_start\nbacktrace 3\ncontinue\nprint/x phys_start\ndelete\n\
                  continue\nmonitor findings\ncontinue\n";
    // The first two regions of the map.
    bed.gdb(script, own.to_str().unwrap()).in_order(&[
        "Breakpoint 1, gdb::look_at",
        "$1 = 7",
        "$2 = 0x800000",
        "#1 ",
        "::map (self=",
        "$3 = 0x7c000000",
        "SIGUSR1",
        "not-mapped",
        "exited with code 01",
    ]);
    let ended = bed.end();
    assert_eq!(ended.status.code(), Some(CLEAN), "{ended:?}");
    // Nothing of the limit of a second, though somebody has looked at it for two.
    let headline = String::from_utf8(ended.stdout).unwrap();
    assert!(headline.contains("not-mapped") && !headline.contains("watchdog"), "{headline}");
    assert_eq!(folder.names(), [""; 0]);
}

fn a_clean_run_has_no_core() {
    let folder = Directory::new();
    let said =
        efibed_in(&folder, &[], &["check", &ovmf_2013(), "--layout", "window", "--core", "none.core"]).ends(CLEAN);
    said.has(&said.err, &["none.core is not written"]);
    assert_eq!(folder.names(), [""; 0]);
}

fn what_makes_no_sense_is_refused() {
    let map = ovmf_2013();
    for (arguments, told) in [
        (&["--gdb", "nowhere"][..], "expected unix:PATH, HOST:PORT"),
        (&["--gdb", "unix:"], "expected unix:PATH, HOST:PORT"),
        (&["--gdb", ":0", "--engine", "walker"], "--gdb needs the engine kvm"),
        (&["--core", "/tmp/core", "--engine", "walker"], "--core needs the engine kvm"),
        (&[&map, &repository("maps/over-2g.toml"), "--gdb"], "--gdb is for one map"),
        (&["--gdb", "unix:/proc/efibed"], "--gdb: /proc/efibed: "),
    ] {
        efibed([&["check", &map], arguments].concat()).ends(BAD_INPUT).complains(&[told]);
    }
    // What is there already is somebody's.
    let folder = Directory::new();
    fs::write(folder.0.join("socket"), "kept").unwrap();
    let place = format!("unix:{}", folder.file("socket"));
    efibed(["check", &map, "--gdb", &place]).ends(BAD_INPUT).complains(&["Address already in use"]);
    assert_eq!(fs::read_to_string(folder.0.join("socket")).unwrap(), "kept");
}

fn ovmf_2013() -> String {
    repository("maps/ovmf-2013.toml")
}

fn hostile() -> String {
    repository("programs/hostile.c")
}

/// Options that give the names of attacks their numbers.
fn attacks(names: &[&str]) -> Vec<String> {
    let numbered = |(number, name): (usize, &&str)| format!("-D{name}={}", number + 1);
    names.iter().enumerate().map(numbered).collect()
}

/// A folder with tests/programs/hostile.c, which makes this attack, as mapper.elf.
fn built(attack: &str) -> Directory {
    let folder = Directory::new();
    let compiler = format!("cc -DATTACK={attack} {}", attacks(&[attack]).join(" "));
    compiled(&folder, "mapper.elf", attack, || {
        efibed_in(&folder, &[("CC", &compiler)], &["build", &hostile(), "-o", "mapper.elf"]).ends(CLEAN);
    });
    folder
}

/// A program in a folder: compiled, or taken from where an earlier run has kept it under this name.
fn compiled(folder: &Directory, program: &str, name: &str, compile: impl FnOnce()) {
    let program = folder.0.join(program);
    let Some(kept) = std::env::var_os("EFIBED_COMPILED").map(|kept| Path::new(&kept).join(name)) else {
        return compile();
    };
    if kept.exists() {
        fs::copy(kept, program).unwrap();
    } else {
        compile();
        // Another test that looks for it sees it whole.
        let begun = kept.with_file_name(folder.0.file_name().unwrap());
        fs::copy(program, &begun).unwrap();
        fs::rename(begun, kept).unwrap();
    }
}

/// `efibed check --gdb`, waiting.
struct Bed<'a> {
    /// None: it has ended.
    child: Option<Child>,
    folder: &'a Directory,
    socket: String,
}

impl<'a> Bed<'a> {
    fn start(folder: &'a Directory, map: &str, mapper: &str, arguments: &[&str]) -> Self {
        let socket = folder.file("socket");
        let place = format!("unix:{socket}");
        let own = ["check", map, "--mapper", mapper, "--quiet", "--gdb", &place];
        let mut child = Self::waiting(folder, &[&own, arguments].concat());
        child.stderr = Some(place_told(&mut child).1);
        Self { child: Some(child), folder, socket }
    }

    fn waiting(folder: &Directory, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
        command.args(arguments).current_dir(&folder.0).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A session.
    fn gdb(&self, script: &str, program: &str) -> Session {
        let connect = format!("set pagination off\ntarget remote {}\n", self.socket);
        in_batch(self.folder, &(connect + script), &[program])
    }

    /// A session that goes on after a command that fails.
    fn gdb_each(&self, script: &str, program: &str) -> Session {
        let connect = format!("target remote {}", self.socket);
        let commands: Vec<_> =
            [&connect[..]].into_iter().chain(script.lines()).flat_map(|line| ["-ex", line]).collect();
        said_by_gdb(self.folder, &commands, &[program])
    }

    fn end(mut self) -> Output {
        ended(self.child.take().unwrap())
    }
}

/// A test that has failed leaves nobody who waits for gdb.
impl Drop for Bed<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where it waits, once it does. It is told on the first line of standard error, and another one follows.
fn place_told(child: &mut Child) -> (String, ChildStderr) {
    let mut told = BufReader::with_capacity(1, child.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    let place = line.trim_end().strip_prefix("efibed: waiting for gdb: (gdb) target remote ");
    (place.unwrap_or_else(|| panic!("{line}")).to_owned(), told.into_inner())
}

/// Waits for a command's end, and kills it if there is none.
fn ended(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it hangs: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// What gdb printed.
struct Session(String);

impl Session {
    /// It has these parts, one after another.
    #[track_caller]
    fn in_order(&self, parts: &[&str]) {
        let mut rest = &self.0[..];
        for part in parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("no `{part}` there:\n{rest}\nin\n{}", self.0));
            rest = &rest[at + part.len()..];
        }
    }
}

fn in_batch(folder: &Directory, script: &str, files: &[&str]) -> Session {
    let path = folder.0.join("script.gdb");
    fs::write(&path, script).unwrap();
    let said = said_by_gdb(folder, &["-x", "script.gdb"], files);
    fs::remove_file(path).unwrap();
    said
}

fn said_by_gdb(folder: &Directory, commands: &[&str], files: &[&str]) -> Session {
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch"]).args(commands).args(files).current_dir(&folder.0).stdin(Stdio::null());
    // Both in one file, so that they are in order.
    let said = folder.0.join("said");
    let file = fs::File::create(&said).unwrap();
    ended(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap());
    let text = String::from_utf8_lossy(&fs::read(&said).unwrap()).into_owned();
    fs::remove_file(said).unwrap();
    Session(text)
}

/// gdb's side of its protocol, by hand.
struct Remote(UnixStream);

impl Remote {
    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.answer()
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).unwrap();
    }

    /// The next packet, which is acknowledged.
    fn answer(&mut self) -> String {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut byte = || {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            byte[0]
        };
        while byte() != b'$' {}
        let mut packet = Vec::new();
        loop {
            match byte() {
                b'#' => break,
                other => packet.push(other),
            }
        }
        let _ = (byte(), byte());
        self.0.write_all(b"+").unwrap();
        expanded(&packet)
    }
}

/// Run-length encoding undone: `0*` and a character that counts from 29 on.
fn expanded(packet: &[u8]) -> String {
    let mut text = String::new();
    let mut bytes = packet.iter();
    while let Some(&byte) = bytes.next() {
        match (byte, text.chars().last()) {
            (b'*', Some(last)) => {
                let count = usize::from(*bytes.next().unwrap()) - 29;
                text.extend(std::iter::repeat_n(last, count));
            }
            _ => text.push(byte.into()),
        }
    }
    text
}

/// The files of the page: a block's name is the line above it.
fn files_of(page: &str) -> &'static BTreeMap<String, String> {
    static FILES: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = BTreeMap::new();
        let (mut above, mut lines) = ("", page.lines());
        while let Some(line) = lines.next() {
            if line.starts_with("```") {
                let text = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
                if let Some(name) = above.strip_prefix('`').and_then(|line| line.strip_suffix("`:")) {
                    files.insert(name.to_owned(), text);
                }
            } else if !line.is_empty() {
                above = line;
            }
        }
        files
    })
}
