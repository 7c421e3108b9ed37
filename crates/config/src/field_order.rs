//! The order in which a struct declares its fields, which a JSON schema forgets.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::Error,
};
use serde::forward_to_deserialize_any;

/// Field names of the struct at this path of fields below `T`, as declared; nothing where an enum stands on the way.
pub(crate) fn declared_fields<T: DeserializeOwned>(path: &[&str]) -> Option<&'static [&'static str]> {
    let mut found = None;
    // The probe never yields a value; what counts is what it was asked for.
    let _ = T::deserialize(Probe { path, found: &mut found });
    found
}

/// A deserializer that walks down a path of fields and notes the names the last struct asks for.
struct Probe<'a> {
    path: &'a [&'a str],
    found: &'a mut Option<&'static [&'static str]>,
}

fn stop<T>() -> Result<T, Error> {
    Err(Error::custom("the probe has no values"))
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        stop()
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.path.is_empty() {
            *self.found = Some(fields);
            return stop();
        }
        visitor.visit_map(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        match self.path.first() {
            Some(field) => seed.deserialize((*field).into_deserializer()).map(Some),
            None => stop(),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let rest = self.path.get(1..).unwrap_or_default();
        seed.deserialize(Probe { path: rest, found: self.found })
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Error;

    fn next_element_seed<E: DeserializeSeed<'de>>(&mut self, seed: E) -> Result<Option<E::Value>, Error> {
        seed.deserialize(Probe { path: self.path, found: self.found }).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::declared_fields;

    #[derive(Deserialize, Default)]
    #[serde(default)]
    #[allow(dead_code)]
    struct Outer {
        zebra: u32,
        inner: Option<Inner>,
        list: Vec<Inner>,
        apple: String,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    #[allow(dead_code)]
    struct Inner {
        second: bool,
        #[serde(rename = "type")]
        first: bool,
    }

    #[test]
    fn names_come_in_the_order_of_declaration() {
        assert_eq!(declared_fields::<Outer>(&[]), Some(&["zebra", "inner", "list", "apple"][..]));
        assert_eq!(declared_fields::<Outer>(&["inner"]), Some(&["second", "type"][..]));
        assert_eq!(declared_fields::<Outer>(&["list"]), Some(&["second", "type"][..]));
        assert_eq!(declared_fields::<Outer>(&["apple"]), None);
    }
}
