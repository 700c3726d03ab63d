//! Who people are, by the claims of a provider of OpenID Connect.

use serde_json::Value;

use super::Role;
use crate::scheduler::Secret;

/// The path to which the provider sends people back.
pub(super) const BACK: &str = "/sign-in/oidc/back";

/// A person who signed in.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) role: Role,
    /// The page to show.
    pub(super) next: String,
}

/// The way to the provider.
pub(super) struct Departure {
    pub(super) url: String,
    /// The word that the browser keeps, and brings back.
    pub(super) word: String,
}

/// The settings of sign-in by OpenID Connect.
#[derive(Debug, Clone)]
pub struct OidcSettings {
    /// The provider as it calls itself: `https://login.example.org/realms/main`, with a slash at the end if it has one.
    pub issuer: String,
    /// The name of this server at the provider.
    pub client_id: String,
    /// The secret of this server at the provider, if it has one.
    pub client_secret: Option<Secret>,
    /// The address of this server as browsers see it, with the path under which it is served: `https://batch.example.org`. The
    /// provider must allow `ADDRESS/sign-in/oidc/back`.
    pub address: String,
    /// Scopes beside `openid`.
    pub scopes: Vec<String>,
    /// The claim with the name of a person. Where it is missing: `email`, else `sub`.
    pub name_claim: String,
    /// The claim with the groups or roles of a person: a text or a list of texts; `a.b` is the field `b` within `a`.
    pub role_claim: String,
    /// Values of that claim, each with its role; `*` is everybody who can sign in. A person has the highest of the roles.
    pub roles: Vec<(String, Role)>,
}

impl OidcSettings {
    /// Returns the name of the person with these claims.
    pub(super) fn name_of(&self, claims: &Value) -> String {
        let named = [self.name_claim.as_str(), "email", "sub"];
        let name = named.into_iter().find_map(|name| claim(claims, name)?.as_str());
        batchwright::text::shown(name.unwrap_or("unknown")).chars().take(200).collect()
    }

    /// Returns the role of the person with these claims.
    pub(super) fn role_of(&self, claims: &Value) -> Option<Role> {
        let held: Vec<&str> = match claim(claims, &self.role_claim) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let counts = |value: &str| value == "*" || held.contains(&value);
        self.roles.iter().filter(|(value, _)| counts(value)).map(|(_, role)| *role).max()
    }
}

/// Returns a claim by its name, or by the path to it.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    // A name may have dots itself, such as `https://example.org/roles`.
    claims.get(name).or_else(|| name.split('.').try_fold(claims, |within, part| within.get(part)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(role_claim: &str, roles: &[(&str, Role)]) -> OidcSettings {
        OidcSettings {
            issuer: "https://login.example".to_owned(),
            client_id: "batchwright".to_owned(),
            client_secret: Some(Secret::new("hidden")),
            address: "https://batch.example".to_owned(),
            scopes: Vec::new(),
            name_claim: "preferred_username".to_owned(),
            role_claim: role_claim.to_owned(),
            roles: roles.iter().map(|(value, role)| ((*value).to_owned(), *role)).collect(),
        }
    }

    #[test]
    fn a_person_has_the_highest_role_of_their_groups_and_none_without_one() {
        let roles = [("ops", Role::Operator), ("admins", Role::Admin), ("staff", Role::Viewer)];
        let by_groups = settings("groups", &roles);
        for (claims, role) in [
            (json!({"groups": ["staff", "ops"]}), Some(Role::Operator)),
            (json!({"groups": "admins"}), Some(Role::Admin)),
            (json!({"groups": ["guests", "*"]}), None),
            (json!({"groups": {"admins": true}}), None),
            (json!({"roles": ["admins"]}), None),
        ] {
            assert_eq!(by_groups.role_of(&claims), role, "{claims}");
        }
        let nested = settings("realm_access.roles", &[("ops", Role::Operator)]);
        let claims = json!({"realm_access": {"roles": ["ops"]}});
        assert_eq!(nested.role_of(&claims), Some(Role::Operator));
        let url = settings("https://example.org/roles", &[("ops", Role::Operator)]);
        assert_eq!(
            url.role_of(&json!({"https://example.org/roles": ["ops"]})),
            Some(Role::Operator)
        );
        let all = settings("groups", &[("*", Role::Viewer), ("ops", Role::Operator)]);
        assert_eq!(all.role_of(&json!({})), Some(Role::Viewer));
        assert!(!format!("{all:?}").contains("hidden"));
    }

    #[test]
    fn a_name_is_one_that_people_know() {
        let settings = settings("groups", &[]);
        for (claims, name) in [
            (
                json!({"sub": "7", "email": "maria@example.org", "preferred_username": "maria"}),
                "maria",
            ),
            (json!({"sub": "7", "email": "maria@example.org"}), "maria@example.org"),
            (json!({"sub": "7"}), "7"),
            (json!({}), "unknown"),
        ] {
            assert_eq!(settings.name_of(&claims), name);
        }
    }
}
