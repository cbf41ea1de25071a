//! Mapping code in ring 0 that does what it must not: whatever it tries, a finding comes of it, the host goes on, and the
//! same bed runs the next scenario as if nothing had been.
//!
//! `EFIBED_HOSTILE_ROUNDS` (1 by default) says how often each attack is made.

use std::sync::OnceLock;
use std::time::Duration;

use efibed::check::{Phase, Rule};
use efibed::guest::Image;
use efibed::mmu::Level;
use efibed::{Layout, MemoryMap, Moment, Report, Scenario, Tamper};
use efibed_tests::{Need, bed, trial};
use libtest_mimic::Trial;

#[path = "../hostile/attacks.rs"]
mod attacks;

use attacks::Attack;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("every_attack_of_mapping_code_is_found", Need::Kvm, every_attack_of_mapping_code_is_found),
        trial("without_an_attack_the_hostile_image_is_clean", Need::Kvm, without_an_attack_the_hostile_image_is_clean),
        trial(
            "services_are_called_whatever_the_mailbox_says",
            Need::Kvm,
            services_are_called_whatever_the_mailbox_says,
        ),
        trial("tables_that_change_while_they_are_probed", Need::Kvm, tables_that_change_while_they_are_probed),
        trial("finish_is_judged_by_what_it_did", Need::Kvm, finish_is_judged_by_what_it_did),
    ]
}

/// What has to be found, one of these at least.
fn expected(attack: Attack) -> &'static [Rule] {
    use Attack::*;
    const ENDED: &[Rule] = &[Rule::MachineStopped];
    match attack {
        WriteProbes
        | WriteFaults
        | WriteCrash
        | WriteRequest
        | WriteInterruptStack
        | WriteUserStack
        | WriteBehindVirtualMap
        | WriteUnusedPool
        | WriteMemoryMap
        | WriteKernelTables
        | WriteKernelTextDirectly
        | WriteVirtualMapInFinish
        | WriteUnusedPoolInFinish => &[Rule::StrayWrite],
        WriteAbandoned | SetCr0 | SetCr3 | SetCr4 | SetEfer | SetPat | SetIdtr | SetGdtr | SetInterruptFlag
        | SetAlignmentCheck => &[Rule::KernelState],
        // The kernel's own copies go the wrong way, too.
        SetDirectionFlag => &[Rule::KernelState, Rule::GuestFault, Rule::MachineStopped],
        HandOverEarly | ForgePanic | UnknownPort | Halt => ENDED,
        ForgeRoot => &[Rule::KernelOverlap],
        ForgeCount | ForgePages => &[Rule::MapperError],
        WriteKernelText | ForgeCrash | Undefined | Divide | CallNull => &[Rule::GuestFault],
        ForgeFullRecords | Loop => &[Rule::Watchdog],
        OverflowStack => &[Rule::StrayWrite, Rule::GuestFault, Rule::TripleFault, Rule::EmulationFailure],
        Panic => &[Rule::GuestPanic],
        Shutdown => &[Rule::TripleFault],
        MapItself => &[Rule::SelfMapping],
        Globalize => &[Rule::GlobalLeaf],
        NoTables => &[Rule::NotPresent],
        UnmapInFinish | OtherRootInFinish => &[Rule::NotPresent],
        // The tables above are closed to ring 3.
        OpenInFinish => &[Rule::ExecutableData],
    }
}

fn hostile_image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::load(include_bytes!(env!("EFIBED_HOSTILE_IMAGE"))).unwrap())
}

/// The attack is in the memory map: the page count, less one, of a descriptor of an OEM's type.
fn scenario(attack: Option<Attack>) -> Scenario {
    let row = attack.map_or(String::new(), |attack| {
        format!(
            "[[descriptor]]\ntype = 0x70000000\nphys = 0x100000000\npages = {}\nattribute = \"WB\"\n",
            attack as u32 + 1
        )
    });
    let text = format!(
        r#"
        {row}
        [[descriptor]]
        type = "RuntimeServicesCode"
        phys = 0x7e000000
        pages = 0x20
        attribute = "RUNTIME|WB"
        [[descriptor]]
        type = "RuntimeServicesData"
        phys = 0x7e729000
        pages = 0x42
        attribute = "RUNTIME|WB"
        [[descriptor]]
        type = "ConventionalMemory"
        phys = 0x1000000
        pages = 0x1000
        attribute = "WB"
        "#
    );
    Scenario::new(MemoryMap::parse(&text).unwrap()).image(hostile_image()).stretch_limit(Duration::from_secs(2))
}

