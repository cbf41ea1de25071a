//! The report as one JSON object, for programs.
//!
//! Keys are stable, new ones may be added. Counts, indices and vectors are numbers; addresses and bit patterns are
//! strings in hexadecimal, since not every reader of JSON has 64-bit integers.

use serde::{Deserialize, Serialize, Serializer};

use super::{CallReport, Culprit, Expected, FaultDetail, MapperName, RegionReport, Report, RunVerdict, TableDump};
use crate::check::{Finding, LeafCounts, Place, Rule, Skipped, Statement, WalkStep};
use crate::firmware::Misbehaviour;
use crate::memory_map::type_name;
use crate::mmu::{Fault, Kind, Paging, Privilege, Run};

/// The report as JSON, over many lines, with a newline at the end.
pub fn to_json(report: &Report) -> String {
    pretty(report)
}

/// The reports on a kernel and on the one it starts by kexec, as one JSON object: `{schema, verdict, first,
/// second}`.
pub fn kexec_to_json(first: &Report, second: &Report) -> String {
    let verdict = RunVerdict::of_all(&[first.verdict(), second.verdict()]).name();
    pretty(&KexecDocument { schema: SCHEMA, verdict, first, second })
}

pub(crate) fn pretty(document: &impl Serialize) -> String {
    // Every key is a string and no value can refuse: this does not fail. If it ever does, a reader is told.
    let mut text = serde_json::to_string_pretty(document)
        .unwrap_or_else(|error| serde_json::json!({ "schema": SCHEMA, "error": error.to_string() }).to_string());
    text.push('\n');
    text
}

/// What a CPU was told, or what it checks, as under `cpu_checked` of a report.
pub fn cpu(paging: &Paging) -> impl Serialize + use<> {
    CpuCheckedObject { cpu: paging.into(), reserved_fault_sets_p: paging.reserved_fault_sets_p }
}

/// As the object that [`to_json`] writes.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        document(self).serialize(serializer)
    }
}

/// The version of the keys' meaning.
pub(crate) const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct KexecDocument<'a> {
    schema: u32,
    verdict: &'static str,
    first: &'a Report,
    second: &'a Report,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    verdict: &'static str,
    expected: Option<ExpectedObject>,
    map: MapObject<'a>,
    mapper: MapperObject<'a>,
    engine: &'static str,
    cpu: CpuObject,
    cpu_checked: CpuCheckedObject,
    regions: Vec<RegionObject>,
    probes: ProbesObject,
    findings: Vec<FindingObject<'a>>,
    findings_omitted: u64,
    faults: Vec<FaultObject<'a>>,
    faults_omitted: u64,
    uncalled: Option<&'a str>,
    calls: Vec<CallObject<'a>>,
    skipped: Vec<SkippedObject<'a>>,
    notes: &'a [String],
    tables: Vec<TablesObject>,
    timing: TimingObject,
}

/// Of a phase, where they were asked for.
#[derive(Serialize)]
struct TablesObject {
    phase: &'static str,
    runs: Vec<RunObject>,
    /// Where the kernel's own mapping is: first and last address of each range.
    kernel: Vec<[Hex; 2]>,
    cut: bool,
}

#[derive(Serialize)]
struct RunObject {
    virt: Hex,
    bytes: u64,
    leaf: String,
    writable: bool,
    executable: bool,
    user: bool,
    global: bool,
    pat_index: u8,
    /// None: nothing translates.
    phys: Option<Hex>,
}

impl From<&TableDump> for TablesObject {
    fn from(dump: &TableDump) -> Self {
        let run = |run: &Run| RunObject {
            virt: Hex(run.va.0),
            bytes: run.bytes,
            leaf: run.leaf.to_string(),
            writable: run.rights.writable,
            executable: run.rights.executable,
            user: run.rights.user,
            global: run.global,
            pat_index: run.pat_index,
            phys: run.defect.is_none().then_some(Hex(run.pa.0)),
        };
        let kernel = dump.kernel.iter().map(|range| [Hex(range.start().0), Hex(range.end().0)]);
        Self {
            phase: dump.phase.name(),
            runs: dump.runs.iter().map(run).collect(),
            kernel: kernel.collect(),
            cut: dump.is_cut,
        }
    }
}

