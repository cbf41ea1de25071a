//! `efibed build`: mapping code in C, C++ or assembler, made into a program for the guest.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use tempfile::TempDir;

use super::message::tell;
use super::output::{self, OutputFile};
use super::{Failure, Status};
use crate::guest::process::program::{FINISH, MAP};
use crate::guest::process::{Program, Segment};

/// The arguments of `build`.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Sources: C (.c), C++ (.cc, .cpp, .cxx) and assembler (.s, .S), compiled one by one and linked together
    #[arg(value_name = "SOURCE", required_unless_present = "header")]
    sources: Vec<PathBuf>,

    /// The program to write, whole or not at all [default: the first source's name with .elf, in the current folder]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Have the program count what it runs: `efibed fuzz` goes on from maps that make it run something new
    #[arg(long)]
    coverage: bool,

    /// Print efibed.h, which says what mapping code gets and what it returns, and compile nothing
    #[arg(long, exclusive = true)]
    header: bool,
}

const EXAMPLES: &str = "\
Examples:
  efibed build mapper.c                             makes mapper.elf
  efibed check MAP --mapper mapper.elf              and runs it under a memory map
  efibed build mapper.cpp tables.S -o paper.elf     several sources
  CC='clang -Wall' efibed build mapper.c            with another compiler
  efibed build --coverage mapper.c                  for `efibed fuzz --mapper mapper.elf`

mapper.c defines `efibed_map`, which builds page tables, and may define
`efibed_finish`, which is called after SetVirtualAddressMap; in C++ both are
extern \"C\". `#include \"efibed.h\"` says what they get. There is no C library: what
the code calls, memcpy too, must be in the sources.

The compiler is $CC, or else cc; for C++ $CXX, or else c++. The options are
-O2 -g -ffreestanding -fno-stack-protector, in C++ -fno-exceptions -fno-rtti too,
-ffile-prefix-map, with which the same sources make the same bytes in any folder,
and to link -static -nostdlib -z noexecstack -e efibed_map. Any program that is
linked so will do. With --coverage GCC gets -fsanitize-coverage=trace-pc, and
clang -fsanitize-coverage=edge,inline-8bit-counters.

Exit status: 0 made, 2 the sources do not compile or make no mapper, 3 no compiler.";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    if arguments.header {
        output::print(efibed_guest::HEADER)?;
        return Ok(Status::Clean);
    }
    let sources = arguments.sources.iter().map(|path| Source::of(path)).collect::<Result<Vec<_>, _>>()?;
    let path = arguments.output.clone().unwrap_or_else(|| program_of(&arguments.sources));
    let inputs: Vec<&Path> = arguments.sources.iter().map(PathBuf::as_path).collect();
    // First, so that a path where nothing can be written costs no compilation.
    let file = OutputFile::open(&path, &inputs)?;
    let bytes = Workshop::new()?.make(&sources, arguments.coverage)?;
    let name = path.display();
    let program = Program::load(&bytes)
        .map_err(|error| Failure::Output(format!("{name} is not written: what was linked {error}")))?;
    file.write(&bytes).map_err(Failure::Output)?;
    output::print(&format!("{name}: {}\n", summary(&program)))?;
    program.notes.iter().for_each(|note| tell(&format!("efibed: {name}: {note}")));
    Ok(Status::Clean)
}

/// `mapper.elf` for `sources/mapper.c`, in the current folder, as compilers do it.
fn program_of(sources: &[PathBuf]) -> PathBuf {
    let stem = sources.first().and_then(|source| source.file_stem()).unwrap_or(OsStr::new("mapper"));
    Path::new(stem).with_added_extension("elf")
}

/// `efibed_map at 0x401000, no efibed_finish; 0x400000 r-- 4 KiB, 0x401000 r-x 4 KiB`
fn summary(program: &Program) -> String {
    let finish = program.finish.map_or(format!("no {FINISH}"), |virt| format!("{FINISH} at {virt:#x}"));
    let segments: Vec<_> = program.segments.iter().map(segment).collect();
    let coverage = if program.counters.is_empty() { "" } else { "; counts what it runs" };
    format!("{MAP} at {:#x}, {finish}; {}{coverage}", program.map, segments.join(", "))
}

fn segment(segment: &Segment) -> String {
    let Segment { virt, bytes, writable, executable } = segment;
    let [writable, executable] =
        [(writable, 'w'), (executable, 'x')].map(|(has, letter)| if *has { letter } else { '-' });
    format!("{virt:#x} r{writable}{executable} {} KiB", bytes.len() / 1024)
}

/// A language: how its sources are named, and what compiles them.
struct Language {
    extensions: &'static [&'static str],
    /// The variable that names the compiler, and its usual name.
    compiler: [&'static str; 2],
    /// What to install.
    package: &'static str,
    options: &'static [&'static str],
}

/// The C compiler also takes assembler.
const C: Language = Language { extensions: &["c", "s", "S"], compiler: ["CC", "cc"], package: "gcc", options: &[] };

const CPP: Language = Language {
    extensions: &["cc", "cpp", "cxx"],
    compiler: ["CXX", "c++"],
    package: "g++",
    options: &["-fno-exceptions", "-fno-rtti"],
};

/// A stack protector needs a thread's own storage, and there are no threads.
const COMPILE: [&str; 5] = ["-c", "-O2", "-g", "-ffreestanding", "-fno-stack-protector"];

/// Without noexecstack, assembler that does not speak of the stack draws a warning from the linker.
const LINK: [&str; 6] = ["-static", "-nostdlib", "-z", "noexecstack", "-e", MAP];

