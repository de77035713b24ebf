"""The commands: parse, call the library, print. Nothing else.

NumPy and all above it are imported inside the commands: `datagen --help` must answer at once.
"""
