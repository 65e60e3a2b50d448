"""Puts the parts of the manager together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from thunderagent_core.environments.manager.aside import Aside
from thunderagent_core.environments.manager.bringing import Bringing
from thunderagent_core.environments.manager.collection import ImageCollection
from thunderagent_core.environments.manager.creation import Creation
from thunderagent_core.environments.manager.declaring import Declaring
from thunderagent_core.environments.manager.disk import Disk
from thunderagent_core.environments.manager.placement import Placement
from thunderagent_core.environments.manager.ports import PortPool
from thunderagent_core.environments.manager.quarantine import Quarantine
from thunderagent_core.environments.manager.reaping import Reaping
from thunderagent_core.environments.manager.reclamation import Reclamation
from thunderagent_core.environments.manager.reconcile import Reconciler
from thunderagent_core.environments.manager.running import Running
from thunderagent_core.environments.manager.statistics import Snapshot
from thunderagent_core.environments.manager.surveying import Surveyor
from thunderagent_core.environments.manager.warm import Warm
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.record import Record

_WITHOUT_PORTS = frozenset({State.GONE, State.FAILED, State.SNAPSHOTTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one manager, each with one task."""

    disk: Disk
    placement: Placement
    ports: PortPool
    reclamation: Reclamation
    creation: Creation
    running: Running
    aside: Aside
    quarantine: Quarantine
    reconciler: Reconciler
    reaping: Reaping
    declaring: Declaring
    warm: Warm
    bringing: Bringing
    images: ImageCollection

    @classmethod
    def assemble(cls, kit: Kit) -> Self:
        """Make all parts and connect them; nothing runs yet."""
        disk, ports = Disk(kit.records, kit.settings), PortPool(kit.settings, kit.clock)
        reclamation = Reclamation(kit)
        placement = Placement(disk)
        creation = Creation(kit, disk, placement, ports, reclamation)
        running = Running(kit, creation)
        quarantine = Quarantine(kit, reclamation)
        surveyor = Surveyor(kit, placement)
        reconciler = Reconciler(
            kit,
            surveyor=surveyor,
            creation=creation,
            reclamation=reclamation,
            running=running,
            quarantine=quarantine,
        )
        declaring = Declaring(kit, creation, reclamation)
        warm = Warm(kit, creation, reclamation, declaring.new_row)

        def given_back(record: Record) -> None:
            """Free ports only after removal, and look whether somebody waits for the room."""
            if record.state in _WITHOUT_PORTS and not record.holds_disk:
                ports.free(record.id)
                creation.kick()

        kit.records.listeners.append(given_back)
        return cls(
            disk=disk,
            placement=placement,
            ports=ports,
            reclamation=reclamation,
            creation=creation,
            running=running,
            aside=Aside(kit, placement, reclamation, running),
            quarantine=quarantine,
            reconciler=reconciler,
            reaping=Reaping(kit, surveyor, quarantine, reclamation),
            declaring=declaring,
            warm=warm,
            bringing=Bringing(kit, creation, running, warm),
            images=ImageCollection(kit),
        )

    def start(self) -> None:
        """Let everything run that runs by itself."""
        self.images.start()
        self.reconciler.start()
        self.creation.start()
        self.warm.start()

    def snapshot(self, kit: Kit) -> Snapshot:
        """Return the numbers for metrics."""
        return Snapshot(
            states=Counter(str(record.state) for record in kit.records.environments.values()),
            queued=self.creation.queued,
            creating=self.creation.running,
            reclaiming=self.reclamation.running,
            disk=self.disk.use(),
            disk_budget_bytes=kit.settings.disk_budget_bytes,
            free_disk_bytes=self.placement.free_bytes,
            images=len(kit.records.images),
            image_bytes=self.images.size_bytes,
            ports_leased=self.ports.leased,
            ports_in_range=self.ports.size,
            counts=kit.statistics,
        )
