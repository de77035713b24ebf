"""Names and constants of the format on disk; `docs/format.md` is the page that explains them."""

from __future__ import annotations

VERSION = "0.1.0"

FORMAT_NAME = "datagen"
FORMAT_VERSION = 1

SPLITS = ("train", "val", "test")
TASKS = ("foreground", "circles", "mosaics")

CHUNK = 256  # samples in a Zarr inner chunk, and in a leaf of the content digest
DEFAULT_SHARD_SIZE = 32_768
MAX_SHARD_SIZE = CHUNK << 16
MAX_COUNT = 1 << 40  # samples a split

MANIFEST = "manifest.json"
RECIPE = "recipe.toml"
MAX_MANIFEST_BYTES = 1 << 20

# a build that has not ended: its plan, and at the very end the manifest before its name
DRAFT = ".manifest.json"
PROGRESS = ".build"  # what such a build has done: one record a shard
