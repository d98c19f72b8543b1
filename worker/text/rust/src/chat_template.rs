//! Chat templates, rendered as transformers renders them with Jinja2.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::ffi::{c_char, CString};
use std::hash::{BuildHasher, Hasher};
use std::io;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value as Json};

use crate::{generation_tags, guard, guard_blaming, python, text_of, Failure, Outcome, Status};

const NAME: &str = "chat";
/// Instructions of one rendering: less than a second. A turn costs some 50.
const FUEL: u64 = 5_000_000;
const MAX_SOURCE_BYTES: usize = 1 << 20;
const MAX_TEXT_BYTES: usize = 64 << 20;
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

pub struct ChatTemplate {
    environment: Environment<'static>,
    marks_generation: bool,
    /// Where it came from, for messages.
    origin: String,
    /// Tokens that may end a turn.
    special_tokens: Vec<String>,
    /// What every rendering gets: bos_token and the like.
    variables: Map<String, Json>,
}

/// Null texts are absent.
#[repr(C)]
pub struct RenderRequest {
    messages: *const u8,
    messages_len: usize,
    tools: *const u8,
    tools_len: usize,
    variables: *const u8,
    variables_len: usize,
    add_generation_prompt: i32,
    find_spans: i32,
}

/// `thaw_template_render` fills it. `spans` has two entries, begin and end in bytes, for each of `span_count`.
#[repr(C)]
pub struct RenderedView {
    text: *const u8,
    text_len: usize,
    spans: *const usize,
    span_count: usize,
    owner: *mut Rendered,
}

pub struct Rendered {
    text: String,
    spans: Vec<usize>,
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
        Ok(python::str_of(&item).into_owned())
    });
    Ok(items.collect::<Result<Vec<String>, Error>>()?.join(&python::str_of(&separator)))
}

fn trim(text: &Value, chars: Option<String>) -> String {
    let text = python::str_of(text);
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).into(),
        None => text.trim_matches(python::is_space).into(),
    }
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

fn new_environment(unix_seconds: i64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(call_method);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_CALL_DEPTH);
    environment
        .set_formatter(|out, _, value| out.write_str(&python::str_of(value)).map_err(Error::from));
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("join", join);
    environment.add_filter("trim", trim);
    environment.add_filter("string", |value: &Value| python::str_of(value).into_owned());
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
        let message = python::str_of(message).into_owned();
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(unix_seconds, format));
    environment.add_function(generation_tags::FUNCTION, generation);
    environment
}

struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT_BYTES {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text between marks, as offsets in `text` without them. Marks inside of others count with these.
fn take_marks(text: &str, mark: &str) -> Rendered {
    let mut parts = text.split(mark);
    let mut plain = String::from(parts.next().unwrap_or_default());
    let mut spans = Vec::new();
    let mut depth = 0;
    for part in parts {
        let opens = part.starts_with('(');
        depth -= i32::from(!opens);
        if depth == 0 {
            spans.push(plain.len());
        }
        depth += i32::from(opens);
        plain.push_str(&part[1..]);
    }
    Rendered { text: plain, spans }
}

fn refusal(message: String) -> Failure {
    Failure::new(Status::InvalidArgument, message)
}

/// # Safety
/// As for `text_of`.
unsafe fn parsed(data: *const u8, len: usize, what: &str) -> Result<Json, Failure> {
    if data.is_null() {
        return Ok(Json::Null);
    }
    if len > MAX_TEXT_BYTES {
        return Err(refusal(format!("{what}: is over {MAX_TEXT_BYTES} bytes")));
    }
    serde_json::from_str(text_of(data, len, what)?)
        .map_err(|e| refusal(format!("{what}: no JSON: {e}")))
}

/// What transformers does to messages before a template sees them: no nulls, reasoning under all of its names.
fn normalized(message: Json, index: usize) -> Result<Json, Failure> {
    let Json::Object(mut result) = message else {
        return Err(refusal(format!("messages[{index}] is no JSON object")));
    };
    result.retain(|_, value| !value.is_null());
    let names = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = names.iter().find_map(|name| result.get(*name).cloned()) {
        result.entry("thinking").or_insert(reasoning.clone());
        result.insert("reasoning_content".into(), reasoning);
    }
    Ok(Json::Object(result))
}

impl ChatTemplate {
    /// `settings` is an object: origin, unix_seconds, special_tokens, variables.
    fn compile(source: &str, settings: &str) -> Result<Self, Failure> {
        let settings: Json = serde_json::from_str(settings)
            .map_err(|e| Failure::new(Status::InvalidArgument, format!("settings: {e}")))?;
        let tokens = settings["special_tokens"].as_array().into_iter().flatten();
        // As Jinja2 reads line ends.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let (rewritten, marks_generation) = generation_tags::rewrite(&source);
        let mut template = ChatTemplate {
            environment: new_environment(settings["unix_seconds"].as_i64().unwrap_or(0)),
            marks_generation,
            origin: settings["origin"].as_str().unwrap_or("template").into(),
            special_tokens: tokens.filter_map(|t| t.as_str()).map(String::from).collect(),
            variables: settings["variables"].as_object().cloned().unwrap_or_default(),
        };
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("{}: is over {MAX_SOURCE_BYTES} bytes", template.origin);
            return Err(Failure::new(Status::BadFile, message));
        }
        template
            .environment
            .add_template_owned(NAME, rewritten)
            .map_err(|e| template.failure(&e))?;
        Ok(template)
    }

    fn failure(&self, error: &Error) -> Failure {
        let place =
            error.line().map_or(self.origin.clone(), |line| format!("{} line {line}", self.origin));
        let detail = error.detail().unwrap_or_default();
        if std::error::Error::source(error).is_some_and(|source| source.is::<Raised>()) {
            return Failure::new(
                Status::InvalidArgument,
                format!("{place} refuses the messages: {detail}"),
            );
        }
        match error.kind() {
            ErrorKind::OutOfFuel => Failure::new(
                Status::Exhausted,
                format!("{place}: rendering takes over {FUEL} instructions: shorten the conversation or the template"),
            ),
            ErrorKind::WriteFailure => Failure::new(
                Status::Exhausted,
                format!("{place}: renders over {MAX_TEXT_BYTES} bytes: shorten the conversation"),
            ),
            kind => {
                let separator = if detail.is_empty() { "" } else { ": " };
                Failure::new(Status::BadFile, format!("{place}: {kind}{separator}{detail}"))
            }
        }
    }

    fn render(
        &self,
        context: &Map<String, Json>,
        messages: &[Json],
        prompt: bool,
    ) -> Result<String, Failure> {
        self.render_marking(context, messages, prompt, None)
    }

    fn render_marking(
        &self,
        context: &Map<String, Json>,
        messages: &[Json],
        add_generation_prompt: bool,
        mark: Option<String>,
    ) -> Result<String, Failure> {
        MARK.set(mark);
        let fails = |error: Error| self.failure(&error);
        let mut variables: Map<String, Json> = context.clone();
        variables.insert("messages".into(), messages.into());
        variables.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let mut out = Limited(Vec::new());
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(&variables, &mut out).map(drop))
            .map_err(fails)?;
        String::from_utf8(out.0).map_err(|e| Failure::new(Status::Internal, e.to_string()))
    }

    fn render_marked(
        &self,
        context: &Map<String, Json>,
        messages: &[Json],
        prompt: bool,
    ) -> Result<Rendered, Failure> {
        // Nobody who writes messages can guess it.
        let mark: String = (0..2)
            .map(|_| format!("{:016x}", RandomState::new().build_hasher().finish()))
            .collect();
        let text = self.render_marking(context, messages, prompt, Some(mark.clone()))?;
        Ok(take_marks(&text, &mark))
    }

    /// Ends a span at the special token that closes the turn, without what the template writes after it.
    fn turn_end(&self, text: &str, begin: usize) -> usize {
        let trimmed = text[begin..].trim_end();
        let closes = |token: &String| !token.is_empty() && trimmed.ends_with(token.as_str());
        if self.special_tokens.iter().any(closes) {
            begin + trimmed.len()
        } else {
            text.len()
        }
    }

    /// Finds the assistant's turns of `text`, all messages rendered, by what their beginnings render to.
    fn turns_by_prefix(
        &self,
        context: &Map<String, Json>,
        messages: &[Json],
        text: &str,
    ) -> Result<Vec<usize>, Failure> {
        let mut spans = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            if message["role"] != "assistant" {
                continue;
            }
            let lost = |why: String| {
                Failure::new(
                    Status::BadFile,
                    format!(
                        "{}: cannot tell where the assistant's turn messages[{i}] is: {why}; wrap what the assistant \
                         says in {{% generation %}} and {{% endgeneration %}} in the template",
                        self.origin
                    ),
                )
            };
            let alone = |failure: Failure| {
                lost(format!(
                    "the turns up to it do not render by themselves ({})",
                    failure.message
                ))
            };
            let before = self.render(context, &messages[..i], true).map_err(alone)?;
            let with = self.render(context, &messages[..=i], false).map_err(alone)?;
            if !with.starts_with(&before) || !text.starts_with(&with) {
                return Err(lost(
                    "it or what precedes it renders differently as the conversation goes on".into(),
                ));
            }
            spans.extend([before.len(), self.turn_end(&with, before.len())]);
        }
        Ok(spans)
    }

    fn render_request(&self, request: &RenderRequest) -> Result<Rendered, Failure> {
        let messages = unsafe { parsed(request.messages, request.messages_len, "messages")? };
        let tools = unsafe { parsed(request.tools, request.tools_len, "tools")? };
        let variables = unsafe { parsed(request.variables, request.variables_len, "variables")? };
        let mut context = self.variables.clone();
        context.insert("documents".into(), Json::Null);
        match variables {
            Json::Null => {}
            Json::Object(fields) => context.extend(fields),
            _ => return Err(refusal("variables is no JSON object".into())),
        }
        if !matches!(tools, Json::Null | Json::Array(_)) {
            return Err(refusal("tools is no JSON array: give a list of function schemas".into()));
        }
        context.insert("tools".into(), tools);
        let Json::Array(messages) = messages else {
            return Err(refusal(
                "messages is no JSON array: give [{\"role\": …, \"content\": …}, …]".into(),
            ));
        };
        let messages = messages
            .into_iter()
            .enumerate()
            .map(|(i, m)| normalized(m, i))
            .collect::<Result<Vec<_>, _>>()?;
        let prompt = request.add_generation_prompt != 0;
        if request.find_spans != 0 && self.marks_generation {
            return self.render_marked(&context, &messages, prompt);
        }
        let text = self.render(&context, &messages, prompt)?;
        let spans = match request.find_spans {
            0 => Vec::new(),
            _ => self.turns_by_prefix(&context, &messages, &text)?,
        };
        Ok(Rendered { text, spans })
    }
}

