"""What a learner may be asked about and by whom: single inputs, files, arrays and tensors; threads; pickle; repr."""

import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.machine import Machine
from hamcl.methods.ease import EASE
from hamcl.methods.ham import HAM
from hamcl.methods.ranpac import RanPAC
from hamcl.nn.backbones import load_backbone
from hamcl.streams.base import Samples, Stream, Task
from hamcl.turns import BUSY

SMALL = {"epochs": 1, "batch_size": 4, "rank": 2, "projection": 40}


def learner(toy, folder, modality="image", kind=HAM, **options):
    config = kind.configured(options, SMALL)
    backbone = toy.vit() if modality == "image" else load_backbone(str(folder), depths=config.depths_to_read)
    return kind(backbone, config, Machine("cpu", "fp32"))


@pytest.fixture(scope="session")
def known(toy, bert_folder):
    """Learners of one task, by modality, and the task; do not change them."""
    found = {}
    for modality in ("image", "text"):
        task = toy.task("one", ["red", "blue"], 5, modality)
        found[modality] = learner(toy, bert_folder, modality), task
        found[modality][0].learn(task)
    return found


FORMS = {
    "pil": lambda image, path: image,
    "path": lambda image, path: path,
    "str": lambda image, path: str(path),
    "bytes": lambda image, path: path.read_bytes(),
    "array": lambda image, path: np.asarray(image),
    "rgba": lambda image, path: np.asarray(image.convert("RGBA")),
    "tensor of pixels": lambda image, path: torch.from_numpy(np.array(image)),
    "tensor of channels": lambda image, path: torch.from_numpy(np.array(image)).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_every_form_alone_and_in_lists(known, tmp_path, form):
    model, task = known["image"]
    images = [task.test.inputs[0], task.test.inputs[7]]
    expected = model.predict(images, k=2)
    given = []
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
        given.append(FORMS[form](image, tmp_path / f"{i}.png"))
    several, one = model.predict(given, k=2), model.predict(given[0], k=2)
    assert several.labels == expected.labels and one.labels == expected.labels[:1]
    assert torch.equal(several.probabilities, expected.probabilities)
    assert one.probabilities.shape == (1, 2)


def test_a_batch_in_one_array_and_grey_images(known):
    model, task = known["image"]
    images = list(task.test.inputs[:3])
    batch = np.stack([np.asarray(image) for image in images])
    for given in (batch, torch.from_numpy(batch), torch.from_numpy(batch).permute(0, 3, 1, 2)):
        assert torch.equal(model.predict(given).probabilities, model.predict(images).probabilities)
    greys = [image.convert("L") for image in images]
    for given in (np.stack([np.asarray(grey) for grey in greys]), [np.asarray(grey)[:, :, None] for grey in greys]):
        assert torch.equal(model.predict(given).probabilities, model.predict(greys).probabilities)
    assert len(model.predict(np.asarray(greys[0])).labels) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("no such file.png", "there is no file of that name"),
        (["red"], "there is no file of that name"),
        (np.zeros((8, 8, 3), np.float32), "8-bit values"),
        (torch.zeros(3, 8, 8), "8-bit values"),
        (np.zeros((2, 8, 8, 5), np.uint8), "sample 0 is an array of 8 x 8 x 5"),
        ([3.5], "sample 0 is of the type float"),
        ([None], "NoneType"),
        (b"no image", "not a readable image"),
    ],
)
def test_what_is_no_image_is_one_sentence(known, given, words):
    with pytest.raises(DataError, match=words) as error:
        known["image"][0].predict(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [7, {"a": 1}, None])
def test_what_is_no_sequence_is_one_sentence(known, given):
    for modality in ("image", "text"):
        with pytest.raises(UsageError, match="inputs must be a sequence"):
            known[modality][0].predict(given)


def test_one_text_is_one_input(known):
    model, task = known["text"]
    text = task.test.inputs[0]
    one, several = model.predict(text, k=2), model.predict([text], k=2)
    assert len(one.labels) == 1 and one.labels == several.labels
    assert torch.equal(one.probabilities, several.probabilities)
    for given in (np.array([text]), (text,), iter([text])):
        assert model.predict(given).labels == [one.labels[0][:1]]
    with pytest.raises(DataError, match="reads texts"):
        model.predict([b"red"])


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2"])
def test_how_many_classes_is_a_positive_number(known, k):
    with pytest.raises(UsageError, match="k says how many classes"):
        known["text"][0].predict("red", k=k)
    assert len(known["text"][0].predict("red", k=np.int64(9)).labels[0]) == 2


def test_arrays_and_paths_can_be_learned(toy, bert_folder, tmp_path):
    task = toy.task("one", ["red", "blue"], 4)
    paths = [tmp_path / f"{i}.png" for i in range(len(task.train))]
    for image, path in zip(task.train.inputs, paths, strict=True):
        image.save(path)
    states = []
    for inputs in (list(task.train.inputs), [np.asarray(x) for x in task.train.inputs], paths):
        model = learner(toy, bert_folder)
        model.learn(Task("one", task.classes, Samples(inputs, task.train.labels)))
        states.append(model.state_dict())
    assert toy.same(states[0], states[1]) and toy.same(states[0], states[2])


def test_learn_takes_a_task(toy, bert_folder):
    with pytest.raises(UsageError, match=r"learn\(\) takes a Task.*load_task"):
        learner(toy, bert_folder).learn("data/week-01")


