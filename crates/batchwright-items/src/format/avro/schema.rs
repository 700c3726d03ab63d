//! The schema of a file, <https://avro.apache.org/docs/1.12.0/specification/#schema-declaration>.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

/// Types within types are no deeper than this.
const DEPTH_MAX: usize = 64;

/// The type of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Date,
    /// A time of day, as a number of this many nanoseconds each; `INT` if it is one of 32 bits.
    Time {
        unit: i64,
        is_int: bool,
    },
    /// An instant, or a day with a time of a clock.
    Moment {
        unit: i64,
        is_utc: bool,
    },
    /// A number with `scale` digits after the point, in as many bytes as `length` says, or as it says itself.
    Decimal {
        scale: u32,
        length: Option<usize>,
    },
    /// A number that says itself how many of its digits are after the point.
    BigDecimal,
    Fixed(usize),
    Uuid,
    /// Months, days and milliseconds.
    Duration,
    Enum(Arc<[Arc<str>]>),
    List(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    Record(Vec<Field>),
    /// The named type with this number.
    Named(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) name: Arc<str>,
    pub(super) shape: Shape,
}

/// A schema whose values are records.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schema {
    pub(super) fields: Vec<Field>,
    /// The types with names, which can contain themselves.
    pub(super) named: Vec<Shape>,
}

impl Schema {
    /// Parses the JSON of a schema.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let json: Json = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut names = Names::default();
        let whole = names.shape(&json, "", 0)?;
        let found = match whole {
            Shape::Named(number) => names.shapes[number].clone(),
            other => Some(other),
        };
        let Some(Shape::Record(fields)) = found else {
            return Err("its values are no records".to_owned());
        };
        let named = names.shapes.into_iter().collect::<Option<_>>();
        let named = named.ok_or("a type is not complete")?;
        Ok(Self { fields, named })
    }
}

/// The types with names that were found.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, usize>,
    /// `None` while the type is parsed.
    shapes: Vec<Option<Shape>>,
}

impl Names {
    fn shape(&mut self, json: &Json, namespace: &str, depth: usize) -> Result<Shape, String> {
        if depth > DEPTH_MAX {
            return Err(format!("its types are deeper than {DEPTH_MAX}"));
        }
        match json {
            Json::String(name) => self.of_name(name, namespace),
            Json::Array(of) => {
                let of = of.iter().map(|one| self.shape(one, namespace, depth + 1));
                Ok(Shape::Union(of.collect::<Result<_, _>>()?))
            }
            Json::Object(object) => self.of_object(object, namespace, depth),
            other => Err(format!("`{other}` is no type")),
        }
    }

    fn of_name(&self, name: &str, namespace: &str) -> Result<Shape, String> {
        let known = self.numbers.get(&full(name, namespace)).or_else(|| self.numbers.get(name));
        match (primitive(name), known) {
            (Some(shape), _) => Ok(shape),
            (None, Some(number)) => Ok(Shape::Named(*number)),
            (None, None) => Err(format!("the type `{name}` is not known")),
        }
    }

    fn of_object(
        &mut self,
        object: &Map<String, Json>,
        namespace: &str,
        depth: usize,
    ) -> Result<Shape, String> {
        let inner = |key: &str| object.get(key).ok_or_else(|| format!("a type has no `{key}`"));
        let Json::String(kind) = inner("type")? else {
            // A type as the type of a type.
            return self.shape(inner("type")?, namespace, depth + 1);
        };
        match kind.as_str() {
            "array" => {
                Ok(Shape::List(Box::new(self.shape(inner("items")?, namespace, depth + 1)?)))
            }
            "map" => {
                Ok(Shape::Map(Box::new(self.shape(inner("values")?, namespace, depth + 1)?)))
            }
            "record" | "error" | "enum" | "fixed" => self.named(object, kind, namespace, depth),
            name => Ok(logical(self.of_name(name, namespace)?, object)),
        }
    }

