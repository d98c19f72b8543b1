//! Text processing for Thaw behind a C ABI, declared for C++ in `worker/text/thaw_text.h`.
//!
//! Every function returns a `Status` and, when it is not `Status::Ok`, leaves a message in `*error` that the caller
//! frees with `thaw_text_free_message`. No panic crosses the boundary: it becomes a status too. All Rust of a
//! program lives in this one static library, since two would both carry the standard library.

mod bounds;
mod chat_engine;
mod chat_template;
mod generation_tags;
mod python;
mod tokenizer;

use std::ffi::{c_char, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok = 0,
    /// The text is not UTF-8, an option leaves no room, or a chat template refuses the messages.
    InvalidArgument = 1,
    /// The file is no tokenizer or chat template, or one that cannot do what is asked.
    BadFile = 2,
    /// The library panicked.
    Internal = 3,
    /// A chat template exceeds a limit.
    Exhausted = 4,
    /// The machine gives no thread to render on.
    Unavailable = 5,
}

pub struct Failure {
    status: Status,
    message: String,
}

impl Failure {
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }
}

pub type Outcome = Result<(), Failure>;

/// Runs `body`, turning failures and panics into a status and a message.
///
/// # Safety
/// `error` is valid for one write.
pub unsafe fn guard(error: *mut *mut c_char, body: impl FnOnce() -> Outcome) -> i32 {
    guard_blaming(Status::Internal, error, body)
}

/// `guard` with another status for panics.
///
/// # Safety
/// `error` is valid for one write.
pub unsafe fn guard_blaming(
    blame: Status,
    error: *mut *mut c_char,
    body: impl FnOnce() -> Outcome,
) -> i32 {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::Ok as i32,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Failure::new(blame, format!("the text library panicked: {text}"))
        }
    };
    let message = failure.message.replace('\0', " ");
    *error = CString::new(message).unwrap_or_default().into_raw();
    failure.status as i32
}

/// The bytes at `data`; an empty slice for a null pointer.
///
/// # Safety
/// `data` is null or valid for `len` elements during `'a`.
pub unsafe fn slice_of<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if data.is_null() || len == 0 {
        &[]
    } else {
        slice::from_raw_parts(data, len)
    }
}

/// # Safety
/// As for `slice_of`.
pub unsafe fn text_of<'a>(data: *const u8, len: usize, what: &str) -> Result<&'a str, Failure> {
    std::str::from_utf8(slice_of(data, len)).map_err(|e| {
        Failure::new(
            Status::InvalidArgument,
            format!("{what} is not UTF-8 at byte {}", e.valid_up_to()),
        )
    })
}

/// Keeps panics quiet: their message travels in the error instead of going to stderr. Idempotent.
#[no_mangle]
pub extern "C" fn thaw_text_init() {
    std::panic::set_hook(Box::new(|_| {}));
    tokenizers::utils::parallelism::set_parallelism(false);
}

/// # Safety
/// `message` came from this library and is freed once.
#[no_mangle]
pub unsafe extern "C" fn thaw_text_free_message(message: *mut c_char) {
    if !message.is_null() {
        drop(CString::from_raw(message));
    }
}
