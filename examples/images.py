"""Learn an image stream task by task and leave a plain model: the digits, or a folder of your own.

python examples/images.py
python examples/images.py --stream folder:PATH --tasks 5 --train-per-class 200 --image-size 224
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from hamcl import HAM, HAMConfig, load_stream

parser = ArgumentParser(description="Learn an image stream.", formatter_class=ArgumentDefaultsHelpFormatter)
parser.add_argument("--stream", default="digits", help="a source, for example folder:PATH")
parser.add_argument("--backbone", default="efficientnet-lite0", help="efficientnet-lite0, timm/ID, hf/ID or a folder")
parser.add_argument("--tasks", type=int, default=3, help="number of tasks")
parser.add_argument("--train-per-class", type=int, default=60, help="training images of a class")
parser.add_argument("--image-size", type=int, default=64, help="height and width in pixels")
parser.add_argument("--out", default="runs/images", help="folder of the exported model")
args = parser.parse_args()

stream = load_stream(args.stream, tasks=args.tasks, train_per_class=args.train_per_class, test_per_class=10)
model = HAM.from_backbone(args.backbone, HAMConfig(epochs=3), image_size=args.image_size)

for learned, task in enumerate(stream, 1):
    report = model.learn(task)
    accuracy = [f"{model.evaluate(seen):.2f}" for seen in stream[:learned]]
    print(f"{task.name}: {report.seconds:.0f} s, group {report.group}, accuracy on the tasks so far {accuracy}")

# All groups become one update: a LoRA adapter for PEFT, the backbone with it added, and the classifier.
model.export(args.out, "merged", overwrite=True)
images = [stream[0].test.inputs[i] for i in range(5)]
truth = [stream[0].classes[y] for y in stream[0].test.labels[:5]]
for name, guesses in zip(truth, model.predict(images, k=3).labels, strict=True):
    print(f"an image of {name!r}: {', '.join(guesses)}")
print(f"{args.out}: plain weights for {len(model.classes)} classes, and README.md with the code to use them")