    fn named(
        &mut self,
        object: &Map<String, Json>,
        kind: &str,
        namespace: &str,
        depth: usize,
    ) -> Result<Shape, String> {
        let text = |key: &str| object.get(key).and_then(Json::as_str);
        let name = text("name").ok_or_else(|| format!("a type `{kind}` has no name"))?;
        let full = full(name, text("namespace").unwrap_or(namespace));
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let number = self.shapes.len();
        self.shapes.push(None);
        if self.numbers.insert(full.clone(), number).is_some() {
            return Err(format!("the type `{full}` is there twice"));
        }
        let list = |key: &str| {
            let list = object.get(key).and_then(Json::as_array);
            list.ok_or_else(|| format!("the type `{full}` has no `{key}`"))
        };
        let shape = match kind {
            "enum" => {
                let symbols = list("symbols")?.iter().map(|one| one.as_str().map(Arc::from));
                Shape::Enum(symbols.collect::<Option<_>>().ok_or("a symbol is no text")?)
            }
            "fixed" => {
                let size = object.get("size").and_then(Json::as_u64);
                let size = size.and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| format!("the type `{full}` has no `size`"))?;
                logical(Shape::Fixed(size), object)
            }
            _ => {
                let fields = list("fields")?.iter().map(|field| {
                    let name = field.get("name").and_then(Json::as_str);
                    let name = name.ok_or_else(|| format!("a field of `{full}` has no name"))?;
                    let of = field.get("type");
                    let of = of.ok_or_else(|| format!("the field `{name}` has no type"))?;
                    Ok(Field { name: name.into(), shape: self.shape(of, &namespace, depth + 1)? })
                });
                let fields = fields.collect::<Result<Vec<_>, String>>()?;
                let names: Vec<&Arc<str>> = fields.iter().map(|field| &field.name).collect();
                if let Some(name) = crate::record::first_duplicate(&names) {
                    return Err(format!("the type `{full}` has two fields `{name}`"));
                }
                Shape::Record(fields)
            }
        };
        self.shapes[number] = Some(shape);
        Ok(Shape::Named(number))
    }
}

