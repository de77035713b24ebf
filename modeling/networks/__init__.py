"""The three networks and their parts, for any number of classes and any size of image.

Each network takes grey images as stored, uint8 (B, H, W), and scales them itself.
"""