struct Source<'a> {
    path: &'a Path,
    language: &'static Language,
}

impl<'a> Source<'a> {
    fn of(path: &'a Path) -> Result<Self, Failure> {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let language = [&C, &CPP].into_iter().find(|language| language.extensions.contains(&extension));
        let language = language.ok_or_else(|| {
            let what = "is no source that can be compiled: expected .c, .s, .S, .cc, .cpp or .cxx";
            Failure::Output(format!("{}: {what}", path.display()))
        })?;
        Ok(Self { path, language })
    }
}

impl Language {
    /// Runs its compiler, which says itself what is wrong. It may take as long as it likes: who runs a compiler can
    /// stop it.
    fn run(&self, arguments: &[&OsStr], what: &str) -> Result<(), Failure> {
        self.output(arguments, what, Stdio::inherit()).map(drop)
    }

    /// The options with which its compiler makes code that counts.
    fn counting(&self) -> Result<&'static str, Failure> {
        let defined = ["-dM", "-E", "-x", "c", "/dev/null"].map(OsStr::new);
        let defined = self.output(&defined, "say what it is", Stdio::piped())?;
        let is_clang = String::from_utf8_lossy(&defined).contains("__clang__");
        Ok(if is_clang { "-fsanitize-coverage=edge,inline-8bit-counters" } else { "-fsanitize-coverage=trace-pc" })
    }

    /// What its compiler writes.
    fn output(&self, arguments: &[&OsStr], what: &str, to: Stdio) -> Result<Vec<u8>, Failure> {
        let [variable, usual] = self.compiler;
        let command = std::env::var(variable).unwrap_or_default();
        // It may have options, as make has it.
        let mut words = command.split_whitespace();
        let compiler = words.next().unwrap_or(usual);
        let mut command = Command::new(compiler);
        command.args(words).args(arguments).stdin(Stdio::null()).stdout(to).stderr(Stdio::inherit());
        let failed = |status, words| Err(Failure::Told { status, words });
        match command.output() {
            Ok(output) if output.status.success() => Ok(output.stdout),
            Ok(_) => failed(Status::BadInput, format!("efibed: `{compiler}` failed to {what}")),
            Err(error) => failed(
                Status::Unable,
                format!(
                    "efibed: the compiler `{compiler}` does not run: {error}\n  install one (the package is usually \
                     `{}`), or name yours in the variable {variable}",
                    self.package
                ),
            ),
        }
    }
}

/// A folder for what is made on the way, removed at the end.
struct Workshop(TempDir);

impl Workshop {
    /// With the files in it that sources have of efibed.
    fn new() -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("efibed-build-").tempdir();
        let folder = folder.map_err(|error| unable("a temporary folder", &error))?;
        for (name, text) in [("efibed.h", efibed_guest::HEADER), (COVERAGE, efibed_guest::COVERAGE)] {
            fs::write(folder.path().join(name), text).map_err(|error| unable(name, &error))?;
        }
        Ok(Self(folder))
    }

    /// Compiles and links.
    fn make(&self, sources: &[Source], counts: bool) -> Result<Vec<u8>, Failure> {
        let objects = sources.iter().enumerate().map(|(index, source)| self.compile(index, source, counts));
        let mut objects = objects.collect::<Result<Vec<_>, _>>()?;
        if counts {
            let path = self.0.path().join(COVERAGE);
            objects.push(self.compile(objects.len(), &Source { path: &path, language: &C }, false)?);
        }
        let program = self.0.path().join("program.elf");
        let mut arguments: Vec<&OsStr> = LINK.map(OsStr::new).to_vec();
        arguments.extend(objects.iter().map(|object| object.as_os_str()));
        arguments.extend([OsStr::new("-o"), program.as_os_str()]);
        // Nothing of C++ is linked in, so that any compiler can link.
        let language = sources.first().map_or(&C, |source| source.language);
        language.run(&arguments, "link the program")?;
        fs::read(&program).map_err(|error| unable("the linked program", &error))
    }

    fn compile(&self, index: usize, source: &Source, counts: bool) -> Result<PathBuf, Failure> {
        // Sources in two folders may have one name.
        let object = self.0.path().join(format!("{index}.o"));
        let mut include = OsString::from("-I");
        include.push(self.0.path());
        let renamed = self.renamed()?;
        let mut arguments: Vec<&OsStr> = COMPILE.iter().chain(source.language.options).map(OsStr::new).collect();
        arguments.extend(renamed.iter().map(OsString::as_os_str));
        if counts {
            arguments.push(OsStr::new(source.language.counting()?));
        }
        arguments.extend([&include, OsStr::new("-o"), object.as_os_str(), source.path.as_os_str()]);
        source.language.run(&arguments, &format!("compile {}", source.path.display()))?;
        Ok(object)
    }

    /// Debug information names the current folder and this one `.`: so it is the same wherever the sources are built, and
    /// debuggers show `efibed.h`. This folder comes last, as it may be in the other one.
    fn renamed(&self) -> Result<[OsString; 2], Failure> {
        let current = std::env::current_dir().map_err(|error| unable("the current folder", &error))?;
        Ok([current.as_path(), self.0.path()].map(|folder| {
            let mut option = OsString::from("-ffile-prefix-map=");
            option.push(folder);
            option.push("=.");
            option
        }))
    }
}

/// The source of what counts.
const COVERAGE: &str = "coverage.c";

fn unable(what: &str, error: &std::io::Error) -> Failure {
    Failure::Told { status: Status::Unable, words: format!("efibed: {what}: {error}") }
}
