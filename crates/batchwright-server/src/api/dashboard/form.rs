//! The fields of a form, which proves that it comes from a page of this server.

use axum::Form;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use subtle::ConstantTimeEq;

use super::super::access::Caller;
use super::super::body::BODY_TIMEOUT;
use super::super::{Api, Problem};

/// The fields of a form, in their order.
pub(super) struct Fields(Vec<(String, String)>);

impl FromRequest<Api> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let caller = Caller::of(request.extensions());
        let fields = Self::read(request, api).await?;
        let (given, expected) = (fields.text("form_key"), api.form_key_of(&caller));
        match bool::from(given.as_bytes().ct_eq(expected.as_bytes())) {
            true => Ok(fields),
            false => {
                let detail = "the form is not one of this server, or its session has ended; open the page again";
                Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail))
            }
        }
    }
}

impl Fields {
    /// Reads the fields without the proof: for the form of the sign-in, which has no session yet.
    pub(super) async fn read(request: Request, api: &Api) -> Result<Self, Problem> {
        let read = Form::<Vec<(String, String)>>::from_request(request, api);
        let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, read).await else {
            let detail = "the form did not arrive in time";
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "usage", detail));
        };
        let Form(fields) = read.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
            _ => Problem::invalid(format!("the form cannot be read: {}", rejection.body_text())),
        })?;
        Ok(Self(fields))
    }

    /// Returns the first value of `name`; empty when there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Returns the first value of `name`, if the form has that field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns all values of `name`.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns whether a box is ticked.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Returns the fields whose names begin with `prefix`, without it.
    pub(super) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, &**value)))
    }
}
