"""Stores lay columns out on disk: `base` says what a store is, `zarr` and `hdf5` are two."""
