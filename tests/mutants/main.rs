//! Mutants of the built-in layouts, each with one thing wrong, for campaigns to find.
//!
//! Run so, it tries some of them, with coverage, for a minute each at most. `--table` tries all, with coverage and blind, and
//! prints a table: `cargo test -p efibed-tests --release --test mutants -- --table [SECONDS [PART OF A NAME]]`.
//!
//! This program is the fuzz target, too, which the test starts: `--campaign LIBRARY MUTANT FOLDER`.

mod rows;

use std::env;
use std::ffi::{CString, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use efibed::fuzz::{Fuzz, FuzzEngine, keys_beyond, shrink};
use efibed::mapper::{Elsewhere, MapRequest, MapResult, Mapper, Step};
use efibed::{Contract, EngineName, Layout, MemoryMap, Scenario, TestBed};
use libtest_mimic::{Arguments, Failed, Trial};

use rows::{MUTANTS, Mutant};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--campaign", library, mutant, folder] => campaign(library.as_ref(), mutant, folder),
        ["--table"] => print_table("600", ""),
        ["--table", seconds] => print_table(seconds, ""),
        ["--table", seconds, part] => print_table(seconds, part),
        _ => test(),
    }
}

/// Some that are found soon, and none at all, which must not be found.
fn test() -> ! {
    let is_sample = |mutant: &&Mutant| SAMPLE.contains(&mutant.what);
    let trials = MUTANTS.iter().filter(is_sample).map(|mutant| {
        Trial::test(mutant.what, move || {
            let found = Workshop::new()?.try_out(mutant, true, Duration::from_secs(60))?;
            println!("{}: {found:?}", mutant.what);
            match found {
                Some(found) if found.descriptors > 3 => {
                    Err(format!("shrunk to {} descriptors", found.descriptors).into())
                }
                Some(_) => Ok(()),
                None => Err("not found".into()),
            }
        })
    });
    let trials = trials.chain([Trial::test("no mutant at all", || {
        let right = Mutant { edits: &[], what: "nothing", ..MUTANTS[0] };
        match Workshop::new()?.try_out(&right, true, Duration::from_secs(5))? {
            None => Ok(()),
            Some(found) => Err(format!("{found:?}").into()),
        }
    })]);
    let trials = trials.chain([Trial::test("every mutant changes something", || {
        for mutant in MUTANTS {
            Workshop::new()?.change(mutant)?;
        }
        Ok(())
    })]);
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}

const SAMPLE: [&str; 4] = [
    "the last region's end is taken for the highest",
    "exactly 64 GiB are refused",
    "NX is lost",
    "a run of the table that ends with its region is left out",
];

/// Those of which this is a part of what is wrong, as a table in Markdown.
fn print_table(seconds: &str, part: &str) {
    let limit = Duration::from_secs(seconds.parse().expect("a number of seconds"));
    println!("| # | what is wrong | layout | with coverage | blind | finding | descriptors, pages |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for mutant in MUTANTS.iter().filter(|mutant| mutant.what.contains(part)) {
        let tried = [true, false].map(|counts| {
            let workshop = Workshop::new().expect("a temporary folder");
            workshop.try_out(mutant, counts, limit).expect("a campaign")
        });
        let times = tried.each_ref().map(|found| match found {
            Some(found) => format!("{:.1} s", found.after.as_secs_f64()),
            None => format!("not in {} s", limit.as_secs()),
        });
        let [counted, blind] = tried;
        let (finding, shrunk) = match counted.or(blind) {
            Some(found) => (format!("`{}`", found.key), format!("{}, {}", found.descriptors, found.pages)),
            None => (mutant.equivalent.unwrap_or("").into(), String::new()),
        };
        let Mutant { kind, what, layout, .. } = mutant;
        println!("| {kind} | {what} | {layout} | {} | {} | {finding} | {shrunk} |", times[0], times[1]);
    }
}

/// What a campaign found.
#[derive(Debug)]
struct Found {
    after: Duration,
    key: String,
    /// Of the map that it was shrunk to.
    descriptors: usize,
    pages: u64,
}

