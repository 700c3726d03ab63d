//! The processor `mask`: hides the values of fields.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::ItemProcessor;
use hmac::{Hmac, KeyInit, Mac};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;

use crate::key::{Keys, Problem, Text};
use crate::kind::{BoxedProcessor, BuildContext, ItemKind, KindSchema, Make};
use crate::record::Record;
use crate::template::Template;
use crate::text::hex;
use crate::value::Value;

/// The kind `mask`.
pub(crate) struct MaskKind;

/// Hides the values of fields: by default each becomes `***`. A null stays null.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MaskKeys {
    /// The fields, which every record must have.
    fields: Vec<String>,
    /// Replaces the values by this text.
    text: Option<String>,
    /// Replaces all characters but this many at the end by `*`; a value that is not longer is replaced as a whole.
    keep_last: Option<usize>,
    /// Replaces the values by the hexadecimal HMAC-SHA-256 of their texts with this key, such as `${env.MASK_KEY}`: the same
    /// value gives the same digest, which cannot be computed without the key.
    hash_key: Option<Text>,
}

/// How a value is hidden.
enum Method {
    Text(Arc<str>),
    KeepLast(usize),
    Hash(Template),
}

impl ItemKind for MaskKind {
    fn name(&self) -> &'static str {
        "mask"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().processor::<MaskKeys>()
    }

    fn processor(
        &self,
        keys: Keys<'_>,
        cx: &BuildContext<'_>,
    ) -> Result<Make<BoxedProcessor>, Problem> {
        let MaskKeys { fields, text, keep_last, hash_key } = keys.parse()?;
        if fields.is_empty() {
            return Err(keys.problem_at("fields", "`fields` has at least one name"));
        }
        let method = match (text, keep_last, hash_key) {
            (text, None, None) => Method::Text(text.unwrap_or_else(|| "***".to_owned()).into()),
            (None, Some(count), None) => Method::KeepLast(count),
            (None, None, Some(key)) => Method::Hash(cx.template(&key)?),
            _ => {
                return Err(keys.problem("`text`, `keep_last` and `hash_key` exclude each other"));
            }
        };
        let fields: Arc<[String]> = fields.into();
        Ok(Box::new(move |scope| {
            let hide = match &method {
                Method::Text(text) => Hide::Text(Value::text(text)),
                Method::KeepLast(count) => Hide::KeepLast(*count),
                Method::Hash(key) => {
                    let key = key.render(scope)?;
                    if key.is_empty() {
                        return Err(ItemError::fatal("cannot mask: `hash_key` is empty"));
                    }
                    let keyed = Hmac::<Sha256>::new_from_slice(key.as_bytes());
                    Hide::Hash(Box::new(
                        keyed.map_err(|error| ItemError::fatal(error.to_string()))?,
                    ))
                }
            };
            Ok(Box::new(Mask { fields: Arc::clone(&fields), hide }) as BoxedProcessor)
        }))
    }

    fn is_independent(&self) -> bool {
        true
    }
}

/// The processor of one step execution.
struct Mask {
    fields: Arc<[String]>,
    hide: Hide,
}

enum Hide {
    Text(Value),
    KeepLast(usize),
    Hash(Box<Hmac<Sha256>>),
}

impl ItemProcessor<Record> for Mask {
    type Output = Record;

    fn process(&self, item: &Record) -> Result<Option<Record>, ItemError> {
        for field in &*self.fields {
            item.required("mask", field)?;
        }
        let value = |(name, value): (&Arc<str>, &Value)| match value {
            Value::Null => Value::Null,
            value if self.fields.iter().any(|field| **field == **name) => {
                self.hide.value(&value.to_string())
            }
            value => value.clone(),
        };
        let values = item.names().iter().zip(item.values()).map(value).collect();
        Ok(Some(item.with(Arc::clone(item.names()), values)))
    }
}

impl Hide {
    fn value(&self, text: &str) -> Value {
        match self {
            Self::Text(text) => text.clone(),
            Self::KeepLast(count) => {
                let length = text.chars().count();
                let hidden = if length > *count { length - count } else { length };
                let kept: String = text.chars().skip(hidden).collect();
                Value::from("*".repeat(hidden) + kept.as_str())
            }
            Self::Hash(keyed) => {
                let mut keyed = (**keyed).clone();
                keyed.update(text.as_bytes());
                Value::from(hex(&keyed.finalize().into_bytes()))
            }
        }
    }
}
