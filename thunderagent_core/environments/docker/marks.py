"""Labels and names by which we know again what is ours, and only that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thunderagent_core.environments.base import Plan

LABEL_HANDLE: Final = "org.thunderagent.handle"
"""The name of the container that carries it, or to which a volume belongs. Docker lets images inherit the labels of
containers, and containers those of images: one that a person starts from a snapshot of ours carries our installation,
but not its own name here, so it is not mistaken for ours."""
LABEL_SNAPSHOT: Final = "org.thunderagent.snapshot"
"""The name of the snapshot that carries it, or from which a container was made."""
SNAPSHOTS: Final = "thunderagent/snapshot"
"""The repository of all snapshots; the tag is the snapshot's name."""


class Marks:
    """The marks of one installation.

    Args:
        installation: its id; decides alone what is ours.
    """

    def __init__(self, installation: str) -> None:
        self.installation = installation
        self.network = f"thunder-{installation}"

    def for_container(self, plan: Plan) -> dict[str, str]:
        """Return the labels of a container and of its volumes."""
        own = {LABEL_INSTALLATION: self.installation, LABEL_HANDLE: plan.place.handle}
        return {**plan.labels, **own, LABEL_SNAPSHOT: plan.snapshot or ""}

    def for_snapshot(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of a snapshot."""
        return {**labels, LABEL_INSTALLATION: self.installation, LABEL_HANDLE: "", LABEL_SNAPSHOT: name}

    def for_image(self) -> dict[str, str]:
        """Return the labels of an image that we build; containers inherit them, but not what makes one ours."""
        return {LABEL_INSTALLATION: self.installation, LABEL_HANDLE: ""}

    def for_network(self) -> dict[str, str]:
        """Return the labels of our network."""
        return {LABEL_INSTALLATION: self.installation}

    def owns_container(self, labels: Mapping[str, str] | None, handle: str) -> bool:
        """Whether a container with these labels and this name is ours."""
        return self.owns(labels) and (labels or {}).get(LABEL_HANDLE) == handle

    def owns_snapshot(self, image: Mapping[str, Any], tags: list[str] | None) -> bool:
        """Whether an image, by its ``Labels`` and tags, is a snapshot of ours and not a person's copy of one."""
        labels: Mapping[str, str] = image.get("Labels") or {}
        name = labels.get(LABEL_SNAPSHOT)
        if not name or labels.get(LABEL_HANDLE) or not self.owns(labels):
            return False
        real = [tag for tag in tags or () if not tag.startswith("<none>")]
        return not real or snapshot_reference(name) in real

    def owns(self, labels: Mapping[str, str] | None) -> bool:
        """Whether something carries our installation's label."""
        return (labels or {}).get(LABEL_INSTALLATION) == self.installation

    def search(self, **others: str) -> dict[str, list[str]]:
        """Return the filter that finds what carries our label, and those of ``others``: handle, snapshot."""
        names = {"handle": LABEL_HANDLE, "snapshot": LABEL_SNAPSHOT}
        wanted = {LABEL_INSTALLATION: self.installation, **{names[key]: value for key, value in others.items()}}
        return {"label": [f"{key}={value}" for key, value in wanted.items()]}


def environment_id(labels: Mapping[str, str] | None) -> str:
    """Return the id of the environment to which something belongs."""
    return (labels or {}).get(LABEL_ENVIRONMENT, "")


def snapshot_reference(name: str) -> str:
    """Return the image reference of a snapshot."""
    return f"{SNAPSHOTS}:{name}"
