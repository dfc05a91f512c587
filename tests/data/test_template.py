"""An answer ends in training as the chat template ends a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from alignlab.data.rows import Message, Pair, Place, Prompt, PromptOnly, messages_of
from alignlab.data.template import Template, prompt_text
from alignlab.data.tokenize import Cutter, LengthReport, tokenize_pairs, tokenize_prompts
from alignlab.errors import DataError
from tests.data.families import CHATML, FAMILIES, PLAIN_ROLE, Family, tokenizer_of

ANSWER = "It is 4."


def question(family: Family) -> Prompt:
    asked = [Message(role="user", content="2 + 2?")]
    return [Message(role="system", content="Add."), *asked] if family.system else "2 + 2?"


@pytest.mark.parametrize("words", [False, True], ids=["letters", "words"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_an_answer_ends_as_the_template_ends_its_turn(family: Family, words: bool) -> None:
    tokenizer = tokenizer_of(family, words=words)
    template = Template(tokenizer)
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert template.end_id == end
    assert set(template.ends) == {end, tokenizer.eos_token_id}
    prompt = question(family)
    encoded = template.encode(prompt, [(ANSWER, True), (ANSWER, False)])
    answer, cut = encoded.answers
    written = ANSWER.upper() if family.name == "upper_case" else ANSWER
    assert answer[-1] == end
    assert tokenizer.decode(answer).strip() == f"{written}{family.closing}{family.end}"
    assert end not in cut
    assert template.text(answer) == template.text(cut) == written
    assert encoded.prompt == template.prompt_ids(prompt)
    assert not encoded.moved
    turns = [*messages_of(prompt), {"role": "assistant", "content": ANSWER}]
    own = tokenizer.apply_chat_template(turns, return_dict=False)
    both = [*encoded.prompt, *(answer if family.writes_end else answer[:-1])]
    assert own[: len(both)] == both
    assert not tokenizer.decode(own[len(both) :], skip_special_tokens=True).strip("\n ").removeprefix("<|assistant|>")


def test_a_token_of_the_vocabulary_ends_an_answer_where_the_model_stops_at_it() -> None:
    """To the tokenizer, "~" is ordinary text. Only a generation config can make it an end token."""
    tokenizer = tokenizer_of(Family("t", CHATML.replace("<|im_end|>", "~"), "~"))
    mark = tokenizer.convert_tokens_to_ids("~")
    assert Template(tokenizer).end_id == tokenizer.eos_token_id
    template = Template(tokenizer, stops=[mark, 5])
    assert template.end_id == mark
    assert template.ends == (mark, *sorted({5, tokenizer.eos_token_id}))
    assert template.end_of == "the chat template"


def test_unknown_tokens_end_nothing() -> None:
    """A tokenizer of words whose end token follows a newline, which it does not know."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "<end>": 2, "a": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    made.add_special_tokens(["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n<end>\n{% endfor %}"
    template = Template(tokenizer)
    assert (template.end_id, template.ends) == (2, (2, 1))


def test_what_ends_an_answer_without_a_chat_template() -> None:
    tokenizer: Any = tokenizer_of(FAMILIES[0])
    tokenizer.chat_template = None
    assert Template(tokenizer, stops=[7]).ends == (tokenizer.eos_token_id, 7)
    assert Template(tokenizer).end_of == "the tokenizer's eos_token"
    tokenizer.eos_token = None
    assert Template(tokenizer, stops=[7]).ends == (7,)
    with pytest.raises(DataError, match="no end-of-sequence token"):
        Template(tokenizer)


def test_a_cut_answer_keeps_what_looks_like_a_closing() -> None:
    """The template's closing text follows an answer only if the answer ended."""
    template = Template(tokenizer_of(next(family for family in FAMILIES if family.name == "text_before")))
    (cut,) = template.encode("?", [("a</answer>", False)]).answers
    assert template.text(cut) == "a</answer>"
    assert template.text([*cut, template.end_id]) == "a"
    assert template.text([*cut, template.ends[1]]) == "a</answer>", "ended by the end of the text, not by the turn's"


