"""Sections of messy outputs. Nothing in here is quoted in an error: every refusal is checked for that."""

from __future__ import annotations

import time

import pytest

from sonoloop.model.prompts import LANGUAGES, Language, Task, format_report, parse_report, parse_section
from sonoloop.model.prompts.sections import MAX_CHARS
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS

PLAIN = ("A mass.", "Benign.")
CHINESE = ("右叶见一低回声结节。", "甲状腺结节，TI-RADS 3类。")


def parse(text: str, task: Task, language: Language) -> object:
    if task == "report":
        return parse_report(text, language=language)
    return parse_section(text, task, language=language)


def refusal(text: str, task: Task = "report", language: Language = "en") -> str:
    with pytest.raises(ValueError, match="expected") as caught:
        parse(text, task, language)
    message = str(caught.value)
    assert caught.value.__cause__ is None
    assert not any(word in message for word in ("mass", "Benign", "结节", "Sure", "Recommend"))
    return message


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_formatted_report_parses_into_its_sections(language: Language) -> None:
    for sections in (PLAIN, CHINESE, ("One.\n\n- two: 12 x 8 mm (#3)\n- **three**", "A_b * c.")):
        assert parse_report(format_report(*sections, language=language), language=language) == sections


def test_every_report_of_a_phantom_comes_back_whole() -> None:
    for index in range(400):
        phantom = draw_case(11, index, PHANTOM_ORGANS[index % len(PHANTOM_ORGANS)], "A")
        sections = (phantom.findings, phantom.impression)
        assert parse_report(format_report(*sections)) == sections


@pytest.mark.parametrize(
    "text",
    [
        "ultrasound findings: A mass.\nUltrasound Impression: Benign.",
        "  ULTRASOUND FINDINGS :\n A mass.\n\nULTRASOUND  IMPRESSION:  Benign.\n",
        "Ultrasound findings:A mass.Ultrasound impression:Benign.",
        "Ultrasound findings：A mass. Ultrasound impression：Benign.",
        "Ultrasound\nfindings: A mass.\r\nUltrasound impression: Benign.\r\n",
    ],
    ids=["case", "whitespace", "no-space", "full-width-colon", "line-endings"],
)
def test_headings_may_differ_in_case_whitespace_and_colon(text: str) -> None:
    assert parse_report(text) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "**Ultrasound findings:** A mass.\n\n**Ultrasound impression:** Benign.",
        "**Ultrasound findings**: A mass. **Ultrasound impression**: Benign.",
        "__Ultrasound Findings:__\nA mass.\n__Ultrasound Impression:__\nBenign.",
        "## Ultrasound findings\n\nA mass.\n\n## Ultrasound impression\n\nBenign.\n",
        "### **Ultrasound findings:**\nA mass.\n### **Ultrasound impression:**\nBenign.",
        "# Ultrasound findings: A mass.\n# Ultrasound impression: Benign.",
        "**Ultrasound findings**\nA mass.\n**Ultrasound impression**\nBenign.",
        "- Ultrasound findings: A mass.\n- Ultrasound impression: Benign.",
        "【Ultrasound findings】A mass.\n【Ultrasound impression】Benign.",
    ],
)
def test_marks_around_headings_are_taken_away(text: str) -> None:
    assert parse_report(text) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "1. Ultrasound findings: A mass.\n2. Ultrasound impression: Benign.",
        "1) **Ultrasound findings:** A mass.\n2) **Ultrasound impression:** Benign.",
        "(1) Ultrasound findings: A mass.\n(2) Ultrasound impression: Benign.",
        "**1. Ultrasound findings:**\nA mass.\n**2. Ultrasound impression:**\nBenign.",
        "## 1. Ultrasound findings\nA mass.\n## 2. Ultrasound impression\nBenign.",
        "1. Ultrasound findings: A mass. 2. Ultrasound impression: Benign.",
    ],
)
def test_numbers_of_sections_are_taken_away(text: str) -> None:
    assert parse_report(text) == PLAIN


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("Ultrasound findings: In segment 2. Ultrasound impression: Benign.", "In segment 2."),
        ("1. Ultrasound findings: In segment 2. Ultrasound impression: Benign.", "In segment 2."),
        ("Ultrasound findings: A mass. 2. Ultrasound impression: Benign.", "A mass. 2."),
    ],
)
def test_a_number_that_may_belong_to_the_sentence_stays(text: str, findings: str) -> None:
    assert parse_report(text)[0] == findings


