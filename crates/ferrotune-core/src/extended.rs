//! Floating-point numbers in JSON, which has none that are not finite.
//!
//! A finite number is a number. The others are the strings `"inf"`, `"-inf"` and `"NaN"`: unlike `null` they keep what was
//! measured, unlike the bare words that some writers leave they are JSON, and Python's `float` and Rust's `parse` turn
//! each of them into the number it names. Whatever Ferrotune writes that may be infinite, a perplexity above all, has
//! this form, by [`Extended`] or by an attribute on its field:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Measured {
//!     #[serde(with = "ferrotune_core::extended")]
//!     perplexity: f64,
//!     #[serde(default, with = "ferrotune_core::extended::option")]
//!     best: Option<f64>,
//! }
//!
//! let written = serde_json::to_string(&Measured { perplexity: f64::INFINITY, best: Some(2.5) })?;
//! assert_eq!(written, r#"{"perplexity":"inf","best":2.5}"#);
//! let read: Measured = serde_json::from_str(&written)?;
//! assert_eq!((read.perplexity, read.best), (f64::INFINITY, Some(2.5)));
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Unexpected, Visitor},
};

/// A number that is written as one, or as `"inf"`, `"-inf"` or `"NaN"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extended(pub f64);

impl Serialize for Extended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f64(self.0) } else { serializer.collect_str(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Extended {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form)
    }
}

struct Form;

impl Visitor<'_> for Form {
    type Value = Extended;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, `inf`, `-inf` or `NaN`")
    }

    fn visit_f64<E>(self, number: f64) -> Result<Extended, E> {
        Ok(Extended(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Extended, E> {
        Ok(Extended(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Extended, E> {
        Ok(Extended(number as f64))
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Extended, E> {
        match word {
            "inf" => Ok(Extended(f64::INFINITY)),
            "-inf" => Ok(Extended(f64::NEG_INFINITY)),
            "NaN" => Ok(Extended(f64::NAN)),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}

/// Writes a field as [`Extended`] does.
///
/// # Errors
/// The serializer's own.
pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Extended(*number).serialize(serializer)
}

/// Reads a field as [`Extended`] does.
///
/// # Errors
/// What is neither a number nor one of the three words.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Extended::deserialize(deserializer).map(|Extended(number)| number)
}

/// The same for a field that may be absent or null.
pub mod option {
    use super::{Deserialize as _, Deserializer, Extended, Serialize as _, Serializer};

    /// Writes a field as [`Extended`] does; nothing is `null`.
    ///
    /// # Errors
    /// The serializer's own.
    #[allow(clippy::ref_option, reason = "serde prescribes the signature")]
    pub fn serialize<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        number.map(Extended).serialize(serializer)
    }

    /// Reads a field as [`Extended`] does; `null` is nothing.
    ///
    /// # Errors
    /// What is neither `null` nor a number nor one of the three words.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Extended>::deserialize(deserializer)?.map(|Extended(number)| number))
    }
}

#[cfg(test)]
mod tests {
    use super::Extended;

    #[test]
    fn every_number_comes_back_with_its_bits_and_nothing_else_is_one() {
        for number in [0.0, -0.0, 0.1, 5e-324, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]
        {
            let written = serde_json::to_string(&Extended(number)).unwrap();
            let Extended(read) = serde_json::from_str(&written).unwrap();
            assert_eq!(read.to_bits(), number.to_bits(), "{written}");
        }
        // Whole numbers are written without a point by others.
        assert_eq!(serde_json::from_str::<Extended>("-3").unwrap(), Extended(-3.0));
        for other in ["\"1.5\"", "\"Infinity\"", "\"nan\"", "null", "true", "[1]"] {
            let error = serde_json::from_str::<Extended>(other).unwrap_err().to_string();
            assert!(error.contains("a number, `inf`, `-inf` or `NaN`"), "{other}: {error}");
        }
    }
}
