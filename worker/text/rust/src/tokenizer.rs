//! `tokenizers::Tokenizer` with truncation decided per call instead of by the file.

use std::ffi::c_char;
use std::sync::OnceLock;

use tokenizers::utils::truncation::{truncate_encodings, TruncationDirection, TruncationParams};
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, Token, Tokenizer};

use crate::{guard, guard_blaming, slice_of, text_of, Failure, Outcome, Status};

/// The library truncates inside its post-processing step by settings of the tokenizer object, which would have to be
/// changed under a lock. So the post-processor is taken out at load, and truncation and post-processing happen here.
pub struct ThawTokenizer {
    core: Tokenizer,
    /// `core` that reads special tokens as plain text: a setting of the object again. Made when first needed.
    literal: OnceLock<Tokenizer>,
    post_processor: Option<PostProcessorWrapper>,
}

/// What `thaw_tokenizer_describe` fills.
#[repr(C)]
pub struct Description {
    vocab_size: u32,
    id_limit: u32,
    single_special: u32,
    pair_special: u32,
}

/// One encoding. The arrays have `len` entries, `offsets` twice as many or none; `owner` is what to free.
#[repr(C)]
pub struct EncodingView {
    len: usize,
    ids: *const u32,
    type_ids: *const u32,
    special: *const u32,
    offsets: *const u32,
    truncated: i32,
    owner: *mut OwnedEncoding,
}

pub struct OwnedEncoding {
    encoding: Encoding,
    offsets: Vec<u32>,
}

#[repr(C)]
pub struct EncodeOptions {
    add_special_tokens: i32,
    /// 0 means no limit.
    max_length: u32,
    offsets: i32,
    truncate_left: i32,
    parse_special_tokens: i32,
}

fn bad_file(error: impl std::fmt::Display) -> Failure {
    Failure::new(Status::BadFile, format!("not a usable tokenizer: {error}"))
}

fn fails_on_input(error: impl std::fmt::Display) -> Failure {
    Failure::new(Status::BadFile, format!("the tokenizer fails on this input: {error}"))
}

impl ThawTokenizer {
    fn from_json(json: &[u8]) -> Result<Self, Failure> {
        let mut core = Tokenizer::from_bytes(json).map_err(bad_file)?;
        core.with_padding(None);
        core.with_truncation(None).map_err(bad_file)?;
        let post_processor = core.get_post_processor().cloned();
        core.with_post_processor(None::<PostProcessorWrapper>);
        if core.get_vocab_size(true) == 0 {
            return Err(bad_file("the vocabulary is empty"));
        }
        let tokenizer = ThawTokenizer { core, literal: OnceLock::new(), post_processor };
        // Post-processors may name tokens that nothing defines, which only shows when they run.
        let everything = EncodeOptions {
            add_special_tokens: 1,
            max_length: 0,
            offsets: 1,
            truncate_left: 0,
            parse_special_tokens: 1,
        };
        tokenizer.encode("", None, &everything)?;
        tokenizer.encode("", Some(""), &everything)?;
        Ok(tokenizer)
    }

    fn special_tokens(&self, pair: bool) -> usize {
        self.post_processor.as_ref().map_or(0, |p| p.added_tokens(pair))
    }

    /// One text without anything around it.
    fn plain(&self, text: &str, options: &EncodeOptions) -> Result<Encoding, Failure> {
        let core = if options.parse_special_tokens != 0 {
            &self.core
        } else {
            self.literal.get_or_init(|| {
                let mut literal = self.core.clone();
                literal.set_encode_special_tokens(true);
                literal
            })
        };
        if options.offsets != 0 {
            core.encode(text, false).map_err(fails_on_input)
        } else {
            core.encode_fast(text, false).map_err(fails_on_input)
        }
    }

    /// What encode adds around a text of one token, which is id 0 here.
    fn frame(&self) -> Result<Encoding, Failure> {
        let text = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
        match &self.post_processor {
            Some(processor) => processor.process(text, None, true).map_err(bad_file),
            None => Ok(text),
        }
    }

