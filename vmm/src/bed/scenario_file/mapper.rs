//! The table `mapper`: which mapping code, and what it is held to.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use efibed_guest::{Layout, LeafRule};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Origin;
#[cfg(feature = "cli")]
use super::schema;
use crate::Scenario;
use crate::check::ContractItem;
use crate::guest::process::program::MAX_BYTES;
use crate::memory_map::ParseError;

/// The mapping code.
#[derive(Default, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema), schemars(transform = schema::one_mapper))]
#[serde(deny_unknown_fields)]
pub struct Mapper {
    /// How regions get their virtual addresses; the default is linux.
    #[serde(default, deserialize_with = "named")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "schema::layout"))]
    layout: Option<Layout>,
    /// How the size of a leaf is chosen; the default is co-aligned.
    #[serde(default, deserialize_with = "named")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "schema::leaf_rule"))]
    leaf_rule: Option<LeafRule>,
    /// Mapping code of your own in place of these: an ELF file, as `efibed build` makes it. A relative path starts at the
    /// folder of this file.
    #[cfg_attr(feature = "cli", schemars(with = "Option<String>"))]
    elf: Option<Spanned<String>>,
    /// What must hold of that code's result besides what holds of any: terms such as "identity=allowed". `efibed check
    /// --help` lists them at --contract.
    #[serde(default)]
    #[cfg_attr(feature = "cli", schemars(schema_with = "schema::contract"))]
    contract: Option<Spanned<Vec<ContractItem>>>,
}

/// What is done about an ELF file that a scenario names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnMapper {
    /// It is read.
    Read,
    /// It is not: another program takes its place, under the same contract.
    #[cfg(feature = "cli")]
    Replaced,
    /// It is not, and nobody asks about its contract.
    #[cfg(feature = "cli")]
    LeftOut,
}

impl Mapper {
    /// The scenario with this mapping code.
    pub fn apply(self, scenario: Scenario, origin: Origin<'_>, own: OwnMapper) -> Result<Scenario, ParseError> {
        let Self { layout, leaf_rule, elf, contract } = self;
        let is_built_in = layout.is_some() || leaf_rule.is_some();
        let scenario = scenario.layout(layout.unwrap_or_default()).leaf_rule(leaf_rule.unwrap_or_default());
        let Some(elf) = elf else {
            return match contract {
                None => Ok(scenario),
                Some(contract) => Err(origin.error(&contract, "`contract` is for mapping code of your own", NO_ELF)),
            };
        };
        if is_built_in {
            return Err(origin.error(&elf, "`elf` and a built-in layout: only one can run", TWO_MAPPERS));
        }
        let contract = contract.map(Spanned::into_inner);
        let under = |scenario: Scenario| match contract {
            Some(contract) => scenario.contract_of_items(contract),
            None => scenario,
        };
        match own {
            OwnMapper::Read => origin.program(&elf, scenario).map(under),
            #[cfg(feature = "cli")]
            OwnMapper::Replaced => Ok(under(scenario)),
            #[cfg(feature = "cli")]
            OwnMapper::LeftOut => Ok(scenario),
        }
    }
}

const NO_ELF: &str = "name the code with `elf`, or leave `contract` out: a built-in layout has a contract of its own";
const TWO_MAPPERS: &str = "leave out `elf`, or else `layout` and `leaf_rule`";

impl Origin<'_> {
    /// The scenario with the ELF file of this path.
    fn program(self, elf: &Spanned<String>, scenario: Scenario) -> Result<Scenario, ParseError> {
        let Some(folder) = self.folder else {
            let problem = "`elf` is a file beside this one, and this text is in no file";
            return Err(self.error(elf, problem, "read the scenario by its path: in a program with `Scenario::read`"));
        };
        let path = folder.join(elf.as_ref());
        let bytes = read_regular(&path)
            .map_err(|problem| self.error(elf, &format!("{}: {problem}", path.display()), NO_PROGRAM))?;
        Ok(scenario.mapper_elf_named(path.display().to_string(), bytes))
    }

    fn error<T>(self, place: &Spanned<T>, problem: &str, help: &str) -> ParseError {
        ParseError::at(self.name, self.text, place.span(), problem).help(help)
    }
}

const NO_PROGRAM: &str =
    "`elf` names a program that `efibed build` made; a relative path starts at the folder of this scenario";

/// A file that somebody else's text names. Only a regular one: of a pipe or a terminal the end might never come.
fn read_regular(path: &Path) -> Result<Vec<u8>, String> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => Err("it is no regular file".into()),
        Ok(_) => read_elf(path),
        Err(error) => Err(error.to_string()),
    }
}

