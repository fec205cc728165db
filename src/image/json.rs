//! Writes JSON, indented because people read it with curl.
//!
//! Document: RFC 8259.
//!
//! Limits: numbers are unsigned integers.
//!
//! Deliberately absent: other numbers, booleans and null, which no document here has. `serde_json` can write all of
//! them, but its tables for floating-point numbers would add 14,000 bytes to the layer.

use serde_json::Value;

/// Writes a value that consists of objects, arrays, strings and unsigned integers.
pub fn to_bytes(value: &Value) -> Vec<u8> {
    let mut out = String::new();
    write(value, "\n", &mut out);
    out.into_bytes()
}

/// Writes a value. `line_end` is a line feed, followed by the indentation of the line on which the value begins.
fn write(value: &Value, line_end: &str, out: &mut String) {
    let (open, close, members): (_, _, Vec<(Option<&String>, &Value)>) = match value {
        Value::Object(fields) => ("{", "}", fields.iter().map(|(key, value)| (Some(key), value)).collect()),
        Value::Array(values) => ("[", "]", values.iter().map(|value| (None, value)).collect()),
        Value::String(text) => return write_text(text, out),
        other => return *out += &other.as_u64().expect("it is a whole number").to_string(),
    };
    *out += open;
    let deeper = format!("{line_end}  ");
    for (index, (key, value)) in members.iter().enumerate() {
        *out += if index == 0 { "" } else { "," };
        *out += &deeper;
        if let Some(key) = key {
            write_text(key, out);
            *out += ": ";
        }
        write(value, &deeper, out);
    }
    *out += if members.is_empty() { "" } else { line_end };
    *out += close;
}

fn write_text(text: &str, out: &mut String) {
    *out += &serde_json::to_string(text).expect("every text can be written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_text_is_that_of_serde_json() {
        for value in [
            json!({}),
            json!([]),
            json!("\"quoted\"\n\u{1}\u{1f600}\\"),
            json!(u64::MAX),
            json!({ "b": [1, {}, [], [[]], { "c": "" }], "a": { "key \"of\" it\t": 0 } }),
        ] {
            let expected = serde_json::to_string_pretty(&value).expect("a value");
            assert_eq!(str::from_utf8(&to_bytes(&value)), Ok(&*expected));
        }
    }
}
