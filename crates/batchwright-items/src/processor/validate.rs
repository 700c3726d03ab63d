//! The processor `validate`: checks records against a JSON Schema.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::ItemProcessor;
use jsonschema::Validator;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BoxedProcessor, BuildContext, ItemKind, KindSchema, Make};
use crate::record::Record;

/// Number of violations that the message of a record contains.
const SHOWN: usize = 5;

/// The kind `validate`.
pub(crate) struct ValidateKind;

/// Checks each record, as a JSON object, against a JSON Schema. A record that does not fit is an error of kind `data.invalid`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ValidateKeys {
    /// The schema.
    schema: Option<At<serde_json::Map<String, serde_json::Value>>>,
    /// Path of a file with the schema, relative to the job file. It is read when the step begins.
    schema_file: Option<Text>,
}

impl ItemKind for ValidateKind {
    fn name(&self) -> &'static str {
        "validate"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().processor::<ValidateKeys>()
    }

    fn processor(
        &self,
        keys: Keys<'_>,
        cx: &BuildContext<'_>,
    ) -> Result<Make<BoxedProcessor>, Problem> {
        match keys.parse()? {
            ValidateKeys { schema: Some(schema), schema_file: None } => {
                let span = schema.span();
                let compiled = compile(&serde_json::Value::Object(schema.into_inner()));
                let validator =
                    compiled.map_err(|message| Problem { span: Some(span), message })?;
                let validator = Arc::new(validator);
                Ok(Box::new(move |_| {
                    Ok(Box::new(Validate { validator: Arc::clone(&validator) }) as BoxedProcessor)
                }))
            }
            ValidateKeys { schema: None, schema_file: Some(path) } => {
                let path = cx.path(&path)?;
                Ok(Box::new(move |scope| {
                    let path = path(scope)?;
                    let failed = |what: String| {
                        let path = path.display();
                        ItemError::fatal(format!("cannot use the schema `{path}`: {what}"))
                    };
                    let text = std::fs::read_to_string(&path)
                        .map_err(|error| failed(error.to_string()))?;
                    let schema =
                        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
                    let validator = Arc::new(compile(&schema).map_err(failed)?);
                    Ok(Box::new(Validate { validator }) as BoxedProcessor)
                }))
            }
            _ => Err(keys.problem("a `validate` has either `schema` or `schema_file`")),
        }
    }

    fn is_independent(&self) -> bool {
        true
    }
}

/// Compiles a schema; one that refers to another document is refused, because nothing is fetched.
fn compile(schema: &serde_json::Value) -> Result<Validator, String> {
    let options = jsonschema::options().should_validate_formats(true);
    options.build(schema).map_err(|error| format!("it is no JSON Schema: {error}"))
}

struct Validate {
    validator: Arc<Validator>,
}

impl ItemProcessor<Record> for Validate {
    type Output = Record;

    fn process(&self, item: &Record) -> Result<Option<Record>, ItemError> {
        let value = serde_json::to_value(item).map_err(|error| {
            ItemError::wrap(ErrorKind::DATA, "cannot read the item as JSON", error)
        })?;
        if self.validator.is_valid(&value) {
            return Ok(Some(item.clone()));
        }
        let mut found: Vec<String> = self
            .validator
            .iter_errors(&value)
            .take(SHOWN + 1)
            .map(|error| match error.instance_path().as_str() {
                // Values may be secret, and long.
                "" => error.masked_with("the record").to_string(),
                path => {
                    let path = path.trim_start_matches('/');
                    format!("`{path}`: {}", error.masked_with("the value"))
                }
            })
            .collect();
        if found.len() > SHOWN {
            found.truncate(SHOWN);
            found.push("and more".to_owned());
        }
        let what = format!("the record does not fit its schema: {}", found.join("; "));
        Err(ItemError::new(ErrorKind::new("data.invalid"), what))
    }
}
