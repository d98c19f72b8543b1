//! Chat templates, rendered as transformers renders them with Jinja2.

use std::collections::hash_map::RandomState;
use std::ffi::c_char;
use std::hash::{BuildHasher, Hasher};
use std::io;

use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value as Json};

use crate::chat_engine::{new_environment, set_mark, was_raised, FUEL};
use crate::{bounds, generation_tags, guard, guard_blaming, text_of, Failure, Outcome, Status};

const NAME: &str = "chat";
const MAX_SOURCE_BYTES: usize = 1 << 20;
const MAX_TEXT_BYTES: usize = 64 << 20;

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
        let environment = &mut template.environment;
        let added = bounds::run(|| environment.add_template_owned(NAME, rewritten));
        added.map_err(|e| template.too_much(e))?.map_err(|e| template.failure(&e))?;
        Ok(template)
    }

    fn too_much(&self, why: bounds::Stopped) -> Failure {
        let status = match why {
            bounds::Stopped::Memory => Status::Exhausted,
            bounds::Stopped::NoThread(_) => Status::Unavailable,
        };
        Failure::new(status, format!("{}: {why}", self.origin))
    }

    fn failure(&self, error: &Error) -> Failure {
        let place =
            error.line().map_or(self.origin.clone(), |line| format!("{} line {line}", self.origin));
        let detail = error.detail().unwrap_or_default();
        if was_raised(error) {
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
        set_mark(mark);
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
        let find_spans = request.find_spans != 0;
        bounds::run(|| self.render_all(&context, &messages, prompt, find_spans))
            .map_err(|e| self.too_much(e))?
    }

    fn render_all(
        &self,
        context: &Map<String, Json>,
        messages: &[Json],
        prompt: bool,
        find_spans: bool,
    ) -> Result<Rendered, Failure> {
        if find_spans && self.marks_generation {
            return self.render_marked(context, messages, prompt);
        }
        let text = self.render(context, messages, prompt)?;
        let spans = match find_spans {
            false => Vec::new(),
            true => self.turns_by_prefix(context, messages, &text)?,
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
