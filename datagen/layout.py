"""Names and constants of the format on disk; `docs/format.md` is the page that explains them."""

from __future__ import annotations

VERSION = "0.1.0"

FORMAT_NAME = "datagen"
FORMAT_VERSIONS = (1, 2)  # a dataset is of the first one that can state it

SPLITS = ("train", "val", "test")
TASKS = ("foreground", "circles", "mosaics")

CHUNK = 256  # samples in a leaf of the content digest, and the most in a chunk of a store
MAX_CHUNK_BYTES = 1 << 26
MAX_SIDE = 1024  # pixels; the circle's integers fit int64 up to this height and width
MAX_BANDS = 64
MAX_TILE_1 = 512  # pixels a side of an image in version 1
MAX_SAMPLE_BYTES = 1 << 24  # of a sample in one column
DEFAULT_SHARD_SIZE = 32_768
MAX_SHARD_SIZE = CHUNK << 16
MAX_COUNT = 1 << 40  # samples a split

MANIFEST = "manifest.json"
RECIPE = "recipe.toml"
CROISSANT = "croissant.json"
LICENCE = "license.txt"
GROUPS = "groups.txt"  # the names of the groups, where the recipe asks for them
MAX_MANIFEST_BYTES = 1 << 20

# of an unfinished build: the plan; at the very end, the manifest until it is renamed
PARTIAL_MANIFEST = ".manifest.json"
PROGRESS = ".build"  # the shards that such a build has finished, a record each
INPUTS = f"{PROGRESS}/inputs"  # the images that workers of an engine derive samples from