/// A folder for a mutant: sources, library, campaign.
struct Workshop(PathBuf);

impl Workshop {
    fn new() -> Result<Self, Failed> {
        // Each has a name of its own: of two libraries with one name, a process gets the one that it has.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("efibed-mutant-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Runs a campaign until it finds something, and makes that small.
    fn try_out(&self, mutant: &Mutant, counts: bool, limit: Duration) -> Result<Option<Found>, Failed> {
        self.change(mutant)?;
        let library = self.compile(counts)?;
        let out = self.0.join("campaign");
        let start = Instant::now();
        let mut campaign = Campaign::start(&library, mutant, &out)?;
        let finding = loop {
            let files = fs::read_dir(out.join("findings")).into_iter().flatten().flatten();
            // A file has another name until it is whole.
            let mut whole =
                files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "toml"));
            if let Some(first) = whole.next() {
                break Some(first);
            }
            if start.elapsed() > limit {
                break None;
            }
            campaign.must_run()?;
            sleep(Duration::from_millis(5));
        };
        let after = start.elapsed();
        campaign.stop()?;
        let Some(path) = finding else { return Ok(None) };
        let key = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let scenario = fs::read_to_string(&path)?;
        // Every file of a finding has its map as TOML, and more, which is no matter here.
        let map = MemoryMap::parse(&scenario).map_err(|error| format!("{error:?}"))?;
        let small = shrunk(&library, mutant, map, &key);
        let pages = small.descriptors().iter().map(|descriptor| descriptor.page_count).fold(0, u64::saturating_add);
        Ok(Some(Found { after, key, descriptors: small.descriptors().len(), pages }))
    }

    /// Puts the mutant's sources here.
    fn change(&self, mutant: &Mutant) -> Result<(), Failed> {
        for (from, to) in [("guest-kernel/src", "guest"), ("guest-kernel/include", "include")] {
            copy(&workspace().join(from), &self.0.join(to))?;
        }
        for (file, from, to) in mutant.edits {
            let path = self.0.join("guest").join(file);
            let text = fs::read_to_string(&path)?;
            if text.matches(from).count() != 1 {
                return Err(format!("{}: not once in {file}: {from}", mutant.what).into());
            }
            fs::write(&path, text.replace(from, to))?;
        }
        Ok(())
    }

    fn compile(&self, counts: bool) -> Result<PathBuf, Failed> {
        let library = self.0.join("libmutant.so");
        let stub = workspace().join("efi-stub/src/lib.rs");
        let wrapper = workspace().join("tests/mutants/library.rs");
        let counted: &[&str] = if counts { &efibed_guest::COUNTED } else { &[] };
        self.rustc("efibed_stub", "rlib", &stub, &[])?;
        self.rustc("efibed_guest", "rlib", &self.0.join("guest/lib.rs"), counted)?;
        self.rustc("mutant", "cdylib", &wrapper, &[])?;
        Ok(library)
    }

    fn rustc(&self, name: &str, kind: &str, source: &Path, flags: &[&str]) -> Result<(), Failed> {
        let mut command = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()));
        command.env("CARGO_MANIFEST_DIR", "").current_dir(&self.0).arg(source).args(flags);
        command.args([
            "--edition=2024",
            "--cap-lints=allow",
            "-Copt-level=2",
            "-Ccodegen-units=1",
            "-Cembed-bitcode=no",
            "-L.",
        ]);
        command.args(["-Coverflow-checks=on".into(), format!("--crate-name={name}"), format!("--crate-type={kind}")]);
        let dependencies = ["efibed_stub", "efibed_guest"].into_iter().take_while(|dependency| *dependency != name);
        command.args(dependencies.map(|dependency| format!("--extern={dependency}=lib{dependency}.rlib")));
        let output = command.output()?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn copy(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// A campaign in another process, which ends with this value.
struct Campaign(Child);

impl Campaign {
    fn start(library: &Path, mutant: &Mutant, out: &Path) -> Result<Self, Failed> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--campaign").args([library.as_os_str(), mutant.what.as_ref(), out.as_os_str()]);
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    }

    fn must_run(&mut self) -> Result<(), Failed> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the campaign ended: {status}").into()),
        }
    }

    /// As Ctrl-C does.
    fn stop(mut self) -> Result<(), Failed> {
        // SAFETY: the child is there until it is waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGINT) };
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The fuzz target.
fn campaign(library: &Path, what: &str, folder: &str) {
    let mutant = MUTANTS.iter().find(|mutant| mutant.what == what).unwrap_or(&MUTANTS[0]);
    let fuzz = Fuzz::of(scenario(library, mutant)).engine(FuzzEngine::Walker).cores(CORES);
    fuzz.max_mapped_pages(mutant.max_pages).like(mutant.layout).out(folder).run().unwrap();
}

/// As many as the measure has.
const CORES: usize = 2;

fn scenario(library: &Path, mutant: &Mutant) -> Scenario {
    let empty = MemoryMap::from_descriptors("", Vec::new());
    let scenario = Scenario::new(empty).mapper(mapper(library, mutant.layout)).contract(Contract::of(mutant.layout));
    scenario.engine(EngineName::Walker).firmware_calls(false)
}

/// A run over all of the window takes a good part of a second.
const SHRINKING: Duration = Duration::from_secs(90);

/// The smallest map on which the mutant has that finding, or as small a one as there was time for.
fn shrunk(library: &Path, mutant: &Mutant, map: MemoryMap, key: &str) -> MemoryMap {
    let (bed, scenario) = (TestBed::without_kvm(), scenario(library, mutant));
    let run = |scenario: Scenario, map: &MemoryMap| bed.run(&scenario.with_map(map.clone())).ok();
    let until = Instant::now() + SHRINKING;
    let fails = |map: &MemoryMap| {
        if Instant::now() > until {
            return false;
        }
        let right = run(scenario.clone().layout(mutant.layout), map);
        let found = run(scenario.clone(), map).zip(right).map(|(report, right)| keys_beyond(&report, &right));
        found.is_some_and(|keys| keys.iter().any(|found| found.to_string() == key))
    };
    shrink(map, fails)
}

unsafe extern "C" {
    /// The one of efibed, which a library's constructors cannot see.
    safe fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8);
}

