"""Several dispatchers on one store: what each must know of the others. See docs/scale.md."""

from dispatcher.replicas.replicas import Replicas

__all__ = ["Replicas"]
