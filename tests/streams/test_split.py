"""The split of a source into tasks: sizes, orders, disjoint splits, reproducibility."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.errors import DataError, UsageError
from hamcl.streams import SOURCES, Samples, Source, load_task, split

NAMES = [f"class-{i:02d}" for i in range(12)]
counts = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=12
)


def texts(samples: Samples) -> list[str]:
    return list(samples.inputs)


def everything(stream):
    return [
        (t.name, t.classes, [(texts(s), list(s.labels)) for s in (t.train, t.val, t.test)], t.modality, t.augmentation)
        for t in stream
    ]


@settings(deadline=None, max_examples=60)
@given(
    sizes=counts,
    per_task=st.integers(1, 5),
    val=st.sampled_from([0.0, 0.1, 0.5, 0.99]),
    limit=st.none() | st.integers(1, 6),
    test_limit=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**31),
    order=st.sampled_from(["random", "given", "superclass"]),
)
def test_each_class_once_and_its_samples_in_disjoint_splits(
    tiny, sizes, per_task, val, limit, test_limit, seed, order
):
    per_task = min(per_task, len(sizes))
    source = tiny.source(sizes, superclasses={name: str(int(name[-1]) % 3) for name in sizes})
    stream = split(
        source,
        classes_per_task=per_task,
        val_fraction=val,
        train_per_class=limit,
        test_per_class=test_limit,
        seed=seed,
        class_order=order,
    )
    assert sorted(name for task in stream for name in task.classes) == sorted(sizes)
    assert [len(task.classes) for task in stream[:-1]] == [per_task] * (len(stream) - 1)
    own_test = any(test for _, test in sizes.values())
    for task in stream:
        used = [*texts(task.train), *texts(task.val), *texts(task.test)]
        assert len(used) == len(set(used))
        for part in (task.train, task.val, task.test):
            for text, y in zip(part.inputs, part.labels, strict=True):
                assert text.split("/")[0] == task.classes[y]
        assert all("/train/" in text for text in [*texts(task.train), *texts(task.val)])
        for y, name in enumerate(task.classes):
            train, test = sizes[name]
            kept, held, tested = (Counter(part.labels)[y] for part in (task.train, task.val, task.test))
            if own_test:
                assert tested == min(test, test_limit or test)
                assert kept + held == min(train, limit or train)
            assert kept >= 1
            assert (held >= 1) == (val > 0 and kept + held > 1)


@settings(deadline=None, max_examples=30)
@given(sizes=counts, seed=st.integers(0, 1000))
def test_the_same_seed_gives_the_same_stream(tiny, sizes, seed):
    options = {"tasks": 1 + len(sizes) // 2, "val_fraction": 0.3, "train_per_class": 4, "seed": seed}
    assert everything(split(tiny.source(sizes), **options)) == everything(split(tiny.source(sizes), **options))


def test_another_seed_gives_other_orders_and_other_samples(tiny):
    source = tiny.source({name: (20, 5) for name in NAMES})
    a, b = (split(source, tasks=4, train_per_class=5, val_fraction=0.4, seed=seed) for seed in (0, 1))
    assert a.classes != b.classes
    assert {x for task in a for x in texts(task.train)} != {x for task in b for x in texts(task.train)}


def test_the_draws_of_a_class_do_not_depend_on_its_task_nor_on_other_classes(tiny):
    few = tiny.source({name: (20, 5) for name in NAMES[:4]})
    many = tiny.source({name: (20, 5) for name in NAMES})
    options = {"train_per_class": 7, "val_fraction": 0.3, "seed": 5}

    def drawn(stream, part):
        return {x for task in stream for x in texts(getattr(task, part)) if x.startswith(NAMES[0])}

    for part in ("train", "val"):
        assert drawn(split(few, tasks=2, **options), part) == drawn(split(many, tasks=3, **options), part)


def test_fewer_samples_per_class_are_a_subset_of_more(tiny):
    source = tiny.source({name: (20, 5) for name in NAMES})
    small, large = ({x for x in texts(split(source, train_per_class=n)[0].train)} for n in (3, 9))
    assert small < large


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [12]),
        ({"tasks": 5}, [3, 3, 2, 2, 2]),
        ({"classes_per_task": 5}, [5, 5, 2]),
        ({"classes_per_task": 100}, None),
        ({"tasks": 2, "classes_per_task": 5}, [5, 5]),
        ({"tasks": 12}, [1] * 12),
        ({"tasks": 13}, None),
        ({"tasks": 4, "classes_per_task": 4}, None),
        ({"task_sizes": [1, 4, 2]}, [1, 4, 2]),
        ({"task_sizes": [1, 12]}, None),
        ({"task_sizes": [1, 0]}, None),
        ({"task_sizes": []}, None),
        ({"task_sizes": [1], "tasks": 1}, None),
        ({"tasks": 0}, None),
        ({"tasks": 2.5}, None),
        ({"classes_per_task": -1}, None),
        ({"train_per_class": 0}, None),
        ({"test_per_class": 0}, None),
        ({"val_fraction": 1.0}, None),
        ({"val_fraction": -0.1}, None),
        ({"test_fraction": 0.3}, None),
        ({"class_order": "sorted"}, None),
        ({"class_order": "superclass"}, None),
    ],
)
def test_task_sizes(tiny, options, expected):
    source = tiny.source({name: (2, 1) for name in NAMES})
    if expected is None:
        with pytest.raises(UsageError):
            split(source, **options)
    else:
        assert [len(task.classes) for task in split(source, **options)] == expected


def test_one_class_with_one_sample_is_a_stream(tiny):
    (task,) = split(tiny.source({"only": (1, 0)}), val_fraction=0.5)
    assert (task.classes, texts(task.train), texts(task.val), texts(task.test)) == (
        ("only",),
        ["only/train/0"],
        [],
        [],
    )
    assert task.name == "made"


def test_task_names_count_from_one(tiny):
    assert [task.name for task in split(tiny.source({name: (1, 1) for name in NAMES}), tasks=2)] == [
        "made-01",
        "made-02",
    ]


def test_a_source_without_a_test_split_has_one_held_out_by_seed(tiny):
    source = tiny.source({name: (10, 0) for name in NAMES})
    for fraction, expected in ((None, 2), (0.5, 5), (0, 0)):
        (task,) = split(source, test_fraction=fraction)
        assert set(Counter(task.test.labels).values()) == ({expected} if expected else set())
        assert len(set(texts(task.train)) | set(texts(task.test))) == 120
    held = [set(texts(split(source, seed=seed)[0].test)) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_the_first_task_is_the_first_part_of_the_permutation(tiny):
    source = tiny.source({name: (1, 1) for name in NAMES})
    order = split(source, seed=3).classes
    assert sorted(order) == NAMES
    assert split(source, classes_per_task=5, seed=3)[0].classes == order[:5]
    assert split(source, class_order="given", tasks=3)[0].classes == tuple(NAMES[:4])


def test_superclass_order_keeps_families_together(tiny):
    families = {name: f"family-{i % 3}" for i, name in enumerate(NAMES)}
    source = tiny.source({name: (1, 1) for name in NAMES}, superclasses=families)
    stream = split(source, tasks=3, class_order="superclass", seed=1)
    assert [len({families[name] for name in task.classes}) for task in stream] == [1, 1, 1]
    assert stream.superclasses == families
    other = split(source, tasks=3, class_order="superclass", seed=2)
    assert other.classes != stream.classes


def test_order_files(tiny, tmp_path):
    source = tiny.source({name: (4, 1) for name in NAMES})
    order = [NAMES[i] for i in (7, 2, 9, 4)]
    lines = tmp_path / "order.txt"
    lines.write_text("\n".join(order) + "\n\n")
    stream = split(source, tasks=2, class_order_file=lines)
    assert [task.classes for task in stream] == [tuple(order[:2]), tuple(order[2:])]
    file = tmp_path / "order.json"
    file.write_text(json.dumps(order))
    assert split(source, class_order_file=file).classes == tuple(order)
    file.write_text(json.dumps([order[:1], order[1:]]))
    assert [task.classes for task in split(source, class_order_file=file)] == [tuple(order[:1]), tuple(order[1:])]
    for options in ({"tasks": 2}, {"task_sizes": [1, 3]}, {"class_order": "given"}):
        with pytest.raises(UsageError):
            split(source, class_order_file=file, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class-00\nclas-01\n", "did you mean class-01"),
        ("class-00\nclass-00\n", "2 times"),
        ('[["class-00", "class-00"]]', "2 times"),
        ('["class-00", ', "cannot be read"),
        ('["class-00", 3]', "must hold class names"),
        ('["class-00", ["class-01"]]', "must hold class names"),
        ("[]", "must hold class names"),
        ("\n \n", "must hold class names"),
    ],
)
def test_wrong_order_files(tiny, tmp_path, content, message):
    file = tmp_path / "order"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        split(tiny.source({name: (1, 1) for name in NAMES}), class_order_file=file)
    with pytest.raises(DataError, match="missing"):
        split(tiny.source({name: (1, 1) for name in NAMES}), class_order_file=tmp_path / "missing")


def test_a_class_in_several_tasks_shares_its_training_samples_out(tiny, tmp_path):
    source = tiny.source({"a": (7, 3), "b": (4, 2), "c": (1, 1)})
    file = tmp_path / "tasks.json"
    file.write_text('[["a", "b"], ["c"], ["b", "a"], ["a"]]')
    stream = split(source, class_order_file=file, val_fraction=0.3)
    assert stream.classes == ("a", "b", "c")
    used = [x for task in stream for part in (task.train, task.val) for x in texts(part)]
    assert len(used) == len(set(used)) == 12
    for task in stream:
        assert set(task.train.labels) == set(range(len(task.classes)))
        assert {x for x in texts(task.test)} == {x for x in texts(source.test) if x.split("/")[0] in task.classes}
    file.write_text('[["a", "c"], ["c"]]')
    with pytest.raises(DataError, match="'c' is in 2 tasks but has 1"):
        split(source, class_order_file=file)


def test_sources_are_checked():
    with pytest.raises(DataError, match="differ only by case: Cat, cat"):
        Source.build("pets", (["x", "y"], ["Cat", "cat"]))
    with pytest.raises(DataError, match="no training sample of dog"):
        Source.build("pets", (["x"], ["cat"]), (["y"], ["dog"]))
    with pytest.raises(DataError, match="empty name"):
        Source.build("pets", (["x"], [""]))
    with pytest.raises(DataError, match="no labelled training sample"):
        Source.build("pets", ([], []))


def test_what_a_source_notes_goes_along(tiny, monkeypatch):
    source = replace(tiny.source({"a": (2, 1), "b": (2, 1)}), notes=("2 files of it were left out",))
    assert split(source, tasks=2).notes == ("2 files of it were left out",)
    monkeypatch.setitem(SOURCES, "made", lambda request: source)
    assert load_task("made").notes == ("2 files of it were left out",)
