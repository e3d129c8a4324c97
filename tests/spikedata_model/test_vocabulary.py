from __future__ import annotations

import numpy as np
import pytest

from spikedata_model.errors import VocabularyError
from spikedata_model.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("a/1/u0", "a/1/u1", "b/1/u0"), ("a/1", "b/1"))


def test_rows_follow_the_order_of_the_vocabulary_not_of_the_question():
    assert VOCABULARY.unit_rows(np.array(["b/1/u0", "a/1/u0"])).tolist() == [2, 0]
    assert VOCABULARY.recording_rows(["b/1", "a/1", "b/1"]).tolist() == [1, 0, 1]
    assert VOCABULARY.unit_rows([]).tolist() == []


@pytest.mark.parametrize(
    ("kind", "vocabulary"),
    [("unit", (("u", "v", "u"), ("a",))), ("recording", (("u",), ("a", "b", "a")))],
)
def test_an_id_that_occurs_twice_is_refused(kind, vocabulary):
    with pytest.raises(VocabularyError, match=f"{kind} '{vocabulary[kind == 'recording'][0]}'"):
        Vocabulary(*vocabulary)


def test_an_unknown_unit_is_named_with_a_near_one_and_the_number_unknown():
    with pytest.raises(VocabularyError) as caught:
        VOCABULARY.unit_rows(["a/1/u0", "b/1/u9", "other"])

    message = str(caught.value)
    assert message.startswith("The model knows no unit 'b/1/u9' (2 unknown of 3)")
    assert "did you mean 'b/1/u0'?" in message


def test_a_near_name_is_found_however_many_units_there_are():
    many = Vocabulary(tuple(f"lab/s{n:03d}/u{n:03d}" for n in range(200)), ("lab",))

    with pytest.raises(VocabularyError, match=r"did you mean 'lab/s199/u199'\?"):
        many.unit_rows(["lab/s199/u199x"])


def test_a_long_list_of_what_there_is_is_cut():
    many = Vocabulary(tuple(f"unit{n}" for n in range(2000)), ("lab",))

    with pytest.raises(VocabularyError, match=r"; there are: unit0, unit1, .* …$") as caught:
        many.unit_rows(["zzz"])
    assert len(str(caught.value)) < 500
