"""Eight tokenizers, each with a chat template of a well-known kind, written for these tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from transformers import PreTrainedTokenizerFast

from case_models import CHATML, make_tokenizer

IM_END: Final = "<|im_end|>"
HEADERS: Final = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_start|>\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_start|>\n\n{% endif %}"
)
"""As Llama 3 has it: headers in control tokens, contents trimmed, BOS written by the template."""
TURNS: Final = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
"""As Gemma has it: the assistant is called model."""
THINKS: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% if loop.last %}<think>\n{{ m['content'].split('</think>')[0].split('<think>')[-1] }}"
    "</think>{% endif %}{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""Opens <think> for the assistant, and takes thoughts out of earlier answers."""
NO_SYSTEM: Final = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no such role: system') }}"
    "{% endif %}" + CHATML
)
ALTERNATES: Final = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""As Mistral has it: no generation prompt, an answer in spaces."""
MADE: Final[dict[str, Callable[[], PreTrainedTokenizerFast]]] = {
    "two ends": lambda: make_tokenizer(template=CHATML),
    "llama": lambda: make_tokenizer(bos="<s>", opens=True, template=HEADERS),
    "gemma": lambda: make_tokenizer(eos="</s>", bos="<s>", opens=True, template=TURNS),
    "thinks": lambda: make_tokenizer(eos=IM_END, template=THINKS),
    "bos": lambda: make_tokenizer(eos=IM_END, bos="<s>", opens=True, template="<s>" + CHATML),
    "no system": lambda: make_tokenizer(eos=IM_END, template=NO_SYSTEM),
    "alternates": lambda: make_tokenizer(eos="</s>", bos="<s>", template=ALTERNATES),
    "closes": lambda: make_tokenizer(
        eos="</s>", bos="<s>", opens=True, closes=True, template=CHATML
    ),
}
ENDS: Final = {
    "two ends": IM_END,
    "llama": IM_END,
    "gemma": IM_END,
    "thinks": IM_END,
    "bos": IM_END,
    "no system": IM_END,
    "alternates": "</s>",
    "closes": IM_END,
}
"""What ends an answer to a conversation under each of them."""
