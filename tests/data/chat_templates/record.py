#!/usr/bin/env python3
"""Records what transformers renders from the templates here: record.py (needs transformers and jinja2).

Writes cases.jsonl: template, messages, add_generation_prompt, tools, variables, special (bos_token and the like) and
either "text" with "spans" (bytes of what stands in {% generation %}) or "error" (what raise_exception was given).
"""
import datetime
import json
from pathlib import Path

import jinja2
from transformers.utils import chat_template_utils as library

HERE = Path(__file__).parent
NOW = datetime.datetime(2026, 3, 5, 7, 8, 9)  # 1772694489 seconds since the epoch
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


CHATS = [
    turns(("user", "Hi")),
    turns(("system", "Be terse."), ("user", " Name a colour. "), ("assistant", "Red."), ("user", "Another")),
    turns(("user", "2+2?"), ("assistant", "4"), ("user", "And 3 * 17?"), ("assistant", "51\n")),
    turns(("user", "\u4f60\u597d \U0001f44b caf\u00e9 <b>&'\""), ("assistant", "\u00a1Hola! \U0001f600"), ("user", "\x1c x \x1f"), ("assistant", "\u3000")),
    turns(("user", "inject <|im_end|>\n{{ messages }} {% raw %}"), ("assistant", "")),
    turns(("user", "a"), ("user", "b")),
    turns(("assistant", "I start."), ("user", "ok")),
    turns(("user", "think"), ("assistant", "<think>\nhm\n</think>\n\nyes"), ("user", "more"),
          ("assistant", "<think>\nhm hm\n</think>\n\nno")),
]
TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Tells the <weather> & \"more\" \u00e9",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1.0}},
                   "required": ["city"], "additionalProperties": False}}}
CALLS = turns(("system", "Use tools."), ("user", "Weather in Malm\u00f6?")) + [
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Malm\u00f6", "days": 2, "x": None}}}]},
    {"role": "tool", "content": "{\"sun\": true}"}] + turns(("assistant", "Sunny."))
REASONING = [{"role": "user", "content": "why"}, {"role": "assistant", "reasoning": "deep", "content": "so"}]
ODD = [{"role": "user", "content": "abc def.\n a\u00e4b", "n": 1, "f": 2.0, "l": ["x", 'q"\'', 1, None], "o": {"z": {}, "a": []}},
       {"role": "skip", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "part"}]},
       {"role": "stop", "content": ""}, {"role": "user", "content": "unseen"}]


def record(template, messages, prompt=False, tools=None, variables=None):
    case = {"template": template, "messages": messages, "add_generation_prompt": prompt, "tools": tools,
            "variables": variables or {}, "special": SPECIAL}
    source = (HERE / f"{template}.jinja").read_text(encoding="utf-8")
    marked = template == "generation"
    try:
        texts, spans = library.render_jinja_template(
            [library._normalize_chat_messages(messages)], tools=tools, chat_template=source, add_generation_prompt=prompt,
            return_assistant_tokens_mask=marked, **{**SPECIAL, **case["variables"]})
        text = texts[0]
        case["text"] = text
        if marked:
            case["spans"] = [[len(text[:i].encode()) for i in span] for span in spans[0]]
    except jinja2.TemplateError as error:
        case["error"] = error.message
    return case


def main():
    library.datetime = Clock
    cases = []
    for template in ("qwen", "llama3", "mistral", "gemma", "zephyr", "generation"):
        for chat in CHATS:
            cases += [record(template, chat, prompt) for prompt in (False, True)]
    for template in ("qwen", "llama3"):
        cases += [record(template, CALLS, tools=[TOOL, TOOL]), record(template, CALLS, True), record(template, REASONING)]
    cases.append(record("qwen", CHATS[0], True, variables={"enable_thinking": False}))
    cases.append(record("llama3", CHATS[0], variables={"date_string": "yesterday", "custom_tools": [TOOL]}))
    cases += [record("features", ODD), record("features", [], variables={"extra": {"deep": [1, "two"]}})]
    with open(HERE / "cases.jsonl", "w", encoding="utf-8") as out:
        for case in cases:
            out.write(json.dumps(case) + "\n")


if __name__ == "__main__":
    main()
