"""Networks: DenseNets as the paper trains them."""

from .densenet import DenseNet, architecture, by_name, densenet

__all__ = ["DenseNet", "architecture", "by_name", "densenet"]
