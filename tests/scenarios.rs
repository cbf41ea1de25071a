//! The schema of scenario files says what their reader does: it takes what that takes, and refuses what that refuses.

use std::fs;
use std::path::{Path, PathBuf};

use efibed::Scenario;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn is_valid(schema: &jsonschema::Validator, toml: &str) -> bool {
    let document: toml::Table = toml.parse().unwrap();
    schema.is_valid(&serde_json::to_value(document).unwrap())
}

fn schema() -> jsonschema::Validator {
    jsonschema::draft202012::new(&Scenario::schema()).unwrap()
}

#[test]
fn the_schema_that_is_published_is_that_of_the_types() {
    let path = repository().join("vmm/scenario.schema.json");
    let published: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(published, Scenario::schema(), "`efibed schema > vmm/scenario.schema.json` writes it anew");
}

#[test]
fn every_toml_of_the_repository_is_valid() {
    let schema = schema();
    let mut files = 0;
    for folder in ["tests/maps", "tests/maps/bad", "tests/scenarios", "vmm/src/museum/exhibits"] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = fs::read_to_string(&path).unwrap();
                let name = path.display().to_string();
                assert_eq!(Scenario::parse(&name, &text).is_ok(), is_valid(&schema, &text), "{name}");
                files += usize::from(is_valid(&schema, &text));
            }
        }
    }
    assert!(files > 50, "{files}");
}

const DESCRIPTOR: &str =
    "[[descriptor]]\ntype = \"RuntimeServicesData\"\nphys = 0x1000\npages = 1\nattribute = \"RUNTIME|WB\"\n";

#[test]
fn schema_and_reader_agree_on_every_table() {
    let schema = schema();
    for (tables, is_good) in [
        ("", true),
        ("list = \"runtime\"", true),
        ("list = \"mine\"", false),
        ("partial = \"cut off\"", true),
        ("colour = \"red\"", false),
        ("[mapper]\nlayout = \"packed-up\"\nleaf_rule = \"4k\"", true),
        ("[mapper]\nlayout = \"windows\"", false),
        ("[cpu]\nmaxphyaddr = 52\nla57 = true", true),
        ("[cpu]\nmaxphyaddr = 53", false),
        ("[cpu]\navx = true", false),
        ("[firmware]\ncalls = false", true),
        ("[firmware]\nmisbehaves = [\"seam\", \"errors@SetVariable\"]", true),
        ("[firmware]\nmisbehaves = [\"seam@ResetSystem\"]", false),
        ("[firmware]\nmisbehaves = \"seam\"", false),
        ("[firmware]\ndescriptor_size = 56\ndescriptor_version = 0", true),
        ("[firmware]\ndescriptor_size = 44", false),
        ("[kernel]\nfinish = false\nguard_page = true\nmiscalls = [\"interrupts\"]", true),
        ("[kernel]\nmiscalls = [\"late\"]", false),
        ("[kernel]\nvariable_bytes = 65536", true),
        ("[kernel]\nvariable_bytes = 65537", false),
        ("[kernel]\nvariable_bytes = 0", false),
        ("[kernel]\ndescriptor_size = 4104", false),
        ("[expect]\nfindings = []", true),
        ("[expect]\nfindings = [\"reserved-bit\", \"firmware-fault\"]", true),
        ("[expect]\nfindings = [\"trouble\"]", false),
        ("[expect]", false),
    ] {
        let text = format!("{tables}\n{DESCRIPTOR}");
        let read = Scenario::parse("x", &text);
        assert_eq!((is_valid(&schema, &text), read.is_ok()), (is_good, is_good), "{tables}: {:?}", read.err());
    }
}

/// A program is a file, so these scenarios must be files too.
#[test]
fn schema_and_reader_agree_on_programs() {
    let schema = schema();
    let folder = std::env::temp_dir().join(format!("efibed-scenarios-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("mapper.elf"), "").unwrap();
    for (table, is_good) in [
        ("elf = \"mapper.elf\"", true),
        ("elf = \"mapper.elf\"\nlayout = \"window\"", false),
        ("elf = \"mapper.elf\"\nleaf_rule = \"4k\"", false),
        ("elf = [\"mapper.elf\"]", false),
        ("contract = [\"rising=on\"]", false),
        ("elf = \"mapper.elf\"\ncontract = []", true),
        ("elf = \"mapper.elf\"\ncontract = [\"arena=low\", \"arena=0x1-0xf000\", \"page-zero=owed\"]", true),
        ("elf = \"mapper.elf\"\ncontract = [\"contiguous-images=off\"]", true),
        ("elf = \"mapper.elf\"\ncontract = [\"contiguous-images=owed\"]", false),
        ("elf = \"mapper.elf\"\ncontract = [\"page-zero=on\"]", false),
        ("elf = \"mapper.elf\"\ncontract = [\"arena=1-2\"]", false),
        ("elf = \"mapper.elf\"\ncontract = [\"rising=on,identity=owed\"]", false),
    ] {
        let text = format!("[mapper]\n{table}\n{DESCRIPTOR}");
        fs::write(folder.join("scenario.toml"), &text).unwrap();
        let read = Scenario::read(folder.join("scenario.toml"));
        assert_eq!((is_valid(&schema, &text), read.is_ok()), (is_good, is_good), "{table}: {:?}", read.err());
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn schema_and_reader_agree_on_descriptors() {
    let schema = schema();
    for (line, by, is_good) in [
        ("phys = 0x1000", "phys = \"0xffff_ffff_ffff_f000\"", true),
        ("phys = 0x1000", "phys = -1", false),
        ("phys = 0x1000", "phys = \"here\"", false),
        ("phys = 0x1000", "", false),
        ("pages = 1", "pages = 1.5", false),
        ("type = \"RuntimeServicesData\"", "type = 0x70000000", true),
        ("type = \"RuntimeServicesData\"", "type = 0x1_0000_0000", false),
        ("type = \"RuntimeServicesData\"", "type = \"Data\"", false),
        ("attribute = \"RUNTIME|WB\"", "attribute = \"\"", true),
        ("attribute = \"RUNTIME|WB\"", "attribute = \"RUNTIME | 0x70000\"", true),
        ("attribute = \"RUNTIME|WB\"", "attribute = 0x800f", true),
        ("attribute = \"RUNTIME|WB\"", "attribute = \"RUNTIME|NEW\"", false),
        ("attribute = \"RUNTIME|WB\"", "", false),
        ("pages = 1", "pages = 1\nvirt = 0x2000", true),
        ("pages = 1", "pages = 1\nsize = 0x1000", false),
    ] {
        assert!(DESCRIPTOR.contains(line));
        let text = DESCRIPTOR.replace(line, by);
        assert_eq!((is_valid(&schema, &text), Scenario::parse("x", &text).is_ok()), (is_good, is_good), "{by}");
    }
    assert!(!is_valid(&schema, "[cpu]\nnx = true") && Scenario::parse("x", "[cpu]\nnx = true").is_err());
}

#[test]
fn the_readmes_scenario_is_one() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(is_valid(&schema(), example));
    let scenario = Scenario::parse("README.md", example).unwrap();
    assert_eq!(scenario.firmware_options().misbehaves.len(), 2);
    assert!(!scenario.kernel_options().finish);
}
