"""The three networks and their parts. Each takes grey images as stored, uint8 (B, H, W), and scales
them itself.

They are written for any number of classes and any size of image.
"""
