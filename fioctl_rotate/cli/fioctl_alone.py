"""Commands that only fioctl has. Typed here, each is refused with an error that names fioctl's command."""

# The words after `fioctl`; a hint, where this program has something similar.
FIOCTL_ALONE: dict[tuple[str, ...], str | None] = {
    ("configure-docker",): None,
    ("configure-git",): None,
    ("event-queues",): "on a mock, `fioctl-rotate mock events DIR` shows its event queue",
    ("logout",): "here the token is in the settings file, which `fioctl-rotate whoami` names",
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
