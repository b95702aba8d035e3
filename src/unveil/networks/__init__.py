"""Encoders and decoders: plain modules from numbers to numbers."""
