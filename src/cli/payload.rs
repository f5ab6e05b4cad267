//! Payloads as people type and read them: JSON for MessagePack, text or base64 for bytes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};
use zmesh::protocol::envelope::Format;
use zmesh::protocol::payload;

/// A payload as one JSON value: MessagePack is converted; bytes are a text, or an object with
/// `base64` if they are none.
pub(super) fn to_json(format: Format, bytes: &[u8]) -> Value {
    match format {
        Format::MessagePack => match payload::decode::<Json>(bytes) {
            Ok(Json(value)) => value,
            Err(_) => json!({ "base64": base64(bytes) }),
        },
        Format::Raw => of_bytes(bytes),
    }
}

fn of_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": base64(bytes) }),
    }
}

/// Base64 with the usual alphabet and padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |position: usize| u32::from(chunk.get(position).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (position, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let symbol = ALPHABET[(bits >> shift & 63) as usize];
            text.push(if position <= chunk.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

/// Any MessagePack value as JSON. What JSON has not is written in what it has: bytes as above, keys
/// that are no texts as their JSON.
struct Json(Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue).map(Json)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON has no infinity and no NaN.
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(of_bytes(value))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(Self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Json(value)) = from.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((Json(key), Json(value))) = from.next_entry()? {
            let key = key.as_str().map_or_else(|| key.to_string(), ToOwned::to_owned);
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 4648, and bytes with high bits.
    #[test]
    fn base64_is_as_everybody_writes_it() {
        for (bytes, text) in [
            (b"".as_slice(), ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xff\xfe\xfd", "//79"),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }

    /// Whatever a node sends is printed as something; only lossless where JSON can say it.
    #[test]
    fn message_pack_becomes_json() {
        let value = json!({ "a": [1, -2, 0.5, null, true, "x"] });
        let bytes = payload::encode(&value).unwrap();
        assert_eq!(to_json(Format::MessagePack, &bytes), value);
        // {1: bin(ff), 2: ext}
        let odd = [0x82, 0x01, 0xc4, 0x01, 0xff, 0x02, 0xc4, 0x01, b'y'];
        let expected = json!({ "1": { "base64": "/w==" }, "2": "y" });
        assert_eq!(to_json(Format::MessagePack, &odd), expected);
        assert_eq!(to_json(Format::MessagePack, &[0xc1]), json!({ "base64": "wQ==" }));
        assert_eq!(to_json(Format::Raw, b"text"), json!("text"));
    }
}