/// Returns the name with its namespace.
fn full(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

fn primitive(name: &str) -> Option<Shape> {
    Some(match name {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "int" => Shape::Int,
        "long" => Shape::Long,
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "string" => Shape::Text,
        _ => return None,
    })
}

/// Returns what the logical type of `object` makes of `shape`. As the format says, one that does not fit is ignored.
fn logical(shape: Shape, object: &Map<String, Json>) -> Shape {
    let moment = |unit: i64, is_utc: bool| Shape::Moment { unit, is_utc };
    let number = |key: &str| {
        let number = object.get(key).and_then(Json::as_u64);
        number.and_then(|number| u32::try_from(number).ok())
    };
    let Some(name) = object.get("logicalType").and_then(Json::as_str) else { return shape };
    match (name, &shape) {
        ("date", Shape::Int) => Shape::Date,
        ("time-millis", Shape::Int) => Shape::Time { unit: 1_000_000, is_int: true },
        ("time-micros", Shape::Long) => Shape::Time { unit: 1_000, is_int: false },
        ("timestamp-millis", Shape::Long) => moment(1_000_000, true),
        ("timestamp-micros", Shape::Long) => moment(1_000, true),
        ("timestamp-nanos", Shape::Long) => moment(1, true),
        ("local-timestamp-millis", Shape::Long) => moment(1_000_000, false),
        ("local-timestamp-micros", Shape::Long) => moment(1_000, false),
        ("local-timestamp-nanos", Shape::Long) => moment(1, false),
        ("decimal", Shape::Bytes | Shape::Fixed(_)) => {
            let length = if let Shape::Fixed(length) = shape { Some(length) } else { None };
            let scale = if object.contains_key("scale") { number("scale") } else { Some(0) };
            let fits = |precision: u32| {
                // A byte has 2.408 decimal digits, and one bit is the sign.
                let digits = length.map(|length| (length * 8).saturating_sub(1) * 30_103 / 100_000);
                precision > 0 && digits.is_none_or(|digits| precision as usize <= digits)
            };
            match (number("precision"), scale) {
                (Some(precision), Some(scale)) if fits(precision) && scale <= precision => {
                    Shape::Decimal { scale, length }
                }
                _ => shape,
            }
        }
        ("big-decimal", Shape::Bytes) => Shape::BigDecimal,
        ("uuid", Shape::Fixed(16)) => Shape::Uuid,
        ("duration", Shape::Fixed(12)) => Shape::Duration,
        _ => shape,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_namespace_of_the_type_around_them() {
        let schema = Schema::parse(
            br#"{"type": "record", "name": "a.b.Tree", "fields": [
                {"name": "size", "type": {"type": "fixed", "name": "Size", "size": 4}},
                {"name": "other", "type": ["null", "a.b.Size"]},
                {"name": "left", "type": ["null", "Tree"]},
                {"name": "at", "type": {"type": {"type": "long", "logicalType": "timestamp-nanos"}}}
            ]}"#,
        );
        let schema = schema.unwrap();
        let shapes: Vec<_> = schema.fields.iter().map(|field| &field.shape).collect();
        assert_eq!(*shapes[0], Shape::Named(1));
        assert_eq!(*shapes[1], Shape::Union(vec![Shape::Null, Shape::Named(1)]));
        assert_eq!(*shapes[2], Shape::Union(vec![Shape::Null, Shape::Named(0)]));
        assert_eq!(*shapes[3], Shape::Moment { unit: 1, is_utc: true });
        assert_eq!(schema.named[1], Shape::Fixed(4));
    }

    #[test]
    fn a_logical_type_that_does_not_fit_is_ignored() {
        let of = |more: &str| {
            let kind = format!(r#"{{"type": "bytes", "logicalType": "decimal", {more}}}"#);
            let field = format!(r#"{{"name": "f", "type": {kind}}}"#);
            let schema = format!(r#"{{"type": "record", "name": "R", "fields": [{field}]}}"#);
            Schema::parse(schema.as_bytes()).unwrap().fields[0].shape.clone()
        };
        assert_eq!(of(r#""precision": 4, "scale": 2"#), Shape::Decimal { scale: 2, length: None });
        assert_eq!(of(r#""precision": 4"#), Shape::Decimal { scale: 0, length: None });
        for wrong in [
            r#""scale": 2"#,
            r#""precision": 4, "scale": "2""#,
            r#""precision": 4, "scale": -2"#,
            r#""precision": 4, "scale": 5"#,
            r#""precision": 0"#,
        ] {
            assert_eq!(of(wrong), Shape::Bytes, "{wrong}");
        }
        let fixed = Names::default().shape(
            &serde_json::json!({ "type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 5 }),
            "",
            0,
        );
        assert_eq!(fixed, Ok(Shape::Named(0)));
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_refused() {
        let deep = format!("{}\"int\"{}", "[".repeat(100), "]".repeat(100));
        let of = |shape: &str| {
            let field = format!(r#"{{"name": "f", "type": {shape}}}"#);
            format!(r#"{{"type": "record", "name": "R", "fields": [{field}]}}"#)
        };
        for (schema, expected) in [
            ("{", "EOF"),
            ("\"int\"", "no records"),
            (&of("\"money\""), "`money` is not known"),
            (&of("7"), "`7` is no type"),
            (&of(&deep), "deeper than"),
            (&of(r#"{"type": "array"}"#), "no `items`"),
            (&of(r#"{"type": "fixed", "name": "R", "size": 1}"#), "there twice"),
            (&of(r#"{"type": "fixed", "name": "F", "size": -1}"#), "no `size`"),
            (&of(r#""int"}, {"name": "f", "type": "int""#), "two fields `f`"),
        ] {
            let refused = Schema::parse(schema.as_bytes()).unwrap_err();
            assert!(refused.contains(expected), "{schema}: {refused}");
        }
    }
}
