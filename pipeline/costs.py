"""What the networks of an experiment cost, from their names alone: for ``--dry-run``."""

from __future__ import annotations

from functools import cache

from stages.settings import Settings

__all__ = ["network_costs"]


def network_costs(settings: Settings, *, num_keypoints: int) -> list[str]:
    """A line for each network that a name stands for: parameters, and multiply-adds for one crop in both usual units."""
    import torch

    from stages.networks.profile import profile
    from stages.networks.spec import architecture

    width, height = settings.crop.size_wh
    divisor = settings.distill.size_divisor
    teachers = settings.teachers
    wanted = [
        ("primary", teachers.primary.network, (width, height)),
        ("senior", (teachers.senior.base or teachers.primary).network, (width, height)),
        ("student", settings.distill.student.network, (width // divisor, height // divisor)),
    ]

    @cache
    def text(name: str, size_wh: tuple[int, int]) -> str:
        # Only shapes: no memory, and no arithmetic.
        with torch.device("meta"):
            network = architecture(name).build(num_keypoints=num_keypoints)
        return f"{name} at {size_wh[0]}x{size_wh[1]}: {profile(network, size_wh=size_wh)}"

    # The file of a whole network is not opened for a plan.
    return [f"{who:8}  {text(name, size_wh)}" for who, name, size_wh in wanted if name is not None]
