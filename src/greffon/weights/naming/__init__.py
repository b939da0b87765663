"""The names that others give to a ResNet's tensors, and their translation into Keras'."""

from greffon.weights.naming.translate import to_keras

__all__ = ["to_keras"]