@pytest.mark.parametrize(
    "text",
    [
        "```\nUltrasound findings: A mass. Ultrasound impression: Benign.\n```",
        "\n```markdown\n**Ultrasound findings:** A mass.\n**Ultrasound impression:** Benign.\n```\n",
        "---\nUltrasound findings: A mass.\n---\nUltrasound impression: Benign.\n***",
        "Ultrasound findings: A mass. Ultrasound impression: Benign.<|im_end|>",
        "Ultrasound findings: A mass. Ultrasound impression: Benign. <|im_end|>\n<|endoftext|><|endoftext|>",
        "\ufeffUltrasound \u200bfindings: A\u200d mass.\x00 Ultra\u00adsound impression: \x1bBenign.\u2060",
        "Ultrasound findings: A mass.\u2028Ultrasound impression: Benign.\x0c",
    ],
    ids=["fence", "fence-language", "rules", "end", "ends", "invisible", "separators"],
)
def test_what_says_nothing_is_taken_away(text: str) -> None:
    assert parse_report(text) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "超声所见：右叶见一低回声结节。超声提示：甲状腺结节，TI-RADS 3类。",
        "超声所见: 右叶见一低回声结节。\n超声提示: 甲状腺结节，TI-RADS 3类。",
        "【超声所见】右叶见一低回声结节。\n【超声提示】甲状腺结节，TI-RADS 3类。",
        "一、超声所见：右叶见一低回声结节。\n二、超声提示：甲状腺结节，TI-RADS 3类。",
        "**超声所见：**右叶见一低回声结节。\n**超声提示：**甲状腺结节，TI-RADS 3类。",
        "## 超声所见\n右叶见一低回声结节。\n## 超声提示\n甲状腺结节，TI-RADS 3类。<|im_end|>",
    ],
)
def test_chinese_reports_are_read_with_either_colon_and_their_own_marks(text: str) -> None:
    assert parse_report(text, language="zh") == CHINESE


def test_sections_keep_their_inner_lines() -> None:
    assert parse_report("Ultrasound findings: One.\nTwo. Ultrasound impression: Three.\nFour.") == (
        "One.\nTwo.",
        "Three.\nFour.",
    )


def test_headings_named_in_a_sentence_are_no_headings() -> None:
    text = "Ultrasound findings: The ultrasound findings agree. Ultrasound impression: Benign."
    assert parse_report(text)[0] == "The ultrasound findings agree."
    chinese = "超声所见：本次超声提示：无结节。超声提示：未见异常。"
    assert parse_report(chinese, language="zh") == ("本次超声提示：无结节。", "未见异常。")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "\u200b",
        "A mass.",
        "Ultrasound findings: A mass.",
        "Ultrasound impression: Benign.",
        "Ultrasound findings A mass. Ultrasound impression Benign.",
        "Ultrasound findings: Ultrasound impression: Benign.",
        "Ultrasound findings: A mass. Ultrasound impression:  ",
        "Ultrasound findings: ... Ultrasound impression: ...",
        "Ultrasound findings: A mass. Ultrasound impression: <|im_end|>",
        "## Ultrasound findings\n\n## Ultrasound impression\nBenign.",
        "Ultrasound impression: Benign. Ultrasound findings: A mass.",
        "Ultrasound findings: A. Ultrasound findings: B. Ultrasound impression: C.",
        "Ultrasound findings: A. Ultrasound impression: B. Ultrasound impression: C.",
        "Ultrasound findings: A. Ultrasound impression: B.\n" * 2,
    ],
)
def test_sections_that_are_missing_empty_doubled_or_swapped_are_refused(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Ultrasound findings: A mass. Ultrasound impression: Benign.",
        "Here is the report:\nUltrasound findings: A mass. Ultrasound impression: Benign.",
        "# Ultrasound report\n## Ultrasound findings\nA mass.\n## Ultrasound impression\nBenign.",
        "“Ultrasound findings: A mass. Ultrasound impression: Benign.”",
        "Sure:\n```\nUltrasound findings: A mass. Ultrasound impression: Benign.\n```",
        "```\nUltrasound findings: A mass. Ultrasound impression: Benign.\n```\nRecommend biopsy.",
        "```\nUltrasound findings: A mass. Ultrasound impression: Benign.",
        "**Ultrasound findings: A mass. Ultrasound impression: Benign.**",
        "Ultrasound findings: A mass. Ultrasound impression: **Benign.",
        "Ultrasound findings: A mass. Ultrasound impression: Benign.\n## Recommendation\nBiopsy.",
        "Ultrasound findings: A mass. Ultrasound impression: Benign.\n---\nWritten by a model.",
        "Ultrasound findings: A <|vision_start|> mass. Ultrasound impression: Benign.",
        "Ultrasound findings: A \ufffd mass. Ultrasound impression: Benign.",
        f"Ultrasound findings: A {chr(0xD800)} mass. Ultrasound impression: Benign.",
        "Ultrasound findings: A mass. Ultrasound impression: Benign. 超声提示：良性。",
    ],
)
def test_text_outside_the_two_sections_is_refused(text: str) -> None:
    refusal(text)