#[derive(Serialize)]
struct MapObject<'a> {
    source: &'a str,
    descriptors: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MapperObject<'a> {
    Layout { layout: &'static str, leaf_rule: &'static str },
    Function { name: &'a str },
    Elf { elf: &'a str },
}

impl<'a> From<&'a MapperName> for MapperObject<'a> {
    fn from(mapper: &'a MapperName) -> Self {
        match mapper {
            MapperName::Layout { layout, leaf_rule } => {
                Self::Layout { layout: layout.name(), leaf_rule: leaf_rule.name() }
            }
            MapperName::Function(name) => Self::Function { name },
            MapperName::Elf(elf) => Self::Elf { elf },
        }
    }
}

#[derive(Serialize)]
struct CpuObject {
    maxphyaddr: u8,
    nx: bool,
    gbpages: bool,
    la57: bool,
    smep: bool,
    smap: bool,
    pku: bool,
}

#[derive(Serialize)]
struct CpuCheckedObject {
    #[serde(flatten)]
    cpu: CpuObject,
    reserved_fault_sets_p: bool,
}

#[derive(Serialize)]
struct RegionObject {
    index: usize,
    line: Option<usize>,
    r#type: String,
    attribute: Hex,
    phys: Hex,
    pages: u64,
    virt: Option<Hex>,
    aliases: Vec<Hex>,
    leaves: LeavesObject,
    verdict: &'static str,
}

/// Leaves by size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeavesObject {
    #[serde(rename = "4k")]
    pub of_4k: u64,
    #[serde(rename = "2m")]
    pub of_2m: u64,
    #[serde(rename = "1g")]
    pub of_1g: u64,
}

/// Rules by name.
#[derive(Serialize)]
struct ExpectedObject {
    met: bool,
    findings: Vec<&'static str>,
    missing: Vec<&'static str>,
    unexpected: Vec<&'static str>,
}

#[derive(Serialize)]
struct ProbesObject {
    total: u64,
    translated: u64,
    faulted: u64,
    faulted_rightly: u64,
    pages_verified: u64,
}

#[derive(Serialize)]
struct FindingObject<'a> {
    rule: &'static str,
    severity: &'static str,
    phase: &'static str,
    region: Option<usize>,
    virt: Option<Hex>,
    pages: u64,
    expected: String,
    observed: String,
    remedy: Option<&'a str>,
    error_code: Option<Hex>,
    walk: Vec<StepObject>,
    set_by: Option<&'a Place>,
    witnesses: Vec<&'static str>,
    message: &'a str,
}

#[derive(Serialize)]
struct StepObject {
    level: String,
    entry_addr: Hex,
    entry: Hex,
    reserved: Hex,
}

#[derive(Serialize)]
struct FaultObject<'a> {
    phase: &'static str,
    virt: Hex,
    access: &'static str,
    privilege: &'static str,
    vector: u8,
    error_code: Hex,
    flags: Vec<&'static str>,
    cr2: Hex,
    rip: Hex,
    instruction: Option<&'a str>,
    region: Option<usize>,
    attributed_to: &'static str,
    service: Option<&'static str>,
    misbehaviour: Option<&'static str>,
    remedy: Option<&'static str>,
}

#[derive(Serialize)]
struct CallObject<'a> {
    phase: &'static str,
    service: &'static str,
    rip: Option<Hex>,
    cr3: Option<Hex>,
    tables: &'static str,
    args: [Hex; 4],
    status: CallStatus,
    expected_status: Option<Hex>,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct SkippedObject<'a> {
    kind: &'static str,
    what: &'a str,
    reason: &'a str,
    count: u64,
}

