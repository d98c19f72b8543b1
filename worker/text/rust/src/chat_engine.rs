//! What chat templates run on: the engine, set up as transformers sets up Jinja2.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::CString;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::{generation_tags, python};

/// Instructions of one rendering: less than a second. A turn costs some 50.
pub const FUEL: u64 = 5_000_000;
const MAX_CALL_DEPTH: usize = 100;

thread_local! {
    /// What surrounds the assistant's text while it is rendered on this thread, if anybody asks where it is.
    static MARK: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A source of errors that tells them from the engine's own: the template called raise_exception.
#[derive(Debug)]
struct Raised;

impl std::fmt::Display for Raised {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Raised {}

/// Whether the template itself called raise_exception.
pub fn was_raised(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<Raised>())
}

/// From now on what the assistant says is put between marks on this thread, or is not.
pub fn set_mark(mark: Option<String>) {
    MARK.set(mark);
}

/// `datetime.now().strftime(format)` with `seconds` since the epoch, in UTC, for now.
fn strftime(seconds: i64, format: &str) -> Result<String, Error> {
    let fails = |why: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {why}"));
    // Python fills these in itself, for a time without a zone.
    let mut plain = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (_, true) => match chars.next() {
                Some('f') => plain.push_str("000000"),
                Some('z' | 'Z') => {}
                other => plain.extend(std::iter::once('%').chain(other)),
            },
            (c, false) => plain.push(c),
        }
    }
    // The trailing letter tells an empty result from one that does not fit.
    let plain = CString::new(plain + "x").map_err(|_| fails("the format has a zero byte"))?;
    let mut buffer = [0u8; 1024];
    let length = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::gmtime_r(&seconds, &mut parts).is_null() {
            return Err(fails("the time is out of range"));
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), plain.as_ptr(), &parts)
    };
    if length == 0 {
        return Err(fails("the result is too long"));
    }
    Ok(String::from_utf8_lossy(&buffer[..length - 1]).into_owned())
}

/// Methods of Python's strings that minijinja-contrib lacks or sees differently, then its own.
fn call_method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return unknown_method_callback(state, value, method, args);
    };
    let argument = args.first().and_then(Value::as_str);
    match (method, argument) {
        ("strip", None) => Ok(text.trim_matches(python::is_space).into()),
        ("lstrip", None) => Ok(text.trim_start_matches(python::is_space).into()),
        ("rstrip", None) => Ok(text.trim_end_matches(python::is_space).into()),
        ("removeprefix", Some(prefix)) => Ok(text.strip_prefix(prefix).unwrap_or(text).into()),
        ("removesuffix", Some(suffix)) => Ok(text.strip_suffix(suffix).unwrap_or(text).into()),
        ("rsplit", Some(separator)) if !separator.is_empty() => {
            let limit =
                args.get(1).and_then(Value::as_usize).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts: Vec<Value> = text.rsplitn(limit, separator).map(Value::from).collect();
            parts.reverse();
            Ok(parts.into())
        }
        ("partition", Some(separator)) if !separator.is_empty() => {
            let (head, middle, tail) = match text.split_once(separator) {
                Some((head, tail)) => (head, separator, tail),
                None => (text, "", ""),
            };
            Ok(vec![Value::from(head), middle.into(), tail.into()].into())
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

fn join(value: &Value, separator: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let separator = kwargs.get::<Option<Value>>("d")?.or(separator).unwrap_or_else(|| "".into());
    let attribute = kwargs.get::<Option<String>>("attribute")?;
    kwargs.assert_all_used()?;
    let items = value.try_iter()?.map(|item| {
        let item = match &attribute {
            Some(name) => item.get_attr(name)?,
            None => item,
        };
        Ok(python::str_of(&item)?.into_owned())
    });
    Ok(items.collect::<Result<Vec<String>, Error>>()?.join(&python::str_of(&separator)?))
}

fn trim(text: &Value, chars: Option<String>) -> Result<String, Error> {
    let text = python::str_of(text)?;
    Ok(match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).into(),
        None => text.trim_matches(python::is_space).into(),
    })
}

fn generation(state: &State, kwargs: Kwargs) -> Result<String, Error> {
    let said = kwargs.get::<Value>("caller")?.call(state, &[])?.to_string();
    Ok(MARK.with_borrow(|mark| match mark {
        Some(mark) => format!("{mark}({said}{mark})"),
        None => said,
    }))
}

fn is_one_of(value: &Value, kinds: &[ValueKind]) -> bool {
    kinds.contains(&value.kind())
}

pub fn new_environment(unix_seconds: i64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(call_method);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_CALL_DEPTH);
    environment
        .set_formatter(|out, _, value| out.write_str(&python::str_of(value)?).map_err(Error::from));
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("join", join);
    environment.add_filter("trim", trim);
    environment.add_filter("string", |value: &Value| python::str_of(value).map(Cow::into_owned));
    // Python's undefined has a length and can be iterated over, none has and can not; a bool is a number.
    environment.add_test("sequence", |value: &Value| {
        is_one_of(value, &[ValueKind::Seq, ValueKind::String, ValueKind::Map, ValueKind::Undefined])
    });
    environment.add_test("iterable", |value: &Value| {
        value.kind() == ValueKind::Undefined
            || !is_one_of(value, &[ValueKind::None, ValueKind::Bool, ValueKind::Number])
                && value.try_iter().is_ok()
    });
    environment.add_test("number", |value: &Value| {
        is_one_of(value, &[ValueKind::Number, ValueKind::Bool])
    });
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| match value.kind() {
            ValueKind::Undefined => Ok(0),
            _ => minijinja::filters::length(value),
        });
    }
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = python::str_of(message)?.into_owned();
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(unix_seconds, format));
    environment.add_function(generation_tags::FUNCTION, generation);
    environment
}
