"""How many tokens a model reads at once, for models whose upstream configuration does not say.

A guess that is too large costs one refused request (the run then shortens the prompt); one that is too small
forgets the beginning of a thread early. The first pattern that matches counts.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

DEFAULT_WINDOW = 128_000

WINDOWS: tuple[tuple[str, int], ...] = (
    ("tinyllama*", 2_048),
    ("gpt-3.5-turbo-instruct*", 4_096),
    ("gpt-3.5-turbo*", 16_385),
    ("gpt-4-32k*", 32_768),
    ("gpt-4-turbo*", 128_000),
    ("gpt-4-*-preview", 128_000),
    ("gpt-4.1*", 1_047_576),
    ("gpt-4o*", 128_000),
    ("gpt-4", 8_192),
    ("gpt-4-0*", 8_192),
    ("gpt-5*-chat*", 128_000),
    ("gpt-5*", 272_000),  # input; 400,000 with the output
    ("gpt-oss*", 131_072),
    ("o1-mini*", 128_000),
    ("o1-preview*", 128_000),
    ("o1*", 200_000),
    ("o3*", 200_000),
    ("o4*", 200_000),
    ("*claude*", 200_000),
    ("*gemini-1.0*", 32_768),
    ("*gemini*", 1_048_576),
    ("*gemma-3*", 131_072),
    ("*gemma3*", 131_072),
    ("*gemma*", 8_192),
    ("*llama-4*", 131_072),
    ("*llama3.[123]*", 131_072),
    ("*llama-3.[123]*", 131_072),
    ("*llama3*", 8_192),
    ("*llama-3*", 8_192),
    ("*llama*2*", 4_096),
    ("*mixtral-8x22b*", 65_536),
    ("*mixtral*", 32_768),
    ("*mistral-7b*", 32_768),
    ("*mistral*", 131_072),
    ("*codestral*", 262_144),
    ("*deepseek*", 131_072),
    ("*qwen2.5*", 32_768),
    ("*qwen2*", 32_768),
    ("*qwen*", 131_072),
    ("*phi-3*4k*", 4_096),
    # As a word: "dolphin" is none of them.
    ("phi*", 16_384),
    ("*[-_/:.]phi*", 16_384),
    ("*command-r*", 131_072),
    ("grok-3*", 131_072),
    ("grok*", 262_144),
    ("offline*", DEFAULT_WINDOW),
)


def window(model: str) -> int:
    """The context window of a model by its name, in tokens."""
    name = model.lower()
    return next((tokens for pattern, tokens in WINDOWS if fnmatchcase(name, pattern)), DEFAULT_WINDOW)
