//! Scenarios as TOML again: all but the map, which writes itself.

use std::fmt::Write as _;
use std::path::Path;

use super::super::Scenario;
use crate::engine::{FirmwareOptions, KernelOptions};
use crate::machine::{CpuidRequest, MaxPhyAddr};

/// The tables of a scenario that say how its map is mapped: `mapper`, and of `cpu`, `firmware` and `kernel` what is not usual.
/// An ELF file is named by this path.
pub fn tables(scenario: &Scenario, elf: Option<&Path>) -> String {
    [mapper(scenario, elf), cpu(&scenario.cpu), firmware(&scenario.firmware), kernel(&scenario.kernel)].concat()
}

fn mapper(scenario: &Scenario, elf: Option<&Path>) -> String {
    let contract = &scenario.contract_items;
    let has_contract = elf.is_some() && !contract.is_empty();
    let built_in = |name: &'static str| elf.is_none().then(|| string(name));
    table(
        "mapper",
        [
            ("layout", built_in(scenario.mapper.layout.name())),
            ("leaf_rule", built_in(scenario.mapper.leaf_rule.name())),
            ("elf", elf.map(|path| string(&path.display().to_string()))),
            ("contract", has_contract.then(|| strings(contract))),
        ],
    )
}

fn cpu(cpu: &CpuidRequest) -> String {
    let CpuidRequest { maxphyaddr, gbpages, nx, la57, smep, smap, pku } = *cpu;
    let flag = |flag: Option<bool>| flag.map(|is_on| is_on.to_string());
    table(
        "cpu",
        [
            ("maxphyaddr", maxphyaddr.map(MaxPhyAddr::get).map(|bits| bits.to_string())),
            ("gbpages", flag(gbpages)),
            ("nx", flag(nx)),
            ("la57", flag(la57)),
            ("smep", flag(smep)),
            ("smap", flag(smap)),
            ("pku", flag(pku)),
        ],
    )
}

fn firmware(firmware: &FirmwareOptions) -> String {
    let FirmwareOptions { calls, descriptor_size, descriptor_version, misbehaves } = firmware;
    let usual = FirmwareOptions::default();
    table(
        "firmware",
        [
            ("calls", unless_usual(calls, &usual.calls)),
            ("descriptor_size", (*descriptor_size != usual.descriptor_size).then(|| descriptor_size.get().to_string())),
            ("descriptor_version", unless_usual(descriptor_version, &usual.descriptor_version)),
            ("misbehaves", (!misbehaves.is_empty()).then(|| strings(misbehaves))),
        ],
    )
}

fn kernel(kernel: &KernelOptions) -> String {
    let KernelOptions { finish, guard_page, descriptor_size, descriptor_version, variable_bytes, miscalls } = kernel;
    let usual = KernelOptions::default();
    table(
        "kernel",
        [
            ("finish", unless_usual(finish, &usual.finish)),
            ("guard_page", unless_usual(guard_page, &usual.guard_page)),
            ("descriptor_size", descriptor_size.map(|bytes| bytes.get().to_string())),
            ("descriptor_version", descriptor_version.map(|version| version.to_string())),
            ("variable_bytes", variable_bytes.map(|bytes| bytes.get().to_string())),
            ("miscalls", (!miscalls.is_empty()).then(|| strings(miscalls))),
        ],
    )
}

/// A table of the rows that have a value; nothing where none has.
fn table<const N: usize>(name: &str, rows: [(&str, Option<String>); N]) -> String {
    let mut text = String::new();
    for (key, value) in rows {
        let Some(value) = value else { continue };
        if text.is_empty() {
            text = format!("\n[{name}]\n");
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

fn unless_usual<T: PartialEq + ToString>(value: &T, usual: &T) -> Option<String> {
    (value != usual).then(|| value.to_string())
}

fn strings<T: ToString>(all: &[T]) -> String {
    format!("[{}]", all.iter().map(|each| string(&each.to_string())).collect::<Vec<_>>().join(", "))
}

fn string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "[[descriptor]]\ntype = \"RuntimeServicesData\"\nphys = 0x7e729000\npages = 0x242\nattribute = \"RUNTIME|WB\"\n";

    #[test]
    fn what_was_written_is_read_as_the_same() {
        let rich = "[mapper]\nlayout = \"packed-down\"\nleaf_rule = \"va-only\"\n\
             [cpu]\nmaxphyaddr = 40\ngbpages = false\nnx = true\nla57 = true\nsmep = false\nsmap = false\npku = true\n\
             [firmware]\ncalls = false\nmisbehaves = [\"seam@GetVariable\"]\ndescriptor_size = 40\ndescriptor_version = 0\n\
             [kernel]\nfinish = false\nguard_page = true\ndescriptor_size = 56\ndescriptor_version = 2\n\
             variable_bytes = 9\nmiscalls = [\"interrupts\"]\n";
        for tables in ["", "[mapper]\nlayout = \"window\"\n", rich] {
            let scenario = Scenario::parse("text", &format!("{MAP}{tables}")).unwrap();
            let written = format!("{MAP}{}", super::tables(&scenario, None));
            let again = Scenario::parse("text", &written).unwrap();
            assert_eq!(format!("{scenario:?}"), format!("{again:?}"), "{written}");
        }
    }

    #[test]
    fn what_is_usual_is_left_out_and_a_program_is_named_with_its_contract() {
        let scenario = Scenario::parse("text", MAP).unwrap();
        let text = tables(&scenario, None);
        assert_eq!(text, "\n[mapper]\nlayout = \"linux\"\nleaf_rule = \"co-aligned\"\n");
        let items = ["identity=owed", "arena=low"].map(|item| crate::check::ContractItem::parse(item).unwrap());
        let text = tables(&scenario.contract_of_items(items.to_vec()), Some(Path::new("/a \"b\"/c.elf")));
        let parsed: toml::Table = toml::from_str(&text).unwrap();
        let mapper = &parsed["mapper"];
        assert_eq!(mapper["elf"].as_str(), Some("/a \"b\"/c.elf"));
        assert_eq!(mapper["contract"].as_array().unwrap().len(), 2);
        assert_eq!(mapper["contract"][0].as_str(), Some("identity=owed"));
    }
}
