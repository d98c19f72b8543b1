//! `{% generation %} … {% endgeneration %}`, with which a template marks what the assistant says. minijinja takes no
//! tags of others, so they become a call block of the function `FUNCTION` before it sees them.

pub const FUNCTION: &str = "_thaw_generation";

/// Where `needle` ends in `source` from `from` on, or the end of `source`.
fn after(source: &str, from: usize, needle: &str) -> usize {
    source[from..].find(needle).map_or(source.len(), |at| from + at + needle.len())
}

/// As `after`, but looks past string literals.
fn after_outside_strings(source: &str, from: usize, needle: &str) -> usize {
    let bytes = source.as_bytes();
    let mut quote = None;
    let mut i = from;
    while i < bytes.len() {
        match quote {
            Some(_) if bytes[i] == b'\\' => i += 1,
            Some(q) if bytes[i] == q => quote = None,
            Some(_) => {}
            None if bytes[i] == b'"' || bytes[i] == b'\'' => quote = Some(bytes[i]),
            None if bytes[i..].starts_with(needle.as_bytes()) => return i + needle.len(),
            None => {}
        }
        i += 1;
    }
    source.len()
}

/// The tag's name in `source`, whose `{%` ends at `from`: where it begins and ends.
fn name_of(source: &str, from: usize) -> (usize, usize) {
    let rest = &source[from..];
    let begin = from + rest.len() - rest.trim_start_matches(['-', '+']).trim_start().len();
    let length = source[begin..]
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(source.len() - begin);
    (begin, begin + length)
}

/// Where the `{% endraw %}` that follows `from` ends.
fn after_raw(source: &str, mut from: usize) -> usize {
    while from < source.len() {
        from = after(source, from, "{%");
        let (begin, end) = name_of(source, from);
        if &source[begin..end] == "endraw" {
            return after(source, end, "%}");
        }
    }
    source.len()
}

/// `source` with the tags replaced, on the same lines, and whether there were any.
pub fn rewrite(source: &str) -> (String, bool) {
    let mut result = String::with_capacity(source.len() + 64);
    let mut found = false;
    let mut done = 0; // all before is in `result`
    let mut at = 0;
    while let Some(brace) = source[at..].find('{').map(|offset| at + offset) {
        at = match source.as_bytes().get(brace + 1) {
            Some(b'#') => after(source, brace + 2, "#}"),
            Some(b'{') => after_outside_strings(source, brace + 2, "}}"),
            Some(b'%') => {
                let (begin, end) = name_of(source, brace + 2);
                let replacement = match &source[begin..end] {
                    "generation" => format!("call {FUNCTION}()"),
                    "endgeneration" => "endcall".into(),
                    name => name.into(),
                };
                found |= replacement != source[begin..end];
                result.push_str(&source[done..begin]);
                result.push_str(&replacement);
                done = end;
                let close = after_outside_strings(source, end, "%}");
                if &source[begin..end] == "raw" {
                    after_raw(source, close)
                } else {
                    close
                }
            }
            _ => brace + 1,
        };
    }
    result.push_str(&source[done..]);
    (result, found)
}