    /// A JSON array of [id, content, special] in the order of the ids.
    fn added_tokens(&self) -> String {
        let mut tokens: Vec<_> = self.core.get_added_tokens_decoder().into_iter().collect();
        tokens.sort_by_key(|(id, _)| *id);
        let tokens: Vec<_> = tokens.into_iter().map(|(id, t)| (id, t.content, t.special)).collect();
        serde_json::json!(tokens).to_string()
    }

    fn encode(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
    ) -> Result<(Encoding, bool), Failure> {
        let add_special = options.add_special_tokens != 0;
        let added = if add_special { self.special_tokens(pair.is_some()) } else { 0 };
        let max_length = options.max_length as usize;
        if max_length > 0 && max_length <= added {
            return Err(Failure::new(
                Status::InvalidArgument,
                format!("max_length {max_length} leaves no room beside {added} special tokens"),
            ));
        }
        let mut first = self.plain(text, options)?;
        let mut second = pair.map(|text| self.plain(text, options)).transpose()?;
        let mut truncated = false;
        let length = first.len() + second.as_ref().map_or(0, Encoding::len);
        if max_length > 0 && length > max_length - added {
            truncated = true;
            let direction = match options.truncate_left {
                0 => TruncationDirection::Right,
                _ => TruncationDirection::Left,
            };
            let params = TruncationParams {
                max_length: max_length - added,
                direction,
                ..Default::default()
            };
            (first, second) = truncate_encodings(first, second, &params).map_err(fails_on_input)?;
            // What was cut off would be post-processed as well.
            first.take_overflowing();
            second.as_mut().map(Encoding::take_overflowing);
        }
        let encoding = match &self.post_processor {
            Some(processor) => {
                processor.process(first, second, add_special).map_err(fails_on_input)?
            }
            None => {
                if let Some(second) = second.as_mut() {
                    second.set_type_ids(vec![1; second.len()]);
                }
                Encoding::merge(std::iter::once(first).chain(second), false)
            }
        };
        Ok((encoding, truncated))
    }

    fn id_limit(&self) -> u32 {
        self.core.get_vocab(true).values().max().map_or(0, |id| id.saturating_add(1))
    }
}

