//! The format as a JSON schema, for editors and for programs that write scenarios.

use efibed_guest::{Layout, LeafRule};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::File;
use crate::check::{ContractItem, Rule};
use crate::engine::Miscall;
use crate::firmware::{Misbehaviour, ServiceMisbehaviour};
use crate::memory_map::ListKind;

/// The JSON schema (draft 2020-12) of a scenario TOML.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(as_toml_has_it));
    settings.into_generator().into_root_schema_for::<File>().to_value()
}

/// TOML has no null: absent keys are left out. Descriptions get no line breaks.
fn as_toml_has_it(schema: &mut Schema) {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|ty| ty != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| *choice != json!({ "type": "null" }));
        if let [only] = choices.as_slice()
            && let Value::Object(only) = only.clone()
        {
            schema.remove("anyOf");
            only.into_iter().for_each(|(key, value)| drop(schema.insert(key, value)));
        }
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

pub fn list_kind(_: &mut SchemaGenerator) -> Schema {
    names(ListKind::NAMES)
}

pub fn layout(_: &mut SchemaGenerator) -> Schema {
    names(Layout::NAMES)
}

pub fn leaf_rule(_: &mut SchemaGenerator) -> Schema {
    names(LeafRule::NAMES)
}

pub fn contract(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": ContractItem::pattern() } })
}

/// A built-in layout and a program exclude each other, and a contract is for a program.
pub fn one_mapper(schema: &mut Schema) {
    schema.insert("dependentRequired".into(), json!({ "contract": ["elf"] }));
    schema
        .insert("dependentSchemas".into(), json!({ "elf": { "properties": { "layout": false, "leaf_rule": false } } }));
}

pub fn rules(_: &mut SchemaGenerator) -> Schema {
    let rules = names(Rule::NAMES);
    json_schema!({ "type": "array", "items": rules })
}

/// Every misbehaviour by itself, and with each service that can do it. `faults` may be told its access, too.
pub fn misbehaviours(_: &mut SchemaGenerator) -> Schema {
    let of_services = |what: Misbehaviour| {
        let possible = efibed_stub::Service::ALL
            .into_iter()
            .filter_map(move |service| ServiceMisbehaviour::new(what, service).ok());
        possible.map(|misbehaviour| misbehaviour.to_string())
    };
    let each =
        Misbehaviour::ALL.iter().flat_map(|what| std::iter::once(what.name().to_owned()).chain(of_services(*what)));
    let faults =
        json_schema!({ "type": "string", "pattern": "^faults=(read|write|fetch):0x[0-9a-fA-F]{1,16}(@[A-Za-z]+)?$" });
    let misbehaviour = json_schema!({ "anyOf": [{ "enum": each.collect::<Vec<_>>() }, faults] });
    json_schema!({ "type": "array", "items": misbehaviour })
}

pub fn miscalls(_: &mut SchemaGenerator) -> Schema {
    let miscalls = names(Miscall::NAMES);
    json_schema!({ "type": "array", "items": miscalls })
}

fn names(names: &[&str]) -> Schema {
    json_schema!({ "enum": names })
}
