"""A trained run put to use: predictions for anybody's images, and the network as an ONNX model."""