@pytest.mark.parametrize(
    ("modality", "kind", "options"),
    [
        ("image", HAM, {}),
        ("text", HAM, {}),
        ("image", HAM, {"head": "linear"}),
        ("image", EASE, {"head": "cosine"}),
        ("image", RanPAC, {}),
    ],
)
def test_threads_ask_together_and_get_the_same_answers(toy, bert_folder, modality, kind, options):
    model = learner(toy, bert_folder, modality, kind, **options)
    tasks = [toy.task(f"t{i}", pair, 4, modality) for i, pair in enumerate((["red", "blue"], ["pink", "gold"]))]
    for task in tasks:
        model.learn(task)
    questions = [list(tasks[i % 2].test.inputs[i % 4 : i % 4 + 5]) for i in range(32)]
    expected = [model.predict(question, k=4).probabilities for question in questions]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda question: model.predict(question, k=4).probabilities, questions))
    assert all(torch.equal(answer, right) for answer, right in zip(answers, expected, strict=True))


def test_whoever_asks_while_a_task_is_learned_is_told_so_and_the_task_is_learned_as_alone(toy, bert_folder, tmp_path):
    first, second = (toy.task(f"t{i}", pair, 4) for i, pair in enumerate((["red", "blue"], ["pink", "gold"])))
    alone, model = learner(toy, bert_folder), learner(toy, bert_folder)
    for task in (first, second):
        alone.learn(task)
    model.learn(first)
    said = []

    def ask():
        for question in (
            lambda: model.predict(first.test.inputs[:1]),
            lambda: model.evaluate(first),
            lambda: model.learn(second),
            lambda: model.export(tmp_path / "out"),
            lambda: model.save(tmp_path / "saved"),
            model.state_dict,
            lambda: model.load_state_dict({}),
            model.merged,
        ):
            with pytest.raises(UsageError) as error:
                question()
            said.append(str(error.value))

    def step(_):
        other = threading.Thread(target=ask)
        other.start()
        other.join()
        with pytest.raises(UsageError, match="is learning"):  # also the thread that learns
            model.predict(first.test.inputs[:1])

    model.learn(second, progress=step)
    assert len(said) >= 8 and set(said) == {BUSY}
    assert toy.same(model.state_dict(), alone.state_dict())
    model.predict(first.test.inputs[:1])


def test_learning_waits_for_the_answers_under_way(toy, bert_folder):
    task = toy.task("one", ["red", "blue"], 4)
    model, order = learner(toy, bert_folder), []
    model.learn(task)
    asked, go_on = threading.Event(), threading.Event()

    class Slow(list):
        def __getitem__(self, i):
            asked.set()
            assert go_on.wait(10)
            return super().__getitem__(i)

    def ask():
        model.predict(Slow(task.test.inputs[:1]))
        order.append("answered")

    def learn():
        model.learn(toy.task("two", ["pink"], 4))
        order.append("learned")

    threads = [threading.Thread(target=ask), threading.Thread(target=learn)]
    threads[0].start()
    assert asked.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join()
    assert order == ["answered", "learned"]


def test_learners_that_learn_at_the_same_time_learn_what_they_learn_alone(toy, bert_folder):
    task = toy.task("one", ["red", "blue"], 6, augmentation="photo")
    expected = learner(toy, bert_folder)
    expected.learn(task)
    models = [learner(toy, bert_folder) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda model: model.learn(task), models))
    assert all(toy.same(model.state_dict(), expected.state_dict()) for model in models)


def test_an_error_ends_the_turn(toy, bert_folder):
    model = learner(toy, bert_folder)
    task = toy.task("one", ["red", "blue"], 4)
    with pytest.raises(DataError):
        model.learn(toy.task("one", ["red", "blue"], 4, "text"))
    model.learn(task)
    with pytest.raises(DataError):
        model.predict(["gone.png"])
    model.learn(toy.task("two", ["pink"], 4))


@pytest.mark.parametrize(
    "keep",
    [
        pickle.dumps,
        lambda model: torch.save(model, io.BytesIO()),
        lambda model: pytest.importorskip("joblib").dump(model, io.BytesIO()),
        copy.deepcopy,
        lambda model: pickle.dumps([{"model": model}]),
    ],
)
def test_a_learner_is_not_pickled_and_says_how_it_is_kept(known, toy, bert_folder, keep):
    with pytest.raises(UsageError, match=r"^HAM is not pickled or copied; save\(path\) of it.*HAM\.load\(path\)"):
        keep(known["image"][0])
    with pytest.raises(UsageError, match=r"^EASE is not pickled or copied; keep its state_dict"):
        keep(learner(toy, bert_folder, kind=EASE, head="cosine"))


def test_a_state_goes_through_torch_save_without_pickle(known, toy):
    state, file = known["image"][0].state_dict(), io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert toy.same(torch.load(file, weights_only=True), state)


def test_what_is_what_can_be_seen(known):
    model, task = known["image"]
    assert repr(model) == "HAM(1 tasks, 2 classes, backbone 'tests/vit', cpu)"
    assert repr(task) == "Task('one', 2 classes, images: train 10, val 0, test 12)"
    assert repr(task.train) == "Samples(10 of 2 labels)"
    assert repr(Stream("s", (task,))) == "Stream('s', 1 tasks, 2 classes)"


def test_a_config_can_still_be_pickled():
    assert pickle.loads(pickle.dumps(HAMConfig(seed=3))) == HAMConfig(seed=3)
