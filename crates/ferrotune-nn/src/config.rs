//! Reading a Hugging Face `config.json`: typed fields, both spellings of the versions, and refusals by name.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result, checkpoint::read_json};

/// A parsed `config.json` (or a table inside it) that knows what to call itself in messages.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    place: String,
    fields: Map<String, Value>,
}

impl ConfigFile {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Json`].
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        Ok(Self { place: format!("`{}`", path.display()), fields: read_json(&path)? })
    }

    /// A configuration from memory.
    #[must_use]
    pub fn from_fields(place: &str, fields: Map<String, Value>) -> Self {
        Self { place: place.to_owned(), fields }
    }

    /// The raw fields.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// What messages call this file.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A field, or nothing where it is absent or null.
    ///
    /// # Errors
    /// [`Error::Config`] if it is of another type.
    pub fn optional<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| self.refuse(field, value, &format!("a value of another type ({error})"))),
        }
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn required<T: DeserializeOwned>(&self, field: &str) -> Result<T> {
        self.optional(field)?.ok_or_else(|| self.refuse(field, &Value::Null, "a value"))
    }

    /// A field that is a size: an integer above 0 that fits 32 bits, so that the product of two fits 64.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn size(&self, field: &str) -> Result<i64> {
        self.optional_size(field)?.ok_or_else(|| self.refuse(field, &Value::Null, "an integer above 0"))
    }

    /// The same for a field that may be absent or null.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn optional_size(&self, field: &str) -> Result<Option<i64>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64().filter(|&size| size > 0 && size <= i64::from(i32::MAX)) {
                Some(size) => Ok(Some(size)),
                None => Err(self.refuse(field, value, "an integer above 0 that fits 32 bits")),
            },
        }
    }

    /// A field that is a finite number of at least 0, with a default for files that leave it out.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn not_negative(&self, field: &str, default: f64) -> Result<f64> {
        match self.optional::<f64>(field)? {
            None => Ok(default),
            Some(value) if value.is_finite() && value >= 0.0 => Ok(value),
            Some(value) => Err(self.refuse(field, &value.into(), "a finite number of at least 0")),
        }
    }

    /// Refuses every value of a field but those listed; an absent or null field passes.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn only(&self, field: &str, accepted: &[Value]) -> Result<()> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if accepted.iter().any(|accepted| same_value(accepted, value)) => Ok(()),
            Some(value) => {
                let accepted: Vec<_> = accepted.iter().map(ToString::to_string).collect();
                let accepted =
                    if accepted.is_empty() { "absent or null".to_owned() } else { accepted.join(" or ") };
                Err(self.refuse(field, value, &format!("{accepted} (nothing else is implemented)")))
            }
        }
    }

    /// The error for a field.
    #[must_use]
    pub fn refuse(&self, field: &str, found: &Value, expected: &str) -> Error {
        let found = if found.is_null() { "absent".to_owned() } else { found.to_string() };
        Error::Config {
            field: field.to_owned(),
            place: self.place.clone(),
            found,
            expected: expected.to_owned(),
        }
    }

    /// A nested table.
    ///
    /// # Errors
    /// [`Error::Config`] if the field is something else.
    pub fn table(&self, field: &str) -> Result<Option<Self>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => {
                Ok(Some(Self { place: format!("`{field}` in {}", self.place), fields: fields.clone() }))
            }
            Some(other) => Err(self.refuse(field, other, "a table")),
        }
    }

    /// The stored type of the weights as the file names it (`dtype`, or `torch_dtype` before transformers 5).
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::ConfigConflict`].
    pub fn dtype(&self) -> Result<Option<String>> {
        self.either("dtype", "torch_dtype")
    }

    /// A field under its new or its old name; both may be there if they agree.
    fn either(&self, new: &str, old: &str) -> Result<Option<String>> {
        let (first, second): (Option<String>, Option<String>) = (self.optional(new)?, self.optional(old)?);
        match (first, second) {
            (Some(first_value), Some(second_value)) if first_value != second_value => {
                Err(Error::ConfigConflict {
                    place: self.place.clone(),
                    first: new.to_owned(),
                    first_value,
                    second: old.to_owned(),
                    second_value,
                })
            }
            (first, second) => Ok(first.or(second)),
        }
    }
}

/// Equality that does not tell 1 from 1.0.
fn same_value(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b)
}
