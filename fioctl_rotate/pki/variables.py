"""The environment variables that hold a key's secret. Standard library only: the help of a command names them."""

PIN = "FIOCTL_ROTATE_HSM_PIN"
"""The PIN of the PKCS#11 token, where no file tells it."""

PASSPHRASE = "FIOCTL_ROTATE_KEY_PASSPHRASE"  # noqa: S105  the variable's name
"""The passphrase of an encrypted key file, where no file tells it."""
