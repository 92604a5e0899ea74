"""What happens to a device's own entry when a rotation is stopped, whatever lies beneath."""

import pytest

from fioctl_rotate.rotation.progress import Phase, Progress
from fioctl_rotate.rotation.stopping import OwnEntry, OwnEntryFate, fate_of


@pytest.mark.parametrize(
    ("phase", "beneath", "completed", "fate"),
    [
        # A device that has begun will complete r-9: then any other id beneath makes it rotate.
        (Phase.RUNNING, "r-1", "r-1", OwnEntryFate.LEAVE),
        (Phase.FAILING, "r-1", "r-1", OwnEntryFate.LEAVE),
        (Phase.RUNNING, "r-9", "r-1", OwnEntryFate.DELETE),
        (Phase.FAILING, "r-9", "r-1", OwnEntryFate.DELETE),
        (Phase.RUNNING, None, "r-1", OwnEntryFate.DELETE),
        (Phase.FAILING, None, "r-1", OwnEntryFate.DELETE),
        # It has completed r-9, or r-1 after r-9.
        (Phase.FINALIZED, "r-1", "r-9", OwnEntryFate.LEAVE),
        (Phase.FINALIZED, "r-1", "r-1", OwnEntryFate.DELETE),
        # It has not begun.
        (Phase.NONE, "r-1", "r-1", OwnEntryFate.DELETE),
        (Phase.NONE, "r-1", "r-0", OwnEntryFate.REPLACE),
        (Phase.NONE, "r-1", None, OwnEntryFate.DELETE),
        (Phase.NONE, "r-1", "r-9", OwnEntryFate.LEAVE),
    ],
)
def test_no_deletion_makes_a_device_rotate_that_would_not_have(
    phase: Phase, beneath: str | None, completed: str | None, fate: OwnEntryFate
) -> None:
    assert fate_of(OwnEntry("r-9", beneath, completed, Progress(phase, 1), fetched=True))[0] is fate