/// # Safety
/// `json` is valid for `len` bytes, `out` and `error` for one write. Free `*out` with `thaw_tokenizer_free`.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_load(
    json: *const u8,
    len: usize,
    out: *mut *mut ThawTokenizer,
    error: *mut *mut c_char,
) -> i32 {
    guard_blaming(Status::BadFile, error, || -> Outcome {
        let tokenizer = ThawTokenizer::from_json(slice_of(json, len))?;
        *out = Box::into_raw(Box::new(tokenizer));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` came from `thaw_tokenizer_load`; nobody uses it any more.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_free(tokenizer: *mut ThawTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// `tokenizer` is live, `out` and `error` valid for one write.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_describe(
    tokenizer: *const ThawTokenizer,
    out: *mut Description,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        let tokenizer = &*tokenizer;
        *out = Description {
            vocab_size: tokenizer.core.get_vocab_size(true) as u32,
            id_limit: tokenizer.id_limit(),
            single_special: tokenizer.special_tokens(false) as u32,
            pair_special: tokenizer.special_tokens(true) as u32,
        };
        Ok(())
    })
}

fn view_of(encoding: Encoding, with_offsets: bool, truncated: bool) -> EncodingView {
    let offsets = if with_offsets {
        encoding.get_offsets().iter().flat_map(|&(b, e)| [b as u32, e as u32]).collect()
    } else {
        Vec::new()
    };
    let owner = Box::new(OwnedEncoding { encoding, offsets });
    EncodingView {
        len: owner.encoding.len(),
        ids: owner.encoding.get_ids().as_ptr(),
        type_ids: owner.encoding.get_type_ids().as_ptr(),
        special: owner.encoding.get_special_tokens_mask().as_ptr(),
        offsets: if owner.offsets.is_empty() { std::ptr::null() } else { owner.offsets.as_ptr() },
        truncated: truncated as i32,
        owner: Box::into_raw(owner),
    }
}

/// `pair` null: a single text.
///
/// # Safety
/// `text` and `pair` are valid for their lengths, the rest for one read or write. Free `out->owner` with
/// `thaw_encoding_free`.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_encode(
    tokenizer: *const ThawTokenizer,
    text: *const u8,
    text_len: usize,
    pair: *const u8,
    pair_len: usize,
    options: *const EncodeOptions,
    out: *mut EncodingView,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        let options = &*options;
        let text = text_of(text, text_len, "text")?;
        let pair = if pair.is_null() { None } else { Some(text_of(pair, pair_len, "text_pair")?) };
        let (encoding, truncated) = (*tokenizer).encode(text, pair, options)?;
        *out = view_of(encoding, options.offsets != 0, truncated);
        Ok(())
    })
}

/// # Safety
/// As for `thaw_tokenizer_encode`.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_frame(
    tokenizer: *const ThawTokenizer,
    out: *mut EncodingView,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        *out = view_of((*tokenizer).frame()?, false, false);
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is live, the rest for one write. Free `*out` with `thaw_text_free_bytes`.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_added_tokens(
    tokenizer: *const ThawTokenizer,
    out: *mut *mut u8,
    out_len: *mut usize,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        give_text((*tokenizer).added_tokens(), out, out_len);
        Ok(())
    })
}

/// # Safety
/// `owner` came from `thaw_tokenizer_encode` and is freed once.
#[no_mangle]
pub unsafe extern "C" fn thaw_encoding_free(owner: *mut OwnedEncoding) {
    if !owner.is_null() {
        drop(Box::from_raw(owner));
    }
}

/// Leaves `text` as `*out_len` bytes at `*out`, freed with `thaw_text_free_bytes`.
unsafe fn give_text(text: String, out: *mut *mut u8, out_len: *mut usize) {
    let bytes = text.into_bytes().into_boxed_slice();
    *out_len = bytes.len();
    *out = Box::into_raw(bytes) as *mut u8;
}

/// # Safety
/// `ids` is valid for `len` entries, the rest for one write. Free `*out` with `thaw_text_free_bytes`.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_decode(
    tokenizer: *const ThawTokenizer,
    ids: *const u32,
    len: usize,
    skip_special_tokens: i32,
    out: *mut *mut u8,
    out_len: *mut usize,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        let text = (*tokenizer)
            .core
            .decode(slice_of(ids, len), skip_special_tokens != 0)
            .map_err(fails_on_input)?;
        give_text(text, out, out_len);
        Ok(())
    })
}

/// `*id` is -1 for a token that the vocabulary does not have.
///
/// # Safety
/// `token` is valid for `len` bytes, the rest for one write.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_token_to_id(
    tokenizer: *const ThawTokenizer,
    token: *const u8,
    len: usize,
    id: *mut i64,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        let token = text_of(token, len, "token")?;
        *id = (*tokenizer).core.token_to_id(token).map_or(-1, i64::from);
        Ok(())
    })
}

/// `*out` stays null for an id that the vocabulary does not have.
///
/// # Safety
/// As for `thaw_tokenizer_decode`.
#[no_mangle]
pub unsafe extern "C" fn thaw_tokenizer_id_to_token(
    tokenizer: *const ThawTokenizer,
    id: u32,
    out: *mut *mut u8,
    out_len: *mut usize,
    error: *mut *mut c_char,
) -> i32 {
    guard(error, || -> Outcome {
        if let Some(token) = (*tokenizer).core.id_to_token(id) {
            give_text(token, out, out_len);
        }
        Ok(())
    })
}

/// # Safety
/// `bytes` and `len` came from this library and are freed once.
#[no_mangle]
pub unsafe extern "C" fn thaw_text_free_bytes(bytes: *mut u8, len: usize) {
    if !bytes.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes, len)));
    }
}