/// # Safety
/// `source` and `settings` are valid for their lengths, the rest for one write. Free `*out` with `thaw_template_free`.
#[no_mangle]
pub unsafe extern "C" fn thaw_template_compile(
    source: *const u8,
    source_len: usize,
    settings: *const u8,
    settings_len: usize,
    out: *mut *mut ChatTemplate,
    error: *mut *mut c_char,
) -> i32 {
    guard_blaming(Status::BadFile, error, || -> Outcome {
        let source = text_of(source, source_len, "chat template")?;
        let settings = text_of(settings, settings_len, "settings")?;
        *out = Box::into_raw(Box::new(ChatTemplate::compile(source, settings)?));
        Ok(())
    })
}

/// # Safety
/// `template` came from `thaw_template_compile`; nobody uses it any more.
#[no_mangle]
pub unsafe extern "C" fn thaw_template_free(template: *mut ChatTemplate) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

/// The texts of `request` are JSON: an array of messages, an array of tools and an object of other variables. The
/// assistant's turns are found only if `find_spans` is not 0.
///
/// # Safety
/// `template` is live, the texts are null or valid for their lengths, the rest is valid for one read or write. Free
/// `out->owner` with `thaw_rendered_free`.
#[no_mangle]
pub unsafe extern "C" fn thaw_template_render(
    template: *const ChatTemplate,
    request: *const RenderRequest,
    out: *mut RenderedView,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        let rendered = Box::new((*template).render_request(&*request)?);
        *out = RenderedView {
            text: rendered.text.as_ptr(),
            text_len: rendered.text.len(),
            spans: rendered.spans.as_ptr(),
            span_count: rendered.spans.len() / 2,
            owner: Box::into_raw(rendered),
        };
        Ok(())
    })
}

/// # Safety
/// `owner` came from `thaw_template_render` and is freed once.
#[no_mangle]
pub unsafe extern "C" fn thaw_rendered_free(owner: *mut Rendered) {
    if !owner.is_null() {
        drop(Box::from_raw(owner));
    }
}