def test_a_report_in_another_language_than_asked_is_refused() -> None:
    refusal(format_report(*PLAIN), language="zh")
    refusal(format_report(*CHINESE, language="zh"), language="en")


@pytest.mark.parametrize(
    "loop",
    [
        "The margin is circumscribed. " * 4,
        "A cyst. A node. A duct. " * 5,
        "no no no no no no no no no no no no no no no no ",
        "结节边界清晰，形态规则。" * 5,
        "1. The liver is normal. 2. It is. " + "".join(f"{n}. The liver is normal. " for n in range(3, 14)),
        "\n".join(["The margin is circumscribed."] * 4),
        "." * 50,
    ],
)
def test_a_loop_is_refused(loop: str) -> None:
    assert "loop" in refusal(f"Ultrasound findings: A mass. {loop}Ultrasound impression: Benign.")


@pytest.mark.parametrize(
    "findings",
    [
        "Liver: normal. Spleen: normal. Kidney: normal. Pancreas: normal. Bladder: normal.",
        "The left lobe is normal. The right lobe is normal. The isthmus is normal. No nodes are seen.",
        "Normal. Normal. Normal. Normal.",
        "\n".join(f"Node {n}: 12 x {n} mm, oval, hypoechoic, no flow." for n in range(1, 9)),
        "A" + " " * 500 + "mass.",
    ],
)
def test_lists_that_only_resemble_each_other_are_no_loop(findings: str) -> None:
    assert parse_report(format_report(findings, "Benign."))[0] == findings


def test_outputs_beyond_the_limit_are_refused_and_the_longest_are_read_quickly() -> None:
    sentences = "".join(f"Finding {number} at {number * 7} mm. " for number in range(10_000))
    longest = format_report(sentences[: MAX_CHARS - 100], "Benign.")
    begin = time.thread_time()
    parse_report(longest)
    for hostile in ("ultrasound" + " " * 9000, "*" * 9000, "\n# " * 4000, "```\n" * 4000, "1. " * 5000):
        refusal(hostile + " mass")
    assert time.thread_time() - begin < 20  # 0.2 s of a core; quadratic searches took minutes
    refusal(format_report("a" * MAX_CHARS, "Benign."))


@pytest.mark.parametrize(
    ("text", "task", "language"),
    [
        ("A mass.", "findings", "en"),
        ("Ultrasound findings: A mass.", "findings", "en"),
        ("**Findings:** A mass.", "findings", "en"),
        ("## Impression\nA mass.", "impression", "en"),
        ("1. Diagnosis: A mass.<|im_end|>", "diagnosis", "en"),
        ("```\nA mass.\n```", "caption", "en"),
        ("Caption: A mass.", "caption", "en"),
        ("Answer: A mass.", "vqa", "en"),
        ("超声所见：A mass.", "findings", "zh"),
        ("【超声提示】A mass.", "impression", "zh"),
        ("诊断：A mass.", "diagnosis", "zh"),
        ("答：A mass.", "vqa", "zh"),
    ],
)
def test_an_answer_of_one_section_is_plain_text_after_its_own_heading(
    text: str, task: Task, language: Language
) -> None:
    assert parse_section(text, task, language=language) == "A mass."


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("", "caption"),
        ("...", "caption"),
        ("Here is the caption: a mass.", "caption"),
        ("Sure, a mass.", "diagnosis"),
        ("I'm sorry, I cannot help.", "diagnosis"),
        ("抱歉，无法判断。", "findings"),
        ("好的，以下是所见。", "findings"),
        ("Findings: A mass. Ultrasound impression: Benign.", "findings"),
        ("Ultrasound findings: A mass.", "impression"),
        ("Impression: A.\nImpression: B.", "impression"),
        ("A mass.\n# Recommendation\nBiopsy.", "findings"),
        ("The margin is circumscribed. " * 6, "caption"),
    ],
)
def test_an_answer_of_one_section_with_anything_else_is_refused(text: str, task: Task) -> None:
    refusal(text, task)


def test_an_answer_may_say_that_the_images_do_not_show_it() -> None:
    assert parse_section("I cannot see the left lobe.", "vqa") == "I cannot see the left lobe."


@pytest.mark.parametrize("task", ["report", "entities"])
def test_tasks_of_another_form_have_no_single_section(task: Task) -> None:
    with pytest.raises(ValueError, match="one section"):
        parse_section("A mass.", task)
