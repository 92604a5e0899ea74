"""What fioctl does and this program does not: each is answered with the command that does it."""

# The words after `fioctl`, and a hint of what helps here.
FIOCTL_ALONE: dict[tuple[str, ...], str | None] = {
    ("configure-docker",): None,
    ("configure-git",): None,
    ("event-queues",): "on a mock, `fioctl-rotate mock events DIR` shows its event queue",
    ("logout",): "here a token is in the settings file: `fioctl-rotate whoami` names it",
    ("secrets",): None,
    ("targets",): None,
    ("teams",): None,
    ("waves",): None,
    ("config", "wireguard"): None,
    ("devices", "apps-states"): None,
    ("devices", "tests"): None,
    ("devices", "triggers"): None,
    ("devices", "config", "wireguard"): None,
    ("keys", "tuf"): None,
}
