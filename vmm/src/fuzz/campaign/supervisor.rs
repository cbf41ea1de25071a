//! The process that was started by a person: it starts clients, passes on what they find, writes it to files, and starts
//! another client where one died.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::env;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{self, Child, ChildStderr, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libafl_bolts::llmp::{Listener, LlmpBroker};
use libafl_bolts::shmem::{ShMemProvider as _, StdShMem};
use libafl_bolts::tuples::tuple_list;
use vmm_sys_util::signal::register_signal_handler;

use super::client::{CLIENT_FAILED, Orders, VARIABLE};
use super::folder::Folder;
use super::input::MapInput;
use super::post::{Post, PostHook};
use super::segments::Segments;
use super::slate::{Slate, Word};
use super::summary::{Status, Summary};
use super::{Fuzz, FuzzError};
use crate::fuzz::saved::Writer;
use crate::{EngineName, TestBed};

/// How long a client may take to come to its end when it is told to.
const GRACE: Duration = Duration::from_secs(5);
/// How often everything is looked at.
const TICK: Duration = Duration::from_millis(5);
/// How often a person is told.
const TELL: Duration = Duration::from_millis(250);
/// Clients that die, in all: more would not do better.
const MAX_DEATHS: u64 = 1000;
/// Clients in a row that die before they have run a map: the next would too.
const MAX_BARREN: u64 = 20;
/// Bytes of what a client said that are kept.
const MAX_WORDS: usize = 1 << 14;
/// How long to wait for the end of what a client said that has ended. It is in the pipe already, and read at once; but a process
/// that the mapping code has left behind may keep the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a campaign to its end, and tells of it as it goes.
pub fn run(fuzz: &Fuzz, tell: &dyn Fn(&Status)) -> Result<Summary, FuzzError> {
    let mut campaign = Campaign::begin(fuzz)?;
    let mut told = Instant::now();
    while !campaign.is_over() {
        campaign.work()?;
        if told.elapsed() >= TELL {
            told = Instant::now();
            tell(&campaign.status());
        }
        thread::sleep(TICK);
    }
    campaign.end()
}

struct Campaign<'f> {
    fuzz: &'f Fuzz,
    folder: Folder,
    broker: LlmpBroker<(PostHook, ()), StdShMem, Segments>,
    port: u16,
    post: Rc<RefCell<Post>>,
    clients: Vec<Client>,
    /// Of clients that are gone.
    before: Status,
    started: Instant,
    /// How many clients were started.
    number: u64,
    /// Those that last died, and had run no map.
    barren: u64,
    saved: Vec<PathBuf>,
    /// Findings that clients which are gone have told of, and those that came in.
    told: u64,
    heard: u64,
    /// No client takes another's place any more.
    is_ending: bool,
}

struct Client {
    process: Child,
    slate: Slate,
    runs: u64,
    /// Whether it was ended because its map took too long.
    is_hung: bool,
    /// What it says on its standard error.
    words: Option<Words>,
}

impl<'f> Campaign<'f> {
    fn begin(fuzz: &'f Fuzz) -> Result<Self, FuzzError> {
        stop_at_signals()?;
        let folder = Folder::open(&fuzz.out)?;
        // What is wrong with them is told before anything is started.
        folder.corpus()?;
        let port = fuzz.listen.unwrap_or(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| FuzzError::Port(port, error))?;
        let port = listener.local_addr().map_err(FuzzError::Process)?.port();
        let post = Rc::default();
        let hooks = tuple_list!(PostHook(Rc::clone(&post)));
        let mut broker = LlmpBroker::new(Segments::new()?, hooks)?;
        // Before there is a listener, which counts clients by itself from then on: it would give the first local one the
        // number that this connection has, and nothing would pass between the two.
        if let Some(other) = &fuzz.broker {
            let joined = broker.inner_mut().connect_b2b(other.as_str());
            joined.map_err(|error| FuzzError::Broker(other.clone(), error.to_string()))?;
        }
        broker.inner_mut().launch_listener(Listener::Tcp(listener))?;
        let mut campaign = Self {
            fuzz,
            folder,
            broker,
            port,
            post,
            clients: Vec::new(),
            before: Status::default(),
            started: Instant::now(),
            number: 0,
            barren: 0,
            saved: Vec::new(),
            told: 0,
            heard: 0,
            is_ending: false,
        };
        for core in 0..fuzz.cores as u64 {
            campaign.start(share(fuzz.runs, core, fuzz.cores as u64))?;
        }
        Ok(campaign)
    }

