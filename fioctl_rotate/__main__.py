"""`fioctl-rotate` and `python -m fioctl_rotate`."""

import gc

# What is imported stays: to search it for garbage is a tenth of the start. The command switches this on again.
gc.disable()

from fioctl_rotate.cli.app import main  # noqa: E402  after the line above, which is for its imports

if __name__ == "__main__":
    main()