def test_a_prompt_as_one_text() -> None:
    turns = [
        Message(role="user", content="a?"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c?"),
    ]
    assert prompt_text("a?") == prompt_text(messages_of("a?")) == "a?"
    assert prompt_text(turns) == "Human: a?\n\nAssistant: b\n\nHuman: c?\n\nAssistant:"


def family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def test_an_answer_continues_an_assistants_turn() -> None:
    tokenizer = tokenizer_of(family("chatml"))
    begun = [Message(role="user", content="Count."), Message(role="assistant", content="Sure: ")]
    encoded = Template(tokenizer).encode(begun, [("0, 1", True)])
    text = "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nSure: 0, 1<|im_end|>"
    assert tokenizer.decode([*encoded.prompt, *encoded.answers[0]]) == text
    plain = Template(tokenizer, use="none").encode(begun, [("0, 1", True)])
    text = "\n\nHuman: Count.\n\nAssistant: Sure: 0, 1<|im_end|>"
    assert tokenizer.decode([*plain.prompt, *plain.answers[0]]) == text


def test_a_turn_that_the_template_leaves_out_is_refused() -> None:
    only_users = "{% for m in messages if m['role'] != 'system' %}" + CHATML.split("{% for m in messages %}")[1]
    template = Template(tokenizer_of(Family("t", only_users, "<|im_end|>", ["<|im_start|>", "<|im_end|>"])))
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    with pytest.raises(DataError, match=r"leaves out turn 1 of the prompt \(system: 'Be brief\.'\)"):
        template.encode(turns, [("a", True)])
    assert template.encode(turns[1:], [("a", True)])


def test_a_thought_in_an_answer_is_rendered_as_the_template_does() -> None:
    """The template writes an empty thought before an answer without one. The two answers share less of it."""
    tokenizer = tokenizer_of(family("qwen3"))
    template = Template(tokenizer)
    encoded = template.encode("?", [("a", True), ("<think>b</think>c", True)])
    start = tokenizer.decode(encoded.prompt)
    assert start.endswith("<|im_start|>assistant\n<think>\n")
    assert [tokenizer.decode(ids) for ids in encoded.answers] == [
        "\n</think>\n\na<|im_end|>",
        "b\n</think>\n\nc<|im_end|>",
    ]
    assert encoded.moved
    assert tokenizer.decode(template.prompt_ids("?")).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("use", ["auto", "none"])
def test_texts_that_were_rendered_before(use: str) -> None:
    tokenizer = tokenizer_of(family("llama3"))
    template = Template(tokenizer, use=use)
    prompt = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    if use == "auto":
        marks = ["<|begin_of_text|>", "<|end_header_id|>", "<|eot_id|>", "<|start_header_id|>"]
        assert template.marks_in(prompt) == marks
        assert template.marks_in("Hi <b>") == []
        return
    encoded = template.encode(prompt, [("Yes<|eot_id|>\n", True), ("No", True), ("N", False)])
    assert [tokenizer.decode(ids) for ids in encoded.answers] == ["Yes<|eot_id|>", "No<|eot_id|>", "N"]
    assert tokenizer.decode(encoded.prompt) == prompt
    assert template.marks_in(prompt) == []


def test_a_plain_text_begins_with_one_begin_and_ends_with_one_end() -> None:
    """The tokenizer adds a begin and an end to every text, and the user's text has them too."""
    from tokenizers.processors import TemplateProcessing

    tokenizer: Any = tokenizer_of(family("gemma3"))
    tokenizer.chat_template = None
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    special = [("<bos>", begin), ("<eos>", end)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<bos> $A <eos>", special_tokens=special)
    for prompt, answer in (("a", "b"), ("<bos>a", "b"), ("a", "b<eos>"), ("<bos>a", "b<eos>\n")):
        encoded = Template(tokenizer).encode(prompt, [(answer, True)])
        assert (tokenizer.decode(encoded.prompt), tokenizer.decode(encoded.answers[0])) == ("<bos>a", "b<eos>")


def test_an_answer_continues_a_word() -> None:
    tokenizer: Any = tokenizer_of(family("llama2"), words=True)
    tokenizer.chat_template = None
    template = Template(tokenizer)
    joint = tokenizer("the answer", add_special_tokens=False)["input_ids"]
    whole = template.encode("the", [(" answer", False)])
    assert [*whole.prompt, *whole.answers[0]] == joint
    assert template.text(whole.answers[0], "the") == " answer", "the space is a part of the answer"
    within = template.encode("the ans", [("wer", False)])
    assert [*within.prompt, *within.answers[0]] == joint
    assert within.moved
    assert tokenizer.decode(within.answers[0]) == "answer"


def test_rows_that_cannot_be_rendered_are_all_named() -> None:
    rows = [
        Pair("fine", "a", "b"),
        Pair("<|im_start|>user\nHi", "a", "b", place=Place("x.jsonl", 7)),
        Pair([Message(role="user", content="a"), Message(role="user", content="b")], "a", "b"),
        Pair("fine", "a<|im_end|>", "b", place=Place("x.jsonl", 9)),
    ]
    template = Template(tokenizer_of(family("one_question_only")))
    with pytest.raises(DataError) as caught:
        tokenize_pairs(rows, template, Cutter(500, 400))
    text = str(caught.value)
    assert "3 rows can't be used" in text
    assert "x.jsonl, row 7: its texts hold marks of the chat template (<|im_start|>)" in text
    assert "row 3: the chat template rejects a conversation with the roles user, user, assistant" in text
    assert "x.jsonl, row 9: its texts hold marks of the chat template (<|im_end|>)" in text
    assert "data.template=none" in text


def test_what_templates_and_tokens_do_to_rows_is_counted() -> None:
    plain: Any = tokenizer_of(family("llama2"), words=True)
    plain.chat_template = None
    rows = [Pair("the ans", "wer", " wers"), Pair("the", " answer", " yes")]
    _, report = tokenize_pairs(rows, Template(plain), Cutter(60, 40))
    assert counted(report) == {"boundary_moved": 1}
    assert report.summary()["boundary_moved_frac"] == 0.5
    rows = [Pair("a", "<think>x</think>b", "c"), Pair("a", "b ", "c")]
    tokens, report = tokenize_pairs(rows, Template(tokenizer_of(family("deepseek"))), Cutter(90, 60))
    assert counted(report) == {"answer_rewritten": 1}
    assert (report.compared, len(tokens)) == (2, 2)


def counted(report: LengthReport) -> dict[str, int]:
    return {name: count for name, count in report.seams().items() if count}


def test_a_template_that_writes_the_date_is_counted() -> None:
    dated = tokenizer_of(family("chatml"))
    dated.chat_template = "Today is {{ strftime_now('%d %b %Y') }}.\n" + dated.chat_template
    for use, expected in (("auto", {"dated": 2}), ("none", {})):
        _, report = tokenize_pairs([Pair("a", "b", "c")] * 2, Template(dated, use=use), Cutter(90, 60))
        assert counted(report) == expected


def test_plain_texts_that_hold_the_end_of_a_text_are_counted() -> None:
    plain: Any = tokenizer_of(family("llama2"))
    rows = [Pair("a", "b</s>", "c"), Pair("<s>a", "b", "c"), Pair("a", "b", "c <br>")]
    for template, use, expected in ((None, "auto", {"rendered_before": 2}), (None, "none", {})):
        plain.chat_template = template
        _, report = tokenize_pairs(rows, Template(plain, use=use), Cutter(90, 60))
        assert counted(report) == expected


def test_a_tokenizer_with_code_of_its_own_is_not_passed_over() -> None:
    """The backend of a fast tokenizer is asked directly only if the tokenizer itself gives the same ids."""
    tokenizer = tokenizer_of(next(family for family in FAMILIES if family.name == "chatml"))

    class Doubling(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, texts: Any, **arguments: Any) -> Any:
            found = super().__call__(texts, **arguments)
            found["input_ids"] = (
                [[*ids, *ids] for ids in found["input_ids"]] if isinstance(texts, list) else found.input_ids
            )
            return found

    rows = [("Is it?", [("Yes.", True), ("No.", False)])] * 2
    template = Template(tokenizer)
    plain = template.encode_all([template.render(*row) for row in rows])
    tokenizer.__class__ = Doubling
    (doubled, _) = Template(tokenizer).encode_all([template.render(*row) for row in rows])
    assert len(doubled.prompt + doubled.answers[0]) == 2 * len(plain[0].prompt + plain[0].answers[0])


def test_a_rejected_row_does_not_disturb_the_others() -> None:
    strict = CHATML.replace(
        "{% for", "{{ messages[0].role == 'system' and raise_exception('no system turns') }}{% for", 1
    )
    template = Template(tokenizer_of(Family("strict", strict, "<|im_end|>")))
    system: Prompt = [Message(role="system", content="Be brief."), Message(role="user", content="Why?")]
    first, second, third = template.render_all([(p, [("Yes.", True)]) for p in ("Why?", system, "Is it?")])
    assert isinstance(second, DataError)
    assert (
        str(second)
        == "the chat template rejects a conversation with the roles system, user, assistant: no system turns"
    )
    assert [first, third] == [template.render(p, [("Yes.", True)]) for p in ("Why?", "Is it?")]


REJECTED = {
    "tools": "{{ tools | length }}" + CHATML,
    "a missing turn": "{{ messages[7].content.strip() }}" + CHATML,
    "division by zero": "{{ 1 // 0 }}" + CHATML,
    "a syntax error": "{% for m in messages %}",
    "several templates without a default": {"tool_use": CHATML},
    "no turns": "",
    "the answer alone": "{{ messages[-1].content }}{{ eos_token }}",
    "turns in reverse": CHATML.replace("in messages", "in messages | reverse"),
    "the start of a turn": CHATML.replace("m['content']", "m['content'][:5]"),
}


@pytest.mark.parametrize("chat_template", REJECTED.values(), ids=REJECTED.keys())
def test_a_template_that_can_not_render_a_conversation_is_refused(chat_template: Any) -> None:
    tokenizer = tokenizer_of(Family("broken", "", "<|im_end|>", ["<|im_end|>"]))
    tokenizer.chat_template = chat_template
    with pytest.raises(DataError, match="the chat template"):
        Template(tokenizer).encode("Is it four?", [("It is 4.", True)])


def test_marks_of_generation_change_no_token() -> None:
    content = "{{ m['content'] }}<|im_end|>"
    marked = CHATML.replace(content, f"{{% generation %}}{content}{{% endgeneration %}}")
    assert "generation %}" in marked
    plain, own = (Template(tokenizer_of(Family("t", text, "<|im_end|>", ["<|im_end|>"]))) for text in (CHATML, marked))
    row = ("Is it?", [("Yes.", True)])
    # Jinja removes the newline after a mark, so the turns are rendered without it. Up to there they are the same.
    assert own.encode(*row).answers == plain.encode(*row).answers
    assert own.differing([row], [own.encode(*row)]) == [False]


def test_plain_texts_begin_and_end_once() -> None:
    """A tokenizer may add the token that begins a text twice, or the text may hold it already."""
    from tokenizers import processors

    tokenizer = tokenizer_of(Family("t", "", "</s>", bos="<s>", eos="</s>"))
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A </s> </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    template = Template(tokenizer, use="none")
    for prompt in ("It is", "<s>It is"):
        encoded = template.encode(prompt, [(" 4", True)])
        assert tokenizer.decode(encoded.prompt) == "<s>It is"
        assert tokenizer.decode(encoded.answers[0]) == " 4</s>"


def test_padding_with_the_mark_of_a_turn_is_no_end() -> None:
    tokenizer = tokenizer_of(Family("t", CHATML, "<|im_end|>", ["<|im_start|>", "<|im_end|>"]))
    tokenizer.pad_token = "<|im_start|>"
    template = Template(tokenizer)
    assert template.end_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.decode(template.encode("Is it?", [("Yes.", True)]).answers[0]) == "Yes.<|im_end|>"


def chatml(template: str = CHATML, plain: Sequence[str] = ()) -> Any:
    return tokenizer_of(Family("t", template, "<|im_end|>", ["<|im_start|>", "<|im_end|>"], list(plain)))


def turns_of(*texts: str, roles: str = "uauauau") -> list[Message]:
    names = {"u": "user", "a": "assistant", "s": "system"}
    return [Message(role=names[role], content=text) for role, text in zip(roles, texts, strict=False)]


ONLY_FIRST_SYSTEM = CHATML.replace("<|im_start|>{{", "{% if m.role != 'system' or loop.first %}<|im_start|>{{").replace(
    "{% endfor %}", "{% endif %}{% endfor %}", 1
)


@pytest.mark.parametrize(
    ("template", "turns", "left_out"),
    [
        (ONLY_FIRST_SYSTEM, turns_of("Be brief.", "s", "Why?", roles="ssu"), "turn 2 of the prompt (system: 's')"),
        (ONLY_FIRST_SYSTEM, turns_of("Hi", "Hm", "e", "Why?", roles="uasu"), "turn 3 of the prompt (system: 'e')"),
        (CHATML.replace("in messages", "in messages[-3:]"), turns_of("yes", "yes", "yes"), "turn 1 of the prompt"),
    ],
)
def test_a_turn_is_missed_although_its_words_stand_elsewhere(
    template: str, turns: list[Message], left_out: str
) -> None:
    with pytest.raises(DataError) as caught:
        Template(chatml(template)).encode(turns, [("No.", True)])
    assert f"the chat template leaves out {left_out}" in str(caught.value)
    with pytest.raises(DataError, match="leaves out"):
        Template(chatml(template)).prompt_ids(turns)


def seams(template: Template, *rows: Pair) -> dict[str, int]:
    return counted(tokenize_pairs(rows, template, Cutter(900, 800))[1])


def test_a_prompt_that_the_template_changes_is_counted() -> None:
    cut = Template(chatml(CHATML.replace("m['content']", "m['content'][:9] if m.role == 'user' else m.content")))
    assert seams(cut, Pair("Is it 4?", "a", "b"), Pair("Is it 4 or 5?", "a", "b")) == {"prompt_rewritten": 1}
    titled = Template(chatml(CHATML.replace("m['content']", "m['content'] | title")))
    assert seams(titled, Pair("Is it?", "Yes", "no")) == {"answer_rewritten": 1, "prompt_rewritten": 1}
    assert seams(titled, Pair("  Is It? ", "Yes\n", "No")) == {}, "white space around a turn is not counted"


@pytest.mark.parametrize("thought", ["", "Hm.", "A thought that is longer than the answer after it, by far."])
def test_thoughts_in_earlier_turns_are_not_turns_that_are_left_out(thought: str) -> None:
    template = Template(tokenizer_of(family("deepseek")))
    row = Pair(turns_of("Why?", f"<think>{thought}</think>So.", "And?"), "a", "b")
    assert seams(template, row) == {"prompt_rewritten": 1}
    assert template.render(row.prompt, row.answers()).opening.endswith(
        "So.<｜end▁of▁sentence｜><｜User｜>And?<｜Assistant｜>"
    )


def test_thoughts_may_have_tokens_of_their_own() -> None:
    """A template that reads the marks of a thought does not write them twice."""
    template = Template(chatml(family("qwen3").template, ["<think>", "</think>", "<|tool|>"]))
    assert template.marks_in("<|im_start|><think></think><|tool|>") == ["<|im_start|>"]
    encoded = template.encode("?", [("<think>a</think>b", True)])
    assert template.text(encoded.prompt + encoded.answers[0]).endswith("assistant\n<think>\na\n</think>\n\nb")
    written = Template(chatml(CHATML.replace("m['content']", "'<turn>' + m['content']"), ["<turn>"]))
    assert written.marks_in("<turn>a") == ["<turn>"], "this template writes the mark again"


def test_prompts_without_answers_need_no_turn_without_content() -> None:
    """Some templates render no turn that is empty. The answer of such a row is sampled."""
    skipping = CHATML.replace("<|im_start|>{{", "{% if m['content'] %}<|im_start|>{{").replace(
        "{% endfor %}", "{% endif %}{% endfor %}", 1
    )
    plain, own = (Template(chatml(text)) for text in (CHATML, skipping))
    (row,), report = tokenize_prompts([PromptOnly("Is it?")], own, Cutter(90, 60))
    assert (row.prompt, row.completion) == (plain.prompt_ids("Is it?"), [own.end_id])
    assert report.compared == 1


def test_texts_that_hold_the_header_of_an_answer_are_counted() -> None:
    """The marks of some templates are ordinary text, so no token shows that a row was rendered before."""
    template = Template(tokenizer_of(family("llama2")))
    assert seams(template, Pair("[INST] Why? [/INST]", "a", "b"), Pair("[INST", "a", "b")) == {"holds_header": 1}
    assert seams(Template(tokenizer_of(family("plain_role"))), Pair("A\nASSISTANT: b", "a", "b")) == {"holds_header": 1}
    word = CHATML.replace("<|im_start|>", "").replace("<|im_end|>", "")
    assert seams(Template(chatml(word)), Pair("an assistant\nno", "a", "b")) == {}, "a word says nothing"


def test_texts_that_hold_special_tokens_are_counted() -> None:
    tokenizer: Any = tokenizer_of(family("command_r"))
    rows = [Pair("<|user|>", "a", "b"), Pair("a", "b", "<|endoftext|>"), Pair("<b>", "a", "b")]
    assert seams(Template(tokenizer), *rows[::2]) == {"holds_special": 1}
    tokenizer.chat_template = None
    assert seams(Template(tokenizer), *rows) == {"rendered_before": 1, "holds_special": 1}
    assert seams(Template(tokenizer, use="none"), *rows) == {}


LLAMA_ROWS = [Pair("[INST] Why? [/INST]", "a", "b"), Pair("a", "b", "c [/INST]")]
PLAIN_ROWS = [Pair("a [inst] and inst", "b", "c"), Pair("1 < |x|", "b", "c")]


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma3", "deepseek"])
def test_marks_of_the_template_of_another_model_are_counted(name: str) -> None:
    """They are ordinary text for this tokenizer, so that neither its own marks nor its special tokens show them."""
    template = Template(tokenizer_of(family(name)))
    assert seams(template, *LLAMA_ROWS, *PLAIN_ROWS)["holds_other_marks"] == 2
    assert seams(Template(tokenizer_of(family(name)), use="none"), *LLAMA_ROWS).get("holds_other_marks") is None


def test_marks_of_the_model_itself_are_not_those_of_another() -> None:
    own = Template(tokenizer_of(family("llama2")))
    assert seams(own, *LLAMA_ROWS) == {"holds_header": 2}
    assert seams(own, Pair("<|im_start|>user", "a", "b"), Pair("a", "b<end_of_turn>", "c"))["holds_other_marks"] == 2
    plain: Any = tokenizer_of(family("llama2"), words=True)
    plain.chat_template = None
    assert seams(Template(plain), *LLAMA_ROWS)["holds_other_marks"] == 2, "a base model knows no marks"


def test_texts_that_a_tokenizer_cannot_write_are_counted() -> None:
    """It does not know some characters, changes others, or loses the ends of lines."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {
        f"▁{letter}" if part else letter: i for i, (part, letter) in enumerate((p, x) for p in (0, 1) for x in "abo")
    }
    made = Tokenizer(models.BPE(letters | {"<unk>": 6, "<end>": 7, "▁": 8}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<unk>")
    rows = [Pair("a b", " o", " a"), Pair("ab", " o", " ü"), Pair("é", " a", " b"), Pair("a", " oo", "  o")]
    assert seams(Template(tokenizer), *rows) == {"respelled": 2}
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Lowercase()
    assert seams(Template(tokenizer), Pair("a", " A", " b"), Pair("b", " o", " b")) == {"respelled": 1}
    backend.normalizer = normalizers.Replace("\n", " ")
    assert seams(Template(tokenizer), Pair("a\nb", " b", " o"), Pair("a", " a\nb", " b")) == {"respelled": 1}
    _, report = tokenize_pairs([Pair("ü", " a", " b")] * 3, Template(tokenizer), Cutter(90, 60), compare=2)
    assert (report.respelled, report.compared) == (2, 2), "only compared rows are decoded"


def test_what_a_tokenizer_appends_to_a_text_is_no_part_of_a_row() -> None:
    """BERT's tokenizers end every text with `[SEP]`, which need not be the end of an answer."""
    from tokenizers import processors

    tokenizer = tokenizer_of(Family("t", "", "<eos>", ["[CLS]", "[SEP]"], eos="<eos>"))
    ids = tokenizer.convert_tokens_to_ids
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids("[CLS]")), ("[SEP]", ids("[SEP]"))]
    )
    tokenizer.chat_template = None
    encoded = Template(tokenizer).encode("It is", [(" 4", True), (" 5", False)])
    assert tokenizer.decode(encoded.prompt) == "[CLS]It is"
    assert [tokenizer.decode(answer) for answer in encoded.answers] == [" 4<eos>", " 5"]
    assert not encoded.moved
    tokenizer.eos_token = None
    (answer,) = Template(tokenizer, stops=[ids("[SEP]")]).encode("It is", [(" 4", True)]).answers
    assert tokenizer.decode(answer) == " 4[SEP]", "one end"


def test_a_turn_without_text_does_not_move_the_answer() -> None:
    """Without a chat template, a space stands between "Assistant:" and an answer to any turn of the user."""
    template = Template(chatml(), use="none")
    for text in ("", "Assistant:", "Why?"):
        assert template.render(turns_of(text), [("No.", True)]).wholes == [f"\n\nHuman: {text}\n\nAssistant: No."]


@pytest.mark.parametrize(
    ("template", "otherwise"),
    [
        (CHATML, False),
        (PLAIN_ROLE, False),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}",
            False,
        ),
        (family("qwen3").template, True),
        (CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"), True),
        (CHATML.split("{% if add")[0], True),
    ],
)
def test_rows_that_begin_an_answer_as_no_program_will(template: str, otherwise: bool) -> None:
    """White space at the end does not count: it often is a part of the answer's first token."""
    row = Pair("Is it?", "Yes", "No")
    assert seams(Template(chatml(template)), row) == ({"opens_otherwise": 1} if otherwise else {})
    assert seams(Template(chatml(template), use="none"), row) == {}
