//! Clean means complete: over all maps, misbehaviours, mistakes and scenarios, whatever is asked for is done, or the
//! headline says that it was not. Every service is called or accounted for, and rows and findings agree.

use std::fs;
use std::path::Path;

use efibed::check::{Phase, Rule};
use efibed::report::text::Text;
use efibed::report::{Report, RunVerdict};
use efibed::{KernelOptions, Layout, Misbehaviour, Miscall, Scenario, ServiceMisbehaviour};
use efibed_tests::*;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let name = |map: &(&str, &str)| format!("{}_is_asked_all_there_is", map.0);
    let small = HAND_WRITTEN.iter().map(|map| trial(name(map), Need::Kvm, || each_by_itself(*map)));
    let real = X86_MAPS.iter().chain(&TRUTH).enumerate();
    let real = real.map(|(index, map)| trial(name(map), Need::Kvm, move || many_at_once(*map, index)));
    let mut trials: Vec<Trial> = small.chain(real).collect();
    trials.push(trial("scenarios_are_asked_all_there_is", Need::Kvm, scenarios));
    trials.push(trial("a_headline_that_keeps_silent_is_noticed", Need::Kvm, silence_is_noticed));
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

const HAND_WRITTEN: [(&str, &str); 9] =
    [OVMF_2013, OFF_BY_PAGE, OVER_2G, OVER_64G, OVERLAP, WRAP, UNALIGNED, PAST_MAXPHYADDR, ZERO_PAGES];

/// Enough for what is asked here; whole sweeps are other tests' business.
const SWEEP: u64 = 0x100;

fn each_by_itself(map: (&str, &str)) {
    for layout in [Layout::Linux, Layout::Window] {
        let scenario = scenario(map).layout(layout).sweep_limit(SWEEP);
        judge(&scenario);
        for what in Misbehaviour::ALL.iter().copied().filter(|what| is_asked_under(*what, layout)) {
            judge(&scenario.clone().misbehave(what));
        }
    }
    Miscall::ALL.iter().for_each(|miscall| judge(&with_miscall(map, *miscall)));
}

/// What the larger maps are asked together: each by another service, so that each finds its own call.
const TOGETHER: [&str; 9] = [
    "reads-boot-services",
    "early-pointer",
    "physical-pointer@SetTime",
    "writes-page-zero@GetWakeupTime",
    "writes-code@SetWakeupTime",
    "seam@GetVariable",
    "jumps-wild@SetVariable",
    "errors@GetNextVariableName",
    "writes-boot-services",
];
/// And of those that no mapping survives one for each map, in turn.
const FATAL: [&str; 4] =
    ["executes-data@QueryVariableInfo", "faults@QueryVariableInfo", "attributes-table", "past-argument@UpdateCapsule"];

fn many_at_once(map: (&str, &str), index: usize) {
    let parse = |text: &str| text.parse::<ServiceMisbehaviour>().unwrap();
    for layout in [Layout::Linux, Layout::Window] {
        let scenario = scenario(map).layout(layout).sweep_limit(SWEEP);
        judge(&scenario);
        let together = TOGETHER.iter().fold(scenario, |scenario, text| scenario.misbehave(parse(text)));
        judge(&together.misbehave(parse(FATAL[index % FATAL.len()])));
    }
    judge(&with_miscall(map, Miscall::ALL[index % Miscall::ALL.len()]));
}

fn with_miscall(map: (&str, &str), miscall: Miscall) -> Scenario {
    let kernel = KernelOptions::default().miscall(miscall);
    scenario(map).layout(Layout::Linux).sweep_limit(SWEEP).kernel(kernel)
}

/// A hang takes its seconds, whatever the layout.
fn is_asked_under(what: Misbehaviour, layout: Layout) -> bool {
    what != Misbehaviour::NeverReturns || layout == Layout::Linux
}

fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    assert!(paths.len() >= 4);
    for path in paths {
        let scenario = Scenario::parse(&path.display().to_string(), &fs::read_to_string(&path).unwrap()).unwrap();
        judge(&scenario);
        let report = run(&scenario);
        assert!(report.passes(), "{}", text(&report));
    }
}