/// The mapper of a library.
fn mapper(library: &Path, layout: Layout) -> impl Mapper + Clone + Send + Sync + 'static {
    type Call = unsafe extern "C" fn(usize, bool, &MapRequest, &mut MapResult);
    type Counters = extern "C" fn(&mut usize, &mut usize);
    let path = CString::new(library.as_os_str().as_bytes()).expect("a path");
    // SAFETY: the library is `library.rs`, whose constructors change nothing but its own memory.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{} cannot be loaded", library.display());
    // SAFETY: the handle is one, and the library stays.
    let symbol = |name: &std::ffi::CStr| unsafe { libc::dlsym(handle, name.as_ptr()) };
    let [call, counters] = [symbol(c"mutant"), symbol(c"mutant_counters")];
    assert!(!call.is_null() && !counters.is_null());
    // SAFETY: `library.rs` has functions of these types under these names.
    let (call, counters) = unsafe {
        (std::mem::transmute::<*mut c_void, Call>(call), std::mem::transmute::<*mut c_void, Counters>(counters))
    };
    let (mut start, mut stop) = (0, 0);
    counters(&mut start, &mut stop);
    if start != stop {
        __sanitizer_cov_8bit_counters_init(start as *mut u8, stop as *mut u8);
    }
    let layout = Layout::ALL.iter().position(|each| *each == layout).expect("a layout");
    Elsewhere(move |step: Step, request: &MapRequest, result: &mut MapResult| {
        // SAFETY: the request is one of `carry_out`'s, whose caller vouches for it.
        unsafe { call(layout, step == Step::Finish, request, result) }
    })
}
