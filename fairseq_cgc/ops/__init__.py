"""The operations the model is made of: each fast implementation beside its naive reference, ``naive``."""