/// A file that is no larger than an ELF file with as much in it can be. The error is a sentence.
pub fn read_elf(path: &Path) -> Result<Vec<u8>, String> {
    /// Debug information takes more than code.
    const MOST: u64 = 16 * MAX_BYTES;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    match bytes.len() as u64 > MOST {
        true => Err(format!("it has more than {} MiB, which is no mapping code", MOST >> 20)),
        false => Ok(bytes),
    }
}

/// A value of a list, by its name, where there may be none.
fn named<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<Option<T>, D::Error> {
    super::named(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for ContractItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::memory_map::ReadError;

    const MAP: &str = "[[descriptor]]\ntype = \"RuntimeServicesData\"\nphys = 0x7e729000\npages = 0x242\nattribute = \"RUNTIME|WB\"\n";

    /// A folder with a scenario and a program, which goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, mapper: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("efibed-{}-{name}", std::process::id()));
            fs::create_dir_all(folder.join("programs")).unwrap();
            fs::write(folder.join("programs/mapper.elf"), "no ELF file, but read").unwrap();
            fs::write(folder.join("scenario.toml"), format!("[mapper]\n{mapper}\n{MAP}")).unwrap();
            Self(folder)
        }

        fn read(&self) -> Result<Scenario, ReadError> {
            Scenario::read(self.0.join("scenario.toml"))
        }

        fn error(&self) -> String {
            self.read().unwrap_err().to_string().replace(&self.0.display().to_string(), "FOLDER")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_program_is_looked_for_in_the_folder_of_its_scenario() {
        let folder =
            Folder::new("program", "elf = \"programs/mapper.elf\"\ncontract = [\"rising=on\", \"identity=owed\"]");
        let scenario = folder.read().unwrap();
        assert!(format!("{scenario:?}").contains("programs/mapper.elf"), "{scenario:?}");
        let contract = format!("{:?}", scenario.contract_in_force());
        assert!(contract.contains("identity: Owed") && contract.contains("rising: true"), "{contract}");
        fs::remove_file(folder.0.join("programs/mapper.elf")).unwrap();
        let error = folder.error();
        let expected = "FOLDER/scenario.toml:2:7: FOLDER/programs/mapper.elf: No such file or directory";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn only_a_regular_file_is_a_program() {
        for (name, path) in [("folder", "programs"), ("empty", ""), ("device", "/dev/zero")] {
            let error = Folder::new(name, &format!("elf = \"{path}\"")).error();
            assert!(error.contains(":2:7: ") && error.ends_with(": it is no regular file"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_a_mapper_is_told_with_its_place() {
        for (table, place, says) in [
            ("elf = \"a.elf\"\nlayout = \"window\"", "x:2:7:", "only one can run"),
            ("leaf_rule = \"4k\"\nelf = \"a.elf\"", "x:3:7:", "only one can run"),
            ("contract = [\"rising=on\"]", "x:2:12:", "for mapping code of your own"),
            (
                "elf = \"a.elf\"\ncontract = [\"rising=on\", \"arenas=low\"]",
                "x:3:",
                "no term `arenas`; there are arena, ",
            ),
            ("elf = \"a.elf\"\ncontract = \"rising=on\"", "x:3:", "expected a sequence"),
            ("elf = 1", "x:2:", "expected a string"),
            ("elf = \"a.elf\"", "x:2:7:", "this text is in no file"),
        ] {
            let error = Scenario::parse("x", &format!("[mapper]\n{table}\n{MAP}")).unwrap_err();
            let told = error.to_string();
            assert!(told.starts_with(place) && told.contains(says), "{told}");
        }
        // In an error's help, which only a picture shows.
        let error = Scenario::parse("x", &format!("[mapper]\nelf = \"a.elf\"\n{MAP}")).unwrap_err();
        assert!(format!("{:?}", miette::Report::new(error)).contains("Scenario::read"));
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_program_that_is_not_asked_for_is_not_read() {
        let text = format!("[mapper]\nelf = \"no/such.elf\"\ncontract = [\"identity=owed\"]\n{MAP}");
        let contract = |own| {
            let origin = Origin { name: "x", text: &text, folder: Some(Path::new("/")) };
            super::super::parse(origin, own).map(|scenario| format!("{:?}", scenario.contract_in_force()))
        };
        assert!(contract(OwnMapper::Read).is_err());
        let usual = format!("{:?}", crate::Contract::of(Layout::Linux));
        assert_eq!(contract(OwnMapper::LeftOut).unwrap(), usual);
        // Another program takes the file's place, and not its contract's.
        let kept = crate::check::contract_of(&[ContractItem::parse("identity=owed").unwrap()]);
        assert_eq!(contract(OwnMapper::Replaced).unwrap(), format!("{kept:?}"));
    }
}
