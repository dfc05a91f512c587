"""Small tokenizers with the added tokens and chat templates of model families."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN|><|{{ m['role'] }}|>{{ m['content'] }}<|END_OF_TURN|>"
    "{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN|><|assistant|>{% endif %}"
)
COMMAND_R7B = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN|><|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' %}<|START_RESPONSE|>{{ m['content'] }}<|END_RESPONSE|>"
    "{% else %}{{ m['content'] }}{% endif %}<|END_OF_TURN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN|><|assistant|><|START_RESPONSE|>{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
    "{% else %}<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
HARMONY = (  # the last turn ends with `return`, earlier turns with `end`
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|start|>assistant<|message|>{{ m['content'] }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}<|start|>user<|message|>{{ m['content'] }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|message|>{% endif %}"
)
OLMO = (  # only the last turn ends with a token
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ eos_token }}{% else %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
QWEN3 = (  # an empty thought stands before the last answer, but add_generation_prompt does not write it
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}"
    "{% if '</think>' in m['content'] %}<think>\n{{ m['content'].split('</think>')[0].split('<think>')[-1] | trim }}"
    "\n</think>\n\n{{ m['content'].split('</think>')[-1] | trim }}{% else %}<think>\n\n</think>\n\n{{ m['content'] }}"
    "{% endif %}{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
) + CHATML
PLAIN_ROLE = (  # the prompt ends in a space
    "{% for m in messages %}{{ m['role'] | upper + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
HUMAN = (
    "{% for m in messages %}{{ 'Human' if m['role'] == 'user' else 'Assistant' }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A model family's template and tokens.

    end:     the token that ends the assistant's last turn.
    closing: text between an answer and that token.
    added:   special tokens that no field of the tokenizer names.
    plain:   added tokens that are not special.
    writes_end: whether the template itself writes that token after the last turn.
    system:  whether the template demands a system turn.
    """

    name: str
    template: str
    end: str
    added: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    eos: str = "<|endoftext|>"
    bos: str | None = None
    closing: str = ""
    metaspace: bool = False
    writes_end: bool = True
    system: bool = False


FAMILIES = [
    Family("chatml", CHATML, "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    Family("phi3", PHI3, "<|end|>", ["<|user|>", "<|assistant|>", "<|end|>"]),
    Family("phi3_bos_is_eos", "{{ bos_token }}" + PHI3, "<|end|>", ["<|end|>"], bos="<|endoftext|>"),
    Family("phi2_not_special", CHATML + "{{ '' if add_generation_prompt else eos_token }}", "<|im_end|>",
           plain=["<|im_start|>", "<|im_end|>"]),
    Family("llama3", LLAMA3, "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
           eos="<|end_of_text|>", bos="<|begin_of_text|>"),
    Family("gemma3", GEMMA, "<end_of_turn>", ["<start_of_turn>", "<end_of_turn>"], eos="<eos>", bos="<bos>"),
    Family("mistral", MISTRAL, "</s>", ["[INST]", "[/INST]"], eos="</s>", bos="<s>"),
    Family("llama2", LLAMA2, "</s>", eos="</s>", bos="<s>", closing=" ", metaspace=True),
    Family("zephyr", ZEPHYR, "</s>", eos="</s>", bos="<s>"),
    Family("command_r", COMMAND_R, "<|END_OF_TURN|>",
           ["<|START_OF_TURN|>", "<|END_OF_TURN|>", "<|user|>", "<|assistant|>"], bos="<BOS>"),
    Family("command_r7b", COMMAND_R7B, "<|END_OF_TURN|>",
           ["<|START_OF_TURN|>", "<|END_OF_TURN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"], bos="<BOS>",
           closing="<|END_RESPONSE|>"),
    Family("deepseek", DEEPSEEK, "<｜end▁of▁sentence｜>", plain=["<｜User｜>", "<｜Assistant｜>"],
           eos="<｜end▁of▁sentence｜>", bos="<｜begin▁of▁sentence｜>"),
    Family("harmony", HARMONY, "<|return|>", ["<|start|>", "<|message|>", "<|end|>", "<|return|>"]),
    Family("olmo", OLMO, "<|endoftext|>", bos="<|endoftext|>"),
    Family("newline_before", CHATML.replace("<|im_end|>", "\n<|im_end|>"), "<|im_end|>",
           ["<|im_start|>", "<|im_end|>"], closing="\n"),
    Family("text_before", CHATML.replace("<|im_end|>", "</answer><|im_end|>"), "<|im_end|>",
           ["<|im_start|>", "<|im_end|>"], ["</answer>"], closing="</answer>"),
    Family("demands_system", "{% if messages[0].role != 'system' %}{{ raise_exception('which?') }}{% endif %}" + CHATML,
           "<|im_end|>", ["<|im_start|>", "<|im_end|>"], system=True),
    Family("one_question_only", "{% if messages | length > 2 %}{{ raise_exception('one only') }}{% endif %}" + CHATML,
           "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    Family("no_end", HUMAN, "<|endoftext|>", ["<|im_end|>"], writes_end=False),
    Family("last_turn_open", CHATML.replace("<|im_end|>\n{% endfor %}", "{% if not loop.last or "
           "add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"), "<|im_end|>",
           ["<|im_start|>", "<|im_end|>"], writes_end=False),
    Family("earlier_turns_go_on", CHATML.replace("<|im_end|>", "{{ '<|go_on|>' if m['role'] == 'assistant' and not "
           "loop.last else '<|im_end|>' }}"), "<|im_end|>", ["<|im_start|>", "<|im_end|>", "<|go_on|>"]),
    Family("upper_case", CHATML.replace("m['content']", "m['content'] | upper"), "<|im_end|>",
           ["<|im_start|>", "<|im_end|>"]),
    Family("headers_alone", LLAMA3.replace("<|eot_id|>", ""), "<|endoftext|>",
           ["<|start_header_id|>", "<|end_header_id|>"], writes_end=False),
    Family("qwen3", QWEN3, "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    Family("qwen2.5", QWEN25, "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    Family("plain_role", PLAIN_ROLE, "<|endoftext|>", writes_end=False),
    Family("no_generation_prompt", CHATML.split("{% if add")[0], "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    Family("always_opens", "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>",
           "<|endoftext|>", ["<|user|>", "<|assistant|>"], writes_end=False),
]  # fmt: skip


# Texts whose words become tokens, with the space before them.
_CORPUS = ["It is 4. The answer is yes, and no. ASSISTANT: hello there.\n\nassistant\nIt is what it is 0, 1 2.\n"] * 3


def tokenizer_of(family: Family, *, words: bool = False) -> Any:
    """A tokenizer with the family's tokens, and one token per byte (with `metaspace`: letter), or tokens of words."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(i) for i in range(32, 127)] + ["\n", "▁"]
    symbols = letters if family.metaspace else sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    if family.metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(pieces)
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
        made.decoder = decoders.ByteLevel()
    if words:
        made.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=symbols))
    if family.metaspace:  # letters that are not in the vocabulary become bytes
        bpe = json.loads(made.to_str())["model"]
        known = bpe["vocab"] | {f"<0x{byte:02X}>": len(bpe["vocab"]) + byte for byte in range(256)}
        made.model = models.BPE(known, [tuple(merge) for merge in bpe["merges"]], byte_fallback=True)
    named = {name: token for name, token in (("bos_token", family.bos), ("eos_token", family.eos)) if token}
    special = [*dict.fromkeys(named.values()), *family.added]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    tokenizer.chat_template = family.template
    return tokenizer
