//! The parameters that a job declares, and the parser of given ones.

use super::secret::hidden_problem;
use super::{JobParameters, MASK, OF_EVERY_JOB, Parameter, ParameterType, ParameterValue};

/// The declaration of a job's parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterDeclaration {
    /// Name of the parameter.
    pub name: String,
    /// Type of the parameter.
    pub kind: ParameterType,
    /// Whether a start without the parameter is refused.
    pub required: bool,
    /// Value used when the parameter is not given.
    pub default: Option<ParameterValue>,
    /// Whether another value makes another instance.
    pub identifying: bool,
    /// Whether the value is secret and never displayed.
    pub secret: bool,
    /// Description, for help texts and forms.
    pub description: String,
}

impl ParameterDeclaration {
    /// Declares an optional, identifying parameter without a default.
    pub fn new(name: impl Into<String>, kind: ParameterType) -> Self {
        Self {
            name: name.into(),
            kind,
            required: false,
            default: None,
            identifying: true,
            secret: false,
            description: String::new(),
        }
    }

    /// Makes the parameter required: a start without it is refused.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Sets the value used when the parameter is not given.
    #[must_use]
    pub fn default(mut self, value: impl Into<ParameterValue>) -> Self {
        self.default = Some(value.into());
        self
    }

    /// Makes the parameter non-identifying: another value does not make another instance.
    #[must_use]
    pub fn non_identifying(mut self) -> Self {
        self.identifying = false;
        self
    }

    /// Makes the parameter secret and non-identifying. A secret value is never displayed: not in lists, not
    /// by the API, not in messages about it. The store keeps it unchanged. A secret cannot identify, because
    /// the key of an instance is a hash of its identifying values, and trying all values would reveal it.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self.identifying = false;
        self
    }

    /// Sets the description.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }
}

/// The parameters that a job accepts. All problems are reported together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParameterSchema {
    /// Declared parameters, in the order of their declaration.
    pub declared: Vec<ParameterDeclaration>,
    /// Whether parameters that are not declared are accepted.
    pub open: bool,
}

impl ParameterSchema {
    /// Returns the declaration of that name.
    pub fn find(&self, name: &str) -> Option<&ParameterDeclaration> {
        self.declared.iter().find(|declaration| declaration.name == name)
    }

    /// Parses parameter `name` from JSON, plain or with type and role, according to its declaration.
    ///
    /// # Errors
    ///
    /// A sentence, when the type or the role differs from the declaration.
    pub fn parameter(&self, name: &str, json: serde_json::Value) -> Result<Parameter, String> {
        let declared = self.find(name);
        let says_identifying = json.get("identifying").is_some_and(|role| !role.is_null());
        let is_secret = json.get("secret").is_some_and(|secret| secret != false);
        let mut parameter = Parameter::from_json(json, declared.map(|declared| declared.kind))
            .map_err(|problem| self.without_secret(name, is_secret, problem))?;
        match declared {
            Some(declared) if !says_identifying => parameter.identifying = declared.identifying,
            Some(declared) if declared.identifying != parameter.identifying => {
                let role = if declared.identifying { "identifying" } else { "not identifying" };
                return Err(format!("it is declared as {role}"));
            }
            _ => {}
        }
        Ok(parameter)
    }

    /// Parses parameter `name` from text, as the type that `kind` names, or as the job declares it; a
    /// parameter that is not declared is a `string`.
    ///
    /// # Errors
    ///
    /// A sentence, when the text is not a value of the type.
    pub fn parse(
        &self,
        name: &str,
        text: &str,
        kind: Option<ParameterType>,
    ) -> Result<Parameter, String> {
        let declared = self.find(name);
        let kind = kind.or(declared.map(|declared| declared.kind));
        let value = ParameterValue::parse(text, kind.unwrap_or(ParameterType::String))
            .map_err(|problem| self.without_secret(name, false, problem))?;
        Ok(Parameter::new(value, declared.is_none_or(|declared| declared.identifying)))
    }

