"""What the names of scores and tasks mean, for readers of a page; formulas are in
`docs/metrics.md`.
"""

from __future__ import annotations

TASKS = {
    "foreground": "Which pixels of a digit belong to it.",
    "circles": "Which digit it is, and the smallest circle around it.",
    "mosaics": "Which digit each pixel of a mosaic belongs to, or background.",
}

_SCORES = {
    "foreground": {
        "iou": "IoU, mean over images",
        "iou_pooled": "IoU of all pixels together",
        "dice": "Dice, mean over images",
        "dice_pooled": "Dice of all pixels together",
        "pixel_accuracy": "pixels that are right",
    },
    "circles": {
        "accuracy": "images of the right class",
        "gated_iou": "IoU, 0 where the class is wrong, mean over images",
        "iou": "IoU whatever the class, mean over images",
        "gated_iou_pooled": "the gated IoU of all pixels together",
        "iou_pooled": "IoU of all pixels together",
    },
    "mosaics": {
        "dice": "Dice, pooled, mean over labels and background",
        "dice_foreground": "the same without background",
        "dice_per_image": "Dice within each image, mean over images",
        "dice_per_image_in_truth": "the same over the labels of the truth only",
        "dice_per_image_absent_one": "the same, 1 for labels that are absent",
        "iou_per_image": "IoU within each image, mean over images",
        "iou": "IoU, pooled, mean over labels and background",
        "iou_foreground": "the same without background",
        "pixel_accuracy": "pixels that are right",
    },
}


def meaning(task: str, score: str) -> str | None:
    """What a score is, in a few words; None for one that is not known."""
    return _SCORES[task].get(score)
