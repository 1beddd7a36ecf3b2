"""The optimisations of a sweep: each changes no rate of a table, and can be switched off."""

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class SweepOptions:
    """The optimisations of a sweep.

    Attributes:
        first_success: If only success rates are reported, a search ends at its first success,
            provided that its own test is the decision and, if untargeted, that the label it leaves
            is the true one.
        shared_const: Searches that come to the same c on the same image share that run.
        prefixes: A run of few steps is the beginning of a run of more steps.
        clean_gradient: All values of eps share the gradient at the clean image.
    """

    first_success: bool = True
    shared_const: bool = True
    prefixes: bool = True
    clean_gradient: bool = True

    @classmethod
    def without(cls, names: Iterable[str]) -> "SweepOptions":
        """Return all optimisations but those named, such as ``"shared-const"``.

        Raises:
            ValueError: There is no optimisation of that name.
        """
        known = {field.name.replace("_", "-"): field.name for field in fields(cls)}
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"without must be among {', '.join(known)}, got {unknown}")
        return cls(**{known[name]: False for name in names})
