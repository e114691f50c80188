//! Defines how the query of a page is read: what is unknown or said twice is an error, never a guess.

use http::Uri;

use super::error::ApiError;

/// The names and values of a query, decoded.
pub(super) fn pairs(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    form(uri.query().unwrap_or_default().as_bytes())
}

/// The names and values of a form, decoded.
pub(super) fn form(form: &[u8]) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(form).map(|(name, value)| (name.into_owned(), value.into_owned()))
}

/// Sets what may be given once.
pub(super) fn once(slot: &mut Option<String>, name: &str, value: String) -> Result<(), ApiError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ApiError::Malformed(format!("`{name}` is given twice"))),
    }
}

/// The error of a name that nobody reads.
pub(super) fn unknown(name: &str, known: &[&str]) -> ApiError {
    ApiError::Malformed(format!("there is no parameter `{name}`; there are: {}", known.join(", ")))
}