/// A page of runtime data, 1:1.
const DATA: u64 = 0x7e72_9000;

const LAYOUTS: [Layout; 3] = [Layout::Window, Layout::PackedDown, Layout::Linux];

fn every_attack_of_mapping_code_is_found() {
    let rounds = std::env::var("EFIBED_HOSTILE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut wrong = Vec::new();
    for (index, attack) in Attack::ALL.iter().cycle().take(rounds * Attack::ALL.len()).enumerate() {
        let layout = LAYOUTS[index % LAYOUTS.len()];
        let report = bed().run(&scenario(Some(*attack)).layout(layout)).unwrap();
        let rules: Vec<Rule> = report.findings.iter().map(|finding| finding.rule).collect();
        if report.is_clean() || !expected(*attack).iter().any(|rule| rules.contains(rule)) {
            wrong.push(format!("{attack:?} under {}: {rules:?}, {}", layout.name(), first_message(&report)));
        }
        bed().run(&scenario(None).layout(layout)).unwrap().assert_clean();
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn first_message(report: &Report) -> &str {
    report.findings.first().map_or("nothing", |finding| &finding.message)
}

fn without_an_attack_the_hostile_image_is_clean() {
    for layout in LAYOUTS {
        bed().run(&scenario(None).layout(layout)).unwrap().assert_clean();
    }
}

/// The guest's word for it, which nothing that happened explains, is no reason to call nothing.
fn services_are_called_whatever_the_mailbox_says() {
    let report = bed().run(&scenario(Some(Attack::WriteAbandoned)).layout(Layout::Linux)).unwrap();
    assert!(report.findings.iter().any(|finding| finding.rule == Rule::KernelState), "{}", first_message(&report));
    let answers = |report: &Report| report.calls.iter().map(|call| (call.service, call.status)).collect::<Vec<_>>();
    let usual = bed().run(&scenario(None).layout(Layout::Linux)).unwrap();
    assert_eq!(answers(&report), answers(&usual));
}

/// P of a leaf goes, and W, and a leaf in the free; the CPU's own A and D say nothing.
fn tables_that_change_while_they_are_probed() {
    let scenario = scenario(None).layout(Layout::Linux);
    let run = |bit: u32| {
        let tamper = Tamper { virt: DATA, level: Level::Pte, flip: 1 << bit, moment: Moment::WhileProbed };
        bed().run(&scenario.clone().tamper(tamper)).unwrap()
    };
    for bit in [0, 1, 63] {
        let report = run(bit);
        let finding = report.findings.iter().find(|finding| finding.rule == Rule::TablesChanged);
        let finding = finding.unwrap_or_else(|| panic!("bit {bit}: {}", first_message(&report)));
        let entry = |text: &str| u64::from_str_radix(text[2..].split(' ').next().unwrap(), 16).unwrap();
        assert_eq!(
            (entry(&finding.expected) ^ entry(&finding.observed)) & !0x60,
            1 << bit,
            "{}",
            first_message(&report)
        );
    }
    for bit in [5, 6] {
        assert!(run(bit).findings.iter().all(|finding| finding.rule != Rule::TablesChanged), "bit {bit}");
    }
}

/// Of a layout whose phase `finish` has nothing to do, tables that change there are walked again.
fn finish_is_judged_by_what_it_did() {
    for layout in [Layout::Window, Layout::PackedDown] {
        for (attack, rule) in [(Attack::UnmapInFinish, Rule::NotPresent), (Attack::OpenInFinish, Rule::ExecutableData)]
        {
            let report = bed().run(&scenario(Some(attack)).layout(layout)).unwrap();
            let finding = report.findings.iter().find(|finding| finding.rule == rule);
            assert_eq!(
                finding.map(|finding| finding.phase),
                Some(Phase::Finish),
                "{}: {}",
                layout.name(),
                first_message(&report)
            );
        }
    }
}
