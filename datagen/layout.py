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

# of an unfinished build: the plan; at the very end, the manifest until it is renamed
PARTIAL_MANIFEST = ".manifest.json"
PROGRESS = ".build"  # the shards that such a build has finished, a record each
