from __future__ import annotations

import pytest

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.edited import check_page, missing_on
from sonoloop.platform.labelstudio.page import build_page

OURS = build_page()


def test_other_words_and_further_controls_are_welcome() -> None:
    more = '<TextArea name="note" toName="image"/></View>'
    page = OURS.replace('value="Organ"', 'value="Which organ?"')
    page = page[: page.rindex("</View>")] + more
    assert missing_on(page, OURS) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name="kidney_margin"', 'name="margin_of_kidney"', "kidney_margin is missing or renamed"),
        ('name="lesion" toName="image"', 'name="lesion" toName="other"', "lesion is a Choices on other"),
        ('<Choice value="thyroid"', '<Choice value="Thyroid gland"', "organ lacks thyroid"),
        ('<Label value="lesion"', '<Label value="tumour"', "box lacks lesion"),
    ],
)
def test_a_control_or_choice_that_is_gone_or_renamed_is_named(old: str, new: str, words: str) -> None:
    assert old in OURS
    with pytest.raises(ServiceError, match=words) as caught:
        check_page("Some project", OURS.replace(old, new), OURS)
    assert "'Some project'" in str(caught.value)
    assert "nothing was sent" in str(caught.value)


def test_a_page_that_is_no_xml_is_told() -> None:
    assert missing_on("<View>", OURS) == ["everything: it is no XML"]
