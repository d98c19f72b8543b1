//! What Python would print: templates are written for it, so numbers, lists and JSON come out as there.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// What `str.strip` removes: more than Rust's whitespace.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `repr(float)`: the shortest digits that read back as the same number.
fn float(number: f64, nan: &str, infinity: &str) -> String {
    if number.is_nan() {
        return nan.into();
    }
    if number.is_infinite() {
        return format!("{}{infinity}", if number < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Not what `str.isprintable` calls printable, as far as it matters.
fn is_unprintable(c: char) -> bool {
    (c.is_whitespace() && c != ' ')
        || c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                       | '\u{e000}'..='\u{f8ff}' | '\u{fff9}'..='\u{fffb}' | '\u{f0000}'..)
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            c if is_unprintable(c) => {
                let code = c as u32;
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Python's own bound is that of its stack.
const MAX_DEPTH: usize = 200;

fn too_deep(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what}: nested too deeply"))
}

fn separate(first: &mut bool, out: &mut String) {
    if !std::mem::take(first) {
        out.push_str(", ");
    }
}

/// `repr(value)` at the end of `out`.
fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep("a list or dictionary"));
    }
    let mut first = true;
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => out.push_str(&quoted(text)),
        (ValueKind::Seq | ValueKind::Iterable, _) if value.try_iter().is_ok() => {
            out.push('[');
            for item in value.try_iter()? {
                separate(&mut first, out);
                repr(&item, depth + 1, out)?;
            }
            out.push(']');
        }
        (ValueKind::Map, _) if value.try_iter().is_ok() => {
            out.push('{');
            for key in value.try_iter()? {
                separate(&mut first, out);
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), depth + 1, out)?;
            }
            out.push('}');
        }
        (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map, _) => {
            out.push_str(&value.to_string())
        }
        _ => out.push_str(&str_of(value)?),
    }
    Ok(())
}

/// `str(value)`, what `{{ value }}` prints. Objects of the engine itself, such as macros, print as it likes.
pub fn str_of(value: &Value) -> Result<Cow<'_, str>, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined => "".into(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::String => value.as_str().map_or_else(|| value.to_string().into(), Cow::from),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => float(number, "nan", "inf").into(),
            Err(_) => value.to_string().into(),
        },
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            let mut out = String::new();
            repr(value, 0, &mut out)?;
            out.into()
        }
        _ => value.to_string().into(),
    })
}

struct Json {
    ensure_ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

fn no_json(value: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {} is not JSON", value.kind()))
}

impl Json {
    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep("tojson"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => {
                out.push_str(&float(f64::try_from(value.clone())?, "NaN", "Infinity"))
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { &self.between } else { "" });
                    self.line(depth + 1, out);
                    self.write(item, depth + 1, out)?;
                }
                if !items.is_empty() {
                    self.line(depth, out);
                }
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    out.push_str(if i > 0 { &self.between } else { "" });
                    self.line(depth + 1, out);
                    match key.as_str() {
                        Some(text) => self.string(text, out),
                        None => {
                            let mut text = String::new();
                            self.write(key, depth + 1, &mut text)?;
                            self.string(&text, out);
                        }
                    }
                    out.push_str(&self.after_key);
                    self.write(&value.get_item(key)?, depth + 1, out)?;
                }
                if !keys.is_empty() {
                    self.line(depth, out);
                }
                out.push('}');
            }
            _ => return Err(no_json(value)),
        }
        Ok(())
    }
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub fn tojson(value: &Value, ensure_ascii: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let option = |name: &str| kwargs.get::<Option<Value>>(name).map(|v| v.filter(|v| !v.is_none()));
    let indent = match option("indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(String::from),
        Some(count) => Some(" ".repeat(count.as_usize().unwrap_or(0).min(64))),
    };
    let ensure_ascii = option("ensure_ascii")?.or(ensure_ascii).is_some_and(|v| v.is_true());
    let sort_keys = option("sort_keys")?.is_some_and(|v| v.is_true());
    let separators = match option("separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some(pair) => (
            str_of(&pair.get_item_by_index(0)?)?.into_owned(),
            str_of(&pair.get_item_by_index(1)?)?.into_owned(),
        ),
    };
    kwargs.assert_all_used()?;
    let json =
        Json { ensure_ascii, indent, between: separators.0, after_key: separators.1, sort_keys };
    let mut out = String::new();
    json.write(value, 0, &mut out)?;
    Ok(out)
}
