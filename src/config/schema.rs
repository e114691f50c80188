//! Defines the JSON Schema of the configuration, for editors.

use super::raw::RawConfiguration;

/// The schema of a whole configuration file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RawConfiguration).to_value()
}
