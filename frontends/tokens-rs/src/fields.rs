//! The fields of a JSON object, taken one by one, so that every error names its field and none is left unread.

use crate::errors::{shortened, ApiError};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::ops::RangeInclusive;

/// No request has more; keeps millions of them from becoming objects.
const MOST: usize = 128;

#[derive(Default)]
pub struct Fields<'a> {
    /// In front of every name in errors: empty, or an object's name and a dot.
    path: String,
    /// JSON text by name; of equal names the last counts.
    given: Vec<(String, &'a RawValue)>,
}

struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Self::Value = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    entries.retain(|(earlier, _)| *earlier != name);
                    if entries.len() == MOST {
                        return Err(A::Error::custom(format!("more than {MOST} fields")));
                    }
                    entries.push((name, value));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(Object)
    }
}

/// What serde says, without the place in a text that the client never saw in this form.
pub fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    shortened(&text[..end]).to_owned()
}

impl<'a> Fields<'a> {
    /// Of a request's body.
    pub fn of_body(body: &'a [u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice::<Object<'a>>(body) {
            Ok(object) => Ok(Self { path: String::new(), given: object.0 }),
            Err(error) if error.is_data() => {
                Err(ApiError::invalid(format!("Invalid value for the request body: {}.", reason(&error))))
            }
            Err(error) => Err(ApiError::invalid(format!("The request body is not valid JSON: {error}."))),
        }
    }

    /// Of an object among the fields of another.
    pub fn of_object(name: &str, value: &'a RawValue) -> Result<Self, ApiError> {
        let object: Object<'a> = serde_json::from_str(value.get()).map_err(|error| invalid(name, &reason(&error)))?;
        Ok(Self { path: format!("{name}."), given: object.0 })
    }

    /// The full name of a field.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The JSON text of a field; None where it is absent or null.
    pub fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.given.iter().position(|(given, _)| given == name)?;
        Some(self.given.swap_remove(at).1).filter(|value| value.get() != "null")
    }

    /// A field of a type; None where it is absent or null.
    pub fn take<T: Deserialize<'a>>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|error| invalid(&self.full(name), &reason(&error)))
    }

    /// A number between two others, both included.
    pub fn number<T>(&mut self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, ApiError>
    where
        T: Deserialize<'a> + PartialOrd + Display,
    {
        match self.take(name)? {
            Some(number) if !range.contains(&number) => {
                let wish = format!("{number} is not between {} and {}", range.start(), range.end());
                Err(invalid(&self.full(name), &wish))
            }
            number => Ok(number),
        }
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.take(name)
    }

    /// Accept a field that does nothing here only where its value asks for nothing: null, or one of `neutral`.
    pub fn refuse_unless(&mut self, name: &str, neutral: &[&str]) -> Result<(), ApiError> {
        match self.raw(name) {
            Some(value) if !neutral.contains(&value.get()) => Err(unsupported(&self.full(name))),
            _ => Ok(()),
        }
    }

    /// Refuse what is left. `known`: options that are known elsewhere and not supported here.
    pub fn finish(mut self, known: &[&str]) -> Result<(), ApiError> {
        for name in known {
            self.refuse_unless(name, &[])?;
        }
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name = self.full(shortened(name));
                Err(ApiError::invalid(format!("Unknown field '{name}'.")).param(name).code("unknown_parameter"))
            }
        }
    }
}

/// A list of at most so many entries: nothing is built from millions that will be refused.
pub fn list<'a, T: Deserialize<'a>>(name: &str, value: &'a RawValue, most: usize) -> Result<Vec<T>, ApiError> {
    struct AtMost<T>(usize, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for AtMost<T> {
        type Value = Vec<T>;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
            deserializer.deserialize_seq(self)
        }
    }
    impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<T>, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = array.next_element()? {
                if entries.len() == self.0 {
                    return Err(A::Error::custom(format!("more than {} entries", self.0)));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    AtMost(most, PhantomData)
        .deserialize(&mut serde_json::Deserializer::from_str(value.get()))
        .map_err(|error| invalid(name, &reason(&error)))
}

pub fn invalid(name: &str, why: &str) -> ApiError {
    ApiError::invalid(format!("Invalid value for {name}: {why}.")).param(name)
}

fn unsupported(name: &str) -> ApiError {
    ApiError::invalid(format!("'{name}' is not supported by this front-end.")).param(name).code("unsupported_parameter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_the_same_as_absent_and_the_last_of_equal_names_counts() {
        let mut fields = Fields::of_body(br#"{"a": null, "b": 1, "b": 2}"#).unwrap();
        assert_eq!(fields.take::<u32>("a").unwrap(), None);
        assert_eq!(fields.take::<u32>("b").unwrap(), Some(2));
        fields.finish(&[]).unwrap();
    }

    #[test]
    fn every_error_names_its_field() {
        let mut fields = Fields::of_body(br#"{"n": "two", "t": 9, "regex": "x", "odd": 1}"#).unwrap();
        let error = fields.take::<u32>("n").unwrap_err();
        assert_eq!(error.told().1, Some("n"));
        assert!(error.told().0.contains("expected u32"), "{error:?}");
        assert!(fields.number("t", 0.0..=2.0).unwrap_err().told().0.contains("9 is not between 0 and 2"));
        let error = fields.finish(&["regex"]).unwrap_err();
        assert_eq!(error.told(), ("'regex' is not supported by this front-end.", Some("regex")));
        let error = Fields::of_body(br#"{"odd": 1}"#).unwrap().finish(&["regex"]).unwrap_err();
        assert_eq!(error.told(), ("Unknown field 'odd'.", Some("odd")));
    }

    #[test]
    fn odd_bodies_are_refused() {
        let deep = "[".repeat(1 << 20);
        let many: String = (0..100_000).map(|number| format!("\"f{number}\":1,")).collect();
        for body in
            ["", "[]", "3", "{", "{\"a\": }", "{\"a\": nan}", &deep, &format!("{{\"a\":{deep}"), &format!("{{{many}")]
        {
            assert!(Fields::of_body(body.as_bytes()).is_err());
        }
        assert!(Fields::of_body(b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn a_clients_own_text_is_repeated_only_in_part() {
        let body = format!("{{\"n\": \"{}\"}}", "ä".repeat(1 << 20));
        let error = Fields::of_body(body.as_bytes()).unwrap().take::<u32>("n").unwrap_err();
        assert!(error.body().len() < 1000);
    }
}
