//! The JSON Schema of job files, for editors and for programs that generate job files.

use batchwright_items::KindRegistry;
use schemars::Schema;
use serde_json::{Map, Value, json};

use crate::definition::STEP_TYPES;
use crate::definition::{Definition, is_common};
use crate::{several, stage};

/// Returns the JSON Schema of job files that can name the types of `kinds`: one alternative for each type of step, reader,
/// processor and writer, with the keys of that type.
pub fn json_schema(kinds: &KindRegistry) -> Value {
    let mut schema = schemars::schema_for!(Definition).to_value();
    let steps = step_types(kinds, &schema["$defs"]["Step"]);
    let processors = stage::schemas().into_iter().chain(kinds.schemas("processor"));
    let writers = several::schemas().into_iter().chain(kinds.schemas("writer"));
    let alternatives = [
        ("Step", steps),
        ("reader", typed(kinds.schemas("reader"))),
        ("writer", typed(writers)),
        ("processor", typed(processors)),
    ];
    for (name, alternatives) in alternatives {
        schema["$defs"][name] = json!({ "oneOf": alternatives });
    }
    schema
}

/// Returns the schemas of parts, each with its `type`.
fn typed(kinds: impl IntoIterator<Item = (&'static str, Schema)>) -> Vec<Value> {
    kinds.into_iter().map(|(name, schema)| with_type(name, true, schema.to_value())).collect()
}

fn with_type(name: &str, is_required: bool, mut schema: Value) -> Value {
    let kind = json!({ "const": name });
    let object = schema.as_object_mut().expect("the keys of a part are an object");
    object.remove("$schema");
    object.insert("title".to_owned(), name.into());
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    properties.as_object_mut().expect("properties are an object").insert("type".to_owned(), kind);
    if is_required {
        let required = object.entry("required").or_insert_with(|| json!([]));
        required.as_array_mut().expect("a list of names").push("type".into());
    }
    schema
}

/// Returns the schemas of all types of steps: those of this crate with their keys, and the registered ones.
fn step_types(kinds: &KindRegistry, step: &Value) -> Vec<Value> {
    let all = step["properties"].as_object().cloned().unwrap_or_default();
    let only = |keep: &dyn Fn(&str) -> bool| -> Map<String, Value> {
        all.iter()
            .filter(|(key, _)| keep(key))
            .map(|(key, one)| (key.clone(), one.clone()))
            .collect()
    };
    let object = |properties: Map<String, Value>, required: Value| {
        json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    };
    let ours = STEP_TYPES.iter().map(|(name, keys)| {
        let keys = keys.concat();
        let has = |key: &str| ["name", "type", "on"].contains(&key) || keys.contains(&key);
        // Only the default type, `chunk`, need not be named.
        with_type(name, *name != "chunk", object(only(&has), json!(["name"])))
    });
    let registered = kinds.schemas("step").into_iter().map(|(name, schema)| {
        let own = schema.to_value();
        let mut properties = only(&is_common);
        properties.extend(own["properties"].as_object().cloned().unwrap_or_default());
        let mut required = vec![json!("name")];
        required.extend(own["required"].as_array().cloned().unwrap_or_default());
        with_type(name, true, object(properties, Value::Array(required)))
    });
    ours.chain(registered).collect()
}
