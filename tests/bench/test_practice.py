"""Data to try the commands on, read back as a user would."""

import pytest

from hamcl.bench.practice import CLASSES, TEST, TRAIN, practice
from hamcl.errors import UsageError
from hamcl.streams import load_task

pytest.importorskip("sklearn", reason="the digits come with the demo extra")
pytest.importorskip("simple_icd_10_cm", reason="the diagnoses come with the demo extra")


@pytest.mark.parametrize(("kind", "ending", "modality"), [("digits", "", "image"), ("diagnoses", ".csv", "text")])
def test_the_weeks_are_tasks_of_new_classes_and_the_test_split_covers_them(tmp_path, kind, ending, modality):
    practice(tmp_path / "here")
    folder = tmp_path / "here" / kind
    weeks = [load_task(folder / f"week-{i}{ending}") for i in (1, 2)]
    test = load_task(folder / f"test{ending}")
    assert [len(week.classes) for week in weeks] == [CLASSES] * 2 and {week.modality for week in weeks} == {modality}
    assert [len(week.train) for week in weeks] == [CLASSES * TRAIN] * 2
    assert set(test.classes) == {*weeks[0].classes, *weeks[1].classes} and len(test.classes) == 2 * CLASSES
    assert len(test.train) == 2 * CLASSES * TEST
    if modality == "text":
        seen = {text for week in weeks for text in week.train.inputs}
        assert seen.isdisjoint(test.train.inputs)
        inbox = (folder / "inbox.txt").read_text(encoding="utf-8").splitlines()
        assert inbox and {*inbox} <= {*test.train.inputs}
    else:
        assert len([*(folder / "inbox").glob("*.png")]) > CLASSES


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something already"):
        practice(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.txt"]
