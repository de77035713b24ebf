"""What `datagen verify` proves: of the frame, of every sample, and of all images together."""
