"""The commands beside training, `python -m moco_jax COMMAND`: a new one is a file and a line here.

Each file has `main(argv) -> exit code`, and is imported when its command is called.
"""

COMMANDS = {
    "configs": "lists the recipes, shows the options of one, copies one to edit",
    "convert": "reads and writes checkpoints of other programs",
    "detect": "boxes, masks and keypoints of images, by a detector that was trained here",
    "features": "writes the features of a data set to a file",
    "knn": "kNN accuracy of a checkpoint, of its untrained network and of raw pixels",
    "neighbors": "the most similar images of a data set to one, or its near-duplicates",
    "plan": "says what a run costs before it is paid, on devices that need not be there",
    "predict": "classes and probabilities of images, by a probe or a fine-tuned network",
    "preview": "draws images and their views as the network sees them",
    "report": "writes report.html of a run, or of several on the same axes",
    "study": "runs a list of experiments that are compared, and makes their table",
}
