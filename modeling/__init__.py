"""Train, score and show three models on a dataset in the format that `docs/format.md` describes.

Nothing of `datagen` is imported: the format on disk is all that the two packages share.
"""