    /// Parses as [`parse`](Self::parse) a text that contains a secret: the parameter is secret, and identifying
    /// only if the job declares that.
    ///
    /// # Errors
    ///
    /// A sentence without the text, when it is not a value of the type.
    pub fn parse_secret(&self, name: &str, text: &str) -> Result<Parameter, String> {
        let declared = self.find(name);
        let kind = declared.map_or(ParameterType::String, |declared| declared.kind);
        let value = ParameterValue::parse(text, kind).map_err(|_| hidden_problem(kind))?;
        let identifying = declared.is_some_and(|declared| declared.identifying);
        Ok(Parameter { secret: true, ..Parameter::new(value, identifying) })
    }

    /// Parses all parameters of a JSON object.
    ///
    /// # Errors
    ///
    /// One sentence for every parameter that [`parameter`](Self::parameter) refuses.
    pub fn parameters(
        &self,
        given: impl IntoIterator<Item = (String, serde_json::Value)>,
    ) -> Result<JobParameters, Vec<String>> {
        let mut parameters = JobParameters::new();
        let mut problems = Vec::new();
        for (name, json) in given {
            match self.parameter(&name, json) {
                Ok(parameter) => drop(parameters.insert(name, parameter)),
                Err(problem) => problems.push(format!("parameter `{name}`: {problem}")),
            }
        }
        if problems.is_empty() { Ok(parameters) } else { Err(problems) }
    }

    /// Returns `given` with the defaults filled in.
    ///
    /// # Errors
    ///
    /// One sentence for every missing, unknown or mistyped parameter.
    pub fn complete(&self, mut given: JobParameters) -> Result<JobParameters, Vec<String>> {
        let mut problems = Vec::new();
        for (name, parameter) in &mut given.0 {
            let name = name.as_str();
            match self.find(name) {
                Some(known) if known.kind != parameter.value.kind() => problems.push(format!(
                    "parameter `{name}` is of type {}, expected {}",
                    parameter.value.kind(),
                    known.kind
                )),
                Some(known) => parameter.secret |= known.secret,
                None if self.open || OF_EVERY_JOB.contains(&name) => {}
                None => problems.push(format!(
                    "parameter `{name}` is unknown; known are: {}",
                    names(self.declared.iter().map(|declaration| declaration.name.as_str()))
                )),
            }
        }
        for (name, secret) in given.iter().filter(|(_, one)| one.secret) {
            if secret.identifying {
                problems.push(format!("parameter `{name}` is secret, so it cannot be identifying"));
            }
            // A mask copied from a display would replace the real value.
            if secret.value == MASK.into() {
                problems.push(format!(
                    "parameter `{name}` is `{MASK}`, the mask of a secret; give the value itself"
                ));
            }
        }
        for known in &self.declared {
            match &known.default {
                _ if given.get(&known.name).is_some() => {}
                Some(value) => {
                    let value = Parameter::new(value.clone(), known.identifying);
                    let secret = known.secret;
                    given.insert(known.name.clone(), Parameter { secret, ..value });
                }
                None if known.required => {
                    problems.push(format!("parameter `{}` is required", known.name));
                }
                None => {}
            }
        }
        if problems.is_empty() { Ok(given) } else { Err(problems) }
    }
}

/// Returns a list of names for a message; `(none)` when it is empty.
pub(crate) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let list: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if list.is_empty() { "(none)".to_owned() } else { list.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_together() {
        let schema = ParameterSchema {
            declared: vec![
                ParameterDeclaration::new("date", ParameterType::Date).required(),
                ParameterDeclaration::new("limit", ParameterType::Integer).default(3),
            ],
            open: false,
        };
        let problems =
            schema.complete(JobParameters::new().with("limit", "x").with("dat", "y")).unwrap_err();
        assert_eq!(
            problems,
            [
                "parameter `dat` is unknown; known are: `date`, `limit`",
                "parameter `limit` is of type string, expected integer",
                "parameter `date` is required",
            ]
        );
    }
}
