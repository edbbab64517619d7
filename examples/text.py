"""Learn a text stream, save the learner, and go on from the file with one more task.

python examples/text.py
python examples/text.py --stream text:FILE.csv --tasks 4 --train-per-class 100 --max-length 128
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

import torch

from hamcl import HAM, HAMConfig, load_stream

parser = ArgumentParser(description="Learn a text stream.", formatter_class=ArgumentDefaultsHelpFormatter)
parser.add_argument("--stream", default="icd10", help="a source, for example text:FILE.csv")
parser.add_argument("--backbone", default="minilm", help="minilm, hf/ID or a folder")
parser.add_argument("--tasks", type=int, default=3, help="number of tasks")
parser.add_argument("--classes-per-task", type=int, default=4, help="classes of each task")
parser.add_argument("--train-per-class", type=int, default=20, help="training texts of a class")
parser.add_argument("--max-length", type=int, default=32, help="tokens read of a text")
parser.add_argument("--state", type=Path, default=Path("runs/text.pt"), help="file the learner is saved to")
args = parser.parse_args()

*first, last = load_stream(
    args.stream, tasks=args.tasks, classes_per_task=args.classes_per_task, train_per_class=args.train_per_class
)
config = HAMConfig(epochs=3)
model = HAM.from_backbone(args.backbone, config, max_length=args.max_length)
for task in first:
    report = model.learn(task)
    print(f"{task.name}: loss {report.losses[0]:.2f} -> {report.losses[-1]:.2f}, group {report.group}")
args.state.parent.mkdir(parents=True, exist_ok=True)
torch.save(model.state_dict(), args.state)  # tensors and plain values: no pickled code

# Another process, another day: the same backbone, the state, and a task nobody had planned.
model = HAM.from_backbone(args.backbone, config, max_length=args.max_length)
model.load_state_dict(torch.load(args.state, weights_only=True))
model.learn(last)
for task in (*first, last):
    print(f"{task.name}: accuracy {model.evaluate(task):.2f} among {len(model.classes)} classes")
for text, (label, *_) in zip(last.test.inputs[:3], model.predict(last.test.inputs[:3]).labels, strict=True):
    print(f"{text!r}: {label}")
