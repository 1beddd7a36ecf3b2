"""Input gradients of a network, computed cheaply."""

from .gradients import Answer, Leaders, Oracle, oracle
from .prepared import Model, prepare

__all__ = ["Answer", "Leaders", "Model", "Oracle", "oracle", "prepare"]
