/* The C ABI of worker/text/rust; its sources say what each function promises. Only sources of
 * this folder include this. Statuses: 0 OK, 1 the argument is bad, 2 the tokenizer or template is,
 * 3 the library panicked, 4 a limit is exceeded; a message comes with all but the first and is
 * freed with thaw_text_free_message. */
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

struct thaw_tokenizer;
struct thaw_encoding_owner;
struct thaw_template;
struct thaw_rendered_owner;

struct thaw_tokenizer_description {
  uint32_t vocab_size, id_limit, single_special, pair_special;
};

struct thaw_encode_options {
  int32_t add_special_tokens;
  uint32_t max_length;
  int32_t offsets;
  int32_t truncate_left;
  int32_t parse_special_tokens;
};

struct thaw_encoding_view {
  size_t len;
  const uint32_t* ids;
  const uint32_t* type_ids;
  const uint32_t* special;
  const uint32_t* offsets;
  int32_t truncated;
  thaw_encoding_owner* owner;
};

/* Null texts are absent. */
struct thaw_render_request {
  const uint8_t* messages;
  size_t messages_len;
  const uint8_t* tools;
  size_t tools_len;
  const uint8_t* variables;
  size_t variables_len;
  int32_t add_generation_prompt;
  int32_t find_spans;
};

struct thaw_rendered_view {
  const uint8_t* text;
  size_t text_len;
  const size_t* spans; /* begin and end of each */
  size_t span_count;
  thaw_rendered_owner* owner;
};

void thaw_text_init(void);
void thaw_text_free_message(char* message);
void thaw_text_free_bytes(uint8_t* bytes, size_t len);

int32_t thaw_tokenizer_load(const uint8_t* json, size_t len, thaw_tokenizer** out, char** error);
void thaw_tokenizer_free(thaw_tokenizer* tokenizer);
int32_t thaw_tokenizer_describe(const thaw_tokenizer* tokenizer, thaw_tokenizer_description* out,
                                char** error);
int32_t thaw_tokenizer_encode(const thaw_tokenizer* tokenizer, const uint8_t* text, size_t text_len,
                              const uint8_t* pair, size_t pair_len,
                              const thaw_encode_options* options, thaw_encoding_view* out,
                              char** error);
int32_t thaw_tokenizer_frame(const thaw_tokenizer* tokenizer, thaw_encoding_view* out,
                             char** error);
int32_t thaw_tokenizer_added_tokens(const thaw_tokenizer* tokenizer, uint8_t** out, size_t* out_len,
                                    char** error);
void thaw_encoding_free(thaw_encoding_owner* owner);
int32_t thaw_tokenizer_decode(const thaw_tokenizer* tokenizer, const uint32_t* ids, size_t len,
                              int32_t skip_special_tokens, uint8_t** out, size_t* out_len,
                              char** error);
int32_t thaw_tokenizer_token_to_id(const thaw_tokenizer* tokenizer, const uint8_t* token,
                                   size_t len, int64_t* id, char** error);
int32_t thaw_tokenizer_id_to_token(const thaw_tokenizer* tokenizer, uint32_t id, uint8_t** out,
                                   size_t* out_len, char** error);

int32_t thaw_template_compile(const uint8_t* source, size_t source_len, const uint8_t* settings,
                              size_t settings_len, thaw_template** out, char** error);
void thaw_template_free(thaw_template* tmpl);
int32_t thaw_template_render(const thaw_template* tmpl, const thaw_render_request* request,
                             thaw_rendered_view* out, char** error);
void thaw_rendered_free(thaw_rendered_owner* owner);

} /* extern "C" */