    /// Starts this program again, which then finds its orders.
    fn start(&mut self, runs: u64) -> Result<(), FuzzError> {
        let (slate, file) = Slate::new().map_err(FuzzError::Process)?;
        let orders = Orders { port: self.port, number: self.number, runs, parent: process::id() };
        let mut command = Command::new(env::current_exe().map_err(FuzzError::Process)?);
        command.args(env::args_os().skip(1)).env(VARIABLE, orders.to_text());
        command.stdin(file).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C is for the supervisor, which then tells its clients.
        let mut process = command.process_group(0).spawn().map_err(FuzzError::Process)?;
        let words = process.stderr.take().map(Words::of);
        self.number += 1;
        self.clients.push(Client { process, slate, runs, is_hung: false, words });
        Ok(())
    }

    fn is_over(&self) -> bool {
        let is_late = self.fuzz.time.is_some_and(|limit| self.started.elapsed() >= limit);
        is_late || STOP.load(Ordering::Relaxed) || self.clients.is_empty()
    }

    fn work(&mut self) -> Result<(), FuzzError> {
        self.broker.broker_once()?;
        self.file()?;
        let limit = self.fuzz.hang_limit();
        for client in &mut self.clients {
            if client.slate.running_for().is_some_and(|time| time > limit) {
                client.is_hung = true;
                // It may have ended just now.
                let _ = client.process.kill();
            }
        }
        let mut at = 0;
        while at < self.clients.len() {
            match self.clients[at].process.try_wait().map_err(FuzzError::Process)? {
                None => at += 1,
                Some(status) => {
                    let client = self.clients.remove(at);
                    self.bury(client, status)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what came in to files.
    fn file(&mut self) -> Result<(), FuzzError> {
        let Post { findings, corpus } = self.post.take();
        for told in findings {
            self.heard += 1;
            self.save(&told.name()?, &told.toml)?;
        }
        corpus.iter().try_for_each(|input| self.folder.save_map(input).map(drop))
    }

    fn save(&mut self, name: &str, toml: &str) -> Result<(), FuzzError> {
        self.saved.extend(self.folder.save_finding(name, toml)?);
        Ok(())
    }

    /// Counts what a client did that has ended. If it died, the map that it ran is a finding, and another one takes its place.
    fn bury(&mut self, mut client: Client, status: ExitStatus) -> Result<(), FuzzError> {
        self.before.add(&client.slate);
        self.told += client.slate.get(Word::Told);
        // Mapping code may end the process too, and say whatever it likes by that; so may the program that has it.
        let was_running = client.slate.running_for().is_some();
        let mut done = client.slate.get(Word::Runs);
        if status.success() && !was_running && (self.is_ending || done >= client.runs) {
            return Ok(());
        }
        let words = client.words.take().map(Words::last).unwrap_or_default();
        if status.code() == Some(CLIENT_FAILED) && !was_running {
            return Err(FuzzError::Client(words.trim_end().into()));
        }
        self.before.died += 1;
        if self.before.died > MAX_DEATHS {
            return Err(FuzzError::Client(format!("{MAX_DEATHS} others had died before it ({status})\n{words}")));
        }
        if let Some(input) = client.slate.interrupted() {
            let how = if client.is_hung { "ended-by-hanging".into() } else { how_it_ended(status) };
            self.autopsy(&input, &how, &words)?;
            self.before.runs += 1;
            done = done.saturating_add(1);
        } else if was_running {
            return Err(FuzzError::Client(format!(
                "it ended, and left no word of the map that it ran ({status})\n{words}"
            )));
        }
        self.barren = if done == 0 { self.barren + 1 } else { 0 };
        if self.barren == MAX_BARREN {
            return Err(FuzzError::Client(format!("it ended before it had run a map ({status})\n{words}")));
        }
        let left = client.runs.saturating_sub(done);
        if left > 0 && !self.is_ending { self.start(left) } else { Ok(()) }
    }

    /// Runs the map again where mapping code is confined: a guest says which instruction it was, and what is wrong. If there is
    /// none, or it finds nothing, the map is a finding as it is. So it is where the process itself was confined: what ended it
    /// may have got the better of the guest, and this process can do more.
    fn autopsy(&mut self, input: &MapInput, how: &str, words: &str) -> Result<(), FuzzError> {
        let (judge, bed) = (self.fuzz.judge(), TestBed::without_kvm());
        let map = judge.as_told(input.to_map());
        let scenario = self.fuzz.scenario.clone().with_map(map.clone()).engine(EngineName::Kvm);
        let writer = Writer::new(&scenario);
        if self.fuzz.confine.is_some() {
            let what = format!("{how}: the process that ran the map, confined, ended so. {words}");
            let told = "It was not run again: `efibed check` runs this file, in a sandbox of its own.";
            return self.save(how, &writer.text(&what, told, &map));
        }
        let report = bed.run(&scenario);
        let counted = |report| judge.counted(&scenario, report, |scenario| bed.run(scenario).ok());
        let keys = report.as_ref().map(counted).unwrap_or_default();
        if let Ok(report) = &report {
            for key in &keys {
                self.save(&key.to_string(), &writer.finding(key, report, &map))?;
            }
        }
        if keys.is_empty() {
            let guest = report.map_or_else(|error| format!("no guest ran it: {error}"), |report| report.to_string());
            let what = format!("{how}: the process in which the mapping code ran natively ended so. {words}");
            self.save(how, &writer.text(&what, &guest, &map))?;
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let mut status = self.before.clone();
        self.clients.iter().for_each(|client| status.add(&client.slate));
        status.findings = self.saved.len() as u64;
        status.elapsed = self.started.elapsed();
        status
    }

    /// Has all clients come to their end, and says what was found.
    fn end(mut self) -> Result<Summary, FuzzError> {
        self.is_ending = true;
        self.clients.iter().for_each(|client| client.slate.set(Word::Stop, 1));
        let asked = Instant::now();
        while asked.elapsed() < GRACE + self.fuzz.hang_limit() && (!self.clients.is_empty() || self.heard < self.told) {
            self.work()?;
            thread::sleep(TICK);
        }
        // What clients had sent when they ended. The first look may only find that there was one more client.
        for _ in 0..2 {
            self.work()?;
        }
        let told = self.clients.iter().fold(self.told, |told, client| told + client.slate.get(Word::Told));
        if self.heard < told {
            return Err(FuzzError::Lost(told - self.heard));
        }
        let status = self.status();
        let name = |path: &PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
        let mut findings: Vec<String> = self.saved.iter().filter_map(name).collect();
        findings.sort();
        Ok(Summary { status, seed: self.fuzz.seed, findings, saved: self.saved })
    }
}

/// No client outlives its campaign, whichever way that ends.
impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a client says, read as it comes, so that it never waits for a reader.
struct Words {
    said: Arc<Mutex<VecDeque<u8>>>,
    reader: JoinHandle<()>,
}

impl Words {
    fn of(mut errors: ChildStderr) -> Self {
        let said = Arc::<Mutex<VecDeque<u8>>>::default();
        let heard = Arc::clone(&said);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut buffer) {
                let mut words = heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                words.extend(&buffer[..count]);
                // A client's own words are short, but the mapping code may say anything.
                let more = words.len().saturating_sub(MAX_WORDS);
                words.drain(..more);
            }
        });
        Self { said, reader }
    }

    /// The end of what a client said that has ended. Where its standard error stays open, the reader is left to itself.
    fn last(self) -> String {
        let asked = Instant::now();
        while !self.reader.is_finished() && asked.elapsed() < LAST_WORDS {
            thread::sleep(TICK);
        }
        let mut words = self.said.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        String::from_utf8_lossy(words.make_contiguous()).into_owned()
    }
}

/// A file's name that says how a process ended.
fn how_it_ended(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("ended-by-signal-{signal}"),
        None => format!("ended-with-status-{}", status.code().unwrap_or_default()),
    }
}

/// A client's part of the runs.
fn share(runs: Option<u64>, core: u64, cores: u64) -> u64 {
    runs.map_or(u64::MAX, |runs| runs / cores + u64::from(core < runs % cores))
}

static STOP: AtomicBool = AtomicBool::new(false);

/// SIGINT and SIGTERM end the campaign, with its summary.
fn stop_at_signals() -> Result<(), FuzzError> {
    extern "C" fn stop(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        STOP.store(true, Ordering::Relaxed);
    }
    STOP.store(false, Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        register_signal_handler(signal, stop).map_err(|error| FuzzError::Process(error.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_all_runs() {
        for (runs, cores) in [(0, 1), (1, 2), (7, 3), (1_000_000, 7)] {
            assert_eq!((0..cores).map(|core| share(Some(runs), core, cores)).sum::<u64>(), runs);
        }
        assert_eq!(share(None, 0, 2), u64::MAX);
    }

    /// What a shell says, and how long it took to hear it.
    fn heard_of(script: &str) -> (String, Duration) {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = shell.process_group(0).spawn().unwrap();
        let words = process.stderr.take().map(Words::of).unwrap();
        process.wait().unwrap();
        let asked = Instant::now();
        let last = words.last();
        // SAFETY: the group is the shell's, and nothing is in it but what the shell has left behind.
        unsafe { libc::killpg(process.id() as libc::pid_t, libc::SIGKILL) };
        (last, asked.elapsed())
    }

    #[test]
    fn a_process_that_is_left_behind_does_not_hold_the_campaign_up() {
        // An hour: without a deadline the test would hang.
        let (last, waited) = heard_of("echo last words >&2; sleep 3600 &");
        assert_eq!(last, "last words\n");
        assert!(waited >= LAST_WORDS, "{waited:?}: the shell left nothing behind");
    }

    #[test]
    fn of_many_words_the_last_are_kept() {
        let (last, _) = heard_of("i=0; while [ $i -lt 9000 ]; do echo word $i >&2; i=$((i+1)); done");
        assert_eq!((last.len(), last.ends_with("word 8998\nword 8999\n")), (MAX_WORDS, true));
    }
}