#[derive(Serialize)]
struct TimingObject {
    build_us: u64,
    map_us: u64,
    probe_us: u64,
    check_us: u64,
    total_us: u64,
}

/// An address or a bit pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hex(pub u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

/// What came back, if anything did.
enum CallStatus {
    Returned(u64),
    NotReturned,
    NotCalled,
}

impl Serialize for CallStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Returned(status) => Hex(*status).serialize(serializer),
            Self::NotReturned => serializer.serialize_str("not-returned"),
            Self::NotCalled => serializer.serialize_str("not-called"),
        }
    }
}

fn document(report: &Report) -> Document<'_> {
    let counts = report.probes;
    Document {
        schema: SCHEMA,
        verdict: report.verdict().name(),
        expected: report.expected().as_ref().map(ExpectedObject::from),
        map: MapObject { source: &report.source, descriptors: report.regions.len() },
        mapper: (&report.mapper).into(),
        engine: report.engine.name(),
        cpu: CpuObject::from(&report.cpu.told),
        cpu_checked: CpuCheckedObject {
            cpu: CpuObject::from(&report.cpu.checks),
            reserved_fault_sets_p: report.cpu.checks.reserved_fault_sets_p,
        },
        regions: report.regions.iter().map(RegionObject::from).collect(),
        probes: ProbesObject {
            total: counts.total,
            translated: counts.translated,
            faulted: counts.faulted,
            faulted_rightly: counts.faulted_rightly,
            pages_verified: counts.pages_verified,
        },
        findings: report.findings.iter().map(FindingObject::from).collect(),
        findings_omitted: report.findings_omitted,
        faults: report.faults.iter().map(FaultObject::from).collect(),
        faults_omitted: report.faults_omitted,
        uncalled: report.uncalled.as_deref(),
        calls: report.calls.iter().map(CallObject::from).collect(),
        skipped: report.skipped.iter().map(SkippedObject::from).collect(),
        notes: &report.notes,
        tables: report.tables.iter().map(TablesObject::from).collect(),
        timing: TimingObject::from(&report.timing),
    }
}

impl From<&Expected> for ExpectedObject {
    fn from(expected: &Expected) -> Self {
        let names = |rules: &[Rule]| rules.iter().map(|rule| rule.name()).collect();
        Self {
            met: expected.is_met(),
            findings: names(&expected.rules),
            missing: names(&expected.missing),
            unexpected: names(&expected.unexpected),
        }
    }
}

impl From<&Paging> for CpuObject {
    fn from(paging: &Paging) -> Self {
        Self {
            maxphyaddr: paging.maxphyaddr,
            nx: paging.nxe,
            gbpages: paging.gbpages,
            la57: paging.la57,
            smep: paging.smep,
            smap: paging.smap,
            pku: paging.pke,
        }
    }
}

impl From<&RegionReport> for RegionObject {
    fn from(report: &RegionReport) -> Self {
        let RegionReport { region, line, virt, aliases, leaves, verdict } = report;
        Self {
            index: region.index,
            line: *line,
            r#type: type_name(region.ty).into_owned(),
            attribute: Hex(region.attribute.bits()),
            phys: Hex(region.phys),
            pages: region.pages,
            virt: virt.map(Hex),
            aliases: aliases.iter().copied().map(Hex).collect(),
            leaves: LeavesObject::from(leaves),
            verdict: verdict.name(),
        }
    }
}

impl From<&LeafCounts> for LeavesObject {
    fn from(leaves: &LeafCounts) -> Self {
        Self { of_4k: leaves.of_4k, of_2m: leaves.of_2m, of_1g: leaves.of_1g }
    }
}

