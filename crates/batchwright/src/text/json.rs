//! Checks of foreign JSON.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Refuses JSON in which an object has the same key twice, at any depth. Parsers disagree on which of the two
/// values counts, so two readers of such a document could see different content.
///
/// # Errors
///
/// The repeated key and the position of its second occurrence; or the position at which `text` is not JSON.
pub fn reject_duplicate_keys(text: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<Once>(text).map(drop)
}

struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Once;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_str<E>(self, _: &str) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_unit<E>(self) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Once, A::Error> {
        while list.next_element::<Once>()?.is_some() {}
        Ok(Once)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                map.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format!("key `{key}` is given twice")));
            }
            map.next_value::<Once>()?;
            seen.insert(key);
        }
        Ok(Once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_given_twice_is_found_at_every_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"[{"b":{"c":1,"d":[],"c":null}}]"#] {
            let message = reject_duplicate_keys(text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("is given twice"), "{message}");
        }
        let fine = r#"{"a":{"a":1.5,"b":["x",true,null,-3]},"b":18446744073709551615}"#;
        assert!(reject_duplicate_keys(fine.as_bytes()).is_ok());
    }
}
