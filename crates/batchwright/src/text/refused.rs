//! The messages of serde in the words of this project.

/// Returns serde's `message` about a value as a sentence: what the value is and what it must be, or which key
/// is missing or unknown. Other messages are returned unchanged.
pub fn refused_value(message: &str) -> String {
    let between = |prefix: &str| {
        message.strip_prefix(prefix).and_then(|rest| rest.split_once('`')).map(|(name, _)| name)
    };
    if let Some(key) = between("missing field `") {
        return format!("key `{key}` is missing");
    }
    if let Some(key) = between("duplicate field `") {
        return format!("key `{key}` is given twice");
    }
    if let Some(key) = between("unknown field `") {
        return format!("there is no key `{key}`; {}", known(message));
    }
    if let Some(value) = between("unknown variant `") {
        return format!("there is no value `{value}`; {}", known(message));
    }
    let rest = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix));
    match rest.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((given, wanted)) => format!("must be {}, but is {}", plain(wanted), plain(given)),
        None => message.to_owned(),
    }
}

/// Returns the names that serde lists after `expected`.
fn known(message: &str) -> String {
    let names: Vec<&str> = match message.rsplit_once(", expected ") {
        Some((_, names)) => names.split('`').skip(1).step_by(2).collect(),
        None => Vec::new(),
    };
    match names.is_empty() {
        true => "there is none".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    }
}

/// Returns serde's name of a value or a type in the words of TOML and JSON.
fn plain(name: &str) -> String {
    let quoted = |prefix: &str| name.strip_prefix(prefix);
    if let Some(text) = quoted("string ") {
        return format!("the text {text}");
    }
    if let Some(number) = quoted("integer ").or_else(|| quoted("floating point ")) {
        return format!("the number {}", number.trim_matches('`'));
    }
    if let Some(value) = quoted("boolean ") {
        return value.to_owned();
    }
    let is_table = name == "map" || name == "a map" || name.starts_with("struct ");
    match name {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a string" => "a text",
        "a boolean" => "`true` or `false`",
        "sequence" | "a sequence" => "a list",
        _ if name.starts_with("a nonzero u") => "a whole number, at least 1",
        _ if is_table => "a table",
        _ => return name.to_owned(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only refused")]
    struct Settings {
        size: std::num::NonZeroU32,
        name: String,
        mode: Mode,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
        Slow,
    }

    #[test]
    fn a_refused_value_is_named_with_what_it_must_be() {
        for (json, expected) in [
            (r#"{"size": 0}"#, "must be a whole number, at least 1, but is the number 0"),
            (r#"{"size": -1}"#, "must be a whole number, at least 1, but is the number -1"),
            (r#"{"size": "x"}"#, "must be a whole number, at least 1, but is the text \"x\""),
            (r#"{"size": 1, "name": [1]}"#, "must be a text, but is a list"),
            (r#"{"size": 1, "name": {}}"#, "must be a text, but is a table"),
            (r#"{"size": 1, "name": true}"#, "must be a text, but is `true`"),
            (r#"{"mode": "slack"}"#, "there is no value `slack`; there are: fast, slow"),
            (r#"{"sise": 1}"#, "there is no key `sise`; there are: size, name, mode"),
            (r#"{"size": 1}"#, "key `name` is missing"),
            (r#"{"size": 1, "size": 2}"#, "key `size` is given twice"),
        ] {
            let value: Result<Settings, _> = serde_json::from_str(json);
            let message = value.unwrap_err().to_string();
            let message = message.split(" at line").next().unwrap();
            assert_eq!(refused_value(message), expected, "{json}");
        }
    }
}
