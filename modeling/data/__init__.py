"""The format on disk: manifest, shards and columns, checked and mapped with NumPy alone.

`modeling.data.dataset` is its front.
"""
