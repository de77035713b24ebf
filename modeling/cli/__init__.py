"""Command line: parse, call the library, print.

Commands reach the library through `import modeling`, which imports modules when they are first
used: `--help` of every command answers at once, without NumPy and torch.
"""