impl<'a> From<&'a Finding> for FindingObject<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            rule: finding.rule.name(),
            severity: finding.rule.severity().name(),
            phase: finding.phase.name(),
            region: finding.region,
            virt: finding.virt.map(|virt| Hex(virt.0)),
            pages: finding.pages,
            expected: in_words(finding.expected.as_ref()),
            observed: in_words(finding.observed.as_ref()),
            remedy: finding.remedy.as_deref(),
            error_code: finding.error_code().map(|code| Hex(code.0.into())),
            walk: finding.walk.iter().map(StepObject::from).collect(),
            set_by: finding.set_by.as_ref(),
            witnesses: finding.witnesses.iter().map(|witness| witness.name()).collect(),
            message: &finding.message,
        }
    }
}

/// Empty where there is nothing to say.
fn in_words(statement: Option<&Statement>) -> String {
    statement.map_or_else(String::new, Statement::to_string)
}

impl From<&WalkStep> for StepObject {
    fn from(step: &WalkStep) -> Self {
        Self {
            level: step.level.to_string(),
            entry_addr: Hex(step.entry_addr.0),
            entry: Hex(step.entry),
            reserved: Hex(step.reserved),
        }
    }
}

impl<'a> From<&'a FaultDetail> for FaultObject<'a> {
    fn from(detail: &'a FaultDetail) -> Self {
        let record = &detail.record;
        let code = record.fault.error_code;
        // Only a page fault's error code has these flags.
        let flags = code.flags().filter(|_| record.fault.vector == Fault::PAGE_FAULT);
        let (attributed_to, misbehaviour) = match detail.culprit {
            Culprit::MappingCode => ("mapping-code", None),
            Culprit::Firmware(misbehaviour) => ("firmware", Some(misbehaviour)),
            Culprit::AttributesTable => ("firmware", None),
            Culprit::Kernel => ("kernel", None),
        };
        Self {
            phase: detail.phase.name(),
            virt: Hex(record.virt.0),
            access: match record.access.kind {
                Kind::Read => "read",
                Kind::Write => "write",
                Kind::Fetch => "fetch",
            },
            privilege: match record.access.privilege {
                Privilege::User => "user",
                Privilege::Supervisor | Privilege::Implicit => "supervisor",
            },
            vector: record.fault.vector,
            error_code: Hex(code.0.into()),
            flags: flags.collect(),
            cr2: Hex(record.cr2.0),
            rip: Hex(record.rip.0),
            instruction: detail.instruction.as_deref(),
            region: record.region,
            attributed_to,
            service: detail.service,
            misbehaviour: misbehaviour.map(Misbehaviour::name),
            remedy: misbehaviour.map(Misbehaviour::remedy),
        }
    }
}

impl<'a> From<&'a CallReport> for CallObject<'a> {
    fn from(call: &'a CallReport) -> Self {
        Self {
            phase: call.phase.name(),
            service: call.service,
            rip: call.rip.map(Hex),
            cr3: call.cr3.map(Hex),
            tables: call.tables,
            args: call.args.map(Hex),
            status: match (call.status, call.rip) {
                (Some(status), _) => CallStatus::Returned(status),
                (None, Some(_)) => CallStatus::NotReturned,
                (None, None) => CallStatus::NotCalled,
            },
            expected_status: call.expected.map(Hex),
            reason: call.reason.as_deref(),
        }
    }
}

impl<'a> From<&'a Skipped> for SkippedObject<'a> {
    fn from(skipped: &'a Skipped) -> Self {
        Self { kind: skipped.kind.name(), what: &skipped.what, reason: &skipped.reason, count: skipped.count }
    }
}