/// The negative control: the same run, with what was not done left out.
fn silence_is_noticed() {
    let scenario = scenario(OFF_BY_PAGE).misbehave(Misbehaviour::ReadsBootServices);
    let mut report = run(&scenario);
    assert_eq!(complaint(&scenario, &report), None);
    assert_eq!(report.verdict(), RunVerdict::Incomplete);
    report.skipped.clear();
    assert_eq!(complaint(&scenario, &report).as_deref(), Some("reads-boot-services@SetVirtualAddressMap"));

    let scenario = self::scenario(OVMF_2013);
    let mut report = run(&scenario);
    assert_eq!(complaint(&scenario, &report), None);
    report.calls.retain(|call| call.service != "SetTime");
    assert_eq!(complaint(&scenario, &report).as_deref(), Some("calls of services"));
}

fn run(scenario: &Scenario) -> Report {
    bed().run(scenario).unwrap_or_else(|error| panic!("{error}"))
}

fn judge(scenario: &Scenario) {
    let report = run(scenario);
    assert_rows_agree(&report);
    if let Some(what) = complaint(scenario, &report) {
        panic!("{what}: neither done nor told\n{}", text(&report));
    }
}

/// What was asked for and neither done nor told in the headline.
fn complaint(scenario: &Scenario, report: &Report) -> Option<String> {
    let headline = headline(report);
    let is_told = |name: &str| headline.contains(name) || (!report.findings.is_empty() && is_listed(report, name));
    let misbehaviours = scenario.firmware_options().misbehaves.iter();
    let misbehaviour = misbehaviours
        .filter(|misbehaviour| !happened(report, misbehaviour))
        .map(|misbehaviour| misbehaviour.to_string());
    let miscalls = scenario.kernel_options().miscalls.iter();
    let miscall = miscalls.filter(|miscall| !was_made(report, **miscall)).map(|miscall| miscall.name().to_owned());
    let asked = misbehaviour.chain(miscall).find(|name| !is_told(name));
    asked.or_else(|| (!are_calls_accounted_for(report)).then(|| "calls of services".into()))
}

/// Where something else was found, what was not done stands below, because the headline is not a good one.
fn is_listed(report: &Report, name: &str) -> bool {
    report.not_done().any(|row| row.what.contains(name))
}

/// A misbehaviour leaves a trace that says what firmware did: a finding, or a note where it went through.
fn happened(report: &Report, misbehaviour: &ServiceMisbehaviour) -> bool {
    let summary = misbehaviour.what().summary().trim_end_matches('.').to_lowercase();
    let messages = report.findings.iter().map(|finding| &finding.message).chain(&report.notes);
    messages.map(|message| message.to_lowercase()).any(|message| message.contains(&summary))
}

fn was_made(report: &Report, miscall: Miscall) -> bool {
    let rules: &[Rule] = match miscall {
        // Where both addresses are mapped; else it faults there.
        Miscall::PhysicalAddress => &[Rule::CallAddress],
        Miscall::OtherTables => &[Rule::CallTables],
        Miscall::MisalignedStack => &[Rule::CallStack],
        Miscall::UnmappedBuffer => &[Rule::CallBuffer, Rule::CallFault],
        Miscall::Interrupts => &[Rule::SwitchCall],
        _ => panic!("{miscall} needs a row here"),
    };
    report.findings.iter().any(|finding| rules.contains(&finding.rule))
}

/// All fourteen services on either side of the switch; or the run ended early by a finding, or the headline says that
/// none was called, or which.
fn are_calls_accounted_for(report: &Report) -> bool {
    if let Some(reason) = &report.uncalled {
        return !report.findings.is_empty() || headline(report).contains(reason.as_str());
    }
    if !report.findings.is_empty() {
        return true;
    }
    let of_phase = |phase| report.calls.iter().filter(move |call| call.phase == phase);
    let has_all = [Phase::Map, Phase::Finish].into_iter().all(|phase| of_phase(phase).count() == CALLS_AFTER.len());
    // The two that keep their physical addresses cannot be called by a kernel that has no 1:1 aliases.
    let may_be_left_out = ["ConvertPointer", "SetVirtualAddressMap"];
    let missed = report.calls.iter().filter(|call| call.rip.is_none() && !may_be_left_out.contains(&call.service));
    has_all && missed.into_iter().all(|call| headline(report).contains(&format!("a call of {}", call.service)))
}

fn headline(report: &Report) -> String {
    text(report).split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(report: &Report) -> String {
    Text::plain(report).to_string()
}
