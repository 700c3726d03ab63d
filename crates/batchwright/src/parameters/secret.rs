//! Secret parameters: which ones are secret, and the mask that replaces their values in lists, messages and
//! stored rows.

use super::{JobParameters, Parameter, ParameterSchema, ParameterType, ParameterValue};

/// The text displayed in place of a secret value.
#[doc(hidden)]
pub const MASK: &str = "***";

/// Parts of parameter names that mark a value as secret.
const SECRET_NAMES: [&str; 8] =
    ["password", "passwd", "secret", "token", "credential", "api_key", "apikey", "private_key"];

/// Minimum length of a secret, in bytes, for it to be masked in messages.
const SECRET_BYTES_MIN: usize = 4;

/// Whether `name` looks like the name of a secret.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase().replace('-', "_");
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// Whether the value of `parameter`, under `name`, must not be displayed.
pub(super) fn is_secret(name: &str, parameter: &Parameter) -> bool {
    parameter.secret || is_secret_name(name)
}

impl Parameter {
    /// Returns the parameter for display under `name`: the value is masked when it is secret or its name
    /// looks like that of a secret.
    pub fn shown_as(&self, name: &str) -> Self {
        if !is_secret(name, self) {
            return self.clone();
        }
        Self { value: MASK.into(), ..self.clone() }
    }
}

impl JobParameters {
    /// Replaces, in `text`, every value of a secret parameter, and every string value whose name looks like
    /// that of a secret, with the mask. Used for messages of databases and programs before they are stored.
    /// Values of fewer than four bytes are not masked, because they occur in any text.
    pub(crate) fn mask_in(&self, text: String) -> String {
        let is_hidden = |(name, one): &(&str, &Parameter)| {
            one.secret || is_secret_name(name) && matches!(one.value, ParameterValue::String(_))
        };
        let values = self.iter().filter(is_hidden).map(|(_, one)| one.value.to_string());
        let mut values: Vec<_> = values.filter(|value| value.len() >= SECRET_BYTES_MIN).collect();
        // One value may be the beginning of another: replace the longest first.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.iter().fold(text, |text, value| match text.contains(value) {
            true => text.replace(value, MASK),
            false => text,
        })
    }
}

/// Returns the problem of a secret value, without the value.
pub(super) fn hidden_problem(kind: ParameterType) -> String {
    format!("its value is not of type {kind}")
}

impl ParameterSchema {
    /// Returns the problem of a value of parameter `name` without the value, if it is secret: because it was given as
    /// secret (`is_secret`), is declared as secret, or has the name of a secret.
    pub(super) fn without_secret(&self, name: &str, is_secret: bool, problem: String) -> String {
        match self.find(name) {
            Some(known) if known.secret => hidden_problem(known.kind),
            _ if is_secret || is_secret_name(name) => "its value is not of its type".to_owned(),
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_secrets_of_which_one_begins_the_other_nothing_is_left() {
        let given = JobParameters::new()
            .with_non_identifying("a_token", "abcd")
            .with_non_identifying("b_token", "abcdefgh")
            .with_non_identifying("use_token", true)
            .with_non_identifying("short_secret", "x");
        let masked = given.mask_in("log in with abcdefgh or abcd: true, x".to_owned());
        assert_eq!(masked, "log in with *** or ***: true, x");
    }
}