impl From<&super::Timing> for TimingObject {
    fn from(timing: &super::Timing) -> Self {
        let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            build_us: micros(timing.build),
            map_us: micros(timing.map),
            probe_us: micros(timing.probe),
            check_us: micros(timing.check),
            total_us: micros(timing.total),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::samples;
    use super::*;

    fn parsed(report: &Report) -> Value {
        serde_json::from_str(&to_json(report)).unwrap()
    }

    /// The keys of an object, in the order they are written.
    fn keys(text: &str, indent: usize) -> Vec<&str> {
        let margin = " ".repeat(indent);
        let lines = text.lines().filter_map(|line| line.strip_prefix(&margin)?.strip_prefix('"'));
        lines.filter_map(|line| line.split_once('"').map(|(key, _)| key)).collect()
    }

    #[test]
    fn the_keys_are_those_of_the_schema() {
        let text = to_json(&samples::clean());
        assert_eq!(
            keys(&text, 2),
            [
                "schema",
                "verdict",
                "expected",
                "map",
                "mapper",
                "engine",
                "cpu",
                "cpu_checked",
                "regions",
                "probes",
                "findings",
                "findings_omitted",
                "faults",
                "faults_omitted",
                "uncalled",
                "calls",
                "skipped",
                "notes",
                "tables",
                "timing"
            ]
        );
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn serde_writes_the_same_object() {
        let report = samples::clean();
        assert_eq!(serde_json::to_value(json!({ "mine": &report })).unwrap()["mine"], parsed(&report));
    }

    #[test]
    fn a_clean_report() {
        let value = parsed(&samples::clean());
        assert_eq!((&value["schema"], &value["verdict"]), (&json!(1), &json!("clean")));
        assert_eq!(value["map"], json!({ "source": "maps/ovmf.txt", "descriptors": 4 }));
        assert_eq!(value["mapper"], json!({ "layout": "window", "leaf_rule": "co-aligned" }));
        assert_eq!(value["engine"], json!("kvm"));
        assert_eq!(
            value["cpu"],
            json!({ "maxphyaddr": 46, "nx": true, "gbpages": false, "la57": false, "smep": true, "smap": false, "pku": false })
        );
        assert_eq!(
            value["cpu_checked"],
            json!({ "maxphyaddr": 46, "nx": true, "gbpages": true, "la57": false, "smep": true, "smap": false, "pku": false,
                    "reserved_fault_sets_p": false })
        );
        assert_eq!(
            value["regions"][1],
            json!({ "index": 1, "line": 11, "type": "RuntimeServicesData", "attribute": "0x800000000000000f", "phys": "0x7e000000",
                    "pages": 2080, "virt": "0xfffffffefe000000", "aliases": ["0x7e000000"],
                    "leaves": { "4k": 32, "2m": 4, "1g": 0 }, "verdict": "ok" })
        );
        assert_eq!(value["regions"][0]["virt"], Value::Null);
        assert_eq!(
            value["probes"],
            json!({ "total": 2200, "translated": 2096, "faulted": 104, "faulted_rightly": 104, "pages_verified": 2096 })
        );
        assert_eq!(
            value["calls"],
            json!([{ "phase": "map", "service": "SetVirtualAddressMap", "rip": "0x7e900010", "cr3": "0x123000",
                     "tables": "mapper", "args": ["0x60", "0x30", "0x1", "0x5000"], "status": "0x0", "expected_status": "0x0",
                "reason": null }])
        );
        assert_eq!(
            value["timing"],
            json!({ "build_us": 3100, "map_us": 120, "probe_us": 5000, "check_us": 900, "total_us": 9120 })
        );
    }

    #[test]
    fn a_finding_with_its_walk() {
        let value = parsed(&samples::reserved_bit());
        let finding = &value["findings"][0];
        assert_eq!(value["verdict"], json!("findings"));
        assert_eq!(
            (&finding["rule"], &finding["severity"], &finding["phase"]),
            (&json!("reserved-bit"), &json!("error"), &json!("map"))
        );
        assert_eq!((&finding["virt"], &finding["pages"]), (&json!("0xffffffff00000000"), &json!(512)));
        assert_eq!((&finding["error_code"], &finding["witnesses"]), (&json!("0x9"), &json!(["mmu", "walk"])));
        assert_eq!(
            finding["walk"][2],
            json!({ "level": "PDE", "entry_addr": "0x125000", "entry": "0x7e1070e3", "reserved": "0x106000" })
        );
        assert_eq!(finding["set_by"], Value::Null);
        assert_eq!(
            value["faults"][0],
            json!({ "phase": "map", "virt": "0xffffffff00000000", "access": "write", "privilege": "supervisor", "vector": 14,
                    "error_code": "0xb", "flags": ["P", "W", "RSVD"], "cr2": "0xffffffff00000000",
                    "rip": "0xffffffff80001234", "instruction": "mov %rax,(%rax)", "region": 1,
                    "attributed_to": "mapping-code", "service": null, "misbehaviour": null, "remedy": null })
        );
        assert_eq!(value["faults_omitted"], json!(510));
    }

    #[test]
    fn a_line_of_the_mapping_code_is_told_as_far_as_it_is_known() {
        let mut report = samples::reserved_bit();
        let name = || Some("map_region".into());
        report.findings[0].set_by = Some(Place { function: name(), file: Some("mapper.c".into()), line: Some(41) });
        let expected = json!({ "function": "map_region", "file": "mapper.c", "line": 41 });
        assert_eq!(parsed(&report)["findings"][0]["set_by"], expected);
        report.findings[0].set_by = Some(Place { function: name(), ..Place::default() });
        let expected = json!({ "function": "map_region", "file": null, "line": null });
        assert_eq!(parsed(&report)["findings"][0]["set_by"], expected);
    }

    #[test]
    fn the_verdict_is_one_of_three_and_what_was_expected_is_beside_it() {
        let mut report = samples::clean();
        assert_eq!(parsed(&report)["expected"], Value::Null);
        assert_eq!(parsed(&report)["skipped"][0]["kind"], "machine");
        report.expected_rules = Some(vec![Rule::FirmwareFault]);
        let value = parsed(&report);
        assert_eq!(value["verdict"], "findings");
        assert_eq!(
            value["expected"],
            json!({ "met": false, "findings": ["firmware-fault"], "missing": ["firmware-fault"], "unexpected": [] })
        );
        report.skipped.push(Skipped::not_done("a", "b"));
        let value = parsed(&report);
        assert_eq!((&value["verdict"], &value["skipped"][1]["kind"]), (&json!("incomplete"), &json!("not-done")));
    }

    #[test]
    fn what_is_absent_is_null_and_a_service_not_called_says_so() {
        let value = parsed(&samples::kernel_overlap());
        let finding = &value["findings"][0];
        for key in ["virt", "error_code", "remedy"] {
            assert_eq!(finding[key], Value::Null, "{key}");
        }
        assert_eq!((&finding["pages"], &finding["walk"]), (&json!(0), &json!([])));
        let call = &value["calls"][0];
        assert_eq!((&call["status"], &call["rip"]), (&json!("not-called"), &Value::Null));
        assert_eq!(call["reason"], "the walk finds its pages wrong");
    }

    #[test]
    fn a_service_that_does_not_return_says_so() {
        let mut report = samples::clean();
        report.calls[0].status = None;
        assert_eq!(parsed(&report)["calls"][0]["status"], "not-returned");
        assert_eq!(parsed(&samples::clean())["calls"][0]["reason"], Value::Null);
    }

    #[test]
    fn odd_characters_survive() {
        let mut report = samples::kernel_overlap();
        report.source = "a\"\\\n\x1b[2J\u{2028}\0".into();
        report.findings[0].message = report.source.clone();
        let text = to_json(&report);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
        assert_eq!(parsed(&report)["map"]["source"], json!(report.source));
        assert_eq!(parsed(&report)["findings"][0]["message"], json!(report.source));
    }

    #[test]
    fn a_general_protection_fault_has_no_flags() {
        let mut report = samples::reserved_bit();
        report.faults[0].record.fault.vector = Fault::GENERAL_PROTECTION;
        assert_eq!(parsed(&report)["faults"][0]["flags"], json!([]));
    }
}
